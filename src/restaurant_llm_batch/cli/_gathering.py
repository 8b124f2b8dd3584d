"""What a run brought, as much of it as will be shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from ..outcomes import Failure, Outcome, Success
from ._results import R

T = TypeVar("T", bound=Success[object] | Failure)


@dataclass
class Gathered(Generic[R]):
    """
    The outcomes of a run; those that come first in the input are kept, the others are counted.

    Attributes:
        most: How many outcomes of a kind are kept; None for all.
        count_lost: Says how many parts of a result are missing.
        done: How many items were done.
        failed: How many failed.
        unfinished: How many were begun when the run was stopped, and not finished.
        lost: How many parts are missing of what was done.
        models: The models that answered.
        interrupted: Whether Ctrl-C ended the run.
    """

    most: int | None
    count_lost: Callable[[R], int]
    done: int = 0
    failed: int = 0
    unfinished: int = 0
    lost: int = 0
    models: set[str] = field(default_factory=set)
    interrupted: bool = False
    _successes: list[Success[R]] = field(default_factory=list)
    _failures: list[Failure] = field(default_factory=list)

    def add(self, outcome: Outcome[R]) -> None:
        """Take an outcome."""
        if isinstance(outcome, Success):
            self.done += 1
            self.lost += self.count_lost(outcome.value)
            if outcome.value.model:
                self.models.add(outcome.value.model)
            self._keep(self._successes, outcome)
        elif outcome.stage == "run":
            self.unfinished += 1
        else:
            self.failed += 1
            self._keep(self._failures, outcome)

    @property
    def total(self) -> int:
        """How many outcomes there were."""
        return self.done + self.failed + self.unfinished

    @property
    def results(self) -> list[R]:
        """The first that were done, in input order."""
        return [success.value for success in self._first(self._successes)]

    @property
    def failures(self) -> list[Failure]:
        """The first that failed, in input order."""
        return self._first(self._failures)

    def _keep(self, kept: list[T], outcome: T) -> None:
        kept.append(outcome)
        # Sorting now and then, rather than always, keeps a hundred thousand restaurants cheap.
        if self.most is not None and len(kept) > 2 * self.most + 100:
            kept[:] = self._first(kept)

    def _first(self, kept: list[T]) -> list[T]:
        return sorted(kept, key=lambda outcome: outcome.index)[: self.most]
