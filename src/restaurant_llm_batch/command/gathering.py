"""What a run brought, as much of it as will be shown."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

from ..models import RestaurantSummary
from ..report import Failure, Outcome, Success

Done = Success[RestaurantSummary]
T = TypeVar("T", Done, Failure)


@dataclass
class Gathered:
    """
    The outcomes of a run; those that come first in the input are kept, the others are counted.

    Attributes:
        most: How many outcomes of a kind are kept; None for all.
        done: How many restaurants were summarised.
        failed: How many failed.
        unfinished: How many were begun when the run was stopped, and not finished.
        models: The models that answered.
        interrupted: Whether Ctrl-C ended the run.
    """

    most: int | None
    done: int = 0
    failed: int = 0
    unfinished: int = 0
    models: set[str] = field(default_factory=set)
    interrupted: bool = False
    _successes: list[Done] = field(default_factory=list)
    _failures: list[Failure] = field(default_factory=list)

    def add(self, outcome: Outcome[RestaurantSummary]) -> None:
        """Take an outcome."""
        if isinstance(outcome, Success):
            self.done += 1
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
    def successes(self) -> list[Done]:
        """The first that were summarised, in input order."""
        return self._first(self._successes)

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
