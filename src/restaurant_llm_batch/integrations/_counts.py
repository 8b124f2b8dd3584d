"""Counts of runs at one moment: `MetricsSnapshot`, and its histograms."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from ..outcomes import Reason, Stage

CallOutcome: TypeAlias = Literal["answered", "rate_limited", "failed", "cancelled"]
"""Outcome of a call; "cancelled" if its run or item ended before the call did."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """
    Histogram of durations.

    Attributes:
        bounds: Upper bounds of the buckets, in seconds, ascending.
        counts: Number of observations in each bucket, not cumulative; one more than `bounds`, for those above the last.
        sum: Sum of all observations, in seconds.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum: float

    @property
    def count(self) -> int:
        """Number of observations."""
        return sum(self.counts)


@dataclass(frozen=True, slots=True)
class MetricsSnapshot:
    """
    Counts of all observed runs together at one moment.

    The stage of a call is "search", "llm" or "tokens"; an item may fail at any `Stage`.

    Attributes:
        runs_started: Number of runs started.
        runs_ended: Number of runs ended.
        open_items: Number of items in progress now.
        succeeded: Number of items that succeeded.
        failed: Number of items that failed, by stage.
        calls: Number of calls ended, by stage and outcome; a search for several queries in one round trip counts
            once for each query, as in `RunStats.calls`.
        retries: Number of retries made or scheduled, by stage.
        rate_limited: Number of calls that the service refused (HTTP 429), by stage.
        prompt_tokens: Tokens read by the model, by model name, as far as the service reports them.
        completion_tokens: Tokens written by the model, by model name, as far as the service reports them.
        cached_tokens: How many of `prompt_tokens` came from the service's prompt cache, by model name.
        in_flight: Number of calls in flight now, by stage.
        waiting: Number of scheduled retries not yet made, by stage.
        latency: Durations of calls, by stage; one observation per round trip.
        queue_seconds: Times that calls waited for their limits before they started, by stage.
        endpoint_calls: Number of calls ended, by endpoint of an `LLMPool` and outcome; empty without a pool.
        endpoint_in_flight: Number of calls in flight now, by endpoint; empty without a pool.
        server_running: Requests that the model's server works on, as it said when it was read last, by server: "llm",
            or "llm:" and the name of an endpoint. This and the next six are empty without `watch_server`.
        server_waiting: Requests that wait there.
        server_kv_usage: Share of its KV cache in use, 0 to 1.
        server_kv_tokens: Capacity of its KV cache in tokens.
        server_preemptions: How often it stopped a request to make room, since it was first read.
        server_rejections: Requests that it refused since then.
        server_readings: How often it was read, by server and outcome ("read" or "failed").
        out_of_memory: Number of calls that failed because the server had no memory left, by the memory that was full;
            see `RunStats.out_of_memory_by_kind`.
        limits: The adaptive and shared limits, and those that a user has set, as they were changed last, by name.
        limit_changes: How often they were changed, by name and reason; see `LimitChange`.
        peak_memory_mib: Peak memory of the process during the run that ended last, in MiB; None before.
    """

    runs_started: int
    runs_ended: int
    open_items: int
    succeeded: int
    failed: Mapping[Stage, int]
    calls: Mapping[tuple[Stage, CallOutcome], int]
    retries: Mapping[Stage, int]
    rate_limited: Mapping[Stage, int]
    prompt_tokens: Mapping[str, int]
    completion_tokens: Mapping[str, int]
    cached_tokens: Mapping[str, int]
    in_flight: Mapping[Stage, int]
    waiting: Mapping[Stage, int]
    latency: Mapping[Stage, Histogram]
    queue_seconds: Mapping[Stage, Histogram]
    endpoint_calls: Mapping[tuple[str, CallOutcome], int] = field(default_factory=dict)
    endpoint_in_flight: Mapping[str, int] = field(default_factory=dict)
    server_running: Mapping[str, int] = field(default_factory=dict)
    server_waiting: Mapping[str, int] = field(default_factory=dict)
    server_kv_usage: Mapping[str, float] = field(default_factory=dict)
    server_kv_tokens: Mapping[str, int] = field(default_factory=dict)
    server_preemptions: Mapping[str, int] = field(default_factory=dict)
    server_rejections: Mapping[str, int] = field(default_factory=dict)
    server_readings: Mapping[tuple[str, str], int] = field(default_factory=dict)
    out_of_memory: Mapping[str, int] = field(default_factory=dict)
    limits: Mapping[str, int] = field(default_factory=dict)
    limit_changes: Mapping[tuple[str, Reason], int] = field(default_factory=dict)
    peak_memory_mib: float | None = None


class HistogramBuilder:
    """Mutable histogram; `build` returns the immutable one."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds: tuple[float, ...] = bounds
        self.counts: list[int] = [0] * (len(bounds) + 1)
        self.sum: float = 0.0

    def add(self, seconds: float) -> None:
        """Add an observation."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.sum += seconds

    def build(self) -> Histogram:
        """Return a copy of the current state."""
        return Histogram(self.bounds, tuple(self.counts), self.sum)
