"""When a call is made again, and after how long."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restaurant_llm_batch import RetryPolicy, errors
from restaurant_llm_batch._config.retry import AttemptCounts, next_retry_delay

policies = st.builds(
    RetryPolicy,
    attempts=st.integers(1, 10),
    wait_initial=st.floats(0, 5),
    wait_max=st.floats(5, 100),
    max_rate_limit_attempts=st.integers(1, 30),
)
jitters = st.floats(0, 1)


@given(policies, jitters, st.integers(1, 10_000))
def test_a_wait_is_at_least_half_and_at_most_the_whole_of_the_backoff(
    policy: RetryPolicy, jitter: float, failed: int
) -> None:
    wait = next_retry_delay(policy, errors.TransientBackendError(), AttemptCounts(failed, 0), jitter)
    if failed >= policy.attempts:
        assert wait is None
    else:
        full = min(policy.wait_max, policy.wait_initial * 2.0 ** (failed - 1))
        assert wait is not None
        assert full / 2 <= wait <= full


@given(policies, jitters, st.floats(0, 10_000))
def test_retry_after_is_a_floor_and_wait_max_the_ceiling(
    policy: RetryPolicy, jitter: float, retry_after: float
) -> None:
    error = errors.RateLimited("429", retry_after=retry_after)
    wait = next_retry_delay(policy, error, AttemptCounts(0, 1), jitter)
    if policy.max_rate_limit_attempts > 1:
        assert wait is not None
        assert min(retry_after, 0.75 * policy.wait_max) <= wait <= policy.wait_max


@pytest.mark.parametrize("retry_after", [-5.0, 0.0, float("nan"), float("inf"), 3600.0, 1e300])
def test_an_odd_retry_after_neither_shortens_a_wait_nor_makes_it_endless(retry_after: float) -> None:
    error = errors.TransientBackendError("503", retry_after=retry_after)
    for jitter in (0.0, 0.5, 1.0):
        wait = next_retry_delay(RetryPolicy(), error, AttemptCounts(1, 0), jitter)
        assert wait is not None
        assert 0.25 <= wait <= 30.0


def test_a_call_that_was_not_processed_uses_up_no_attempt_whatever_its_error() -> None:
    error = OSError("no descriptors")
    assert (
        next_retry_delay(RetryPolicy(attempts=1), error, AttemptCounts(0, 3), 0.5, refused=True) is not None
    )
    assert next_retry_delay(RetryPolicy(attempts=1), error, AttemptCounts(0, 20), 0.5, refused=True) is None


def test_calls_that_were_told_the_same_time_do_not_return_together() -> None:
    error = errors.RateLimited("429", retry_after=10)
    waits = {next_retry_delay(RetryPolicy(), error, AttemptCounts(0, 1), jitter / 10) for jitter in range(11)}

    assert len(waits) == 11


@given(policies, jitters, st.integers(1, 40))
def test_refusals_are_not_attempts(policy: RetryPolicy, jitter: float, refused: int) -> None:
    wait = next_retry_delay(policy, errors.RateLimited(), AttemptCounts(policy.attempts - 1, refused), jitter)

    assert (wait is None) == (refused >= policy.max_rate_limit_attempts)


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
    assert next_retry_delay(RetryPolicy(), error, AttemptCounts(1, 0), 0.5) is None


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ({"attempts": 0}, "attempts=1"),
        ({"attempts": True}, "attempts=1"),
        ({"max_rate_limit_attempts": -1}, "max_rate_limit_attempts=1"),
        ({"wait_initial": -1}, "wait_initial"),
        ({"wait_initial": 9, "wait_max": 1}, "wait_max"),
    ],
)
def test_a_useless_policy_is_refused_with_what_to_write(arguments: dict[str, int], hint: str) -> None:
    with pytest.raises(errors.ConfigurationError, match=hint):
        RetryPolicy(**arguments)
