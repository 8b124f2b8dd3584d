"""`SharedLimiter` in a runner: every strategy, at a file, and without a broker."""

from __future__ import annotations

import copy
import gc
import logging
import os
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import anyio
import pytest

from restaurant_llm_batch import (
    AdaptiveLimit,
    BatchRunner,
    Hit,
    Limits,
    LLMRequest,
    LLMResponse,
    SearchQuery,
    SharedLimiter,
    Strategy,
    errors,
)
from restaurant_llm_batch.events import LimitChanged
from restaurant_llm_batch.integrations._tally import ProgressState
from restaurant_llm_batch.sharing import Broker, BrokerUnavailable, FileBroker
from restaurant_llm_batch.sharing._memory import MemoryBroker
from restaurant_llm_batch.simulation import LogNormal, SimulatedServer, simulate_together
from restaurant_llm_batch.steps import Flow, complete, search_all
from tests.support.patience import wait_until

REQUEST = LLMRequest("ask", ({"role": "user", "content": "맛은?"},), max_tokens=10)
STRATEGIES = [Strategy.stage(1), Strategy.stage(2), Strategy.stage(3), Strategy.stage(4), Strategy.threaded()]
NAMES = ["1", "2", "3", "4", "threaded"]


class Model:
    """Answers after a moment, and counts the calls that it works on."""

    def __init__(self) -> None:
        self.peak = self.now = self.calls = 0
        self._lock = threading.Lock()

    def _enter(self) -> None:
        with self._lock:
            self.calls += 1
            self.now += 1
            self.peak = max(self.peak, self.now)

    def _leave(self) -> None:
        with self._lock:
            self.now -= 1

    def complete(self, request: LLMRequest) -> LLMResponse:
        self._enter()
        threading.Event().wait(0.002)
        self._leave()
        return LLMResponse("good")

    async def acomplete(self, request: LLMRequest) -> LLMResponse:
        self._enter()
        await anyio.sleep(0.002)
        self._leave()
        return LLMResponse("good")


def ask(item: int) -> Flow[str]:
    reply = yield from complete(REQUEST)
    return reply.text


class Faulty(Broker):
    """A broker in memory that does not answer while `gone` is set."""

    interval = 0.01

    def __init__(self) -> None:
        self.inner = MemoryBroker(lambda: 0.0)
        self.gone = ""
        self.messages = 0

    @property
    def place(self) -> str:
        return "memory:faulty"

    def perform(self, name: str, command: Any) -> Any:
        self.messages += 1
        if self.gone:
            raise BrokerUnavailable(self.gone)
        return self.inner.perform(name, command)

    def names(self) -> list[str]:
        return self.inner.names()


@pytest.mark.parametrize("strategy", STRATEGIES, ids=NAMES)
def test_every_strategy_runs_within_a_shared_limit(strategy: Strategy, tmp_path: Path) -> None:
    model = Model()
    gpu = SharedLimiter("gpu", 3, broker=FileBroker(tmp_path / "limits.db"))
    with BatchRunner(llm=model, strategy=strategy, limits=Limits(llm=gpu)) as runner:
        report = runner.run(ask, range(30))

    assert len(report.results) == 30
    assert 1 <= model.peak <= 3
    assert gpu.statistics().in_flight == 0
    assert gpu.broker.limits()["gpu"].members == ()  # closed with the runner: all slots have gone back


@pytest.mark.sample(1)
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_two_members_share_one_limit_on_any_event_loop(backend: str, tmp_path: Path) -> None:
    model = Model()
    place = tmp_path / "limits.db"
    runners = [
        BatchRunner(
            llm=model,
            strategy=Strategy.stage(4),
            limits=Limits(llm=SharedLimiter("gpu", 4, broker=FileBroker(place))),
        )
        for _ in range(2)
    ]

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            for runner in runners:
                tasks.start_soon(runner.arun, ask, range(60))
        for runner in runners:
            await runner.aclose()

    anyio.run(main, backend=backend)

    assert model.calls == 120
    assert model.peak <= 4


