"""The circuit breaker of an endpoint: when it opens, when it is probed, and what closes it."""

from __future__ import annotations

from typing import Any

import pytest

from restaurant_llm_batch._limits.breaker import CLOSED, DUE, OPEN, PROBING, BreakerPolicy, CircuitBreaker
from restaurant_llm_batch.errors import AuthenticationFailed, ConfigurationError, RateLimited
from restaurant_llm_batch.errors import TransientBackendError as Transient

POLICY = BreakerPolicy(errors_in_a_row=3, wait_initial=1.0, wait_max=4.0)


def opened(policy: BreakerPolicy = POLICY, now: float = 10.0) -> CircuitBreaker:
    breaker = CircuitBreaker(policy)
    for _ in range(policy.errors_in_a_row):
        breaker.record_error(None, breaker.epoch, Transient(), now, fatal=False)
    return breaker


def test_it_opens_after_so_many_errors_in_a_row_and_an_answer_in_between_counts_anew() -> None:
    breaker = CircuitBreaker(POLICY)
    for _ in range(2):
        assert not breaker.record_error(None, 0, Transient(), 0.0, fatal=False)
    breaker.record_answer(0)
    for _ in range(2):
        assert not breaker.record_error(None, 0, Transient(), 0.0, fatal=False)
    assert breaker.state == CLOSED

    assert breaker.record_error(None, 0, Transient("down"), 5.0, fatal=False)
    assert (breaker.state, breaker.probe_at, breaker.times_out) == (OPEN, 6.0, 1)
    assert str(breaker.error) == "down"


def test_one_call_probes_it_and_each_probe_that_fails_doubles_the_wait_up_to_its_most() -> None:
    breaker = opened()
    waits = []
    for number in range(4):
        now = breaker.probe_at
        assert not breaker.is_due(now - 0.001)
        assert breaker.is_due(now)
        breaker.start(number)
        assert breaker.state == PROBING
        breaker.record_error(number, breaker.epoch, Transient(), now, fatal=False)
        waits.append(breaker.probe_at - now)

    assert waits == [2.0, 4.0, 4.0, 4.0]
    assert breaker.times_out == 1


def test_an_answer_closes_it_whichever_call_it_is_to_and_the_wait_begins_anew() -> None:
    breaker = opened()
    assert breaker.record_answer(epoch=0)  # of a call that started before it opened
    assert breaker.state == CLOSED

    breaker = opened()
    breaker.is_due(11.0)
    breaker.start("probe")
    assert breaker.record_answer(breaker.epoch)
    for _ in range(3):
        breaker.record_error(None, breaker.epoch, Transient(), 20.0, fatal=False)
    assert breaker.probe_at == 21.0


def test_errors_of_calls_that_started_before_it_opened_say_nothing_new() -> None:
    breaker = opened()
    breaker.is_due(11.0)
    breaker.start("probe")
    breaker.record_answer(breaker.epoch)
    for _ in range(10):
        assert not breaker.record_error(None, 0, Transient(), 12.0, fatal=False)

    assert breaker.state == CLOSED


def test_a_probe_that_is_cancelled_is_followed_by_another_at_once() -> None:
    breaker = opened()
    breaker.is_due(11.0)
    breaker.start("probe")

    assert not breaker.record_nothing("another call")
    assert breaker.record_nothing("probe")
    assert breaker.state == DUE


def test_a_rejected_key_opens_it_at_once_for_long_and_an_old_answer_does_not_close_it() -> None:
    breaker = CircuitBreaker(POLICY)
    assert breaker.record_error(None, 0, AuthenticationFailed(), 0.0, fatal=True)
    assert breaker.is_fatal
    assert breaker.probe_at >= 60.0

    assert not breaker.record_answer(epoch=0)
    assert breaker.state == OPEN
    assert breaker.record_answer(breaker.epoch)


def test_a_key_that_is_rejected_while_it_is_left_out_is_told_once() -> None:
    breaker = opened()
    told = []
    for _ in range(3):
        breaker.is_due(breaker.probe_at)
        breaker.start("probe")
        told.append(
            breaker.record_error("probe", breaker.epoch, AuthenticationFailed(), breaker.probe_at, fatal=True)
        )

    assert told == [True, False, False]


def test_refusals_open_it_only_if_nothing_is_answered_for_two_rounds() -> None:
    def refuse(breaker: CircuitBreaker) -> bool:
        return breaker.record_refusal(None, 0, RateLimited(), 0.0, limit=4, retry_after=3.0)

    breaker = CircuitBreaker(POLICY)
    assert not any(refuse(breaker) for _ in range(7))
    breaker.record_answer(0)
    assert not any(refuse(breaker) for _ in range(7))
    assert refuse(breaker)
    assert breaker.probe_at == 3.0  # as the service asks


@pytest.mark.parametrize(
    "wrong",
    [
        {"errors_in_a_row": 0},
        {"errors_in_a_row": True},
        {"errors_in_a_row": 2.5},
        {"wait_initial": 0},
        {"wait_initial": "1"},
        {"wait_initial": 2.0, "wait_max": 1.0},
        {"wait_max": float("inf")},
        {"wait_max": float("nan")},
        {"pool_timeout": -1},
        {"pool_timeout": None},
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="for example"):
        BreakerPolicy(**wrong)
