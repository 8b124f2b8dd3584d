"""Spans and metrics for OpenTelemetry: ``pip install 'restaurant-llm-batch[opentelemetry]'``."""

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
    Tells OpenTelemetry what runs do: a span for each run, item and call, and the metrics of GenAI clients.

        runner = BatchRunner(llm=..., search=..., observers=[OpenTelemetryObserver(model="gpt-5-mini")])

    Names follow the semantic conventions for generative AI. A run's span is a child of the span that is current where
    the run begins. Each attempt at a call is a span of its own; that it will be made again is an event on the item's
    span. No prompt, answer, review, error message or key becomes an attribute.

    One observer may watch several runners and runs, in any threads and loops, at once. It keeps what is open only.
    A run that begins while nothing records (no SDK is set up, and no provider was given) costs next to nothing.
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
        Prepare to observe.

        Args:
            tracer_provider: Where spans go; OpenTelemetry's global one if not given.
            meter_provider: Where metrics go; likewise.
            model: The model that is asked, `gen_ai.request.model`; calls tell only the one that answered.
            provider: Who serves it, `gen_ai.provider.name`: a name from the conventions; "openai" for whatever speaks
                OpenAI's API.
            trace_per_item: Whether each item is a trace of its own, linked to its run's, instead of a part of it. A
                sampler then decides item by item, and no trace becomes too large to look at.
            item_ids: Whether spans tell the ids of items.

        Raises:
            ConfigurationError: When OpenTelemetry's API is not installed.
        """
        try:
            from ._otel_metrics import Instruments, does_nothing
            from ._otel_spans import Spans
        except ImportError as error:
            if (error.name or "").partition(".")[0] != "opentelemetry":
                raise
            raise ConfigurationError(
                "OpenTelemetryObserver needs opentelemetry-api; "
                "write pip install 'restaurant-llm-batch[opentelemetry]'"
            ) from error
        self._instruments = Instruments(meter_provider, model, provider)
        self._spans = Spans(tracer_provider, model, provider, trace_per_item, item_ids)
        self._meters_nothing = does_nothing(meter_provider)
        self._runs: dict[int, _RunObserver] = {}

    def __call__(self, event: Event, /) -> None:
        """Take note of an event."""
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
        metrics = None if self._meters_nothing() else self._instruments.begin()
        if trace is not None or metrics is not None:
            self._runs[event.run] = _RunObserver(trace, metrics)


@dataclass(slots=True)
class _RunObserver:
    """A run that is watched. Its events come one at a time, so nothing here needs a lock."""

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
                trace.retry_planned(event)
            if metrics is not None:
                metrics.retry_planned(event)
        elif isinstance(event, ItemEnded):
            self._lose(self.calls.cancelled_with(event), event.time)
            if trace is not None:
                trace.item_ended(event)
            if metrics is not None:
                metrics.item_ended(event)
        elif isinstance(event, RunEnded):
            self._lose(self.calls.cancelled(), event.time)
            if trace is not None:
                trace.run_ended(event)

    def _call_ended(self, event: CallEnded) -> None:
        call = self.calls.call_finished(event)
        if call is None:
            return  # its item is over, and it was booked as cancelled then
        if self.trace is not None:
            self.trace.call_ended(event, call.queue_seconds)
        if self.metrics is not None:
            self.metrics.call_ended(event)

    def _lose(self, calls: list[CallStarted], at: float) -> None:
        for call in calls:
            if self.trace is not None:
                self.trace.call_lost(call, at)
            if self.metrics is not None:
                self.metrics.call_lost(call, at)
