"""What OpenTelemetry is told: whose child a span is, when it began and ended, and what it never says."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from threading import Thread
from typing import Any

import anyio
import pytest

from restaurant_llm_batch import BatchRunner, Failure, LLMRequest, LLMResponse, RetryPolicy, Strategy, Success
from restaurant_llm_batch.errors import (
    AuthenticationFailed,
    BackendError,
    ConfigurationError,
    ContentRefused,
    RateLimited,
    RunStopped,
    TransientBackendError,
)
from restaurant_llm_batch.events import (
    CallEnded,
    CallStarted,
    Event,
    ItemEnded,
    ItemStarted,
    RetryScheduled,
    RunEnded,
    RunStarted,
)
from restaurant_llm_batch.integrations.opentelemetry import OpenTelemetryObserver
from restaurant_llm_batch.outcomes import RunStats
from restaurant_llm_batch.steps import Flow, complete
from restaurant_llm_batch.tasks.summary import SummarizeAspects
from restaurant_llm_batch.testing import FakeLLM, FakeSearch

pytest.importorskip("opentelemetry.sdk")

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Decision, Sampler, SamplingResult
from opentelemetry.trace import SpanKind, StatusCode

EVERY_STAGE = [*(Strategy.stage(number) for number in (1, 2, 3, 4)), Strategy.threaded()]
ITEM, RUN = "restaurant_llm_batch item", "restaurant_llm_batch run"
ATTEMPT = "restaurant_llm_batch attempt"
REVIEW = "사장님이 친절하고 국물이 진해요"
KEY = "sk-abcdefghijklmnopqrstuvwxyz"


class Telemetry:
    """An SDK of one test's own, and what it was told."""

    def __init__(self, sampler: Sampler = ALWAYS_ON) -> None:
        self._spans = InMemorySpanExporter()
        self.tracers = TracerProvider(sampler=sampler)
        self.tracers.add_span_processor(SimpleSpanProcessor(self._spans))
        self._metrics = InMemoryMetricReader()
        self.meters = MeterProvider([self._metrics])

    def observer(self, **arguments: Any) -> OpenTelemetryObserver:
        return OpenTelemetryObserver(self.tracers, self.meters, **arguments)

    @property
    def spans(self) -> Sequence[ReadableSpan]:
        return self._spans.get_finished_spans()

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        (span,) = self.named(name)
        return span

    def points(self, name: str) -> list[Any]:
        data = self._metrics.get_metrics_data()
        if data is None:
            return []
        metrics = [m for of in data.resource_metrics for scope in of.scope_metrics for m in scope.metrics]
        return [point for metric in metrics if metric.name == name for point in metric.data.data_points]

    def everything(self) -> str:
        data = self._metrics.get_metrics_data()
        return "".join(span.to_json() for span in self.spans) + ("" if data is None else data.to_json())


class OnlyItems(Sampler):
    """Samples items that begin a trace, and what is below them."""

    def should_sample(self, parent_context: Any, trace_id: int, name: str, *args: Any, **kwargs: Any) -> Any:
        return SamplingResult(Decision.DROP if name == RUN else Decision.RECORD_AND_SAMPLE)

    def get_description(self) -> str:
        return "OnlyItems"


def told(span: ReadableSpan) -> Mapping[str, Any]:
    return span.attributes or {}


def span_id(span: ReadableSpan) -> int:
    assert span.context is not None
    return int(span.context.span_id)


def trace_id(span: ReadableSpan) -> int:
    assert span.context is not None
    return int(span.context.trace_id)


def seconds(span: ReadableSpan) -> float:
    assert span.start_time is not None
    assert span.end_time is not None
    return (span.end_time - span.start_time) / 1e9


