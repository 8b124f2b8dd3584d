"""
What observers cost: CPU microseconds per call, with its share of an item's events.

    python benchmarks/observers.py [--items 2000] [--rounds 5]

Events are made beforehand and shown to each observer in turn; an item has four model calls. The numbers of
OpenTelemetry need opentelemetry-sdk, and are nearly all the SDK's own.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import NoOpTracerProvider

from restaurant_llm_batch._llm_response import LLMResponse
from restaurant_llm_batch.events import (
    CallEnded,
    CallStarted,
    Event,
    ItemEnded,
    ItemStarted,
    RunEnded,
    RunStarted,
)
from restaurant_llm_batch.integrations.metrics import RunMetrics
from restaurant_llm_batch.integrations.opentelemetry import OpenTelemetryObserver
from restaurant_llm_batch.outcomes import RunStats, Success
from restaurant_llm_batch.protocols import Observer

CALLS = 4
REPLY = LLMResponse("text", prompt_tokens=900, completion_tokens=120, model="m")


class Nowhere(SpanExporter):
    """Takes spans and forgets them."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Forget spans."""
        return SpanExportResult.SUCCESS


def events(items: int) -> list[Event]:
    """Return the events of a run."""
    made: list[Event] = [RunStarted(1, time.monotonic(), items)]
    for item in range(items):
        at = time.monotonic()
        made.append(ItemStarted(1, at, item))
        made += [CallStarted(1, at, item, "llm", f"task {n}", 1, 0.0, 1) for n in range(CALLS)]
        made += [
            CallEnded(1, at + 0.1, item, "llm", f"task {n}", 1, 0.1, 1, REPLY, None) for n in range(CALLS)
        ]
        made.append(ItemEnded(1, at + 0.1, Success(item, None)))
    return [*made, RunEnded(1, time.monotonic(), RunStats())]


def cost(make: Callable[[], Observer], shown: Sequence[Event], rounds: int) -> float:
    """Return the median microseconds per call."""
    calls = sum(isinstance(event, CallEnded) for event in shown)
    seconds = []
    for _ in range(rounds):
        observer, began = make(), time.process_time()
        for event in shown:
            observer(event)
        seconds.append(time.process_time() - began)
    return statistics.median(seconds) / calls * 1e6


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--items", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    tracers, unsampled = TracerProvider(), TracerProvider(sampler=ALWAYS_OFF)
    tracers.add_span_processor(BatchSpanProcessor(Nowhere()))
    meters = MeterProvider([InMemoryMetricReader()])
    no_tracers, no_meters = NoOpTracerProvider(), NoOpMeterProvider()
    observers: dict[str, Callable[[], Observer]] = {
        "one that does nothing": lambda: lambda event: None,
        "Counters": RunMetrics,
        "OpenTelemetry, no SDK": OpenTelemetryObserver,
        "OpenTelemetry, spans not sampled": lambda: OpenTelemetryObserver(unsampled, no_meters),
        "OpenTelemetry, spans": lambda: OpenTelemetryObserver(tracers, no_meters),
        "OpenTelemetry, metrics": lambda: OpenTelemetryObserver(no_tracers, meters),
        "OpenTelemetry, both": lambda: OpenTelemetryObserver(tracers, meters),
    }
    shown = events(chosen.items)
    for name, make in observers.items():
        print(f"{name:36} {cost(make, shown, chosen.rounds):8.2f} us per call")
    tracers.shutdown()


if __name__ == "__main__":
    main()
