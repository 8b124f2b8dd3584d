"""
Text of strangers at the borders of the process: terminals, messages and logs, JSON Lines. One function for each.

Names, reviews, replies and messages of services may hold anything: escape sequences that a terminal obeys, line ends
that forge a log line, signs that reverse what is read, half an emoji, megabytes. (In prompts, `tasks._prompts` escapes
them; where a client of the HTTP service is told something, `integrations._fastapi` does.)
"""

from __future__ import annotations

import json
import re
from math import isfinite
from typing import Any

MAX_MESSAGE = 4_000
"""Maximum length of an error's message, in characters."""
MAX_CELL = 20_000
"""Maximum length of a text on a terminal, in characters; no text in a result is longer."""

# Not compiled at import: only texts with such signs need them, and `re` keeps what it has compiled.
_CONTROLS = "\x00-\x1f\x7f-\x9f"
_LINES = "\u2028\u2029"
_DIRECTIONS = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff"
"""Signs that change the direction of the text after them, and the byte order mark."""
_SURROGATES = "\ud800-\udfff"
_UNSAFE_IN_MESSAGES = f"[{_CONTROLS}{_LINES}{_DIRECTIONS}{_SURROGATES}]"
_UNSAFE_IN_JSON = f"[\x7f-\x9f{_LINES}{_DIRECTIONS}]"


def message_text(text: str, limit: int = MAX_MESSAGE) -> str:
    """
    Return a text for a message or a log: on one line, of bounded length, with control characters written as escapes.

    Line ends and tabs become blanks. Of a longer text the end is kept too, because it says what to do.
    """
    if len(text) > limit:
        kept = limit - 40
        text = f"{text[: kept - kept // 4]} [{len(text) - kept:,} characters] {text[-(kept // 4) :]}"
    if text.isprintable():  # the usual case
        return text
    return re.sub(_UNSAFE_IN_MESSAGES, _escape, text)


def _escape(sign: re.Match[str]) -> str:
    if sign[0] in "\t\n\r":
        return " "
    return f"\\x{ord(sign[0]):02x}" if ord(sign[0]) < 0x100 else f"\\u{ord(sign[0]):04x}"


def error_text(error: BaseException) -> str:
    """Return an error's type and message, of any error, for a result, a table or a log."""
    try:
        text = str(error)
    except Exception:  # of another's class
        text = "(its message cannot be shown)"
    return message_text(f"{type(error).__name__}: {text}")


def terminal_text(text: str, limit: int = MAX_CELL) -> str:
    """
    Return a text for a terminal: on one line, of bounded length, and only what is printed.

    Everything else is left out: escape sequences' control characters, signs of direction, invisible characters, and
    variation selectors, whose width terminals do not agree on.
    """
    if len(text) > limit:
        text = f"{text[: limit - 1]}…"
    flat = " ".join(text.replace("\N{VARIATION SELECTOR-16}", "").split())
    return flat if flat.isprintable() else "".join(filter(str.isprintable, flat))


def json_line(value: Any) -> bytes:
    """
    Return a value as one line of JSON in UTF-8, with its line end.

    It is one line for every reader: line separators that JSON leaves as they are, are escaped. So are C1 control
    characters and signs of direction, which a terminal would obey. A lone surrogate becomes a question mark, and NaN or
    an infinite number null.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:
        text = json.dumps(_with_null(value), ensure_ascii=False)
    return escaped_json(text).encode("utf-8", "replace") + b"\n"


def _with_null(value: Any) -> Any:
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, dict):
        return {name: _with_null(member) for name, member in value.items()}
    return [_with_null(member) for member in value] if isinstance(value, (list, tuple)) else value


def escaped_json(text: str) -> str:
    """Return JSON with line separators, C1 control characters and signs of direction escaped; its meaning is equal."""
    if text.isascii() and "\x7f" not in text:
        return text
    return re.sub(_UNSAFE_IN_JSON, lambda sign: f"\\u{ord(sign[0]):04x}", text)