def parent_of(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


def runner_for(telemetry: Telemetry, strategy: Strategy = Strategy(), **arguments: Any) -> BatchRunner:
    search = FakeSearch({number: [REVIEW] for number in range(6)})
    retry = RetryPolicy(attempts=2, wait_initial=0.0)
    arguments = {"llm": FakeLLM(), "observers": [telemetry.observer(model="asked")], **arguments}
    return BatchRunner(search=search, strategy=strategy, llm_retry=retry, **arguments)


def down_for_two(request: LLMRequest, attempt: int) -> BackendError | None:
    if request.inputs["restaurant_id"] == 2:
        return TransientBackendError(f"{REVIEW} is what {KEY} sent", status=503)
    return None


def see(observer: OpenTelemetryObserver, *events: Event) -> None:
    for event in events:
        observer(event)


def call(item: int, at: float = 10.0, attempt: int = 1, waited: float = 0.5) -> CallStarted:
    return CallStarted(1, at, item, "llm", "task", attempt, waited, 1)


def answer(
    item: int, at: float = 12.0, seconds: float = 2.0, attempt: int = 1, error: Exception | None = None
) -> CallEnded:
    reply = LLMResponse("yes", "stop", 100, 20, "answered-by", 60) if error is None else None
    return CallEnded(1, at, item, "llm", "task", attempt, seconds, 1, reply, error)


def done(item: int, at: float = 20.0) -> ItemEnded:
    return ItemEnded(1, at, Success(item, None))


@pytest.mark.parametrize("strategy", EVERY_STAGE, ids=str)
def test_calls_are_children_of_items_and_items_of_the_run(strategy: Strategy) -> None:
    telemetry = Telemetry()
    report = runner_for(telemetry, strategy).run(SummarizeAspects(), range(3))
    run, items = telemetry.one(RUN), telemetry.named(ITEM)
    assert [parent_of(item) for item in items] == [span_id(run)] * 3
    assert {told(item)["restaurant_llm_batch.item.id"] for item in items} == {"0", "1", "2"}
    below = Counter(parent_of(span) for span in telemetry.named("chat asked"))
    assert below == {span_id(item): 1 for item in items}
    searches = telemetry.named("retrieval")
    assert {parent_of(span) for span in searches} == {span_id(item) for item in items}
    assert told(run)["restaurant_llm_batch.items.succeeded"] == 3
    assert told(run)["restaurant_llm_batch.prompt_tokens"] == report.stats.prompt_tokens
    for span in telemetry.spans:
        assert span.status.status_code is StatusCode.UNSET
        assert span.kind is (SpanKind.INTERNAL if span.name in (RUN, ITEM) else SpanKind.CLIENT)


def test_spans_lie_within_each_other_and_within_the_time_of_the_run() -> None:
    telemetry = Telemetry()
    before = time.time_ns()
    runner_for(telemetry).run(SummarizeAspects(), range(3))
    after = time.time_ns()
    by_id = {span_id(span): span for span in telemetry.spans}
    for span in telemetry.spans:
        assert span.start_time is not None
        assert span.end_time is not None
        parent = by_id.get(parent_of(span) or 0)
        begin, end = (before, after) if parent is None else (parent.start_time, parent.end_time)
        assert begin is not None
        assert end is not None
        assert begin - 1_000 <= span.start_time <= span.end_time <= end + 1_000  # floats of seconds round


def test_an_answer_is_described_by_the_conventions_names() -> None:
    telemetry = Telemetry()
    events = (RunStarted(1, 9.0, 1), ItemStarted(1, 9.0, 7), call(7), answer(7), done(7))
    see(telemetry.observer(model="asked", provider="vllm"), *events)
    span = telemetry.one("chat asked")
    assert told(span) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "vllm",
        "gen_ai.request.model": "asked",
        "gen_ai.response.model": "answered-by",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 100,
        "gen_ai.usage.output_tokens": 20,
        "gen_ai.usage.cache_read.input_tokens": 60,
        "restaurant_llm_batch.label": "task",
        "restaurant_llm_batch.attempt": 1,
        "restaurant_llm_batch.queue_seconds": 0.5,
    }
    assert span.start_time is not None
    assert span.end_time is not None
    assert span.end_time - span.start_time == pytest.approx(2e9, abs=1_000)


