"""The codec of OpenAI's chat API: what is sent, and what every answer means."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.local_server import chat

from restaurant_llm_batch import LLMRequest, LLMResponse
from restaurant_llm_batch._http.classify import service_error
from restaurant_llm_batch._http.openai_api import chat_body, chat_error, read_chat
from restaurant_llm_batch._http.retry_after import retry_after
from restaurant_llm_batch._http.secrets import Secret, as_secret
from restaurant_llm_batch._http.status import decode, encode, parse_body
from restaurant_llm_batch._http.types import HTTPResponse
from restaurant_llm_batch.errors import (
    AuthenticationFailed,
    BackendError,
    ConfigurationError,
    PermanentBackendError,
    PromptTooLong,
    QuotaExhausted,
    RateLimited,
    TransientBackendError,
)

ASKED = LLMRequest("taste", ({"role": "user", "content": "맛은?"},), max_tokens=7, temperature=0.5)


def test_a_body_says_what_the_request_says() -> None:
    assert chat_body(ASKED, "m") == {
        "model": "m",
        "messages": [{"role": "user", "content": "맛은?"}],
        "max_tokens": 7,
        "temperature": 0.5,
    }


def test_a_schema_is_asked_for_strictly_under_a_name_that_services_accept() -> None:
    request = LLMRequest("맛 of it!" + "x" * 99, (), schema={"type": "object"})
    asked = chat_body(request, "m")["response_format"]["json_schema"]
    assert asked["schema"] == {"type": "object"}
    assert asked["strict"] is True
    assert asked["name"] == ("__of_it_" + "x" * 99)[:64]


def test_further_fields_go_before_ours() -> None:
    body = chat_body(
        ASKED, "m", max_tokens_field="max_completion_tokens", extra_body={"temperature": 0, "seed": 1}
    )
    assert (body["temperature"], body["seed"], body["max_completion_tokens"]) == (0, 1, 7)


def test_korean_is_sent_as_korean() -> None:
    assert "맛은?".encode() in encode(chat_body(ASKED, "m"))


@given(st.text(alphabet=st.characters()))
def test_any_text_can_be_sent_even_half_a_character(text: str) -> None:
    request = LLMRequest("x", ({"role": "user", "content": text + "\ud83d"},))
    sent = json.loads(encode(chat_body(request, "m")))["messages"][0]["content"]
    assert sent == text.encode("utf-8", "replace").decode() + "?"


def test_a_completion_becomes_a_reply() -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 8}}
    assert read_chat(chat("맛있다", usage=usage), "vllm") == LLMResponse(
        "맛있다", "stop", prompt_tokens=9, completion_tokens=4, model="tiny", cached_tokens=8
    )


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("length", "length"),
        ("MAX_TOKENS", "length"),
        ("tool_calls", "tool_calls"),
        (None, "stop"),
        ("eos", "stop"),
    ],
)
def test_the_finish_reason_is_passed_on(written: str | None, read: str) -> None:
    cut = chat("half")
    cut["choices"][0]["finish_reason"] = written
    assert read_chat(cut, "vllm").finish_reason == read


def test_a_refusal_is_a_reply_with_the_models_words() -> None:
    refused = chat("")
    refused["choices"][0]["message"] = {"role": "assistant", "content": None, "refusal": "I cannot."}
    reply = read_chat(refused, "openai")
    assert (reply.text, reply.finish_reason, reply.prompt_tokens) == ("I cannot.", "refusal", 11)


@pytest.mark.parametrize(
    "message",
    [{"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, {"content": "ab"}],
)
def test_content_in_parts_is_joined(message: dict[str, Any]) -> None:
    assert read_chat({"choices": [{"message": message}]}, "x").text == "ab"


@pytest.mark.parametrize("message", [None, {}, {"content": None}])
def test_no_content_is_an_empty_text(message: Any) -> None:
    assert read_chat({"choices": [{"message": message, "finish_reason": "length"}]}, "x").text == ""


NOT_A_COUNT: list[Any] = [
    None,
    0,
    -1,
    -2.0,
    True,
    "many",
    "",
    [],
    {},
    float("nan"),
    float("inf"),
    10**30,
    "9" * 400,
    "-3",
]


@pytest.mark.parametrize("tokens", NOT_A_COUNT, ids=repr)
def test_a_count_that_is_none_is_unknown(tokens: Any) -> None:
    assert read_chat(chat("x", usage={"prompt_tokens": tokens}), "x").prompt_tokens == 0


@pytest.mark.parametrize("tokens", [3000, 3000.0, "3000", " 3,000 ", "3000.0", 2999.5])
def test_a_count_is_read_however_it_is_written(tokens: Any) -> None:
    usage = {"prompt_tokens": tokens, "completion_tokens": tokens}
    reply = read_chat(chat("x", usage=usage), "x")
    assert (reply.prompt_tokens, reply.completion_tokens) == (3000, 3000)


@pytest.mark.parametrize("usage", [None, [], "none", 7, {}])
def test_no_usage_is_unknown(usage: Any) -> None:
    reply = read_chat(chat("x", usage=usage), "x")
    assert (reply.prompt_tokens, reply.completion_tokens) == (0, 0)


@pytest.mark.parametrize(
    ("more", "counts"),
    [
        ({"timings": {"prompt_n": 7, "cache_n": 4, "predicted_n": 5}}, (11, 5, 4)),
        ({"timings": {"prompt_n": 11, "predicted_n": 5, "predicted_ms": 7.5}}, (11, 5, 0)),
        ({"timings": None, "prompt_eval_count": 11, "eval_count": 5}, (11, 5, 0)),
        ({"timings": {"prompt_n": "x"}}, (0, 0, 0)),
        ({"usage": {"prompt_tokens": 3, "completion_tokens": 2}, "timings": {"prompt_n": 7}}, (3, 2, 0)),
        (
            {
                "usage": {
                    "prompt_tokens": 9,
                    "completion_tokens": 2,
                    "prompt_tokens_details": {"cached_tokens": "4"},
                }
            },
            (9, 2, 4),
        ),
    ],
)
def test_tokens_are_read_where_a_server_reports_them(
    more: dict[str, Any], counts: tuple[int, int, int]
) -> None:
    reply = read_chat({**chat("x", usage=None), **more}, "x")
    assert (reply.prompt_tokens, reply.completion_tokens, reply.cached_tokens) == counts


def test_a_completion_in_ollamas_own_form_is_one() -> None:
    body = {
        "model": "m",
        "message": {"role": "assistant", "content": "x", "thinking": "hm"},
        "done": True,
        "done_reason": "length",
        "prompt_eval_count": 11,
        "eval_count": 5,
    }
    assert read_chat(body, "x") == LLMResponse("x", "length", 11, 5, "m")
    with pytest.raises(TransientBackendError):
        read_chat({**body, "done": False}, "x")


def test_a_completion_without_a_message_has_its_text_beside() -> None:
    body = {"choices": [{"text": "x", "finish_reason": "stop"}]}
    assert read_chat(body, "x").text == "x"


def test_zeros_behind_a_body_are_no_fault() -> None:
    assert parse_body(b'{"a": 1}\n\0\0') == {"a": 1}


def test_what_one_count_lacks_the_total_has() -> None:
    reply = read_chat(chat("x", usage={"total_tokens": 30, "completion_tokens": 10}), "x")
    assert (reply.prompt_tokens, reply.completion_tokens) == (20, 10)


def test_no_more_tokens_are_cached_than_were_read() -> None:
    usage = {"prompt_tokens": 10, "prompt_tokens_details": {"cached_tokens": 9999}}
    assert read_chat(chat("x", usage=usage), "x").cached_tokens == 10


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"object": "error", "code": 404, "message": "no such model"}, PermanentBackendError),
        ({"object": "error", "message": "odd"}, TransientBackendError),
        ({"error": {"message": "busy", "code": 503}}, RateLimited),
        ({"error": {"message": "failed", "code": 503}}, TransientBackendError),
        ({"error": {"message": "no", "type": "invalid_request_error", "code": None}}, PermanentBackendError),
        ({"error": {"message": "later", "type": "overloaded_error"}}, RateLimited),
        ({"detail": "Internal failure"}, TransientBackendError),
        ({"error": "Unauthorized"}, TransientBackendError),
        ({"choices": []}, TransientBackendError),
        ({"choices": None}, TransientBackendError),
        ({}, TransientBackendError),
        ([], TransientBackendError),
        (None, TransientBackendError),
        ("text", TransientBackendError),
    ],
)
def test_an_error_with_status_200_is_an_error(body: Any, kind: type[BackendError]) -> None:
    with pytest.raises(kind):
        read_chat(body, "x")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(["choices", "message", "content", "usage", "error", "code", "object"]), inner
            )
        ),
    )
)
def test_no_answer_whatever_is_more_than_a_reply_or_a_backend_error(body: Any) -> None:
    try:
        reply = read_chat(body, "x")
    except BackendError:
        return
    texts = (reply.text, reply.finish_reason, reply.model)
    counts = (reply.prompt_tokens, reply.completion_tokens, reply.cached_tokens)
    assert [type(text) for text in texts] == [str] * 3
    assert all(type(count) is int and count >= 0 for count in counts)


def openai_error(code: str | None, kind: str = "x", words: str = "words") -> dict[str, Any]:
    return {"error": {"message": words, "type": kind, "param": None, "code": code}}


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, openai_error(None), PermanentBackendError),
        (400, openai_error("context_length_exceeded", "invalid_request_error"), PromptTooLong),
        (
            400,
            openai_error(None, "BadRequestError", "This model's maximum context length is 8192 tokens. How"),
            PromptTooLong,
        ),
        (401, openai_error("invalid_api_key"), AuthenticationFailed),
        (401, {"error": "Unauthorized"}, AuthenticationFailed),
        (402, "", QuotaExhausted),
        (403, openai_error("unsupported_country_region_territory"), PermanentBackendError),
        (404, openai_error(None, "NotFoundError"), PermanentBackendError),
        (408, "", TransientBackendError),
        (409, "", TransientBackendError),
        (413, "", PromptTooLong),
        (422, {"detail": [{"msg": "extra inputs are not permitted"}]}, PermanentBackendError),
        (425, "", TransientBackendError),
        (429, openai_error("rate_limit_exceeded", "requests"), RateLimited),
        (429, openai_error("slow_down", "rate_limit_error"), RateLimited),
        (429, openai_error("insufficient_quota", "insufficient_quota"), QuotaExhausted),
        (429, openai_error("credit_balance_exhausted", "insufficient_quota"), QuotaExhausted),
        (429, openai_error("organization_spend_limit_exceeded", "x"), QuotaExhausted),
        (429, openai_error(None, "insufficient_quota"), QuotaExhausted),
        (429, "", RateLimited),
        (500, "<html>", TransientBackendError),
        (503, openai_error("server_is_overloaded", "service_unavailable_error"), RateLimited),
    ],
)
def test_every_row_of_the_error_table(status: int, body: Any, kind: type[BackendError]) -> None:
    error = chat_error(status, body, {}, "openai")
    assert type(error) is kind
    assert (error.status, error.backend) == (status, "openai")
    assert str(status) in str(error) or kind in (QuotaExhausted, PromptTooLong)


def test_words_in_a_review_do_not_make_a_rate_limit() -> None:
    error = chat_error(400, openai_error(None, words="the review says 429 insufficient_quota"), {}, "x")
    assert type(error) is PermanentBackendError


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00"}, 0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({}, None),
    ],
)
def test_how_long_a_service_asks_us_to_wait(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds
    error = service_error(429, "", "x", headers=headers)
    assert isinstance(error, RateLimited)
    assert error.retry_after == seconds


def test_a_redirect_says_what_to_write() -> None:
    error = service_error(307, "", "vllm", headers={"location": "https://new.example/v1"})
    assert type(error) is PermanentBackendError
    assert "https://new.example/v1" in str(error)


def test_what_is_not_json_may_pass() -> None:
    with pytest.raises(TransientBackendError, match="not JSON"):
        decode(HTTPResponse(200, {}, b"<html>gateway"), "vllm")


class TestSecrets:
    """A key is told to nobody but the service."""

    key = "sk-proj-hush-1234567890"

    def test_it_does_not_show(self) -> None:
        secret = as_secret(self.key)
        assert self.key not in f"{secret} {secret!r} {[secret]}"
        with pytest.raises(TypeError, match="not pickled"):
            pickle.dumps(secret)

    def test_it_may_be_wrapped_as_pydantic_does(self) -> None:
        from pydantic import SecretStr

        secret = as_secret(SecretStr(self.key))
        assert secret is not None
        assert secret.reveal() == self.key

    @pytest.mark.parametrize("nothing", [None, "", "  "])
    def test_nothing_is_none(self, nothing: str | None) -> None:
        assert as_secret(nothing) is None

    def test_a_newline_at_its_end_is_dropped_and_elsewhere_refused(self) -> None:
        secret = as_secret(self.key + "\n")
        assert secret is not None
        assert secret.reveal() == self.key
        for wrong in (f"{self.key}\nX-Evil: 1", "키", "a b"):
            with pytest.raises(ConfigurationError, match="api_key") as caught:
                as_secret(wrong)
            assert wrong not in str(caught.value)

    def test_a_service_that_repeats_it_does_not_tell_it(self) -> None:
        words = f"Incorrect API key provided: {self.key}, or sk-pr********************7890. Find it"
        error = chat_error(401, openai_error("invalid_api_key", words=words), {}, "x", Secret(self.key))
        assert "hush" not in str(error)
        assert "7890" not in str(error)
        assert "Incorrect API key provided" in str(error)
        with pytest.raises(TransientBackendError) as caught:
            read_chat({"odd": self.key}, "x", Secret(self.key))
        assert "hush" not in str(caught.value)
