"""What `OpenAILLM` makes of every kind of refusal, and that no key is ever told."""

from __future__ import annotations

import json
import logging
import pickle
import traceback
from typing import Any

import httpx2
import openai
import pytest
from tests.support.calling import MODES, REQUEST, ask
from tests.support.local_server import LocalServer, Say

from restaurant_llm_batch import errors
from restaurant_llm_batch.backends import HTTPTransport, OpenAILLM

KEY = "sk-proj-Abc123secret"


def complaint(message: str = "no", *, code: Any = None, kind: Any = None, param: Any = None) -> Any:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


TOO_LARGE = (
    "Request too large for gpt-4.1 in organization org-x on tokens per min (TPM): Limit 30000, "
    "Requested 30601. The input or output tokens must be reduced in order to run successfully."
)
QUOTA = [
    ("insufficient_quota", "insufficient_quota"),
    ("credit_balance_exhausted", "insufficient_quota"),
    ("organization_spend_limit_exceeded", "insufficient_quota"),
    ("project_spend_limit_exceeded", "insufficient_quota"),
    ("organization_usage_limit_exceeded", "insufficient_quota"),
    ("billing_hard_limit_reached", None),
    (None, "insufficient_quota"),
]
TABLE: list[tuple[int, Any, dict[str, str], type[errors.BackendError], str]] = [
    (400, complaint("bad", kind="invalid_request_error"), {}, errors.PermanentBackendError, "bad"),
    (400, complaint(code="context_length_exceeded"), {}, errors.PromptTooLong, "no"),
    (
        400,
        complaint("This model's maximum context length is 8192 tokens", code=400),
        {},
        errors.PromptTooLong,
        "8192",
    ),
    (
        401,
        complaint("Incorrect API key", code="invalid_api_key"),
        {},
        errors.AuthenticationFailed,
        "Incorrect",
    ),
    (403, complaint("Country not supported"), {}, errors.PermanentBackendError, "Country"),
    (
        404,
        complaint("no such model", code="model_not_found"),
        {},
        errors.PermanentBackendError,
        "model_not_found",
    ),
    (408, b"", {}, errors.TransientBackendError, "408"),
    (409, complaint(), {}, errors.TransientBackendError, "409"),
    (413, b"too large", {}, errors.PromptTooLong, "413"),
    (422, {"detail": [{"loc": ["body"], "msg": "extra"}]}, {}, errors.PermanentBackendError, "extra"),
    *((429, complaint(code=code, kind=kind), {}, errors.QuotaExhausted, "no") for code, kind in QUOTA),
    (429, complaint(code="rate_limit_exceeded", kind="requests"), {}, errors.RateLimited, "rate_limit"),
    (429, complaint(TOO_LARGE, code="rate_limit_exceeded", kind="tokens"), {}, errors.PromptTooLong, "30601"),
    (429, complaint(code="slow_down", kind="rate_limit_error"), {}, errors.RateLimited, "slow_down"),
    (429, complaint(code="resource_unavailable"), {}, errors.RateLimited, "resource_unavailable"),
    (429, b"<html>busy</html>", {}, errors.RateLimited, "busy"),
    (500, complaint(), {"retry-after": "2"}, errors.TransientBackendError, "500"),
    (502, b"<html>Bad gateway</html>", {}, errors.TransientBackendError, "Bad gateway"),
    (503, complaint(code="server_is_overloaded"), {}, errors.RateLimited, "overloaded"),
    (307, b"", {"location": "http://elsewhere/v1"}, errors.PermanentBackendError, "http://elsewhere/v1"),
    (
        200,
        {"object": "error", "message": "no model", "code": 404},
        {},
        errors.PermanentBackendError,
        "no model",
    ),
    (200, {"error": {"message": "busy", "code": 503}}, {}, errors.RateLimited, "busy"),
    (200, {"choices": None}, {}, errors.TransientBackendError, "no completion"),
    (200, {"choices": []}, {}, errors.TransientBackendError, "no completion"),
    (200, b"<html>login</html>", {}, errors.TransientBackendError, "not JSON"),
]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("status", "body", "headers", "kind", "words"), TABLE)
@pytest.mark.sample(8)
def test_every_refusal_is_understood(
    mode: str, status: int, body: Any, headers: dict[str, str], kind: type[Exception], words: str
) -> None:
    answer = Say(body, status=status, headers=headers)
    with LocalServer(lambda seen: answer) as server, pytest.raises(kind, match=words) as caught:
        ask(OpenAILLM("m", api_key=KEY, base_url=f"{server.url}/v1"), mode)

    error = caught.value
    assert type(error) is kind
    assert isinstance(error, errors.BackendError)
    assert error.backend == "openai"
    assert len(server.seen) == 1
    if status != 200:
        assert error.status == status
        assert isinstance(error.__cause__, openai.APIStatusError)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.status) == (kind, str(error), error.status)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after": "soon"}, None),
        ({}, None),
    ],
)
def test_how_long_to_wait_is_passed_on(headers: dict[str, str], seconds: float | None) -> None:
    answer = Say(complaint(code="rate_limit_exceeded"), status=429, headers=headers)
    with LocalServer(lambda seen: answer) as server, pytest.raises(errors.RateLimited) as caught:
        ask(OpenAILLM("m", api_key=KEY, base_url=f"{server.url}/v1"), "blocking")

    assert caught.value.retry_after == seconds


