"""
OpenAI chat completions codec: request bodies, responses and errors, as vLLM and RunPod's workers speak them too.

Pure functions. API reference: https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from .._llm_response import LLMResponse
from ..errors import BackendError, PromptTooLong, QuotaExhausted, TransientBackendError
from ..models import LLMRequest
from .secrets import Secret
from .status import MAX_ERROR_TEXT, error_from_status, read_rate_limits

_CONTEXT_LENGTH_EXCEEDED = re.compile(
    r"maximum context length|context_length_exceeded|maximum model length", re.IGNORECASE
)
_NOT_IN_SCHEMA_NAME = re.compile(r"[^A-Za-z0-9_-]")
_INSUFFICIENT_QUOTA = frozenset(
    {
        "insufficient_quota",
        "credit_balance_exhausted",
        "organization_spend_limit_exceeded",
        "project_spend_limit_exceeded",
        "organization_usage_limit_exceeded",
        "billing_hard_limit_reached",
        "billing_not_active",
    }
)
"""
Codes and types of a 429 that waiting does not resolve.

Source: https://platform.openai.com/docs/guides/error-codes
"""


def chat_body(
    request: LLMRequest,
    model: str,
    *,
    max_tokens_field: str = "max_tokens",
    extra_body: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """
    Return the request body of a chat completion.

    Args:
        request: The messages and their sampling parameters.
        model: The model's name.
        max_tokens_field: The service's name of the field that limits completion tokens.
        extra_body: Further fields, which override those above.
    """
    body: dict[str, Any] = {
        "model": model,
        "messages": [dict(message) for message in request.messages],
        max_tokens_field: request.max_tokens,
        "temperature": request.temperature,
    }
    if request.schema is not None:
        body["response_format"] = {
            "type": "json_schema",
            "json_schema": {
                "name": _NOT_IN_SCHEMA_NAME.sub("_", request.task)[:64] or "answer",
                "strict": True,
                "schema": request.schema,
            },
        }
    if extra_body:
        body.update(extra_body)
    return body


def read_chat(
    body: Any, backend: str, secret: Secret | None = None, headers: Mapping[str, str] | None = None
) -> LLMResponse:
    """
    Parse a chat completion.

    A refusal is a reply too, since it was paid for: its text is the refusal, its finish reason "refusal".

    Args:
        body: The decoded response body.
        backend: The backend's name.
        secret: The key, to redact it in messages.
        headers: The response headers, which may report the service's rate limits.

    Raises:
        BackendError: If the body is an error or not a completion; some servers send those with status 200.
    """
    try:
        choice = body["choices"][0]
        message = _part(choice, "message")
        reason = choice.get("finish_reason")
    except (KeyError, IndexError, TypeError, AttributeError):
        raise _error_instead_of_completion(body, backend, secret) from None
    text, refusal = message.get("content"), message.get("refusal")
    usage = _part(body, "usage")
    refused = bool(refusal) and not text
    return LLMResponse(
        text=as_text(refusal if refused else text),
        finish_reason="refusal" if refused else str(reason or "stop"),
        prompt_tokens=count(usage.get("prompt_tokens")),
        completion_tokens=count(usage.get("completion_tokens")),
        model=str(body.get("model") or ""),
        cached_tokens=count(_part(usage, "prompt_tokens_details").get("cached_tokens")),
        rate_limit=None if headers is None else read_rate_limits(headers),
    )


def chat_error(
    status: int, body: Any, headers: Mapping[str, str], backend: str, secret: Secret | None = None
) -> BackendError:
    """
    Return the error for a response with an error status.

    Args:
        status: The HTTP status.
        body: The decoded response body, or its text if it was not JSON.
        headers: The response headers.
        backend: The backend's name.
        secret: The key, to redact it in the message.
    """
    message, code, error_type = _error_fields(body)
    if secret is not None:
        message = secret.redact(message)
    if status == 429 and {code, error_type} & _INSUFFICIENT_QUOTA:
        return QuotaExhausted(f"{backend}: {message or code}", backend=backend, status=status)
    if code == "context_length_exceeded" or (
        status in (400, 413, 422) and _CONTEXT_LENGTH_EXCEEDED.search(message)
    ):
        return PromptTooLong(f"{backend}: {message[:MAX_ERROR_TEXT]}", backend=backend, status=status)
    if code and code != str(status):
        message = f"{message} ({code})"
    return error_from_status(status, message, backend, headers=headers)


def as_text(value: Any) -> str:
    """Return a message's content as text; some servers send it in parts."""
    if isinstance(value, list):
        return "".join(str(part.get("text", "")) for part in value if isinstance(part, dict))
    return "" if value is None else str(value)


def count(value: Any) -> int:
    """Return a token count from `usage`; 0 for anything but a positive int."""
    return value if type(value) is int and value > 0 else 0


def _part(body: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = body.get(name)
    return part if isinstance(part, dict) else {}


def _error_fields(body: Any) -> tuple[str, str, str]:
    """Return the message, code and type of an error body, in any of the shapes that servers use."""
    error = body
    if isinstance(body, dict):
        error = body.get("error") or body.get("detail") or body
    if isinstance(error, dict):
        message = error.get("message") or error.get("detail") or error
        return str(message), str(error.get("code") or ""), str(error.get("type") or "")
    return str(error), "", ""


def _error_instead_of_completion(body: Any, backend: str, secret: Secret | None) -> BackendError:
    if isinstance(body, dict) and (body.get("error") or body.get("object") == "error"):
        error = body.get("error")
        code = (error if isinstance(error, dict) else body).get("code")
        status = code if type(code) is int and 400 <= code < 600 else 502
        return chat_error(status, body, {}, backend, secret)
    text = str(body)[:200] if secret is None else secret.redact(str(body)[:200])
    return TransientBackendError(f"{backend} sent no completion but {text}", backend=backend)


_OFFICIAL_DOMAINS = (".openai.com", ".openai.azure.com")


def is_official(url: str) -> bool:
    """Return whether a URL is on OpenAI's own domain, or Azure's."""
    return f".{urlsplit(url).hostname or ''}".endswith(_OFFICIAL_DOMAINS)
