"""Retry decision: whether a failed call is tried again, and the backoff before it. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

from ..errors import ConfigurationError, RateLimited, TransientBackendError


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """
    How often a failed call is tried again, and how long to wait before each retry.

    Exponential backoff with jitter: the wait doubles from `wait_initial` up to `wait_max`, and is then shortened at
    random by up to half, so that calls which failed together are not retried together. A ``Retry-After`` header is a
    lower bound, plus jitter. Only transient errors are retried. A 429 response (`RateLimited`) does not count as an
    attempt: it has its own limit.

    Attributes:
        attempts: Most attempts of a call, the first one included.
        wait_initial: Seconds before the second attempt, before jitter.
        wait_max: Maximum wait in seconds, unless the service's ``Retry-After`` is longer.
        max_rate_limit_attempts: Most 429 responses to a call before it fails.

    Raises:
        ConfigurationError: If a count is not a whole number of at least 1, or unless 0 <= wait_initial <= wait_max.
    """

    attempts: int = 3
    wait_initial: float = 0.5
    wait_max: float = 30.0
    max_rate_limit_attempts: int = 20

    def __post_init__(self) -> None:
        for name in ("attempts", "max_rate_limit_attempts"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigurationError(
                    f"RetryPolicy.{name} must be a whole number of at least 1, got {value!r}; "
                    f"for example RetryPolicy({name}=1), which never retries"
                )
        waits: tuple[object, ...] = (self.wait_initial, self.wait_max)
        numbers = all(isinstance(wait, (int, float)) for wait in waits)
        if not numbers or not 0 <= self.wait_initial <= self.wait_max:
            raise ConfigurationError(
                "RetryPolicy needs 0 <= wait_initial <= wait_max (seconds), got "
                f"wait_initial={self.wait_initial!r}, wait_max={self.wait_max!r}; "
                "for example RetryPolicy(wait_initial=0.5, wait_max=30)"
            )


@dataclass(frozen=True, slots=True)
class AttemptCounts:
    """Attempts of a call so far: how many failed, and how many got a 429 (`rate_limited`)."""

    failed: int = 0
    rate_limited: int = 0


def next_retry_delay(
    policy: RetryPolicy, error: Exception, attempts: AttemptCounts, jitter: float
) -> float | None:
    """
    Decide whether a failed attempt is followed by another one.

    Args:
        policy: The policy.
        error: The exception that the attempt raised.
        attempts: The attempts so far, this one included.
        jitter: A random number from 0 to 1.

    Returns:
        Seconds to wait before the next attempt, or None if the call has failed.
    """
    if not isinstance(error, TransientBackendError):
        return None
    rate_limited = isinstance(error, RateLimited)
    count = attempts.rate_limited if rate_limited else attempts.failed
    if count >= (policy.max_rate_limit_attempts if rate_limited else policy.attempts):
        return None
    # If the service reported its limits, the rate limiter knows better than a guess when to try again.
    doublings = 0 if isinstance(error, RateLimited) and error.rate_limit is not None else count - 1
    # 2.0 ** 1024 overflows; the cap is reached long before.
    wait = min(policy.wait_max, policy.wait_initial * 2.0 ** min(doublings, 60))
    wait *= 1 - jitter / 2
    if error.retry_after is None or not isfinite(error.retry_after):
        return wait
    return max(wait, error.retry_after) + jitter * min(error.retry_after, policy.wait_max) / 4
