"""Run metrics for Prometheus: `RunMetrics`, an observer that counts what runs do; it needs no other package."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from math import isfinite
from threading import Lock
from typing import TypeAlias

from ..errors import ConfigurationError, RateLimited
from ..events import (
    CallEnded,
    CallStarted,
    Event,
    ItemEnded,
    ItemStarted,
    LimitChanged,
    RetryScheduled,
    RunEnded,
    RunStarted,
    ServerRead,
)
from ..models import ItemId
from ..outcomes import Failure, Stage
from ._counts import CallOutcome, Histogram, HistogramBuilder, MetricsSnapshot
from ._open_calls import OpenCalls, is_refused_input
from ._prometheus import CONTENT_TYPE, render
from ._server_counts import ServerCounts

__all__ = ["CallOutcome", "Histogram", "MetricsSnapshot", "RunMetrics"]

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0)
"""Default bucket bounds of the histograms, in seconds."""


class RunMetrics:
    """
    Counts items, calls, retries and tokens of all runs that it observes, since its creation.

        metrics = RunMetrics()
        runner = BatchRunner(llm=..., search=..., observers=[metrics])
        ...
        metrics.snapshot().in_flight["llm"]
        metrics.prometheus()

    One instance may observe several runners and runs at once, in any threads and event loops. Its memory grows with the
    number of open items and of models, not with finished work. Each process counts by itself.
    """

    content_type = CONTENT_TYPE
    """Media type of the text that `prometheus` returns."""

    def __init__(self, *, buckets: Iterable[float] = SECONDS) -> None:
        """
        Start with all counters at zero.

        Args:
            buckets: Upper bounds of the buckets of both histograms, in seconds, ascending; by default 15 bounds from
                5 ms to 160 s.

        Raises:
            ConfigurationError: `buckets` is empty, or its numbers are not finite and ascending.
        """
        self._bounds = tuple(float(bound) for bound in buckets)
        ascending = all(low < high for low, high in pairwise(self._bounds))
        if not self._bounds or not ascending or not all(map(isfinite, self._bounds)):
            raise ConfigurationError(
                f"buckets must be ascending numbers of seconds, got {self._bounds!r}; "
                "for example buckets=(0.1, 1, 10)"
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
        self._endpoint_calls: Counter[tuple[str, CallOutcome]] = Counter()
        self._endpoint_in_flight: Counter[str] = Counter()
        self._servers = ServerCounts()
        self._latency: dict[Stage, HistogramBuilder] = {
            "search": HistogramBuilder(self._bounds),
            "llm": HistogramBuilder(self._bounds),
        }
        self._queue_seconds: dict[Stage, HistogramBuilder] = {
            "search": HistogramBuilder(self._bounds),
            "llm": HistogramBuilder(self._bounds),
        }

    def __call__(self, event: Event, /) -> None:
        """Update the counters with an event."""
        with self._lock:
            if type(event) is RunStarted:
                self._runs_started += 1
                self._runs[event.run] = _RunState()
                return
            run = self._runs.get(event.run)
            if run is None:
                return  # a run that started before it was observed: its counts would not add up
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
            elif type(event) is ServerRead:
                self._servers.read(event)
            elif type(event) is LimitChanged:
                self._servers.limit_changed(event)
            elif type(event) is RunEnded:
                self._run_ended(event, run)

    def snapshot(self) -> MetricsSnapshot:
        """Return a copy of the current counts."""
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
                prompt_tokens={model: counts[0] for model, counts in tokens.items()},
                completion_tokens={model: counts[1] for model, counts in tokens.items()},
                cached_tokens={model: counts[2] for model, counts in tokens.items()},
                in_flight={stage: self._in_flight[stage] for stage in self._latency},
                waiting={stage: self._waiting[stage] for stage in self._latency},
                latency={stage: builder.build() for stage, builder in self._latency.items()},
                queue_seconds={stage: builder.build() for stage, builder in self._queue_seconds.items()},
                endpoint_calls=dict(self._endpoint_calls),
                endpoint_in_flight=dict(self._endpoint_in_flight),
                **self._servers.snapshot(),
            )

    def prometheus(self) -> str:
        """Return the current counts in Prometheus's text format; serve it with the media type `content_type`."""
        return render(self.snapshot())

    def _call_started(self, event: CallStarted, run: _RunState) -> None:
        stage = event.stage
        run.calls.call_started(event)
        self._in_flight[stage] += event.weight
        if event.endpoint is not None:
            self._endpoint_in_flight[event.endpoint] += event.weight
        self._builder(self._queue_seconds, stage).add(event.queue_seconds)
        if run.scheduled_retries and run.pop_scheduled_retry(event):
            self._waiting[stage] -= 1

    def _call_ended(self, event: CallEnded, run: _RunState) -> None:
        stage, reply, error = event.stage, event.reply, event.error
        rate_limited = isinstance(error, RateLimited)
        if rate_limited:
            self._rate_limited[stage] += 1
        elif error is not None:
            self._servers.call_failed(error)
        if reply is not None:
            tokens = self._tokens.setdefault(reply.model, [0, 0, 0])
            tokens[0] += reply.prompt_tokens
            tokens[1] += reply.completion_tokens
            tokens[2] += reply.cached_tokens
        # Tokens are counted above in any case: a call that was counted as cancelled may still have been paid for.
        if run.calls.call_finished(event) is None:
            return
        self._in_flight[stage] -= event.weight
        self._builder(self._latency, stage).add(event.seconds)
        outcome: CallOutcome = "answered" if error is None else "rate_limited" if rate_limited else "failed"
        self._calls[stage, outcome] += event.weight
        if event.endpoint is not None:
            self._count_at_endpoint(event, outcome)

    def _count_at_endpoint(self, event: CallStarted | CallEnded, outcome: CallOutcome) -> None:
        if event.endpoint is not None:
            self._endpoint_in_flight[event.endpoint] -= event.weight
            self._endpoint_calls[event.endpoint, outcome] += event.weight

    def _retry_scheduled(self, event: RetryScheduled, run: _RunState) -> None:
        self._retries[event.stage] += 1
        self._waiting[event.stage] += 1
        retries = run.scheduled_retries.setdefault(event.item_id, Counter())
        retries[event.stage, event.label, event.attempt + 1] += 1

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
        self._count_cancelled(run.calls.cancelled_with(event))
        if outcome.item_id is not None and outcome.item_id in run.scheduled_retries:
            self._discard(run.scheduled_retries.pop(outcome.item_id))

    def _run_ended(self, event: RunEnded, run: _RunState) -> None:
        del self._runs[event.run]
        self._runs_ended += 1
        self._servers.run_ended(event.stats)
        self._open_items -= run.open_items
        self._count_cancelled(run.calls.cancelled())
        for retries in run.scheduled_retries.values():
            self._discard(retries)

    def _count_cancelled(self, calls: list[CallStarted]) -> None:
        for call in calls:
            self._in_flight[call.stage] -= call.weight
            self._calls[call.stage, "cancelled"] += call.weight
            self._count_at_endpoint(call, "cancelled")

    def _discard(self, retries: ScheduledRetries) -> None:
        for (stage, _, _), number in retries.items():
            self._waiting[stage] -= number

    def _builder(self, builders: dict[Stage, HistogramBuilder], stage: Stage) -> HistogramBuilder:
        builder = builders.get(stage)
        if builder is None:
            builder = builders[stage] = HistogramBuilder(self._bounds)
        return builder


ScheduledRetries: TypeAlias = Counter[tuple[Stage, str, int]]
"""Number of scheduled retries by stage, label, and number of the coming attempt."""


@dataclass(slots=True)
class _RunState:
    open_items: int = 0
    calls: OpenCalls = field(default_factory=OpenCalls)
    scheduled_retries: dict[ItemId, ScheduledRetries] = field(default_factory=dict)

    def pop_scheduled_retry(self, event: CallStarted) -> bool:
        """Remove the scheduled retry that a call carries out; return whether there is one."""
        retries = self.scheduled_retries.get(event.item_id)
        if retries is None:
            return False
        key = (event.stage, event.label, event.attempt)
        if key not in retries:
            # The queries of a failed round trip are retried one by one, under their own labels.
            key = (event.stage, "search_many", 2)
        if key not in retries:
            return False
        retries[key] -= 1
        if not retries[key]:
            del retries[key]
        if not retries:
            del self.scheduled_retries[event.item_id]
        return True
