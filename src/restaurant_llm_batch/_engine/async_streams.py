"""Asynchronous outcome stream: the iterator that `astream` returns, which can end its run early."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any, Generic, TypeAlias, TypeVar

import anyio
from anyio.abc import TaskGroup

from .._claim import Claim
from ..errors import ConfigurationError, RunStopped
from ..outcomes import Failure, Outcome, RunStats, Success
from .concurrent import ConcurrentDriver
from .handover import move_all, move_one
from .loop_mailbox import is_cancellation
from .run import RunState
from .streams import attach_report

T = TypeVar("T")
MakeDriver: TypeAlias = Callable[[Callable[[Outcome[Any]], object], Callable[[], object]], ConcurrentDriver]
"""Makes a driver that delivers outcomes by the first function, and calls the second one after each."""


class Channel:
    """Carries outcomes from a run on the event loop to its stream. The run holds no reference to the stream."""

    def __init__(self) -> None:
        self.driver: ConcurrentDriver | None = None
        self.outcomes: deque[Outcome[Any]] = deque()
        self.finished = anyio.Event()
        self.failure: BaseException | None = None
        self.abandoned = False
        self._changed: anyio.Event | None = None
        self._claim = Claim()

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
            if not self.claim():
                return
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

    def claim(self) -> bool:
        """Take the right to begin the run, or to keep it from beginning; return False if it is taken."""
        return self._claim.take()

    def close_unbegun(self, run: RunState) -> None:
        """End a run that has not begun: an interrupt, or the end of its block, may have come before its host."""
        if self.claim():
            self._finish(run)

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
            channel.close_unbegun(self._run)
            if channel.driver is not None:
                channel.driver.scheduler.cancel()  # at once: after an interrupt, it must not go on before that
            await channel.finished.wait()
            move_all(channel.outcomes, outcomes)
        return outcomes

    def __del__(self) -> None:
        channel = self.__dict__.get("_channel")  # none, if an interrupt kept the stream from being made
        if channel is not None:
            channel.abandon()