def test_two_runners_with_one_limiter_share_one_loan(tmp_path: Path) -> None:
    gpu = SharedLimiter("gpu", 2, broker=FileBroker(tmp_path / "limits.db"))
    model = Model()
    runners = [BatchRunner(llm=model, strategy=Strategy.threaded(), limits=Limits(llm=gpu)) for _ in range(2)]
    threads = [threading.Thread(target=runner.run, args=(ask, range(20))) for runner in runners]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert model.calls == 40
    assert model.peak <= 2


def test_a_simulation_plays_a_shared_limit_without_its_broker(tmp_path: Path) -> None:
    broker = Faulty()
    server = SimulatedServer(latency=LogNormal(median=0.5, sigma=0.3), slots=8, overload="refuse")

    def runner() -> BatchRunner:
        return BatchRunner(
            llm=Model(),
            strategy=Strategy.stage(4),
            limits=Limits(llm=SharedLimiter("gpu", 8, broker=broker)),
        )

    first = runner()
    messages = broker.messages
    simulation = first.simulate(ask, range(200), server=server)
    again = first.simulate(ask, range(200), server=server)
    plain = BatchRunner(llm=Model(), strategy=Strategy.stage(4), limits=Limits(llm=8))

    assert broker.messages == messages
    assert simulation.server.refused == 0
    assert simulation.server.peak == 8
    assert simulation.seconds == again.seconds
    assert simulation.seconds <= 1.1 * plain.simulate(ask, range(200), server=server).seconds


@pytest.mark.sample(1)
@pytest.mark.parametrize("field", ["llm", "llm_total", "search", "tokens_in_flight"])
def test_runners_that_are_simulated_together_share_the_limit_of_one_name(field: str) -> None:
    limit = 3000 if field == "tokens_in_flight" else 6
    server = SimulatedServer(latency=LogNormal(median=0.3, sigma=0.3), slots=50)

    def flow(item: int) -> Flow[int]:
        hits = yield from search_all([SearchQuery(item, "맛"), SearchQuery(item, "가격")])
        reply = yield from complete(REQUEST)
        return len(hits) + len(reply.text)

    limiters = [SharedLimiter("gpu", limit, broker=Faulty()) for _ in range(3)]
    runners = [
        BatchRunner(
            llm=Model(),
            search=Search(),
            strategy=Strategy.stage(4),
            limits=Limits(**{"llm": 40, field: limiter}),  # type: ignore[arg-type]
        )
        for limiter in limiters
    ]
    simulations = simulate_together([(runner, flow, range(60)) for runner in runners], server=server)
    again = simulate_together([(runner, flow, range(60)) for runner in runners], server=server)

    assert [each.seconds for each in simulations] == [each.seconds for each in again]
    assert all(len(each.report.results) == 60 for each in simulations)
    if field in ("llm", "llm_total"):
        assert simulations[0].server.peak == 6


class Search:
    """Finds nothing; the simulation makes the hits up."""

    async def asearch(self, query: SearchQuery) -> list[Hit]:
        return []

    async def asearch_many(self, queries: list[SearchQuery]) -> list[list[Hit]]:
        return [[] for _ in queries]


def test_limits_per_minute_are_kept_together(tmp_path: Path) -> None:
    place = FileBroker(tmp_path / "limits.db")
    limiters = [
        SharedLimiter("gpu", 50, broker=place, requests_per_minute=60_000, tokens_per_minute=10**8)
        for _ in range(2)
    ]
    model = Model()
    for gpu in limiters:
        runner = BatchRunner(llm=model, strategy=Strategy.stage(4), limits=Limits(llm=gpu))
        assert len(runner.run(ask, range(50)).results) == 50
    assert model.calls == 100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("", 8), "needs a name of 1 to 200 printable"),
        (("a" * 201, 8), "needs a name of 1 to 200 printable"),
        (("a\n", 8), "needs a name of 1 to 200 printable"),
        ((7, 8), "needs a name of 1 to 200 printable"),
        (("gpu", 0), "needs a limit of at least 1"),
        (("gpu", True), "needs a limit of at least 1"),
        (("gpu", 2.5), "needs a limit of at least 1"),
        (("gpu", None), "needs a limit of at least 1"),
    ],
)
def test_a_wrong_argument_is_refused_with_an_example(arguments: Any, message: str) -> None:
    with pytest.raises(errors.ConfigurationError, match=message):
        SharedLimiter(*arguments, broker=MemoryBroker(lambda: 0.0))


