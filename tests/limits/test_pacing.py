"""How fast calls may begin, by given numbers and by learned ones; against services in `test_pace_services`."""

from __future__ import annotations

from heapq import heappop, heappush
from math import inf, nan
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.examples import examples

from restaurant_llm_batch._limits.pacing import MAX_WAIT, STARTS_KEPT, RatePacer
from restaurant_llm_batch._llm_response import RateLimitInfo, RateLimitStatus

starts = st.floats(0, 1e7)
limits = st.one_of(st.integers(1, 130), st.integers(131, 3000))


def requests_left(limit: int, remaining: int, reset: float) -> RateLimitInfo:
    return RateLimitInfo(requests=RateLimitStatus(limit, remaining, reset))


def tokens_left(limit: int, remaining: int, reset: float) -> RateLimitInfo:
    return RateLimitInfo(tokens=RateLimitStatus(limit, remaining, reset))


def begin(pace: RatePacer, tokens: int, now: float) -> float:
    """Wait as long as is asked, begin, and return when that was."""
    ready = pace.ready_at(tokens, now)
    if ready > now:
        now = ready
        assert pace.ready_at(tokens, now) <= now  # what it asks to wait is enough
    pace.reserve(tokens, now)
    return now


class TestGivenRequests:
    @settings(max_examples=examples(300))
    @given(
        limits, starts, st.lists(st.floats(0, 90) | st.just(0.0), min_size=1, max_size=20), st.integers(1, 40)
    )
    def test_no_minute_begins_more_than_the_limit(
        self, limit: int, now: float, pauses: list[float], together: int
    ) -> None:
        pace = RatePacer(limit, None, now)
        began = []
        for pause in pauses:
            now += pause
            for _ in range(together):
                now = begin(pace, 0, now)
                began.append(now)
        for first, beyond in zip(began, began[limit:], strict=False):
            assert beyond >= first + 60  # so the call after the limit is not in the same half-open minute

    @given(limits, starts)
    def test_in_the_long_run_it_is_nearly_the_limit(self, limit: int, start: float) -> None:
        pace = RatePacer(limit, None, start)
        now = start
        for _ in range(3 * limit + 1):
            now = begin(pace, 0, now)

        assert 3 * limit / (now - start) >= limit / 60 * 0.97

    def test_calls_are_spread_over_the_minute(self) -> None:
        pace = RatePacer(120, None, 0.0)
        now, began = 0.0, []
        for _ in range(5):
            now = begin(pace, 0, now)
            began.append(round(now, 2))

        assert began == [0, 0, 0.5, 1.01, 1.51]

    def test_one_a_minute_is_one_a_minute(self) -> None:
        pace = RatePacer(1, None, 5.0)
        now = [begin(pace, 0, 5.0), begin(pace, 0, 5.0)]

        assert now[0] == 5
        assert 65 <= now[1] < 65.001

    def test_time_that_is_not_used_is_not_saved(self) -> None:
        pace = RatePacer(60, None, 0.0)
        pace.reserve(0, 0.0)

        assert pace.ready_at(0, 1000.0) <= 1000
        pace.reserve(0, 1000.0)
        assert pace.ready_at(0, 1000.0) == pytest.approx(1001, abs=1e-3)


