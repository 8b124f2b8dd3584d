"""What the server's model writes: an answer to the question's schema, and the ways to spoil one."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

from pydantic_core import to_json

from ...errors import ConfigurationError
from ..fakes import answer_from_schema
from ._requests import ChatRequest, read_json

Responder: TypeAlias = Callable[[ChatRequest], str | Mapping[str, Any]]
"""Writes the answer to a question, as text or as what becomes JSON."""
_LONGEST_ECHO = 200
_A_TEXT = re.compile(rb'(?<=:)"')


class Written(NamedTuple):
    """What the model wrote, and why it stopped."""

    text: str
    finish_reason: str = "stop"
    refused: bool = False


def make_responder(answer: Literal["schema", "echo"] | Responder) -> Responder:
    """
    Return what writes the answers.

    Raises:
        ConfigurationError: When it is none.
    """
    if answer == "schema":
        return lambda asked: _fill(asked, f"text {asked.digest}")
    if answer == "echo":
        return lambda asked: _fill(asked, asked.text if asked.schema is None else asked.text[:_LONGEST_ECHO])
    if not callable(answer):
        raise ConfigurationError(f'answer must be "schema", "echo" or a function, got {answer!r}')
    return answer


def as_text(written: str | Mapping[str, Any]) -> str:
    """Return an answer as the text that a model would write."""
    return written if isinstance(written, str) else to_json(written).decode()


def corrupt(kind: str | None, text: str, count: Callable[[str], int], most: int | None) -> Written:
    """
    Return an answer as it comes out under a fault, and under a limit on its tokens.

    Args:
        kind: The fault; those that are not about answers change nothing.
        text: The answer.
        count: Counts tokens.
        most: The longest answer in tokens, or None.
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
        case "malformed":
            text = text[:-1] + ', "and'
        case "prose":
            text = f"네, 요청하신 결과입니다:\n```json\n{text}\n```\n도움이 되었으면 좋겠습니다!"
        case "missing_ids":
            text = _without_every_other(text)
        case "control_characters":
            text = _A_TEXT.sub(b'"\n\t', text.encode(), count=1).decode()
    tokens = count(text) if most is not None else 0
    if most is not None and tokens > most:
        return Written(text[: len(text) * most // tokens], "length")
    return Written(text)


def _fill(asked: ChatRequest, text: str) -> str:
    if asked.schema is None:
        return text
    return as_text(_with_texts(answer_from_schema(asked.schema), text, asked.numbers))


def _with_texts(value: Any, text: str, numbers: list[int]) -> Any:
    """Put a text into every text that is free, and an entry for each number into a list of numbered ones."""
    if value == "text":
        return text
    if isinstance(value, dict):
        return {name: _with_texts(one, text, numbers) for name, one in value.items()}
    if isinstance(value, list):
        entries = [_with_texts(one, text, numbers) for one in value]
        if entries and isinstance(entries[0], dict) and entries[0].get("id") == 0:
            return [{**entries[0], "id": number} for number in numbers]
        return entries
    return value


def _without_every_other(text: str) -> str:
    """Leave every other entry out of the lists of entries that have an id, the first among them."""
    return to_json(_thinned(read_json(text.encode()))).decode() if '"id"' in text else text


def _thinned(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _thinned(one) for name, one in value.items()}
    if isinstance(value, list):
        numbered = bool(value) and all(isinstance(one, dict) and "id" in one for one in value)
        return [_thinned(one) for one in (value[1::2] if numbered else value)]
    return value
