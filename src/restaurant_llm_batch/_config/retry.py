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
    lower bound, plus jitter, up to `wait_max`: a service that asks for an hour is asked again earlier. Only transient
    errors are retried. A refusal (`RateLimited`: 429, or another way to say "busy") does not count as an attempt:
    it has its own limit, and so has a shortage of this process's own threads or file descriptors.

    Attributes:
        attempts: Most attempts of a call, the first one included.
        wait_initial: Seconds before the second attempt, before jitter.
        wait_max: Maximum wait in seconds.
        max_rate_limit_attempts: Most refusals of a call before it fails.

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
    """Attempts of a call so far: how many failed, and how many were refused (`rate_limited`)."""

    failed: int = 0
    rate_limited: int = 0


NO_ATTEMPTS = AttemptCounts()
"""Those of a call that is made for the first time."""


def next_retry_delay(
    policy: RetryPolicy, error: Exception, attempts: AttemptCounts, jitter: float, refused: bool | None = None
) -> float | None:
    """
    Decide whether a failed attempt is followed by another one.

    Args:
        policy: The policy.
        error: The exception that the attempt raised.
        attempts: The attempts so far, this one included.
        jitter: A random number from 0 to 1.
        refused: Whether the call was not processed, so that no attempt is used up; by default, whether the error is
            `RateLimited`.

    Returns:
        Seconds to wait before the next attempt, or None if the call has failed.
    """
    if refused is None:
        refused = isinstance(error, RateLimited)
    if not refused and not isinstance(error, TransientBackendError):
        return None
    count = attempts.rate_limited if refused else attempts.failed
    if count >= (policy.max_rate_limit_attempts if refused else policy.attempts):
        return None
    # If the service reported its limits, the rate limiter knows better than a guess when to try again.
    doublings = 0 if isinstance(error, RateLimited) and error.rate_limit is not None else count - 1
    # 2.0 ** 1024 overflows; the cap is reached long before.
    wait = min(policy.wait_max, policy.wait_initial * 2.0 ** min(doublings, 60))
    wait *= 1 - jitter / 2
    floor: float | None = getattr(error, "retry_after", None)
    if floor is None or not isfinite(floor) or floor <= 0:
        return wait
    if floor >= policy.wait_max:
        return policy.wait_max * (1 - jitter / 4)  # apart: all that were refused at once have the same floor
    return min(policy.wait_max, max(wait, floor) + jitter * floor / 4)
