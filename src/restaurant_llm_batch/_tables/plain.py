"""Values as JSON can hold them: texts, numbers, true, false, None, lists and objects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import date, time, timedelta
from enum import Enum
from math import isfinite
from typing import Any

from .._text import error_text, message_text

_MAX_DEPTH = 50
"""Depth of a value below which a text is written in its place: it may refer to itself."""


def plain(value: Any, depth: int = 0) -> Any:
    """
    Return a value of any kind as JSON can hold it.

    A dataclass, a named tuple and a pydantic model become an object, NaN and infinite numbers None, dates ISO texts,
    and numbers of numpy and the like plain numbers. Anything else becomes its text.
    """
    if value is None or (isinstance(value, (bool, str, int)) and type(value) in (bool, str, int)):
        return value
    if isinstance(value, float):
        return float(value) if isfinite(value) else None
    if depth > _MAX_DEPTH:
        return _text(value)
    if isinstance(value, Enum):
        return plain(value.value, depth + 1)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return int(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name), depth + 1) for field in fields(value)}
    if isinstance(value, Mapping):
        return {_name(name): plain(member, depth + 1) for name, member in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {name: plain(member, depth + 1) for name, member in value._asdict().items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(member, depth + 1) for member in value]
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    return _foreign(value, depth)


def _foreign(value: Any, depth: int) -> Any:
    """Return a value of a class of others: a pydantic model, an array or a number of numpy, or anything else."""
    for name in ("model_dump", "tolist"):
        method = getattr(value, name, None)
        if callable(method) and not isinstance(value, type):
            try:
                return plain(method(), depth + 1)
            except Exception:  # whatever it is, it has a text
                break
    return _text(value)


def _name(name: object) -> str:
    return name if isinstance(name, str) else _text(plain(name, _MAX_DEPTH))


def _text(value: object) -> str:
    try:
        return str(value)
    except Exception:  # of another's class
        return f"<{type(value).__name__}>"


def plain_error(error: BaseException) -> dict[str, str]:
    """Return an error's type and message."""
    name = type(error).__name__
    return {"type": name, "message": message_text(error_text(error).removeprefix(f"{name}: "))}


def plain_report(report: Any) -> dict[str, Any]:
    """Return a report; see `BatchReport.to_dict`."""
    return {"outcomes": [_outcome(one) for one in report.outcomes], "stats": plain(report.stats)}


def _outcome(outcome: Any) -> dict[str, Any]:
    known = {"item_id": plain(outcome.item_id), "index": outcome.index, "ok": outcome.ok}
    if outcome.ok:
        known["value"] = plain(outcome.value)
    else:
        known |= {
            "error": plain_error(outcome.error),
            "stage": outcome.stage,
            "attempts": outcome.attempts,
        }
    return known | {"spent": plain(outcome.spent)}
