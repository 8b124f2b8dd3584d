"""The pace never exceeds its limit, and never waits longer than it must."""

from __future__ import annotations

from bisect import bisect_left

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restaurant_llm_batch.backends.runpod._rate_limits import SlidingWindowLimiter
from restaurant_llm_batch.backends.runpod.llm import OperationLimit, RunPodLimits
from restaurant_llm_batch.errors import ConfigurationError

STEPS = st.lists(st.floats(0, 30) | st.just(0.0), max_size=200)


def moments(calls: int, steps: list[float]) -> list[tuple[float, float]]:
    """Book once after every step, and return when that was and for when."""
    pace, now, booked = SlidingWindowLimiter(calls, 10.0), 1000.0, []
    for step in steps:
        now += step
        booked.append((now, now + pace.reserve(now)))
    return booked


@given(st.integers(1, 12), STEPS)
def test_no_window_holds_more_than_the_limit(calls: int, steps: list[float]) -> None:
    booked = [moment for _, moment in moments(calls, steps)]

    assert booked == sorted(booked)
    for first in booked:
        assert bisect_left(booked, first + 10.0 - 1e-6) - bisect_left(booked, first) <= calls


@given(st.integers(1, 12), STEPS)
def test_nobody_waits_without_need(calls: int, steps: list[float]) -> None:
    booked = moments(calls, steps)
    for place, (now, moment) in enumerate(booked):
        assert moment >= now
        if moment > now:
            full = place >= calls and moment - booked[place - calls][1] <= 10.0 + 1e-6
            assert full or moment == booked[place - 1][1]


def test_a_burst_goes_out_at_once_and_the_rest_a_window_later() -> None:
    pace = SlidingWindowLimiter(3)
    assert [pace.reserve(50.0) for _ in range(7)] == [0, 0, 0, 10, 10, 10, 20]
    assert pace.reserve(75.0) == 0


def test_the_documented_limits_are_the_defaults() -> None:
    assert RunPodLimits() == RunPodLimits(
        run=OperationLimit(1000, 200), status=OperationLimit(2000, 400), cancel=OperationLimit(100, 20)
    )


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, "10"])
def test_a_limit_that_is_none_is_refused_by_name(wrong: int) -> None:
    with pytest.raises(ConfigurationError, match=r"OperationLimit\.requests"):
        OperationLimit(wrong, 1)
    with pytest.raises(ConfigurationError, match=r"OperationLimit\.max_concurrent"):
        OperationLimit(1, wrong)
    with pytest.raises(ConfigurationError, match=r"RunPodLimits\.cancel"):
        RunPodLimits(cancel=wrong)  # type: ignore[arg-type]
