"""Limits per minute, and the watch of limits, when a user sets them while calls wait."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from restaurant_llm_batch import AdaptiveLimit, Limits
from restaurant_llm_batch._config.limits import make_limiters
from restaurant_llm_batch._limits.limiters import LimitWatch
from restaurant_llm_batch._limits.pacing import RatePacer
from restaurant_llm_batch._limits.rate import RateLimiter
from restaurant_llm_batch._limits.wait_queue import CallbackTicket


def starts(pacer: RatePacer, now: float, until: float, tokens: int = 0) -> list[float]:
    """Start calls as soon as they may, until a moment."""
    found: list[float] = []
    while (at := pacer.ready_at(tokens, now)) <= until:
        now = max(now, at)
        pacer.reserve(tokens, now)
        found.append(now)
    return found


def test_a_higher_limit_holds_at_once_and_a_lower_one_too() -> None:
    pacer = RatePacer(60, None, 0.0)
    assert len(starts(pacer, 0.0, 30.0)) == 30
    pacer.configure("requests_per_minute", 6000, 30.0)
    assert len(starts(pacer, 30.0, 31.0)) >= 100
    pacer.configure("requests_per_minute", 6, 31.0)
    later = starts(pacer, 31.0, 91.0)
    assert 5 <= len(later) <= 6
    assert later[0] <= 32.1  # it does not wait for what the higher limit allowed


def test_a_debt_of_tokens_is_repaid_at_the_faster_rate() -> None:
    pacer = RatePacer(None, 600, 0.0)
    pacer.reserve(600, 0.0)  # a minute's worth in one call
    assert 55 <= pacer.ready_at(10, 0.0) <= 65
    pacer.configure("tokens_per_minute", 60_000, 0.0)
    assert pacer.ready_at(10, 0.0) < 1.0
    pacer.reserve(60_000, 1.0)
    pacer.configure("tokens_per_minute", 60, 1.0)
    assert pacer.ready_at(1, 1.0) <= 65.0


def test_setting_the_same_limit_again_gives_no_call_more() -> None:
    pacer, again = RatePacer(60, 600, 0.0), RatePacer(60, 600, 0.0)
    for second in range(20):
        again.configure("requests_per_minute", 60, float(second))
        again.configure("tokens_per_minute", 600, float(second))
        assert starts(again, float(second), second + 0.9, 7) == starts(pacer, float(second), second + 0.9, 7)


@given(
    st.lists(st.tuples(st.floats(0.0, 90.0), st.integers(1, 200)), max_size=6),
    st.integers(1, 200),
)
def test_in_any_minute_no_more_calls_start_than_the_highest_of_its_limits_and_a_second_for_each_change(
    changes: list[tuple[float, int]], first: int
) -> None:
    pacer, now, found = RatePacer(first, None, 0.0), 0.0, []
    limits = [(0.0, first)]
    for wait, limit in changes:
        found += starts(pacer, now, now + wait)
        now += wait
        pacer.configure("requests_per_minute", limit, now)
        limits.append((now, limit))
    found += starts(pacer, now, now + 70.0)
    for number, end in enumerate(found):
        window = [start for start in found[: number + 1] if start > end - 60.0 + 1e-6]
        of_before = max(since for since, _ in limits if since <= max(0.0, end - 60.0))
        holding = [limit for since, limit in limits if of_before <= since <= end]
        changed = sum(end - 60.0 < since <= end for since, _ in limits[1:])
        most = max(holding)
        assert len(window) <= most + changed * max(1, most // 60)


def test_calls_that_wait_are_admitted_by_the_set_and_the_timer_of_a_run_is_told() -> None:
    limiter = RateLimiter(60, None)
    limiter.clock = lambda: 0.0
    woken: list[int] = []
    told: list[None] = []
    limiter.watch(lambda: told.append(None))
    for number in range(5):
        limiter.enqueue(CallbackTicket(lambda number=number: woken.append(number)), 0.0)  # type: ignore[misc]
    before = limiter.seconds_until_ready(0.0)
    told.clear()
    limiter.requests.limit = 120
    after = limiter.seconds_until_ready(0.0)
    assert before is not None
    assert after is not None
    assert after < before
    assert told
    limiter.requests.limit = 100_000
    assert woken == [1, 2, 3, 4]


def test_a_watch_finds_limits_that_are_set_and_says_what_later_runs_begin_with() -> None:
    limiters = make_limiters(Limits(llm=8, batches=AdaptiveLimit(start=3), requests_per_minute=60))
    watch = LimitWatch(limiters)
    assert [name for name, _ in watch.changes()] == ["batches"]
    limiters.llm[0].limit = 9
    limiters.rate.requests.limit = 90
    limiters.rate.tokens.limit = 1000
    assert watch.changes() == ()
    watch.look_again()
    found = [(name, change.limit, change.reason) for name, change in watch.changes()]
    assert sorted(found) == [
        ("llm", 9, "manual"),
        ("requests_per_minute", 90, "manual"),
        ("tokens_per_minute", 1000, "manual"),
    ]
    assert watch.changes() == ()
    limiters.llm[0].limit = 10
    assert [(name, change.limit) for name, change in watch.changes()] == [("llm", 10)]
    later = [(name, change.limit, change.reason) for name, change in LimitWatch(limiters).changes()]
    assert sorted(later) == [
        ("batches", 3, "start"),
        ("llm", 10, "start"),
        ("requests_per_minute", 90, "start"),
        ("tokens_per_minute", 1000, "start"),
    ]


def test_what_stands_at_the_limiters_is_told_with_the_limits_per_minute() -> None:
    limiters = make_limiters(Limits(llm=1, tokens_in_flight=500))
    for number in range(3):
        limiters.llm[0].enqueue(CallbackTicket(lambda: True, sequence=number))
    limiters.rate.requests.limit = 60
    found = {one.name: one for one in limiters.standings()}
    assert found["llm"][1:] == (1, 1, 2, 1)
    assert found["tokens_in_flight"][1:] == (500, 0, 0, 0)
    assert found["requests_per_minute"][1:] == (60, None, 0, None)
    assert found["tokens_per_minute"].limit is None
