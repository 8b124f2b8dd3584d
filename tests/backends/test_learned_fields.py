"""Fields that a model refuses: the first refusal teaches the backend, and nothing is lost, in every backend alike."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

import pytest
from tests.support.calling import ask_often
from tests.support.local_server import LocalServer, Say, Seen, chat

from restaurant_llm_batch import LLMRequest
from restaurant_llm_batch._http.fields import LearnedFields
from restaurant_llm_batch.backends import OpenAILLM, RunPodLLM, VLLMServerLLM
from restaurant_llm_batch.backends.runpod.llm import PollingPolicy
from restaurant_llm_batch.errors import BackendError, PermanentBackendError

SCHEMA = {
    "type": "object",
    "properties": {"맛": {"type": "string"}},
    "required": ["맛"],
    "additionalProperties": False,
}
REQUEST = LLMRequest("taste", ({"role": "user", "content": "맛은?"},), schema=SCHEMA, priority=3)
Refuse: TypeAlias = Callable[[Mapping[str, Any]], Any]
"""Return the error for a request body, or None to answer it."""


class Service:
    """All three services in one: chat completions, and jobs that carry them."""

    def __init__(self, refuse: Refuse, status: int = 400) -> None:
        self.bodies: list[dict[str, Any]] = []
        self._refuse = refuse
        self._status = status
        self._jobs: dict[str, dict[str, Any]] = {}
        self.server = LocalServer(self._answer)

    def _answer(self, seen: Seen) -> Say:
        if seen.path.endswith("/chat/completions"):
            error = self._complete(seen.json)
            return Say(chat("좋다")) if error is None else Say(error, self._status)
        if seen.path.endswith("/run"):
            error = self._complete(seen.json["input"]["openai_input"])
            job: dict[str, Any] = {
                "id": f"j{len(self._jobs)}",
                "status": "COMPLETED",
                "output": [chat("좋다")],
            }
            if error is not None:
                words = f"vLLM returned HTTP {self._status}: {json.dumps(error)}"
                job |= {
                    "status": "FAILED",
                    "error": str({"message": words, "type": "worker_error", "code": None}),
                }
            self._jobs[job["id"]] = job
            return Say({"id": job["id"], "status": "IN_QUEUE"})
        return Say(self._jobs[seen.path.rpartition("/")[2]])

    def _complete(self, body: dict[str, Any]) -> Any:
        self.bodies.append(body)
        return self._refuse(body)


def runpod(url: str) -> RunPodLLM:
    return RunPodLLM(
        "ep", base_url=f"{url}/v2", api_key="rpa_none", model="m", polling=PollingPolicy(0.001, 1, 0.001)
    )


MAKERS: dict[str, Callable[[str], Any]] = {
    "openai": lambda url: OpenAILLM(
        "m", base_url=f"{url}/v1", api_key="none", extra_body={"top_k": 5, "seed": 1}
    ),
    "vllm": lambda url: VLLMServerLLM(url, "m", extra_body={"seed": 1}),
    "runpod": runpod,
}
every_backend = pytest.mark.parametrize("backend", MAKERS)
every_mode = pytest.mark.parametrize("mode", ["blocking", "asyncio"])


def complaint(message: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}}


def refuse(name: str, words: str, **more: Any) -> Refuse:
    return lambda body: complaint(words, **more) if name in body else None


def old_tokens(body: Mapping[str, Any]) -> Any:
    if "max_tokens" in body:
        words = "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead."
        return complaint(words, "max_tokens", "unsupported_parameter")
    return None if "max_completion_tokens" in body else complaint("no limit")


def no_schema(body: Mapping[str, Any]) -> Any:
    if body.get("response_format", {}).get("type") == "json_schema":
        return complaint("This response_format type is unavailable now")
    return None


def no_format(body: Mapping[str, Any]) -> Any:
    form = body.get("response_format")
    return form and complaint(
        f"Invalid parameter: 'response_format' of type '{form['type']}' is not supported."
    )


def strict_pydantic(body: Mapping[str, Any]) -> Any:
    known = {"model", "messages", "max_tokens", "temperature", "response_format"}
    extra = [name for name in body if name not in known]
    rows = [
        {"type": "extra_forbidden", "loc": ["body", name], "msg": "Extra inputs are not permitted"}
        for name in extra
    ]
    return {"detail": rows} if rows else None


def one_at_a_time(body: Mapping[str, Any]) -> Any:
    names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed", "priority")
    found = next((name for name in names if name in body), None)
    return found and complaint(f"Unrecognized request argument supplied: {found}")


REFUSALS: dict[str, tuple[Refuse, int]] = {
    "temperature": (
        refuse(
            "temperature",
            "Unsupported value: 'temperature' does not support 0.1. Only the default (1) value is supported.",
            param="temperature",
            code="unsupported_value",
        ),
        1,
    ),
    "temperature, in other words": (
        refuse("temperature", "invalid temperature: only 1 is allowed for this model"),
        1,
    ),
    "temperature, only 1": (
        refuse("temperature", "`temperature` may only be set to 1 when thinking is enabled."),
        1,
    ),
    "temperature, not applicable": (refuse("temperature", "temperature is not applicable to this model"), 1),
    "temperature, cannot be set": (refuse("temperature", "You can't set temperature with this model"), 1),
    "forms in a list": (
        refuse("response_format", "'response_format.type' must be 'text' or 'json_object'"),
        2,
    ),
    "forms by pydantic": (
        lambda body: (
            {
                "detail": [
                    {
                        "type": "literal_error",
                        "loc": ["body", "response_format", "type"],
                        "msg": "Input should be 'text' or 'json_object'",
                    }
                ]
            }
            if body.get("response_format", {}).get("type") == "json_schema"
            else None
        ),
        1,
    ),
    "no grammar": (refuse("response_format", "guided decoding is not supported by this backend"), 2),
    "an old API": (
        refuse(
            "response_format",
            "response_format as json_schema is enabled only for API versions of 2025 and later",
        ),
        2,
    ),
    "deprecated": (refuse("temperature", "`temperature` is deprecated for this model."), 1),
    "max_tokens": (old_tokens, 1),
    "json_schema": (no_schema, 1),
    "any response_format": (no_format, 2),
    "all extras at once": (strict_pydantic, 1),
    "one after the other": (one_at_a_time, 7),
}


@every_mode
@every_backend
@pytest.mark.parametrize("name", REFUSALS)
@pytest.mark.sample(6)
def test_a_refused_field_is_learned_once(
    name: str, backend: str, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    refusal, most = REFUSALS[name]
    service = Service(refusal)
    with service.server as server:
        llm = MAKERS[backend](server.url)
        replies = ask_often(llm, mode, 3, REQUEST)

    assert [reply.text for reply in replies] == ["좋다"] * 3
    refused = [body for body in service.bodies if refusal(body)]
    assert len(refused) <= most
    assert len(service.bodies) == len(refused) + 3
    assert service.bodies[: len(refused)] == refused, "the later calls were sent rightly at once"
    warned = [
        one for one in caplog.records if one.levelno == logging.WARNING and "does not support" in one.message
    ]
    assert len(warned) == len(refused)


@every_backend
def test_the_limit_of_tokens_is_renamed_and_never_lost(backend: str) -> None:
    service = Service(old_tokens)
    with service.server as server:
        ask_often(MAKERS[backend](server.url), "blocking", 1, REQUEST)
    assert service.bodies[-1]["max_completion_tokens"] == REQUEST.max_tokens


@pytest.mark.parametrize(("refusal", "form"), [(no_schema, {"type": "json_object"}), (no_format, None)])
@every_backend
def test_a_model_without_schemas_is_told_the_schema_in_words(
    backend: str, refusal: Refuse, form: Any
) -> None:
    service = Service(refusal)
    with service.server as server:
        ask_often(MAKERS[backend](server.url), "blocking", 1, REQUEST)
    body = service.bodies[-1]
    assert body.get("response_format") == form
    assert json.dumps(SCHEMA, ensure_ascii=False) in body["messages"][0]["content"]
    assert body["messages"][-1] == REQUEST.messages[-1]


NOT_LEARNED: dict[str, Refuse] = {
    "a value out of range": lambda body: complaint("temperature must be between 0 and 2", "temperature"),
    "a limit too high": lambda body: complaint(
        "max_tokens is too large: 50000. This model supports at most 4096 completion tokens", "max_tokens"
    ),
    "a field of the user's own purse": lambda body: complaint(
        "Unsupported parameter: service_tier", "service_tier", "unsupported_parameter"
    ),
    "another reason": lambda body: complaint("The model does not support images"),
    "a prompt's words": lambda body: complaint("Invalid 'messages': \"unknown field, temperature\" is odd"),
}


@every_mode
@every_backend
@pytest.mark.parametrize("name", NOT_LEARNED)
@pytest.mark.sample(12)
def test_what_is_no_refused_field_is_told_at_once(name: str, backend: str, mode: str) -> None:
    service = Service(NOT_LEARNED[name])
    with service.server as server, pytest.raises(PermanentBackendError):
        ask_often(MAKERS[backend](server.url), mode, 1, REQUEST)
    assert len(service.bodies) == 1


@every_mode
@every_backend
@pytest.mark.parametrize("field", ["temperature", "max_tokens", "response_format", "seed"])
@pytest.mark.sample(3)
def test_a_wrong_lesson_neither_loops_nor_lasts(field: str, backend: str, mode: str) -> None:
    service = Service(
        lambda body: complaint(f"Unsupported parameter: '{field}'", field, "unsupported_parameter")
    )
    with service.server as server:
        llm = MAKERS[backend](server.url)
        for _ in range(2):
            before = len(service.bodies)
            with pytest.raises(PermanentBackendError):
                ask_often(llm, mode, 1, REQUEST)
            sent = service.bodies[before:]
            assert len(sent) <= 3
            if field in service.bodies[0]:
                assert field in sent[0], "nothing has ever worked without the field"


@pytest.mark.sample(1)
@every_backend
def test_refusals_at_once_are_as_many_as_are_in_flight(backend: str) -> None:
    threads = 8
    barrier = threading.Barrier(threads)

    def refusal(body: Mapping[str, Any]) -> Any:
        return (
            complaint("Unsupported parameter: 'temperature'", "temperature")
            if "temperature" in body
            else None
        )

    service = Service(refusal)
    with service.server as server, ThreadPoolExecutor(threads) as pool:
        llm = MAKERS[backend](server.url)

        def call(number: int) -> str:
            barrier.wait()
            return "".join(llm.complete(REQUEST).text for _ in range(3))

        answers = list(pool.map(call, range(threads)))
        llm.close()
    assert answers == ["좋다" * 3] * threads
    assert sum("temperature" in body for body in service.bodies) <= threads


def test_a_failure_that_passes_does_not_undo_a_lesson() -> None:
    learned = LearnedFields("x")
    body = {"temperature": 1, "max_tokens": 5}
    request = learned.request(body)
    assert request.is_repeated_after(PermanentBackendError("no", refused_fields=("temperature",)))
    assert request.body == {"max_tokens": 5}
    assert request.accepted("reply") == "reply"
    later = learned.request(body)
    assert later.body == {"max_tokens": 5}
    assert not later.is_repeated_after(PermanentBackendError("bad prompt"))
    assert learned.request(body).body == {"max_tokens": 5}


def test_what_was_not_sent_teaches_nothing() -> None:
    request = LearnedFields("x").request({"max_tokens": 5})
    assert not request.is_repeated_after(PermanentBackendError("no", refused_fields=("temperature",)))


def test_an_error_of_another_status_teaches_nothing() -> None:
    service = Service(refuse("temperature", "Unsupported parameter: 'temperature'"), status=500)
    with service.server as server, pytest.raises(BackendError):
        ask_often(MAKERS["vllm"](server.url), "blocking", 1, REQUEST)
    assert len(service.bodies) == 1
