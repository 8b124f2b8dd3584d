"""RunPod's REST shapes, watched by respx, and the settings that make them."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from typing import Any

import anyio
import httpx
import pytest
import respx
from tests.support.runpod_server import KEY, WORKERS, asking, completion

from restaurant_llm_batch._http.httpx import HttpxTransport
from restaurant_llm_batch.backends import RunPodLLM, Timeout
from restaurant_llm_batch.backends.runpod import _flows as flow
from restaurant_llm_batch.backends.runpod import _rate_limits as pace
from restaurant_llm_batch.backends.runpod.llm import OperationLimit, PollingPolicy, RunPodLimits
from restaurant_llm_batch.errors import (
    AuthenticationFailed,
    ConfigurationError,
    PermanentBackendError,
    SubmissionUnknown,
    TransientBackendError,
)

URL = "https://api.runpod.ai/v2/abc123"
QUEUED = {"id": "11aa-u1", "status": "IN_QUEUE"}
DONE = {
    "id": "11aa-u1",
    "status": "COMPLETED",
    "delayTime": 31618,
    "executionTime": 1437,
    "workerId": "w",
    "output": [completion()],
}


@pytest.fixture
def llm(monkeypatch: pytest.MonkeyPatch) -> Iterator[RunPodLLM]:
    """A client with RunPod's own address."""
    monkeypatch.delenv("RUNPOD_ENDPOINT_BASE_URL", raising=False)
    transport = HttpxTransport()
    yield RunPodLLM("abc123", api_key=KEY, polling=PollingPolicy(0.001, 1.0, 0.001), transport=transport)
    transport.close()


def ask(llm: RunPodLLM, mode: str) -> str:
    """Ask sync or async."""
    if mode == "blocking":
        return llm.complete(asking("q")).text

    async def main() -> str:
        return (await llm.acomplete(asking("q"))).text

    return anyio.run(main)


@pytest.mark.parametrize("mode", ["blocking", "awaited"])
def test_a_job_is_submitted_and_watched_at_the_documented_addresses(
    llm: RunPodLLM, mode: str, respx_mock: respx.MockRouter
) -> None:
    run = respx_mock.post(f"{URL}/run").respond(json=QUEUED)
    status = respx_mock.get(f"{URL}/status/11aa-u1").mock(
        side_effect=[
            httpx.Response(200, json=QUEUED),
            httpx.Response(429, json={"error": "slow down"}),
            httpx.Response(200, json={**QUEUED, "status": "IN_PROGRESS"}),
            httpx.Response(200, json=DONE),
        ]
    )

    assert ask(llm, mode) == "좋아요"
    assert (run.call_count, status.call_count) == (1, 4)
    sent = run.calls[0].request
    assert sent.headers["authorization"] == f"Bearer {KEY}"
    assert sent.headers["content-type"] == "application/json"
    assert set(json.loads(sent.content)) == {"input", "policy"}
    assert json.loads(sent.content)["policy"] == {"ttl": 1_260_000}
    assert all(KEY not in str(call.request.url) for call in respx_mock.calls)


@pytest.mark.parametrize("mode", ["blocking", "awaited"])
def test_a_poll_that_is_not_allowed_has_the_job_cancelled(
    llm: RunPodLLM, mode: str, respx_mock: respx.MockRouter
) -> None:
    respx_mock.post(f"{URL}/run").respond(json=QUEUED)
    respx_mock.get(f"{URL}/status/11aa-u1").respond(401, json={"error": f"bad key {KEY}"})
    cancel = respx_mock.post(f"{URL}/cancel/11aa-u1").respond(json={"id": "11aa-u1", "status": "CANCELLED"})

    with pytest.raises(AuthenticationFailed) as caught:
        ask(llm, mode)
    assert cancel.call_count == 1
    assert KEY not in f"{caught.value!r}"


@pytest.mark.parametrize("mode", ["blocking", "awaited"])
def test_a_lost_submission_is_not_made_again(llm: RunPodLLM, mode: str, respx_mock: respx.MockRouter) -> None:
    run = respx_mock.post(f"{URL}/run").mock(side_effect=httpx.ReadTimeout("late"))
    with pytest.raises(SubmissionUnknown):
        ask(llm, mode)
    assert run.call_count == 1


@pytest.mark.parametrize("mode", ["blocking", "awaited"])
def test_a_submission_that_never_left_may_be_made_again(
    llm: RunPodLLM, mode: str, respx_mock: respx.MockRouter
) -> None:
    respx_mock.post(f"{URL}/run").mock(side_effect=httpx.ConnectError("refused"))
    with pytest.raises(TransientBackendError):
        ask(llm, mode)


