"""Classification of errors: what services really write, and which error each becomes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.growth import assert_linear

from restaurant_llm_batch._http.classify import service_error
from restaurant_llm_batch._http.secrets import Secret
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

WRITTEN: dict[type[BackendError], list[tuple[int, Any]]] = {
    RateLimited: [
        (
            503,
            {
                "error": {
                    "message": "The engine is currently busy and cannot accept new requests",
                    "type": "Service Unavailable",
                    "code": 503,
                }
            },
        ),
        (
            503,
            {
                "error": {
                    "message": "prefill token backlog limit exceeded",
                    "type": "Service Unavailable",
                    "code": 503,
                }
            },
        ),
        (529, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}),
        (529, ""),
        (
            503,
            {
                "error": {
                    "code": 503,
                    "message": "The model is overloaded. Please try again later.",
                    "status": "UNAVAILABLE",
                }
            },
        ),
        (
            503,
            {
                "error": {
                    "code": 503,
                    "message": (
                        "This model is currently experiencing high demand. Spikes in demand are "
                        "usually temporary."
                    ),
                    "status": "UNAVAILABLE",
                }
            },
        ),
        (
            429,
            {
                "error": {
                    "code": 429,
                    "message": "Resource has been exhausted (e.g. check quota).",
                    "status": "RESOURCE_EXHAUSTED",
                    "details": [{"@type": "x/RetryInfo", "retryDelay": "34s"}],
                }
            },
        ),
        (
            429,
            [
                {
                    "error": {
                        "code": 429,
                        "message": (
                            "You exceeded your current quota, please check your plan and billing "
                            "details. Please retry in 17.3s."
                        ),
                        "status": "RESOURCE_EXHAUSTED",
                    }
                }
            ],
        ),
        (503, {"error": "server busy, please try again.  maximum pending requests exceeded"}),
        (503, "The request queue is full."),
        (
            503,
            {
                "object": "error",
                "message": "The request queue is full.",
                "type": "SERVICE_UNAVAILABLE",
                "code": 503,
            },
        ),
        (429, {"error": "Model is overloaded", "error_type": "overloaded"}),
        (424, {"error": "Model is overloaded", "error_type": "overloaded"}),
        (503, {"error": "Model too busy, unable to get response in less than 60 second(s)"}),
        (503, "Request dropped due to backpressure (num_ongoing_requests=10, max_queued_requests=5)."),
        (
            500,
            {
                "error": {
                    "message": "We're currently processing too many requests - please try again later.",
                    "type": "server_error",
                }
            },
        ),
        (503, {"error": {"message": "slow_down", "code": "slow_down"}}),
        (
            503,
            {
                "error": {
                    "message": "Please reduce your request rate.",
                    "type": "rate_limit_error",
                    "code": "slow_down",
                }
            },
        ),
        (
            498,
            {
                "error": {
                    "message": "Flex tier capacity exceeded",
                    "type": "flex",
                    "code": "capacity_exceeded",
                }
            },
        ),
        (400, {"__type": "ThrottlingException", "message": "Rate exceeded"}),
        (
            403,
            {
                "error": {
                    "errors": [{"reason": "rateLimitExceeded"}],
                    "code": 403,
                    "message": "Rate Limit Exceeded",
                }
            },
        ),
        (
            400,
            {
                "error": {
                    "message": "Requests rate limit exceeded, please try again later.",
                    "code": "Throttling.RateQuota",
                }
            },
        ),
        (503, {"detail": "no slots available"}),
        (503, {"error": {"message": "no slot available", "type": "unavailable_error", "code": 503}}),
        (503, "All workers are busy"),
        (
            502,
            {
                "error": {
                    "message": "Provider returned error",
                    "code": 502,
                    "metadata": {
                        "raw": '{"error":{"type":"overloaded_error","message":"Overloaded"}}',
                        "provider_name": "Anthropic",
                    },
                }
            },
        ),
        (503, {"message": "Too many concurrent requests", "code": 20035}),
        (503, {"error": {"message": "Requests to this model exceed its concurrency limit"}}),
        (503, {"error": {"message": "The server is at capacity"}}),
        (503, {"error": {"message": "Selected model is at capacity. Please try a different model."}}),
        (500, {"error": {"message": "System is under heavy load"}}),
    ],
    TransientBackendError: [
        (503, {"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}}),
        (503, "upstream connect error or disconnect/reset before headers. reset reason: connection failure"),
        (
            503,
            (
                "<html><head><title>503 Service "
                "Unavailable</title></head><body><center><h1>503 Service "
                "Unavailable</h1></center><hr><center>nginx</center></body></html>"
            ),
        ),
        (503, "no healthy upstream"),
        (503, ""),
        (503, "Service Unavailable"),
        (
            500,
            {
                "error": {
                    "message": "The server had an error while processing your request.",
                    "type": "server_error",
                }
            },
        ),
        (
            500,
            {
                "error": {
                    "message": "CUDA out of memory. Tried to allocate 2.00 GiB",
                    "type": "InternalServerError",
                }
            },
        ),
        (502, "<html>Bad gateway</html>"),
        (504, "upstream request timeout"),
        (408, ""),
        (409, ""),
    ],
    PromptTooLong: [
        (
            400,
            {
                "error": {
                    "code": 400,
                    "message": (
                        "request (2031 tokens) exceeds the available context size (1024 tokens), "
                        "try increasing it"
                    ),
                    "type": "exceed_context_size_error",
                }
            },
        ),
        (
            500,
            {
                "error": {
                    "code": 500,
                    "message": (
                        "the request exceeds the available context size. try increasing the context "
                        "size or enable context shift"
                    ),
                    "type": "server_error",
                }
            },
        ),
        (
            500,
            {"error": {"code": 500, "message": "context size exceeded", "type": "exceed_context_size_error"}},
        ),
        (
            400,
            {
                "object": "error",
                "message": "The input (9000 tokens) is longer than the model's context length (8192 tokens).",
                "type": "BadRequestError",
                "code": 400,
            },
        ),
        (
            400,
            {
                "object": "error",
                "message": (
                    "Requested token count exceeds the model's maximum context length of 8192 "
                    "tokens. You requested a total of"
                ),
                "code": 400,
            },
        ),
        (
            400,
            (
                "Input length (9000 tokens) exceeds the maximum allowed length (8185 "
                "tokens). Use a shorter input or enable --allow-auto-truncate."
            ),
        ),
        (
            400,
            {
                "error": (
                    "Trying to keep the first 5131 tokens when context the overflows. However, "
                    "the model is loaded with context length of only 4096 tokens, which is not "
                    "enough. Try to load the model with a larger context length, or provide a "
                    "shorter input"
                )
            },
        ),
        (
            422,
            {
                "error": (
                    "Input validation error: `inputs` tokens + `max_new_tokens` must be <= "
                    "2048. Given: 3000 `inputs` tokens and 20 `max_new_tokens`"
                ),
                "error_type": "validation",
            },
        ),
        (
            422,
            {
                "error": "Input validation error: `inputs` must have less than 1024 tokens. Given: 2000",
                "error_type": "validation",
            },
        ),
        (400, {"error": "prompt is too long: 210000 tokens > 200000 maximum"}),
        (
            400,
            {
                "type": "error",
                "error": {
                    "type": "invalid_request_error",
                    "message": "prompt is too long: 210000 tokens > 200000 maximum",
                },
            },
        ),
        (
            400,
            {
                "error": {
                    "message": "This model's maximum context length is 8192 tokens. However",
                    "code": "context_length_exceeded",
                }
            },
        ),
        (
            400,
            {
                "error": {
                    "code": 400,
                    "message": (
                        "The input token count (1200000) exceeds the maximum number of tokens "
                        "allowed (1048576)."
                    ),
                    "status": "INVALID_ARGUMENT",
                }
            },
        ),
        (500, {"error": "input length exceeds maximum context length"}),
        (400, {"error": "the input length exceeds the context length"}),
        (
            400,
            {
                "error": {
                    "message": "Please reduce the length of the messages or completion.",
                    "code": "context_length_exceeded",
                }
            },
        ),
        (400, {"message": "Range of input length should be [1, 30720]", "code": "InvalidParameter"}),
        (
            413,
            {
                "error": {
                    "message": (
                        "Request too large for model `llama` on tokens per minute (TPM): Limit "
                        "6000, Requested 7000"
                    ),
                    "code": "rate_limit_exceeded",
                }
            },
        ),
        (
            429,
            {
                "error": {
                    "message": "Request too large for gpt-4.1 on tokens per min",
                    "code": "rate_limit_exceeded",
                }
            },
        ),
        (
            400,
            {
                "error": {
                    "message": (
                        "input tokens exceed the configured limit of 272000 tokens. Your messages "
                        "resulted in 300000 tokens. Please reduce the length of the messages."
                    ),
                    "code": "context_length_exceeded",
                }
            },
        ),
        (
            400,
            {
                "error": {
                    "message": (
                        "The decoder prompt (length 9001) is longer than the maximum model length "
                        "of 8192. Make sure"
                    )
                }
            },
        ),
        (400, {"error": {"message": "Prompt length 9000 exceeds limit of 8192 tokens"}}),
        (
            500,
            {
                "error": {
                    "message": "input is too large to process. increase the physical batch size",
                    "code": 500,
                }
            },
        ),
    ],
    ContentRefused: [
        (
            403,
            {
                "error": {
                    "code": 403,
                    "message": "Your chosen model requires moderation and your input was flagged",
                    "metadata": {"reasons": ["violence"]},
                }
            },
        ),
        (
            400,
            {
                "error": {
                    "message": (
                        "The response was filtered due to the prompt triggering Azure OpenAI's "
                        "content management policy."
                    ),
                    "code": "content_filter",
                    "innererror": {"code": "ResponsibleAIPolicyViolation"},
                }
            },
        ),
        (
            400,
            {
                "error": {
                    "code": "data_inspection_failed",
                    "message": "Input data may contain inappropriate content.",
                }
            },
        ),
        (
            400,
            {
                "error": {
                    "message": "Your request was rejected as a result of our safety system.",
                    "code": "content_policy_violation",
                }
            },
        ),
        (
            400,
            {
                "contentFilter": [{"level": 1}],
                "error": {"code": "1301", "message": "系统检测到输入或生成内容可能包含不安全或敏感内容"},
            },
        ),
    ],
    PermanentBackendError: [
        (
            403,
            (
                "<!DOCTYPE html><html><head><title>Attention Required! | "
                "Cloudflare</title></head><body><h1>Sorry, you have been "
                "blocked</h1><p>This website is using a security service; "
                "safety</p></body></html>"
            ),
        ),
        (403, {"error": {"message": "forbidden"}}),
        (403, {"error": {"message": "Project does not have access to model", "code": "model_not_found"}}),
        (400, {"error": {"message": "the review says 429 insufficient_quota"}}),
        (
            400,
            {
                "error": {
                    "message": "Invalid value for messages[0]: '매장 busy, 서버 overloaded, rate limit' x"
                }
            },
        ),
        (404, {"error": {"message": "The model `overloaded` does not exist"}}),
        (400, {"error": {"message": "max_tokens must be at least 1, got 0."}}),
        (400, {"error": {"message": "Invalid parameter: temperature must be between 0 and 2"}}),
    ],
    QuotaExhausted: [
        (
            429,
            {
                "error": {
                    "message": "You exceeded your current quota",
                    "type": "insufficient_quota",
                    "code": "insufficient_quota",
                }
            },
        ),
        (402, {"error": {"message": "Insufficient Balance"}}),
        (403, {"error": {"code": "insufficient_quota", "message": "x"}}),
        (
            429,
            {
                "error": {
                    "message": "You exceeded your current quota, please check your plan and billing details."
                }
            },
        ),
        (
            429,
            {
                "error": {
                    "message": "litellm.RateLimitError: RateLimitError: OpenAIException - You exceeded your current "
                    "quota, please check your plan and billing details.",
                    "type": "throttling_error",
                    "code": "429",
                }
            },
        ),
        (429, {"error": {"message": "Your account is suspended", "type": "exceeded_current_quota_error"}}),
        (429, {"error": {"message": "余额不足或无可用资源包,请充值。", "code": "1113"}}),
        (
            400,
            {
                "error": {
                    "type": "invalid_request_error",
                    "message": "Your credit balance is too low to access the Anthropic API.",
                }
            },
        ),
        (
            400,
            {
                "code": "Arrearage",
                "message": "Access denied, please make sure your account is in good standing.",
            },
        ),
        (403, {"code": 30001, "message": "Sorry, your account balance is insufficient"}),
        (
            403,
            {
                "error": "Your team has either used all available credits or reached its monthly spending limit."
            },
        ),
        (403, {"error": {"code": 403, "message": "Key limit exceeded (monthly limit)."}}),
        (
            429,
            {"error": {"message": "Budget has been exceeded! Current cost: 25.9", "type": "budget_exceeded"}},
        ),
    ],
    AuthenticationFailed: [
        (401, {"error": {"message": "Rate limit?"}}),
        (401, "<html>401</html>"),
    ],
}
TABLE = [(kind, status, body) for kind, rows in WRITTEN.items() for status, body in rows]


@pytest.mark.sample(31)
@pytest.mark.parametrize(("kind", "status", "body"), TABLE)
def test_an_error_becomes_what_it_says(kind: type[BackendError], status: int, body: Any) -> None:
    error = service_error(status, body, "x")
    assert type(error) is kind
    assert error.status == status


@pytest.mark.parametrize(("kind", "status", "body"), TABLE)
@pytest.mark.sample(30)
def test_an_error_that_is_sent_as_text_becomes_the_same(
    kind: type[BackendError], status: int, body: Any
) -> None:
    if not isinstance(body, str):
        assert type(service_error(status, json.dumps(body), "x")) is kind
        assert type(service_error(status, repr(body), "x")) is kind


@pytest.mark.parametrize(
    ("status", "body", "headers", "kind"),
    [
        # Google says "quota" of a limit per minute as well, with the time to wait.
        (
            429,
            "You exceeded your current quota, please check your plan. Please retry in 30.1s.",
            {},
            RateLimited,
        ),
        (429, "You exceeded your current quota.", {"retry-after": "20"}, RateLimited),
        (429, "You exceeded your current quota of 15 requests per minute", {}, RateLimited),
        # What an error quotes of a prompt, or details that a service adds, stop nothing.
        (400, "Invalid prompt: 'they have insufficient funds for salt'", {}, PermanentBackendError),
        (
            400,
            "The field messages is not valid here for this model, which says: out of credits",
            {},
            PermanentBackendError,
        ),
        (422, "insufficient balance of flavours", {}, PermanentBackendError),
        (
            403,
            {"error": {"message": "flagged", "metadata": {"flagged_input": "out of credits"}}},
            {},
            ContentRefused,
        ),
        (503, "billing service unavailable: insufficient credits", {}, TransientBackendError),
        (498, "", {}, RateLimited),
        (503, "<html><title>503</title></html>", {"retry-after": "3"}, RateLimited),
        (503, "<html><title>503</title></html>", {}, TransientBackendError),
        (499, "", {}, TransientBackendError),
        (460, "", {}, TransientBackendError),
    ],
)
def test_only_what_a_service_says_of_its_account_stops_a_run(
    status: int, body: Any, headers: dict[str, str], kind: type[BackendError]
) -> None:
    assert type(service_error(status, body, "x", headers=headers)) is kind


def test_a_firewalls_page_becomes_a_short_reason() -> None:
    page = (
        "<!DOCTYPE html><html><head><title>Attention Required! | Cloudflare</title><style>b {}</style></head>"
        "<body><script>var a = 'x';</script><h1>Sorry, you have been blocked</h1>"
        + "<p>more</p>" * 5000
        + "</body></html>"
    )
    error = service_error(403, page, "x")
    assert type(error) is PermanentBackendError
    assert "Attention Required!" in str(error)
    assert "you have been blocked" in str(error)
    assert len(str(error)) < 300
    assert not set("<>{}") & set(str(error))


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"error": {"type": "authentication_error", "message": "no"}}, AuthenticationFailed),
        ({"error": {"type": "invalid_request_error", "message": "no"}}, PermanentBackendError),
        ({"error": {"type": "overloaded_error", "message": "no"}}, RateLimited),
        ({"error": {"code": "503", "message": "no"}}, TransientBackendError),
        ({"error": {"code": 404, "message": "no"}}, PermanentBackendError),
        ({"error": "no"}, TransientBackendError),
    ],
)
def test_without_a_status_the_type_stands_for_it(body: Any, kind: type[BackendError]) -> None:
    assert type(service_error(None, body, "x")) is kind


def test_an_overloaded_gateways_header_is_a_refusal() -> None:
    assert type(service_error(503, "", "x", headers={"x-envoy-overloaded": "true"})) is RateLimited


def test_the_code_is_kept_and_the_key_is_not() -> None:
    key = "sk-secret-secret"
    body = {"error": {"message": f"bad {key}", "code": f"model_not_found {key}"}}
    error = service_error(404, body, "x", secret=Secret(key))
    assert error.code == "model_not_found ***"
    assert key not in f"{error!r} {vars(error)}"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    "error",
                    "message",
                    "detail",
                    "code",
                    "type",
                    "loc",
                    "msg",
                    "param",
                    "retryDelay",
                    "metadata",
                    "status",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


@given(st.sampled_from([None, 302, 400, 401, 403, 413, 422, 429, 500, 503]), JSON | st.text())
def test_whatever_a_service_sends_is_one_of_our_errors(status: int | None, body: Any) -> None:
    error = service_error(status, body, "x", secret=Secret("abcdef"))
    assert len(str(error)) < 1000
    assert error.signature == service_error(status, body, "x", secret=Secret("abcdef")).signature
    wait = getattr(error, "retry_after", None)
    assert wait is None or 0 <= wait < float("inf")


@pytest.mark.parametrize(
    "unit", ["exceed", "too many ", "<script", "a_", "try again ", "'", "limit: 1 ", '"{', "key="]
)
@pytest.mark.slow  # by default test_linear_work.py looks at this reader too
def test_the_work_for_an_errors_text_grows_with_its_length(unit: str) -> None:
    def read(text: str) -> None:
        for body in (text, f"<html>{text}", {"error": {"message": text, "param": text}}):
            service_error(400, body, "x", secret=Secret("abcdef"))
            service_error(503, body, "x", secret=Secret("abcdef"))

    assert_linear(read, unit, 5_000)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"problem": "bad key"}, "bad key"),
        ({"title": "Unauthorized", "trace": 7}, '{"title": "Unauthorized", "trace": 7}'),
        ({"errors": [{"why": "키가 없어요", "ok": False}]}, '{"why": "키가 없어요", "ok": false}'),
        ({"error": {"message": {"a": None}}}, '{"a": null}'),
    ],
)
def test_an_error_without_a_known_field_is_shown_as_the_service_wrote_it(body: Any, said: str) -> None:
    assert str(service_error(401, body, "x")).endswith(said)