def test_without_the_model_asked_a_call_is_named_by_its_operation_alone() -> None:
    telemetry = Telemetry()
    see(telemetry.observer(), RunStarted(1, 9.0, 1), ItemStarted(1, 9.0, 7), call(7), answer(7), done(7))
    assert "gen_ai.request.model" not in told(telemetry.one("chat"))


def test_tokens_of_a_service_that_does_not_count_are_left_out() -> None:
    telemetry = Telemetry()
    blank = answer(7)._replace(reply=LLMResponse("yes"))
    see(telemetry.observer(), RunStarted(1, 9.0, 1), ItemStarted(1, 9.0, 7), call(7), blank, done(7))
    assert not {name for name in told(telemetry.one("chat")) if "usage" in name or "response.model" in name}
    assert not telemetry.points("gen_ai.client.token.usage")


REFUSED = RateLimited("slow down")
BEGUN = (RunStarted(1, 9.0, 1, "Ask"), ItemStarted(1, 9.0, 7))
MADE_AGAIN = (
    *(*BEGUN, call(7), answer(7, error=REFUSED)),
    RetryScheduled(1, 12.0, 7, "llm", "task", 1, 3.5, True, REFUSED),
    *(call(7, 16.0, attempt=2), answer(7, 17.0, 1.0, attempt=2), done(7)),
)
"""A call that is refused, and answered 3.5 s later."""


def test_each_retry_is_an_event_of_the_item() -> None:
    telemetry = Telemetry()
    see(telemetry.observer(), *MADE_AGAIN)
    item = telemetry.one(ITEM)
    (event,) = item.events
    assert event.name == "restaurant_llm_batch.retry"
    assert event.attributes == {
        "restaurant_llm_batch.label": "task",
        "restaurant_llm_batch.stage": "llm",
        "restaurant_llm_batch.attempt": 1,
        "restaurant_llm_batch.wait": 3.5,
        "restaurant_llm_batch.rate_limited": True,
        "error.type": "429",
    }
    assert event.timestamp == telemetry.named(ATTEMPT)[0].end_time
    assert item.status.status_code is StatusCode.UNSET


def test_a_call_that_is_made_again_is_one_span_with_its_attempts_below_it() -> None:
    telemetry = Telemetry()
    see(telemetry.observer(), *MADE_AGAIN)
    span = telemetry.one("chat")
    assert parent_of(span) == span_id(telemetry.one(ITEM))
    assert seconds(span) == pytest.approx(7.0)
    assert span.status.status_code is StatusCode.UNSET
    assert told(span)["restaurant_llm_batch.attempt"] == 2
    assert told(span)["gen_ai.usage.input_tokens"] == 100
    first, second = telemetry.named(ATTEMPT)
    assert [parent_of(first), parent_of(second)] == [span_id(span)] * 2
    assert (told(first)["error.type"], first.status.status_code) == ("429", StatusCode.ERROR)
    assert "error.type" not in told(second)
    assert [seconds(first), seconds(second)] == [pytest.approx(2.0), pytest.approx(1.0)]
    assert not any(name.startswith("gen_ai") for name in (*told(first), *told(second)))


def test_in_the_conventions_of_before_each_attempt_is_a_span_of_its_own() -> None:
    telemetry = Telemetry()
    see(telemetry.observer(conventions="v1.41"), *MADE_AGAIN)
    first, second = telemetry.named("chat")
    assert (told(first)["error.type"], first.status.status_code) == ("429", StatusCode.ERROR)
    assert told(second)["restaurant_llm_batch.attempt"] == 2
    assert {parent_of(first), parent_of(second)} == {span_id(telemetry.one(ITEM))}
    assert not telemetry.named(ATTEMPT)
    assert not telemetry.points("gen_ai.client.inference.duration")


