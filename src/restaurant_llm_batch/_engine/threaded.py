"""The driver without an event loop: one thread conducts, worker threads make the calls."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from heapq import heappop, heappush
from itertools import count
from time import monotonic
from typing import Any

from ..cancellation import CancelToken, run_with_token
from ..outcomes import Outcome
from .call import Call
from .frames import ItemSource, SchedulerCallbacks
from .items import ItemReader
from .mailbox import Mailbox, ThreadMailbox
from .run import Run
from .scheduler import Scheduler
from .threads import DaemonThreadPool


def start_in_thread(call: Call, scheduler: Scheduler, mailbox: Mailbox, threads: DaemonThreadPool) -> None:
    """Make a blocking call in a worker thread and tell the conductor at home when it has ended."""
    scheduler.on_call_started(call)
    given_up = call.cancel_token = CancelToken()
    forget = scheduler.run.cancel_token.add_callback(call.cancel_if_unshared)

    def work() -> None:
        try:
            answer, error = run_with_token(given_up, call.run_blocking)
            call.record_outcome(error)
            mailbox.post(partial(scheduler.on_call_finished, call, answer, error))
        finally:
            forget()
            call.release()  # here, not at home: a run that was given up does not hear of it

    try:
        threads.submit(partial(copy_context().run, work))
    except RuntimeError as error:  # no more threads, of the system's or of a runner that is being closed
        forget()
        call.release()
        scheduler.on_call_finished(call, None, error)


class ThreadedDriver:
    """
    Runs items side by side without an event loop, in the thread that calls `run`.

    Not in the thread that reads the outcomes: while it does something else, nobody would take back the
    slots of calls that have ended.

    Args:
        run: The run.
        source: Its entries.
        intake: Told when an entry has ended.
        window: Most items open at once.
        threads: Where the calls are made.
        deliver: Takes outcomes; returns whether an outcome needs no room any more.
    """

    def __init__(
        self,
        run: Run,
        source: ItemSource,
        intake: ItemReader,
        window: int,
        threads: DaemonThreadPool,
        deliver: Callable[[Outcome[Any]], bool],
    ) -> None:
        self.mailbox = ThreadMailbox()
        self._threads = threads
        self._timers: list[tuple[float, int, Callable[[], object]]] = []
        self._timer_numbers = count()
        hands = SchedulerCallbacks(self._start, self._call_later, deliver, self.mailbox.wake)
        self.scheduler = Scheduler(run, source, intake, window, self.mailbox, hands)

    def run(self) -> None:
        """
        Run to the end.

        Raises:
            BaseException: What the items' iterable raised, after everything open has ended.
        """
        try:
            self.scheduler.start()
            while not self.scheduler.finished:
                self._run_pending()
        finally:
            self.scheduler.cancel()  # does nothing after a regular end
            self.mailbox.close()
        if self.scheduler.failure is not None:
            raise self.scheduler.failure

    def _run_pending(self) -> None:
        now = monotonic()
        if self._timers and self._timers[0][0] <= now:
            heappop(self._timers)[2]()
        else:
            self.mailbox.run_pending(self._timers[0][0] - now if self._timers else None)

    def _start(self, call: Call) -> None:
        start_in_thread(call, self.scheduler, self.mailbox, self._threads)

    def _call_later(self, seconds: float, action: Callable[[], object]) -> None:
        heappush(self._timers, (monotonic() + seconds, next(self._timer_numbers), action))
