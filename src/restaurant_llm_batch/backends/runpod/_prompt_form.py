"""
Prompt form of RunPod jobs: input and output of workers of the user's own, ``{"input": {"prompt": text, ...}}``.

RunPod hands a job's input to a Python function as it is, so every function has its own form. This one is the most
common: the prompt and its sampling parameters side by side, and the text back, alone or in an object. It has no roles
and no structured output, so the chat is rendered as one text, and the form of the answer is said in it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..._http.error_body import parse_nested
from ..._http.event_stream import join_events, looks_like_events
from ..._http.fields import with_schema
from ..._http.openai_api import finished, token_counts
from ..._http.secrets import Secret
from ..._llm_response import LLMResponse
from ..._patterns import lazy_pattern
from ...errors import PermanentBackendError
from ...models import LLMRequest
from ._codec import BACKEND, error_in_words, error_of_job, read_output, redacted

_PARTS: Mapping[str, str] = {"system": "instructions", "developer": "instructions", "assistant": "answer"}
"""Names of the parts of a prompt, by role; every other role is "input"."""
# No signs of any chat template. The tasks escape angle brackets in reviews; in a prompt of the user's own, a text that
# holds one of these is changed.
_TAG = lazy_pattern(
    r"[<\ufe64\uff1c](?=\s*/?\s*(?:instructions|input|answer)\b)", flags=2
)  # 2: re.IGNORECASE

_TEXTS = ("text", "generated_text", "response", "output", "answer", "completion", "content")
"""Fields of an output that hold the answer's text, or an object with it."""
_VAGUE = ("data", "result", "message")
"""Fields that hold a text of any kind: the answer, if there is no other."""
_ENVELOPES = ("data", "outputs", "results", "responses", "generations", "predictions")
"""Fields that hold an object or a list with it."""
_HOLDERS = (*_TEXTS, *_ENVELOPES, *_VAGUE)
_FAILED = frozenset({"error", "errored", "fail", "failed", "failure"})
_SUCCEEDED = frozenset({"success", "succeeded", "ok", "completed", "complete", "done"})
_COUNTS = ("prompt_tokens", "completion_tokens", "cached_tokens", "input_tokens", "output_tokens")
_MAX_DEPTH = 6
_MAX_WORDS = 300
"""Characters of a text that may be an error; a longer one is an answer."""


