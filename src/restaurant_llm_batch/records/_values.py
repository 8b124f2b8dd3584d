"""Values of a record: texts, numbers, ids and results as SQLite and JSON take them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from math import isfinite
from typing import Any

MAX_INTEGER = 2**63 - 1
"""The largest number that SQLite takes."""
_MAX_DEPTH = 50


def sql_text(text: str) -> str:
    """Return a text that SQLite accepts: half a surrogate pair, which is no UTF-8, becomes an escape."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()
    return text


def sql_name(value: object) -> str:
    """Return a short text of anything: a name that a backend or a user's own task has chosen."""
    return sql_text(value if isinstance(value, str) else str(value))


def sql_integer(number: int) -> int:
    """Return a number that fits into SQLite's 64 bits."""
    return min(number, MAX_INTEGER)  # `min` would be a call for every number


def iso(unix: float) -> str:
    """Return a time as an ISO text in UTC, with milliseconds."""
    return datetime.fromtimestamp(unix, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


_quoted = json.encoder.encode_basestring_ascii
"""As `json.dumps` for a text, in a tenth of the time."""


def id_texts(item_id: object) -> tuple[str | None, str]:
    """Return an id as a text, and as JSON, from which it can be read as it was."""
    if type(item_id) is int:
        try:
            text = str(item_id)
        except ValueError:  # Python prints no number of more than 4,300 digits
            text = hex(item_id)
            return text, json.dumps(text)
        return text, text
    if isinstance(item_id, str):
        return sql_text(item_id), _quoted(item_id)
    return None, "null"


def to_json(value: object) -> str:
    """Return any value as JSON, for people and programs to read; what JSON does not have becomes a text."""
    return sql_text(json.dumps(plain(value), ensure_ascii=False))


def plain(value: object, depth: int = 0) -> Any:
    """Return any value as dicts, lists, texts and numbers: fields of dataclasses and pydantic models by name."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if isfinite(value) else None
    if depth > _MAX_DEPTH:
        return "..."
    if is_dataclass(value) and not isinstance(value, type):
        named = ((field.name, getattr(value, field.name)) for field in fields(value) if field.repr)
        return {name: plain(part, depth + 1) for name, part in named}
    dump = getattr(value, "model_dump", None)
    if callable(dump) and not isinstance(value, type):
        return plain(dump(), depth + 1)
    if isinstance(value, Mapping):
        return {
            name if isinstance(name, str) else str(name): plain(part, depth + 1)
            for name, part in value.items()
        }
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return plain(value._asdict(), depth + 1)
    if isinstance(value, Sequence | AbstractSet) and not isinstance(value, bytes | bytearray | memoryview):
        return [plain(part, depth + 1) for part in value]
    return str(value)
