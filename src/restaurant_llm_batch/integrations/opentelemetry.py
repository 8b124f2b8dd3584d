"""OpenTelemetry spans and metrics (`OpenTelemetryObserver`); needs the extra ``opentelemetry``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..errors import ConfigurationError
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
from ._open_calls import OpenCalls, is_refused_input

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from ._otel_calls import LogicalCall, LogicalCalls
    from ._otel_conventions import Version
    from ._otel_metrics import RunInstruments
    from ._otel_spans import Trace

__all__ = ["OpenTelemetryObserver"]


class OpenTelemetryObserver:
    """
    Exports runs to OpenTelemetry: a span for each run, item and call, and the metrics of GenAI clients.

        runner = BatchRunner(llm=..., search=..., observers=[OpenTelemetryObserver(model="gpt-5-mini")])

    Names follow the OpenTelemetry semantic conventions for generative AI. The span of a run is a child of the span that
    is current when the run starts. A call is one span from its first attempt to its last; if it was made again, its
    attempts are spans below it, and each scheduled retry is an event on the item's span. No prompt, reply, review,
    error message or key becomes an attribute.

    One observer may be used for several runners and runs at once, in any threads and event loops. It keeps state of
    open items and calls only. A run that starts while nothing records (no SDK is set up, and no provider was passed)
    costs next to nothing.
    """

    def __init__(
        self,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        *,
        model: str | None = None,
        provider: str = "openai",
        trace_per_item: bool = False,
        item_ids: bool = True,
        conventions: Version | None = None,
        server: str | None = None,
    ) -> None:
        """
        Create the instruments.

        Args:
            tracer_provider: Receives the spans; None for OpenTelemetry's global provider.
            meter_provider: Receives the metrics; None for OpenTelemetry's global provider.
            model: Name of the requested model, for `gen_ai.request.model`; events only have the model that answered.
            provider: Name of the service, for `gen_ai.provider.name`, from the semantic conventions; "openai" for any
                OpenAI-compatible service.
            trace_per_item: Whether each item is a trace of its own, linked to the span of its run, instead of a part
                of the run's trace. Sampling then decides item by item, and no trace grows too large to display.
            item_ids: Whether to export item ids as span attributes.
            conventions: Version of the conventions: "v0.1", the first of their own; "v1.41", the last within the
                general ones, with a span for each attempt; or "both", with the metrics of both, and the spans of v0.1
                under the names and kinds that they had. None for "v0.1" if ``OTEL_SEMCONV_STABILITY_OPT_IN`` has
                ``gen_ai_latest_experimental`` in it, and otherwise for "both".
            server: URL of the service, for `server.address` and `server.port`.

        Raises:
            ConfigurationError: The package opentelemetry-api is not installed, or an argument is invalid.
        """
        try:
            from ._otel_calls import LogicalCalls
            from ._otel_conventions import conventions_of, server_labels
            from ._otel_metrics import Instruments, no_op_check
            from ._otel_spans import Spans
        except ImportError as error:
            if (error.name or "").partition(".")[0] != "opentelemetry":
                raise
            raise ConfigurationError(
                "OpenTelemetryObserver needs opentelemetry-api: "
                "pip install 'restaurant-llm-batch[opentelemetry]'"
            ) from error
        chosen, labels = conventions_of(conventions), server_labels(server)
        self.wants_requests: bool = chosen.has_calls  # for what is asked of the model, without the texts
        self._make_logical = LogicalCalls if chosen.has_calls else _none
        self._instruments = Instruments(meter_provider, chosen, model, provider, labels)
        self._spans = Spans(tracer_provider, chosen, model, provider, labels, trace_per_item, item_ids)
        self._metrics_are_dropped = no_op_check(meter_provider)
        self._runs: dict[int, _RunObserver] = {}

    def __call__(self, event: Event, /) -> None:
        """Export an event."""
        kind = type(event)
        if kind is RunStarted:
            self._run_started(event)  # type: ignore[arg-type]
            return
        run = self._runs.get(event.run)
        if run is None:
            return
        if kind is RunEnded:
            del self._runs[event.run]
        run.handle(event)

    def _run_started(self, event: RunStarted) -> None:
        trace = self._spans.begin(event)
        metrics = None if self._metrics_are_dropped() else self._instruments.begin(event)
        if trace is not None or metrics is not None:
            self._runs[event.run] = _RunObserver(trace, metrics, self._make_logical())


def _none() -> None:
    """Return None."""


@dataclass(slots=True)
class _RunObserver:
    """State of one run. Events of a run arrive one at a time, so no lock is needed."""

    trace: Trace | None
    metrics: RunInstruments | None
    logical: LogicalCalls | None
    calls: OpenCalls = field(default_factory=OpenCalls)

    def handle(self, event: Event) -> None:
        trace, metrics = self.trace, self.metrics
        if isinstance(event, CallStarted):
            self.calls.call_started(event)
            if self.logical is not None:
                self.logical.started(event)
        elif isinstance(event, CallEnded):
            self._attempt_ended(event)
        elif isinstance(event, ItemStarted):
            if trace is not None:
                trace.item_started(event)
            if metrics is not None:
                metrics.item_started(event)
        elif isinstance(event, RetryScheduled):
            self._retried(event)
        elif isinstance(event, ItemEnded):
            # The calls first: their spans need the span of the item as parent.
            self._end_cancelled(self.calls.cancelled_with(event), event.time)
            if self.logical is not None and not is_refused_input(event):
                self._end_calls(self.logical.over_with(event.outcome.item_id), event.time)
            if trace is not None:
                trace.item_ended(event)
            if metrics is not None:
                metrics.item_ended(event)
        elif isinstance(event, ServerRead):
            if metrics is not None:
                metrics.server_read(event)
        elif isinstance(event, LimitChanged):
            if metrics is not None:
                metrics.limit_changed(event)
        elif isinstance(event, RunEnded):
            self._end_cancelled(self.calls.cancelled(), event.time)
            if self.logical is not None:
                self._end_calls(self.logical.over(), event.time)
            if trace is not None:
                trace.run_ended(event)

    def _attempt_ended(self, event: CallEnded) -> None:
        attempt = self.calls.call_finished(event)
        if attempt is None:
            return  # its item ended first, and the call was exported as cancelled then
        if self.metrics is not None:
            self.metrics.attempt_ended(event)
        if self.logical is None:
            if self.trace is not None:
                self.trace.attempt_ended(event, attempt.queue_seconds)
            return
        call = self.logical.attempt_ended(attempt, event)
        if call.span is not None and self.trace is not None:
            self.trace.add_attempt(call, attempt, event, event.time)
        if event.error is None:
            if self.trace is not None:
                self.trace.call_ended(call, event.time, event)
            if self.metrics is not None:
                self.metrics.call_ended(call, event.time, event)

    def _retried(self, event: RetryScheduled) -> None:
        call = None if self.logical is None else self.logical.retried(event)
        if call is not None:
            failed, call.failed = call.failed, None
            if self.trace is not None and call.span is None:
                self.trace.call_retried(call)
                if failed is not None:
                    self.trace.add_attempt(call, *failed, failed[1].time)
        if self.trace is not None:
            self.trace.retry_scheduled(event)
        if self.metrics is not None:
            self.metrics.retry_scheduled(event)

    def _end_calls(self, calls: list[LogicalCall], time: float) -> None:
        """End calls whose item has ended: when their last attempt failed, or now if they were cut off."""
        for call in calls:
            event = None if call.failed is None else call.failed[1]
            ended_at = time if event is None else event.time
            if self.trace is not None:
                if call.attempt is not None:
                    self.trace.add_attempt(call, call.attempt, None, time)
                self.trace.call_ended(call, ended_at, event)
            if self.metrics is not None:
                self.metrics.call_ended(call, ended_at, event)

    def _end_cancelled(self, attempts: list[CallStarted], time: float) -> None:
        for attempt in attempts:
            if self.trace is not None and self.logical is None:
                self.trace.attempt_cancelled(attempt, time)
            if self.metrics is not None:
                self.metrics.attempt_cancelled(attempt, time)
