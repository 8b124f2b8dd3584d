"""Telemetry over OTLP: the official exporter, real protobuf, a real socket."""

from __future__ import annotations

from collections import Counter

import pytest

from restaurant_llm_batch import BatchRunner, LLMRequest, RetryPolicy, Strategy, SummarizeAspects
from restaurant_llm_batch.errors import BackendError, TransientBackendError
from restaurant_llm_batch.integrations.opentelemetry import OpenTelemetryObserver
from restaurant_llm_batch.testing import FakeLLM, FakeSearch

pytest.importorskip("opentelemetry.exporter.otlp.proto.http")

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from tests.support.otlp import OTLPReceiver, Received

REVIEW = "사장님이 친절하고 국물이 진해요"
CLIENT, INTERNAL, ERROR = 3, 1, 2
"""Numbers of kinds and of a status in OTLP."""


def exported(items: int, *, refuse: int = 0, **arguments: object) -> Received:
    """Run items with a telemetry pipeline as an application has it, and return what arrived."""

    def down_once(request: LLMRequest, attempt: int) -> BackendError | None:
        first = request.inputs["restaurant_id"] == 1 and attempt == 1
        return TransientBackendError("down", status=503) if first else None

    with OTLPReceiver(refuse) as server:
        resource = Resource.create({"service.name": "night"})
        tracers = TracerProvider(resource=resource)
        tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{server.url}/v1/traces")))
        reader = PeriodicExportingMetricReader(OTLPMetricExporter(f"{server.url}/v1/metrics"))
        meters = MeterProvider([reader], resource=resource)
        observer = OpenTelemetryObserver(tracers, meters, model="asked", **arguments)  # type: ignore[arg-type]
        runner = BatchRunner(
            llm=FakeLLM(fault=down_once),
            search=FakeSearch({number: [REVIEW] for number in range(items)}),
            strategy=Strategy.stage(4),
            llm_retry=RetryPolicy(attempts=2, wait_initial=0.0),
            observers=[observer],
        )
        assert runner.run(SummarizeAspects(), range(items)).stats.succeeded == items
        tracers.shutdown()
        meters.shutdown()
        return server.received


def test_a_run_arrives_as_one_tree() -> None:
    received = exported(3)
    assert received.services == {"night"}
    by_id = {span.id: span for span in received.spans}
    (root,) = [span for span in received.spans if not span.parent]
    assert root.name == "restaurant_llm_batch run"
    assert {span.trace for span in received.spans} == {root.trace}
    for span in received.spans:
        if span is not root:
            parent = by_id[span.parent]
            assert parent.start - 1_000 <= span.start <= span.end <= parent.end + 1_000
    chats = received.named("chat asked")
    assert len(chats) == 3
    assert {by_id[chat.parent].name for chat in chats} == {"restaurant_llm_batch item"}
    attempts = received.named("restaurant_llm_batch attempt")
    (again,) = {attempt.parent for attempt in attempts}
    assert by_id[again].attributes["restaurant_llm_batch.attempt"] == 2
    assert [attempt.status for attempt in sorted(attempts, key=lambda one: one.start)] == [ERROR, 0]
    assert {chat.kind for chat in chats} == {CLIENT}
    assert chats[0].attributes["gen_ai.response.finish_reasons"] == ["stop"]
    assert received.metrics.keys() >= {
        "gen_ai.client.inference.duration",
        "gen_ai.client.operation.duration",
        "restaurant_llm_batch.items",
    }


@pytest.mark.slow
def test_the_latest_conventions_arrive_under_their_schema() -> None:
    received = exported(2, conventions="v0.1")
    assert {span.schema_url for span in received.spans} == {"https://opentelemetry.io/schemas/gen-ai/0.1.0"}
    names = Counter(span.name for span in received.spans)
    assert names["invoke_workflow SummarizeAspects"] == 2
    assert {span.kind for span in received.named("retrieval")} == {INTERNAL}
    assert "gen_ai.client.token.usage" not in received.metrics
    ((labels, point),) = received.metrics["gen_ai.client.inference.usage.input_tokens"]
    assert labels["gen_ai.token.modality"] == "text"
    assert point.as_int > 0


@pytest.mark.slow
def test_a_thousand_items_arrive_whole_through_a_receiver_that_is_busy_first() -> None:
    received = exported(1000, refuse=1)
    names = Counter(span.name for span in received.spans)
    assert names["restaurant_llm_batch item"] == names["chat asked"] == 1000
    assert not any(REVIEW in str(span.attributes) for span in received.spans)
