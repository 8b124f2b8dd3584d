"""What HTTP answers mean: statuses and headers, as errors of ours."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import isfinite
from typing import Any

from pydantic_core import from_json, to_json

from .._llm_response import RateLimitInfo, RateLimitStatus
from ..errors import (
    AuthenticationFailed,
    BackendError,
    ConfigurationError,
    PermanentBackendError,
    PromptTooLong,
    QuotaExhausted,
    RateLimited,
    TransientBackendError,
)
from .secrets import Secret
from .types import HTTPResponse, TransportError

_MAY_PASS = frozenset({408, 409, 425})
MAX_ERROR_TEXT = 500


def encode(body: Mapping[str, Any]) -> bytes:
    """
    Return a JSON body.

    Korean stays Korean, since escapes would cost several tokens a syllable; half of a surrogate pair, which
    no encoding can carry, becomes a question mark.
    """
    try:
        return to_json(body)  # several times faster, but strict about text
    except ValueError:
        return json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")


def decode(answer: HTTPResponse, backend: str, secret: Secret | None = None) -> Any:
    """
    Return the JSON of an answer.

    Raises:
        TransientBackendError: When it is none; something between us and the service answered instead.
    """
    try:
        return from_json(answer.body)
    except ValueError:
        words = answer.body.decode("utf-8", "replace")
        words = words if secret is None else secret.redact(words)
    # Out here, since the decoder's error holds the whole answer, in which the key may be repeated.
    raise TransientBackendError(
        f"{backend} answered with something that is not JSON: {words[:80]!r}",
        backend=backend,
        status=answer.status,
    )


def no_response_error(error: TransportError, backend: str) -> TransientBackendError:
    """Return the error for an exchange without an answer."""
    return TransientBackendError(f"{backend} did not answer: {error}", backend=backend)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a service asks us to wait (``retry-after-ms``, ``Retry-After``), or None."""
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    given = headers.get("retry-after")
    seconds = _number(given)
    if seconds is not None or given is None:
        return seconds
    try:
        until = parsedate_to_datetime(given)
    except ValueError:
        return None
    if until.tzinfo is None:
        until = until.replace(tzinfo=UTC)
    return max(0.0, (until - datetime.now(UTC)).total_seconds())


def error_from_status(
    status: int, message: str, backend: str, *, headers: Mapping[str, str] | None = None
) -> BackendError:
    """
    Return the error that a status means, where the service's own words say nothing more exact.

    Args:
        status: The HTTP status.
        message: What the service said, free of secrets.
        backend: The backend's name.
        headers: The answer's headers.
    """
    message = (
        f"{backend} answered {status}: {message[:MAX_ERROR_TEXT]}"
        if message
        else f"{backend} answered {status}"
    )
    wait = retry_after(headers or {})
    if status == 429:
        rate = read_rate_limits(headers or {})
        return RateLimited(message, rate_limit=rate, retry_after=wait, backend=backend, status=status)
    if status in _MAY_PASS or status >= 500:
        return TransientBackendError(message, retry_after=wait, backend=backend, status=status)
    if status in (401, 403):
        return AuthenticationFailed(message, backend=backend, status=status)
    if status == 402:
        return QuotaExhausted(message, backend=backend, status=status)
    if status == 413:
        return PromptTooLong(message, backend=backend, status=status)
    if 300 <= status < 400:
        place = (headers or {}).get("location", "elsewhere")
        message = f"{message} (it sends us to {place}; write the final address as the base URL)"
    return PermanentBackendError(message, backend=backend, status=status)


def normalize_base_url(url: str, *, without: str = "") -> str:
    """
    Return a base URL without a slash, or `without`, at its end.

    Raises:
        ConfigurationError: When it is not a URL, or holds a password.
    """
    if not str(url).startswith(("http://", "https://")):
        raise ConfigurationError(
            f"base_url must start with http:// or https://, got {url!r}; write for example "
            '"http://localhost:8000"'
        )
    if "@" in url.split("/")[2]:
        raise ConfigurationError("base_url must not hold a user or password; write them as api_key=...")
    return url.rstrip("/").removesuffix(without).rstrip("/") if without else url.rstrip("/")


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if isfinite(number) and number >= 0 else None


_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|us|ns|[dhms])")
_DURATION = re.compile(rf"(?:{_PART.pattern})+")
_SECONDS = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_COUNT = re.compile(r"[0-9]+")
_LONGEST = 40
"""More characters than any number that means something has."""


def read_rate_limits(headers: Mapping[str, str]) -> RateLimitInfo | None:
    """
    Return what headers say is left, or None when they do not say it.

    Of requests, and of tokens, all three must be told: the limit, what remains, and when it is full again.
    Azure leaves some out, or says -1.

    Args:
        headers: An answer's; names compare without case.
    """
    requests, tokens = _budget(headers, "requests"), _budget(headers, "tokens")
    return None if requests is tokens is None else RateLimitInfo(requests, tokens)


def duration(text: str) -> float | None:
    """Return the seconds in "12ms", "6m0s", "1h2m3.5s", or a plain number of them; None for anything else."""
    if len(text) > _LONGEST:
        return None
    if _SECONDS.fullmatch(text):
        return float(text)
    if not _DURATION.fullmatch(text):
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))


def _budget(headers: Mapping[str, str], name: str) -> RateLimitStatus | None:
    left = headers.get(f"x-ratelimit-remaining-{name}")
    if left is None:  # as nearly always: most services say none of it
        return None
    limit, remaining = _count(headers.get(f"x-ratelimit-limit-{name}", "")), _count(left)
    reset = duration(headers.get(f"x-ratelimit-reset-{name}", "").strip())
    if limit is None or remaining is None or reset is None:
        return None
    return RateLimitStatus(limit, remaining, reset)


def _count(text: str) -> int | None:
    text = text.strip()
    return int(text) if len(text) <= _LONGEST and _COUNT.fullmatch(text) else None
