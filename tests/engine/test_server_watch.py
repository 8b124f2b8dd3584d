"""`BatchRunner(watch_server=...)`: the load of the model's server, read in every stage while a run goes on."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from tests.support.run_methods import REPRESENTATIVE, strategy_name

from restaurant_llm_batch import AdaptiveLimit, BatchRunner, Limits, LLMRequest, Strategy, errors
from restaurant_llm_batch.backends import LLMPool, VLLMServerLLM
from restaurant_llm_batch.events import LimitChanged
from restaurant_llm_batch.models import ServerLoad
from restaurant_llm_batch.records import open_record
from restaurant_llm_batch.simulation import LogNormal, SimulatedServer, TokenSpeed
from restaurant_llm_batch.steps import complete
from restaurant_llm_batch.testing import FakeLLM
from restaurant_llm_batch.testing.server import Faults, FaultServer

each_driver = pytest.mark.parametrize("strategy", REPRESENTATIVE, ids=strategy_name)


class Metered(FakeLLM):
    """A model whose server works on `slots` calls and says that the others wait."""

    def __init__(self, slots: int = 4, *, error: Exception | None = None, seconds: float = 0.005) -> None:
        super().__init__(seconds=seconds)
        self.slots, self.error = slots, error
        self.readings = 0

    def metrics(self) -> ServerLoad:
        self.readings += 1
        if self.error is not None:
            raise self.error
        return ServerLoad(min(self.slots, self.in_flight), max(0, self.in_flight - self.slots), 0.25, 100_000)

    async def ametrics(self) -> ServerLoad:
        return self.metrics()


def ask(item: int) -> Any:
    """Ask once."""
    message = {"role": "user", "content": f"review {item}"}
    return (yield from complete(LLMRequest("rating", (message,), max_tokens=100))).text


@each_driver
def test_the_load_is_read_in_every_stage_and_told_in_the_statistics(strategy: Strategy) -> None:
    model = Metered()
    report = BatchRunner(llm=model, strategy=strategy, watch_server=0.01).run(ask, range(40))
    said = report.stats.servers["llm"]

    assert len(report.results) == 40
    assert said.readings >= 2
    assert said.peak_running >= (1 if strategy.restaurant_async or strategy.threads else 0)
    assert (said.peak_kv_usage, said.kv_tokens) == (0.25, 100_000)
    assert said.failed_readings == 0


@each_driver
def test_a_server_that_cannot_be_read_is_told_once_and_hurts_nothing(
    strategy: Strategy, caplog: pytest.LogCaptureFixture
) -> None:
    model = Metered(error=errors.TransientBackendError("no metrics today"))
    with caplog.at_level(logging.WARNING):
        report = BatchRunner(llm=model, strategy=strategy, watch_server=0.01).run(ask, range(40))

    assert len(report.results) == 40
    assert report.stats.servers["llm"].failed_readings >= 2
    assert report.stats.servers["llm"].readings == 0
    assert len([one for one in caplog.records if "cannot be read" in one.message]) == 1


@each_driver
def test_a_reading_that_hangs_holds_nothing_up(strategy: Strategy) -> None:
    released = threading.Event()
    answered: list[str] = []

    class Hanging(Metered):
        def metrics(self) -> ServerLoad:
            released.wait(30)
            answered.append("metrics")
            return super().metrics()

        async def ametrics(self) -> ServerLoad:
            await anyio.sleep(30)
            answered.append("ametrics")
            return super().metrics()

    try:
        report = BatchRunner(llm=Hanging(), strategy=strategy, watch_server=0.01).run(ask, range(20))
        waited_for = [*answered]
    finally:
        released.set()

    assert len(report.results) == 20
    assert waited_for == []


def test_a_server_that_hangs_holds_one_thread_however_many_runs_there_are() -> None:
    released = threading.Event()

    class Hanging(Metered):
        def metrics(self) -> ServerLoad:
            self.readings += 1
            released.wait(30)
            return ServerLoad(1, 0)

    model = Hanging(seconds=0.002)
    try:
        with BatchRunner(llm=model, strategy=Strategy.threaded(), watch_server=0.001) as runner:
            reports = [runner.run(ask, range(10)) for _ in range(5)]
    finally:
        released.set()

    assert [len(report.results) for report in reports] == [10] * 5
    assert model.readings == 1


class Raising:
    """Raises whatever it is asked for."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


