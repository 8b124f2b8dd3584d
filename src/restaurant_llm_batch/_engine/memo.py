"""
Memoization of `Once` flows (memoized single-flight), and the wait steps other than backend calls.

The first item that yields an equal `Once` runs the flow as part of its own, as the owner of a `MemoCell`. Until it
ends, other items yield `WaitForCell`; then the owner yields `NotifyCell`, which resumes them. The other wait steps are
external callbacks (`WaitForCallback`) and retry backoff (`Backoff`).
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
"""Most cells kept in a run, so that a hundred thousand different results do not fill the memory."""


@dataclass(slots=True, eq=False)
class MemoCell:
    """
    One flow that runs once, and its result.

    Attributes:
        running: Whether an item runs it, or has run it.
        done: Whether it has ended.
        value: Its result.
        error: The exception that it raised instead, without traceback.
        failure_site: The stage of that exception, and the attempts.
        owner: The frame that runs it; set by the driver.
        waiters: The frames that wait for it; set by the driver.
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
    Copy an exception so that each waiter raises its own instance.

    If a thousand flows raised one instance, its traceback would grow a thousand times, and would keep everything alive
    that the flows hold.
    """
    try:
        fresh = copy(error)
    except Exception:
        fresh = RuntimeError(f"{type(error).__name__}: {error}")
    if type(fresh) is not type(error) or str(fresh) != str(error):
        fresh = RuntimeError(f"{type(error).__name__}: {error}")
    return fresh.with_traceback(None)


@dataclass(slots=True, eq=False)
class WaitForCell:
    """
    Step: wait until a cell's flow has ended. Returns None.

    Attributes:
        cell: The cell.
        done: Whether the wait has ended.
        frame: The frame to resume.
    """

    cell: MemoCell
    done: bool = False
    frame: Any = None


@dataclass(frozen=True, slots=True)
class NotifyCell:
    """Step: resume the frames that wait for a cell. Returns None."""

    cell: MemoCell


class MemoTable:
    """The memo cells of one run, by key."""

    def __init__(self) -> None:
        self._cells: OrderedDict[Hashable, MemoCell] = OrderedDict()

    def get(self, key: Hashable) -> MemoCell:
        """Return the cell of a key; a new one if there is none."""
        try:
            cell = self._cells.get(key)
        except TypeError:
            raise ConfigurationError(
                f"once() needs a hashable key, got {key!r}; for example a tuple of strings"
            ) from None
        if cell is None:
            cell = self._cells[key] = MemoCell()
            while len(self._cells) > MAX_KEPT:
                self._cells.popitem(last=False)
        else:
            self._cells.move_to_end(key)
        return cell


class LookUp:
    """
    Step: look for the reply to a call in the store, in one query with the calls that start at the same time.

    Returns how many calls in flight had ended when there was none. None if there may be one: look for it by itself.

    Args:
        key: The key of the reply.
    """

    __slots__ = ("key",)

    def __init__(self, key: bytes) -> None:
        self.key = key


class WaitForCallback:
    """
    Step: wait for a callback from outside the run. Returns the callback's argument.

    Args:
        subscribe: Called with the callback, which has to be called once, from any thread, with None or an exception.
        interruptible: Whether a stop of the run, or the item's deadline, ends the wait.

    Attributes:
        done: Whether the wait has ended.
        frame: The frame to resume.
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


class WaitForTurn(WaitForCallback):
    """Step: wait until a limiter would admit a call."""

    __slots__ = ()


class WaitForLine(WaitForCallback):
    """
    Step: wait for a line of a wave to be sent, or answered. Returns what the line is answered with.

    Args:
        subscribe: As for `WaitForCallback`, but the callback takes any answer.
        label: Task name of the request.
        interruptible: Whether a stop of the run, or the item's deadline, ends the wait.
    """

    __slots__ = ("label",)

    def __init__(
        self,
        subscribe: Callable[[Callable[[Any], object]], object],
        label: str,
        *,
        interruptible: bool = False,
    ) -> None:
        super().__init__(subscribe, interruptible=interruptible)
        self.label = label


@dataclass(frozen=True, slots=True)
class Backoff(Sleep):
    """Step: sleep before the next `attempt` of the call named `label`, without occupying a slot."""

    label: str
    attempt: int
