"""`Simulation`: how a simulated run went."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from ..events import Event
from ..outcomes import BatchReport
from .server import ServerUsage

T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Simulation(Generic[T_co]):
    """
    How a simulated run went.

    Attributes:
        seconds: Virtual seconds from its start to its last outcome.
        report: Its outcomes and statistics; the outcomes are empty if they were handed over.
        server: What the server saw, of all runs that were simulated together.
        events: Its events, whose times are in virtual seconds; empty if the outcomes were handed over.
    """

    seconds: float
    report: BatchReport[T_co]
    server: ServerUsage
    events: tuple[Event, ...] = ()

    def __str__(self) -> str:
        stats, server = self.report.stats, self.server
        calls = stats.calls.get("llm", 0)
        return (
            f"{duration(self.seconds)}: {stats.succeeded} succeeded, {stats.failed} failed; {calls:,} calls, "
            f"{server.refused:,} refused, at most {server.peak:,} at once, {server.busy_share:.0%} of the server in use"
        )

    def __repr__(self) -> str:
        return f"<Simulation {self}>"


def duration(seconds: float) -> str:
    """Return a duration in words: "0.85 s", "12 min 5 s", "3 h 20 min"."""
    if seconds < 100:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 100:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes + (rest >= 30), 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"