LIES: dict[str, Callable[[int], Any]] = {
    "counters that go back": lambda number: ServerLoad(3, 0, 0.5, 1000, 10**6 - number, 7 - number % 7),
    "figures that are none": lambda number: {"running": float("nan"), "waiting": -number, "kv_usage": "full"},
    "figures that cannot be": lambda number: ServerLoad(10**30, 10**40, 87.0, -5, 10**50, -1),
    "a queue that never changes": lambda number: ServerLoad(1, 10**6, 0.5),
    "another server each time": lambda number: ServerLoad(
        3, 9 * (number % 2), 0.1, 1000 + number % 2, number % 5
    ),
    "a cache that is always full": lambda number: ServerLoad(3, 0, 1.0, 16),
    "an object that raises": lambda number: Raising(),
    "a page that is too long": lambda number: "vllm" * 10**6,
    "an exit": lambda number: sys.exit(number),
}


@each_driver
@pytest.mark.sample(4)
@pytest.mark.parametrize("lie", LIES.values(), ids=list(LIES))
def test_a_server_that_lies_hurts_no_run(lie: Callable[[int], Any], strategy: Strategy) -> None:
    class Lying(Metered):
        def metrics(self) -> Any:
            self.readings += 1
            return lie(self.readings)

    model = Lying(seconds=0.001)
    limits = Limits(llm=AdaptiveLimit(min=2, start=8, max=16))
    report = BatchRunner(llm=model, strategy=strategy, limits=limits, watch_server=0.005).run(ask, range(60))
    said = report.stats.servers["llm"]

    assert len(report.results) == 60
    assert said.readings + said.failed_readings >= 1
    assert all(2 <= change.limit <= 16 for change in report.stats.limit_history if change.limiter == "llm")


def test_an_endpoint_that_lies_changes_the_limit_of_no_other_one() -> None:
    class Flooded(Metered):
        async def ametrics(self) -> ServerLoad:
            return ServerLoad(1, 400 + self.in_flight, 0.5)

    limits = {"a": AdaptiveLimit(min=2, start=8), "b": AdaptiveLimit(min=2, start=8)}
    pool = LLMPool({"a": Metered(slots=64), "b": Flooded()}, limits=limits)
    report = BatchRunner(llm=pool, strategy=Strategy.stage(4), watch_server=0.005).run(ask, range(200))
    lowest = {
        name: min(one.limit for one in report.stats.limit_history if one.limiter == f"llm:{name}")
        for name in "ab"
    }

    assert len(report.results) == 200
    assert lowest == {"a": 8, "b": 2}


class Odd:
    """Says nothing of its load."""


@pytest.mark.parametrize("answer", [None, {"running": -1}, Odd(), "busy"])
def test_an_odd_answer_counts_as_a_failed_reading(answer: Any) -> None:
    class Strange(Metered):
        async def ametrics(self) -> Any:
            return answer

    report = BatchRunner(llm=Strange(), strategy=Strategy.stage(4), watch_server=0.01).run(ask, range(40))

    assert len(report.results) == 40
    assert report.stats.servers["llm"].failed_readings >= 1


