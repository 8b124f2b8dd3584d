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
from .items import RunItem
from .memo import MemoCell


class Frame:
    """A flow being advanced; a child of `Gather` knows its parent and its place there."""

    __slots__ = ("answers", "flow", "index", "item", "parent", "pending_children", "starting_children")

    def __init__(self, flow: Flow[Any], item: RunItem, parent: Frame | None = None, index: int = 0) -> None:
        self.flow = flow
        self.item = item
        self.parent = parent
        self.index = index
        self.answers: list[Any] = []
        self.pending_children = 0
        self.starting_children = False  # its children are being begun; it goes on when all of them are

    def ancestors(self) -> set[Frame]:
        """Return the frame itself, and those it is a part of."""
        found: set[Frame] = set()
        frame: Frame | None = self
        while frame is not None:
            found.add(frame)
            frame = frame.parent
        return found


class MemoWaiters:
    """
    The frames that wait for cells.

    Attributes:
        since: When each began to wait.
    """

    def __init__(self) -> None:
        self.since: dict[Frame, float] = {}
        self._cells: dict[Frame, MemoCell] = {}

    def add(self, frame: Frame, cell: MemoCell) -> None:
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
        cell.waiters.append(frame)

    def release(self, cell: MemoCell) -> list[Frame]:
        """Return those who waited for a cell; they wait no more."""
        waiting, cell.waiters = cell.waiters, []
        for frame in waiting:
            del self._cells[frame], self.since[frame]
        return waiting

    def _leads_to(self, own: set[Frame], cell: MemoCell, seen: set[MemoCell]) -> bool:
        """Tell whether a cell's flow, or one that it waits for, is run by one of some frames."""
        if cell in seen:
            return False
        seen.add(cell)
        if cell.owner in own:
            return True
        blocking = [self._cells[other] for other in self._cells if cell.owner in other.ancestors()]
        return any(self._leads_to(own, other, seen) for other in blocking)


class NotReady:
    """What a source answers when it will have more, but not now."""


NOT_READY = NotReady()


class ItemSource(Protocol):
    """Where entries come from, one at a time."""

    def take(self, room: int) -> RunItem | Failure | NotReady | None:
        """Return the next entry, None after the last, or `NOT_READY`; `room` is how many could be taken."""
        ...


@dataclass(frozen=True, slots=True)
class SchedulerCallbacks:
    """
    What a conductor has done for it.

    Attributes:
        start: Start an admitted call; `Scheduler.on_call_finished` is to be called at home when it is over.
        call_later: Call something at home after so many seconds.
        deliver: Take an outcome; return whether it needs no room any more.
        on_finished: Told once, when everything is done.
    """

    start: Callable[[Call], object]
    call_later: Callable[[float, Callable[[], object]], object]
    deliver: Callable[[Outcome[Any]], bool]
    on_finished: Callable[[], object]
