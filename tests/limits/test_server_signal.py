"""What a server says of its load, and what an adaptive limit makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from tests.support.queueing import play

from restaurant_llm_batch import AdaptiveLimit, ConcurrencyLimiter, errors
from restaurant_llm_batch._engine.token_budget import TokenBudget
from restaurant_llm_batch._limits.aimd import AIMDController
from restaurant_llm_batch._limits.concurrency import UNKNOWN_LIMIT
from restaurant_llm_batch._limits.latency_signal import make_controller
from restaurant_llm_batch._limits.server_signal import SILENCE, STAY, ServerSignal, ServerWord, as_load
from restaurant_llm_batch._limits.wait_queue import Ticket
from restaurant_llm_batch.backends.runpod._health import JobCounts, RunPodHealth, WorkerCounts
from restaurant_llm_batch.backends.vllm._metrics import VLLMMetrics
from restaurant_llm_batch.protocols import ServerLoad


def words(*loads: ServerLoad) -> list[ServerWord]:
    signal = ServerSignal()
    return [signal.judge(load) for load in loads]


def test_a_queue_in_two_readings_lowers_the_limit_to_what_the_server_works_on() -> None:
    first, second = words(ServerLoad(32, 10), ServerLoad(32, 10))

    assert first == STAY
    assert not second.is_free
    assert int(42 * second.share) in (32, 33)


def test_a_long_queue_does_so_at_once() -> None:
    (word,) = words(ServerLoad(8, 24))

    assert int(32 * word.share) == 8


def test_a_queue_of_a_few_keeps_a_large_server_busy() -> None:
    assert words(*[ServerLoad(64, 4)] * 5) == [STAY] * 5


def test_preemptions_lower_the_limit_also_without_a_queue() -> None:
    _, same, more, _ = words(
        ServerLoad(10, 0, preemptions=7),
        ServerLoad(10, 0, preemptions=7),
        ServerLoad(10, 0, preemptions=8),
        ServerLoad(10, 0, preemptions=8),
    )

    assert same.is_free
    assert (more.is_free, more.share) == (False, 0.9)


def test_a_full_cache_ends_growth() -> None:
    assert words(ServerLoad(10, 0, kv_usage=0.95)) == [STAY]


def test_room_raises_the_limit_the_less_the_fuller_the_cache_is() -> None:
    (roomy,), (fuller,) = words(ServerLoad(16, 0, 0.1)), words(ServerLoad(16, 0, 0.7))

    assert (roomy.step, fuller.step) == (8, 2)


def test_once_the_server_was_full_more_is_tried_only_after_a_while_and_in_small_steps() -> None:
    full = [ServerLoad(8, 24)]
    said = words(*full, *[ServerLoad(8, 0)] * 10)[1:]

    assert said[:7] == [STAY] * 7
    assert [word.step for word in said[7:]] == [1, 2, 4]


def test_fewer_calls_than_the_server_bore_are_made_up_for_at_once() -> None:
    said = words(ServerLoad(32, 40), ServerLoad(10, 0))

    assert said[1].step == 11


def test_a_server_that_does_not_work_yet_lowers_nothing() -> None:
    assert words(ServerLoad(0, 20), ServerLoad(0, 20)) == [STAY, STAY]


def controller(**bounds: Any) -> AIMDController:
    return make_controller(AdaptiveLimit(**bounds), 0.0)


def test_a_limit_says_that_the_server_has_changed_it() -> None:
    control = controller(start=40)
    control.follow_server(ServerWord(is_free=False, share=0.25), 32, 5.0)

    assert control.limit == 8
    assert (control.history[-1].reason, control.history[-1].time) == ("server", 5.0)
    for _ in range(100):
        control.record("success", 8, control.epoch, 6.0)
    assert control.limit == 8  # the server is full, whatever the answers say
    control.follow_server(ServerWord(is_free=True, step=2), 8, 7.0)
    assert control.limit == 10


def test_after_a_refusal_the_room_that_a_server_has_raises_nothing() -> None:
    control = controller(start=8)
    control.record("rate_limited", 8, 0, 0.0)
    control.follow_server(ServerWord(is_free=True, step=4), 7, 1.0)

    assert control.limit == 7


def test_room_does_not_raise_a_limit_that_is_not_used() -> None:
    control = controller(start=40)
    control.follow_server(ServerWord(is_free=True, step=4), 3, 1.0)

    assert control.limit == 40


def test_where_latency_and_the_server_disagree_the_more_careful_one_wins() -> None:
    control = controller(start=8, latency_factor=2.0)
    now = 0.0
    for seconds in (1.0, 1.8):
        for _ in range(16):
            now += 10
            control.record("success", control.limit, control.epoch, now, ("a", 1, now - seconds))
    before = control.limit
    control.follow_server(ServerWord(is_free=True, step=4), before, now)
    assert control.limit == before
    control.follow_server(ServerWord(is_free=False, share=0.5), before, now)
    assert control.limit == before // 2


def test_a_server_that_cannot_be_read_any_more_leaves_the_limit_to_its_other_signals() -> None:
    control = controller(start=8)
    control.follow_server(STAY, 8, 0.0)
    for _ in range(200):
        control.record("success", 8, 0, 1.0)
    assert control.limit == 8
    control.follow_server(SILENCE, 8, 2.0)
    for _ in range(200):
        control.record("success", control.limit, 0, 3.0)
    assert control.limit > 8


@pytest.mark.parametrize(
    ("slots", "seed"),
    [
        pytest.param(slots, seed, marks=() if (slots, seed) == (24, 0) else pytest.mark.slow)
        for slots in (8, 24, 64)
        for seed in range(5)
    ],
)
def test_with_the_servers_load_it_is_nearly_as_fast_as_the_best_limit(slots: int, seed: int) -> None:
    calls = 150 * slots
    best = play(slots, slots, seed, calls)
    ours = play(AdaptiveLimit(), slots, seed, calls, watch=0.5)

    assert ours.seconds <= 1.05 * best.seconds
    assert slots <= ours.limit <= slots * 9 // 8 + 1


@pytest.mark.parametrize("times", [0.5, 2.0], ids=["halves", "doubles"])
def test_it_follows_a_capacity_that_changes(times: float) -> None:
    later = int(24 * times)
    ours = play(AdaptiveLimit(), 24, 0, 6000, changes=[(10.0, later)], watch=0.5)

    assert later <= ours.limit <= 1.5 * later


JOBS = JobCounts(in_queue=9, in_progress=3)


@pytest.mark.parametrize(
    ("answer", "load"),
    [
        (VLLMMetrics(3, 1, 0.5, 1000, 2, 4), ServerLoad(3, 1, 0.5, 1000, 2, 4)),
        ({"running": 3, "waiting": 1}, ServerLoad(3, 1)),
        ({"running": 3.0, "waiting": 1.0, "kv_usage": 1.2}, ServerLoad(3, 1, 1.0)),
        (ServerLoad(1, 2), ServerLoad(1, 2)),
        (RunPodHealth(JOBS, WorkerCounts(running=3)), ServerLoad(3, 6)),
        (RunPodHealth(JOBS, WorkerCounts(running=3, initializing=1)), ServerLoad(3, 0)),
        (RunPodHealth(JOBS, WorkerCounts(throttled=3)), ServerLoad(3, 0)),
    ],
)
def test_a_load_is_read_from_whatever_a_backend_returns(answer: Any, load: ServerLoad) -> None:
    assert as_load(answer) == load


@pytest.mark.parametrize("answer", [None, {}, {"running": 1}, "text", {"running": "many", "waiting": 0}])
def test_what_is_no_load_is_reported(answer: Any) -> None:
    with pytest.raises(errors.ConfigurationError, match="running and waiting"):
        as_load(answer)


def budget(
    *loads: Sequence[ServerLoad | None], waiting: bool = False
) -> tuple[ConcurrencyLimiter, list[int]]:
    limiter = ConcurrencyLimiter(UNKNOWN_LIMIT)
    tokens, limits = TokenBudget(limiter), []
    for number, each in enumerate(loads):
        tokens.follow(each, float(number))
        limits.append(limiter.limit)
        if waiting and number == 0:
            for _ in range(2):
                limiter.enqueue(Ticket(lambda: True, weight=limiter.limit))
    return limiter, limits


def test_the_tokens_in_flight_are_those_of_the_caches_of_all_servers() -> None:
    one, other = ServerLoad(1, 0, 0.1, 5000), ServerLoad(1, 0, 0.1, 3000)
    limiter, limits = budget([one, None], [one, other])

    assert limits == [UNKNOWN_LIMIT, 8000]
    assert [change.reason for change in limiter.limit_history] == ["server"]


def test_a_server_that_does_not_say_its_size_sets_no_limit() -> None:
    assert budget([ServerLoad(1, 0, 0.1)])[1] == [UNKNOWN_LIMIT]


def test_calls_that_wait_while_the_cache_is_free_raise_the_tokens_and_preemptions_lower_them() -> None:
    roomy = [ServerLoad(1, 0, 0.3, 8000)]
    preempted = [ServerLoad(1, 0, 0.3, 8000, preemptions=1)]

    assert budget(roomy, roomy, preempted, waiting=True)[1] == [8000, 9000, 8100]
    assert budget(roomy, roomy)[1] == [8000, 8000]
    assert budget(roomy, preempted, waiting=True)[1] == [8000, 8000]  # not below the cache
