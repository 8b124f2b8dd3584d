"""
Answering `Once`: a flow that runs once per run, for all items that ask for it.

The first item to ask runs it as part of its own flow. What the others need of the driver are two steps: to
`Join` those who wait, and, when it has ended, to `Release` them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

from ..errors import ConfigurationError
from ..report import Stage

MOST_KEPT = 10_000
"""Results kept in a run, so that a hundred thousand different ones do not fill the memory."""


@dataclass(slots=True, eq=False)
class Cell:
    """
    One flow that is run once.

    Attributes:
        begun: Whether some item runs it, or has.
        ended: Whether its result is there.
        value: Its result.
        error: What it raised instead.
        errors: What calls of it raised in the end, for the items that did not make them.
        waiting: Whoever waits for it; the driver's.
    """

    begun: bool = False
    ended: bool = False
    value: Any = None
    error: Exception | None = None
    errors: list[tuple[BaseException, Stage, int]] = field(default_factory=list)
    waiting: list[Any] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Join:
    """Wait until a cell's flow has ended. Answered with None."""

    cell: Cell


@dataclass(frozen=True, slots=True)
class Release:
    """Let those go on who wait for a cell. Answered with None."""

    cell: Cell


class Cells:
    """The flows of one run that are run once, by key."""

    def __init__(self) -> None:
        self._cells: OrderedDict[Hashable, Cell] = OrderedDict()

    def get(self, key: Hashable) -> Cell:
        """Return the cell of a key, a new one where there is none."""
        try:
            cell = self._cells.get(key)
        except TypeError:
            raise ConfigurationError(
                f"once() takes a key that can be hashed, such as a tuple of strings, got {key!r}"
            ) from None
        if cell is None:
            cell = self._cells[key] = Cell()
            while len(self._cells) > MOST_KEPT:
                self._cells.popitem(last=False)
        else:
            self._cells.move_to_end(key)
        return cell
