"""Counters of everything that runners do, for a service to export; they need no other package."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from math import isfinite
from threading import Lock
from typing import Literal, TypeAlias

from ..errors import ConfigurationError, RateLimited
from ..events import (
    CallEnded,
    CallStarted,
    Event,
    ItemEnded,
    ItemStarted,
    RetryScheduled,
    RunEnded,
    RunStarted,
)
from ..models import ItemId
from ..outcomes import Failure, Stage
from ._open_calls import OpenCalls, is_refused_input

__all__ = ["CallOutcome", "Histogram", "MetricsSnapshot", "RunMetrics"]

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0)


CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class RunMetrics:
    """
    Counts what runs do, all that it watches together, since it was made.

        counters = Counters()
        runner = BatchRunner(llm=..., search=..., observers=[counters])
        ...
        counters.snapshot().in_flight["llm"]
        counters.prometheus()

    It may watch several runners and runs, in any threads and loops, at once. What it keeps grows with the items that
    are open and the number of models, not with what is done. Each process counts for itself.
    """

    content_type = CONTENT_TYPE
    """The media type of what `prometheus` returns."""

    def __init__(self, *, buckets: Iterable[float] = SECONDS) -> None:
        """
        Begin to count.

        Args:
            buckets: Upper bounds of the buckets of both histograms, in seconds, ascending; 15 bounds from 5 ms to
                160 s if not given.

        Raises:
            ConfigurationError: When the bounds do not ascend, or there are none.
        """
        self._bounds = tuple(float(bound) for bound in buckets)
        ascending = all(low < high for low, high in pairwise(self._bounds))
        if not self._bounds or not ascending or not all(map(isfinite, self._bounds)):
            raise ConfigurationError(
                f"buckets must be ascending numbers of seconds, got {self._bounds!r}; write buckets=(0.1, 1, 10)"
            )
        self._lock = Lock()
        self._runs: dict[int, _RunState] = {}
        self._runs_started = self._runs_ended = self._open_items = self._succeeded = 0
        self._failed: Counter[Stage] = Counter()
        self._calls: Counter[tuple[Stage, CallOutcome]] = Counter()
        self._retries: Counter[Stage] = Counter()
        self._rate_limited: Counter[Stage] = Counter()
        self._tokens: dict[str, list[int]] = {}
        self._in_flight: Counter[Stage] = Counter()
        self._waiting: Counter[Stage] = Counter()
        self._latency: dict[Stage, HistogramBuilder] = {
            "search": HistogramBuilder(self._bounds),
            "llm": HistogramBuilder(self._bounds),
        }
        self._queue_seconds: dict[Stage, HistogramBuilder] = {
            "search": HistogramBuilder(self._bounds),
            "llm": HistogramBuilder(self._bounds),
        }

    def __call__(self, event: Event, /) -> None:
        """Count an event."""
        with self._lock:
            if type(event) is RunStarted:
                self._runs_started += 1
                self._runs[event.run] = _RunState()
                return
            run = self._runs.get(event.run)
            if run is None:
                return  # it was going on already when it came to be watched
            if type(event) is CallStarted:
                self._call_started(event, run)
            elif type(event) is CallEnded:
                self._call_ended(event, run)
            elif type(event) is RetryScheduled:
                self._retry_scheduled(event, run)
            elif type(event) is ItemStarted:
                run.open_items += 1
                self._open_items += 1
            elif type(event) is ItemEnded:
                self._item_ended(event, run)
            elif type(event) is RunEnded:
                self._run_ended(event, run)

    def snapshot(self) -> MetricsSnapshot:
        """Return the counts of this moment; they do not change any more."""
        with self._lock:
            tokens = self._tokens
            return MetricsSnapshot(
                runs_started=self._runs_started,
                runs_ended=self._runs_ended,
                open_items=self._open_items,
                succeeded=self._succeeded,
                failed=dict(self._failed),
                calls=dict(self._calls),
                retries=dict(self._retries),
                rate_limited=dict(self._rate_limited),
                prompt_tokens={model: of[0] for model, of in tokens.items()},
                completion_tokens={model: of[1] for model, of in tokens.items()},
                cached_tokens={model: of[2] for model, of in tokens.items()},
                in_flight={stage: self._in_flight[stage] for stage in self._latency},
                waiting={stage: self._waiting[stage] for stage in self._latency},
                latency={stage: times.frozen() for stage, times in self._latency.items()},
                queue_seconds={stage: times.frozen() for stage, times in self._queue_seconds.items()},
            )

    def prometheus(self) -> str:
        """Return the counts of this moment in Prometheus's text format; answer with `content_type`."""
        return render(self.snapshot())

    def _call_started(self, event: CallStarted, run: _RunState) -> None:
        stage = event.stage
        run.calls.call_started(event)
        self._in_flight[stage] += event.weight
        self._times(self._queue_seconds, stage).add(event.queue_seconds)
        if run.planned and run.take_planned(event):
            self._waiting[stage] -= 1

    def _call_ended(self, event: CallEnded, run: _RunState) -> None:
        stage, reply, error = event.stage, event.reply, event.error
        refused = isinstance(error, RateLimited)
        if refused:
            self._rate_limited[stage] += 1
        if reply is not None:
            tokens = self._tokens.setdefault(reply.model, [0, 0, 0])
            tokens[0] += reply.prompt_tokens
            tokens[1] += reply.completion_tokens
            tokens[2] += reply.cached_tokens
        if run.calls.call_finished(event) is None:
            return
        self._in_flight[stage] -= event.weight
        self._times(self._latency, stage).add(event.seconds)
        outcome: CallOutcome = "answered" if error is None else "rate_limited" if refused else "failed"
        self._calls[stage, outcome] += event.weight

    def _retry_scheduled(self, event: RetryScheduled, run: _RunState) -> None:
        self._retries[event.stage] += 1
        self._waiting[event.stage] += 1
        run.planned.setdefault(event.item_id, Counter())[event.stage, event.label, event.attempt + 1] += 1

    def _item_ended(self, event: ItemEnded, run: _RunState) -> None:
        outcome = event.outcome
        if isinstance(outcome, Failure):
            self._failed[outcome.stage] += 1
        else:
            self._succeeded += 1
        if is_refused_input(event):
            return
        run.open_items -= 1
        self._open_items -= 1
        self._lose(run.calls.cancelled_with(event))
        if outcome.item_id is not None and outcome.item_id in run.planned:
            self._forget(run.planned.pop(outcome.item_id))

    def _run_ended(self, event: RunEnded, run: _RunState) -> None:
        del self._runs[event.run]
        self._runs_ended += 1
        self._open_items -= run.open_items
        self._lose(run.calls.cancelled())
        for planned in run.planned.values():
            self._forget(planned)

    def _lose(self, calls: list[CallStarted]) -> None:
        for call in calls:
            self._in_flight[call.stage] -= call.weight
            self._calls[call.stage, "cancelled"] += call.weight

    def _forget(self, planned: Planned) -> None:
        for (stage, _, _), number in planned.items():
            self._waiting[stage] -= number

    def _times(self, where: dict[Stage, HistogramBuilder], stage: Stage) -> HistogramBuilder:
        times = where.get(stage)
        if times is None:
            times = where[stage] = HistogramBuilder(self._bounds)
        return times


