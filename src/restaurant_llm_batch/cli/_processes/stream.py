"""Outcome stream of a run in several processes: what `OutcomeStream` is for a run in one."""

from __future__ import annotations

from collections.abc import Iterator
from queue import Empty
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from ...outcomes import Failure, Outcome, RunStats, Success
from .keeper import Keeper
from .whole import WholeRun

R = TypeVar("R")


class ProcessStream(Iterator[Success[R] | Failure], Generic[R]):
    """
    The outcomes of a run in several processes, in the order in which they arrive. It starts with the first `next()`.

    Args:
        keeper: Keeps the processes.
        run: The run.
    """

    def __init__(self, keeper: Keeper, run: WholeRun) -> None:
        self._keeper = keeper
        self._run = run
        self._is_over = False

    @property
    def stats(self) -> RunStats:
        """The run's statistics so far."""
        return self._run.stats

    def __next__(self) -> Success[R] | Failure:
        keeper = self._keeper
        if keeper.thread.ident is None:
            keeper.thread.start()
        outcome = None if self._is_over else keeper.outcomes.get()
        if outcome is not None:
            if keeper.outcomes.qsize() % 16 == 0:
                keeper.wake()  # it may have waited for this
            return outcome
        self._is_over = True
        if keeper.failure is not None:
            failure, keeper.failure = keeper.failure, None
            raise failure
        raise StopIteration

    def stop(self, reason: str = "the caller stopped it") -> None:
        """
        Start nothing more and let calls in flight finish, in all processes. May be called from a signal handler.

        Args:
            reason: Becomes `RunStats.stopped_because`.
        """
        self._keeper.stop(reason)

    def close(self) -> list[Outcome[Any]]:
        """Cancel the rest of the run, wait until all processes are gone, and return the outcomes not taken yet."""
        keeper = self._keeper
        if keeper.thread.ident is not None and not self._is_over:
            keeper.cancel()
            try:
                keeper.thread.join()
            except BaseException:  # a third Ctrl-C
                keeper.kill()
                keeper.thread.join()
                raise
        outcomes: list[Outcome[Any]] = []
        while True:
            try:
                outcome = keeper.outcomes.get_nowait()
            except Empty:
                return outcomes
            if outcome is None:
                self._is_over = True
            else:
                outcomes.append(outcome)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
