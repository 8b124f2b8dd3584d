"""OpenTelemetry spans of `OpenTelemetryObserver`: one per run, item and call, and those of attempts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from time import monotonic_ns, time_ns
from typing import TypeAlias

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, StatusCode, TracerProvider

from .._llm_response import LLMResponse
from ..events import CallEnded, CallStarted, ItemEnded, ItemStarted, RetryScheduled, RunEnded, RunStarted
from ..models import ItemId, LLMRequest, SearchQuery
from ..outcomes import Failure, Stage
from ._open_calls import is_refused_input
from ._otel_calls import LogicalCall
from ._otel_conventions import (
    AGENT,
    CACHED_TOKENS,
    CANCELLED,
    ENDPOINT,
    ERROR_TYPE,
    FINISH_REASONS,
    INPUT_TOKENS,
    INVOKE,
    MAX_TOKENS,
    OPERATION,
    OUTPUT_TOKENS,
    OUTPUT_TYPE,
    PROMPT_NAME,
    RESPONSE_MODEL,
    SCOPE,
    STAGES,
    TEMPERATURE,
    TOP_K,
    Conventions,
    base_labels,
    error_type,
    operation,
)

Attributes: TypeAlias = dict[str, str | bool | int | float | tuple[str, ...]]


class Spans:
    """The tracer and span names, shared by all runs."""

    def __init__(
        self,
        provider: TracerProvider | None,
        conventions: Conventions,
        model: str | None,
        service: str,
        server: Mapping[str, str | int],
        trace_per_item: bool,
        item_ids: bool,
    ) -> None:
        installed = version("restaurant-llm-batch")
        self.tracer = trace.get_tracer(SCOPE, installed, provider, conventions.schema_url)
        self.conventions = conventions
        self.trace_per_item = trace_per_item
        self.item_ids = item_ids
        self.labels = {stage: base_labels(stage, model, service) for stage in STAGES}
        self.labels["llm"] |= server
        self.names = {stage: operation(stage) for stage in STAGES}
        if model is not None:
            self.names["llm"] = f"{self.names['llm']} {model}"

    def begin(self, event: RunStarted) -> Trace | None:
        """Start the span of a run and return its `Trace`; None if no span of the run will be recorded."""
        # Events have monotonic times, spans have wall-clock times: one offset per run keeps durations exact.
        offset = time_ns() - monotonic_ns()
        attributes: Attributes = {f"{SCOPE}.run": event.run}
        if event.total is not None:
            attributes[f"{SCOPE}.items.total"] = event.total
        start = _wall_clock_ns(event.time, offset)
        span = self.tracer.start_span(f"{SCOPE} run", attributes=attributes, start_time=start)
        # With a trace per item, items are sampled one by one, even if the span of the run is not.
        sampled_by_item = self.trace_per_item and span.get_span_context().is_valid
        recorded = span.is_recording() or sampled_by_item
        return Trace(self, span, offset, event.task) if recorded else None


class Trace:
    """The spans of one run; holds those of open items only."""

    __slots__ = ("_context", "_items", "_links", "_offset", "_run", "_spans", "_task")

    def __init__(self, spans: Spans, run: Span, offset: int, task: str) -> None:
        self._spans = spans
        self._task = task
        self._run = run
        self._offset = offset
        self._items: dict[ItemId, tuple[Span, Context]] = {}
        if spans.trace_per_item:
            self._context = Context()
            self._links = [Link(run.get_span_context())]
        else:
            self._context = trace.set_span_in_context(run)
            self._links = []

    def item_started(self, event: ItemStarted) -> None:
        """Start the span of an item."""
        span = self._start_item(event.item_id, event.time)
        if span.is_recording():
            self._items[event.item_id] = span, trace.set_span_in_context(span, self._context)

    def item_ended(self, event: ItemEnded) -> None:
        """End the span of an item."""
        outcome = event.outcome
        if is_refused_input(event):
            # It never started, and an open item may have the same id: it gets a span of its own, of length 0.
            span = self._start_item(outcome.item_id, event.time)
        else:
            entry = None if outcome.item_id is None else self._items.pop(outcome.item_id, None)
            if entry is None:
                return
            span = entry[0]
        if isinstance(outcome, Failure):
            span.set_attribute(ERROR_TYPE, error_type(outcome.error))
            span.set_attribute(f"{SCOPE}.failed_at", outcome.stage)
            span.set_attribute(f"{SCOPE}.attempts", outcome.attempts)
            span.set_status(StatusCode.ERROR)
        span.end(self._ns(event.time))

    # Attempts that stand for their calls, as in v1.41

    def attempt_ended(self, event: CallEnded, queue_seconds: float) -> None:
        """Add the span of an attempt that ended."""
        item = self._items.get(event.item_id)
        if item is not None:
            attributes = self._attempt_attributes(event, queue_seconds)
            if event.reply is not None:
                _add_reply_attributes(event.reply, attributes)
            if event.error is not None:
                attributes[ERROR_TYPE] = error_type(event.error)
            span = self._start_call(event.stage, item[1], attributes, event.time - event.seconds)
            self._end(span, attributes, event.time)

    def attempt_cancelled(self, attempt: CallStarted, time: float) -> None:
        """Add the span of an attempt that was cancelled at `time`, in seconds on the run's clock."""
        item = self._items.get(attempt.item_id)
        if item is not None:
            attributes = self._attempt_attributes(attempt, attempt.queue_seconds)
            attributes[ERROR_TYPE] = CANCELLED
            self._end(self._start_call(attempt.stage, item[1], attributes, attempt.time), attributes, time)

    # Calls, with attempts below them

    def call_retried(self, call: LogicalCall) -> None:
        """Start the span of a call that will be made again, so that its attempts can be below it."""
        item = self._items.get(call.first.item_id)
        if item is not None:
            attributes = self._call_attributes(call.first)
            span = self._start_call(call.first.stage, item[1], attributes, call.first.time)
            call.span = span, trace.set_span_in_context(span, item[1])

    def add_attempt(
        self, call: LogicalCall, attempt: CallStarted, event: CallEnded | None, time: float
    ) -> None:
        """Add the span of an attempt of a call that was made again; `event` is its end, or None if it was cancelled."""
        if call.span is None:
            return
        attributes: Attributes = {
            f"{SCOPE}.attempt": attempt.attempt,
            f"{SCOPE}.queue_seconds": attempt.queue_seconds,
        }
        if attempt.endpoint is not None:
            attributes[ENDPOINT] = attempt.endpoint
        if event is None:
            attributes[ERROR_TYPE] = CANCELLED
        elif event.error is not None:
            attributes[ERROR_TYPE] = error_type(event.error)
        started_at = attempt.time if event is None else event.time - event.seconds
        kind = self._spans.conventions.kinds[attempt.stage]
        span = self._spans.tracer.start_span(
            f"{SCOPE} attempt", call.span[1], kind, attributes, start_time=self._ns(started_at)
        )
        self._end(span, attributes, time)

    def call_ended(self, call: LogicalCall, time: float, event: CallEnded | None) -> None:
        """End the span of a call; `event` is the end of its last attempt, or None if the call was cut off."""
        item = self._items.get(call.first.item_id)
        if item is None:
            return
        ended: Attributes = {f"{SCOPE}.attempt": call.attempts}
        if event is not None and event.endpoint is not None:
            ended[ENDPOINT] = event.endpoint
        if event is not None and event.reply is not None:
            _add_reply_attributes(event.reply, ended)
        if call.error_type is not None:
            ended[ERROR_TYPE] = call.error_type
        if call.span is None:
            attributes = self._call_attributes(call.first) | ended
            span = self._start_call(call.first.stage, item[1], attributes, call.first.time)
        else:
            span = call.span[0]
            span.set_attributes(ended)
        self._end(span, ended, time)

    def retry_scheduled(self, event: RetryScheduled) -> None:
        """Add an event to the span of an item: a call will be retried."""
        item = self._items.get(event.item_id)
        if item is None:
            return
        attributes: Attributes = {
            f"{SCOPE}.label": event.label,
            f"{SCOPE}.stage": event.stage,
            f"{SCOPE}.attempt": event.attempt,
            f"{SCOPE}.wait": event.wait,
            f"{SCOPE}.rate_limited": event.rate_limited,
            ERROR_TYPE: error_type(event.error),
        }
        item[0].add_event(f"{SCOPE}.retry", attributes, self._ns(event.time))

    def run_ended(self, event: RunEnded) -> None:
        """End the span of the run, and the spans of items that a cancelled run left open."""
        end = self._ns(event.time)
        for span, _ in self._items.values():
            span.end(end)
        self._items.clear()
        stats, run = event.stats, self._run
        run.set_attribute(f"{SCOPE}.items.succeeded", stats.succeeded)
        run.set_attribute(f"{SCOPE}.items.failed", stats.failed)
        run.set_attribute(f"{SCOPE}.retries", stats.retries)
        run.set_attribute(f"{SCOPE}.rate_limited", stats.rate_limited)
        run.set_attribute(f"{SCOPE}.prompt_tokens", stats.prompt_tokens)
        run.set_attribute(f"{SCOPE}.completion_tokens", stats.completion_tokens)
        if stats.cost is not None:
            run.set_attribute(f"{SCOPE}.cost", stats.cost)
        if stats.stopped_because is not None:
            # Text after a colon may come from a service: do not export it.
            run.set_attribute(f"{SCOPE}.stopped_because", stats.stopped_because.partition(":")[0])
            run.set_status(StatusCode.ERROR)
        run.end(end)

    def _start_item(self, item_id: ItemId | None, time: float) -> Span:
        spans = self._spans
        attributes: Attributes = {}
        if spans.conventions.has_calls:
            attributes |= {OPERATION: INVOKE, AGENT: self._task}
        if item_id is not None and spans.item_ids:
            attributes[f"{SCOPE}.item.id"] = str(item_id)
        own = spans.conventions.item
        name = f"{own} {self._task}".rstrip() if own else f"{SCOPE} item"
        start = self._ns(time)
        return spans.tracer.start_span(
            name, self._context, attributes=attributes, links=self._links, start_time=start
        )

    def _attempt_attributes(self, event: CallStarted | CallEnded, queue_seconds: float) -> Attributes:
        attributes: Attributes = {
            **self._spans.labels[event.stage],
            f"{SCOPE}.label": event.label,
            f"{SCOPE}.attempt": event.attempt,
            f"{SCOPE}.queue_seconds": queue_seconds,
        }
        if event.endpoint is not None:
            attributes[ENDPOINT] = event.endpoint
        return attributes

    def _call_attributes(self, first: CallStarted) -> Attributes:
        attributes: Attributes = {
            **self._spans.labels[first.stage],
            f"{SCOPE}.label": first.label,
            f"{SCOPE}.queue_seconds": first.queue_seconds,
        }
        _add_request_attributes(first.request, attributes)
        return attributes

    def _start_call(self, stage: Stage, context: Context, attributes: Attributes, started_at: float) -> Span:
        spans = self._spans
        start, kind = self._ns(started_at), spans.conventions.kinds[stage]
        return spans.tracer.start_span(spans.names[stage], context, kind, attributes, start_time=start)

    def _end(self, span: Span, attributes: Attributes, ended_at: float) -> None:
        if ERROR_TYPE in attributes:
            span.set_status(StatusCode.ERROR)
        span.end(self._ns(ended_at))

    def _ns(self, time: float) -> int:
        return _wall_clock_ns(time, self._offset)