Planned: TypeAlias = Counter[tuple[Stage, str, int]]
"""Calls to be made again, by stage, what is called, and the attempt that comes."""


@dataclass(slots=True)
class _RunState:
    open_items: int = 0
    calls: OpenCalls = field(default_factory=OpenCalls)
    planned: dict[ItemId, Planned] = field(default_factory=dict)

    def take_planned(self, event: CallStarted) -> bool:
        """Tell whether a call is one that was to be made again, and have it so no longer."""
        planned = self.planned.get(event.item_id)
        if planned is None:
            return False
        key = (event.stage, event.label, event.attempt)
        if key not in planned:
            # Several searches in one round trip are made again one by one.
            key = (event.stage, "search_many", 2)
        if key not in planned:
            return False
        planned[key] -= 1
        if not planned[key]:
            del planned[key]
        if not planned:
            del self.planned[event.item_id]
        return True


CallOutcome: TypeAlias = Literal["answered", "rate_limited", "failed", "cancelled"]
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
class MetricsSnapshot:
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
        rate_limited: Calls that the service refused, by stage.
        prompt_tokens: Tokens read, by the model that read them, as far as the service reports them.
        completion_tokens: Tokens written, likewise.
        cached_tokens: Those of `prompt_tokens` that came from the service's prompt cache.
        in_flight: Calls in flight now, by stage.
        waiting: Calls that will be made again and have not been yet, by stage.
        latency: How long calls took, by stage; one observation for a round trip.
        queue_seconds: How long calls waited for their slot, by stage.
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


