"""Outcome stream: the iterator that `stream` returns, which can end its run early."""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

from ..outcomes import BatchReport, Failure, Outcome, RunStats, Success
from .handover import Outcomes, move_all, move_one
from .resources import Lease
from .run import RunState

T = TypeVar("T")


class BlockingRun(Protocol):
    """A run, as a blocking caller drives or reads it."""

    def take(self, into: Outcomes) -> bool:
        """Put the next outcome into a list, waiting for it; return whether the run may go on."""
        ...

    def check_stop(self) -> None:
        """Drain the run, which was stopped. Safe in a signal handler."""
        ...

    def interrupted(self) -> None:
        """Clean up after an exception that left `take`."""
        ...

    def abandon(self) -> None:
        """Cancel a run that has no caller any more, without waiting for it."""
        ...

    def when_left(self, callback: Callable[[], object]) -> None:
        """Call a function once when the run's side has left, there; it must not block."""
        ...

    def abort(self, into: Outcomes) -> bool:
        """Cancel the run at once, and put the outcomes not taken yet into a list; return whether its side has left."""
        ...


class BlockingSession:
    """
    A run of a blocking caller from its beginning to its end, for any threads.

    Theory of operation. A thread that reads and one that closes share two flags. Each sets its own, then reads the
    other's: `_starting` says that a reader makes the lease and the driver, `closed` that the run is to end. A reader
    that finds the run closed when it has started it ends it itself. Ending can be done twice, and by two threads: each
    step does what is left to do. After an interrupt, it is done again.

    Args:
        begin: Makes the driver, which does nothing before its `take` is called.
        lease: A lease on the runner's resources, not acquired yet.
        run: The run.
        total: The number of items, if that is known.

    Attributes:
        closed: Whether the run is to end, or has ended.
    """

    def __init__(
        self, begin: Callable[[Lease], BlockingRun], lease: Lease, run: RunState, total: int | None
    ) -> None:
        self.closed: bool = False
        self._begin = begin
        self._lease = lease
        self._run = run
        self._total = total
        self._driver: BlockingRun | None = None
        self._starting = False

    @property
    def stats(self) -> RunStats:
        """The run's statistics so far."""
        return self._run.recorder.stats

    def take(self, into: Outcomes) -> None:
        """
        Put the next outcome into a list, waiting for it. After the last one, the run ends, and is `closed`.

        An exception closes the run. Outcomes that were not taken are then in the list, too.
        """
        try:
            if self._driver is None and not self.closed:
                self._start()
            if self._driver is None or self.closed or not self._driver.take(into) or self.closed:
                self.end(into)
        except BaseException:
            self._starting = False
            if self._driver is not None:
                self._driver.interrupted()
            self.end(into)
            raise

    def _start(self) -> None:
        self._starting = True
        if not self.closed:
            self._lease.acquire()
            self._driver = self._begin(self._lease)
            self._run.recorder.start(self._total)
        self._starting = False

    def stop(self, reason: str) -> None:
        """Start nothing more, and let calls in flight finish."""
        self._run.stop(reason)
        if self._driver is not None:
            self._driver.check_stop()

    def end(self, into: Outcomes) -> None:
        """Cancel what is left of the run, and put the outcomes not taken yet into a list."""
        self.closed = True
        if self._starting or self._lease.is_of_parent:
            return  # the thread that starts the run ends it, before its first call
        driver = self._driver
        if driver is None or driver.abort(into):
            self._lease.release()
        else:  # this is the run's own thread
            driver.when_left(self._lease.release_in_background)

    def abandon(self) -> None:
        """Cancel the run, which has no caller any more. The garbage collector may call this anywhere."""
        driver = self._driver
        if driver is None or self.closed or sys.is_finalizing() or self._lease.is_of_parent:
            return
        self.closed = True
        driver.abandon()
        driver.when_left(self._lease.release_in_background)


class OutcomeStream(Iterator[Success[T] | Failure], Generic[T]):
    """
    The outcomes of a run, in the order in which they finish. The run starts with the first `next()`.

    `close()`, the end of a ``with`` block and garbage collection (as after leaving the loop early) cancel the rest of
    the run. Any thread may call any method: each outcome is returned once, by `next()` or by `close()`.
    """

    def __init__(self, session: BlockingSession) -> None:
        self._session = session
        self._held: deque[Outcome[Any]] = deque()  # outcomes taken from the run, the next one first
        self._reading = threading.RLock()  # one thread reads at a time
        self._reader = 0  # the thread that does

    @property
    def stats(self) -> RunStats:
        """The run's statistics so far."""
        return self._session.stats

    def __next__(self) -> Success[T] | Failure:
        mine: list[Outcome[Any]] = []
        if self._reader == threading.get_ident():
            raise RuntimeError("this thread is reading the stream already; read it outside the run")
        with self._reading:
            try:
                self._reader = threading.get_ident()
                if not self._held:
                    self._session.take(self._held)
                move_one(self._held, mine)
                self._reader = 0
                if mine:
                    return mine[0]
            except BaseException as error:
                self._reader = 0
                attach_report(error, mine + self.close(), self.stats)
                raise
        raise StopIteration

    def stop(self, reason: str = "the caller stopped it") -> None:
        """
        Start nothing more and let calls in flight finish; items still open then fail with `RunStopped`.

        May be called from a signal handler.

        Args:
            reason: Becomes `RunStats.stopped_because`.
        """
        self._session.stop(reason)

    def close(self) -> list[Success[T] | Failure]:
        """
        Cancel the rest of the run, and return the outcomes not taken yet. Closing again does nothing.

        If another thread is waiting in `next()`, that ends. What only that thread can end, it ends first: reading an
        item, and in stage 1 a call. Their outcomes are returned there.
        """
        outcomes: list[Outcome[Any]] = []
        try:
            self._session.end(outcomes)
            move_all(self._held, outcomes)
        except BaseException as error:
            self._session.end(outcomes)
            move_all(self._held, outcomes)
            attach_report(error, outcomes, self.stats)
            raise
        return outcomes

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        closed = self.close()
        if error is not None and not hasattr(error, "report"):
            attach_report(error, closed, self.stats)

    def __del__(self) -> None:
        # Runs in any thread, at any moment, perhaps while that thread holds a lock: it must not block.
        session = self.__dict__.get("_session")  # none, if an interrupt kept it from being made
        if session is not None:
            session.abandon()


def attach_report(error: BaseException, outcomes: list[Any], stats: RunStats) -> None:
    """Attach the finished outcomes to an exception that leaves a run, as its `report`; a cancellation says so."""
    ordered = sorted(
        {outcome.index: outcome for outcome in outcomes}.values(), key=lambda outcome: outcome.index
    )
    with suppress(AttributeError):
        error.report = BatchReport(ordered, stats)  # type: ignore[attr-defined]
        if not isinstance(error, Exception):
            error.add_note(
                f"The `report` of this exception has the {len(ordered):,} outcomes that are finished."
            )
