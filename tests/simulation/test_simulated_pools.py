"""Pools of endpoints on virtual time: servers that die, come back and slow down."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

import pytest

from restaurant_llm_batch import AdaptiveLimit, BatchRunner, Limits, LLMRequest, RetryPolicy, Strategy
from restaurant_llm_batch.backends import LLMPool
from restaurant_llm_batch.errors import ConfigurationError
from restaurant_llm_batch.events import CallEnded, CallStarted
from restaurant_llm_batch.simulation import (
    LogNormal,
    SimulatedServer,
    Simulation,
    TokenSpeed,
    simulate_together,
)
from restaurant_llm_batch.steps import complete

STRATEGIES = [Strategy.stage(1), Strategy.stage(2), Strategy.stage(3), Strategy.stage(4), Strategy.threaded()]
CONCURRENT = STRATEGIES[3:]
LATENCY = LogNormal(median=0.8, sigma=0.5)


class NeverCalled:
    """A model that must not be called."""

    def complete(self, request: LLMRequest) -> Any:
        raise AssertionError("the model was called")

    async def acomplete(self, request: LLMRequest) -> Any:
        raise AssertionError("the model was called")


def dish(item: int) -> Generator[Any, Any, str]:
    message = {"role": "user", "content": f"Name dish {item}."}
    reply = yield from complete(LLMRequest("dish", (message,), max_tokens=50))
    return str(reply.text)


def pool(number: int = 3, **options: Any) -> LLMPool:
    return LLMPool({f"server {index}": NeverCalled() for index in range(number)}, **options)


def simulate(
    llm: Any, items: int, server: Any, strategy: Strategy = CONCURRENT[0], seed: int = 0, **options: Any
) -> Simulation[str]:
    return BatchRunner(llm=llm, strategy=strategy, **options).simulate(dish, range(items), server, seed=seed)


def most_at_once(simulation: Simulation[str]) -> dict[str | None, int]:
    now: dict[str | None, int] = {}
    most: dict[str | None, int] = {}
    for event in simulation.events:
        if isinstance(event, (CallStarted, CallEnded)):
            change = 1 if isinstance(event, CallStarted) else -1
            now[event.endpoint] = now.get(event.endpoint, 0) + change
            most[event.endpoint] = max(most.get(event.endpoint, 0), now[event.endpoint])
    return most


@pytest.mark.slow
@pytest.mark.parametrize("strategy", CONCURRENT, ids=str)
@pytest.mark.parametrize("dying", [0, 1, 2])
def test_three_servers_of_unknown_size_are_as_fast_as_one_though_one_dies_and_comes_back(
    dying: int, strategy: Strategy
) -> None:
    slots, (begin, end) = (8, 16, 24), (10.0, 20.0)
    servers = [
        SimulatedServer(
            latency=LATENCY,
            slots=number,
            overload="refuse",
            outages=[(begin, end)] if index == dying else [],
        )
        for index, number in enumerate(slots)
    ]
    simulation = simulate(pool(limits=AdaptiveLimit()), 1600, servers, strategy, seed=dying)
    # One server of as many slots, known to the runner; and what it would lose in an outage of some of them.
    one = simulate(
        NeverCalled(),
        1600,
        SimulatedServer(latency=LATENCY, slots=48),
        strategy,
        dying,
        limits=Limits(llm=48),
    )
    bound = one.seconds + (end - begin) * slots[dying] / sum(slots)

    assert len(simulation.report.results) == 1600
    assert simulation.seconds < 1.1 * bound
    assert [usage.peak for usage in simulation.servers.values()] == [8, 16, 24]
    assert simulation.server.answered == 1600  # nothing is paid for twice
    assert simulation.servers[f"server {dying}"].lost <= 40
    assert simulation.server.refused < 100


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_no_endpoint_is_over_its_limit_and_no_item_is_lost_in_any_strategy(strategy: Strategy) -> None:
    servers = [
        SimulatedServer(latency=0.5, outages=[(1, 3)]),
        SimulatedServer(latency=1.0, faults={"reset": 0.2}),
    ]
    simulation = simulate(pool(2, limits=[2, 3]), 60, servers, strategy)

    assert len(simulation.report.results) == 60
    most = most_at_once(simulation)
    assert most["server 0"] <= 2
    assert most["server 1"] <= 3
    if strategy.restaurant_async:
        assert most == {"server 0": 2, "server 1": 3}


def test_all_endpoints_down_for_a_while_cost_time_and_no_item() -> None:
    down = SimulatedServer(latency=0.5, outages=[(2, 14)])
    simulation = simulate(pool(3, limits=4), 200, down)

    assert len(simulation.report.results) == 200
    assert simulation.server.lost < 60  # twelve in flight, each once at most at each endpoint; then probes
    assert 14 < simulation.seconds < 14 + 5 + 200 * 0.5 / 12 + 2


def test_endpoints_that_never_come_back_fail_the_items_in_the_end() -> None:
    gone = SimulatedServer(latency=0.5, outages=[(2, 1e6)])
    simulation = simulate(
        pool(2, limits=4, pool_timeout=10.0), 100, gone, llm_retry=RetryPolicy(wait_max=1.0)
    )

    assert len(simulation.report.failures) == 100 - simulation.server.answered
    assert simulation.seconds < 90


def test_a_slow_endpoint_takes_fewer_calls_and_holds_nobody_up() -> None:
    servers = [SimulatedServer(latency=0.5), SimulatedServer(latency=0.5, slowdowns=[(5, 25, 8.0)])]
    simulation = simulate(pool(2, limits=4), 400, servers)
    fast, slow = simulation.report.stats.endpoints.values()

    assert len(simulation.report.results) == 400
    assert fast.calls > 2 * slow.calls
    assert slow.latency.max == pytest.approx(4.0)
    assert simulation.seconds < 0.5 * 400 / 4  # what the fast one alone takes


def test_a_pool_of_one_goes_like_its_endpoint_alone() -> None:
    for strategy in STRATEGIES:
        server = SimulatedServer(latency=LATENCY, slots=6, overload="refuse", faults={"reset": 0.05})
        alone = simulate(NeverCalled(), 100, server, strategy, limits=Limits(llm=5))
        single = simulate(LLMPool([NeverCalled()], limits=5), 100, [server], strategy)
        assert len(single.report.results) == len(alone.report.results)
        assert single.report.stats.calls == pytest.approx(alone.report.stats.calls, rel=0.1)
        assert single.seconds == pytest.approx(alone.seconds, rel=0.15)


def test_equal_seeds_give_equal_runs() -> None:
    servers = [
        SimulatedServer(latency=LATENCY, slots=3, overload="refuse", outages=[(1, 2)]),
        SimulatedServer(latency=TokenSpeed(500, 50), slowdowns=[(1, 3, 2.0)], faults={"server_error": 0.1}),
    ]
    first, again = (simulate(pool(2), 60, servers, seed=7) for _ in range(2))

    assert [event[:2] for event in first.events] == [event[:2] for event in again.events]
    assert first.servers == again.servers


def test_runners_that_share_a_pool_share_its_limits() -> None:
    shared = pool(2, limits=2)
    runners = [BatchRunner(llm=shared, strategy=strategy) for strategy in CONCURRENT]
    simulations = simulate_together(
        [(runner, dish, range(30)) for runner in runners], SimulatedServer(latency=1.0)
    )

    assert [len(simulation.report.results) for simulation in simulations] == [30, 30]
    assert [usage.peak for usage in simulations[0].servers.values()] == [2, 2]
    assert simulations[0].server.answered == 60
    assert all(one.calls == 0 for one in shared.statistics().values())  # the pool itself is as it was


def test_an_urgent_item_goes_first_at_whichever_endpoint_is_free() -> None:
    items = [{"restaurant_id": number, "priority": -1 if number == 39 else 0} for number in range(40)]

    class Task:
        name = "dish"
        requires_search = False

        def parse_item(self, raw: Any, /) -> Any:
            return raw

        def item_key(self, item: Any, /) -> tuple[int, int]:
            return item["restaurant_id"], item["priority"]

        def flow(self, item: Any, /) -> Generator[Any, Any, str]:
            return dish(item["restaurant_id"])

    runner = BatchRunner(llm=pool(2, limits=[1, 2]), strategy=CONCURRENT[0])
    simulation = runner.simulate(Task(), iter(items), SimulatedServer(latency=1.0))
    order = [event.item_id for event in simulation.events if isinstance(event, CallStarted)]

    assert order.index(39) == 3  # after the three that had started before it arrived
    assert [item for item in order if item != 39] == list(range(39))


@pytest.mark.parametrize(
    ("llm", "server", "message"),
    [
        (pool(2), [SimulatedServer()], "has 1 entries, but the pool has 2"),
        (pool(2), {"server 0": SimulatedServer()}, "for each endpoint"),
        (pool(1), [5], "must be a SimulatedServer"),
        (pool(1), "server", "must be a SimulatedServer"),
        (NeverCalled(), [SimulatedServer()], "must be a SimulatedServer"),
        (NeverCalled(), {"a": SimulatedServer()}, "no pool"),
    ],
)
def test_servers_that_are_not_those_of_the_pool_are_refused(llm: Any, server: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        simulate(llm, 3, server)


@pytest.mark.parametrize(
    "wrong",
    [
        {"outages": [(2, 1)]},
        {"outages": [5]},
        {"outages": 5},
        {"outages": [(1, 2, 3)]},
        {"outages": [("a", 2)]},
        {"slowdowns": [(1, 2)]},
        {"slowdowns": [(1, 2, 0)]},
        {"slowdowns": [(-1, 2, 3)]},
    ],
)
def test_spans_of_time_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="for example"):
        SimulatedServer(**wrong)


def test_an_outage_of_a_single_server_loses_its_calls_in_flight() -> None:
    simulation = simulate(
        NeverCalled(), 40, SimulatedServer(latency=1.0, outages=[(2.5, 3)]), limits=Limits(llm=4)
    )

    assert len(simulation.report.results) == 40
    assert simulation.server.lost >= 4
    assert simulation.server.answered == 40


def test_a_batching_server_that_slows_down_takes_so_much_longer() -> None:
    def seconds(slowdowns: Sequence[tuple[float, float, float]]) -> float:
        server = SimulatedServer(latency=TokenSpeed(1e6, 50), answer_tokens=50, slowdowns=slowdowns)
        return simulate(NeverCalled(), 8, server, limits=Limits(llm=1)).seconds

    plain = seconds([])
    assert plain == pytest.approx(8.0, rel=0.02)
    assert seconds([(2.0, 4.0, 2.0)]) == pytest.approx(9.0, rel=0.02)  # half as much in two seconds
