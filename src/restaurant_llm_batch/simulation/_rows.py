"""Rows of a plan: reads all items, and keeps those that are looked at."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from operator import attrgetter
from typing import Any, TypeVar

from .._engine.items import ItemReader, RunItem, check_items
from ..protocols import Task
from .plan import BadRow

T = TypeVar("T")


def read_rows(
    task: Task[Any], items: Iterable[Any], sample: int | None
) -> tuple[Sequence[RunItem], int, list[BadRow]]:
    """Read all items; return those to look at, the number of those that can be read, and those that cannot."""
    items = check_items(items, task)
    good = _Thinned(sample)
    bad: list[BadRow] = []
    is_collection = isinstance(items, Collection)
    reader = ItemReader(task, iter(items))
    for item in reader:
        if item.bad is None:
            good.add(item)
        else:
            problem = str(item.bad).removeprefix(f"item {item.index}: ")
            bad.append(BadRow(item.index, item.item_id, problem.replace(", which is still open", "")))
        if not is_collection:
            reader.item_finished(item)
    # A run reads a collection in the order of its priorities.
    chosen = sorted(good.items, key=attrgetter("priority")) if is_collection else good.items
    return chosen, good.count, bad


class _Thinned:
    """
    Items at even distances, of which there are few however many are added.

    Args:
        number: How many are wanted; None for all.
    """

    def __init__(self, number: int | None) -> None:
        self.count = 0
        self._number = number
        self._kept: list[RunItem] = []
        self._distance = 1

    def add(self, item: RunItem) -> None:
        """Add the next item."""
        if self.count % self._distance == 0:
            self._kept.append(item)
            if self._number is not None and len(self._kept) >= 8 * self._number:
                del self._kept[1::2]
                self._distance *= 2
        self.count += 1

    @property
    def items(self) -> Sequence[RunItem]:
        """The items, as many as are wanted."""
        return self._kept if self._number is None else evenly(self._kept, self._number)


def evenly(items: Sequence[T], number: int) -> Sequence[T]:
    """Return so many items, evenly picked; all if there are no more."""
    count = len(items)
    return items if number >= count else [items[place * count // number] for place in range(number)]
