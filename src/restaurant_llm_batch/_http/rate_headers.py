"""What a service says is left of its limits, in OpenAI's ``x-ratelimit-*`` headers. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from .._llm_response import RateBudget, RateReport

_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|us|ns|[dhms])")
_DURATION = re.compile(rf"(?:{_PART.pattern})+")
_SECONDS = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_COUNT = re.compile(r"[0-9]+")
_LONGEST = 40
"""More characters than any number that means something has."""


def rate_report(headers: Mapping[str, str]) -> RateReport | None:
    """
    Return what headers say is left, or None when they do not say it.

    Of requests, and of tokens, all three must be told: the limit, what remains, and when it is full again.
    Azure leaves some out, or says -1.

    Args:
        headers: An answer's; names compare without case.
    """
    requests, tokens = _budget(headers, "requests"), _budget(headers, "tokens")
    return None if requests is tokens is None else RateReport(requests, tokens)


def duration(text: str) -> float | None:
    """Return the seconds in "12ms", "6m0s", "1h2m3.5s", or a plain number of them; None for anything else."""
    if len(text) > _LONGEST:
        return None
    if _SECONDS.fullmatch(text):
        return float(text)
    if not _DURATION.fullmatch(text):
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))


def _budget(headers: Mapping[str, str], name: str) -> RateBudget | None:
    left = headers.get(f"x-ratelimit-remaining-{name}")
    if left is None:  # as nearly always: most services say none of it
        return None
    limit, remaining = _count(headers.get(f"x-ratelimit-limit-{name}", "")), _count(left)
    reset = duration(headers.get(f"x-ratelimit-reset-{name}", "").strip())
    if limit is None or remaining is None or reset is None:
        return None
    return RateBudget(limit, remaining, reset)


def _count(text: str) -> int | None:
    text = text.strip()
    return int(text) if len(text) <= _LONGEST and _COUNT.fullmatch(text) else None
