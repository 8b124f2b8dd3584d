"""
Streamed completions that were not asked for: server-sent events and JSON lines, joined to one completion.

Some servers and gateways stream although ``stream`` was not set. The whole response has been received by then, so its
events are joined instead of being paid for again. Format: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic_core import from_json

_LINE_END = re.compile(r"\r\n|\n|\r")
_LOOKS_LIKE_EVENTS = re.compile(r"\s*(?:data|event|id|retry)?:")
_DONE = "[DONE]"
_NOT_JSON = (ValueError, TypeError)
"""What `from_json` raises; the second for a lone surrogate."""


def looks_like_events(text: str) -> bool:
    """Return whether a body is a stream of server-sent events: its first line is a field or a comment."""
    return _LOOKS_LIKE_EVENTS.match(text) is not None


def join_events(text: str) -> dict[str, Any] | None:
    """
    Return the chat completion, or the error, in server-sent events; None if there is neither.

    Args:
        text: The body, without a byte order mark.
    """
    data = list(_event_data(text))
    chunks = [chunk for piece in data for chunk in _decoded(piece)]
    return _join(chunks, complete=any(piece.strip() == _DONE for piece in data))


def join_lines(text: str) -> dict[str, Any] | None:
    """Return the chat completion in a body of JSON lines, one chunk per line; None if it is not one."""
    chunks: list[Any] = []
    for line in _LINE_END.split(text):
        if line.strip():
            try:
                chunks.append(from_json(line))
            except _NOT_JSON:
                return None
    if len(chunks) < 2 or not all(isinstance(chunk, dict) for chunk in chunks):
        return None
    return _join([_from_ollama(chunk) for chunk in chunks], complete=chunks[-1].get("done") is True)


def _event_data(text: str) -> Iterator[str]:
    lines: list[str] = []
    for line in _LINE_END.split(text):
        if not line:
            if lines:
                yield "\n".join(lines)
            lines = []
        elif line.startswith("data:"):
            lines.append(line[5:].removeprefix(" "))
    if lines:
        yield "\n".join(lines)


def _decoded(piece: str) -> list[Mapping[str, Any]]:
    """Return the objects in an event's data; some servers separate events by one line end only."""
    try:
        candidates = [from_json(piece)]
    except _NOT_JSON:
        candidates = []
        for line in piece.split("\n"):
            try:
                candidates.append(from_json(line))
            except _NOT_JSON:
                continue
    return [one for one in candidates if isinstance(one, dict)]


def _join(chunks: list[Mapping[str, Any]], *, complete: bool) -> dict[str, Any] | None:
    text: list[str] = []
    refusal: list[str] = []
    joined: dict[str, Any] = {}
    reason: Any = None
    found = False
    for chunk in chunks:
        if chunk.get("error") or chunk.get("object") == "error":
            return dict(chunk)
        for key in ("id", "model", "usage"):
            if chunk.get(key):
                joined[key] = chunk[key]
        choice = _first_choice(chunk)
        if choice is None:
            continue
        found = True
        reason = choice.get("finish_reason") or reason
        if choice.get("error"):
            joined["error"] = choice["error"]
        message = choice.get("message")
        if isinstance(message, dict) and not isinstance(choice.get("delta"), dict):
            if chunk.get("object") == "chat.completion":  # the whole completion, as a single or last event
                return {**joined, **chunk}
            choice = {**choice, "delta": message}
        delta = choice.get("delta")
        delta = delta if isinstance(delta, dict) else {"content": choice.get("text")}
        text.append(_text(delta.get("content")))
        refusal.append(_text(delta.get("refusal")))
    if not found:
        return None
    whole = "".join(text)
    if reason is None:
        # Neither a reason nor the end mark: the stream may have been cut off.
        reason = "stop" if complete or _is_json(whole) else "length"
    message = {"role": "assistant", "content": whole or None, "refusal": "".join(refusal) or None}
    joined.setdefault("object", "chat.completion")
    joined["choices"] = [{"index": 0, "message": message, "finish_reason": reason}]
    if "error" in joined:
        joined["choices"][0]["error"] = joined.pop("error")
    return joined


def _first_choice(chunk: Mapping[str, Any]) -> Mapping[str, Any] | None:
    choices = chunk.get("choices")
    if not isinstance(choices, list):
        return None
    return next(
        (choice for choice in choices if isinstance(choice, dict) and choice.get("index", 0) in (0, None)),
        None,
    )


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "".join(
            part if isinstance(part, str) else _text(part.get("text"))
            for part in value
            if isinstance(part, str) or (isinstance(part, dict) and part.get("type", "text") == "text")
        )
    return value if isinstance(value, str) else ""


def _is_json(text: str) -> bool:
    try:
        from_json(text)
    except _NOT_JSON:
        return False
    return True


def _from_ollama(chunk: dict[str, Any]) -> dict[str, Any]:
    """Return a chunk of Ollama's own API in the form of OpenAI's; any other chunk as it is."""
    message = chunk.get("message")
    if "choices" in chunk or not isinstance(message, dict):
        return chunk
    reason = str(chunk.get("done_reason") or "stop") if chunk.get("done") else None
    usage = {"prompt_tokens": chunk.get("prompt_eval_count"), "completion_tokens": chunk.get("eval_count")}
    return {
        "model": chunk.get("model"),
        "choices": [{"index": 0, "delta": message, "finish_reason": reason}],
        "usage": usage if chunk.get("done") else None,
    }
