"""`FaultServer` as RunPod: every end of a job is the error that it is, and no job is left alive unseen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import anyio
import httpx
import pytest
from tests.support.patience import PATIENCE

from restaurant_llm_batch import LLMRequest, LLMResponse
from restaurant_llm_batch.backends.runpod.llm import PollingPolicy, RunPodLLM
from restaurant_llm_batch.errors import (
    AuthenticationFailed,
    BackendError,
    PermanentBackendError,
    PromptTooLong,
    QuotaExhausted,
    RateLimited,
    SubmissionUnknown,
)
from restaurant_llm_batch.testing.server import FaultKind, Faults, FaultServer

QUICK = PollingPolicy(wait_initial=0.01, multiplier=1.2, wait_max=0.05)
SUBMISSIONS: list[tuple[FaultKind, type[BackendError], int]] = [
    ("rate_limited", RateLimited, 429),
    ("unavailable", RateLimited, 503),
    ("insufficient_quota", QuotaExhausted, 429),
    ("unauthorized", AuthenticationFailed, 401),
    ("forbidden", PermanentBackendError, 403),
    ("bad_request", PermanentBackendError, 400),
    ("error_as_success", PermanentBackendError, 200),
    ("server_error", SubmissionUnknown, 500),
    ("bad_gateway", SubmissionUnknown, 502),
    ("not_json", SubmissionUnknown, 200),
    ("disconnect", SubmissionUnknown, 0),
    ("no_response", SubmissionUnknown, 0),
]
ENDS: list[tuple[FaultKind, type[BackendError], str, str]] = [
    ("context_length_exceeded", PromptTooLong, "maximum context length", "FAILED"),
    ("job_fails", PermanentBackendError, "RuntimeError.*CUDA", "FAILED"),
    ("job_fails_for_now", RateLimited, "503", "FAILED"),
    ("job_times_out", PermanentBackendError, "timed out", "TIMED_OUT"),
    ("job_is_cancelled", PermanentBackendError, "another client", "CANCELLED"),
    ("job_vanishes", PermanentBackendError, "no longer knows job", "VANISHED"),
    ("job_stays_queued", PermanentBackendError, "last status: IN_QUEUE", "CANCELLED"),
    ("job_never_ends", PermanentBackendError, "last status: IN_PROGRESS", "CANCELLED"),
]


def runpod(server: FaultServer, **more: Any) -> RunPodLLM:
    given = {"timeout": 0.3, "polling": QUICK, **more}
    return RunPodLLM("e1", api_key="key", base_url=server.runpod_url, **given)


def asking(question: object = "맛은?") -> LLMRequest:
    return LLMRequest("taste", ({"role": "user", "content": str(question)},))


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer() as server:
        yield server


@pytest.mark.parametrize(("kind", "error", "status"), SUBMISSIONS)
@pytest.mark.sample(6)
def test_a_submission_that_fails_makes_no_job(
    kind: FaultKind, error: type[BackendError], status: int
) -> None:
    with (
        FaultServer(Faults(probabilities={kind: 1.0})) as server,
        closing(runpod(server, request_timeout=0.3)) as llm,
    ):
        with pytest.raises(error) as failed:
            llm.complete(asking())
        assert llm.complete(asking()).text
        counts = server.counts

    assert failed.type is error
    assert counts.asked("/v2/run", status) == (1 if status != 200 else 2)
    assert dict(counts.jobs) == {"COMPLETED": 1}


@pytest.mark.parametrize("kind", ["submission_lost", "reset"])
def test_a_submission_whose_answer_is_lost_leaves_a_job_that_ends_by_itself(kind: FaultKind) -> None:
    with FaultServer(Faults(probabilities={kind: 1.0}, latency=30)) as server, closing(runpod(server)) as llm:
        with pytest.raises(SubmissionUnknown):
            llm.complete(asking())
        alive = server.counts
        server.faults = Faults()
        assert llm.complete(asking()).text
        counts = server.counts

    assert len(alive.jobs_alive) == 1
    assert (alive.asked("/v2/run", 0), alive.answered) == (1, 0)
    assert counts.duplicates == 1
    assert counts.jobs["COMPLETED"] == counts.answered == 1


@pytest.mark.parametrize(("kind", "error", "words", "status"), ENDS)
@pytest.mark.sample(4)
def test_every_end_of_a_job_is_the_error_that_it_is(
    kind: FaultKind, error: type[BackendError], words: str, status: str
) -> None:
    with (
        FaultServer(Faults(probabilities={kind: 1.0}, latency=0.02)) as server,
        closing(runpod(server)) as llm,
    ):
        with pytest.raises(error, match=words) as failed:
            llm.complete(asking())
        counts = server.counts
        assert llm.complete(asking()).text

    assert failed.type is error
    assert dict(counts.jobs) == {status: 1}
    assert counts.jobs_alive == ()
    assert counts.answered == 0
    assert dict(counts.faults) == {kind: 1}


@pytest.mark.parametrize(
    "kind", ["slow_body", "poll_fails", "malformed", "refusal", "truncated", "prose", "control_characters"]
)
@pytest.mark.sample(3)
def test_what_a_job_outlives_is_an_answer_all_the_same(kind: FaultKind) -> None:
    faults = Faults(probabilities={kind: 1.0}, latency=0.02, slow_body_seconds=0.1)
    with FaultServer(faults) as server, closing(runpod(server)) as llm:
        reply = llm.complete(asking())
        counts = server.counts

    assert dict(counts.faults) == {kind: 1}
    assert counts.answered == 1
    assert (counts.prompt_tokens, counts.completion_tokens) == (reply.prompt_tokens, reply.completion_tokens)
    assert counts.asked("/v2/status") == counts.asked("/v2/status", 200) + (kind == "poll_fails")


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["job_never_ends", "job_stays_queued", "cancel_fails"])
@pytest.mark.sample(1)
async def test_cancelled_calls_leave_no_job_alive(kind: FaultKind) -> None:
    with FaultServer(Faults(probabilities={kind: 1.0}, tries=None, latency=60)) as server:
        llm = runpod(server, timeout=PATIENCE)
        async with anyio.create_task_group() as group:
            for number in range(12):
                group.start_soon(llm.acomplete, asking(number))
            while len(server.counts.jobs_alive) < 12:
                await anyio.sleep(0.005)
            group.cancel_scope.cancel()
        await llm.aclose()
        counts = server.counts

    assert dict(counts.jobs) == {"CANCELLED": 12}
    assert counts.jobs_alive == ()
    assert counts.peak_jobs == 12
    assert counts.duplicates == 0
    assert counts.asked("/v2/cancel", 503) == (12 if kind == "cancel_fails" else 0)


@pytest.mark.anyio
async def test_the_limit_is_one_on_jobs_alive(server: FaultServer) -> None:
    server.faults = Faults(limit=2, latency=60, retry_after=7)
    llm = runpod(server, timeout=PATIENCE)
    async with anyio.create_task_group() as group:
        for number in range(2):
            group.start_soon(llm.acomplete, asking(number))
        while len(server.counts.jobs_alive) < 2:
            await anyio.sleep(0.005)
        with pytest.raises(RateLimited) as refused:
            await llm.acomplete(asking("one too many"))
        health = await llm.ahealth()
        group.cancel_scope.cancel()
    await llm.aclose()

    assert refused.value.retry_after == 7
    assert (health.jobs.in_progress, health.workers.running) == (2, 2)
    assert server.counts.refused == 1


def test_workers_take_jobs_in_turn_and_the_queue_can_be_purged(server: FaultServer) -> None:
    server.faults = Faults(max_running=1, latency=60)
    body = {"input": {"prompt": "맛은?"}}
    ids = [httpx.post(f"{server.runpod_url}/e1/run", json=body).json()["id"] for _ in range(3)]

    states = [httpx.get(f"{server.runpod_url}/e1/status/{one}").json()["status"] for one in ids]
    purged = httpx.post(f"{server.runpod_url}/e1/purge-queue").json()
    counts = server.counts

    assert states == ["IN_PROGRESS", "IN_QUEUE", "IN_QUEUE"]
    assert purged == {"removed": 2, "status": "completed"}
    assert (counts.jobs_alive, counts.duplicates) == ((ids[0],), 2)


def test_a_job_s_policy_is_kept(server: FaultServer) -> None:
    server.faults = Faults(latency=60)
    for policy in ({"ttl": 20}, {"executionTimeout": 20}):
        body = {"input": {"prompt": str(policy)}, "policy": policy}
        httpx.post(f"{server.runpod_url}/e1/run", json=body)
    for _ in range(500):
        if not server.counts.jobs_alive:
            break
        httpx.get(f"{server.runpod_url}/e1/health")

    assert dict(server.counts.jobs) == {"TIMED_OUT": 1, "VANISHED": 1}


def test_openai_s_api_is_there_too_as_on_an_endpoint_with_worker_vllm(server: FaultServer) -> None:
    body = {"messages": [{"role": "user", "content": "맛은?"}]}

    answer = httpx.post(f"{server.runpod_url}/e1/openai/v1/chat/completions", json=body)

    assert answer.json()["choices"][0]["finish_reason"] == "stop"
    assert server.counts.asked("/v1/chat/completions", 200) == 1


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "run", 404), ("POST", "runsync", 404), ("GET", "status/nobody", 404), ("POST", "run", 400)],
)
def test_what_it_does_not_do_it_says(server: FaultServer, method: str, path: str, status: int) -> None:
    answer = httpx.request(method, f"{server.runpod_url}/e1/{path}", json={"input": []})

    assert answer.status_code == status
    assert answer.json()["error"]


@pytest.mark.anyio
@pytest.mark.sample(1)
async def test_the_completions_of_jobs_are_counted_once_and_seeded_runs_repeat() -> None:
    shares: Any = {"job_fails": 0.2, "job_vanishes": 0.1, "poll_fails": 0.1, "submission_lost": 0.1}

    async def run(seed: int) -> tuple[list[str], dict[str, int]]:
        said: dict[int, LLMResponse | BackendError] = {}

        async def one(number: int) -> None:
            try:
                said[number] = await llm.acomplete(asking(number))
            except BackendError as error:
                said[number] = error

        with FaultServer(Faults(probabilities=shares, latency=0.02), seed=seed) as server:
            llm = runpod(server, timeout=PATIENCE)
            async with anyio.create_task_group() as group:
                for number in range(40):
                    group.start_soon(one, number)
            await llm.aclose()
            counts = server.counts
        replies = [reply for reply in said.values() if isinstance(reply, LLMResponse)]
        assert counts.answered == len(replies)
        assert counts.completion_tokens == sum(reply.completion_tokens for reply in replies)
        kinds = [said[number].__class__.__name__ for number in sorted(said)]
        return kinds, dict(counts.faults)

    first = await run(5)
    assert first == await run(5)
    assert first != await run(6)
