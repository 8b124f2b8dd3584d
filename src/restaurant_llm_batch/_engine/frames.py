"""Frames: flows being advanced, how they wait for memoized work, and the scheduler's callbacks."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final, Protocol, TypeAlias, TypeVar

from ..errors import ConfigurationError
from ..outcomes import Outcome
from ..steps import Gather, Sleep
from .call import Call
from .items import RunItem
from .mailbox import Clock
from .memo import LookUp, MemoCell, NotifyCell, WaitForCallback, WaitForCell
from .plan import ReadServer

T = TypeVar("T")

EngineStep: TypeAlias = Call | Sleep | Gather | LookUp | WaitForCallback | WaitForCell | NotifyCell
"""The steps that every driver can perform; the flows of a `Gather` are engine flows here."""
EngineFlow: TypeAlias = Generator[EngineStep, Any, T]
"""A flow under policy: a generator of engine steps that returns a `T`."""


class Frame:
    """A flow being advanced; a child of `Gather` knows its parent and its index there."""

    __slots__ = ("answers", "flow", "index", "item", "parent", "pending_children", "starting_children")

    def __init__(
        self, flow: EngineFlow[Any], item: RunItem, parent: Frame | None = None, index: int = 0
    ) -> None:
        self.flow = flow
        self.item = item
        self.parent = parent
        self.index = index
        self.answers: Any = None  # a list, while it gathers
        self.pending_children = 0
        self.starting_children = False  # it must not be resumed before all children have started

    def ancestors(self) -> set[Frame]:
        """Return the frame itself and all its parents."""
        found: set[Frame] = set()
        frame: Frame | None = self
        while frame is not None:
            found.add(frame)
            frame = frame.parent
        return found


class MemoWaiters:
    """
    The frames that wait for memo cells.

    Args:
        now: The run's clock.

    Attributes:
        since: When each started to wait.
    """

    def __init__(self, now: Clock) -> None:
        self._now = now
        self.since: dict[Frame, float] = {}
        self._waits: dict[Frame, WaitForCell] = {}

    def add(self, frame: Frame, wait: WaitForCell) -> None:
        """
        Add a frame that waits for a cell. The cell's owner always ends, even if the run is stopped.

        Raises:
            ConfigurationError: If the frame would wait for itself.
        """
        cell, wait.frame = wait.cell, frame
        if self._leads_to(frame.ancestors(), cell, set()):
            raise ConfigurationError(
                "a flow passed to once() uses its own key, or one that waits for it, so it would wait for itself"
            )
        self._waits[frame] = wait
        self.since[frame] = self._now()
        cell.waiters.append(frame)

    def release(self, cell: MemoCell) -> list[Frame]:
        """Remove and return the frames that wait for a cell."""
        waiting, cell.waiters = cell.waiters, []
        for frame in waiting:
            self._forget(frame)
        return waiting

    def remove(self, wait: WaitForCell) -> None:
        """Remove a frame that waits no longer."""
        wait.cell.waiters.remove(wait.frame)
        self._forget(wait.frame)

    def _forget(self, frame: Frame) -> None:
        self._waits.pop(frame).done = True
        del self.since[frame]

    def _leads_to(self, own: set[Frame], cell: MemoCell, seen: set[MemoCell]) -> bool:
        """Return whether a frame of `own` runs a cell's flow, or a flow that the cell's owner waits for."""
        if cell in seen:
            return False
        seen.add(cell)
        if cell.owner in own:
            return True
        blocking = [wait.cell for other, wait in self._waits.items() if cell.owner in other.ancestors()]
        return any(self._leads_to(own, other, seen) for other in blocking)


class NotReady(Enum):
    """Returned by a source that will have more items, but not now."""

    NOT_READY = auto()


NOT_READY: Final = NotReady.NOT_READY


class ItemSource(Protocol):
    """A source of items, one at a time."""

    def take(self, room: int) -> RunItem | NotReady | None:
        """Return the next item, None after the last, or `NOT_READY`; `room` items could be taken now."""
        ...

    def unfinished(self) -> RunItem | None:
        """Return an item whose reading was interrupted before `take` returned it, if there is one."""
        ...


@dataclass(frozen=True, slots=True)
class SchedulerCallbacks:
    """
    Callbacks through which the scheduler starts calls, sets timers and delivers outcomes.

    Attributes:
        start: Starts an admitted call; the driver then calls `Scheduler.on_call_finished` when it is over.
        call_later: Calls a function where the run lives, after some seconds.
        deliver: Takes an outcome; returns None. It should be one call, such as `list.append`, that nothing interrupts.
        delivered: Called after an outcome was taken; None if nobody waits for it.
        on_finished: Called once, when the run is over.
        read_server: Reads the load of a server.
        run_blocking: Runs a function that blocks, which must not raise, where the run does not wait for it.
    """

    start: Callable[[Call], object]
    call_later: Callable[[float, Callable[[], object]], object]
    deliver: Callable[[Outcome[Any]], object]
    delivered: Callable[[], object] | None
    on_finished: Callable[[], object]
    read_server: ReadServer
    run_blocking: Callable[[Callable[[], object]], object]
