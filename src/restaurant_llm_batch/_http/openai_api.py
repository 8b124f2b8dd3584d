"""
OpenAI chat completions codec: request bodies, responses and errors, as vLLM and RunPod's workers speak them too.

Pure functions. API reference: https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from math import ceil, isfinite
from typing import Any
from urllib.parse import urlsplit

from .._llm_response import LLMResponse
from ..errors import BackendError, ContentRefused, PermanentBackendError, TransientBackendError
from ..models import LLMRequest
from . import error_body
from .classify import service_error
from .rate_limits import read_rate_limits
from .secrets import Secret

_NOT_IN_SCHEMA_NAME = re.compile(r"[^A-Za-z0-9_-]")
_MAX_WORD = 100
"""Characters of a finish reason that are kept."""
_MAX_TOKENS = 1_000_000_000
"""Token counts above this are an error of the service."""

_REASONS = {
    "eos": "stop",
    "eos_token": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "completed": "stop",
    "max_tokens": "length",
    "max_output_tokens": "length",
    "model_length": "length",
    "model_context_window_exceeded": "length",
    "incomplete": "length",
}
"""Other services' words for OpenAI's `finish_reason`."""
_FAILED = frozenset(
    {
        "error",
        "network_error",
        "abort",
        "aborted",
        "cancelled",
        "canceled",
        "timeout",
        "failed",
        "insufficient_system_resource",
        "engine_overloaded",
        "overloaded",
    }
)
"""Values of `finish_reason` that mean that the service failed while it wrote; what it wrote is no answer."""
_FILTERED = frozenset(
    {
        "content_filter",
        "content_filtered",
        "content-filter",
        "sensitive",
        "safety",
        "recitation",
        "blocklist",
        "prohibited_content",
        "spii",
        "guardrail_intervened",
        "content_policy_violation",
    }
)
"""Values of `finish_reason` that mean that a content filter cut the reply off."""


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
    body: Any,
    backend: str,
    secret: Secret | None = None,
    headers: Mapping[str, str] | None = None,
    unusable: type[TransientBackendError | PermanentBackendError] = TransientBackendError,
) -> LLMResponse:
    """
    Parse a chat completion.

    A refusal by the model is a reply too, since it was paid for: its text is the refusal, its finish reason "refusal".
    Thinking in fields or parts of its own is not part of the reply. Of a reply without a text, the arguments of its
    tool call are the text: some servers turn a schema into a tool. Ollama's own form is read as well.

    Args:
        body: The decoded response body.
        backend: The backend's name.
        secret: The key, to redact it in messages.
        headers: The response headers, which may report the service's rate limits.
        unusable: Class of the error for a body that is neither a completion nor an error.

    Raises:
        ContentRefused: If a content filter cut the reply off.
        BackendError: If the body is an error or not a completion, which some servers send with status 200; or if the
            service failed while it wrote.
    """
    try:
        choice = body["choices"][0] if "choices" in body else _from_ollama(body)
        message = _part(choice, "message") or {"content": choice.get("text")}
        reason = choice.get("finish_reason")
    except (KeyError, IndexError, TypeError, AttributeError):
        raise _error_instead_of_completion(body, backend, secret, unusable) from None
    text, refusal = (
        as_text(message.get("content")),
        message.get("refusal") or _refusal_part(message.get("content")),
    )
    refused = bool(refusal) and not text
    if not text and not refused:
        text = _arguments(message)
        reason = "stop" if text and reason in ("tool_calls", "function_call", "tool_use") else reason
    prompt_tokens, completion_tokens, cached_tokens = token_counts(
        body.get("usage") or _usage_elsewhere(body)
    )
    reply = LLMResponse(
        text=as_text(refusal) if refused else text,
        finish_reason="refusal" if refused else "stop",
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        model=_model_name(body.get("model"), secret),
        cached_tokens=cached_tokens,
        rate_limit=None if headers is None else read_rate_limits(headers),
    )
    if refused or reason == "stop":
        return reply
    return finished(reply, reason, backend, error=choice.get("error") or body.get("error"), secret=secret)


def finished(
    reply: LLMResponse, reason: Any, backend: str, *, error: Any = None, secret: Secret | None = None
) -> LLMResponse:
    """
    Return a reply with its finish reason in OpenAI's words.

    Args:
        reply: The reply.
        reason: The finish reason as the service wrote it; nothing means "stop".
        backend: The backend's name.
        error: The error that the service reports beside the reply, if any.
        secret: The key, to redact it in messages.

    Raises:
        ContentRefused: If a content filter cut the reply off.
        BackendError: If the service failed while it wrote.
    """
    word = str(reason or "stop")[:_MAX_WORD]
    if secret is not None:
        word = secret.redact(word)
    lower = word.lower()
    failure: BackendError
    if lower in _FILTERED:
        failure = ContentRefused(
            f"{backend}: a content filter cut the reply off (finish_reason {word!r})",
            backend=backend,
            code=word,
        )
    elif lower in _FAILED or error:
        failure = (
            service_error(None, {"error": error}, backend, secret=secret)
            if error
            else TransientBackendError(
                f"{backend} failed while it wrote the reply (finish_reason {word!r})",
                backend=backend,
                code=word,
            )
        )
    else:
        known = _REASONS.get(lower) or (lower if lower in ("stop", "length") else word)
        return reply if known == reply.finish_reason else replace(reply, finish_reason=known)
    failure.reply = reply
    raise failure


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
    return service_error(status, body, backend, headers=headers, secret=secret)


def as_text(value: Any) -> str:
    """Return a message's content as text; some servers send it in parts, thinking among them, which is left out."""
    if type(value) is str:
        return value
    if isinstance(value, list):
        return "".join(_text_of_part(part) for part in value)
    if isinstance(value, dict):
        # A gateway may have decoded the JSON that the model wrote.
        return (
            _text_of_part(value)
            if "type" in value or "text" in value
            else json.dumps(value, ensure_ascii=False)
        )
    return "" if value is None else str(value)