def test_a_call_that_fails_for_good_ends_with_its_last_attempt() -> None:
    telemetry = Telemetry()
    down = TransientBackendError("down", status=503)
    failed = ItemEnded(1, 30.0, Failure(7, down, "llm", 2))
    again = RetryScheduled(1, 12.0, 7, "llm", "task", 1, 3.5, False, down)
    last = (call(7, 16.0, attempt=2), answer(7, 17.0, 1.0, attempt=2, error=down))
    see(telemetry.observer(), *BEGUN, call(7), answer(7, error=down), again, *last, failed)
    span = telemetry.one("chat")
    assert told(span)["error.type"] == "503"
    assert seconds(span) == pytest.approx(7.0)
    assert len(telemetry.named(ATTEMPT)) == 2
    (point,) = telemetry.points("gen_ai.client.inference.duration")
    assert (point.sum, point.attributes["error.type"]) == (pytest.approx(7.0), "503")


def test_a_call_whose_item_ends_while_it_waits_to_be_made_again_ends_with_it() -> None:
    telemetry = Telemetry()
    stopped = ItemEnded(1, 14.0, Failure(7, RunStopped("stopped"), "run"))
    see(telemetry.observer(), *MADE_AGAIN[:5], stopped)
    span = telemetry.one("chat")
    assert told(span)["error.type"] == "429"
    assert seconds(span) == pytest.approx(4.0)
    assert span.status.status_code is StatusCode.ERROR


def test_a_retry_that_is_cancelled_is_an_attempt_below_its_call() -> None:
    telemetry = Telemetry()
    stopped = ItemEnded(1, 20.0, Failure(7, RunStopped("stopped"), "run"))
    see(telemetry.observer(), *MADE_AGAIN[:6], stopped)
    _, second = telemetry.named(ATTEMPT)
    span = telemetry.one("chat")
    assert told(second)["error.type"] == told(span)["error.type"] == "cancelled"
    assert span.end_time == second.end_time


def test_calls_of_one_item_side_by_side_do_not_mix() -> None:
    telemetry = Telemetry()
    one, other = (event._replace(call=number) for number, event in ((1, call(7)), (2, call(7, 11.0))))
    ends = [answer(7, 12.0, 2.0, error=REFUSED)._replace(call=1), answer(7, 13.0)._replace(call=2)]
    again = RetryScheduled(1, 12.0, 7, "llm", "task", 1, 3.5, True, REFUSED, 1)
    retried = call(7, 16.0, attempt=2)._replace(call=1), answer(7, 17.0, 1.0, attempt=2)._replace(call=1)
    see(telemetry.observer(), *BEGUN, one, other, ends[0], again, ends[1], *retried, done(7))
    assert sorted(seconds(span) for span in telemetry.named("chat")) == [
        pytest.approx(2.0),
        pytest.approx(7.0),
    ]
    assert len(telemetry.named(ATTEMPT)) == 2


# Versions of the conventions


def metric_names(telemetry: Telemetry) -> set[str]:
    return {name for name in NAMES if telemetry.points(name)}


