"""The spans of the OpenTelemetry observer."""

from __future__ import annotations

from importlib.metadata import version
from time import monotonic_ns, time_ns
from typing import TypeAlias

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, StatusCode, TracerProvider

from .._llm_response import LLMResponse
from ..events import CallEnded, CallStarted, ItemEnded, ItemStarted, RetryScheduled, RunEnded, RunStarted
from ..models import ItemId
from ..outcomes import Failure, Stage
from ._open_calls import is_refused_input
from ._otel_metrics import (
    CACHED_TOKENS,
    ERROR_TYPE,
    FINISH_REASONS,
    INPUT_TOKENS,
    LOST,
    OUTPUT_TOKENS,
    RESPONSE_MODEL,
    SCOPE,
    base_labels,
    error_type,
    operation,
)

Attributes: TypeAlias = dict[str, str | bool | int | float | tuple[str, ...]]

_STAGES: tuple[Stage, ...] = ("search", "llm", "tokens")


class Spans:
    """What spans are made with; shared by all runs."""

    def __init__(
        self,
        provider: TracerProvider | None,
        model: str | None,
        service: str,
        trace_per_item: bool,
        item_ids: bool,
    ) -> None:
        self.tracer = trace.get_tracer(SCOPE, version("restaurant-llm-batch"), provider)
        self.trace_per_item = trace_per_item
        self.item_ids = item_ids
        self.labels = {stage: base_labels(stage, model, service) for stage in _STAGES}
        self.names = {stage: operation(stage) for stage in _STAGES}
        if model is not None:
            self.names["llm"] = f"{self.names['llm']} {model}"

    def begin(self, event: RunStarted) -> Trace | None:
        """Begin a run's span, and return what makes the others; None when nobody wants them."""
        offset = time_ns() - monotonic_ns()
        attributes: Attributes = {f"{SCOPE}.run": event.run}
        if event.total is not None:
            attributes[f"{SCOPE}.items.total"] = event.total
        start = _wall(event.time, offset)
        span = self.tracer.start_span(f"{SCOPE} run", attributes=attributes, start_time=start)
        sampled_by_item = self.trace_per_item and span.get_span_context().is_valid
        return Trace(self, span, offset) if span.is_recording() or sampled_by_item else None


class Trace:
    """Makes the spans of one run; those of items that are over are let go."""

    __slots__ = ("_context", "_items", "_links", "_offset", "_run", "_with")

    def __init__(self, spans: Spans, run: Span, offset: int) -> None:
        self._with = spans
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
        """Begin an item's span."""
        span = self._begin_item(event.item_id, event.time)
        if span.is_recording():
            self._items[event.item_id] = span, trace.set_span_in_context(span, self._context)

    def item_ended(self, event: ItemEnded) -> None:
        """End an item's span."""
        outcome = event.outcome
        if is_refused_input(event):
            span = self._begin_item(outcome.item_id, event.time)
        else:
            found = None if outcome.item_id is None else self._items.pop(outcome.item_id, None)
            if found is None:
                return
            span = found[0]
        if isinstance(outcome, Failure):
            span.set_attribute(ERROR_TYPE, error_type(outcome.error))
            span.set_attribute(f"{SCOPE}.failed_at", outcome.stage)
            span.set_attribute(f"{SCOPE}.attempts", outcome.attempts)
            span.set_status(StatusCode.ERROR)
        span.end(self._ns(event.time))

    def call_ended(self, event: CallEnded, waited: float) -> None:
        """Make the span of a call that came back."""
        item = self._items.get(event.item_id)
        if item is None:
            return
        attributes = self._call_attributes(event, waited)
        if event.reply is not None:
            _describe(event.reply, attributes)
        if event.error is not None:
            attributes[ERROR_TYPE] = error_type(event.error)
        self._make_call(event, item[1], attributes, event.time - event.seconds, event.time)

    def call_lost(self, call: CallStarted, at: float) -> None:
        """Make the span of a call whose answer nobody will hear."""
        item = self._items.get(call.item_id)
        if item is not None:
            attributes = self._call_attributes(call, call.queue_seconds)
            attributes[ERROR_TYPE] = LOST
            self._make_call(call, item[1], attributes, call.time, at)

    def retry_planned(self, event: RetryScheduled) -> None:
        """Note on an item's span that a call will be made again."""
        item = self._items.get(event.item_id)
        if item is None:
            return
        attributes: Attributes = {
            f"{SCOPE}.what": event.label,
            f"{SCOPE}.stage": event.stage,
            f"{SCOPE}.attempt": event.attempt,
            f"{SCOPE}.wait": event.wait,
            f"{SCOPE}.refused": event.rate_limited,
            ERROR_TYPE: error_type(event.error),
        }
        item[0].add_event(f"{SCOPE}.retry", attributes, self._ns(event.time))

    def run_ended(self, event: RunEnded) -> None:
        """End the run's span, and any that should be over by then."""
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
            # What comes after a colon may be the words of a service.
            run.set_attribute(f"{SCOPE}.stopped_because", stats.stopped_because.partition(":")[0])
            run.set_status(StatusCode.ERROR)
        run.end(end)

    def _begin_item(self, item_id: ItemId | None, at: float) -> Span:
        attributes = {}
        if item_id is not None and self._with.item_ids:
            attributes[f"{SCOPE}.item.id"] = str(item_id)
        return self._with.tracer.start_span(
            f"{SCOPE} item", self._context, attributes=attributes, links=self._links, start_time=self._ns(at)
        )

    def _call_attributes(self, event: CallStarted | CallEnded, waited: float) -> Attributes:
        return {
            **self._with.labels[event.stage],
            f"{SCOPE}.what": event.label,
            f"{SCOPE}.attempt": event.attempt,
            f"{SCOPE}.waited": waited,
        }

    def _make_call(
        self,
        event: CallStarted | CallEnded,
        context: Context,
        attributes: Attributes,
        began: float,
        ended: float,
    ) -> None:
        name = self._with.names[event.stage]
        start = self._ns(began)
        span = self._with.tracer.start_span(name, context, SpanKind.CLIENT, attributes, start_time=start)
        if ERROR_TYPE in attributes:
            span.set_status(StatusCode.ERROR)
        span.end(self._ns(ended))

    def _ns(self, at: float) -> int:
        return _wall(at, self._offset)


def _wall(at: float, offset: int) -> int:
    return int(at * 1e9) + offset


def _describe(reply: LLMResponse, attributes: Attributes) -> None:
    attributes[FINISH_REASONS] = (reply.finish_reason,)
    if reply.model:
        attributes[RESPONSE_MODEL] = reply.model
    if reply.prompt_tokens or reply.completion_tokens:  # 0 and 0 is how a service that does not count looks
        attributes[INPUT_TOKENS] = reply.prompt_tokens
        attributes[OUTPUT_TOKENS] = reply.completion_tokens
        attributes[CACHED_TOKENS] = reply.cached_tokens