@pytest.mark.parametrize("broker", [None, "limits.db", 7])
def test_something_else_than_a_broker_is_refused(broker: Any) -> None:
    with pytest.raises(errors.ConfigurationError, match="needs a broker"):
        SharedLimiter("gpu", 8, broker=broker)


@pytest.mark.parametrize(
    "options",
    [{"requests_per_minute": 0}, {"tokens_per_minute": "x"}, {"without_broker": -1}, {"without_broker": 9}],
)
def test_a_wrong_option_is_refused(options: Any) -> None:
    with pytest.raises(errors.ConfigurationError, match=next(iter(options))):
        SharedLimiter("gpu", 8, broker=MemoryBroker(lambda: 0.0), **options)


def test_limits_per_minute_given_twice_are_refused() -> None:
    rated = SharedLimiter("gpu", 8, broker=MemoryBroker(lambda: 0.0), requests_per_minute=60)
    other = SharedLimiter("b", 8, broker=MemoryBroker(lambda: 0.0), tokens_per_minute=60)

    with pytest.raises(errors.ConfigurationError, match="more than once"):
        Limits(llm=rated, requests_per_minute=30)
    with pytest.raises(errors.ConfigurationError, match="more than once"):
        Limits(llm=rated, batches=other)
    with pytest.raises(errors.ConfigurationError, match="those of LLM calls"):
        Limits(search=rated)
    Limits(llm=rated, batches=rated)


def test_another_limit_than_the_others_declare_is_refused_before_any_call(tmp_path: Path) -> None:
    broker = FileBroker(tmp_path / "limits.db")
    BatchRunner(llm=Model(), limits=Limits(llm=SharedLimiter("gpu", 8, broker=broker)))

    with pytest.raises(errors.ConfigurationError, match="declare limit=8, not limit=16"):
        BatchRunner(llm=Model(), limits=Limits(llm=SharedLimiter("gpu", 16, broker=broker)))


def test_a_broker_that_does_not_answer_at_first_is_an_error_that_says_what_to_do() -> None:
    broker = Faulty()
    broker.gone = "connection refused"

    with pytest.raises(
        errors.ConfigurationError, match=r"connection refused; start it, or pass without_broker=1"
    ):
        BatchRunner(llm=Model(), limits=Limits(llm=SharedLimiter("gpu", 8, broker=broker)))


def test_who_wishes_it_goes_on_without_a_broker(caplog: pytest.LogCaptureFixture) -> None:
    broker, model = Faulty(), Model()
    broker.gone = "connection refused"
    gpu = SharedLimiter("gpu", 8, broker=broker, without_broker=2)
    with (
        caplog.at_level(logging.WARNING),
        BatchRunner(llm=model, strategy=Strategy.stage(4), limits=Limits(llm=gpu)) as runner,
    ):
        assert len(runner.run(ask, range(20)).results) == 20
        assert "uses 2 without it" in gpu.state

    assert model.peak == 2
    (record,) = caplog.records
    assert "does not answer, so this process goes on with 2" in record.message


