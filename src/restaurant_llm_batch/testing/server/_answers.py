"""Replies of the fault server's model: text that matches the request's schema, and the faults that corrupt it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

from pydantic_core import to_json

from ..._schema_answers import answer_from_schema
from ...errors import ConfigurationError
from ._requests import ChatRequest, read_json

Responder: TypeAlias = Callable[[ChatRequest], str | Mapping[str, Any]]
"""Returns the reply to a request, as text or as a mapping that is encoded as JSON."""
_MAX_ECHO_LENGTH = 200
_STRING_VALUE = re.compile(rb'(?<=:)"')
"""The opening quote of a string value in compact JSON."""
_LABELS = {"positive": "긍정", "negative": "Negative.", "neutral": "중립"}
"""Labels in other words, as models write them that do not follow a schema."""
_DRAFT = "Let me see. One could say {text} but that is not it."
_ID = re.compile(r'("id":)(\d+)|"(\d+)":')
"""An id, or a number as a key of the form that grammars are asked for."""


class Written(NamedTuple):
    """Text of a reply, its finish reason, whether it is a refusal, and the form in which its usage is reported."""

    text: str
    finish_reason: str = "stop"
    refused: bool = False
    usage: Literal["numbers", "text", "none"] = "numbers"


def make_responder(answer: Literal["schema", "echo"] | Responder) -> Responder:
    """
    Return the responder for the argument `answer` of `FaultServer`.

    Raises:
        ConfigurationError: `answer` is neither a known name nor callable.
    """
    if answer == "schema":
        return lambda request: _fill(request, f"text {request.digest}")
    if answer == "echo":
        return lambda request: _fill(
            request, request.text if request.schema is None else request.text[:_MAX_ECHO_LENGTH]
        )
    if not callable(answer):
        raise ConfigurationError(f'answer must be "schema", "echo" or a function, got {answer!r}')
    return answer


def as_text(written: str | Mapping[str, Any]) -> str:
    """Return the reply of a responder as text."""
    return written if isinstance(written, str) else to_json(written).decode()


def corrupt(kind: str | None, text: str, count: Callable[[str], int], max_tokens: int | None) -> Written:
    """
    Apply a fault and the limit on tokens to a reply.

    Args:
        kind: The fault; one that is not a `BadAnswer` changes nothing.
        text: The text of the reply.
        count: Counts tokens.
        max_tokens: Maximum length of the reply in tokens, or None.
    """
    match kind:
        case "truncated":
            return Written(text[: len(text) // 2], "length")
        case "content_filter":
            return Written(text[: len(text) // 2], "content_filter")
        case "refusal":
            return Written("죄송하지만 도와드릴 수 없습니다.", refused=True)
        case "empty":
            return Written("")
        case "error_finish":
            return Written(text[: len(text) // 2], "error")
        case "no_usage":
            return Written(text, usage="none")
        case "usage_as_text":
            return Written(text, usage="text")
        case "thinking":
            return Written(f"<think>\n{_DRAFT.format(text=text)}\n</think>\n\n{text}")
        case "thinking_cut_off":
            return Written(f"<think>\n{_DRAFT.format(text=text)}", "length")
        case "loop":
            return Written(text[: len(text) // 3] + " It was good." * 200, "length")
        case "half_emoji":
            text = _STRING_VALUE.sub(rb'"\\ud83d', text.encode(), count=1).decode()
        case "single_quotes":
            read = read_json(text.encode())
            text = text if read is None else repr(read)
        case "other_labels":
            for label, word in _LABELS.items():
                text = text.replace(f':"{label}"', f':"{word}"')
        case "shifted_ids":
            text = _ID.sub(_less_by_one, text)
        case "malformed":
            text = text[:-1] + ', "and'
        case "prose":
            text = f"네, 요청하신 결과입니다:\n```json\n{text}\n```\n도움이 되었으면 좋겠습니다!"
        case "missing_ids":
            text = _without_every_other(text)
        case "control_characters":
            text = _STRING_VALUE.sub(b'"\n\t', text.encode(), count=1).decode()
    tokens = count(text) if max_tokens is not None else 0
    if max_tokens is not None and tokens > max_tokens:
        return Written(text[: len(text) * max_tokens // tokens], "length")
    return Written(text)


def _fill(request: ChatRequest, text: str) -> str:
    if request.schema is None:
        return text
    return as_text(_with_texts(answer_from_schema(request.schema), text, request.numbers))


def _with_texts(value: Any, text: str, numbers: list[int]) -> Any:
    """Replace every free string by `text`, and every list of objects with an id by one object per number."""
    if value == "text":
        return text
    if isinstance(value, dict):
        return {name: _with_texts(member, text, numbers) for name, member in value.items()}
    if isinstance(value, list):
        entries = [_with_texts(entry, text, numbers) for entry in value]
        if entries and isinstance(entries[0], dict) and type(entries[0].get("id")) is int:
            return [{**entries[0], "id": number} for number in numbers]
        return entries
    return value


def _less_by_one(found: re.Match[str]) -> str:
    return f"{found[1]}{int(found[2]) - 1}" if found[1] else f'"{int(found[3]) - 1}":'


def _without_every_other(text: str) -> str:
    """Remove every other entry, beginning with the first, from lists of objects with an id and from numbered keys."""
    return (
        to_json(_drop_every_other(read_json(text.encode()))).decode()
        if '"id"' in text or _ID.search(text)
        else text
    )


def _drop_every_other(value: Any) -> Any:
    if isinstance(value, dict):
        if value and all(str(name).isdigit() for name in value):
            value = dict(list(value.items())[1::2])
        return {name: _drop_every_other(member) for name, member in value.items()}
    if isinstance(value, list):
        have_ids = bool(value) and all(isinstance(entry, dict) and "id" in entry for entry in value)
        return [_drop_every_other(entry) for entry in (value[1::2] if have_ids else value)]
    return value