OLD = {"gen_ai.client.operation.duration", "gen_ai.client.token.usage"}
NEW = {
    "gen_ai.client.inference.duration",
    "gen_ai.retrieval.duration",
    "gen_ai.invoke_agent.duration",
    "gen_ai.client.inference.usage.input_tokens",
    "gen_ai.client.inference.usage.output_tokens",
    "gen_ai.client.inference.operation.input_tokens",
    "gen_ai.client.inference.operation.output_tokens",
}
NAMES = OLD | NEW


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("asked", "environment", "names"),
    [
        (None, "", NAMES),
        (None, "http, gen_ai_latest_experimental", NEW),
        (None, "database/dup,http", NAMES),
        ("v1.41", "gen_ai_latest_experimental", OLD),
        ("v0.1", "", NEW),
        ("both", "gen_ai_latest_experimental", NAMES),
    ],
)
def test_metrics_are_those_of_the_version_that_is_asked_for(
    asked: Any, environment: str, names: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", environment)
    telemetry = Telemetry()
    observer = telemetry.observer(conventions=asked)
    runner_for(telemetry, observers=[observer]).run(SummarizeAspects(), range(2))
    assert metric_names(telemetry) == names


def test_the_latest_conventions_name_everything_as_they_say() -> None:
    telemetry = Telemetry()
    observer = telemetry.observer(
        model="asked", conventions="v0.1", server="http://gpu.example:8000/v1", provider="vllm"
    )
    stats = runner_for(telemetry, observers=[observer]).run(SummarizeAspects(), [1]).stats
    item = telemetry.one("invoke_workflow SummarizeAspects")
    assert told(item)["gen_ai.operation.name"] == "invoke_workflow"
    assert told(item)["gen_ai.agent.name"] == "SummarizeAspects"
    chat = told(telemetry.one("chat asked"))
    assert {name: chat[name] for name in ("server.address", "server.port")} == {
        "server.address": "gpu.example",
        "server.port": 8000,
    }
    assert (chat["gen_ai.prompt.name"], chat["gen_ai.output.type"]) == ("aspect_summaries", "json")
    assert chat["gen_ai.request.max_tokens"] > 0
    assert "gen_ai.request.temperature" in chat
    for search in telemetry.named("retrieval"):
        assert search.kind is SpanKind.INTERNAL
        assert told(search)["gen_ai.retrieval.top_k"] == 10
        assert not {name for name in told(search) if name.startswith("server")}
    (scope,) = {span.instrumentation_scope for span in telemetry.spans}
    assert scope is not None
    assert scope.schema_url == "https://opentelemetry.io/schemas/gen-ai/0.1.0"
    (read,) = telemetry.points("gen_ai.client.inference.usage.input_tokens")
    assert (read.value, read.attributes["gen_ai.token.modality"]) == (stats.prompt_tokens, "text")
    (of_call,) = telemetry.points("gen_ai.client.inference.operation.input_tokens")
    assert (of_call.count, of_call.explicit_bounds[:4]) == (1, (1, 4, 16, 64))
    (of_item,) = telemetry.points("gen_ai.invoke_agent.duration")
    assert (of_item.count, of_item.explicit_bounds[-1]) == (1, 409.6)


def test_a_failed_call_counts_no_tokens_of_an_unknown_kind() -> None:
    telemetry = Telemetry()
    down = TransientBackendError("down", status=503)
    failed = ItemEnded(1, 30.0, Failure(7, down, "llm", 1))
    see(telemetry.observer(conventions="v0.1"), *BEGUN, call(7), answer(7, error=down), failed)
    for name in ("input_tokens", "output_tokens"):
        (point,) = telemetry.points(f"gen_ai.client.inference.usage.{name}")
        assert (point.value, point.attributes["gen_ai.token.modality"]) == (0, "unknown")
        assert not telemetry.points(f"gen_ai.client.inference.operation.{name}")


def test_tokens_of_an_attempt_that_failed_after_writing_are_counted() -> None:
    telemetry = Telemetry()
    cut = ContentRefused("cut off", reply=LLMResponse("half", "content_filter", 30, 5, "answered-by", 10))
    failed = ItemEnded(1, 30.0, Failure(7, cut, "llm", 1))
    see(telemetry.observer(conventions="v0.1"), *BEGUN, call(7), answer(7, error=cut), failed)
    used = {
        point.attributes["gen_ai.token.modality"]: point.value
        for point in telemetry.points("gen_ai.client.inference.usage.input_tokens")
    }
    assert used == {"text": 30, "unknown": 0}
    (cached,) = telemetry.points("gen_ai.client.inference.usage.cache_read.input_tokens")
    assert cached.value == 10


def test_a_token_count_is_measured_once_under_the_name_that_both_have() -> None:
    counted = (
        CallStarted(1, 10.0, 7, "tokens", "count", 1, 0.0, 1),
        CallEnded(1, 12.0, 7, "tokens", "count", 1, 2.0, 1, None, None),
    )
    for version in ("v1.41", "v0.1", "both"):
        telemetry = Telemetry()
        see(telemetry.observer(conventions=version), *BEGUN, *counted, done(7))
        (point,) = telemetry.points("gen_ai.client.operation.duration")
        assert (point.count, point.sum) == (1, 2.0)


@pytest.mark.parametrize("wrong", ["v1.36", "", 0.1, ["v0.1"]])
def test_a_version_that_there_is_not_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"conventions must be .v1\.41., .v0\.1., .both. or None"):
        OpenTelemetryObserver(conventions=wrong)