def test_a_queue_at_the_server_lowers_an_adaptive_limit_and_says_why(tmp_path: Any) -> None:
    model = Metered(slots=4, seconds=0.02)
    events: list[Any] = []
    limits = Limits(llm=AdaptiveLimit(start=32), open_items=400)
    runner = BatchRunner(
        llm=model,
        strategy=Strategy.stage(4),
        limits=limits,
        watch_server=0.02,
        observers=[events.append],
        record=tmp_path / "run.db",
    )
    with runner:
        report = runner.run(ask, range(400))

    history = [change for change in report.stats.limit_history if change.limiter == "llm"]
    lowered = [change for change in history if change.reason == "server"]
    assert lowered
    assert min(change.limit for change in lowered) <= 8
    assert "server" in {event.reason for event in events if isinstance(event, LimitChanged)}
    record = open_record(tmp_path / "run.db")
    assert "server" in {limit.reason for limit in record.limits()}


def test_a_limit_that_the_user_has_set_stays_whatever_the_server_says() -> None:
    report = BatchRunner(
        llm=Metered(slots=2), strategy=Strategy.stage(4), limits=Limits(llm=16), watch_server=0.01
    ).run(ask, range(100))

    assert report.stats.peak_in_flight["llm"] == 16
    assert [change.limiter for change in report.stats.limit_history] == ["tokens_in_flight"]


def test_the_tokens_in_flight_follow_the_servers_cache_unless_they_are_given() -> None:
    given = BatchRunner(
        llm=Metered(), strategy=Strategy.stage(4), limits=Limits(tokens_in_flight=5000), watch_server=0.01
    )
    learned = BatchRunner(llm=Metered(), strategy=Strategy.stage(4), watch_server=0.01)

    assert [change.limiter for change in given.run(ask, range(30)).stats.limit_history] == []
    (change,) = learned.run(ask, range(30)).stats.limit_history
    assert (change.limiter, change.limit, change.reason) == ("tokens_in_flight", 100_000, "server")


