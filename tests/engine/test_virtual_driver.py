"""What simulation tests found in the engine: each is a promise of the virtual driver, or of all drivers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from restaurant_llm_batch import (
    BatchRunner,
    Limits,
    LLMRequest,
    RetryPolicy,
    StopConditions,
    Store,
    Strategy,
    TimeLimits,
)
from restaurant_llm_batch._engine.virtual import VirtualDriver
from restaurant_llm_batch._limits.rate import RateLimiter
from restaurant_llm_batch._limits.wait_queue import CallbackTicket, Ticket
from restaurant_llm_batch.events import CallStarted, ItemEnded
from restaurant_llm_batch.simulation import SimulatedServer, simulate_together
from restaurant_llm_batch.simulation._play import Playback
from restaurant_llm_batch.steps import Flow, complete, gather
from restaurant_llm_batch.testing import FakeLLM

CONCURRENT = [Strategy.stage(4), Strategy.threaded()]


def dish(item: int, tokens: int = 50) -> Flow[str]:
    message = {"role": "user", "content": f"Name dish {item}."}
    reply = yield from complete(LLMRequest("dish", (message,), max_tokens=tokens))
    return str(reply.text)


def two_dishes(item: int) -> Flow[list[Any]]:
    return (yield from gather(dish(2 * item), dish(2 * item + 1)))


def runner(strategy: Strategy = CONCURRENT[0], **arguments: Any) -> BatchRunner:
    return BatchRunner(llm=FakeLLM(), strategy=strategy, **arguments)


@pytest.mark.parametrize("strategy", CONCURRENT)
@pytest.mark.parametrize("tokens", [200, 400, 1000])
@pytest.mark.parametrize("limit", [2, 8])
def test_no_call_starts_beyond_a_budget_when_a_call_gives_tokens_back(
    strategy: Strategy, tokens: int, limit: int
) -> None:
    # At 100 tokens a second, the second call could start a moment after the first one ends. The tokens that the first
    # has not used let it start in that moment, in which the budget is used up.
    server = SimulatedServer(latency=tokens / 100, answer_tokens=40)
    limits = Limits(llm=limit, tokens_per_minute=6000)
    stopped, whole = (
        runner(strategy, limits=limits, stop=StopConditions(max_tokens=most)).simulate(
            lambda item: dish(item, tokens), range(4), server
        )
        for most in (40, 10_000)
    )

    assert [event.time for event in whole.events if isinstance(event, CallStarted)][1] == server.latency
    assert stopped.server.calls == 1


@pytest.mark.parametrize(
    ("first", "second"),
    [((0, 900), (-1, 5)), ((0, 900), (0, 5)), ((3, 900), (1, 1)), ((0, 900), (-1, 900)), ((0, 90), (1, 1))],
)
def test_a_call_that_becomes_the_first_is_started_as_soon_as_its_rate_allows(
    first: tuple[int, int], second: tuple[int, int]
) -> None:
    limiter = RateLimiter(None, 60_000)
    started: list[str] = []
    rings: list[float | None] = []
    limiter.watch(lambda: rings.append(limiter.seconds_until_ready(0.0)))

    def ticket(name: str, priority: int, tokens: int) -> Ticket:
        return CallbackTicket(lambda: started.append(name), priority, 0, tokens)

    assert limiter.enqueue(ticket("leader", 0, 950), 0.0)
    assert not limiter.enqueue(ticket("first", *first), 0.0)
    rings.clear()
    limiter.enqueue(ticket("second", *second), 0.0)
    is_first = second[0] < first[0]

    assert len(rings) == is_first  # whoever keeps the timer is told of the new first one
    if is_first:
        assert rings[0] == pytest.approx(max(0.0, (second[1] - 50) / 1000), abs=0.03)


@pytest.mark.sample(2)
@pytest.mark.parametrize("strategy", CONCURRENT)
@pytest.mark.parametrize("limits", [Limits(llm=1), Limits(llm=3), Limits(llm=8, llm_total=2)])
def test_items_that_a_stop_fails_end_in_the_order_of_arrival(strategy: Strategy, limits: Limits) -> None:
    # Of a set of calls, the order would be that of their addresses.
    filler: list[object] = []
    for attempt in range(5):
        filler += (object() for _ in range(37 * attempt))
        simulation = runner(strategy, limits=limits, stop=StopConditions(max_tokens=1)).simulate(
            dish, range(30), SimulatedServer(latency=1.0)
        )
        ended = [
            event.outcome.item_id
            for event in simulation.events
            if isinstance(event, ItemEnded) and not event.outcome.ok
        ]
        assert len(ended) >= 22
        assert ended == sorted(ended, key=lambda item_id: int(str(item_id)))


@pytest.mark.parametrize("time_limit", [0.2, 0.5, 0.9])
def test_a_call_that_another_run_waits_for_goes_on_when_its_own_run_ends(
    time_limit: float, tmp_path: Path
) -> None:
    store, llm = Store(tmp_path / "run.db"), FakeLLM()
    leads = BatchRunner(llm=llm, strategy=CONCURRENT[0], store=store, time_limits=TimeLimits(run=time_limit))
    follows = BatchRunner(llm=llm, strategy=CONCURRENT[0], store=store)
    first, second = simulate_together(
        [(leads, dish, [1]), (follows, dish, [1])], SimulatedServer(latency=1.0)
    )

    assert first.seconds == time_limit
    assert (second.seconds, second.server.calls, second.server.cancelled) == (1.0, 1, 0)
    assert len(second.report.results) == 1


@pytest.mark.parametrize("strategy", CONCURRENT)
def test_a_cancelled_run_counts_no_call_below_zero(strategy: Strategy) -> None:
    playback, driver = played(strategy, range(6))
    while playback.time.now() < 0.3 and playback.time.step():
        pass
    driver.scheduler.cancel()
    driver.end()
    finish(playback, driver)

    run = driver.scheduler.run
    assert run.recorder.counters.in_flight("llm") == 0
    assert run.limiters.llm[0].statistics().in_flight == 0


@pytest.mark.parametrize("event", range(2, 12))
@pytest.mark.parametrize("strategy", CONCURRENT)
def test_an_interrupted_observer_leaves_no_slot_taken(strategy: Strategy, event: int) -> None:
    numbers = iter(range(1, 1000))

    def observe(_: object) -> None:
        if next(numbers) == event:
            raise KeyboardInterrupt

    playback, driver = played(strategy, range(6), observe)
    driver.scheduler.run.recorder.start(6)
    with pytest.raises(KeyboardInterrupt):
        driver.start()
        while not driver.scheduler.finished:
            playback.time.step()
    driver.end()
    finish(playback, driver)

    assert driver.scheduler.run.limiters.llm[0].statistics().in_flight == 0


def played(strategy: Strategy, items: Any, *observers: Any) -> tuple[Playback, VirtualDriver]:
    """Return a run that lives on virtual time; without observers, it is started."""
    limited = runner(strategy, limits=Limits(llm=3), llm_retry=RetryPolicy(wait_initial=0.1))
    playback = Playback(SimulatedServer(latency=0.2), 0, None, len, "simulated")
    player = playback.add(limited.parts, dish, items, lambda _: None, observers)
    driver = player.driver
    assert isinstance(driver, VirtualDriver)
    if not observers:
        driver.start()
    return playback, driver


def finish(playback: Playback, driver: VirtualDriver) -> None:
    """Let the calls return that are still at the server."""
    while driver._in_flight:
        playback.time.step()