def _wall_clock_ns(time: float, offset: int) -> int:
    """Convert seconds on the monotonic clock to nanoseconds since the epoch."""
    return int(time * 1e9) + offset


def _add_reply_attributes(reply: LLMResponse, attributes: Attributes) -> None:
    attributes[FINISH_REASONS] = (reply.finish_reason,)
    if reply.model:
        attributes[RESPONSE_MODEL] = reply.model
    if reply.prompt_tokens or reply.completion_tokens:  # both are 0 if the service does not report tokens
        attributes[INPUT_TOKENS] = reply.prompt_tokens
        attributes[OUTPUT_TOKENS] = reply.completion_tokens
        attributes[CACHED_TOKENS] = reply.cached_tokens


def _add_request_attributes(request: object, attributes: Attributes) -> None:
    """Add what was asked for; no text of it."""
    if isinstance(request, LLMRequest):
        attributes[PROMPT_NAME] = request.task
        attributes[OUTPUT_TYPE] = "text" if request.schema is None else "json"
        attributes[MAX_TOKENS] = request.max_tokens
        attributes[TEMPERATURE] = request.temperature
    elif isinstance(request, SearchQuery):
        attributes[TOP_K] = request.limit
    elif isinstance(request, Sequence) and request:  # several queries in one round trip
        attributes[TOP_K] = max(query.limit for query in request)
