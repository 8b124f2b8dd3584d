"""Flows being advanced, and how they wait for what is done once for all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any, Protocol

from ..errors import ConfigurationError
from ..outcomes import Failure, Outcome
from ..steps import Flow
from .call import Call
from .items import Entry
from .memo import Cell


class Frame:
    """A flow being advanced; a child of `Together` knows its parent and its place there."""

    __slots__ = ("answers", "beginning", "entry", "flow", "missing", "parent", "place")

    def __init__(self, flow: Flow[Any], entry: Entry, parent: Frame | None = None, place: int = 0) -> None:
        self.flow = flow
        self.entry = entry
        self.parent = parent
        self.place = place
        self.answers: list[Any] = []
        self.missing = 0
        self.beginning = False  # its children are being begun; it goes on when all of them are

    def ancestors(self) -> set[Frame]:
        """Return the frame itself, and those it is a part of."""
        found: set[Frame] = set()
        frame: Frame | None = self
        while frame is not None:
            found.add(frame)
            frame = frame.parent
        return found


class Joined:
    """
    The frames that wait for cells.

    Attributes:
        since: When each began to wait.
    """

    def __init__(self) -> None:
        self.since: dict[Frame, float] = {}
        self._cells: dict[Frame, Cell] = {}

    def add(self, frame: Frame, cell: Cell) -> None:
        """
        Have a frame wait for a cell, whose leader always ends, also when the run is stopped.

        Raises:
            ConfigurationError: When it would wait for itself.
        """
        if self._leads_to(frame.ancestors(), cell, set()):
            raise ConfigurationError(
                "a flow given to once() asks for its own key, or for one that waits for it, so it would wait for itself"
            )
        self._cells[frame] = cell
        self.since[frame] = monotonic()
        cell.waiting.append(frame)

    def release(self, cell: Cell) -> list[Frame]:
        """Return those who waited for a cell; they wait no more."""
        waiting, cell.waiting = cell.waiting, []
        for frame in waiting:
            del self._cells[frame], self.since[frame]
        return waiting

    def _leads_to(self, own: set[Frame], cell: Cell, seen: set[Cell]) -> bool:
        """Tell whether a cell's flow, or one that it waits for, is run by one of some frames."""
        if cell in seen:
            return False
        seen.add(cell)
        if cell.leader in own:
            return True
        blocking = [self._cells[other] for other in self._cells if cell.leader in other.ancestors()]
        return any(self._leads_to(own, other, seen) for other in blocking)


class Pending:
    """What a source answers when it will have more, but not now."""


PENDING = Pending()


class Source(Protocol):
    """Where entries come from, one at a time."""

    def take(self, room: int) -> Entry | Failure | Pending | None:
        """Return the next entry, None after the last, or `PENDING`; `room` is how many could be taken."""
        ...


@dataclass(frozen=True, slots=True)
class Hands:
    """
    What a conductor has done for it.

    Attributes:
        start: Start an admitted call; `Conductor.ended` is to be called at home when it is over.
        after: Call something at home after so many seconds.
        deliver: Take an outcome; return whether it needs no room any more.
        finished: Told once, when everything is done.
    """

    start: Callable[[Call], object]
    after: Callable[[float, Callable[[], object]], object]
    deliver: Callable[[Outcome[Any]], bool]
    finished: Callable[[], object]
