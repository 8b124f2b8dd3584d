"""What counters have counted, frozen."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from ..outcomes import Stage

CallOutcome: TypeAlias = Literal["answered", "refused", "failed", "cancelled"]
"""What became of a call; "cancelled" is one whose run was given up before it came back."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """
    How long something took.

    Attributes:
        bounds: Upper bounds of the buckets, in seconds, ascending.
        counts: How many there were in each bucket; the last one is for those above every bound.
        sum: Seconds, all together.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum: float

    @property
    def count(self) -> int:
        """How many there were."""
        return sum(self.counts)


@dataclass(frozen=True, slots=True)
class CountersSnapshot:
    """
    What all runs together have done up to one moment.

    Stages are "search", "llm" and "tokens" for calls; items fail at any `Stage`.

    Attributes:
        runs_started: Runs that began.
        runs_ended: Runs that are over.
        open_items: Items under way now.
        succeeded: Items done.
        failed: Items not done, by the stage where they failed.
        calls: Calls that are over, by stage and outcome; a search for several queries in one round trip counts
            once for each query, as in `RunStats.calls`.
        retries: Calls that were made again, or will be, by stage.
        refusals: Calls that the service refused, by stage.
        prompt_tokens: Tokens read, by the model that read them, as far as the service reports them.
        completion_tokens: Tokens written, likewise.
        cached_tokens: Those of `prompt_tokens` that came from the service's prompt cache.
        in_flight: Calls in flight now, by stage.
        waiting: Calls that will be made again and have not been yet, by stage.
        latency: How long calls took, by stage; one observation for a round trip.
        slot_waits: How long calls waited for their slot, by stage.
    """

    runs_started: int
    runs_ended: int
    open_items: int
    succeeded: int
    failed: Mapping[Stage, int]
    calls: Mapping[tuple[Stage, CallOutcome], int]
    retries: Mapping[Stage, int]
    refusals: Mapping[Stage, int]
    prompt_tokens: Mapping[str, int]
    completion_tokens: Mapping[str, int]
    cached_tokens: Mapping[str, int]
    in_flight: Mapping[Stage, int]
    waiting: Mapping[Stage, int]
    latency: Mapping[Stage, Histogram]
    slot_waits: Mapping[Stage, Histogram]


class Times:
    """A histogram that grows."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, seconds: float) -> None:
        """Take one in."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.sum += seconds

    def frozen(self) -> Histogram:
        """Return what it is now."""
        return Histogram(self.bounds, tuple(self.counts), self.sum)
