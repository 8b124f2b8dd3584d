"""
Retry-After: how long a service asks to wait, in headers, error bodies and messages.

Values are given as they are, however long: `RetryPolicy` sets the ceiling. What is negative or no number is None.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import isfinite
from typing import Any

_MAX_LENGTH = 40
"""Characters of the longest value that is parsed as a number or duration."""
_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|us|ns|[dhms])")
_DURATION = re.compile(rf"(?:{_PART.pattern})+")
_SECONDS = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_IN_TEXT = re.compile(
    r"(?:\b(?:try|retry|retrying|again|back|available|resets?)\b[^.\d]{0,40}?\b(?:in|after|for)|\bwait(?:\s+for)?)"
    r"[:=]?\s+(?:about |at least )?((?:[0-9]+(?:\.[0-9]+)?\s*[a-zA-Z]*[\s,]*(?:and )?){1,4})(?![-:/\d])",
    re.IGNORECASE,
)
_TEXT_PART = re.compile(
    r"([0-9]+(?:\.[0-9]+)?)\s*"
    r"(ms\b|milliseconds?|seconds?|secs?\b|s\b|minutes?|mins?\b|m\b|hours?|hrs?\b|h\b|days?|d\b)"
    r"|([0-9]+(?:\.[0-9]+)?)(h|m(?!s)|s)(?=[0-9])",
    re.IGNORECASE,
)
_KEYS = {
    "retry_after": 1.0,
    "retryafter": 1.0,
    "retry-after": 1.0,
    "retry_after_seconds": 1.0,
    "retryafterseconds": 1.0,
    "retrydelay": 1.0,
    "retry_delay": 1.0,
    "retry_after_ms": 1e-3,
    "retryafterms": 1e-3,
    "retry-after-ms": 1e-3,
}
"""Names of fields in error bodies, in lower case, with the length of their unit in seconds."""


def retry_after(headers: Mapping[str, str]) -> float | None:
    """
    Return the seconds to wait before the next attempt, or None if the headers do not say.

    Reads ``retry-after-ms`` (Azure), then ``Retry-After`` in seconds or as a date (RFC 9110, section 10.2.3).
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    header = headers.get("retry-after")
    if header is None:
        return None
    seconds = _number(header)
    if seconds is None:
        seconds = duration(header.strip())
    return _until(header) if seconds is None else seconds


def wait_in_body(parts: Iterable[Mapping[str, Any]]) -> float | None:
    """Return the seconds to wait that a field of an error body states, such as Google's ``retryDelay``."""
    for part in parts:
        for key, value in part.items():
            unit = _KEYS.get(str(key).lower())
            seconds = None if unit is None else _as_seconds(value)
            if unit is not None and seconds is not None:
                return seconds * unit
    return None


def wait_in_text(text: str) -> float | None:
    """Return the seconds in "try again in 20s", "retry after 1 minute and 5 seconds" and the like, or None."""
    found = _IN_TEXT.search(text)
    if found is None:
        return None
    phrase = found[1].strip().lower()
    if _SECONDS.fullmatch(phrase.rstrip(".,")) and len(phrase) <= _MAX_LENGTH:
        return _number(phrase.rstrip(".,"))
    compact = duration(phrase.replace(" ", ""))
    if compact is not None:
        return compact
    total, any_part = 0.0, False
    for number, unit, compact_number, compact_unit in _TEXT_PART.findall(phrase):
        seconds = _number(number or compact_number)
        if seconds is None:
            return None
        total, any_part = total + seconds * _unit(unit or compact_unit), True
    return total if any_part and isfinite(total) else None


def duration(text: str) -> float | None:
    """Return the seconds of "12ms", "6m0s", "1h2m3.5s" or a plain number of seconds; None for anything else."""
    if len(text) > _MAX_LENGTH:
        return None
    if _SECONDS.fullmatch(text):
        return float(text)
    if not _DURATION.fullmatch(text):
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))


def _unit(word: str) -> float:
    word = word.lower()
    if word.startswith(("ms", "milli")):
        return 1e-3
    return _UNITS[word[0]]


def _until(header: str) -> float | None:
    try:
        date = parsedate_to_datetime(header)
        if date.tzinfo is None:
            date = date.replace(tzinfo=UTC)
        return max(0.0, (date - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _as_seconds(value: Any) -> float | None:
    if isinstance(value, Mapping):  # protobuf's Duration
        seconds, nanos = _as_seconds(value.get("seconds", 0)), _as_seconds(value.get("nanos", 0))
        return None if seconds is None or nanos is None else seconds + nanos * 1e-9
    if isinstance(value, str):
        number = _number(value)
        return duration(value.strip()) if number is None else number
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return _number(str(value))


def _number(text: str | None) -> float | None:
    if text is None or len(text) > 400:
        return None
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if isfinite(number) and number >= 0 else None
