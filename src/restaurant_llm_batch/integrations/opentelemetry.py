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
    RetryScheduled,
    RunEnded,
    RunStarted,
)
from ._open_calls import OpenCalls

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from ._otel_metrics import RunInstruments
    from ._otel_spans import Trace

__all__ = ["OpenTelemetryObserver"]


class OpenTelemetryObserver:
    """
    Exports runs to OpenTelemetry: a span for each run, item and call, and the metrics of GenAI clients.

        runner = BatchRunner(llm=..., search=..., observers=[OpenTelemetryObserver(model="gpt-5-mini")])

    Names follow the OpenTelemetry semantic conventions for generative AI. The span of a run is a child of the span that
    is current when the run starts. Each attempt of a call is a span; a scheduled retry is an event on the item's span.
    No prompt, reply, review, error message or key becomes an attribute.

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

        Raises:
            ConfigurationError: The package opentelemetry-api is not installed.
        """
        try:
            from ._otel_metrics import Instruments, no_op_check
            from ._otel_spans import Spans
        except ImportError as error:
            if (error.name or "").partition(".")[0] != "opentelemetry":
                raise
            raise ConfigurationError(
                "OpenTelemetryObserver needs opentelemetry-api: "
                "pip install 'restaurant-llm-batch[opentelemetry]'"
            ) from error
        self._instruments = Instruments(meter_provider, model, provider)
        self._spans = Spans(tracer_provider, model, provider, trace_per_item, item_ids)
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
        metrics = None if self._metrics_are_dropped() else self._instruments.begin()
        if trace is not None or metrics is not None:
            self._runs[event.run] = _RunObserver(trace, metrics)


@dataclass(slots=True)
class _RunObserver:
    """State of one run. Events of a run arrive one at a time, so no lock is needed."""

    trace: Trace | None
    metrics: RunInstruments | None
    calls: OpenCalls = field(default_factory=OpenCalls)

    def handle(self, event: Event) -> None:
        trace, metrics = self.trace, self.metrics
        if isinstance(event, CallStarted):
            self.calls.call_started(event)
        elif isinstance(event, CallEnded):
            self._call_ended(event)
        elif isinstance(event, ItemStarted):
            if trace is not None:
                trace.item_started(event)
        elif isinstance(event, RetryScheduled):
            if trace is not None:
                trace.retry_scheduled(event)
            if metrics is not None:
                metrics.retry_scheduled(event)
        elif isinstance(event, ItemEnded):
            # The calls first: their spans need the span of the item as parent.
            self._end_cancelled(self.calls.cancelled_with(event), event.time)
            if trace is not None:
                trace.item_ended(event)
            if metrics is not None:
                metrics.item_ended(event)
        elif isinstance(event, RunEnded):
            self._end_cancelled(self.calls.cancelled(), event.time)
            if trace is not None:
                trace.run_ended(event)

    def _call_ended(self, event: CallEnded) -> None:
        call = self.calls.call_finished(event)
        if call is None:
            return  # its item ended first, and the call was exported as cancelled then
        if self.trace is not None:
            self.trace.call_ended(event, call.queue_seconds)
        if self.metrics is not None:
            self.metrics.call_ended(event)

    def _end_cancelled(self, calls: list[CallStarted], time: float) -> None:
        for call in calls:
            if self.trace is not None:
                self.trace.call_cancelled(call, time)
            if self.metrics is not None:
                self.metrics.call_cancelled(call, time)
