"""Threaded driver: one thread runs the scheduler, worker threads make blocking calls; no event loop."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from heapq import heappop, heappush
from itertools import count
from typing import Any

from ..cancellation import CancelToken, run_with_token
from ..outcomes import Outcome
from .call import Call
from .frames import ItemSource, SchedulerCallbacks
from .items import ItemReader
from .mailbox import Mailbox, ThreadMailbox
from .run import RunState
from .scheduler import Scheduler
from .server_reading import read_in_thread
from .threads import DaemonThreadPool


def start_in_thread(call: Call, scheduler: Scheduler, mailbox: Mailbox, threads: DaemonThreadPool) -> None:
    """Make a blocking call in a worker thread, and report its end to the scheduler in the mailbox."""

    def on_reserved() -> bool:
        # In a worker thread, because at first there was none for the call.
        return mailbox.post_deferred(partial(_start_in_reserved, call, scheduler, mailbox, threads))

    try:
        if not threads.reserve(on_reserved):
            return  # the call stays queued
    except RuntimeError as error:  # the system starts no thread at all, or the runner is being closed
        scheduler.on_call_started(call)
        call.release()
        scheduler.on_call_finished(call, None, error)
        return
    _start_in_reserved(call, scheduler, mailbox, threads)


def _start_in_reserved(call: Call, scheduler: Scheduler, mailbox: Mailbox, threads: DaemonThreadPool) -> None:
    if call.done:  # its item's time was up, or the run has stopped, while it waited for a thread
        threads.cancel_reservation()
        return
    try:
        scheduler.on_call_started(call)
        token = call.cancel_token = CancelToken()
        remove_callback = scheduler.run.cancel_token.add_callback(call.cancel_if_unshared)

        def work() -> None:
            try:
                answer, error = run_with_token(token, call.run_blocking)
                call.record_outcome(answer, error)
                mailbox.post(partial(scheduler.on_call_finished, call, answer, error))
                del answer, error  # an error's traceback leads to this frame, which would be a cycle
            finally:
                remove_callback()
                call.release()  # here, not in the mailbox: a cancelled run does not read it

        call.outlives_run = threads.submit(partial(copy_context().run, work))
    except BaseException:
        if not call.outlives_run:
            threads.cancel_reservation()
        raise


class ThreadedDriver:
    """
    Runs items concurrently without an event loop, in the thread that calls `run`.

    That must not be the thread that consumes the outcomes: while it does something else, finished calls would keep
    their slots.

    Args:
        run: The run.
        source: The items.
        reader: Notified when an item has ended.
        window: Most items open at once.
        threads: The worker threads for blocking calls.
        deliver: Takes outcomes, in one call that nothing interrupts.
        delivered: Called after each.
        collect: Whether outcomes leave the window as soon as they are delivered.
    """

    def __init__(
        self,
        run: RunState,
        source: ItemSource,
        reader: ItemReader,
        window: int,
        threads: DaemonThreadPool,
        deliver: Callable[[Outcome[Any]], object],
        delivered: Callable[[], object] | None = None,
        *,
        collect: bool,
    ) -> None:
        self.mailbox = ThreadMailbox()
        self._threads = threads
        self._timers: list[tuple[float, int, Callable[[], object]]] = []
        self._timer_numbers = count()
        self._now = run.now
        callbacks = SchedulerCallbacks(
            self._start,
            self._call_later,
            deliver,
            delivered,
            self.mailbox.wake,
            partial(read_in_thread, self.mailbox),
            threads.start,
        )
        self.scheduler = Scheduler(run, source, reader, window, self.mailbox, callbacks, collect=collect)

    def run(self) -> None:
        """
        Run to the end.

        Raises:
            BaseException: The exception of the items' iterable, after all open items have ended.
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
        now = self._now()
        if self._timers and self._timers[0][0] <= now:
            heappop(self._timers)[2]()
        else:
            self.mailbox.run_pending(self._timers[0][0] - now if self._timers else None)

    def _start(self, call: Call) -> None:
        start_in_thread(call, self.scheduler, self.mailbox, self._threads)

    def _call_later(self, seconds: float, action: Callable[[], object]) -> None:
        heappush(self._timers, (self._now() + seconds, next(self._timer_numbers), action))
