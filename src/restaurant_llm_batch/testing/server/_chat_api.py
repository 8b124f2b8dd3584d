"""Response bodies of OpenAI's chat API: completions, errors and rate-limit headers, as OpenAI and vLLM send them."""

from __future__ import annotations

from math import ceil, isfinite
from typing import Any, cast

from pydantic_core import to_json

from ._answers import Written
from ._faults import Faults, TokenBucket
from ._responses import PlannedResponse, Usage, html_error, json_response, openai_error

CREATED = 1_700_000_000
"""Creation time of every completion; a constant, so that runs with equal seeds agree byte for byte."""
BUSY = "The engine is currently busy and cannot accept new requests. Please try again later."


def completion(written: Written, usage: Usage, model: str, number: str) -> dict[str, object]:
    """Return the body of a chat completion."""
    message = {
        "role": "assistant",
        "content": None if written.refused else written.text,
        "refusal": written.text if written.refused else None,
    }
    reported: dict[str, object] = {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
    }
    if written.usage == "text":
        reported = {name: f"{value}.0" for name, value in reported.items()}
    return {
        "id": f"chatcmpl-{number}",
        "object": "chat.completion",
        "created": CREATED,
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": written.finish_reason}],
        "usage": None if written.usage == "none" else reported,
    }


def refusal(status: int, wait: float, faults: Faults, why: str, headers: dict[str, str]) -> PlannedResponse:
    """
    Return the response to a request that is refused for now.

    Args:
        status: 429 or 503.
        wait: Seconds until the request would be admitted, as far as that is known.
        faults: Configuration of the ``Retry-After`` header.
        why: The limit that is exceeded, for the message.
        headers: Further headers.
    """
    after = wait if faults.retry_after == "exact" else faults.retry_after
    if after is not None and isfinite(after):
        headers = {**headers, "retry-after": f"{ceil(after * 1000) / 1000:g}"}
    if status == 503:
        return openai_error(503, BUSY, "Service Unavailable", headers=headers)
    return openai_error(429, f"Rate limit reached: {why}.", "requests", "rate_limit_exceeded", headers)


def too_large(limit: int, requested: int, headers: dict[str, str]) -> PlannedResponse:
    """Return the response to a request that exceeds the capacity of the token bucket, so that a retry cannot help."""
    message = f"Request too large on tokens per min (TPM): Limit {limit}, Requested {requested}."
    return openai_error(429, message, "tokens", "rate_limit_exceeded", headers)


def too_long(context: int) -> PlannedResponse:
    """Return the response to a prompt that exceeds the context length."""
    message = (
        f"This model's maximum context length is {context} tokens. However, your prompt contains at least "
        f"{context + 1} input tokens, which exceeds this limit even without any output tokens. Please reduce "
        f"the length of the input prompt. (parameter=input_tokens, value={context + 1})"
    )
    return openai_error(400, message, "BadRequestError")


def field_refused(field: str) -> PlannedResponse:
    """Return OpenAI's response to a field that the model does not take."""
    message = f"Unsupported value: '{field}' does not support this value with this model."
    error = {"message": message, "type": "invalid_request_error", "param": field, "code": "unsupported_value"}
    return json_response({"error": error}, 400)


def event_stream(body: dict[str, object]) -> str:
    """Return a chat completion as the stream of events that a server sends which always streams."""
    (choice,) = cast("list[dict[str, Any]]", body["choices"])
    head = {name: body[name] for name in ("id", "created", "model")} | {"object": "chat.completion.chunk"}
    text, half = choice["message"]["content"] or "", len(choice["message"]["content"] or "") // 2
    deltas = [{"role": "assistant", "content": text[:half]}, {"content": text[half:]}]
    if choice["message"].get("refusal"):
        deltas = [{"role": "assistant", "refusal": choice["message"]["refusal"]}]
    chunks: list[dict[str, object]] = [
        {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas
    ]
    chunks.append({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}]})
    chunks.append({**head, "choices": [], "usage": body["usage"]})
    events = [f"data: {to_json(chunk).decode()}\n\n" for chunk in chunks]
    return "".join([*events, "data: [DONE]\n\n"])


def rate_headers(faults: Faults, requests: TokenBucket, tokens: TokenBucket) -> dict[str, str]:
    """Return OpenAI's rate-limit headers for the configured buckets; the limits are per minute."""
    headers: dict[str, str] = {}
    if not faults.rate_headers:
        return headers
    for name, bucket, rate, capacity in (
        ("requests", requests, faults.requests_per_second, faults.request_burst),
        ("tokens", tokens, (faults.tokens_per_minute or 0) / 60, faults.token_capacity),
    ):
        if rate:
            left = bucket.left()
            headers[f"x-ratelimit-limit-{name}"] = str(round(rate * 60))
            headers[f"x-ratelimit-remaining-{name}"] = str(left)
            headers[f"x-ratelimit-reset-{name}"] = duration(max(0.0, capacity - left) / rate)
    return headers


def duration(seconds: float) -> str:
    """Return seconds in the format of OpenAI's headers: "12ms", "1s", "1.5s", "6m0s", "1h0m0s"."""
    if seconds < 1:
        return f"{ceil(seconds * 1000)}ms"
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    tail = f"{rest:.3f}".rstrip("0").rstrip(".") + "s"
    return f"{hours}h{minutes}m{tail}" if hours else f"{minutes}m{tail}" if minutes else tail


def breakdown(kind: str, faults: Faults) -> PlannedResponse | None:
    """Return the response of a fault that replaces the completion; None for any other fault."""
    match kind:
        case "rate_limited":
            return refusal(429, 1.0, faults, "too many requests", {})
        case "unavailable":
            return refusal(503, 1.0, faults, "busy", {})
        case "overloaded":
            error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
            return json_response(error, 529)
        case "slow_down":
            message = "The server is currently overloaded with other requests. Please slow down."
            return openai_error(503, message, "server_error", "slow_down")
        case "moderated":
            message = "Your chosen model requires moderation and your input was flagged"
            metadata = {"reasons": ["violence"], "flagged_input": "..."}
            return json_response({"error": {"code": 403, "message": message, "metadata": metadata}}, 403)
        case "insufficient_quota":
            message = "You exceeded your current quota, please check your plan and billing details."
            return openai_error(429, message, "insufficient_quota", "insufficient_quota")
        case "unauthorized":
            return openai_error(
                401, "Incorrect API key provided.", "invalid_request_error", "invalid_api_key"
            )
        case "forbidden":
            return openai_error(
                403, "You are not allowed to sample from this model.", "invalid_request_error"
            )
        case "bad_request":
            return openai_error(400, "Something in this request is not allowed.", "BadRequestError")
        case "context_length_exceeded":
            return too_long(faults.context or 8192)
        case "server_error":
            return openai_error(500, "The server had an error while processing your request.", "server_error")
        case "bad_gateway":
            return html_error(502, "502 Bad Gateway")
        case "not_json":
            return html_error(200, "Please log in")
        case "error_as_success":
            error = {"object": "error", "message": "The worker failed.", "type": "InternalServerError"}
            return json_response({**error, "param": None, "code": 500})
    return None