def prompt_input(request: LLMRequest, extra: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return the input of a job.

    Args:
        request: The request; its messages and its schema become the prompt.
        extra: Further fields, which override the others.
    """
    return {
        "prompt": render(request.messages, request.schema),
        "temperature": request.temperature,
        "max_tokens": request.max_tokens,
        **extra,
    }


def render(messages: Sequence[Mapping[str, Any]], schema: Mapping[str, Any] | None = None) -> str:
    """Return a chat as one text: each message in a part that is named for its role, and the form of the answer."""
    chat = list(map(dict, messages)) if schema is None else with_schema(list(map(dict, messages)), schema)
    parts = []
    for message in chat:
        name = _PARTS.get(str(message.get("role")), "input")
        content = _TAG.sub("&lt;", str(message.get("content") or "")).strip("\n")
        parts.append(f"<{name}>\n{content}\n</{name}>\n")
    return "\n".join([*parts, "Answer:\n"])


@dataclass(frozen=True, slots=True)
class _Answer:
    """The parts of an output that matter."""

    text: str
    usage: Mapping[str, Any]
    reason: str = ""
    model: str = ""


def read_prompt_output(state: Mapping[str, Any], model: str, max_tokens: int, secret: Secret) -> LLMResponse:
    """
    Return the reply in a completed job: a text, an object that holds it, or a list of these.

    An object without a field for a text is the answer itself, which the worker has parsed.

    Args:
        state: The body of ``/status``.
        model: The model's name, for outputs without one.
        max_tokens: The request's limit, to recognise truncated outputs without a finish reason.
        secret: The key, to redact it in messages.

    Raises:
        BackendError: If the output is an error, or holds no answer.
    """
    output = _joined(state.get("output"))
    if _has_choices(output):
        return read_output({**state, "output": output}, model, max_tokens, secret)
    answer = _read(output, secret, 0)
    if answer is None:  # permanent, since another attempt would be paid for again
        raise PermanentBackendError(
            f"runpod completed the job without an answer; its output was {redacted(output, secret)!r}. "
            'With input_form="prompt" (RUNPOD_INPUT=prompt) a worker returns a text, or an object such as '
            '{"text": "..."}. RunPod also drops outputs above its size limit',
            backend=BACKEND,
        )
    if "{" not in answer.text and len(answer.text) <= _MAX_WORDS and (words := error_in_words(answer.text)):
        raise error_of_job(words, secret, "runpod completed the job with an error")
    prompt_tokens, completion_tokens, cached_tokens = token_counts(answer.usage)
    reply = LLMResponse(
        text=answer.text,
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        model=secret.redact(answer.model or model),
        cached_tokens=cached_tokens,
    )
    reason = answer.reason or ("length" if completion_tokens >= max_tokens else "stop")
    return finished(reply, reason, BACKEND, error=None, secret=secret)


def without_echo(reply: LLMResponse, prompt: object) -> LLMResponse:
    """Return a reply without the prompt, which some pipelines put before the answer."""
    if not isinstance(prompt, str) or not reply.text.startswith(prompt):
        return reply
    return replace(reply, text=reply.text[len(prompt) :])


def _joined(output: Any) -> Any:
    """Return an output with streamed pieces and events joined."""
    pieces = output if isinstance(output, list) else [output]
    if pieces and all(isinstance(piece, str) for piece in pieces):
        text = "".join(pieces)
        return (join_events(text) or text) if looks_like_events(text) else text
    return output


def _has_choices(output: Any) -> bool:
    items = output if isinstance(output, list) else [output]
    return bool(items) and all(isinstance(item, dict) and item.get("choices") for item in items)


def _read(value: Any, secret: Secret, depth: int) -> _Answer | None:
    """Return the answer in a part of an output; None if there is none."""
    if isinstance(value, str):
        return _read_text(value, secret, depth)
    if depth > _MAX_DEPTH or not value:
        return None
    if isinstance(value, list):
        return _read_list(value, secret, depth)
    return _read_object(value, secret, depth) if isinstance(value, dict) else None


def _read_text(text: str, secret: Secret, depth: int) -> _Answer:
    """Return a text; a text with an object that says how the job went, is that object."""
    if depth <= _MAX_DEPTH and text.lstrip().startswith("{") and '"status"' in text:
        inner = parse_nested(text)
        if isinstance(inner, dict) and _says_how_it_went(inner):
            return _read(inner, secret, depth + 1) or _Answer(text, {})
    return _Answer(text, {})


def _says_how_it_went(value: Mapping[str, Any]) -> bool:
    said = str(value.get("status")).lower()
    return said in _FAILED or (said in _SUCCEEDED and not value.keys().isdisjoint(_HOLDERS))


def _read_list(values: list[Any], secret: Secret, depth: int) -> _Answer | None:
    if all(isinstance(value, dict) and "role" in value for value in values):
        values = values[-1:]  # a conversation, which ends with the answer
    found = [answer for value in values if (answer := _read(value, secret, depth + 1)) is not None]
    if not found:
        return None
    last = next((answer for answer in reversed(found) if answer.usage or answer.reason), found[-1])
    return replace(last, text="".join(answer.text for answer in found))


def _read_object(value: dict[str, Any], secret: Secret, depth: int) -> _Answer | None:
    _raise_error(value, secret)
    if value.get("choices"):
        reply = read_output({"output": value}, "", 2**62, secret)
        counts = {"prompt_tokens": reply.prompt_tokens, "completion_tokens": reply.completion_tokens}
        return _Answer(reply.text, counts, reply.finish_reason, reply.model)
    found: _Answer | None = None
    places = _first(value, _TEXTS, str), _first(value, _HOLDERS, (dict, list)), _first(value, _VAGUE, str)
    if name := next(filter(None, places), None):
        found = _read(value[name], secret, depth + 1)
    elif not value.keys() <= {"status", "id", "success", *_HOLDERS}:
        return _Answer(json.dumps(value, ensure_ascii=False), {})
    if found is None:
        return None
    usage = value.get("usage")
    counts = usage if isinstance(usage, dict) else {name: value[name] for name in _COUNTS if name in value}
    reason = value.get("finish_reason") or value.get("stop_reason")
    return _Answer(
        found.text,
        found.usage or counts,
        found.reason or (reason if isinstance(reason, str) else ""),
        found.model or str(value.get("model") or ""),
    )


def _first(value: Mapping[str, Any], names: Sequence[str], kind: type | tuple[type, ...]) -> str | None:
    return next((name for name in names if value.get(name) and isinstance(value[name], kind)), None)


def _raise_error(value: Mapping[str, Any], secret: Secret) -> None:
    said = value.get("status")
    failed = (isinstance(said, str) and said.lower() in _FAILED) or value.get("success") is False
    error = value.get("error") or value.get("error_message") or value.get("errors")
    if not failed and not error:
        return
    reason = error or value.get("message") or value.get("detail") or value.get("data") or dict(value)
    raise error_of_job(reason, secret, "runpod completed the job with an error")
