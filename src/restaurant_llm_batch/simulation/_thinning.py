"""Thinning: few of many, at even distances."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from .._engine.items import RunItem

T = TypeVar("T")


class Thinned:
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
