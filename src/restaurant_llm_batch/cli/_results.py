"""What a command needs to know about its task's results: how one is shown, written and spoken of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from rich.table import Table

from ..outcomes import Failure, Outcome, Success
from ._sources import Known
from ._tables import counted


class Result(Protocol):
    """The result of a task."""

    @property
    def model(self) -> str:
        """The model that answered; empty when none was asked."""
        ...


R = TypeVar("R", bound=Result)

MakeTable: TypeAlias = Callable[[Sequence[R], Known], Table]
"""Shows results, given what their restaurants or documents are called."""


@dataclass(frozen=True, kw_only=True)
class View(Generic[R]):
    """
    How a task's results are shown, written and spoken of.

    Attributes:
        table: Shows some.
        record: Returns one as it is written.
        done: What was done to it: "summarised".
        lost: How many parts of a result are missing because they failed.
        lost_as: What is said of one such part, and of several.
        offline: What the offline model's answers are.
        what: What an item is called.
    """

    table: MakeTable[R]
    record: Callable[[R], Mapping[str, Any]]
    done: str
    lost: Callable[[R], int]
    lost_as: tuple[str, str]
    offline: str
    what: str = "restaurant"

    def as_record(self, outcome: Outcome[R]) -> Mapping[str, Any]:
        """Return an outcome as it is written."""
        if isinstance(outcome, Success):
            return self.record(outcome.value)
        return {f"{self.what}_id": outcome.item_id, "failure": _failure(outcome)}

    def several(self, number: int) -> str:
        """Return a number of items in words."""
        return counted(number, self.what, f"{self.what}s")


def _failure(failure: Failure) -> Mapping[str, Any]:
    error = f"{type(failure.error).__name__}: {failure.error}"
    return {"stage": failure.stage, "error": error, "attempts": failure.attempts}
