"""Limits that are set while runs go on: waiting calls start at once, none is cancelled, and runs notice."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

import pytest
from tests.support.held import Held, ask_in_batches, ask_once
from tests.support.interleaving import Interleaver
from tests.support.patience import wait_until
from tests.support.run_methods import (
    RunMethod,
    by_arun,
    by_arun_on_trio,
    by_astream,
    by_run,
    by_stream,
)

from restaurant_llm_batch import (
    AdaptiveLimit,
    BatchRunner,
    ConcurrencyLimiter,
    Limits,
    LLMRequest,
    LLMResponse,
    Strategy,
)
from restaurant_llm_batch.errors import ConfigurationError
from restaurant_llm_batch.events import Event, LimitChanged, RunEnded
from restaurant_llm_batch.outcomes import Outcome
from restaurant_llm_batch.simulation import SimulatedServer
from restaurant_llm_batch.steps import Flow, gather

MODES: list[tuple[Strategy, RunMethod]] = [
    (Strategy.stage(4), by_run),
    (Strategy.threaded(), by_run),
    (Strategy.stage(4), by_arun_on_trio),
    (Strategy.stage(4), by_arun),
    (Strategy.stage(4), by_astream),
    (Strategy.stage(4), by_stream),
    (Strategy.threaded(), by_arun),
    (Strategy(restaurant_async=True), by_run),
]


@contextmanager
def going_on(
    runner: BatchRunner, llm: Held, way: RunMethod = by_run, task: Any = ask_once, items: Any = range(12)
) -> Iterator[list[Outcome[Any]]]:
    """Run in another thread for a block; then let all calls go, and wait for the outcomes."""
    outcomes: list[Outcome[Any]] = []
    thread = threading.Thread(target=lambda: outcomes.extend(way(runner, task, items)))
    thread.start()
    try:
        yield outcomes
    finally:
        llm.let_all_go()
        thread.join()


class Watch(list[Event]):
    def __call__(self, event: Event, /) -> None:
        self.append(event)

    @property
    def changes(self) -> list[tuple[str, int, str]]:
        found = [event for event in list(self) if isinstance(event, LimitChanged)]
        return [(event.limiter, event.limit, event.reason) for event in found]


@pytest.mark.parametrize(("strategy", "way"), MODES)
@pytest.mark.sample(3)
def test_a_limit_is_raised_and_lowered_in_every_mode(strategy: Strategy, way: RunMethod) -> None:
    llm, watch = Held(), Watch()
    runner = BatchRunner(llm=llm, strategy=strategy, limits=Limits(llm=2), observers=[watch])
    with going_on(runner, llm, way) as outcomes:
        llm.wait_for(started=2)
        runner.set_limit("llm", 5)
        llm.wait_for(started=5)  # though no call has ended
        wait_until(lambda: watch.changes == [("llm", 5, "manual")])  # likewise
        runner.set_limit("llm", 2)
        llm.let_go(3)
        wait_until(lambda: llm.in_flight == 2)
        assert llm.started == 5  # none is admitted until there are fewer than two
        llm.let_go(1)
        llm.wait_for(started=6)

    assert [outcome.value for outcome in outcomes] == ["ok"] * 12  # and none was cancelled
    assert llm.peak == 5
    assert watch.changes == [("llm", 5, "manual"), ("llm", 2, "manual")]
    assert isinstance(watch[-1], RunEnded)
    history = watch[-1].stats.limit_history
    assert [(one.limiter, one.limit, one.reason) for one in history] == [
        ("llm", 2, "start"),
        ("llm", 5, "manual"),
        ("llm", 2, "manual"),
    ]
    assert all(0 <= one.seconds <= watch[-1].stats.wall_seconds for one in history)


@pytest.mark.parametrize("number", [2, 3])
@pytest.mark.sample(1)
def test_calls_of_one_item_get_the_slots_of_a_higher_limit_in_stages_2_and_3(number: int) -> None:
    def six(item: Any) -> Flow[Any]:
        return (yield from gather(*[ask_once(f"{item} {part}") for part in range(6)]))

    llm = Held()
    runner = BatchRunner(llm=llm, strategy=Strategy.stage(number), limits=Limits(llm=1))
    with going_on(runner, llm, task=six, items=[1]):
        llm.wait_for(started=1)
        runner.set_limit("llm", 4)
        llm.wait_for(started=4)
    assert llm.peak == 4


@pytest.mark.parametrize("name", ["batches", "llm_total", "tokens_in_flight"])
def test_every_limit_on_calls_in_flight_can_be_set(name: str) -> None:
    llm = Held()
    tight: dict[str, int] = {"batches": 2} if name == "batches" else {name: 2, "batches": 50}
    runner = BatchRunner(llm=llm, strategy=Strategy.stage(4), limits=Limits(**tight))
    with going_on(runner, llm, task=ask_in_batches):
        llm.wait_for(started=1)
        assert llm.started <= 2
        runner.set_limit(name, 100_000)
        llm.wait_for(started=12)
    assert llm.peak > 2


@pytest.mark.parametrize("strategy", [Strategy.stage(4), Strategy.threaded(), Strategy.stage(1)])
def test_a_limit_per_minute_is_raised_and_waiting_calls_start(strategy: Strategy) -> None:
    llm = Held()
    llm.let_all_go()
    runner = BatchRunner(llm=llm, strategy=strategy, limits=Limits(requests_per_minute=1))
    with going_on(runner, llm):
        llm.wait_for(started=1)
        runner.set_limit("requests_per_minute", 600_000)  # otherwise this takes eleven minutes
    assert llm.started == 12


def test_a_limit_per_minute_is_set_where_there_was_none() -> None:
    llm, watch = Held(), Watch()
    runner = BatchRunner(llm=llm, strategy=Strategy.stage(4), limits=Limits(llm=2), observers=[watch])
    with going_on(runner, llm):
        llm.wait_for(started=2)
        runner.set_limit("requests_per_minute", 1)
        llm.let_go(2)
        wait_until(lambda: runner._config.limiters.rate.waiting == 1)
        assert llm.started == 3  # one of its minute, and no other
        runner.set_limit("tokens_per_minute", 10**9)
        runner.set_limit("requests_per_minute", 10**9)
    assert llm.started == 12
    assert watch.changes == [
        ("requests_per_minute", 1, "manual"),
        ("tokens_per_minute", 10**9, "manual"),
        ("requests_per_minute", 10**9, "manual"),
    ]


def test_an_adaptive_limit_goes_on_from_the_number_and_stays_below_it() -> None:
    runner = BatchRunner(
        llm=Held(), strategy=Strategy.stage(4), limits=Limits(llm=AdaptiveLimit(min=4, start=8, max=64))
    )
    runner.set_limit("llm", 2)  # below its least one too
    limiter = runner._config.limiters.llm[0]
    assert (limiter.limit, limiter.latest_change and limiter.latest_change.reason) == (2, "manual")
    runner.set_limit("llm", 100)
    assert limiter.limit == 100


def test_runs_that_share_a_limiter_notice_and_later_runs_begin_with_it() -> None:
    gpu, llm, watches = ConcurrencyLimiter(1), Held(), (Watch(), Watch())
    first, second = (
        BatchRunner(llm=llm, strategy=Strategy.stage(4), limits=Limits(llm=gpu), observers=[watch])
        for watch in watches
    )
    with going_on(first, llm), going_on(second, llm):
        wait_until(lambda: gpu.statistics().waiting == 23)
        gpu.limit = 3
        wait_until(lambda: all(watch.changes == [("llm", 3, "manual")] for watch in watches))
        llm.let_all_go()
    watches[0].clear()
    first.run(ask_once, [1])
    assert watches[0].changes == [("llm", 3, "start")]


def test_a_limit_that_is_set_to_what_it_is_changes_nothing() -> None:
    llm, watch = Held(), Watch()
    llm.let_all_go()
    runner = BatchRunner(llm=llm, strategy=Strategy.stage(4), limits=Limits(llm=2), observers=[watch])
    runner.set_limit("llm", 2)
    assert runner.run(ask_once, [1]).stats.limit_history == ()
    assert watch.changes == []


NO_LIMITS = [0, -1, 1.5, "sixteen", "16", None, True, 10**13, 10**5000, -(10**5000)]


@pytest.mark.parametrize("limit", NO_LIMITS, ids=map(str, range(len(NO_LIMITS))))
def test_what_is_no_limit_is_refused_with_what_to_write(limit: Any) -> None:
    runner = BatchRunner(llm=Held(), strategy=Strategy.stage(4))
    with pytest.raises(ConfigurationError, match=r"llm must be a whole number from 1 to .* for example 16"):
        runner.set_limit("llm", limit)
    assert runner._config.limiters.llm[0].limit == 8


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("lm", r"there is no limit 'lm' \(did you mean llm\?\); what can be changed: search, llm, batches, "),
        (
            "open_items",
            r"open_items cannot be changed while a runner is in use; what can be changed: search, ",
        ),
        ("llm_total", r"llm_total is not limited in this runner.* for example Limits\(llm_total=100\)"),
        ("tokens_in_flight", r"tokens_in_flight is not limited"),
        ("\x1b[2J", r"there is no limit '\\x1b\[2J'"),
        (7, r"there is no limit 7"),
        (None, r"there is no limit None"),
    ],
)
def test_a_limit_that_cannot_be_set_is_named_with_those_that_can(name: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        BatchRunner(llm=Held(), strategy=Strategy.stage(4)).set_limit(name, 16)


def test_stage_1_refuses_a_limit_on_calls_in_flight_and_says_why() -> None:
    runner = BatchRunner(llm=Held(), strategy=Strategy.stage(1))
    with pytest.raises(
        ConfigurationError, match=r"llm cannot be 16: stage 1 makes one call at a time.*stage 4"
    ):
        runner.set_limit("llm", 16)
    runner.set_limit("requests_per_minute", 16)


@pytest.mark.parametrize("stop", [lambda runner: None, lambda runner: runner.set_limit("llm", 3)])
def test_a_limit_set_after_a_run_is_no_event_of_it(stop: Callable[[BatchRunner], None]) -> None:
    llm, watch = Held(), Watch()
    llm.let_all_go()
    with BatchRunner(llm=llm, strategy=Strategy.stage(4), observers=[watch]) as runner:
        runner.run(ask_once, [1])
        stop(runner)
    assert isinstance(watch[-1], RunEnded)
    assert watch.changes == []
    assert not any(limiter._state_for_process()[1].set_watchers for limiter in runner._config.limiters.llm)


def test_a_simulation_begins_with_the_limit_that_was_set() -> None:
    runner = BatchRunner(llm=Held(), strategy=Strategy.stage(4), limits=Limits(llm=1))
    runner.set_limit("llm", 4)
    simulation = runner.simulate(ask_once, range(8), SimulatedServer(latency=1.0))
    assert simulation.server.peak == 4


class AtOnce:
    """Answers at once."""

    def complete(self, request: LLMRequest, /) -> LLMResponse:
        return LLMResponse("ok")

    async def acomplete(self, request: LLMRequest, /) -> LLMResponse:
        return LLMResponse("ok")


@pytest.mark.sample(1)
@pytest.mark.hardening(small=3, full=1_000)
@pytest.mark.parametrize("strategy", [Strategy.stage(4), Strategy.threaded()], ids=["stage 4", "threaded"])
def test_no_call_is_forgotten_whatever_the_order_of_the_threads_that_set_limits(
    strategy: Strategy, trials: int
) -> None:
    files = ("/concurrency.py", "/rate.py", "/limiters.py", "/admission.py", "/recorder.py", "/timers.py")
    for seed in range(trials):
        interleaver, random, watch = Interleaver(seed, files), Random(seed), Watch()
        gpu = ConcurrencyLimiter(1)
        runner = BatchRunner(
            llm=AtOnce(), strategy=strategy, limits=Limits(llm=gpu, open_items=6), observers=[watch]
        )
        given = [(random.choice(("llm", "requests_per_minute")), random.randint(1, 5)) for _ in range(8)]
        outcomes: list[Outcome[Any]] = []

        def set_all(runner: BatchRunner = runner, given: list[tuple[str, int]] = given) -> None:
            for name, number in given:
                runner.set_limit(name, number if name == "llm" else number * 10**6)

        def run(runner: BatchRunner = runner, outcomes: list[Outcome[Any]] = outcomes) -> None:
            outcomes += runner.run(ask_once, range(12)).outcomes

        with interleaver.threads(run, set_all):
            pass
        assert [outcome.value for outcome in outcomes] == ["ok"] * 12, seed
        assert (gpu.statistics().in_flight, gpu.statistics().waiting) == (0, 0), seed
        assert isinstance(watch[-1], RunEnded), seed
        wanted = [1, *(number for name, number in given if name == "llm")]
        seen = [limit for name, limit, _ in watch.changes if name == "llm"]
        rest = iter(wanted)
        assert all(limit in rest for limit in seen), (seed, seen, wanted)  # in their order


@pytest.mark.parametrize("way", [by_run, by_arun])
@pytest.mark.parametrize("strategy", [Strategy.stage(4), Strategy.threaded()], ids=["stage 4", "threaded"])
def test_an_observer_may_set_limits_in_the_middle_of_an_event(strategy: Strategy, way: RunMethod) -> None:
    random, watch = Random(5), Watch()

    def meddle(event: Event) -> None:
        if not isinstance(event, LimitChanged | RunEnded):
            runner.set_limit("llm", random.randint(1, 4))
            runner.set_limit("requests_per_minute", random.randint(1, 4) * 10**6)

    limits = Limits(llm=1, open_items=8)
    runner = BatchRunner(llm=AtOnce(), strategy=strategy, limits=limits, observers=[meddle, watch])
    assert [outcome.value for outcome in way(runner, ask_once, range(40))] == ["ok"] * 40
    assert isinstance(watch[-1], RunEnded)
    limiter = runner._config.limiters.llm[0].statistics()
    assert (limiter.in_flight, limiter.waiting) == (0, 0)
    assert limiter.peak <= 4