class HistogramBuilder:
    """A histogram that grows."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds: tuple[float, ...] = bounds
        self.counts: list[int] = [0] * (len(bounds) + 1)
        self.sum: float = 0.0

    def add(self, seconds: float) -> None:
        """Take one in."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.sum += seconds

    def frozen(self) -> Histogram:
        """Return what it is now."""
        return Histogram(self.bounds, tuple(self.counts), self.sum)


_PREFIX = "restaurant_llm_batch_"
_FAILS_AT: tuple[Stage, ...] = ("input", "search", "tokens", "llm", "task", "run")
_OUTCOMES: tuple[CallOutcome, ...] = ("answered", "rate_limited", "failed", "cancelled")

Labels: TypeAlias = Mapping[str, str]


def render(counts: MetricsSnapshot) -> str:
    """Return a snapshot as text. Every label that is known beforehand is there from the start, with 0."""
    return "".join(f"{line}\n" for line in _lines(counts))


def _lines(counts: MetricsSnapshot) -> Iterator[str]:
    stages = tuple(counts.latency)
    yield from _plain("runs_started_total", "counter", "Runs that began.", [((), counts.runs_started)])
    yield from _plain("runs_ended_total", "counter", "Runs that are over.", [((), counts.runs_ended)])
    items = {("ok", ""): counts.succeeded}
    items |= {("failed", stage): counts.failed.get(stage, 0) for stage in _FAILS_AT}
    yield from _plain("items_total", "counter", "Items that are over.", items.items(), ("outcome", "stage"))
    yield from _plain("items_open", "gauge", "Items under way.", [((), counts.open_items)])
    calls = {(s, outcome): counts.calls.get((s, outcome), 0) for s in stages for outcome in _OUTCOMES}
    yield from _plain("calls_total", "counter", "Calls that are over.", calls.items(), ("stage", "outcome"))
    for name, kind, help_, of_stage in (
        ("retries_total", "counter", "Calls made again, or to be made again.", counts.retries),
        ("rate_limited_total", "counter", "Calls that the service refused.", counts.rate_limited),
        ("calls_in_flight", "gauge", "Calls in flight.", counts.in_flight),
        ("calls_waiting", "gauge", "Calls to be made again that have not been yet.", counts.waiting),
    ):
        yield from _plain(name, kind, help_, [((s,), of_stage.get(s, 0)) for s in stages], ("stage",))
    tokens = {(model, "prompt"): number for model, number in counts.prompt_tokens.items()}
    tokens |= {(model, "completion"): number for model, number in counts.completion_tokens.items()}
    yield from _plain(
        "tokens_total", "counter", "Tokens read and written.", tokens.items(), ("model", "kind")
    )
    cached = {(model,): number for model, number in counts.cached_tokens.items()}
    yield from _plain(
        "cached_tokens_total", "counter", "Prompt tokens from a cache.", cached.items(), ("model",)
    )
    yield from _histogram("call_seconds", "How long calls took.", counts.latency)
    yield from _histogram("slot_wait_seconds", "How long calls waited for a slot.", counts.queue_seconds)


def _plain(
    name: str,
    kind: str,
    help_: str,
    values: Iterable[tuple[tuple[str, ...], int]],
    labels: tuple[str, ...] = (),
) -> Iterator[str]:
    yield from _head(name, kind, help_)
    for which, value in values:
        yield f"{_PREFIX}{name}{_shown(dict(zip(labels, which, strict=True)))} {value}"


def _histogram(name: str, help_: str, of_stage: Mapping[Stage, Histogram]) -> Iterator[str]:
    yield from _head(name, "histogram", help_)
    for stage, times in of_stage.items():
        bounds = [*(f"{bound:g}" for bound in times.bounds), "+Inf"]
        for bound, number in zip(bounds, accumulate(times.counts), strict=True):
            yield f"{_PREFIX}{name}_bucket{_shown({'stage': stage, 'le': bound})} {number}"
        yield f"{_PREFIX}{name}_sum{_shown({'stage': stage})} {times.sum!r}"
        yield f"{_PREFIX}{name}_count{_shown({'stage': stage})} {times.count}"


def _head(name: str, kind: str, help_: str) -> Iterator[str]:
    yield f"# HELP {_PREFIX}{name} {help_}"
    yield f"# TYPE {_PREFIX}{name} {kind}"


def _shown(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