@pytest.mark.parametrize("wrong", ["gpu:8000", "localhost", "http://", 80, "http://host:x"])
def test_a_server_that_is_no_url_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="server must be the URL of the service"):
        OpenTelemetryObserver(server=wrong)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (TransientBackendError("no", status=503), "503"),
        (TransientBackendError("connection lost"), "TransientBackendError"),
        (RateLimited("later"), "429"),
        (KeyError("bug"), "KeyError"),
    ],
    ids=str,
)
def test_an_error_is_reported_by_its_status_or_its_class(error: Exception, kind: str) -> None:
    telemetry = Telemetry()
    failed = ItemEnded(1, 20.0, Failure(7, error, "llm", 3))
    begin = (RunStarted(1, 9.0, 1), ItemStarted(1, 9.0, 7), call(7), answer(7, error=error))
    see(telemetry.observer(), *begin, failed)
    item = telemetry.one(ITEM)
    assert told(telemetry.one("chat"))["error.type"] == told(item)["error.type"] == kind
    assert told(item)["restaurant_llm_batch.failed_at"] == "llm"
    assert told(item)["restaurant_llm_batch.attempts"] == 3
    assert item.status.status_code is StatusCode.ERROR
    (point,) = telemetry.points("gen_ai.client.operation.duration")
    assert point.attributes["error.type"] == kind


def test_no_text_and_no_key_is_recorded() -> None:
    telemetry = Telemetry()
    stop = AuthenticationFailed(f"{KEY} is not valid; {REVIEW}", status=401)

    def fault(request: LLMRequest, attempt: int) -> BackendError | None:
        return stop if request.inputs["restaurant_id"] == 3 else down_for_two(request, attempt)

    report = runner_for(telemetry, llm=FakeLLM(fault=fault)).run(SummarizeAspects(), range(6))
    run = telemetry.one(RUN)
    assert len(report.failures) > 1
    assert (told(run)["restaurant_llm_batch.stopped_because"], run.status.status_code) == (
        "AuthenticationFailed",
        StatusCode.ERROR,
    )
    assert run.status.description is None
    everything = telemetry.everything()
    assert "AuthenticationFailed" in everything
    for secret in (KEY, "친절", ascii(REVIEW)[1:13]):
        assert secret not in everything


@pytest.mark.sample(2)
@pytest.mark.parametrize("strategy", EVERY_STAGE, ids=str)
def test_metrics_agree_with_what_the_run_reports(strategy: Strategy) -> None:
    telemetry = Telemetry()
    llm = FakeLLM(fault=down_for_two)
    stats = runner_for(telemetry, strategy, llm=llm).run(SummarizeAspects(), range(5)).stats
    tokens = {p.attributes["gen_ai.token.type"]: p for p in telemetry.points("gen_ai.client.token.usage")}
    assert tokens["input"].sum == stats.prompt_tokens > 0
    assert tokens["output"].sum == stats.completion_tokens > 0
    assert tokens["input"].explicit_bounds[:4] == (1, 4, 16, 64)
    assert tokens["input"].attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "asked",
        "gen_ai.response.model": "fake",
        "gen_ai.token.type": "input",
    }
    durations = telemetry.points("gen_ai.client.operation.duration")
    chats = [point for point in durations if point.attributes["gen_ai.operation.name"] == "chat"]
    assert sum(point.count for point in chats) == stats.calls["llm"]
    assert {p.attributes.get("error.type"): p.count for p in chats} == {None: 4, "503": 2}
    assert durations[0].explicit_bounds[-1] == 81.92
    retries = telemetry.points("restaurant_llm_batch.retries")
    assert sum(point.value for point in retries) == stats.retries == 1
    items = {p.attributes["outcome"]: p.value for p in telemetry.points("restaurant_llm_batch.items")}
    assert items == {"ok": 4, "failed": 1}


