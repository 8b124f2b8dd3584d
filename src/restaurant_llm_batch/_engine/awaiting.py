"""Waiting for what is no call: something outside the run that calls back, or the time of the next try."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..steps import Pause


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
