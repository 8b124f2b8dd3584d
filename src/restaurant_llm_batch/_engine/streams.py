"""What `stream` and `astream` return: outcomes as they finish, and the means to end the run early."""

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
    """A driver for a blocking caller."""

    def take(self) -> Outcome[Any] | None:
        """Return the next outcome, waiting for it; None after the last."""
        ...

    def check_stop(self) -> None:
        """Notice that the run was stopped; safe in a signal handler."""
        ...

    def abandon(self) -> None:
        """Cancel the run, which nobody reads any more, without waiting for it."""
        ...

    def abort(self) -> Iterator[Outcome[Any]]:
        """Give up at once; yields the outcomes that were not taken."""
        ...


class OutcomeStream(Iterator[Success[T] | Failure], Generic[T]):
    """
    The outcomes of a run, as they finish. The run begins when the first one is asked for.

    Leaving the loop early, `close()` and garbage collection cancel what is left of the run.
    """

    def __init__(
        self,
        begin: Callable[[Lease], BlockingRun],
        lease: Callable[[], Lease],
        run: RunState,
    ) -> None:
        self._begin = begin
        self._take_lease = lease
        self._run = run
        self._lease: Lease | None = None
        self._driver: BlockingRun | None = None
        self._over = False
        self._finishing = threading.RLock()  # a signal handler may close it too

    @property
    def stats(self) -> RunStats:
        """What the run has taken so far."""
        return self._run.recorder.stats

    def __next__(self) -> Success[T] | Failure:
        if self._over:
            raise StopIteration
        try:
            if self._driver is None:
                self._lease = self._take_lease()
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
        Let calls in flight end, and begin nothing more; what is still open then fails as `RunStopped`.

        May be called from a signal handler.
        """
        self._run.stop(reason)
        if self._driver is not None:
            self._driver.check_stop()

    def close(self) -> list[Success[T] | Failure]:
        """Cancel what is left of the run, and return the outcomes that were not taken."""
        if self._over:
            return []
        try:
            return list(self._driver.abort()) if self._driver is not None else []
        finally:
            self._finish()

    def _finish(self) -> None:
        with self._finishing:
            over, self._over = self._over, True
        if over:  # closed by another thread while this one was reading
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
        # Runs in any thread, at any moment, perhaps while that thread holds a lock: it must not wait.
        if self._driver is None or self._over or sys.is_finalizing():
            return
        self._over = True
        self._driver.abandon()
        lease = self._lease
        if lease is not None and lease.loop_thread is None:
            lease.release()  # waits for nobody, and stage 1 promises to make no thread
        elif lease is not None:
            threading.Thread(target=lease.release, daemon=True).start()


class Channel:
    """Between a run on the loop and whoever reads it; the run does not keep its reader alive."""

    def __init__(self) -> None:
        self.driver: ConcurrentDriver | None = None
        self.outcomes: deque[Outcome[Any]] = deque()
        self.over = anyio.Event()
        self.failure: BaseException | None = None
        self.abandoned = False
        self._news: anyio.Event | None = None

    def deliver(self, outcome: Outcome[Any]) -> bool:
        """Take an outcome; it needs room until it is read."""
        self.outcomes.append(outcome)
        self.announce()
        return False

    def announce(self) -> None:
        """Wake the reader."""
        if self._news is not None:
            self._news.set()

    async def wait(self) -> None:
        """Wait for something to happen."""
        if self._news is None or self._news.is_set():
            self._news = anyio.Event()
        await self._news.wait()

    async def host(
        self,
        make_driver: Callable[[Callable[[Outcome[Any]], bool]], ConcurrentDriver],
        run: RunState,
    ) -> None:
        """Run to the end; what goes wrong is kept for the reader."""
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
            self.over.set()
            self.announce()


class AsyncOutcomeStream(AsyncIterator[Success[T] | Failure], Generic[T]):
    """
    The outcomes of a run, as they finish. The run begins when the first one is asked for.

    It holds no cancel scope: leaving the loop early by ``break``, `aclose()` and garbage collection all
    cancel what is left of the run, and nothing else.
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
        """What the run has taken so far."""
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
                    "the block `async with runner` that this stream belongs to has ended; "
                    "read the stream inside it"
                ) from error
        while not channel.outcomes:
            if channel.over.is_set():
                if channel.failure is not None:
                    raise channel.failure
                raise StopAsyncIteration
            await channel.wait()
        outcome = channel.outcomes.popleft()
        if channel.driver is not None:
            channel.driver.scheduler.on_outcomes_consumed()
        return outcome

    def stop(self, reason: str = "the caller stopped it") -> None:
        """Let calls in flight end, and begin nothing more; what is still open then fails as `RunStopped`."""
        self._run.stop(reason)
        if self._channel is not None and self._channel.driver is not None:
            driver = self._channel.driver
            driver.mailbox.post_deferred(driver.scheduler.drain)

    async def aclose(self) -> None:
        """Cancel what is left of the run and wait until nothing of it is in flight on the loop."""
        self._closed = True
        channel = self._channel
        if channel is None:
            return
        self._cancel()
        await channel.over.wait()
        channel.outcomes.clear()

    def _cancel(self) -> None:
        channel = self._channel
        if channel is None or channel.over.is_set():
            return
        channel.abandoned = True
        if channel.driver is not None:
            channel.driver.mailbox.post_deferred(channel.driver.scheduler.cancel)

    def __del__(self) -> None:
        self._cancel()


def attach_report(error: BaseException, outcomes: list[Any], stats: RunStats) -> None:
    """Hang what is finished on an exception that leaves a run, as its `report`."""
    ordered = sorted(outcomes, key=lambda outcome: outcome.index)
    with suppress(AttributeError):
        error.report = BatchReport(ordered, stats)  # type: ignore[attr-defined]