def test_a_call_whose_run_was_cancelled_ends_with_its_item() -> None:
    telemetry = Telemetry()
    stopped = ItemEnded(1, 15.0, Failure(7, RunStopped("cancelled"), "run"))
    see(telemetry.observer(), RunStarted(1, 9.0, 1), ItemStarted(1, 9.0, 7), call(7), stopped)
    span, item = telemetry.one("chat"), telemetry.one(ITEM)
    assert (told(span)["error.type"], told(item)["error.type"]) == ("cancelled", "RunStopped")
    assert (parent_of(span), span.end_time) == (span_id(item), item.end_time)
    (point,) = telemetry.points("gen_ai.client.operation.duration")
    assert (point.sum, point.attributes["error.type"]) == (5.0, "cancelled")


@pytest.mark.anyio
async def test_cancelling_a_run_ends_all_its_spans() -> None:
    telemetry = Telemetry()

    class Endless:
        async def acomplete(self, request: LLMRequest) -> LLMResponse:
            await anyio.sleep_forever()
            raise AssertionError

    def ask(item: int) -> Flow[str]:
        return (yield from complete(LLMRequest("endless", ()))).text

    observer = telemetry.observer()
    begun = anyio.Event()
    seen: Counter[type] = Counter()

    def watch(event: Event) -> None:
        seen[type(event)] += 1
        if seen[CallStarted] == 3:
            begun.set()

    runner = BatchRunner(llm=Endless(), strategy=Strategy.stage(4), observers=[observer, watch])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(runner.arun, ask, range(3))
        await begun.wait()
        tasks.cancel_scope.cancel()
    assert Counter(span.name for span in telemetry.spans) == {RUN: 1, ITEM: 3, "chat": 3}
    assert not observer._runs


def test_the_run_is_a_child_of_the_span_that_is_current() -> None:
    telemetry = Telemetry()
    with telemetry.tracers.get_tracer("app").start_as_current_span("request") as request:
        runner_for(telemetry, Strategy.stage(4)).run(SummarizeAspects(), range(2))
    assert parent_of(telemetry.one(RUN)) == request.get_span_context().span_id
    assert {trace_id(span) for span in telemetry.spans} == {request.get_span_context().trace_id}


def test_items_may_be_traces_of_their_own_linked_to_the_run() -> None:
    telemetry = Telemetry()
    observer = telemetry.observer(trace_per_item=True)
    with telemetry.tracers.get_tracer("app").start_as_current_span("request"):
        runner_for(telemetry, observers=[observer]).run(SummarizeAspects(), range(3))
    run, items = telemetry.one(RUN), telemetry.named(ITEM)
    assert parent_of(run) == span_id(telemetry.one("request"))
    assert len({trace_id(span) for span in (run, *items)}) == 4
    for item in items:
        assert item.parent is None
        (link,) = item.links
        assert link.context == run.context
    (chat, *_) = telemetry.named("chat")
    assert parent_of(chat) in {span_id(item) for item in items}


def test_a_sampler_that_wants_no_run_may_still_want_its_items() -> None:
    telemetry = Telemetry(OnlyItems())
    observer = telemetry.observer(trace_per_item=True)
    runner_for(telemetry, observers=[observer]).run(SummarizeAspects(), range(3))
    assert (len(telemetry.named(RUN)), len(telemetry.named(ITEM)), len(telemetry.named("chat"))) == (0, 3, 3)


def test_a_trace_that_is_not_sampled_costs_no_spans_and_still_counts() -> None:
    telemetry = Telemetry(ALWAYS_OFF)
    runner_for(telemetry).run(SummarizeAspects(), range(3))
    assert not telemetry.spans
    assert sum(p.value for p in telemetry.points("restaurant_llm_batch.items")) == 3


