"""
Odd answers, one table for all: what a service answers means the same through every backend, sync and async.

A row is what a chat completions API answers. RunPod's worker passes the same on as a job's output, and a response with
an error status as the error of a job, which RunPod calls FAILED or COMPLETED.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import anyio
import pytest
from tests.support.local_server import LocalServer, Say, Seen, chat

from restaurant_llm_batch import LLMRequest, LLMResponse
from restaurant_llm_batch.backends import OpenAILLM, RunPodLLM, VLLMServerLLM
from restaurant_llm_batch.backends.runpod.llm import PollingPolicy
from restaurant_llm_batch.errors import (
    AuthenticationFailed,
    BackendError,
    ContentRefused,
    PermanentBackendError,
    PromptTooLong,
    QuotaExhausted,
    RateLimited,
    TransientBackendError,
)
from restaurant_llm_batch.search.embedders import APIEmbedder


def answer(content: Any, reason: str | None = "stop", **message: Any) -> dict[str, Any]:
    body = chat("")
    body["choices"][0] |= {
        "finish_reason": reason,
        "message": {"role": "assistant", "content": content, **message},
    }
    return body


def complaint(message: str, kind: str | None = None, code: Any = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def stream(*deltas: dict[str, Any], end: str = "stop") -> bytes:
    chunks = [{"model": "tiny", "choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    chunks.append({"model": "tiny", "choices": [{"index": 0, "delta": {}, "finish_reason": end}]})
    chunks.append({"model": "tiny", "choices": [], "usage": chat("")["usage"]})
    return b"".join(b"data: " + json.dumps(one).encode() + b"\n\n" for one in chunks) + b"data: [DONE]\n\n"


GOOD = LLMResponse("맛있다", "stop", 11, 5, "tiny")
CUT = LLMResponse("맛있", "length", 11, 5, "tiny")
NOTHING = LLMResponse("", "stop", 11, 5, "tiny")
BLIND = LLMResponse("맛있다", "stop", 0, 0, "tiny")
EVENTS = {"content-type": "text/event-stream"}
TABLE: dict[str, tuple[Say, LLMResponse | type[BackendError]]] = {
    # Answers that are read.
    "plain": (Say(chat("맛있다")), GOOD),
    "event stream": (Say(stream({"content": "맛"}, {"content": "있다"}), headers=EVENTS), GOOD),
    "event stream of another type": (Say(stream({"content": "맛있다"})), GOOD),
    "event stream with thinking": (
        Say(stream({"reasoning_content": "hm"}, {"content": "맛있다"}), headers=EVENTS),
        GOOD,
    ),
    "event stream cut off": (Say(stream({"content": "맛있"}, end="length"), headers=EVENTS), CUT),
    "thinking beside": (Say(answer("맛있다", reasoning_content="hm", reasoning="hm")), GOOD),
    "thinking in parts": (
        Say(
            answer([{"type": "thinking", "thinking": "hm", "text": "hm"}, {"type": "text", "text": "맛있다"}])
        ),
        GOOD,
    ),
    "thinking in nested parts": (
        Say(
            answer(
                [
                    {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
                    {"type": "text", "text": "맛있다"},
                ]
            )
        ),
        GOOD,
    ),
    "thinking alone": (Say(answer(None, reasoning_content='{"a": 1}')), NOTHING),
    "parts of text": (Say(answer([{"type": "output_text", "text": "맛"}, "있다"])), GOOD),
    "a tool call": (
        Say(
            answer(
                None, "tool_calls", tool_calls=[{"id": "1", "function": {"name": "x", "arguments": "맛있다"}}]
            )
        ),
        GOOD,
    ),
    "a function call": (
        Say(answer("", "function_call", function_call={"name": "x", "arguments": {"a": "맛"}})),
        replace(GOOD, text='{"a": "맛"}'),
    ),
    "two tool calls": (
        Say(answer(None, tool_calls=[{"function": {"arguments": "a"}}, {"function": {"arguments": "b"}}])),
        NOTHING,
    ),
    "JSON that a gateway has decoded": (Say(answer({"a": "맛"})), replace(GOOD, text='{"a": "맛"}')),
    "another word for the end": (Say(answer("맛있다", "eos")), GOOD),
    "no word for the end": (Say(answer("맛있다", None)), GOOD),
    "another word for the limit": (Say(answer("맛있", "max_tokens")), CUT),
    "a refusal by the model": (Say(answer(None, refusal="no")), LLMResponse("no", "refusal", 11, 5, "tiny")),
    "usage in floats": (Say(chat("맛있다", usage={"prompt_tokens": 11.0, "completion_tokens": 5.0})), GOOD),
    "usage in text": (Say(chat("맛있다", usage={"prompt_tokens": "11", "completion_tokens": "5"})), GOOD),
    "usage in other names": (Say(chat("맛있다", usage={"input_tokens": 11, "output_tokens": 5})), GOOD),
    "no usage": (Say(chat("맛있다", usage=None)), BLIND),
    "usage of nonsense": (Say(chat("맛있다", usage={"prompt_tokens": -1, "completion_tokens": True})), BLIND),
    # Errors with status 200.
    "network_error": (Say(answer("half", "network_error")), TransientBackendError),
    "error": (Say(answer("", "error")), TransientBackendError),
    "abort": (Say(answer("half", "abort")), TransientBackendError),
    "content_filter": (Say(answer("half", "content_filter")), ContentRefused),
    "error object": (Say({"object": "error", "message": "no", "code": 404}), PermanentBackendError),
    "busy as success": (Say(complaint("busy", code=503)), RateLimited),
    "overloaded as success": (Say(complaint("Overloaded", "overloaded_error")), RateLimited),
    "bad request as success": (Say(complaint("no", "invalid_request_error")), PermanentBackendError),
    "too long as success": (Say(complaint("maximum context length is 8192", code=400)), PromptTooLong),
    # Refusals, whatever their number.
    "429": (Say(complaint("slow", code="rate_limit_exceeded"), 429), RateLimited),
    "429 page": (Say(b"<html>later</html>", 429), RateLimited),
    "503 busy": (
        Say(complaint("The engine is currently busy", "Service Unavailable", 503), 503),
        RateLimited,
    ),
    "503 server_is_overloaded": (
        Say(complaint("x", "service_unavailable_error", "server_is_overloaded"), 503),
        RateLimited,
    ),
    "503 queue full": (Say({"object": "error", "message": "The request queue is full."}, 503), RateLimited),
    "529": (
        Say({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, 529),
        RateLimited,
    ),
    "503 slow_down": (Say(complaint("x", code="slow_down"), 503), RateLimited),
    "500 resource_exhausted": (
        Say({"error": {"status": "RESOURCE_EXHAUSTED", "message": "x"}}, 500),
        RateLimited,
    ),
    "424 overloaded": (Say({"error": "Model is overloaded", "error_type": "overloaded"}, 424), RateLimited),
    # Failures that pass.
    "503 page": (Say(b"<html><h1>503 Service Unavailable</h1></html>", 503), TransientBackendError),
    "503 envoy": (
        Say(b"upstream connect error or disconnect/reset before headers", 503),
        TransientBackendError,
    ),
    "500": (Say(complaint("oops"), 500), TransientBackendError),
    # Failures that do not.
    "401": (Say(complaint("bad key"), 401), AuthenticationFailed),
    "402": (Say(complaint("Insufficient Balance"), 402), QuotaExhausted),
    "429 quota": (Say(complaint("x", "insufficient_quota", "insufficient_quota"), 429), QuotaExhausted),
    "403": (Say(complaint("forbidden"), 403), PermanentBackendError),
    "403 page": (
        Say(b"<!DOCTYPE html><html><title>Blocked</title> for your safety</html>", 403),
        PermanentBackendError,
    ),
    "403 moderation": (Say(complaint("your input was flagged", code=403), 403), ContentRefused),
    "400 content_filter": (Say(complaint("filtered", code="content_filter"), 400), ContentRefused),
    "400": (Say(complaint("no"), 400), PermanentBackendError),
    "404": (Say(complaint("no such model", "NotFoundError", 404), 404), PermanentBackendError),
    # Prompts that are too long.
    "llama.cpp": (
        Say(
            complaint(
                "request (9 tokens) exceeds the available context size (8 tokens)",
                "exceed_context_size_error",
            ),
            400,
        ),
        PromptTooLong,
    ),
    "llama.cpp of 2025": (
        Say(complaint("the request exceeds the available context size"), 500),
        PromptTooLong,
    ),
    "SGLang": (
        Say(
            {
                "object": "error",
                "message": "The input (9 tokens) is longer than the model's context length (8 tokens).",
            },
            400,
        ),
        PromptTooLong,
    ),
    "LM Studio": (
        Say({"error": "the model is loaded with context length of only 8 tokens, which is not enough"}, 400),
        PromptTooLong,
    ),
    "TGI": (
        Say({"error": "`inputs` must have less than 8 tokens. Given: 9", "error_type": "validation"}, 422),
        PromptTooLong,
    ),
    "413": (Say(b"", 413), PromptTooLong),
}


class Services:
    """A chat API and RunPod, which answer the row that a prompt names."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._jobs: list[dict[str, Any]] = []

    def __call__(self, seen: Seen) -> Say:
        if seen.path.endswith("/chat/completions"):
            return self._row(seen.json)
        if seen.path.endswith("/embeddings"):
            return TABLE[seen.json["input"][0]][0]
        if seen.path.endswith("/run"):
            self._jobs.append(
                {
                    "id": f"j{len(self._jobs)}",
                    **_job(self._row(seen.json["input"]["openai_input"]), seen.path),
                }
            )
            return Say({"id": self._jobs[-1]["id"], "status": "IN_QUEUE"})
        return Say(self._jobs[int(seen.path.rpartition("/j")[2])])

    def _row(self, body: dict[str, Any]) -> Say:
        name = body["messages"][-1]["content"]
        self.asked.append(name)
        return TABLE[name][0]


