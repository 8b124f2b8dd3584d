"""Outcome streams: the iterators that `stream` and `astream` return, which can end their run early."""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any, Generic, Protocol, Self, TypeVar

import anyio
from anyio.abc import TaskGroup

from ..errors import ConfigurationError, RunStopped
from ..outcomes import BatchReport, Failure, Outcome, RunStats, Success
from .concurrent import ConcurrentDriver
from .resources import Lease
from .run import RunState

T = TypeVar("T")


class BlockingRun(Protocol):
    """A run, as a blocking caller drives or reads it."""

    def take(self) -> Outcome[Any] | None:
        """Return the next outcome, waiting for it; None after the last."""
        ...

    def check_stop(self) -> None:
        """Drain the run, which was stopped. Safe in a signal handler."""
        ...

    def abandon(self) -> None:
        """Cancel a run that has no caller any more, without waiting for it."""
        ...

    def abort(self) -> Iterator[Outcome[Any]]:
        """Cancel the run at once; yields the outcomes not taken yet."""
        ...


class OutcomeStream(Iterator[Success[T] | Failure], Generic[T]):
    """
    The outcomes of a run, in the order in which they finish. The run starts with the first `next()`.

    `close()`, the end of a ``with`` block and garbage collection (as after leaving the loop early) cancel the rest of
    the run.
    """

    def __init__(
        self,
        begin: Callable[[Lease], BlockingRun],
        lease: Callable[[], Lease],
        run: RunState,
    ) -> None:
        self._begin = begin
        self._acquire_lease = lease
        self._run = run
        self._lease: Lease | None = None
        self._driver: BlockingRun | None = None
        self._closed = False
        self._finishing = threading.RLock()  # reentrant: a signal handler may close the stream too

    @property
    def stats(self) -> RunStats:
        """The run's statistics so far."""
        return self._run.recorder.stats

    def __next__(self) -> Success[T] | Failure:
        if self._closed:
            raise StopIteration
        try:
            if self._driver is None:
                self._lease = self._acquire_lease()
                self._driver = self._begin(self._lease)
            outcome = self._driver.take()
        except BaseException as error:
            attach_report(error, self.close(), self.stats)
            raise
        if outcome is None:
            self._finish()
            raise StopIteration
        return outcome

    def stop(self, reason: str = "the caller stopped it") -> None:
        """
        Start nothing more and let calls in flight finish; items still open then fail with `RunStopped`.

        May be called from a signal handler.

        Args:
            reason: Becomes `RunStats.stopped_because`.
        """
        self._run.stop(reason)
        if self._driver is not None:
            self._driver.check_stop()

    def close(self) -> list[Success[T] | Failure]:
        """Cancel the rest of the run, and return the outcomes not taken yet. Closing again does nothing."""
        if self._closed:
            return []
        try:
            return list(self._driver.abort()) if self._driver is not None else []
        finally:
            self._finish()

    def _finish(self) -> None:
        with self._finishing:
            closed, self._closed = self._closed, True
        if closed:  # by another thread, while this one was waiting for an outcome
            return
        if self._lease is not None:
            self._lease.release()
        if self._driver is not None:
            self._run.recorder.finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        # Runs in any thread, at any moment, perhaps while that thread holds a lock: it must not block.
        if self._driver is None or self._closed or sys.is_finalizing():
            return
        self._closed = True
        self._driver.abandon()
        lease = self._lease
        if lease is not None and lease.loop_thread is None:
            lease.release()  # does not block, and stage 1 promises not to start a thread
        elif lease is not None:
            threading.Thread(target=lease.release, daemon=True).start()


