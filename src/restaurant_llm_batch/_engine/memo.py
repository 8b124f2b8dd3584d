"""
Answering `Once`: a flow that runs once per run, for all items that ask for it.

The first item to ask runs it as part of its own flow. What the others need of the driver are two steps: to
`Join` those who wait, and, when it has ended, to `Release` them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from copy import copy
from dataclasses import dataclass, field
from typing import Any

from ..errors import ConfigurationError
from ..outcomes import Stage
from ..steps import Pause

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
        error: What it raised instead, without what it held on to.
        where: The stage of that error, and the attempts.
        leader: Whoever runs it; the driver's.
        waiting: Whoever waits for it; the driver's.
    """

    begun: bool = False
    ended: bool = False
    value: Any = None
    error: Exception | None = None
    where: tuple[Stage, int] = ("task", 0)
    leader: Any = None
    waiting: list[Any] = field(default_factory=list)


def own_copy(error: Exception) -> Exception:
    """
    Return an error like this one, to be raised somewhere else.

    Raising one object in a thousand flows would add to its traceback a thousand times, and the traceback keeps
    everything alive that the flows hold.
    """
    try:
        fresh = copy(error)
    except Exception:
        fresh = RuntimeError(f"{type(error).__name__}: {error}")
    if type(fresh) is not type(error) or str(fresh) != str(error):
        fresh = RuntimeError(f"{type(error).__name__}: {error}")
    return fresh.with_traceback(None)


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


class Await:
    """
    Wait for something that calls back. Answered with what it is called back with.

    Args:
        begin: Begins it; its argument is to be called once, from any thread, with None or what went wrong.
        leavable: Whether a stop of the run, or the end of the item's time, ends the wait.

    Attributes:
        over: Whether it has ended.
        owner: Whatever the driver needs to find its way back.
    """

    __slots__ = ("begin", "leavable", "over", "owner")

    def __init__(
        self, begin: Callable[[Callable[[Exception | None], object]], object], *, leavable: bool = False
    ) -> None:
        self.begin = begin
        self.leavable = leavable
        self.over = False
        self.owner: Any = None


@dataclass(frozen=True, slots=True)
class BackOff(Pause):
    """Wait before a call is tried again, holding no slot; `what` it asks, and which `attempt` the next one is."""

    what: str
    attempt: int
