"""What a server says of its load, and what an adaptive limit makes of it."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.queueing import play

from restaurant_llm_batch import AdaptiveLimit, ConcurrencyLimiter, errors
from restaurant_llm_batch._engine.token_budget import TokenBudget
from restaurant_llm_batch._limits.aimd import AIMDController
from restaurant_llm_batch._limits.concurrency import UNKNOWN_LIMIT
from restaurant_llm_batch._limits.latency_signal import make_controller
from restaurant_llm_batch._limits.server_signal import (
    SILENCE,
    STAY,
    Counter,
    ServerSignal,
    ServerWord,
    as_load,
)
from restaurant_llm_batch._limits.wait_queue import CallbackTicket
from restaurant_llm_batch.backends.runpod._health import JobCounts, RunPodHealth, WorkerCounts
from restaurant_llm_batch.backends.vllm._metrics import VLLMMetrics
from restaurant_llm_batch.models import ServerLoad


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

    assert (roomy.step, fuller.step) == (8, 4)
    assert (roomy.is_free, fuller.is_free) == (True, False)


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
        (VLLMMetrics(3, 1, 0.5, 1024, 2, 4, 16), ServerLoad(3, 1, 0.5, 1024, 2, 4, 16)),
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
    with pytest.raises(errors.ConfigurationError, match="running and waiting, numbers of"):
        as_load(answer)


class Budget:
    """A budget of tokens in flight, and calls that wait for it."""

    def __init__(self, *, waiting: bool = True) -> None:
        self.limiter = ConcurrencyLimiter(UNKNOWN_LIMIT)
        self.tokens = TokenBudget(self.limiter)
        self.now, self.waiting, self.fullness = 0.0, waiting, 0.0

    def read(self, *usages: float, size: int = 8000, preempted: int = 0, ended: int = 10) -> int:
        """Read a server with such usages of its cache, one after the other; return the limit."""
        for usage in usages:
            self.now += 2.0
            load = ServerLoad(10, 0, usage, size)
            self.tokens.follow([load], preempted, ended, 10, self.now, self.fullness)
            if self.waiting and not self.limiter.waiting:
                for _ in range(2):
                    self.limiter.enqueue(CallbackTicket(lambda: True, weight=self.limiter.limit))
        return self.limiter.limit


def test_the_tokens_in_flight_are_those_of_the_caches_of_all_servers() -> None:
    one, other = ServerLoad(1, 0, 0.1, 5000), ServerLoad(1, 0, 0.1, 3000)
    limiter = ConcurrencyLimiter(UNKNOWN_LIMIT)
    tokens = TokenBudget(limiter, 2)
    tokens.follow([one, None], 0, 0, 0, 0.0)
    assert limiter.limit == UNKNOWN_LIMIT
    tokens.follow([one, other], 0, 0, 0, 1.0)

    assert limiter.limit == 8000
    assert [change.reason for change in limiter.limit_history] == ["server"]


def test_a_server_that_does_not_say_its_size_sets_no_limit() -> None:
    limiter = ConcurrencyLimiter(UNKNOWN_LIMIT)
    TokenBudget(limiter).follow([ServerLoad(1, 0, 0.1)], 0, 0, 0, 0.0)

    assert limiter.limit == UNKNOWN_LIMIT


def test_calls_that_wait_while_the_cache_is_free_raise_the_tokens_once_in_a_round() -> None:
    budget = Budget()

    assert budget.read(0.3) == 8000
    assert budget.read(0.3) == 12_000
    assert budget.read(0.3, 0.3, 0.3, ended=1) == 12_000  # the calls in flight were admitted before
    assert budget.read(0.3, ended=8) == 18_000
    assert Budget(waiting=False).read(*[0.3] * 9) == 8000


def test_tokens_are_raised_no_further_than_the_fullest_reading_has_room_for() -> None:
    assert Budget().read(0.1, 0.75) == 9600  # to 0.9 of the cache
    assert Budget().read(0.1, 0.95, 0.1) == 8000


def test_where_replies_are_as_long_as_they_may_be_tokens_stay_within_the_cache() -> None:
    full, half = Budget(), Budget()
    for budget, fullness in ((full, 1.0), (half, 0.5)):
        budget.fullness = fullness
        budget.read(*[0.3] * 20)

    assert full.limiter.limit == 8000
    assert half.limiter.limit == 16_000


def test_a_block_of_each_cache_is_left_to_the_server() -> None:
    limiter = ConcurrencyLimiter(UNKNOWN_LIMIT)
    tokens = TokenBudget(limiter)
    assert not tokens.is_in_force
    tokens.follow([ServerLoad(1, 0, 0.1, 2816, kv_block=128)], 0, 0, 0, 0.0)

    assert (limiter.limit, tokens.block) == (2816 - 128, 128)
    assert tokens.is_in_force
    limiter.limit = 9000
    assert not tokens.is_in_force


def test_tokens_at_which_calls_were_preempted_are_tried_again_ever_more_rarely() -> None:
    budget = Budget()
    budget.read(*[0.3] * 3)
    assert budget.limiter.limit == 18_000
    assert budget.read(0.3, preempted=3) == 14_400  # of 16,000 in flight
    assert budget.read(*[0.3] * 15) == int(0.95 * 18_000)
    tried = budget.read(*[0.3] * 3)
    assert tried > 18_000
    budget.read(0.3, preempted=1)
    assert max(budget.read(0.3) for _ in range(60)) <= 0.95 * tried


def test_preemptions_leave_the_tokens_of_the_cache() -> None:
    budget = Budget()
    budget.read(0.3)
    for _ in range(20):
        budget.read(0.3, preempted=5)

    assert budget.limiter.limit == 8000


def test_a_budget_that_a_user_has_set_is_left_alone() -> None:
    budget = Budget()
    budget.read(0.3)
    budget.limiter.limit = 500

    assert budget.read(*[0.1] * 20, size=9000) == 500
    assert budget.read(0.9, preempted=5) == 500


def test_two_servers_of_different_sizes_behind_one_address_are_taken_for_the_smaller_one() -> None:
    budget = Budget(waiting=False)
    for size in (8000, 5000) * 10:
        budget.read(0.3, size=size)

    assert budget.limiter.limit == 5000
    assert len(budget.limiter.limit_history) == 2
    assert budget.read(*[0.3] * 8) == 8000  # the other one is gone


def test_the_counters_of_servers_behind_one_address_are_told_apart() -> None:
    counter = Counter()

    assert [counter.increase(value) for value in (1000, 5, 1000, 7, 1003, 7, 0, 1)] == [
        0,
        0,
        0,
        2,
        3,
        0,
        0,
        1,
    ]


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5)), max_size=100))
def test_what_servers_behind_one_address_have_counted_adds_up(steps: list[tuple[int, int]]) -> None:
    counter, values = Counter(), [20_000, 10_000, 0]
    assert [counter.increase(value) for value in values] == [0, 0, 0]
    for server, more in steps:
        values[server] += more
        assert counter.increase(values[server]) == more


def test_a_server_that_was_started_again_counts_from_there() -> None:
    signal = ServerSignal()
    for preemptions in (900, 905, 0, 4):
        signal.judge(ServerLoad(10, 0, preemptions=preemptions))

    assert signal.counted == (9, 0)


def test_a_queue_that_is_not_ours_and_never_changes_is_not_believed() -> None:
    signal = ServerSignal()
    said = [signal.judge(ServerLoad(1, 500, 0.5), in_flight=8) for _ in range(12)]

    assert said[2].share < 0.01
    assert said[-1] == SILENCE
    assert signal.judge(ServerLoad(2, 500, 0.5), in_flight=8).share < 0.01  # it moves
    ours = ServerSignal()
    assert all(ours.judge(ServerLoad(1, 7, 0.5), in_flight=8) != SILENCE for _ in range(12))


def test_what_a_request_took_at_most_counts_and_fades() -> None:
    signal = ServerSignal()
    signal.judge(ServerLoad(16, 0, 0.8))  # 18 would be too many
    said = [signal.judge(ServerLoad(16, 0, 0.2)) for _ in range(80)]

    assert (said[0].step, said[0].is_free) == (2, False)
    assert all(one.step <= other.step for one, other in itertools.pairwise(said))
    assert (said[-1].step, said[-1].is_free) == (8, True)


def test_growth_leaves_room_in_the_cache() -> None:
    (word,) = words(ServerLoad(100, 0, 0.8))

    assert word.step == 12  # to 0.9 of the cache
    assert not word.is_free
    assert words(ServerLoad(100, 0, 0.9)) == [STAY]


def test_room_raises_the_limit_once_in_a_round() -> None:
    signal = ServerSignal()
    load = ServerLoad(16, 0, 0.1)

    assert [signal.judge(load, 16, ended).step for ended in (16, 5, 5, 5, 5)] == [8, 0, 0, 0, 8]


def test_where_tokens_in_flight_are_limited_to_the_cache_each_reading_doubles_the_limit() -> None:
    signal = ServerSignal()
    said = [signal.judge(ServerLoad(running, 0, 0.95), running, 0, is_bounded=True) for running in (4, 8, 16)]

    assert [(word.step, word.is_free) for word in said] == [(4, True), (8, True), (16, True)]
    assert signal.judge(ServerLoad(16, 9), 25, 0, is_bounded=True).share < 1


def test_more_is_tried_the_more_rarely_the_more_often_calls_were_preempted() -> None:
    signal, waits = ServerSignal(), []
    for preemptions in range(1, 5):
        signal.judge(ServerLoad(10, 0, preemptions=preemptions))
        waited = 1
        while not signal.judge(ServerLoad(10, 0, preemptions=preemptions)).step:
            waited += 1
            assert waited < 2000
        waits.append(waited)

    assert waits[1:] == [16, 64, 256]


@pytest.mark.parametrize(
    ("answer", "load"),
    [
        ({"running": 1, "waiting": 0, "kv_usage": float("nan")}, ServerLoad(1, 0)),
        ({"running": 1, "waiting": 0, "kv_usage": -0.5}, ServerLoad(1, 0)),
        ({"running": 1, "waiting": 0, "kv_usage": 87.0}, ServerLoad(1, 0)),  # no share
        ({"running": 1, "waiting": 0, "kv_tokens": -1, "preemptions": float("inf")}, ServerLoad(1, 0)),
        (ServerLoad(1, 0, 0.5, 10**40, -3, 10**40), ServerLoad(1, 0, 0.5)),
    ],
)
def test_a_figure_that_cannot_be_is_unknown(answer: Any, load: ServerLoad) -> None:
    assert as_load(answer) == load


@pytest.mark.parametrize(
    "answer",
    [ServerLoad(-1, 0), ServerLoad(1, 10**40), {"running": float("nan"), "waiting": 0}, ServerLoad(True, 0)],
)
def test_a_load_that_cannot_be_is_reported(answer: Any) -> None:
    with pytest.raises(errors.ConfigurationError, match=r"got \w+ with running=.* and waiting=\d"):
        as_load(answer)


LOADS = st.builds(
    ServerLoad,
    st.integers(0, 10**12),
    st.integers(0, 10**12),
    st.none() | st.floats(0, 1),
    st.none(),
    st.integers(0, 10**12),
)


@given(st.lists(LOADS, max_size=60))
def test_whatever_a_server_says_a_limit_keeps_within_its_bounds(loads: list[ServerLoad]) -> None:
    signal, control = ServerSignal(), controller(min=2, start=8, max=40)
    for number, load in enumerate(loads):
        word = signal.judge(load, control.limit)
        assert 0 <= word.share <= 1
        control.follow_server(word, control.limit, float(number))
        assert 2 <= control.limit <= 40
