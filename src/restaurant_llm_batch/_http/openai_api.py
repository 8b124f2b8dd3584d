"""
The codec of OpenAI's chat API, which vLLM, RunPod's workers and many others speak too.

Pure functions: a request becomes a body, an answer becomes a reply or an error.
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
_NO_NAME = re.compile(r"[^A-Za-z0-9_-]")
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
"""Codes and types of a 429 that no waiting mends; OpenAI's error guide."""


def chat_body(
    request: LLMRequest,
    model: str,
    *,
    max_tokens_field: str = "max_tokens",
    extra_body: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """
    Return the body of a chat completion.

    Args:
        request: The question.
        model: The model's name.
        max_tokens_field: What the service calls the limit on the answer's tokens.
        extra_body: Further fields, which go before ours.
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
                "name": _NO_NAME.sub("_", request.task)[:64] or "answer",
                "strict": True,
                "schema": request.schema,
            },
        }
    if extra_body:
        body.update(extra_body)
    return body


def read_chat(
    answer: Any, backend: str, secret: Secret | None = None, headers: Mapping[str, str] | None = None
) -> LLMResponse:
    """
    Return the reply in the body of a chat completion.

    A refusal is a reply too, with the model's words as its text and "refusal" as its finish reason: it was
    paid for.

    Args:
        answer: The decoded body.
        backend: The backend's name.
        secret: The key, to be kept out of messages.
        headers: The answer's headers, which may tell what is left of the service's limits.

    Raises:
        BackendError: When the body is an error, or no completion; some servers send those with status 200.
    """
    try:
        choice = answer["choices"][0]
        message = _part(choice, "message")
        reason = choice.get("finish_reason")
    except (KeyError, IndexError, TypeError, AttributeError):
        raise _not_a_completion(answer, backend, secret) from None
    text, refusal = message.get("content"), message.get("refusal")
    usage = _part(answer, "usage")
    refused = bool(refusal) and not text
    return LLMResponse(
        text=as_text(refusal if refused else text),
        finish_reason="refusal" if refused else str(reason or "stop"),
        prompt_tokens=count(usage.get("prompt_tokens")),
        completion_tokens=count(usage.get("completion_tokens")),
        model=str(answer.get("model") or ""),
        cached_tokens=count(_part(usage, "prompt_tokens_details").get("cached_tokens")),
        rate_limit=None if headers is None else read_rate_limits(headers),
    )


def chat_error(
    status: int, body: Any, headers: Mapping[str, str], backend: str, secret: Secret | None = None
) -> BackendError:
    """
    Return what an answer with an error status means.

    Args:
        status: The HTTP status.
        body: The decoded body, or its text where it was not JSON.
        headers: The answer's headers.
        backend: The backend's name.
        secret: The key, to be kept out of the message.
    """
    words, code, kind = _error_fields(body)
    if secret is not None:
        words = secret.redact(words)
    if status == 429 and {code, kind} & _INSUFFICIENT_QUOTA:
        return QuotaExhausted(f"{backend}: {words or code}", backend=backend, status=status)
    if code == "context_length_exceeded" or (
        status in (400, 413, 422) and _CONTEXT_LENGTH_EXCEEDED.search(words)
    ):
        return PromptTooLong(f"{backend}: {words[:MAX_ERROR_TEXT]}", backend=backend, status=status)
    if code and code != str(status):
        words = f"{words} ({code})"
    return error_from_status(status, words, backend, headers=headers)


def as_text(value: Any) -> str:
    """Return a message's content as text; some servers send it in parts."""
    if isinstance(value, list):
        return "".join(str(part.get("text", "")) for part in value if isinstance(part, dict))
    return "" if value is None else str(value)


def count(value: Any) -> int:
    """Return a count of tokens, 0 for anything that is none."""
    return value if type(value) is int and value > 0 else 0


def _part(whole: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = whole.get(name)
    return part if isinstance(part, dict) else {}


def _error_fields(body: Any) -> tuple[str, str, str]:
    """Return an error body's words, code and type, in any of the shapes that servers use."""
    error = body
    if isinstance(body, dict):
        error = body.get("error") or body.get("detail") or body
    if isinstance(error, dict):
        words = error.get("message") or error.get("detail") or error
        return str(words), str(error.get("code") or ""), str(error.get("type") or "")
    return str(error), "", ""


def _not_a_completion(answer: Any, backend: str, secret: Secret | None) -> BackendError:
    if isinstance(answer, dict) and (answer.get("error") or answer.get("object") == "error"):
        error = answer.get("error")
        code = (error if isinstance(error, dict) else answer).get("code")
        status = code if type(code) is int and 400 <= code < 600 else 502
        return chat_error(status, answer, {}, backend, secret)
    words = str(answer)[:200] if secret is None else secret.redact(str(answer)[:200])
    return TransientBackendError(f"{backend} sent no completion but {words}", backend=backend)


_OFFICIAL = (".openai.com", ".openai.azure.com")


def is_official(url: str) -> bool:
    """Tell whether an address is OpenAI's own, or Azure's."""
    return f".{urlsplit(url).hostname or ''}".endswith(_OFFICIAL)
