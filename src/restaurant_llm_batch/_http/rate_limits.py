"""Rate-limit headers: OpenAI's ``x-ratelimit-*``, as `RateLimitInfo`."""

from __future__ import annotations

import re
from collections.abc import Mapping

from .._llm_response import RateLimitInfo, RateLimitStatus
from .retry_after import duration

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
