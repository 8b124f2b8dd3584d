"""The driver without an event loop: the calling thread conducts, worker threads make the calls."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from heapq import heappop, heappush
from itertools import count
from time import monotonic
from typing import Any

from ..errors import RunStopped
from ..report import Failure, Outcome
from .call import Call
from .conductor import Conductor, Hands
from .intake import Entry, Intake
from .run import Run
from .threads import WorkerThreads
from .wake import Home, ThreadHome


class LocalSource:
    """Entries read where the conductor is."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    def take(self, room: int) -> Entry | Failure | None:
        """Return the next entry, or None after the last."""
        return next(self._intake, None)


def start_in_thread(call: Call, conductor: Conductor, home: Home, threads: WorkerThreads) -> None:
    """Make a blocking call in a worker thread and tell the conductor at home when it has ended."""
    conductor.started(call)

    def work() -> None:
        try:
            answer, error = call.run_blocking()
            home.post(partial(conductor.ended, call, answer, error))
        finally:
            call.leave()  # here, not at home: a run that was given up does not hear of it

    threads.submit(work)


class ThreadedDriver:
    """
    Runs items side by side without an event loop.

    Args:
        run: The run.
        intake: Its items.
        window: Most items open at once.
        threads: Where the calls are made.
        collect: Whether outcomes are kept until the end, rather than making the run wait to be read.
    """

    def __init__(
        self, run: Run, intake: Intake, window: int, threads: WorkerThreads, *, collect: bool
    ) -> None:
        self._home = ThreadHome()
        self._threads = threads
        self._collect = collect
        self._outcomes: deque[Outcome[Any]] = deque()
        self._timers: list[tuple[float, int, Callable[[], object]]] = []
        self._timer_numbers = count()
        self._run = run
        hands = Hands(self._start, self._after, self._deliver, self._home.nudge)
        self._conductor = Conductor(run, LocalSource(intake), intake, window, self._home, hands)
        self._begun = False

    def take(self) -> Outcome[Any] | None:
        """Return the next outcome, waiting for it; None after the last."""
        conductor = self._conductor
        if not self._begun:
            self._begun = True
            conductor.refill()
        while not (self._outcomes or conductor.finished):
            self._attend()
        if self._outcomes:
            outcome = self._outcomes.popleft()
            if not self._collect:
                conductor.taken()
            return outcome
        self._home.close()
        if conductor.failure is not None:
            raise conductor.failure
        return None

    def stop(self, reason: str) -> None:
        """Let calls in flight end, and begin nothing more; may be called from a signal handler."""
        self._run.stopped = self._run.stopped or RunStopped(reason)
        self._home.nudge()

    def abort(self) -> Iterator[Outcome[Any]]:
        """Give up: blocked worker threads are let go. Yields the outcomes that were not taken."""
        self._conductor.abort()
        self._home.close()
        while self._outcomes:
            yield self._outcomes.popleft()

    def _attend(self) -> None:
        now = monotonic()
        if self._timers and self._timers[0][0] <= now:
            heappop(self._timers)[2]()
            return
        self._home.attend(self._timers[0][0] - now if self._timers else None)
        if self._run.stopped is not None:
            self._conductor.halt()

    def _start(self, call: Call) -> None:
        start_in_thread(call, self._conductor, self._home, self._threads)

    def _after(self, seconds: float, action: Callable[[], object]) -> None:
        heappush(self._timers, (monotonic() + seconds, next(self._timer_numbers), action))

    def _deliver(self, outcome: Outcome[Any]) -> bool:
        self._outcomes.append(outcome)
        return self._collect
