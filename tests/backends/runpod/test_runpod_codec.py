"""RunPod's JSON, of both generations of worker-vllm: what is sent, and what the ends of jobs mean."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.runpod_server import KEY, asking, completion

from restaurant_llm_batch import LLMResponse
from restaurant_llm_batch._http.secrets import Secret
from restaurant_llm_batch.backends import RunPodLLM
from restaurant_llm_batch.backends.runpod._codec import error_for_failed_job, read_output
from restaurant_llm_batch.backends.runpod._health import read_health
from restaurant_llm_batch.errors import (
    BackendError,
    PermanentBackendError,
    PromptTooLong,
    RateLimited,
    TransientBackendError,
)

SECRET = Secret(KEY)
TOO_LONG = "This model's maximum context length is 1024 tokens, you asked for 2000"


def read(output: Any, max_tokens: int = 100) -> LLMResponse:
    """Read the output of a completed job."""
    return read_output({"status": "COMPLETED", "output": output}, "qwen", max_tokens, SECRET)


def worker_error(message: str) -> dict[str, Any]:
    """Return what the SDK makes of the new generation's errors: Python's repr of a dict."""
    return {"error": str({"message": message, "type": "worker_error", "code": None})}


def test_both_generations_understand_what_is_sent() -> None:
    llm = RunPodLLM("ep", api_key=KEY, model="qwen", timeout=100, execution_timeout=50, low_priority=True)
    schema = {"type": "object", "properties": {"맛": {"type": "string"}}}
    body = json.loads(llm._body(asking("맛있어요?", schema=schema, max_tokens=7, temperature=0.5)))
    chat = body["input"].pop("openai_input")
    assert body == {
        "input": {"openai_route": "/v1/chat/completions"},
        "policy": {"ttl": 160_000, "executionTimeout": 50_000, "lowPriority": True},
    }
    assert chat["model"] == "qwen"
    assert (chat["max_tokens"], chat["temperature"]) == (7, 0.5)
    assert chat["messages"] == [{"role": "user", "content": "맛있어요?"}]
    assert chat["response_format"]["json_schema"]["schema"] == schema
    assert "priority" not in chat


def test_without_a_model_the_workers_own_is_taken() -> None:
    llm = RunPodLLM("ep", api_key=KEY, extra_body={"seed": 1})
    chat = json.loads(llm._body(asking("q", priority=3)))["input"]["openai_input"]
    assert "model" not in chat
    assert (chat["seed"], chat["priority"]) == (1, 3)


def test_a_body_that_runpod_would_refuse_is_too_long() -> None:
    with pytest.raises(PromptTooLong, match="10,000,000 bytes"):
        RunPodLLM("ep", api_key=KEY)._body(asking("가" * 4_000_000))


@pytest.mark.parametrize("shape", [completion("맛"), [completion("맛")]])
def test_a_chat_completion_is_read_in_a_list_and_without_one(shape: Any) -> None:
    assert read(shape) == LLMResponse("맛", "stop", 11, 5, "tiny")


@pytest.mark.parametrize(
    ("choice", "text"),
    [
        ({"tokens": ["맛있", "어요"]}, "맛있어요"),
        ({"tokens": "맛있어요"}, "맛있어요"),
        ({"text": "맛있어요"}, "맛있어요"),
    ],
)
def test_the_old_generations_own_form_is_read(choice: dict[str, Any], text: str) -> None:
    item = {"choices": [choice], "usage": {"input": 22, "output": 16}}
    for output in (item, [item]):
        assert read(output) == LLMResponse(text, "stop", 22, 16, "qwen")
    assert read(item, max_tokens=16).finish_reason == "length"


def test_parts_of_an_answer_are_joined() -> None:
    parts = [
        {"choices": [{"tokens": ["a"]}], "usage": {"input": 1, "output": 1}},
        {"choices": [{"tokens": ["b"]}], "usage": {"input": 1, "output": 2}},
    ]
    assert read(parts) == LLMResponse("ab", "stop", 1, 2, "qwen")


@pytest.mark.parametrize("output", [None, [], {}, "text", 7, [["x"]], {"choices": []}, {"cost": 1}])
def test_an_output_that_is_no_completion_is_not_paid_for_again(output: Any) -> None:
    with pytest.raises(PermanentBackendError, match="without a chat completion"):
        read(output)


def test_an_error_in_a_completed_job_is_one() -> None:
    with pytest.raises(PromptTooLong):
        read([{"object": "error", "message": TOO_LONG, "type": "BadRequestError", "code": 400}])


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        (
            worker_error(f"vLLM returned HTTP 400: {json.dumps({'error': {'message': TOO_LONG}})}"),
            PromptTooLong,
        ),
        (worker_error('vLLM returned HTTP 400: {"error":{"message":"no"}}'), PermanentBackendError),
        (worker_error("vLLM returned HTTP 404: no such model 'x'"), PermanentBackendError),
        (worker_error("vLLM returned HTTP 429: queue"), RateLimited),
        (worker_error("vLLM returned HTTP 500: oops"), TransientBackendError),
        (worker_error("vLLM returned HTTP 503"), TransientBackendError),
        (worker_error("vLLM server process is not running; worker is unhealthy"), TransientBackendError),
        (worker_error("Request to vLLM failed: Cannot connect"), TransientBackendError),
        (worker_error("Job input must contain one of"), PermanentBackendError),
        ({"error": "vLLM returned HTTP 503: cut off in the mid"}, TransientBackendError),
        ({"error": "{'message': 'vLLM returned HTTP 503: cut"}, TransientBackendError),
        ({"error": str({"message": TOO_LONG, "type": "BadRequestError", "code": 400})}, PromptTooLong),
        ({"error": str({"message": "oops", "type": "Internal", "code": 500})}, TransientBackendError),
        ({"error": {"message": "oops", "code": 500}}, TransientBackendError),
        ({"error": "CUDA out of memory"}, TransientBackendError),
        ({"error": "ValueError: bad prompt"}, PermanentBackendError),
        ({"error": ["odd"]}, PermanentBackendError),
        ({}, PermanentBackendError),
    ],
)
def test_a_failed_job_is_tried_again_only_where_that_may_help(told: Any, kind: type[Exception]) -> None:
    assert type(error_for_failed_job({"status": "FAILED", **told}, SECRET)) is kind


def test_an_exception_of_the_workers_is_reported_without_its_traceback() -> None:
    plain = {
        "error_type": "<class 'ValueError'>",
        "error_message": "boom",
        "error_traceback": "Traceback ...",
    }
    for told in (json.dumps(plain), "handler: boom \ntraceback: Traceback (most recent call last) ..."):
        error = error_for_failed_job({"error": told}, SECRET)
        assert "boom" in str(error)
        assert "Traceback" not in str(error)


def test_the_key_is_in_no_error() -> None:
    for told in (worker_error(f"vLLM returned HTTP 400: {KEY}"), {"error": f"bad {KEY}"}):
        assert KEY not in str(error_for_failed_job(told, SECRET))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=6,
)
CHOICE = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(["message", "tokens", "text", "finish_reason"], JSON)
) | st.fixed_dictionaries({"message": st.fixed_dictionaries({"content": JSON, "refusal": JSON})})
USAGE = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(["input", "output", "prompt_tokens", "prompt_tokens_details"], JSON)
)
ITEM = st.fixed_dictionaries(
    {"choices": st.lists(CHOICE | JSON, max_size=3) | JSON},
    optional={"usage": USAGE | JSON, "error": JSON, "object": JSON, "model": JSON},
)
OUTPUT = ITEM | st.lists(ITEM | JSON, max_size=3) | JSON


@given(OUTPUT)
def test_whatever_a_worker_puts_out_is_a_reply_or_an_error_of_ours(output: Any) -> None:
    try:
        reply = read(output)
    except BackendError:
        return
    assert isinstance(reply.text, str)
    assert reply.prompt_tokens >= 0


@given(JSON)
def test_whatever_a_job_fails_with_is_an_error_of_ours(error: Any) -> None:
    for told in (error, str(error), json.dumps(error)):
        assert isinstance(error_for_failed_job({"error": told}, SECRET), BackendError)


def test_health_is_read_whole() -> None:
    health = read_health(
        {
            "jobs": {"completed": 1, "failed": 5, "inProgress": 4, "inQueue": 2, "retried": 3},
            "workers": {
                "idle": 1,
                "initializing": 2,
                "ready": 3,
                "running": 4,
                "throttled": 5,
                "unhealthy": 6,
            },
        }
    )
    jobs, workers = health.jobs, health.workers
    assert (jobs.completed, jobs.failed, jobs.in_progress, jobs.in_queue, jobs.retried) == (1, 5, 4, 2, 3)
    assert (workers.idle, workers.initializing, workers.ready, workers.running) == (1, 2, 3, 4)
    assert (workers.throttled, workers.unhealthy) == (5, 6)
    assert health.problem is None


def test_no_workers_is_no_trouble_while_nothing_waits() -> None:
    assert read_health({"workers": {}}).problem is None
    assert read_health({"workers": {}, "jobs": {"inQueue": 1}}).problem is not None
    assert read_health({"workers": {"initializing": 1}, "jobs": {"inQueue": 1}}).problem is None
