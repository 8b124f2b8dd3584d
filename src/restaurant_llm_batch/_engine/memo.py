"""
Answering `Once`: a flow that runs once per run, for all items that ask for it.

The first item to ask runs it as part of its own flow. What the others need of the driver are two steps: to
`WaitForCell` those who wait, and, when it has ended, to `NotifyCell` them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from copy import copy
from dataclasses import dataclass, field
from typing import Any

from ..errors import ConfigurationError
from ..outcomes import Stage
from ..steps import Sleep

MAX_KEPT = 10_000
"""Results kept in a run, so that a hundred thousand different ones do not fill the memory."""


@dataclass(slots=True, eq=False)
class MemoCell:
    """
    One flow that is run once.

    Attributes:
        running: Whether some item runs it, or has.
        done: Whether its result is there.
        value: Its result.
        error: What it raised instead, without what it held on to.
        failure_site: The stage of that error, and the attempts.
        owner: Whoever runs it; the driver's.
        waiters: Whoever waits for it; the driver's.
    """

    running: bool = False
    done: bool = False
    value: Any = None
    error: Exception | None = None
    failure_site: tuple[Stage, int] = ("task", 0)
    owner: Any = None
    waiters: list[Any] = field(default_factory=list)


def clone_exception(error: Exception) -> Exception:
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
class WaitForCell:
    """Wait until a cell's flow has ended. Answered with None."""

    cell: MemoCell


@dataclass(frozen=True, slots=True)
class NotifyCell:
    """Let those go on who wait for a cell. Answered with None."""

    cell: MemoCell


class MemoTable:
    """The flows of one run that are run once, by key."""

    def __init__(self) -> None:
        self._cells: OrderedDict[Hashable, MemoCell] = OrderedDict()

    def get(self, key: Hashable) -> MemoCell:
        """Return the cell of a key, a new one where there is none."""
        try:
            cell = self._cells.get(key)
        except TypeError:
            raise ConfigurationError(
                f"once() takes a key that can be hashed, such as a tuple of strings, got {key!r}"
            ) from None
        if cell is None:
            cell = self._cells[key] = MemoCell()
            while len(self._cells) > MAX_KEPT:
                self._cells.popitem(last=False)
        else:
            self._cells.move_to_end(key)
        return cell


class WaitForCallback:
    """
    Wait for something that calls back. Answered with what it is called back with.

    Args:
        subscribe: Begins it; its argument is to be called once, from any thread, with None or what went wrong.
        interruptible: Whether a stop of the run, or the end of the item's time, ends the wait.

    Attributes:
        done: Whether it has ended.
        frame: Whatever the driver needs to find its way back.
    """

    __slots__ = ("done", "frame", "interruptible", "subscribe")

    def __init__(
        self,
        subscribe: Callable[[Callable[[Exception | None], object]], object],
        *,
        interruptible: bool = False,
    ) -> None:
        self.subscribe = subscribe
        self.interruptible = interruptible
        self.done = False
        self.frame: Any = None


@dataclass(frozen=True, slots=True)
class Backoff(Sleep):
    """Wait before a call is tried again, holding no slot; `label` it asks, and which `attempt` the next one is."""

    label: str
    attempt: int
