"""Outcome streams: the iterators that `stream` and `astream` return, which can end their run early."""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeAlias, TypeVar

import anyio
from anyio.abc import TaskGroup

from ..errors import ConfigurationError, RunStopped
from ..outcomes import BatchReport, Failure, Outcome, RunStats, Success
from .concurrent import ConcurrentDriver
from .handover import Outcomes, move_all, move_one
from .mailbox import is_cancellation
from .resources import Lease
from .run import RunState

T = TypeVar("T")
MakeDriver: TypeAlias = Callable[[Callable[[Outcome[Any]], object], Callable[[], object]], ConcurrentDriver]
"""Makes a driver that delivers outcomes by the first function, and calls the second one after each."""


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


class Channel:
    """Carries outcomes from a run on the event loop to its stream. The run holds no reference to the stream."""

    def __init__(self) -> None:
        self.driver: ConcurrentDriver | None = None
        self.outcomes: deque[Outcome[Any]] = deque()
        self.finished = anyio.Event()
        self.failure: BaseException | None = None
        self.abandoned = False
        self._changed: anyio.Event | None = None

    def notify(self) -> None:
        """Wake the stream."""
        if self._changed is not None:
            self._changed.set()

    async def wait(self) -> None:
        """Wait for an outcome, or for the end of the run."""
        if self._changed is None or self._changed.is_set():
            self._changed = anyio.Event()
        await self._changed.wait()

    async def host(self, make_driver: MakeDriver, run: RunState, total: int | None) -> None:
        """Run to the end; an exception is kept for the stream, also an interrupt that lands here."""
        try:
            if not self.abandoned:
                self.driver = make_driver(self.outcomes.append, self.notify)
                run.recorder.start(total)
                if not self.abandoned:  # `abandon` sets this, then reads the driver
                    await self.driver.run()
            self._finish(run)
        except BaseException as error:
            passes = is_cancellation(error)
            closed = RunStopped("the runner was closed while its outcomes were being read")
            self.failure = closed if passes else error
            self._finish(run)
            if passes:
                raise

    def _finish(self, run: RunState) -> None:
        if self.driver is not None:
            self.driver.end()
        run.recorder.finish()
        self.finished.set()
        self.notify()

    def abandon(self) -> None:
        """Cancel the run without waiting for it. The garbage collector may call this anywhere."""
        self.abandoned = True
        driver = self.driver
        if driver is not None:
            driver.mailbox.post_deferred(driver.scheduler.cancel)


class AsyncOutcomeStream(AsyncIterator[Success[T] | Failure], Generic[T]):
    """
    The outcomes of a run, in the order in which they finish. The run starts with the first `anext()`.

    `aclose()` and garbage collection (as after a ``break``) cancel the rest of the run. The iterator holds no cancel
    scope, so they cancel nothing else.
    """

    def __init__(self, tasks: TaskGroup, make_driver: MakeDriver, run: RunState, total: int | None) -> None:
        self._tasks = tasks
        self._make_driver = make_driver
        self._run = run
        self._total = total
        self._channel: Channel | None = None
        self._closed = False

    @property
    def stats(self) -> RunStats:
        """The run's statistics so far."""
        return self._run.recorder.stats

    async def __anext__(self) -> Success[T] | Failure:
        mine: list[Outcome[Any]] = []
        try:
            channel = self._begin()
            while not move_one(channel.outcomes, mine):
                if channel.finished.is_set():
                    if channel.failure is not None:
                        raise channel.failure
                    raise StopAsyncIteration
                await channel.wait()
            if channel.driver is not None:
                channel.driver.scheduler.on_outcomes_consumed()
            return mine[0]
        except Exception:
            raise
        except BaseException as error:
            if not is_cancellation(error):
                attach_report(error, mine + await self.aclose(), self.stats)
            raise

    def _begin(self) -> Channel:
        channel = self._channel
        if channel is None:
            if self._closed:
                raise StopAsyncIteration
            channel = self._channel = Channel()
            try:
                self._tasks.start_soon(channel.host, self._make_driver, self._run, self._total)
            except RuntimeError as error:
                raise ConfigurationError(
                    "the `async with runner` block of this stream has ended; read the stream inside it"
                ) from error
        return channel

    def stop(self, reason: str = "the caller stopped it") -> None:
        """Start nothing more and let calls in flight finish; items still open then fail with `RunStopped`."""
        self._run.stop(reason)
        if self._channel is not None and self._channel.driver is not None:
            driver = self._channel.driver
            driver.mailbox.post_deferred(driver.scheduler.drain)

    async def aclose(self) -> list[Success[T] | Failure]:
        """Cancel the rest of the run, wait until none of its calls is in flight, and return the outcomes not taken."""
        self._closed = True
        channel = self._channel
        outcomes: list[Outcome[Any]] = []
        if channel is not None:
            channel.abandon()
            if channel.driver is not None:
                channel.driver.scheduler.cancel()  # at once: after an interrupt, it must not go on before that
            await channel.finished.wait()
            move_all(channel.outcomes, outcomes)
        return outcomes

    def __del__(self) -> None:
        channel = self.__dict__.get("_channel")  # none, if an interrupt kept the stream from being made
        if channel is not None:
            channel.abandon()


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
