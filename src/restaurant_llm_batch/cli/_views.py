"""Result views: how a command shows its outcomes, as tables and as JSON records."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

from rich.table import Table

from .._tables.levels import Level
from .._text import error_text
from ..outcomes import Failure, Outcome, Success
from ._sources import NamedItems
from ._tables import counted

R = TypeVar("R")

MakeTable: TypeAlias = Callable[[Sequence[R], NamedItems], Table]
"""Returns a table of results; the second argument has the names of their restaurants or documents."""


@dataclass(frozen=True, kw_only=True)
class ResultView(Generic[R]):
    """
    How to show, write and describe the results of a task.

    Attributes:
        table: Returns a table of results.
        record: Returns the JSON record of a result.
        done: Participle for a finished item: "summarised".
        count_failed_parts: Returns the number of failed parts of a result.
        failed_part_phrases: Phrases for one failed part, and for several.
        offline: Clause that describes the replies of `OfflineLLM`.
        what: Singular noun for an item.
        parts: Levels of tables that its results have, besides "results" and "failures".
        with_ids: Whether `table` and `record` take `Success` objects, for results without an id of their own.
    """

    table: MakeTable[R]
    record: Callable[[R], Mapping[str, Any]]
    done: str
    count_failed_parts: Callable[[R], int]
    failed_part_phrases: tuple[str, str]
    offline: str
    what: str = "restaurant"
    parts: tuple[Level, ...] = ()
    with_ids: bool = False

    def as_record(self, outcome: Outcome[R]) -> Mapping[str, Any]:
        """Return the JSON record of an outcome."""
        if isinstance(outcome, Success):
            given: Any = outcome if self.with_ids else outcome.value
            return self.record(given)
        return {f"{self.what}_id": outcome.item_id, "failure": _failure(outcome)}

    def several(self, number: int) -> str:
        """Return a number of items with their noun."""
        return counted(number, self.what, f"{self.what}s")


def _failure(failure: Failure) -> Mapping[str, Any]:
    return {"stage": failure.stage, "error": error_text(failure.error), "attempts": failure.attempts}