def test_a_broker_that_goes_keeps_the_loan_then_stops_all_and_says_so_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    broker, model = Faulty(), Model()
    events: list[Any] = []
    gpu = SharedLimiter("gpu", 2, broker=broker)
    runner = BatchRunner(
        llm=model, strategy=Strategy.threaded(), limits=Limits(llm=gpu), observers=[events.append]
    )
    stop = threading.Event()

    def items() -> Any:
        while not stop.is_set():
            yield 1

    thread = threading.Thread(target=runner.run, args=(ask, items()))
    with caplog.at_level(logging.WARNING):
        thread.start()
        try:
            wait_until(lambda: model.calls > 10)
            broker.gone = "it is away"
            wait_until(lambda: "keeps 2 for" in gpu.state)
            calls = model.calls
            wait_until(lambda: model.calls > calls + 10)  # on its last share
            clock.seconds += 2.0
            wait_until(lambda: "starts nothing" in gpu.state and not gpu.statistics().in_flight)
            assert "it is away" in repr(gpu)
            calls = model.calls
            clock.seconds += 10.0
            wait_until(lambda: caplog.records)
            assert model.calls == calls
            broker.gone = ""
            wait_until(lambda: model.calls > calls + 10)
        finally:
            stop.set()
            broker.gone = ""
            thread.join()

    said = [record.message for record in caplog.records]
    assert len(said) == 2
    assert "starts nothing more until it does: it is away" in said[0]
    assert "answers again" in said[1]
    told = [(event.limit, event.reason) for event in events if isinstance(event, LimitChanged)]
    assert (0, "no_broker") in told
    assert told[-1] == (2, "share")


class Clock:
    """The clock of loans, which may be set forward."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds = 0.0
        monkeypatch.setattr("restaurant_llm_batch.sharing.limiter.loan_clock", lambda: self.now)

    def now(self) -> float:
        return self.seconds + monotonic()


def test_the_progress_says_that_a_broker_is_gone() -> None:
    state = ProgressState()
    state.handle(LimitChanged(1, 0.0, "llm", 0, "no_broker"), 0.0)
    assert state.waiting_for(1.0) == "no answer from the broker of the limit llm: starts nothing more"

    state.handle(LimitChanged(1, 0.0, "llm", 4, "share"), 2.0)
    assert state.waiting_for(3.0) is None


def test_setting_the_limit_sets_it_for_all(tmp_path: Path) -> None:
    broker = FileBroker(tmp_path / "limits.db")
    first, second = (SharedLimiter("gpu", 8, broker=broker) for _ in range(2))
    first.open()
    first.limit = 3

    wait_until(lambda: broker.limits()["gpu"].limit == 3)
    second.open()  # it declares 8, as the others did


def test_a_pickled_or_copied_limiter_is_another_member_of_the_limit(tmp_path: Path) -> None:
    gpu = SharedLimiter(
        "gpu",
        AdaptiveLimit(start=4),
        broker=FileBroker(tmp_path / "limits.db"),
        requests_per_minute=60,
        without_broker=1,
    )
    for twin in (pickle.loads(pickle.dumps(gpu)), copy.deepcopy(gpu)):
        assert twin.__reduce__()[1][:2] == ("gpu", AdaptiveLimit(start=4))
        assert twin.broker.place == gpu.broker.place
        twin.open()
        gpu.open()


def test_a_limiter_that_is_not_used_has_no_thread_and_can_be_collected(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    gpu = SharedLimiter("gpu", 8, broker=FileBroker(tmp_path / "limits.db"))
    gpu.open()
    assert set(threading.enumerate()) <= before  # a thread that an earlier test left may end meanwhile
    seen: list[Callable[[], Any]] = []
    import weakref

    seen.append(weakref.ref(gpu))
    del gpu
    gc.collect()
    assert seen[0]() is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_is_a_member_of_its_own(tmp_path: Path) -> None:
    broker = FileBroker(tmp_path / "limits.db")
    gpu = SharedLimiter("gpu", 3, broker=broker)
    model = Model()
    runner = BatchRunner(llm=model, limits=Limits(llm=gpu))
    runner.run(ask, range(3))
    child = os.fork()
    if not child:
        status = 1
        try:
            with runner:
                status = 0 if len(runner.run(ask, range(5)).results) == 5 else 2
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == 0
    assert len(runner.run(ask, range(3)).results) == 3
