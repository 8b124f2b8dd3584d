"""Writing JSON."""

from __future__ import annotations

import json
from typing import Any

from pydantic_core import to_json

_ENDS_OF_LINES = "\u0085\u2028\u2029"
"""What JSON may hold as it is, and what splits lines for `str.splitlines` and so for many a client."""


def as_json(value: Any) -> bytes:
    """Return a value as JSON in UTF-8."""
    try:
        return to_json(value)
    except ValueError:
        # A model may write half an emoji, which is no valid UTF-8; a question mark stands for it.
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def as_line(value: Any) -> bytes:
    """Return a value as one line of JSON, by anybody's idea of a line."""
    text = as_json(value)
    for mark in _ENDS_OF_LINES:
        text = text.replace(mark.encode(), f"\\u{ord(mark):04x}".encode())
    return text + b"\n"
