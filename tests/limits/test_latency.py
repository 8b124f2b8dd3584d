"""An adaptive limit that follows latency: its controller, at servers that queue calls and refuse none."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.queueing import ONE_KIND, SHORT_AND_LONG, Kind, play

from restaurant_llm_batch import (
    AdaptiveLimit,
    BatchRunner,
    ConcurrencyLimiter,
    Limits,
    SharedLimiter,
    Strategy,
    errors,
)
from restaurant_llm_batch._limits.aimd import AIMDController, CallResult
from restaurant_llm_batch._limits.call_times import MAX_KINDS
from restaurant_llm_batch._limits.latency_signal import LatencyController, make_controller
from restaurant_llm_batch._limits.wait_queue import CallbackTicket
from restaurant_llm_batch.sharing import FileBroker
from restaurant_llm_batch.simulation import LogNormal, SimulatedServer, TokenSpeed
from restaurant_llm_batch.testing import FakeLLM

FOLLOWS = AdaptiveLimit(latency_factor=2.0)


def seeds(*of_default: Any, most: int = 5) -> list[Any]:
    """Return cases: those given run by default, the other seeds are slow."""
    return [
        pytest.param(slots, seed, marks=() if (slots, seed) in of_default else pytest.mark.slow)
        for slots, seed in itertools.product((8, 24, 64), range(most))
    ]


def calls_for(slots: int) -> int:
    """Return calls of a run that is long enough for its beginning not to matter."""
    return 100 * max(16, slots)


@pytest.mark.parametrize(("slots", "seed"), seeds((8, 0), (24, 1)))
def test_at_a_server_that_queues_it_is_as_fast_as_the_best_limit_and_calls_hardly_wait(
    slots: int, seed: int
) -> None:
    calls = calls_for(slots)
    best = play(slots, slots, seed, calls)
    ours = play(FOLLOWS, slots, seed, calls)

    assert ours.seconds <= 1.10 * best.seconds
    assert ours.slowdown() <= 2.2
    assert {"latency", "latency_probe"} & {change.reason for change in ours.history}


def test_without_the_factor_the_same_server_is_flooded() -> None:
    assert play(AdaptiveLimit(), 8, 0).slowdown() > 8


@pytest.mark.sample(1)
@pytest.mark.parametrize(("slots", "seed"), seeds((24, 0)))
@pytest.mark.parametrize("times", [0.5, 2.0], ids=["halves", "doubles"])
def test_it_follows_a_capacity_that_changes_in_the_middle(slots: int, seed: int, times: float) -> None:
    calls = 2 * calls_for(slots)
    later = int(slots * times)
    changes = [(play(slots, slots, seed, calls).seconds / 2, later)]
    best = min(play(fixed, slots, seed, calls, changes=changes).seconds for fixed in (slots, later))
    ours = play(FOLLOWS, slots, seed, calls, changes=changes)

    assert ours.seconds <= 1.10 * best
    assert ours.slowdown() <= 2.2


@pytest.mark.parametrize(("slots", "seed"), seeds((24, 0), most=20))
def test_long_answers_among_short_ones_are_not_taken_for_congestion(slots: int, seed: int) -> None:
    calls = 2 * calls_for(slots)
    best = play(slots, slots, seed, calls, kinds=SHORT_AND_LONG)
    ours = play(FOLLOWS, slots, seed, calls, kinds=SHORT_AND_LONG)

    assert ours.seconds <= 1.10 * best.seconds
    assert ours.slowdown(SHORT_AND_LONG) <= 2.2


@pytest.mark.parametrize("sigma", [0.0, 0.6, pytest.param(1.0, marks=pytest.mark.slow)])
def test_times_that_vary_are_not_taken_for_congestion(sigma: float) -> None:
    best = play(24, 24, 0, 2400, sigma=sigma)
    ours = play(FOLLOWS, 24, 0, 2400, sigma=sigma)

    assert ours.seconds <= 1.10 * best.seconds


@pytest.mark.slow
@pytest.mark.parametrize("slots", [8, 24, 64])
@pytest.mark.parametrize("kinds", [ONE_KIND, SHORT_AND_LONG], ids=["one kind", "two kinds"])
def test_servers_that_no_constant_was_chosen_by_are_no_exceptions(slots: int, kinds: Sequence[Kind]) -> None:
    calls = 2 * calls_for(slots)
    for seed in range(5000, 5020):
        changes = [
            (play(slots, slots, seed, calls, kinds=kinds).seconds / 2, (slots // 2, 2 * slots)[seed % 2])
        ]
        for changed in ((), changes):
            fixed = [slots, *(later for _, later in changed)]
            best = min(
                play(limit, slots, seed, calls, kinds=kinds, changes=changed).seconds for limit in fixed
            )
            ours = play(FOLLOWS, slots, seed, calls, kinds=kinds, changes=changed)

            assert ours.seconds <= 1.10 * best, (seed, changed)
            assert ours.slowdown(kinds) <= 2.2, (seed, changed)


def test_short_calls_before_long_ones_do_not_make_the_long_ones_look_slow() -> None:
    kinds = (Kind("a", 5, 0.1), Kind("b", 9, 2.0))
    control = make_controller(AdaptiveLimit(start=8, max=8, latency_factor=2.0), 0.0)
    now = 0.0
    for kind in kinds:
        for _ in range(400):
            now += kind.seconds / control.limit
            control.record("success", 8, control.epoch, now, (kind.label, kind.size, now - kind.seconds))

    assert control.limit == 8
    assert {change.reason for change in control.history} <= {"start", "latency_probe"}


def test_a_server_that_becomes_slower_by_itself_gets_its_calls_back() -> None:
    slower = (20.0, 3.0)
    best = play(24, 24, 0, 8000, slower=slower)
    ours = play(FOLLOWS, 24, 0, 8000, slower=slower)

    assert ours.seconds <= 1.15 * best.seconds


def test_a_start_above_the_capacity_is_found_out() -> None:
    ours = play(FOLLOWS, 2, 1, 3000)

    assert ours.limit <= 6
    assert ours.slowdown() < 3 < play(8, 2, 1, 3000).slowdown()


def test_a_limit_that_is_never_full_is_left_alone() -> None:
    control = make_controller(AdaptiveLimit(start=20, latency_factor=2.0), 0.0)
    for number in range(500):
        control.record("success", 3, control.epoch, float(number), ("a", 1, number - 0.1))

    assert control.limit == 20


def test_a_dip_ends_and_leaves_the_limit_as_it_was_if_it_finds_nothing_new() -> None:
    control = make_controller(AdaptiveLimit(start=10, max=10, latency_factor=2.0), 0.0)
    limits = []
    for number in range(2000):
        control.record("success", control.limit, control.epoch, float(number), ("a", 1, number - 0.1))
        limits.append(control.limit)

    assert sorted(set(limits)) == [6, 10]
    assert limits[-1] == 10
    assert sum(limits) / len(limits) > 9.5  # dips are rare


def test_a_refusal_in_a_dip_ends_it() -> None:
    control = make_controller(AdaptiveLimit(start=10, max=10, latency_factor=2.0), 0.0)
    number = 0
    while control.limit == 10:
        number += 1
        assert number < 5000
        control.record("success", 10, control.epoch, float(number), ("a", 1, number - 0.1))
    control.record("rate_limited", 5, control.epoch, float(number))
    after = control.limit
    for _ in range(30):
        control.record("success", after, control.epoch, float(number), ("a", 1, number - 0.1))

    assert after < 6
    assert control.limit < 10  # where it was before the dip


OUTCOMES: list[CallResult] = ["success", "rate_limited", "transient_error", "other"]
EVENTS = st.tuples(
    st.sampled_from(OUTCOMES), st.integers(1, 300), st.booleans(), st.floats(0.0, 5.0), st.integers(0, 3)
)


@given(st.lists(EVENTS, max_size=400))
def test_it_keeps_within_its_bounds_whatever_happens(
    events: list[tuple[CallResult, int, bool, float, int]],
) -> None:
    control = make_controller(AdaptiveLimit(min=3, start=8, max=40, latency_factor=1.5), 0.0)
    for outcome, depth, late, seconds, size in events:
        timing = ("a", size, 10.0 - seconds) if size else None
        control.record(outcome, depth, control.epoch - late, 10.0, timing)
        assert 3 <= control.limit <= 40
        assert control.history[-1].limit == control.limit


def test_the_kinds_of_calls_that_are_remembered_are_bounded() -> None:
    control = make_controller(FOLLOWS, 0.0)
    assert isinstance(control, LatencyController)
    for number in range(5000):
        control.record("success", 8, control.epoch, 1.0, (f"kind {number}", 1, 0.0))

    assert len(control._times._kinds) <= MAX_KINDS


def test_a_limit_set_by_a_user_holds_and_is_not_left_by_a_dip() -> None:
    control = make_controller(AdaptiveLimit(start=10, max=10, latency_factor=2.0), 0.0)
    number = 0
    while control.limit == 10:
        number += 1
        assert number < 5000
        control.record("success", 10, control.epoch, float(number), ("a", 1, number - 0.1))
    control.set(4, float(number))
    for _ in range(60):
        control.record("success", 4, control.epoch, float(number), ("a", 1, number - 0.1))

    assert control.limit <= 4


@pytest.mark.parametrize("factor", [1, 0.5, 0, -2.0, True, "2", float("nan"), float("inf")])
def test_a_factor_that_is_not_above_1_is_reported(factor: Any) -> None:
    with pytest.raises(errors.ConfigurationError, match="latency_factor must be a number above 1"):
        AdaptiveLimit(latency_factor=factor)


def test_a_shared_limit_says_that_it_does_not_follow_latency(tmp_path: Any) -> None:
    with pytest.raises(errors.ConfigurationError, match="takes no latency_factor"):
        SharedLimiter("gpu", FOLLOWS, broker=FileBroker(tmp_path / "limits.db"))


def test_a_limit_without_the_factor_measures_nothing() -> None:
    assert type(make_controller(AdaptiveLimit(), 0.0)) is AIMDController
    limiter = ConcurrencyLimiter(AdaptiveLimit(start=2))
    ticket = CallbackTicket(lambda: True)
    limiter.enqueue(ticket)
    limiter.release(ticket, "success")

    assert not limiter.follows_latency
    assert ticket.timing is None


def ask(item: int) -> Any:
    """Ask once."""
    from restaurant_llm_batch import LLMRequest
    from restaurant_llm_batch.steps import complete

    message = {"role": "user", "content": f"review {item}"}
    return (yield from complete(LLMRequest("rating", (message,), max_tokens=100))).text


def simulated(limit: int | AdaptiveLimit, server: SimulatedServer, items: int, seed: int = 0) -> Any:
    limits = Limits(llm=limit, open_items=1000)
    runner = BatchRunner(llm=FakeLLM(), strategy=Strategy.stage(4), limits=limits)
    return runner.simulate(ask, range(items), server=server, seed=seed)


def test_a_runner_follows_the_latency_of_its_calls_and_says_so() -> None:
    server = SimulatedServer(latency=LogNormal(0.2, 0.3), slots=8)
    best, ours = simulated(8, server, 800), simulated(FOLLOWS, server, 800)
    stats = ours.report.stats

    assert ours.seconds <= 1.10 * best.seconds
    assert stats.latency["llm"].p50 <= 2.2 * 0.2
    assert ours.server.peak_queue < 40
    assert {change.reason for change in stats.limit_history} >= {"start", "slow_start", "latency"}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("slots", [8, 24, 64])
def test_the_whole_engine_is_as_fast_as_with_the_best_limit(slots: int, seed: int) -> None:
    server = SimulatedServer(latency=LogNormal(0.8, 0.5), slots=slots)
    items = 80 * slots
    best = simulated(slots, server, items, seed)
    ours = simulated(FOLLOWS, server, items, seed)

    assert ours.seconds <= 1.10 * best.seconds
    assert ours.report.stats.latency["llm"].p50 <= 2.2 * 0.8


@pytest.mark.slow
def test_a_server_that_batches_is_used_until_calls_take_so_many_times_as_long() -> None:
    server = SimulatedServer(latency=TokenSpeed(prefill=5000, decode=40, batch_slowdown=0.05))
    ours, flooded = simulated(FOLLOWS, server, 3000), simulated(AdaptiveLimit(), server, 3000)
    at_first, alone = simulated(FOLLOWS.start, server, 300), simulated(1, server, 60)

    assert ours.report.stats.latency["llm"].p50 <= 2.5 * alone.report.stats.latency["llm"].p50
    assert ours.report.stats.latency["llm"].p50 <= 2.3 * at_first.report.stats.latency["llm"].p50
    assert ours.report.stats.latency["llm"].p50 <= 0.5 * flooded.report.stats.latency["llm"].p50
    assert ours.report.stats.limit_history[-1].limit >= 8
