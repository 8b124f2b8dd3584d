"""`FaultServer` as OpenAI and as vLLM: the real backends see each fault as the error that it is."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import replace
from typing import Any, TypeAlias

import anyio
import httpx
import pytest
from tests.support.patience import wait_until

from restaurant_llm_batch import (
    AnalyzeSentiment,
    BatchRunner,
    Limits,
    LLMRequest,
    LLMResponse,
    RetryPolicy,
    Strategy,
)
from restaurant_llm_batch._llm_response import RateLimitInfo, RateLimitStatus
from restaurant_llm_batch.backends import OpenAILLM, VLLMServerLLM
from restaurant_llm_batch.backends.vllm.server import ServedModel
from restaurant_llm_batch.errors import (
    AuthenticationFailed,
    BackendError,
    ConfigurationError,
    ContentRefused,
    PermanentBackendError,
    PromptTooLong,
    QuotaExhausted,
    RateLimited,
    TransientBackendError,
)
from restaurant_llm_batch.testing import FakeSearch
from restaurant_llm_batch.testing.server import ChatRequest, FaultKind, Faults, FaultServer

Model: TypeAlias = Callable[..., Any]
CHAT = "/v1/chat/completions"
SCHEMA = {
    "type": "object",
    "properties": {"summary": {"type": "string"}},
    "required": ["summary"],
    "additionalProperties": False,
}
ERRORS: list[tuple[FaultKind, type[BackendError], int]] = [
    ("rate_limited", RateLimited, 429),
    ("unavailable", RateLimited, 503),
    ("insufficient_quota", QuotaExhausted, 429),
    ("unauthorized", AuthenticationFailed, 401),
    ("forbidden", PermanentBackendError, 403),
    ("bad_request", PermanentBackendError, 400),
    ("context_length_exceeded", PromptTooLong, 400),
    ("server_error", TransientBackendError, 500),
    ("bad_gateway", TransientBackendError, 502),
    ("not_json", TransientBackendError, 200),
    ("error_as_success", TransientBackendError, 200),
    ("disconnect", TransientBackendError, 0),
    ("reset", TransientBackendError, 0),
    ("slow_body", TransientBackendError, 0),
    ("no_response", TransientBackendError, 0),
]
REASONS: list[tuple[FaultKind, str]] = [
    ("truncated", "length"),
    ("refusal", "refusal"),
    ("malformed", "stop"),
    ("prose", "stop"),
    ("control_characters", "stop"),
    ("empty", "stop"),
]


def openai(server: FaultServer, **more: Any) -> OpenAILLM:
    return OpenAILLM("tiny", base_url=server.openai_url, api_key="key", **more)


def vllm(server: FaultServer, **more: Any) -> VLLMServerLLM:
    return VLLMServerLLM(server.url, "tiny", **more)


@pytest.fixture(params=[openai, vllm])
def model(request: pytest.FixtureRequest) -> Model:
    made: Model = request.param
    return made


def asking(question: object = "맛은?", **more: Any) -> LLMRequest:
    return LLMRequest("taste", ({"role": "user", "content": str(question)},), SCHEMA, **more)


def ask(llm: Any, *questions: object) -> list[LLMResponse | BackendError]:
    """Ask all at once, each in a thread of its own."""

    def one(question: object) -> LLMResponse | BackendError:
        try:
            reply: LLMResponse = llm.complete(asking(question))
        except BackendError as error:
            return error
        return reply

    try:
        with ThreadPoolExecutor(max(1, len(questions))) as pool:
            return list(pool.map(one, questions))
    finally:
        llm.close()


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer(seed=1) as server:
        yield server


@pytest.mark.parametrize(("kind", "error", "status"), ERRORS)
@pytest.mark.sample(3)
def test_every_fault_is_the_error_that_it_is(
    model: Model, kind: FaultKind, error: type[BackendError], status: int
) -> None:
    with FaultServer(Faults(probabilities={kind: 1.0}, slow_body_seconds=20.0)) as server:
        llm = model(server, timeout=0.3 if kind in ("slow_body", "no_response") else 30)
        failed, then = ask(llm, "맛은?") + ask(llm, "맛은?")
        if kind in ("slow_body", "no_response"):
            wait_until(lambda: server.counts.abandoned == 1)
        counts = server.counts

    assert type(failed) is error
    assert isinstance(then, LLMResponse)  # by default it is met once
    assert dict(counts.faults) == {kind: 1}
    assert dict(counts.statuses) == {(CHAT, status): 1, (CHAT, 200): 1} if status != 200 else {(CHAT, 200): 2}
    assert counts.answered == 1
    assert counts.in_flight == 0
    assert counts.completion_tokens == then.completion_tokens
    assert counts.refused == (kind in ("rate_limited", "unavailable"))


@pytest.mark.parametrize(("kind", "reason"), REASONS)
@pytest.mark.sample(6)
def test_a_bad_answer_is_an_answer_and_was_paid(model: Model, kind: FaultKind, reason: str) -> None:
    with FaultServer(Faults(probabilities={kind: 1.0})) as server:
        (reply,) = ask(model(server), "맛은?")
        counts = server.counts

    assert isinstance(reply, LLMResponse)
    assert reply.finish_reason == reason
    assert (counts.answered, counts.completion_tokens) == (1, reply.completion_tokens)
    assert counts.prompt_tokens == reply.prompt_tokens == 7
    assert dict(counts.faults) == {kind: 1}


def test_a_content_filter_refuses_and_was_paid(model: Model) -> None:
    with FaultServer(Faults(probabilities={"content_filter": 1.0})) as server:
        (error,) = ask(model(server), "맛은?")
        counts = server.counts

    assert isinstance(error, ContentRefused)
    assert error.reply is not None
    assert (counts.answered, counts.completion_tokens) == (1, error.reply.completion_tokens)


def test_reviews_that_are_left_out_are_asked_about_again() -> None:
    def plan(asked: ChatRequest) -> FaultKind | None:
        return "missing_ids" if len(asked.numbers) == 4 else None

    shop = {"restaurant_id": 1, "reviews": ["맛있어요", "별로예요", "그저 그래요", "최고"]}
    with FaultServer(Faults(plan=plan)) as server, closing(vllm(server)) as llm:
        runner = BatchRunner(llm=llm, search=FakeSearch({}), strategy=Strategy.stage(1))
        report = runner.run(AnalyzeSentiment(), [shop])
        counts = server.counts

    assert report.results[0].positive_count == 4
    assert dict(counts.faults) == {"missing_ids": 1}
    assert counts.answered == report.stats.calls["llm"] > 1


@asynccontextmanager
async def busy(llm: Any, server: FaultServer, calls: int) -> AsyncIterator[None]:
    """Keep so many calls in flight, which never end by themselves."""
    async with anyio.create_task_group() as group:
        for number in range(calls):
            group.start_soon(llm.acomplete, asking(f"busy {number}"))
        while server.counts.in_flight < calls:
            await anyio.sleep(0.002)
        yield
        group.cancel_scope.cancel()


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("faults", "error", "told"),
    [
        (Faults(limit=3, latency=30), RateLimited, None),
        (Faults(limit=3, latency=30, retry_after=0.25), RateLimited, 0.25),
        (Faults(limit=3, latency=30, retry_after="exact"), RateLimited, 30),
        (Faults(limit=3, latency=30, refusal=503), RateLimited, None),
    ],
)
@pytest.mark.sample(2)
async def test_what_is_above_the_limit_is_refused(
    model: Model, faults: Faults, error: type[TransientBackendError], told: float | None
) -> None:
    with FaultServer(faults) as server:
        llm = model(server)
        async with busy(llm, server, 3):
            with pytest.raises(error) as refused:
                await llm.acomplete(asking())
        await llm.aclose()
        counts = server.counts

    assert refused.type is error
    assert (refused.value.status, refused.value.retry_after) == (faults.refusal, told)
    assert (counts.refused, counts.asked(CHAT, faults.refusal), counts.peak) == (1, 1, 3)


@pytest.mark.anyio
async def test_the_limit_can_be_changed_while_calls_are_in_flight(server: FaultServer) -> None:
    server.faults = Faults(probabilities={"no_response": 1.0}, limit=2)
    llm = vllm(server)
    async with busy(llm, server, 2):
        server.faults = Faults(limit=3)
        assert (await llm.acomplete(asking())).text
        server.limit = 2
        with pytest.raises(RateLimited):
            await llm.acomplete(asking())
    await llm.aclose()

    assert server.limit == 2
    assert server.counts.peak == 3


def test_the_bucket_of_requests_lets_a_burst_in_and_then_its_rate(model: Model) -> None:
    with FaultServer(Faults(requests_per_second=5, burst=4, retry_after="exact")) as server:
        began = time.monotonic()
        answers = ask(model(server), *range(12))
        let_in = sum(isinstance(answer, LLMResponse) for answer in answers)
        allowed = 4 + 5 * (time.monotonic() - began)
        waits = [answer.retry_after for answer in answers if isinstance(answer, RateLimited)]
        time.sleep(0.2)
        (again,) = ask(model(server), "again")

    assert 4 <= let_in <= allowed
    assert len(waits) + let_in == 12
    assert all(wait is not None and 0 < wait <= 0.2 for wait in waits)
    assert isinstance(again, LLMResponse)


def test_the_bucket_of_tokens_charges_prompts_and_longest_answers() -> None:
    with FaultServer(Faults(tokens_per_minute=60, token_burst=2000)) as server:
        llm = openai(server)
        llm.complete(asking(max_tokens=1000))
        with pytest.raises(RateLimited):
            llm.complete(asking(max_tokens=1000))
        with pytest.raises(PromptTooLong, match="Request too large"):
            llm.complete(asking(max_tokens=2000))
        llm.close()


def test_rate_headers_are_those_of_openai(server: FaultServer) -> None:
    body = {"messages": [{"role": "user", "content": "맛은?"}], "max_tokens": 93}
    server.faults = Faults(requests_per_second=10, burst=5, tokens_per_minute=6000, token_burst=500)

    told = httpx.post(f"{server.url}{CHAT}", json=body).headers

    assert {name: value for name, value in told.items() if name.startswith("x-ratelimit")} == {
        "x-ratelimit-limit-requests": "600",
        "x-ratelimit-remaining-requests": "4",
        "x-ratelimit-reset-requests": "100ms",
        "x-ratelimit-limit-tokens": "6000",
        "x-ratelimit-remaining-tokens": "400",
        "x-ratelimit-reset-tokens": "1s",
    }


def test_the_backends_read_what_is_left_from_answers_and_refusals(model: Model, server: FaultServer) -> None:
    server.faults = Faults(requests_per_second=0.5, burst=2, tokens_per_minute=60_000)
    llm = model(server)
    first = llm.complete(asking(1, max_tokens=1000)).rate_limit
    llm.complete(asking(2, max_tokens=1000))
    with pytest.raises(RateLimited) as refused:
        llm.complete(asking(3))
    server.faults = replace(server.faults, rate_headers=False)
    with pytest.raises(RateLimited) as silent:
        llm.complete(asking(3))
    llm.close()

    assert first is not None
    assert first.requests == RateLimitStatus(30, 1, 2.0)
    assert first.tokens is not None
    assert (first.tokens.limit, first.tokens.remaining) == (60_000, 60_000 - 1000 - 5)
    assert first.tokens.reset == pytest.approx(1.005)
    assert refused.value.rate_limit is not None
    assert refused.value.rate_limit.requests is not None
    assert (refused.value.rate_limit.requests.limit, refused.value.rate_limit.requests.remaining) == (30, 0)
    assert silent.value.rate_limit is None


def test_a_planned_refusal_tells_what_is_left_too(model: Model) -> None:
    with FaultServer(Faults(probabilities={"rate_limited": 1.0}, requests_per_second=10, burst=5)) as server:
        (refused,) = ask(model(server), "맛은?")

    assert isinstance(refused, RateLimited)
    assert refused.rate_limit == RateLimitInfo(RateLimitStatus(600, 4, 0.1))


def test_without_buckets_nothing_is_said_of_what_is_left(model: Model, server: FaultServer) -> None:
    (reply,) = ask(model(server), "맛은?")

    assert isinstance(reply, LLMResponse)
    assert reply.rate_limit is None


def test_only_the_key_that_is_asked_for_is_good() -> None:
    with FaultServer(api_key="sesame") as server:
        (wrong,) = ask(openai(server), 1)
        (right,) = ask(vllm(server, api_key="sesame"), 1)
        assert httpx.get(f"{server.url}/metrics").status_code == 200  # as at vLLM, which guards /v1 alone
        assert "sesame" not in f"{server!r} {server.counts}"

    assert isinstance(wrong, AuthenticationFailed)
    assert isinstance(right, LLMResponse)


def test_vllm_s_extras_are_there() -> None:
    with FaultServer(Faults(context=50, kv_tokens=3200)) as server:
        llm = VLLMServerLLM(server.url)
        assert llm.models() == [ServedModel("tiny", 50)]
        assert llm.complete(asking("짧아요", priority=3)).model == "tiny"
        assert llm.count_tokens("네글자요") == 4
        assert llm.count_tokens([{"role": "user", "content": "네글자요"}]) == 8
        metrics = llm.metrics()
        with pytest.raises(PromptTooLong, match="maximum context length is 50"):
            llm.complete(asking("아" * 50))
        llm.close()

    assert (metrics.running, metrics.waiting, metrics.kv_usage, metrics.kv_tokens) == (0, 0, 0.0, 3200)


@pytest.mark.anyio
@pytest.mark.parametrize("strong", [Faults(max_running=2, latency=30), Faults(kv_tokens=48, latency=30)])
async def test_who_does_not_fit_waits_and_the_metrics_tell(strong: Faults) -> None:
    with FaultServer(strong) as server:
        llm = vllm(server)
        async with busy(llm, server, 6):
            metrics = await llm.ametrics()
        await llm.aclose()

    assert (metrics.running, metrics.waiting) == (2, 4)
    if strong.kv_tokens:
        assert 0.5 < metrics.kv_usage <= 1


@pytest.mark.anyio
@pytest.mark.parametrize("names", ["sglang", "tgi"])
async def test_the_metrics_have_the_names_of_another_server_and_the_same_load(names: Any) -> None:
    with FaultServer(Faults(max_running=2, kv_tokens=16_000, latency=30, metrics=names)) as server:
        llm = vllm(server)
        async with busy(llm, server, 6):
            metrics = await llm.ametrics()
        await llm.aclose()

    assert (metrics.running, metrics.waiting) == (2, 4)
    assert metrics.kv_tokens == (16_000 if names == "sglang" else None)


def test_names_of_an_unknown_server_are_reported() -> None:
    with pytest.raises(ConfigurationError, match=r"Faults\.metrics must be"):
        Faults(metrics="triton")  # type: ignore[arg-type]


@pytest.mark.anyio
async def test_who_waits_is_let_in_when_the_server_gets_stronger(server: FaultServer) -> None:
    server.faults = Faults(probabilities={"no_response": 1.0}, max_running=1)
    llm = vllm(server)
    async with busy(llm, server, 1), anyio.create_task_group() as group:
        server.faults = Faults(max_running=1)
        group.start_soon(llm.acomplete, asking())
        while server.counts.in_flight < 2:
            await anyio.sleep(0.002)
        assert (await llm.ametrics()).waiting == 1
        server.faults = Faults(max_running=2)
    await llm.aclose()

    assert server.counts.answered == 1


def test_another_process_can_look_and_change_the_faults(server: FaultServer) -> None:
    refused = httpx.patch(f"{server.url}/_faults", json={"limit": 0})
    unknown = httpx.patch(f"{server.url}/_faults", json={"oops": 0})
    changed = httpx.patch(f"{server.url}/_faults", json={"limit": 5, "probabilities": {"reset": 0.5}})

    assert (refused.status_code, unknown.status_code, changed.status_code) == (400, 400, 200)
    assert "Faults.limit must be" in refused.text
    assert server.faults == Faults(limit=5, probabilities={"reset": 0.5})
    assert httpx.get(f"{server.url}/_counts").json() == server.counts.as_dict()
    assert server.counts.requests == 0


@pytest.mark.anyio
async def test_lower_priorities_are_worked_on_first(server: FaultServer) -> None:
    order: list[int] = []
    server.faults = Faults(probabilities={"no_response": 1.0}, max_running=1)
    llm = vllm(server)

    async def call(priority: int) -> None:
        await llm.acomplete(asking(priority, priority=priority))
        order.append(priority)

    async with anyio.create_task_group() as group, busy(llm, server, 1):
        server.faults = Faults(max_running=1, latency=0.05)
        for waiting, priority in enumerate([7, 0, -3], start=1):
            group.start_soon(call, priority)
            while server.counts.in_flight <= waiting:
                await anyio.sleep(0.002)
    await llm.aclose()

    assert order == [-3, 0, 7]


@pytest.mark.anyio
async def test_a_cancelled_call_leaves_its_seat_and_its_place_in_the_line() -> None:
    with FaultServer(Faults(max_running=1, latency=30)) as server:
        llm = vllm(server)
        async with anyio.create_task_group() as group:
            for number in range(3):
                group.start_soon(llm.acomplete, asking(number))
            while server.counts.in_flight < 3:
                await anyio.sleep(0.005)
            group.cancel_scope.cancel()
        await llm.aclose()
        while server.counts.in_flight:
            await anyio.sleep(0.005)
        server.faults = Faults(max_running=1)
        assert (await llm.acomplete(asking("then"))).text
        await llm.aclose()
        counts = server.counts

    assert (counts.abandoned, counts.asked(CHAT, 0), counts.answered) == (3, 3, 1)


@pytest.mark.slow
def test_seeded_runs_repeat() -> None:
    questions = [f"{number}번 집은?" for number in range(60)]
    shares: Any = {"server_error": 0.2, "truncated": 0.2, "refusal": 0.1, "reset": 0.1}

    def run(seed: int) -> tuple[list[str], dict[str, int]]:
        with FaultServer(Faults(probabilities=shares), seed=seed) as server:
            return [str(answer) for answer in ask(vllm(server), *questions)], dict(server.counts.faults)

    assert run(1) == run(1)
    assert run(1)[1] != run(2)[1]


def test_answers_tell_requests_apart(server: FaultServer) -> None:
    assert len({str(answer) for answer in ask(vllm(server), *range(60))}) == 60


def test_the_answer_may_be_an_echo_or_a_function_of_yours() -> None:
    def rude(asked: ChatRequest) -> dict[str, str]:
        return {"summary": f"{asked.text} {asked.attempt}"}

    for answer, text in (("echo", '{"summary":"맛은?"}'), (rude, '{"summary":"맛은? 1"}')):
        with FaultServer(answer=answer) as server:  # type: ignore[arg-type]
            llm = vllm(server)
            free = llm.complete(LLMRequest("talk", ({"role": "user", "content": "안녕"},)))
            (reply,) = ask(llm, "맛은?")
        assert isinstance(reply, LLMResponse)
        assert reply.text == text
        assert "안녕" in free.text


def test_what_a_function_of_yours_raises_is_raised_again_at_the_end() -> None:
    def broken(asked: ChatRequest) -> str:
        raise LookupError("oops")

    server = FaultServer(answer=broken).start()
    (answer,) = ask(vllm(server), 1)
    with pytest.raises(LookupError, match="oops"):
        server.stop()
    assert isinstance(answer, TransientBackendError)
    server.stop()


def test_a_server_that_died_comes_back_where_it_was() -> None:
    server = FaultServer()
    with pytest.raises(ConfigurationError, match="start"):
        _ = server.url
    with server:
        url = server.url
        with pytest.raises(ConfigurationError, match="is running"):
            server.start()
        ask(vllm(server), 1)
    (dead,) = ask(VLLMServerLLM(url, "tiny"), 1)
    with server:
        (alive,) = ask(VLLMServerLLM(url, "tiny"), 1)
        assert server.counts.answered == 2

    assert isinstance(dead, TransientBackendError)
    assert isinstance(alive, LLMResponse)


def test_stopping_does_not_wait_for_answers() -> None:
    server = FaultServer(Faults(probabilities={"no_response": 1.0}))
    with server, ThreadPoolExecutor(1) as pool:
        call = pool.submit(ask, vllm(server), 1)
        wait_until(lambda: server.counts.in_flight == 1)
        server.stop()
        (answer,) = call.result()

    assert isinstance(answer, TransientBackendError)
    assert server.counts.abandoned == 1


def test_a_run_through_every_fault_loses_nothing_and_its_tokens_are_the_server_s() -> None:
    shares: Any = dict.fromkeys(("rate_limited", "unavailable", "server_error", "bad_gateway"), 0.05)
    shares |= dict.fromkeys(
        ("disconnect", "reset", "malformed", "truncated", "prose", "empty", "refusal"), 0.05
    )
    shops = [{"restaurant_id": number, "reviews": [f"{number}번 집 좋아요"] * 3} for number in range(60)]
    policy = RetryPolicy(wait_initial=0.01)
    with (
        FaultServer(Faults(probabilities=shares, latency=0.005, limit=8), seed=4) as server,
        closing(vllm(server)) as llm,
    ):
        runner = BatchRunner(
            llm=llm,
            search=FakeSearch({}),
            strategy=Strategy.stage(4),
            llm_retry=policy,
            limits=Limits(batches=8),
        )
        report = runner.run(AnalyzeSentiment(), shops)
        counts = server.counts

    assert [outcome.item_id for outcome in report.outcomes] == list(range(60))
    assert len(counts.faults) > 6
    # A client that keeps to the limit is never refused for it: a place is free before its answer is out.
    assert counts.refused == counts.faults["rate_limited"] + counts.faults["unavailable"]
    assert counts.in_flight == 0
    assert counts.peak <= 8
    assert (report.stats.prompt_tokens, report.stats.completion_tokens) == (
        counts.prompt_tokens,
        counts.completion_tokens,
    )


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/v1/embeddings", b"", 404),
        ("POST", CHAT, b"{", 400),
        ("POST", CHAT, b'{"messages": []}', 400),
        ("POST", CHAT, b'{"messages": [{"content": "x"}], "stream": true}', 400),
        ("POST", "/tokenize", b"[]", 400),
        ("GET", "/health", b"", 200),
        ("GET", "/version", b"", 200),
    ],
)
def test_what_it_does_not_do_it_says(
    server: FaultServer, method: str, path: str, body: bytes, status: int
) -> None:
    answer = httpx.request(method, server.url + path, content=body)

    assert answer.status_code == status
    assert server.counts.asked(path, status) == 1
    with suppress(KeyError, ValueError):
        assert answer.json()["error"]["message"]
