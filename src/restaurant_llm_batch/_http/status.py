"""HTTP statuses and headers: errors, ``Retry-After``, rate limits, and JSON bodies."""

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

_RETRYABLE_STATUSES = frozenset({408, 409, 425})
MAX_ERROR_TEXT = 500
"""Characters of a service's error message that are kept."""


def encode(body: Mapping[str, Any]) -> bytes:
    """
    Encode a JSON body as UTF-8.

    Korean is not escaped, since escapes in a prompt cost several tokens per syllable. A lone surrogate, which
    UTF-8 cannot encode, becomes a question mark.
    """
    try:
        return to_json(body)  # several times faster than json.dumps, but raises for lone surrogates
    except ValueError:
        return json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")


def decode(response: HTTPResponse, backend: str, secret: Secret | None = None) -> Any:
    """
    Decode the JSON body of a response.

    Raises:
        TransientBackendError: If it is not JSON; usually a proxy has answered in place of the service.
    """
    try:
        return from_json(response.body)
    except ValueError:
        text = response.body.decode("utf-8", "replace")
        text = text if secret is None else secret.redact(text)
    # Not inside `except`: the decoder's error holds the whole body, which may repeat the key, as __context__.
    raise TransientBackendError(
        f"{backend} answered with something that is not JSON: {text[:80]!r}",
        backend=backend,
        status=response.status,
    )


def no_response_error(error: TransportError, backend: str) -> TransientBackendError:
    """Return the error for a request that got no response."""
    return TransientBackendError(f"{backend} did not answer: {error}", backend=backend)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """
    Return the seconds to wait before the next attempt, or None if the headers do not say.

    Reads ``retry-after-ms`` (Azure), then ``Retry-After`` in seconds or as a date (RFC 9110, section 10.2.3).
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    header = headers.get("retry-after")
    seconds = _number(header)
    if seconds is not None or header is None:
        return seconds
    try:
        date = parsedate_to_datetime(header)
    except ValueError:
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return max(0.0, (date - datetime.now(UTC)).total_seconds())


def error_from_status(
    status: int, message: str, backend: str, *, headers: Mapping[str, str] | None = None
) -> BackendError:
    """
    Return the error for an HTTP status, for bodies that say nothing more specific.

    Args:
        status: The HTTP status.
        message: The service's message, with secrets redacted.
        backend: The backend's name.
        headers: The response headers.
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
    if status in _RETRYABLE_STATUSES or status >= 500:
        return TransientBackendError(message, retry_after=wait, backend=backend, status=status)
    if status in (401, 403):
        return AuthenticationFailed(message, backend=backend, status=status)
    if status == 402:
        return QuotaExhausted(message, backend=backend, status=status)
    if status == 413:
        return PromptTooLong(message, backend=backend, status=status)
    if 300 <= status < 400:
        location = (headers or {}).get("location", "elsewhere")
        message = f"{message} (it redirects to {location}; use the final address as the base URL)"
    return PermanentBackendError(message, backend=backend, status=status)


def normalize_base_url(url: str, *, without: str = "") -> str:
    """
    Strip trailing slashes from a base URL, and the suffix `without`.

    Raises:
        ConfigurationError: If it is not an http(s) URL, or holds a user or password.
    """
    if not str(url).startswith(("http://", "https://")):
        raise ConfigurationError(
            f'base_url must start with http:// or https://, got {url!r}; for example "http://localhost:8000"'
        )
    if "@" in url.split("/")[2]:
        raise ConfigurationError("base_url must not hold a user or password; pass them as api_key=...")
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
_MAX_NUMBER_LENGTH = 40
"""Characters of the longest header value that is parsed."""


def read_rate_limits(headers: Mapping[str, str]) -> RateLimitInfo | None:
    """
    Parse OpenAI's ``x-ratelimit-*`` headers; None if there are none.

    The limits on requests and on tokens are read separately. Each needs all three of its headers: limit,
    remaining, and reset. Azure omits some of them, or sends -1. Source:
    https://platform.openai.com/docs/guides/rate-limits

    Args:
        headers: The response headers; names are case-insensitive.
    """
    requests, tokens = _limit_status(headers, "requests"), _limit_status(headers, "tokens")
    return None if requests is tokens is None else RateLimitInfo(requests, tokens)


def duration(text: str) -> float | None:
    """Return the seconds of "12ms", "6m0s", "1h2m3.5s" or a plain number of seconds; None for anything else."""
    if len(text) > _MAX_NUMBER_LENGTH:
        return None
    if _SECONDS.fullmatch(text):
        return float(text)
    if not _DURATION.fullmatch(text):
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))


def _limit_status(headers: Mapping[str, str], name: str) -> RateLimitStatus | None:
    remaining_header = headers.get(f"x-ratelimit-remaining-{name}")
    if remaining_header is None:  # the usual case: most services send no such headers
        return None
    limit, remaining = _count(headers.get(f"x-ratelimit-limit-{name}", "")), _count(remaining_header)
    reset = duration(headers.get(f"x-ratelimit-reset-{name}", "").strip())
    if limit is None or remaining is None or reset is None:
        return None
    return RateLimitStatus(limit, remaining, reset)


def _count(text: str) -> int | None:
    text = text.strip()
    return int(text) if len(text) <= _MAX_NUMBER_LENGTH and _COUNT.fullmatch(text) else None
