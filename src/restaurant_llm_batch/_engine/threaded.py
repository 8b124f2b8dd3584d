"""The driver without an event loop: one thread conducts, worker threads make the calls."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from heapq import heappop, heappush
from itertools import count
from time import monotonic
from typing import Any

from ..cancellation import GivenUp, until
from ..outcomes import Outcome
from .call import Call
from .frames import Hands, Source
from .items import Intake
from .mailbox import Home, ThreadHome
from .run import Run
from .scheduler import Conductor
from .threads import WorkerThreads


def start_in_thread(call: Call, conductor: Conductor, home: Home, threads: WorkerThreads) -> None:
    """Make a blocking call in a worker thread and tell the conductor at home when it has ended."""
    conductor.started(call)
    given_up = call.given_up = GivenUp()
    forget = conductor.run.given_up.on_set(call.give_up_unless_wanted)

    def work() -> None:
        try:
            answer, error = until(given_up, call.run_blocking)
            call.came_back(error)
            home.post(partial(conductor.ended, call, answer, error))
        finally:
            forget()
            call.leave()  # here, not at home: a run that was given up does not hear of it

    try:
        threads.submit(partial(copy_context().run, work))
    except RuntimeError as error:  # no more threads, of the system's or of a runner that is being closed
        forget()
        call.leave()
        conductor.ended(call, None, error)


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
        source: Source,
        intake: Intake,
        window: int,
        threads: WorkerThreads,
        deliver: Callable[[Outcome[Any]], bool],
    ) -> None:
        self.home = ThreadHome()
        self._threads = threads
        self._timers: list[tuple[float, int, Callable[[], object]]] = []
        self._timer_numbers = count()
        hands = Hands(self._start, self._after, deliver, self.home.nudge)
        self.conductor = Conductor(run, source, intake, window, self.home, hands)

    def run(self) -> None:
        """
        Run to the end.

        Raises:
            BaseException: What the items' iterable raised, after everything open has ended.
        """
        try:
            self.conductor.begin()
            while not self.conductor.finished:
                self._attend()
        finally:
            self.conductor.abort()  # does nothing after a regular end
            self.home.close()
        if self.conductor.failure is not None:
            raise self.conductor.failure

    def _attend(self) -> None:
        now = monotonic()
        if self._timers and self._timers[0][0] <= now:
            heappop(self._timers)[2]()
        else:
            self.home.attend(self._timers[0][0] - now if self._timers else None)

    def _start(self, call: Call) -> None:
        start_in_thread(call, self.conductor, self.home, self._threads)

    def _after(self, seconds: float, action: Callable[[], object]) -> None:
        heappush(self._timers, (monotonic() + seconds, next(self._timer_numbers), action))
