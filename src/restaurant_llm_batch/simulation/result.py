"""`Simulation`: how a simulated run went."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from .._shown import pairs_table
from ..events import Event, RunStarted
from ..outcomes import BatchReport
from .simulated_server import ServerUsage

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
        servers: What the server of each endpoint of an `LLMPool` saw, by its name; empty without a pool.
    """

    seconds: float
    report: BatchReport[T_co]
    server: ServerUsage
    events: tuple[Event, ...] = ()
    servers: Mapping[str, ServerUsage] = field(default_factory=dict)

    def __str__(self) -> str:
        stats, server = self.report.stats, self.server
        calls = stats.calls.get("llm", 0)
        return (
            f"{duration(self.seconds)}: {stats.succeeded} succeeded, {stats.failed} failed; {calls:,} calls, "
            f"{server.refused:,} refused, at most {server.peak:,} at once, {server.busy_share:.0%} of the server in use"
        )

    def __repr__(self) -> str:
        return f"<Simulation {self}>"

    def timeline(self, title: str | None = None) -> str:
        """
        Return the timeline of the model's calls as SVG, which a browser and a notebook show.

        Each row is a slot of the model, each bar a call, with colours for answered, refused, failed and repeated calls;
        beneath it, how many calls waited. Of more than 2,000 calls, only the number in flight is drawn. The axis is in
        virtual seconds. Equal runs have equal timelines.

        Args:
            title: The title; None for the name of the task, and its time.

        Raises:
            ConfigurationError: The events were not kept, because the outcomes were handed over.
            ImportError: matplotlib is not installed: it comes with the extra ``plots``.
        """
        from ._drawing import draw

        return draw(self.events, f"{self._task}: {duration(self.seconds)}" if title is None else title)

    @property
    def _task(self) -> str:
        return next((event.task for event in self.events if isinstance(event, RunStarted)), "") or "run"

    def _repr_html_(self) -> str:
        """Return a table of what matters, and the timeline if matplotlib is installed."""
        stats, server = self.report.stats, self.server
        rows = {
            "time": duration(self.seconds),
            "items": f"{stats.succeeded:,} succeeded, {stats.failed:,} failed",
            "calls": f"{stats.calls.get('llm', 0):,}, of which {server.refused:,} refused",
            "at once": f"{server.peak:,} at most, {server.peak_queue:,} waiting at the server",
            "server in use": f"{server.busy_share:.0%}",
            "tokens": f"{server.prompt_tokens:,} read, {server.completion_tokens:,} written",
        }
        if stats.stopped_because is not None:
            rows["stopped"] = stats.stopped_because
        table = pairs_table(rows, self._task)
        if self.events:
            with suppress(ImportError):
                return table + self.timeline()
        return table


def duration(seconds: float) -> str:
    """Return a duration in words: "0.85 s", "12 min 5 s", "3 h 20 min"."""
    if seconds < 100:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 100:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes + (rest >= 30), 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"
