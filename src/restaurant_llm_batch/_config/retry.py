"""When to ask again: a pure function from what went wrong to how long to wait."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

from ..errors import ConfigurationError, RateLimited, TransientBackendError


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """
    How often and how patiently a call is made again.

    Waits double from `first_wait` to `max_wait` and are then shortened at random by up to half, so that
    calls which failed together do not return together. A ``Retry-After`` is a floor, with the same jitter
    on top. A refusal (`RateLimited`) is not an attempt: it has a count of its own.

    Attributes:
        attempts: Most tries of a call, the first one included.
        first_wait: Seconds before the second try, before jitter.
        max_wait: Longest wait in seconds, unless the service asks for more.
        rate_limit_attempts: Most refusals of a call before it fails.

    Raises:
        ConfigurationError: When a count is below 1 or a wait is negative.
    """

    attempts: int = 3
    first_wait: float = 0.5
    max_wait: float = 30.0
    rate_limit_attempts: int = 20

    def __post_init__(self) -> None:
        for name in ("attempts", "rate_limit_attempts"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigurationError(
                    f"RetryPolicy.{name} must be a whole number of at least 1, got {value!r}; "
                    f"write {name}=1 to never ask again"
                )
        waits: tuple[object, ...] = (self.first_wait, self.max_wait)
        numbers = all(isinstance(wait, (int, float)) for wait in waits)
        if not numbers or not 0 <= self.first_wait <= self.max_wait:
            raise ConfigurationError(
                "RetryPolicy needs 0 <= first_wait <= max_wait (seconds), got "
                f"first_wait={self.first_wait!r}, max_wait={self.max_wait!r}"
            )


@dataclass(frozen=True, slots=True)
class Tries:
    """How a call has fared so far: tries that failed, and tries that were refused."""

    failed: int = 0
    refused: int = 0


def wait_before_next(policy: RetryPolicy, error: Exception, tries: Tries, jitter: float) -> float | None:
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
    count = tries.refused if refused else tries.failed
    if count >= (policy.rate_limit_attempts if refused else policy.attempts):
        return None
    # Where the service says what is left, the gate knows better than a guess when to ask again.
    doublings = 0 if isinstance(error, RateLimited) and error.rate is not None else count - 1
    # 2.0 ** 1024 overflows; the cap is reached long before.
    wait = min(policy.max_wait, policy.first_wait * 2.0 ** min(doublings, 60))
    wait *= 1 - jitter / 2
    if error.retry_after is None or not isfinite(error.retry_after):
        return wait
    return max(wait, error.retry_after) + jitter * min(error.retry_after, policy.max_wait) / 4