class TestGivenTokens:
    @settings(max_examples=examples(200))
    @given(
        st.integers(1, 100_000),
        st.lists(st.tuples(st.integers(0, 5000), st.floats(0, 20) | st.just(0.0)), min_size=1, max_size=60),
    )
    def test_no_minute_takes_more_than_the_limit_and_what_its_heaviest_call_is_above_a_seconds_worth(
        self, limit: int, calls: list[tuple[int, float]]
    ) -> None:
        pace, now, began = RatePacer(None, limit, 0.0), 0.0, []
        for tokens, pause in calls:
            now = begin(pace, tokens, now + pause)
            began.append((now, tokens))
        for place, (first, _) in enumerate(began):
            within = [tokens for at, tokens in began[place:] if at < first + 60]
            assert sum(within) <= limit + max(0, max(within) - max(1, limit // 60))

    @given(st.integers(600, 1_000_000), st.integers(1, 8000), st.integers(0, 2**32))
    def test_in_the_long_run_it_is_nearly_the_limit(self, limit: int, heaviest: int, seed: int) -> None:
        random, pace = Random(seed), RatePacer(None, limit, 0.0)
        now = taken = 0.0
        for _ in range(300):
            tokens = random.randint(1, heaviest)
            now = begin(pace, tokens, now)
            taken += tokens

        assert taken - heaviest <= limit / 60 * (now + 1)
        assert limit / 60 * now * 0.97 <= taken

    def test_a_call_that_is_heavier_than_a_minute_begins_and_the_next_one_waits_for_it(self) -> None:
        pace = RatePacer(None, 600, 0.0)

        assert begin(pace, 1800, 0.0) == 0
        assert begin(pace, 1, 0.0) == pytest.approx(1791 / (591 / 60), abs=0.01)

    def test_what_was_not_used_is_given_back(self) -> None:
        pace = RatePacer(None, 6000, 0.0)
        pace.reserve(1000, 0.0)
        before = pace.ready_at(1000, 0.0)
        pace.settle_usage(1000, 300, 0.0)

        assert before - pace.ready_at(1000, 0.0) == pytest.approx(700 / (5901 / 60), rel=1e-3)

    def test_what_was_used_besides_is_taken(self) -> None:
        pace = RatePacer(None, 6000, 0.0)
        pace.reserve(100, 0.0)
        before = pace.ready_at(1, 0.0)
        pace.settle_usage(100, 400, 0.0)

        assert pace.ready_at(1, 0.0) - before == pytest.approx(300 / (5901 / 60), rel=1e-3)

    def test_of_what_is_not_known_nothing_is_given_back(self) -> None:
        pace = RatePacer(None, 6000, 0.0)
        pace.reserve(1000, 0.0)
        before = pace.ready_at(1000, 0.0)
        pace.settle_usage(1000, None, 0.0)

        assert pace.ready_at(1000, 0.0) == before

    def test_of_what_there_is_no_room_for_no_more_is_kept_than_one_call_gave_back(self) -> None:
        pace = RatePacer(None, 6000, 0.0)
        for _ in range(3):
            pace.reserve(1000, 0.0)
        for _ in range(3):
            pace.settle_usage(1000, 0, 100.0)  # by then all of it had come in anyway
        pace.settle_usage(10, 10, 100.0)
        assert pace.ready_at(1100, 100.0) <= 100
        pace.reserve(1100, 100.0)

        assert pace.ready_at(1, 100.0) == pytest.approx(100 + 1 / (5901 / 60))

    @pytest.mark.parametrize("seed", range(3))
    def test_with_reserve_and_refund_what_is_used_is_nearly_the_limit(self, seed: int) -> None:
        random, pace = Random(seed), RatePacer(None, 60_000, 0.0)
        now, used, reserved = 0.0, 0, 3000
        in_flight: list[tuple[float, int]] = []
        for _ in range(600):
            while True:
                ready = pace.ready_at(reserved, now)
                if ready <= now:
                    break
                if in_flight and in_flight[0][0] <= ready:
                    now, tokens = heappop(in_flight)
                    pace.settle_usage(reserved, tokens, now)
                else:
                    now = ready
            pace.reserve(reserved, now)
            tokens = random.randint(300, 1500)
            used += tokens
            heappush(in_flight, (now + random.uniform(1, 20), tokens))

        assert 0.9 * 1000 <= used / now <= 1000 * 1.05


def test_both_given_numbers_hold() -> None:
    few, heavy = RatePacer(60, 60_000, 0.0), RatePacer(6000, 600, 0.0)
    for pace in (few, heavy):
        pace.reserve(10, 0.0)

    assert few.ready_at(10, 0.0) == pytest.approx(1, abs=1e-3)
    assert heavy.ready_at(10, 0.0) == pytest.approx(10 / (591 / 60), abs=1e-3)


def test_without_any_number_nothing_waits() -> None:
    pace = RatePacer(None, None, 3.0)
    for number in range(1, 100):
        assert pace.ready_at(10**9, 3.0) <= 3.0
        assert pace.reserve(10**9, 3.0) == number
    pace.settle_usage(10**9, 0, 4.0)

    assert not pace.counts_tokens


class TestLearned:
    def test_what_remains_is_left_less_all_that_began_since(self) -> None:
        pace = RatePacer(None, None, 0.0)
        for _ in range(4):
            pace.reserve(0, 0.0)
        pace.update_from_report(2, requests_left(60, 5, 55.0), 0.0)

        for _ in range(3):
            assert pace.ready_at(0, 0.0) <= 0
            pace.reserve(0, 0.0)
        assert pace.ready_at(0, 0.0) == pytest.approx(1)

    def test_of_tokens_likewise(self) -> None:
        pace = RatePacer(None, None, 0.0)
        for _ in range(4):
            pace.reserve(100, 0.0)
        assert not pace.counts_tokens
        pace.update_from_report(2, tokens_left(6000, 500, 55.0), 0.0)

        assert pace.counts_tokens
        assert pace.ready_at(300, 0.0) <= 0
        assert pace.ready_at(400, 0.0) == pytest.approx(1)
        pace.reserve(300, 0.0)
        assert pace.ready_at(100, 0.0) == pytest.approx(1)

    @pytest.mark.parametrize(("since", "left"), [(0, 5), (15, 5), (20, 5), (23, 2), (25, 0), (28, -3)])
    def test_of_what_began_since_some_has_come_back_but_what_remains_is_the_most(
        self, since: int, left: int
    ) -> None:
        """One comes back in a second; whether what remains was counted 20 seconds ago or just now is not known."""
        pace = RatePacer(None, None, 0.0)
        pace.reserve(0, 0.0)
        for _ in range(since):
            pace.reserve(0, 10.0)
        pace.update_from_report(1, requests_left(60, 5, 55.0), 20.0)
        for _ in range(left):
            assert pace.ready_at(0, 20.0) <= 20
            pace.reserve(0, 20.0)

        assert pace.ready_at(0, 20.0) == pytest.approx(21 - min(0, left))

    def test_a_later_report_replaces_it_and_an_earlier_calls_does_not(self) -> None:
        pace = RatePacer(None, None, 0.0)
        for _ in range(3):
            pace.reserve(0, 0.0)
        pace.update_from_report(3, requests_left(60, 0, 60.0), 1.0)
        pace.update_from_report(1, requests_left(60, 58, 2.0), 1.0)
        assert pace.ready_at(0, 1.0) == pytest.approx(2)

        assert pace.reserve(0, 2.0) == 4
        pace.update_from_report(4, requests_left(60, 20, 40.0), 3.0)
        assert pace.ready_at(0, 3.0) <= 3

    def test_each_of_the_two_has_its_own_latest_report(self) -> None:
        pace = RatePacer(None, None, 0.0)
        for _ in range(2):
            pace.reserve(100, 0.0)
        pace.update_from_report(2, requests_left(60, 50, 10.0), 0.0)
        pace.update_from_report(1, tokens_left(6000, 0, 60.0), 0.0)

        assert pace.ready_at(100, 0.0) == pytest.approx(2)  # the call after it took 100

    def test_it_comes_back_as_slowly_as_is_said(self) -> None:
        pace = RatePacer(None, None, 0.0)
        pace.reserve(0, 0.0)
        pace.update_from_report(1, requests_left(1000, 0, 5000.0), 0.0)

        assert pace.ready_at(0, 0.0) == pytest.approx(5)

    @pytest.mark.parametrize("reset", [0.0, 0.1])
    def test_but_no_faster_than_the_limit_in_a_minute(self, reset: float) -> None:
        """A bucket that is smaller than the limit is full soon, and then holds less than the limit."""
        pace = RatePacer(None, None, 0.0)
        pace.reserve(0, 0.0)
        pace.update_from_report(1, requests_left(600, 0, reset), 0.0)

        assert pace.ready_at(0, 0.0) == pytest.approx(0.1)

    @pytest.mark.parametrize("report", [requests_left(10, 0, 86400.0), tokens_left(10**6, 0, 86400.0)])
    def test_nothing_waits_longer_than_a_minute_and_then_one_looks_again(self, report: RateLimitInfo) -> None:
        pace = RatePacer(None, None, 0.0)
        pace.reserve(10**6, 7.0)
        pace.update_from_report(1, report, 30.0)

        assert pace.ready_at(10**6, 30.0) == 7 + MAX_WAIT
        pace.reserve(10**6, 67.0)
        assert pace.ready_at(10**6, 68.0) == 67 + MAX_WAIT

    def test_a_given_number_may_ask_for_more_than_a_minute(self) -> None:
        pace = RatePacer(None, 600, 0.0)
        pace.reserve(6000, 0.0)
        pace.update_from_report(1, tokens_left(600, 0, 60.0), 0.0)

        assert pace.ready_at(1, 0.0) > 600

    def test_given_and_learned_hold_both(self) -> None:
        pace = RatePacer(60, None, 0.0)
        pace.reserve(0, 0.0)
        pace.update_from_report(1, requests_left(60, 50, 10.0), 0.0)
        assert pace.ready_at(0, 0.0) == pytest.approx(1, abs=1e-3)
        pace.update_from_report(1, requests_left(60, 0, 600.0), 0.0)
        assert pace.ready_at(0, 0.0) == pytest.approx(10)

    def test_a_call_above_the_whole_limit_begins_when_all_of_it_is_there(self) -> None:
        pace = RatePacer(None, None, 0.0)
        pace.reserve(0, 0.0)
        pace.update_from_report(1, tokens_left(1000, 500, 30.0), 0.0)

        assert pace.ready_at(5000, 0.0) == pytest.approx(30)

    @pytest.mark.parametrize(
        "wrong",
        [
            (-1, -1, 0.0),  # as Azure has said
            (0, 0, 0.0),
            (10, 11, 1.0),
            (10, -5, 1.0),
            (10, 0, -1.0),
            (10, 0, nan),
            (10, 0, inf),
            (nan, 0, 1.0),
            (10, nan, 1.0),
            (10**15, 0, 1.0),
            (10, 0, 1.7e9),  # a time, not a duration
            (None, 0, 1.0),
            (10, "0", 1.0),
            (10, 0, "6m0s"),
        ],
    )
    def test_nonsense_is_ignored(self, wrong: tuple[Any, Any, Any]) -> None:
        pace = RatePacer(None, None, 0.0)
        pace.reserve(10, 0.0)
        pace.update_from_report(1, RateLimitInfo(RateLimitStatus(*wrong), RateLimitStatus(*wrong)), 0.0)

        assert pace.ready_at(10**6, 0.0) <= 0
        assert not pace.counts_tokens

    @pytest.mark.parametrize("number", [-1, 0, 3, 10**9])
    def test_calls_that_never_were_are_ignored(self, number: int) -> None:
        pace = RatePacer(None, None, 0.0)
        for _ in range(2):
            pace.reserve(10, 0.0)
        pace.update_from_report(
            number, RateLimitInfo(RateLimitStatus(60, 0, 60.0), RateLimitStatus(60, 0, 60.0)), 0.0
        )

        assert pace.ready_at(10, 0.0) <= 0

    def test_what_is_said_to_a_call_of_very_long_ago_is_ignored(self) -> None:
        pace = RatePacer(None, None, 0.0)
        for _ in range(STARTS_KEPT + 1):
            pace.reserve(1, 0.0)
        pace.update_from_report(1, tokens_left(10**6, 0, 60.0), 0.0)
        assert not pace.counts_tokens
        pace.update_from_report(2, tokens_left(10**6, 10**5, 54.0), 0.0)

        assert pace.counts_tokens
        assert pace.ready_at(10**5 - STARTS_KEPT + 1, 0.0) <= 0
        assert pace.ready_at(10**5 - STARTS_KEPT + 2, 0.0) > 0

    def test_a_window_is_waited_out(self) -> None:
        pace = RatePacer(None, None, 0.0)
        for second in (10, 20, 30):
            number = pace.reserve(0, float(second))
            pace.update_from_report(number, requests_left(100, 30 - second, 60.0 - second), float(second))

        assert pace.ready_at(0, 30.0) == 60
        assert pace.reserve(0, 60.0) == 4
        assert pace.ready_at(0, 60.0) == pytest.approx(60.6)  # until it is known how the next window stands
        pace.update_from_report(4, requests_left(100, 99, 60.0), 60.1)
        for _ in range(99):
            assert pace.ready_at(0, 60.1) <= 60.1
            pace.reserve(0, 60.1)
        assert pace.ready_at(0, 60.1) == pytest.approx(120.1)

    def test_a_call_above_the_whole_limit_begins_in_a_window_that_is_whole(self) -> None:
        pace = RatePacer(None, None, 0.0)
        for remaining, reset in ((10, 40.0), (5, 30.0), (100, 60.0)):
            pace.update_from_report(pace.reserve(0, 0.0), tokens_left(100, remaining, reset), 0.0)

        assert pace.ready_at(500, 0.0) <= 0
        pace.reserve(1, 0.0)
        assert pace.ready_at(500, 0.0) == 60

    @pytest.mark.parametrize(
        "told",
        [
            ((10, 40.0), (5, 30.0), (4, 56.0)),  # a window would not end later while it lasts
            ((10, 50.0), (9, 49.2)),  # seconds are rounded,
            ((58, 30.0), (58, 16.0)),  # and so is what remains
        ],
    )
    def test_what_a_bucket_can_say_is_no_window(self, told: Any) -> None:
        pace = RatePacer(None, None, 0.0)
        for remaining, reset in told:
            number = pace.reserve(0, 0.0)
            pace.update_from_report(number, requests_left(60, remaining, reset), 0.0)
        for _ in range(remaining):
            pace.reserve(0, 0.0)

        assert pace.ready_at(0, 0.0) == pytest.approx(max(1, told[-1][1] / (60 - remaining)))

    def test_a_bucket_that_fills_while_little_is_asked_is_no_window(self) -> None:
        pace = RatePacer(None, None, 0.0)
        for remaining in (0, 10, 20):
            pace.update_from_report(pace.reserve(0, 0.0), requests_left(60, remaining, 60.0 - remaining), 0.0)
        pace.update_from_report(pace.reserve(0, 0.0), requests_left(60, 0, 60.0), 0.0)

        assert pace.ready_at(0, 0.0) == pytest.approx(1)

    @settings(max_examples=examples(300))
    @given(
        st.lists(
            st.tuples(
                st.floats(0, 100),
                st.integers(0, 5000),
                st.integers(-3, 3),
                st.none()
                | st.builds(
                    RateLimitInfo,
                    st.none() | st.builds(RateLimitStatus, st.integers(), st.integers(), st.floats()),
                    st.none()
                    | st.builds(RateLimitStatus, st.integers(0, 9), st.integers(0, 9), st.floats(0, 1e5)),
                ),
            ),
            max_size=60,
        )
    )
    def test_whatever_is_said_each_call_begins_within_a_minute(self, events: list[Any]) -> None:
        pace, now = RatePacer(None, None, 0.0), 0.0
        for pause, tokens, late, report in events:
            now += pause
            began = begin(pace, tokens, now)
            assert now <= began <= now + MAX_WAIT
            now = began
            if report is not None:
                pace.update_from_report(pace.reserve(tokens, now) + late, report, now)