def test_item_ids_may_be_kept_to_oneself() -> None:
    telemetry = Telemetry()
    runner_for(telemetry, observers=[telemetry.observer(item_ids=False)]).run(SummarizeAspects(), range(3))
    assert len(telemetry.named(ITEM)) == 3
    assert "item.id" not in telemetry.everything()


def test_a_refused_item_has_a_span_and_leaves_the_open_one_of_its_name_alone() -> None:
    telemetry = Telemetry()
    twice = ItemEnded(1, 11.0, Failure(7, ConfigurationError("twice"), "input"))
    see(telemetry.observer(), RunStarted(1, 9.0, None), ItemStarted(1, 9.0, 7), call(7), twice)
    assert told(telemetry.one(ITEM))["restaurant_llm_batch.failed_at"] == "input"
    see(observer := telemetry.observer(), RunStarted(1, 9.0, None), ItemStarted(1, 9.0, 7), twice)
    see(observer, call(7), answer(7), done(7))
    assert telemetry.named(ITEM)[-1].status.status_code is StatusCode.UNSET
    assert parent_of(telemetry.one("chat")) == span_id(telemetry.named(ITEM)[-1])


def test_runs_in_many_threads_do_not_mix() -> None:
    telemetry = Telemetry()
    observer = telemetry.observer()
    runners = [runner_for(telemetry, strategy, observers=[observer]) for strategy in EVERY_STAGE]

    def run(runner: BatchRunner) -> None:
        runner.run(SummarizeAspects(), range(6))

    threads = [Thread(target=run, args=(runner,)) for runner in runners]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for root in telemetry.named(RUN):
        names = Counter(span.name for span in telemetry.spans if trace_id(span) == trace_id(root))
        assert (names[ITEM], names["chat"]) == (6, 6)
    assert len(telemetry.named(RUN)) == len(EVERY_STAGE)
    assert not observer._runs


def test_what_is_over_is_let_go() -> None:
    observer = Telemetry().observer()
    see(observer, RunStarted(1, 9.0, None))
    watched = observer._runs[1]
    for item in range(100):
        see(observer, ItemStarted(1, 9.0, item), call(item), answer(item), done(item))
    assert watched.trace is not None
    assert not watched.trace._items
    assert not watched.calls.cancelled()
    see(observer, RunEnded(1, 30.0, RunStats()))
    assert not observer._runs


def test_without_an_sdk_a_run_is_not_watched() -> None:
    observer = OpenTelemetryObserver()
    see(observer, RunStarted(1, 9.0, 1))
    assert not observer._runs
    see(observer, ItemStarted(1, 9.0, 7), call(7), answer(7), done(7))
    assert not observer._runs  # nor does anything of it stay
    see(observer, RunEnded(1, 30.0, RunStats()))
    assert not observer._runs


@pytest.mark.slow
def test_an_sdk_that_is_set_up_later_is_found() -> None:
    code = """
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from restaurant_llm_batch.events import RunEnded, RunStarted
from restaurant_llm_batch.integrations.opentelemetry import OpenTelemetryObserver
from restaurant_llm_batch.outcomes import RunStats

observer = OpenTelemetryObserver()
observer(RunStarted(1, 0.0, 0))
assert not observer._runs
trace.set_tracer_provider(TracerProvider())
metrics.set_meter_provider(MeterProvider([InMemoryMetricReader()]))
observer(RunStarted(2, 0.0, 0))
assert observer._runs[2].trace and observer._runs[2].metrics
observer(RunEnded(2, 1.0, RunStats()))
"""
    ended = subprocess.run([sys.executable, "-W", "error", "-c", code], check=False, timeout=50)
    assert ended.returncode == 0


def test_without_opentelemetry_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    package = "restaurant_llm_batch.integrations"
    for name in ("_otel_metrics", "_otel_spans"):
        monkeypatch.delitem(sys.modules, f"{package}.{name}", raising=False)
        monkeypatch.delattr(sys.modules[package], name, raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'restaurant-llm-batch\[opentelemetry\]'"):
        OpenTelemetryObserver()