def _job(say: Say, path: str) -> dict[str, Any]:
    """Return the job in which worker-vllm passes a response on."""
    text = say.body.decode() if isinstance(say.body, bytes) else json.dumps(say.body)
    if say.status == 200:
        return {"status": "COMPLETED", "output": [text] if isinstance(say.body, bytes) else [say.body]}
    error = {"message": f"vLLM returned HTTP {say.status}: {text}", "type": "worker_error", "code": None}
    if "/failed/" in path:
        return {"status": "FAILED", "error": str(error)}
    return {"status": "COMPLETED", "output": [{"error": error}]}


POLLING = PollingPolicy(0.001, 1, 0.001)
BACKENDS: dict[str, Callable[[str], Any]] = {
    "openai": lambda url: OpenAILLM("m", base_url=f"{url}/v1", api_key="none"),
    "vllm": lambda url: VLLMServerLLM(url, "m"),
    "runpod failed": lambda url: RunPodLLM(
        "failed", base_url=url, api_key="rpa_none", model="m", polling=POLLING
    ),
    "runpod completed": lambda url: RunPodLLM(
        "done", base_url=url, api_key="rpa_none", model="m", polling=POLLING
    ),
}
MODES = ("blocking", "asyncio")
Outcomes = dict[str, LLMResponse | Exception]