@pytest.mark.parametrize("mode", ["blocking", "awaited"])
def test_a_job_that_cannot_be_cancelled_is_named_in_the_log(
    llm: RunPodLLM,
    mode: str,
    respx_mock: respx.MockRouter,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(flow, "CANCEL_WAITS", (0.001, 0.001))
    respx_mock.post(f"{URL}/run").respond(json=QUEUED)
    respx_mock.get(f"{URL}/status/11aa-u1").respond(401)
    respx_mock.post(f"{URL}/cancel/11aa-u1").respond(401)
    caplog.set_level(logging.WARNING, "restaurant_llm_batch")

    with pytest.raises(AuthenticationFailed):
        ask(llm, mode)
    assert "11aa-u1 could not be cancelled" in caplog.text
    assert KEY not in caplog.text
    (job,) = llm._sync_runner._live_jobs._jobs  # kept, to be tried again at the interpreter's end
    job.finished = True
    llm._sync_runner._live_jobs._jobs.clear()


@pytest.mark.parametrize("mode", ["blocking", "awaited"])
def test_health_is_a_snapshot(llm: RunPodLLM, mode: str, respx_mock: respx.MockRouter) -> None:
    respx_mock.get(f"{URL}/health").respond(json={"jobs": {"inQueue": 2}, "workers": WORKERS})
    health = llm.health() if mode == "blocking" else anyio.run(llm.ahealth)
    assert (health.jobs.in_queue, health.workers.ready, health.problem) == (2, 1, None)
    respx_mock.get(f"{URL}/health").respond(404)
    with pytest.raises(PermanentBackendError):
        llm.health()


def test_it_stays_within_its_limits(monkeypatch: pytest.MonkeyPatch, respx_mock: respx.MockRouter) -> None:
    monkeypatch.delenv("RUNPOD_ENDPOINT_BASE_URL", raising=False)
    in_flight = peak = 0

    async def run(request: httpx.Request) -> httpx.Response:
        nonlocal in_flight, peak
        in_flight += 1
        peak = max(peak, in_flight)
        await anyio.sleep(0.01)
        in_flight -= 1
        return httpx.Response(200, json=QUEUED)

    respx_mock.post(f"{URL}/run").mock(side_effect=run)
    respx_mock.get(f"{URL}/status/11aa-u1").respond(json=DONE)
    llm = RunPodLLM(
        "abc123",
        api_key=KEY,
        polling=PollingPolicy(0.001, 1.0, 0.001),
        limits=RunPodLimits(run=OperationLimit(1000, 3)),
        transport=HttpxTransport(),
    )

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(12):
                tasks.start_soon(llm.acomplete, asking("q"))

    anyio.run(main)
    assert peak == 3


@pytest.mark.parametrize("mode", ["blocking", "awaited"])
def test_it_keeps_to_the_rate_limit(
    mode: str, monkeypatch: pytest.MonkeyPatch, respx_mock: respx.MockRouter
) -> None:
    monkeypatch.delenv("RUNPOD_ENDPOINT_BASE_URL", raising=False)
    monkeypatch.setattr(pace, "WINDOW", 0.2)
    respx_mock.post(f"{URL}/run").respond(json=QUEUED)
    respx_mock.get(f"{URL}/status/11aa-u1").respond(json=DONE)
    llm = RunPodLLM(
        "abc123",
        api_key=KEY,
        polling=PollingPolicy(0.001, 1.0, 0.001),
        limits=RunPodLimits(run=OperationLimit(2, 10)),
        transport=HttpxTransport(),
    )
    began = time.monotonic()
    for _ in range(5):
        ask(llm, mode)
    assert time.monotonic() - began >= 0.4


class TestSettings:
    """What is written wrong is named, with what to write instead."""

    @pytest.mark.parametrize(
        ("wrong", "words"),
        [
            ({"endpoint_id": "https://api.runpod.ai/v2/abc"}, "endpoint_id must be the id alone"),
            ({"endpoint_id": ""}, "endpoint_id"),
            ({"api_key": ""}, "RUNPOD_API_KEY"),
            ({"base_url": "api.runpod.ai"}, "base_url"),
            ({"model": ""}, "model"),
            ({"timeout": 0}, "timeout"),
            ({"timeout": float("inf")}, "timeout"),
            ({"timeout": True}, "timeout"),
            ({"execution_timeout": 4}, "execution_timeout must be a number of seconds from 5"),
            ({"ttl": 9}, "ttl"),
            ({"ttl": 700_000}, "a week"),
            ({"ttl": 100}, "ttl=100 is shorter than timeout=1200"),
            ({"low_priority": 1}, "low_priority"),
            ({"request_timeout": -1}, "Timeout"),
            ({"polling": 1}, r"polling=PollingPolicy\(\.\.\.\)"),
            ({"limits": 1}, r"limits=RunPodLimits\(\.\.\.\)"),
            ({"transport": object()}, "transport"),
        ],
    )
    def test_a_mistake_is_named(
        self, wrong: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("RUNPOD_API_KEY", raising=False)
        with pytest.raises(ConfigurationError, match=words):
            RunPodLLM(**{"endpoint_id": "abc", "api_key": KEY, **wrong})

    def test_the_environment_is_read(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RUNPOD_API_KEY", f"{KEY}\n")
        monkeypatch.setenv("RUNPOD_ENDPOINT_BASE_URL", "http://127.0.0.1:1/v2/")
        llm = RunPodLLM("abc", request_timeout=Timeout(total=5))
        assert llm._url == "http://127.0.0.1:1/v2/abc"
        assert llm._secret.reveal() == KEY
        with pytest.raises(TransientBackendError):
            llm.complete(asking("q"))

    def test_an_orphan_lives_a_minute_longer_than_it_is_waited_for(self) -> None:
        for timeout, ttl in ((1, 61), (600, 660), (7 * 24 * 3600, 7 * 24 * 3600)):
            llm = RunPodLLM("abc", api_key=KEY, timeout=timeout)
            assert json.loads(llm._body(asking("q")))["policy"] == {"ttl": ttl * 1000}

    def test_the_key_does_not_show(self) -> None:
        llm = RunPodLLM("abc", api_key=KEY, model="m")
        assert repr(llm) == "RunPodLLM('abc', model='m')"
