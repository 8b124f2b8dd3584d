"""When to ask again: a pure function from what went wrong to how long to wait."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

from ..errors import ConfigurationError, RateLimited, TransientBackendError


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """
    How often and how patiently a call is made again.

    Waits double from `wait_initial` to `wait_max` and are then shortened at random by up to half, so that
    calls which failed together do not return together. A ``Retry-After`` is a floor, with the same jitter
    on top. A refusal (`RateLimited`) is not an attempt: it has a count of its own.

    Attributes:
        attempts: Most tries of a call, the first one included.
        wait_initial: Seconds before the second try, before jitter.
        wait_max: Longest wait in seconds, unless the service asks for more.
        max_rate_limit_attempts: Most refusals of a call before it fails.

    Raises:
        ConfigurationError: When a count is below 1 or a wait is negative.
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
                    f"write {name}=1 to never ask again"
                )
        waits: tuple[object, ...] = (self.wait_initial, self.wait_max)
        numbers = all(isinstance(wait, (int, float)) for wait in waits)
        if not numbers or not 0 <= self.wait_initial <= self.wait_max:
            raise ConfigurationError(
                "RetryPolicy needs 0 <= wait_initial <= wait_max (seconds), got "
                f"wait_initial={self.wait_initial!r}, wait_max={self.wait_max!r}"
            )


@dataclass(frozen=True, slots=True)
class AttemptCounts:
    """How a call has fared so far: tries that failed, and tries that were refused."""

    failed: int = 0
    rate_limited: int = 0


def next_retry_delay(
    policy: RetryPolicy, error: Exception, tries: AttemptCounts, jitter: float
) -> float | None:
    """
    Decide what follows a failed try.

    Args:
        policy: The policy.
        error: What the try raised.
        tries: The tries so far, this one included.
        jitter: A random number from 0 to 1.

    Returns:
        Seconds to wait before asking again, or None to give up.
    """
    if not isinstance(error, TransientBackendError):
        return None
    refused = isinstance(error, RateLimited)
    count = tries.rate_limited if refused else tries.failed
    if count >= (policy.max_rate_limit_attempts if refused else policy.attempts):
        return None
    # Where the service says what is left, the gate knows better than a guess when to ask again.
    doublings = 0 if isinstance(error, RateLimited) and error.rate_limit is not None else count - 1
    # 2.0 ** 1024 overflows; the cap is reached long before.
    wait = min(policy.wait_max, policy.wait_initial * 2.0 ** min(doublings, 60))
    wait *= 1 - jitter / 2
    if error.retry_after is None or not isfinite(error.retry_after):
        return wait
    return max(wait, error.retry_after) + jitter * min(error.retry_after, policy.wait_max) / 4