class Channel:
    """Carries outcomes from a run on the event loop to its stream. The run holds no reference to the stream."""

    def __init__(self) -> None:
        self.driver: ConcurrentDriver | None = None
        self.outcomes: deque[Outcome[Any]] = deque()
        self.finished = anyio.Event()
        self.failure: BaseException | None = None
        self.abandoned = False
        self._changed: anyio.Event | None = None

    def deliver(self, outcome: Outcome[Any]) -> bool:
        """Hand over an outcome; it occupies the window until it is read."""
        self.outcomes.append(outcome)
        self.notify()
        return False

    def notify(self) -> None:
        """Wake the stream."""
        if self._changed is not None:
            self._changed.set()

    async def wait(self) -> None:
        """Wait for an outcome, or for the end of the run."""
        if self._changed is None or self._changed.is_set():
            self._changed = anyio.Event()
        await self._changed.wait()

    async def host(
        self,
        make_driver: Callable[[Callable[[Outcome[Any]], bool]], ConcurrentDriver],
        run: RunState,
    ) -> None:
        """Run to the end; an exception is kept for the stream."""
        try:
            if not self.abandoned:
                self.driver = make_driver(self.deliver)
                try:
                    await self.driver.run()
                finally:
                    run.recorder.finish()
        except Exception as error:
            self.failure = error
        except BaseException:
            self.failure = RunStopped("the runner was closed while its outcomes were being read")
            raise
        finally:
            self.finished.set()
            self.notify()


class AsyncOutcomeStream(AsyncIterator[Success[T] | Failure], Generic[T]):
    """
    The outcomes of a run, in the order in which they finish. The run starts with the first `anext()`.

    `aclose()` and garbage collection (as after a ``break``) cancel the rest of the run. The iterator holds no cancel
    scope, so they cancel nothing else.
    """

    def __init__(
        self,
        tasks: TaskGroup,
        make_driver: Callable[[Callable[[Outcome[Any]], bool]], ConcurrentDriver],
        run: RunState,
    ) -> None:
        self._tasks = tasks
        self._make_driver = make_driver
        self._run = run
        self._channel: Channel | None = None
        self._closed = False

    @property
    def stats(self) -> RunStats:
        """The run's statistics so far."""
        return self._run.recorder.stats

    async def __anext__(self) -> Success[T] | Failure:
        channel = self._channel
        if channel is None:
            if self._closed:
                raise StopAsyncIteration
            channel = self._channel = Channel()
            try:
                self._tasks.start_soon(channel.host, self._make_driver, self._run)
            except RuntimeError as error:
                raise ConfigurationError(
                    "the `async with runner` block of this stream has ended; read the stream inside it"
                ) from error
        while not channel.outcomes:
            if channel.finished.is_set():
                if channel.failure is not None:
                    raise channel.failure
                raise StopAsyncIteration
            await channel.wait()
        outcome = channel.outcomes.popleft()
        if channel.driver is not None:
            channel.driver.scheduler.on_outcomes_consumed()
        return outcome

    def stop(self, reason: str = "the caller stopped it") -> None:
        """Start nothing more and let calls in flight finish; items still open then fail with `RunStopped`."""
        self._run.stop(reason)
        if self._channel is not None and self._channel.driver is not None:
            driver = self._channel.driver
            driver.mailbox.post_deferred(driver.scheduler.drain)

    async def aclose(self) -> None:
        """Cancel the rest of the run, and wait until none of its calls is in flight on the loop."""
        self._closed = True
        channel = self._channel
        if channel is None:
            return
        self._cancel()
        await channel.finished.wait()
        channel.outcomes.clear()

    def _cancel(self) -> None:
        channel = self._channel
        if channel is None or channel.finished.is_set():
            return
        channel.abandoned = True
        if channel.driver is not None:
            channel.driver.mailbox.post_deferred(channel.driver.scheduler.cancel)

    def __del__(self) -> None:
        self._cancel()


def attach_report(error: BaseException, outcomes: list[Any], stats: RunStats) -> None:
    """Attach the finished outcomes to an exception that leaves a run, as its `report`."""
    ordered = sorted(outcomes, key=lambda outcome: outcome.index)
    with suppress(AttributeError):
        error.report = BatchReport(ordered, stats)  # type: ignore[attr-defined]