def test_a_service_tier_that_is_refused_comes_with_what_to_write() -> None:
    body = complaint("Invalid service_tier argument", code="invalid_value", param="service_tier")
    refused = pytest.raises(errors.PermanentBackendError, match=r"service_tier=\.\.\.")
    with LocalServer(lambda seen: Say(body, status=400)) as server, refused:
        ask(OpenAILLM("m", api_key=KEY, base_url=f"{server.url}/v1", service_tier="flex"), "blocking")


def test_a_base_url_without_v1_comes_with_what_to_write() -> None:
    refused = pytest.raises(errors.PermanentBackendError, match="ends with /v1")
    with LocalServer(lambda seen: Say({"detail": "Not Found"}, status=404)) as server, refused:
        ask(OpenAILLM("m", api_key=KEY, base_url=server.url), "blocking")


def test_other_errors_of_the_sdk_are_permanent() -> None:
    def fail(request: httpx2.Request) -> httpx2.Response:
        raise openai.OpenAIError("no token")

    client = openai.OpenAI(api_key=KEY, http_client=httpx2.Client(transport=httpx2.MockTransport(fail)))
    with pytest.raises(errors.PermanentBackendError, match="no token"):
        OpenAILLM("m", client=client).complete(REQUEST)


ECHOES = [
    Say(complaint(f"Incorrect API key provided: {KEY}."), status=401),
    Say(complaint(f"Incorrect API key provided: {KEY}."), status=429),
    Say(complaint(TOO_LARGE + KEY), status=429),
    Say({"seen": {"Authorization": f"Bearer {KEY}"}}, status=400),
    Say(f"got Bearer {KEY}".encode(), status=502),
    Say(b"", status=500, headers={"x-echo": KEY}),
    Say({"error": {"message": f"bad key {KEY}", "code": 401}}),
    Say({"choices": None, "key": KEY}),
    Say(f"<html>{KEY}</html>".encode()),
    Say(b"", hang_up=True),
]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("answer", ECHOES)
@pytest.mark.sample(5)
def test_no_key_is_shown_whatever_the_server_echoes(
    mode: str, answer: Say, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with LocalServer(lambda seen: answer) as server, pytest.raises(errors.BackendError) as caught:
        ask(OpenAILLM("m", api_key=KEY, base_url=f"{server.url}/v1"), mode)

    assert server.seen[0].headers["Authorization"] == f"Bearer {KEY}"
    for error in everything_behind(caught.value):
        assert KEY not in f"{error} {error!r} {error.args}"
        assert KEY not in json.dumps(vars(error), default=repr)
    assert KEY not in "".join(traceback.format_exception(caught.value))
    assert KEY.encode() not in pickle.dumps(caught.value)
    if "x-echo" not in answer.headers:  # httpcore2 logs the headers of answers, whatever is in them
        assert KEY not in caplog.text


def everything_behind(error: BaseException | None) -> list[BaseException]:
    """Return an error with its causes and contexts, hidden ones too."""
    found: list[BaseException] = []
    left = [error]
    while left:
        one = left.pop()
        if one is not None and one not in found:
            found.append(one)
            left += [one.__cause__, one.__context__]
    return found


def test_a_key_of_a_users_own_client_is_not_shown_either() -> None:
    def echo(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(401, json=complaint(f"bad {request.headers['api-key']}"))

    client = openai.AzureOpenAI(
        api_key=KEY,
        api_version="1",
        azure_endpoint="https://mine.openai.azure.com",
        http_client=httpx2.Client(transport=httpx2.MockTransport(echo)),
    )
    with pytest.raises(errors.AuthenticationFailed) as caught:
        OpenAILLM("m", client=client).complete(REQUEST)

    assert all(KEY not in f"{error!r}" for error in everything_behind(caught.value))


def test_the_object_neither_shows_nor_pickles_its_key() -> None:
    llm = OpenAILLM("m", api_key=KEY, transport=HTTPTransport())

    assert repr(llm) == "OpenAILLM('m', base_url='https://api.openai.com/v1')"
    assert KEY not in f"{llm} {vars(llm)} {vars(llm._clients)}"
    with pytest.raises(TypeError):
        pickle.dumps(llm)


def test_an_unusable_key_is_not_quoted() -> None:
    with pytest.raises(errors.ConfigurationError) as caught:
        OpenAILLM("m", api_key=f"{KEY} and more")

    assert KEY not in str(caught.value)