def _model_name(name: Any, secret: Secret | None) -> str:
    name = name if type(name) is str else "" if name is None else str(name)
    return name if secret is None or not secret.stands_in(name) else secret.redact(name)


def _from_ollama(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """
    Return the choice in a body of Ollama's own API.

    Raises:
        KeyError: It is no such body.
    """
    if body.get("done") is not True or body.get("error"):
        raise KeyError("done")
    return {"message": body["message"], "finish_reason": body.get("done_reason")}


def _arguments(message: Mapping[str, Any]) -> str:
    """Return the arguments of a message's only tool call as text, or ""."""
    calls = message.get("tool_calls") or [{"function": message.get("function_call")}]
    call = calls[0] if isinstance(calls, list) and len(calls) == 1 else None
    function = call.get("function") if isinstance(call, dict) else None
    arguments = function.get("arguments") if isinstance(function, dict) else None
    return json.dumps(arguments, ensure_ascii=False) if isinstance(arguments, dict) else as_text(arguments)


def _usage_elsewhere(body: Mapping[str, Any]) -> Any:
    """Return the token counts that Ollama and llama.cpp report in fields of their own, named as in `usage`."""
    timings = body.get("timings")
    if isinstance(timings, dict):
        cached = count(timings.get("cache_n"))
        return {
            "prompt_tokens": count(timings.get("prompt_n")) + cached,
            "completion_tokens": timings.get("predicted_n"),
            "prompt_tokens_details": {"cached_tokens": cached},
        }
    return {"prompt_tokens": body.get("prompt_eval_count"), "completion_tokens": body.get("eval_count")}


def _text_of_part(part: Any) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict) or part.get("type", "text") not in ("text", "output_text", None):
        return ""
    text = part.get("text")
    return text if isinstance(text, str) else ""


def _refusal_part(content: Any) -> Any:
    if not isinstance(content, list):
        return None
    return next((part["refusal"] for part in content if isinstance(part, dict) and part.get("refusal")), None)


def token_counts(usage: Any) -> tuple[int, int, int]:
    """
    Return the prompt, completion and cached tokens of a response's `usage`; 0 for each that is unknown.

    A prompt, and a reply with a text, have at least one token, so 0 is never a count of them.
    """
    if not isinstance(usage, dict):
        return 0, 0, 0
    prompt = count(usage.get("prompt_tokens")) or count(usage.get("input_tokens", usage.get("input")))
    completion = count(usage.get("completion_tokens")) or count(
        usage.get("output_tokens", usage.get("output"))
    )
    if not (prompt and completion):
        total = count(usage.get("total_tokens"))
        if total > prompt + completion and prompt + completion:
            prompt, completion = (prompt, total - prompt) if prompt else (total - completion, completion)
    details = usage.get("prompt_tokens_details")
    cached = count(details.get("cached_tokens")) if isinstance(details, dict) else 0
    return prompt, completion, min(cached, prompt)


def count(value: Any) -> int:
    """Return a token count: an int above 0, also from a float or text that states one; 0 for anything else."""
    if type(value) is int:
        return value if 0 < value <= _MAX_TOKENS else 0
    if isinstance(value, str) and len(value) <= 20:
        try:
            value = float(value.strip().replace(",", ""))
        except ValueError:
            return 0
    if not isinstance(value, float) or not isfinite(value) or not 0 < value <= _MAX_TOKENS:
        return 0
    return ceil(value)


def _part(body: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = body.get(name)
    return part if isinstance(part, dict) else {}


def _error_instead_of_completion(
    body: Any,
    backend: str,
    secret: Secret | None,
    unusable: type[TransientBackendError | PermanentBackendError],
) -> BackendError:
    if isinstance(body, dict) and (body.get("error") or body.get("object") == "error" or body.get("detail")):
        return service_error(None, body, backend, secret=secret)
    text = error_body.as_text(body)
    text = (text if secret is None else secret.redact(text))[:200]
    error = unusable(f"{backend} sent no completion but {text}", backend=backend)
    if isinstance(body, dict):
        prompt_tokens, completion_tokens, cached_tokens = token_counts(body.get("usage"))
        if prompt_tokens or completion_tokens:
            error.reply = LLMResponse(
                "",
                "error",
                prompt_tokens,
                completion_tokens,
                _model_name(body.get("model"), secret),
                cached_tokens,
            )
    return error


_OFFICIAL_DOMAINS = (".openai.com", ".openai.azure.com")


def is_official(url: str) -> bool:
    """Return whether a URL is on OpenAI's own domain, or Azure's."""
    return f".{urlsplit(url).hostname or ''}".endswith(_OFFICIAL_DOMAINS)