def test_a_backend_without_metrics_is_told_and_runs(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        report = BatchRunner(llm=FakeLLM(), strategy=Strategy.stage(4), watch_server=2).run(ask, range(5))

    assert len(report.results) == 5
    assert report.stats.servers == {}
    assert "FakeLLM has neither metrics() nor health()" in caplog.text


@pytest.mark.parametrize("seconds", [0, -1, True, "2", float("inf"), float("nan")])
def test_seconds_that_are_not_above_0_are_reported(seconds: Any) -> None:
    with pytest.raises(errors.ConfigurationError, match="watch_server must be a number of seconds above 0"):
        BatchRunner(llm=FakeLLM(), watch_server=seconds)


def test_each_endpoint_of_a_pool_has_its_own_load() -> None:
    pool = LLMPool({"a": Metered(), "b": Metered(error=errors.TransientBackendError("down"))})
    report = BatchRunner(llm=pool, strategy=Strategy.stage(4), watch_server=0.01).run(ask, range(100))

    assert set(report.stats.servers) == {"llm:a", "llm:b"}
    assert report.stats.servers["llm:a"].readings
    assert not report.stats.servers["llm:b"].readings


def test_two_runs_of_a_runner_take_turns_in_reading() -> None:
    model = Metered(seconds=0.01)

    async def main() -> None:
        async with (
            BatchRunner(
                llm=model, strategy=Strategy.stage(4), limits=Limits(llm=2), watch_server=0.05
            ) as runner,
            anyio.create_task_group() as group,
        ):
            for _ in range(4):
                group.start_soon(runner.arun, ask, range(20))

    anyio.run(main)
    assert 1 <= model.readings <= 30


def simulated(server: SimulatedServer, limit: int | AdaptiveLimit, items: int, **options: Any) -> Any:
    strategy = options.pop("strategy", Strategy.stage(4))
    runner = BatchRunner(
        llm=FakeLLM(), strategy=strategy, limits=Limits(llm=limit, open_items=1000), **options
    )
    return runner.simulate(ask, range(items), server=server)


@each_driver
def test_a_simulated_server_is_read_on_virtual_time(strategy: Strategy) -> None:
    server = SimulatedServer(latency=1.0, slots=8)
    played = simulated(server, AdaptiveLimit(start=8), 40, strategy=strategy, watch_server=2.0)

    assert played.report.stats.servers["llm"].readings >= 2
    assert played.report.stats.servers["llm"].peak_running == (8 if strategy.restaurant_async else 0)


def test_with_the_load_of_a_simulated_server_nothing_waits_there() -> None:
    server = SimulatedServer(latency=LogNormal(0.4, 0.4), slots=24)
    best = simulated(server, 24, 1500)
    ours = simulated(server, AdaptiveLimit(), 1500, watch_server=0.5)

    assert ours.seconds <= 1.05 * best.seconds
    assert ours.report.stats.limit_history[-1].limit <= 30
    assert "server" in {change.reason for change in ours.report.stats.limit_history}


@pytest.mark.slow
@pytest.mark.parametrize("later", [12, 48])
def test_a_simulated_server_whose_slots_change_is_followed(later: int) -> None:
    server = SimulatedServer(latency=LogNormal(0.4, 0.4), slots=24, slot_changes=[(30, later)])
    best = min(simulated(server, fixed, 4000).seconds for fixed in (24, later))
    ours = simulated(server, AdaptiveLimit(), 4000, watch_server=0.5)

    assert ours.seconds <= 1.1 * best


class Vllm(FakeLLM):
    """A model whose server says the size of its cache."""

    def metrics(self) -> ServerLoad:
        raise AssertionError("a simulation reads its own server")


def batching(kv_tokens: int, answer_tokens: int | None) -> SimulatedServer:
    """Return a server that stops requests if their answers grow beyond its memory."""
    speed = TokenSpeed(prefill=5000, decode=40, batch_slowdown=0.01)
    return SimulatedServer(latency=speed, kv_tokens=kv_tokens, answer_tokens=answer_tokens)


@pytest.mark.parametrize(
    ("server", "best", "items"),
    [
        pytest.param(batching(2000, 90), 20, 600, id="answers of one length, side by side"),
        pytest.param(batching(2000, 90), 20, 2500, id="many of them", marks=pytest.mark.slow),
        pytest.param(batching(2000, None), 40, 2500, id="answers that vary", marks=pytest.mark.slow),
        pytest.param(batching(8000, 80), 80, 2000, id="short answers", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("llm", [FakeLLM(), Vllm()], ids=["calls", "calls and tokens"])
def test_hardly_a_request_is_preempted_and_little_throughput_is_lost(
    llm: FakeLLM, server: SimulatedServer, best: int, items: int
) -> None:
    runner = BatchRunner(
        llm=llm,
        strategy=Strategy.stage(4),
        limits=Limits(llm=AdaptiveLimit(), open_items=1000),
        watch_server=2.0,
    )
    ours = runner.simulate(ask, range(items), server=server)
    fixed = simulated(server, best, items)  # the largest that preempts none

    assert fixed.server.preemptions == 0
    assert ours.server.preemptions <= 0.01 * items
    assert ours.seconds <= fixed.seconds / 0.95


@pytest.mark.slow
def test_a_servers_preemptions_are_counted_and_become_few() -> None:
    server = batching(2000, 90)
    flooded = simulated(server, 64, 600, watch_server=2.0)
    ours = simulated(server, AdaptiveLimit(), 600, watch_server=2.0)

    assert flooded.report.stats.servers["llm"].preemptions > 50 * ours.report.stats.servers["llm"].preemptions


@pytest.mark.sample(1)
@each_driver
def test_a_server_with_the_metrics_of_vllm_is_read_over_http(strategy: Strategy) -> None:
    faults = Faults(latency=0.03, max_running=2, kv_tokens=16_000)
    with FaultServer(faults) as server:
        runner = BatchRunner(
            llm=VLLMServerLLM(server.url), strategy=strategy, limits=Limits(llm=8), watch_server=0.02
        )
        with runner:
            report = runner.run(ask, range(24))
    said = report.stats.servers["llm"]

    assert len(report.results) == 24
    assert said.readings >= 2
    assert said.kv_tokens == 16_000
    if strategy.restaurant_async:
        assert (said.peak_running, said.peak_waiting) == (2, 6)
