"""When a call is made again, and after how long."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restaurant_llm_batch import RetryPolicy, errors
from restaurant_llm_batch._config.retry import Tries, wait_before_next

policies = st.builds(
    RetryPolicy,
    attempts=st.integers(1, 10),
    first_wait=st.floats(0, 5),
    max_wait=st.floats(5, 100),
    rate_limit_attempts=st.integers(1, 30),
)
jitters = st.floats(0, 1)


@given(policies, jitters, st.integers(1, 10_000))
def test_a_wait_is_at_least_half_and_at_most_the_whole_of_the_backoff(
    policy: RetryPolicy, jitter: float, failed: int
) -> None:
    wait = wait_before_next(policy, errors.TransientBackendError(), Tries(failed, 0), jitter)
    if failed >= policy.attempts:
        assert wait is None
    else:
        full = min(policy.max_wait, policy.first_wait * 2.0 ** (failed - 1))
        assert wait is not None
        assert full / 2 <= wait <= full


@given(policies, jitters, st.floats(0, 10_000))
def test_retry_after_is_a_floor(policy: RetryPolicy, jitter: float, retry_after: float) -> None:
    error = errors.RateLimited("429", retry_after=retry_after)
    wait = wait_before_next(policy, error, Tries(0, 1), jitter)
    if policy.rate_limit_attempts > 1:
        assert wait is not None
        assert wait >= retry_after


def test_calls_that_were_told_the_same_time_do_not_return_together() -> None:
    error = errors.RateLimited("429", retry_after=10)
    waits = {wait_before_next(RetryPolicy(), error, Tries(0, 1), jitter / 10) for jitter in range(11)}

    assert len(waits) == 11


@given(policies, jitters, st.integers(1, 40))
def test_refusals_are_not_attempts(policy: RetryPolicy, jitter: float, refused: int) -> None:
    wait = wait_before_next(policy, errors.RateLimited(), Tries(policy.attempts - 1, refused), jitter)

    assert (wait is None) == (refused >= policy.rate_limit_attempts)


@pytest.mark.parametrize(
    "error",
    [
        errors.PermanentBackendError(),
        errors.AuthenticationFailed(),
        errors.QuotaExhausted(),
        errors.SubmissionUnknown(),
        errors.PromptTooLong(),
        errors.OutputInvalid(),
        ValueError(),
    ],
)
def test_only_what_may_pass_is_tried_again(error: Exception) -> None:
    assert wait_before_next(RetryPolicy(), error, Tries(1, 0), 0.5) is None


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ({"attempts": 0}, "attempts=1"),
        ({"attempts": True}, "attempts=1"),
        ({"rate_limit_attempts": -1}, "rate_limit_attempts=1"),
        ({"first_wait": -1}, "first_wait"),
        ({"first_wait": 9, "max_wait": 1}, "max_wait"),
    ],
)
def test_a_useless_policy_is_refused_with_what_to_write(arguments: dict[str, int], hint: str) -> None:
    with pytest.raises(errors.ConfigurationError, match=hint):
        RetryPolicy(**arguments)
