"""Successes: makes the outcomes of items that succeed, as their class does, in a third of the time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..models import ItemId
from ..outcomes import Success


class _Unfrozen(Success[Any]):
    """A `Success` that is being made: a frozen dataclass takes three times as long to set its attributes."""

    __slots__ = ()
    __setattr__ = object.__setattr__
    __delattr__ = object.__delattr__  # both, or neither is faster
    kept: Any = Success.spent  # type: ignore[misc]  # its slot, as `spent_field` gives it for the class

    def __init__(self, item_id: ItemId, value: object, index: int, spent: object) -> None:
        self.item_id = item_id  # type: ignore[misc]
        self.value = value  # type: ignore[misc]
        self.index = index  # type: ignore[misc]
        self.kept = spent
        self.__class__ = Success  # type: ignore[assignment]


make_success: Callable[[ItemId, object, int, object], Success[Any]] = _Unfrozen
"""Return a `Success` of an item's id, its value, its index, and what it has spent, which may be packed rows."""