def request(name: str) -> LLMRequest:
    return LLMRequest("taste", ({"role": "user", "content": name},))


def ask_all(llm: Any) -> Outcomes:
    outcomes: Outcomes = {}
    for name in TABLE:
        try:
            outcomes[name] = llm.complete(request(name))
        except Exception as error:
            outcomes[name] = error
    llm.close()
    return outcomes


async def aask_all(llm: Any) -> Outcomes:
    outcomes: Outcomes = {}
    for name in TABLE:
        try:
            outcomes[name] = await llm.acomplete(request(name))
        except Exception as error:
            outcomes[name] = error
    await llm.aclose()
    return outcomes


@pytest.fixture(scope="module")
def services() -> Iterator[tuple[LocalServer, Services]]:
    answering = Services()
    with LocalServer(answering) as server:
        yield server, answering


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.sample(1)
def test_an_odd_answer_means_the_same_through_every_backend(
    backend: str, mode: str, services: tuple[LocalServer, Services]
) -> None:
    server, answering = services
    answering.asked.clear()
    llm = BACKENDS[backend](server.url)
    outcomes = ask_all(llm) if mode == "blocking" else anyio.run(aask_all, llm)

    got = {name: one if isinstance(one, LLMResponse) else type(one) for name, one in outcomes.items()}
    assert got == {name: expected for name, (_, expected) in TABLE.items()}
    assert answering.asked == list(TABLE), "each was asked once: the runner retries, nothing below it"


def test_an_error_means_the_same_to_an_embedder(services: tuple[LocalServer, Services]) -> None:
    server, _ = services
    embedder = APIEmbedder(f"{server.url}/v1", "m", size=2, api_key="none")
    expected, got = {}, {}
    for name, (say, kind) in TABLE.items():
        if say.status != 200:
            expected[name] = kind
            with pytest.raises(BackendError) as caught:
                embedder.embed_query(name)
            got[name] = type(caught.value)
    embedder.close()
    assert got == expected


def test_what_was_paid_for_is_kept_with_the_error(services: tuple[LocalServer, Services]) -> None:
    server, _ = services
    for make in BACKENDS.values():
        llm = make(server.url)
        for name in ("network_error", "content_filter"):
            with pytest.raises(BackendError) as caught:
                llm.complete(request(name))
            reply = caught.value.reply
            assert reply is not None
            assert (reply.text, reply.prompt_tokens, reply.completion_tokens) == ("half", 11, 5)
        llm.close()
