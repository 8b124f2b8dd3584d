"""Limits hold per runner, across everything it is doing at once, and across runners that share a gate."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from tests.support.run_methods import each_strategy, strategy_name

from restaurant_llm_batch import (
    AdaptiveLimit,
    BatchRunner,
    ConcurrencyLimiter,
    Limits,
    LLMRequest,
    LLMResponse,
    RetryPolicy,
    Strategy,
    SummarizeAspects,
    errors,
)
from restaurant_llm_batch.steps import complete
from restaurant_llm_batch.testing import FakeLLM, FakeSearch
from restaurant_llm_batch.tokens.packing import CHAT_TEMPLATE_OVERHEAD

TASK = SummarizeAspects(mode="split")


def reviews(restaurant_id: object) -> list[str]:
    return ["맛있어요", "친절해요", "비싸요"]


def one_in_five(request: Any, attempt: int) -> Exception | None:
    """Refuse some calls once, so that slots are freed and taken again."""
    name = request.inputs["restaurant_id"]
    return errors.RateLimited("429") if name % 5 == 0 and attempt == 1 else None


def doubles() -> tuple[FakeSearch, FakeLLM]:
    return FakeSearch(reviews, seconds=0.001), FakeLLM(seconds=0.002, fault=one_in_five)


@pytest.mark.anyio
@each_strategy
@pytest.mark.sample(1)
async def test_ten_concurrent_aruns_share_the_runner_limits(strategy: Strategy) -> None:
    search, llm = doubles()
    limits = Limits(search=6, llm=3, open_items=20)
    quick = RetryPolicy(wait_initial=0.001)
    runner = BatchRunner(llm=llm, search=search, strategy=strategy, limits=limits, llm_retry=quick)
    reports: list[Any] = []

    async def request(first: int) -> None:
        reports.append(await runner.arun(TASK, range(first, first + 6)))

    async with anyio.create_task_group() as requests:
        for number in range(10):
            requests.start_soon(request, number * 100)

    assert sum(len(report.results) for report in reports) == 60
    assert 1 < llm.peak <= 3
    assert search.peak <= 6
    assert llm.in_flight == search.in_flight == 0


def test_threads_and_two_loops_share_one_runner() -> None:
    search, llm = doubles()
    gate = ConcurrencyLimiter(4)
    limits = Limits(search=5, llm=gate, open_items=20)
    quick = RetryPolicy(wait_initial=0.001)

    def make(strategy: Strategy) -> BatchRunner:
        return BatchRunner(llm=llm, search=search, strategy=strategy, limits=limits, llm_retry=quick)

    shared, threaded, blocking = make(Strategy.stage(4)), make(Strategy.threaded()), make(Strategy.stage(1))
    finished: list[int] = []

    def work(job: Callable[[], Any]) -> Callable[[], None]:
        return lambda: finished.append(len(job().results))

    jobs = [
        lambda: anyio.run(shared.arun, TASK, range(20)),
        lambda: anyio.run(shared.arun, TASK, range(20, 40), backend="trio"),
        lambda: shared.run(TASK, range(40, 60)),
        lambda: threaded.run(TASK, range(60, 80)),
        lambda: blocking.run(TASK, range(80, 85)),
        lambda: blocking.run(TASK, range(85, 90)),
    ]
    threads = [threading.Thread(target=work(job)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(finished) == [5, 5, 20, 20, 20, 20]
    assert 1 < llm.peak <= 4
    statistics = gate.statistics()
    assert (statistics.in_flight, statistics.waiting) == (0, 0)
    assert llm.peak <= statistics.peak <= 4


@pytest.mark.anyio
async def test_llm_total_caps_both_kinds_of_calls_together() -> None:
    from restaurant_llm_batch import LLMRequest
    from restaurant_llm_batch.steps import complete, gather

    llm = FakeLLM(seconds=0.002)
    limits = Limits(llm=4, batches=4, llm_total=5)
    runner = BatchRunner(llm=llm, strategy=Strategy.stage(4), limits=limits)

    def both(item: int) -> Any:
        request = LLMRequest("t", (), inputs={"item": item})
        yield from gather(complete(request), complete(request, limiter="batches"))
        return item

    report = await runner.arun(both, range(30))

    assert report.results == list(range(30))
    assert 1 < llm.peak <= 5


def test_several_searches_in_one_round_trip_take_one_slot_each() -> None:
    class Many(FakeSearch):
        def search_many(self, queries: Any) -> Any:
            sizes.append(len(queries))
            with self.call(len(queries)):
                return [self._answer(query) for query in queries]

    sizes: list[int] = []
    search = Many(reviews)
    limits = Limits(search=2)
    runner = BatchRunner(llm=FakeLLM(), search=search, strategy=Strategy.threaded(), limits=limits)
    report = runner.run(SummarizeAspects(), range(20))

    assert len(report.results) == 20
    assert max(sizes) == 2
    assert search.peak <= 2


@pytest.mark.parametrize("strategy", [Strategy.stage(4), Strategy.threaded()], ids=strategy_name)
def test_the_window_slides_and_the_input_is_read_lazily(strategy: Strategy) -> None:
    taken: list[int] = []

    def restaurants() -> Any:
        for number in range(100):
            taken.append(number)
            yield number

    limits = Limits(open_items=4)
    runner = BatchRunner(llm=FakeLLM(), search=FakeSearch(reviews), strategy=strategy, limits=limits)
    stream = runner.stream(SummarizeAspects(), restaurants())
    ahead = []
    for finished, _ in enumerate(stream, 1):
        ahead.append(len(taken) - finished)

    assert len(taken) == 100
    assert max(ahead) <= 4


def test_earlier_restaurants_finish_first() -> None:
    """Depth first: the overall call of restaurant 0 does not wait for the aspect calls of restaurant 49."""
    limits = Limits(llm=4, open_items=50)
    llm, search = FakeLLM(seconds=0.002), FakeSearch(reviews)
    runner = BatchRunner(llm=llm, search=search, strategy=Strategy.stage(4), limits=limits)
    order = [outcome.index for outcome in runner.stream(TASK, range(50))]

    assert all(abs(place - index) <= 8 for place, index in enumerate(order))


def test_an_urgent_item_goes_first() -> None:
    items = [{"restaurant_id": number, "priority": 0 if number == 19 else 1} for number in range(20)]
    limits = Limits(llm=1, search=50)
    asked: list[Any] = []
    runner = BatchRunner(
        llm=FakeLLM(seconds=0.002, requests=asked),
        search=FakeSearch(reviews),
        strategy=Strategy.stage(4),
        limits=limits,
    )
    runner.run(TASK, items)
    urgent = [place for place, request in enumerate(asked) if request.inputs["restaurant_id"] == 19]

    # One call may already be in flight; all four of the urgent restaurant's come right after it.
    assert max(urgent) <= 5
    assert {request.priority for request in asked if request.inputs["restaurant_id"] == 19} == {0}


class TokenMeter:
    """A model that adds up the tokens of what it is asked at once."""

    def __init__(self) -> None:
        self.in_flight = self.peak = self.calls = self.most_calls = 0
        self.alone = True
        self._lock = threading.Lock()

    def _enter(self, request: LLMRequest, sign: int) -> None:
        tokens = len(request.messages[0]["content"]) + request.max_tokens + CHAT_TEMPLATE_OVERHEAD
        with self._lock:
            self.in_flight += sign * tokens
            self.calls += sign
            self.peak = max(self.peak, self.in_flight if self.calls > 1 else 0)
            self.most_calls = max(self.most_calls, self.calls)
            self.alone &= sign < 0 or tokens <= 1000 or self.calls == 1

    def complete(self, request: LLMRequest) -> LLMResponse:
        self._enter(request, 1)
        time.sleep(0.001)
        self._enter(request, -1)
        return LLMResponse("")

    async def acomplete(self, request: LLMRequest) -> LLMResponse:
        self._enter(request, 1)
        await anyio.sleep(0.001)
        self._enter(request, -1)
        return LLMResponse("")


@pytest.mark.parametrize("gate", [False, True])
@each_strategy
def test_tokens_in_flight_are_capped_and_a_call_larger_than_the_cap_goes_alone(
    strategy: Strategy, gate: bool
) -> None:
    def ask(item: int) -> Any:
        length = 2000 if item == 17 else item * 37 % 300
        return (
            yield from complete(LLMRequest("t", ({"role": "user", "content": "x" * length},), max_tokens=50))
        )

    model = TokenMeter()
    limits = Limits(llm=50, batches=50, tokens_in_flight=ConcurrencyLimiter(1000) if gate else 1000)
    report = BatchRunner(llm=model, strategy=strategy, limits=limits, count_tokens=len).run(ask, range(40))

    assert len(report.results) == 40
    assert model.peak <= 1000
    assert model.alone
    assert model.most_calls > 1 if strategy.restaurant_async else model.most_calls == 1


def test_tokens_in_flight_take_a_number_or_a_limiter() -> None:
    with pytest.raises(errors.ConfigurationError, match=r"Limits\.tokens_in_flight"):
        Limits(tokens_in_flight=AdaptiveLimit())  # type: ignore[arg-type]


class _LateThreads(ConcurrencyLimiter):
    """A limiter to which the threads that made calls give slots back only after the run has ended."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.callers: set[int] = set()
        self.ended = threading.Event()

    def release(self, *args: Any, **options: Any) -> None:
        if threading.get_ident() in self.callers:
            assert self.ended.wait(60)
        super().release(*args, **options)


@pytest.mark.parametrize(
    "strategy", [Strategy.stage(2), Strategy.stage(3), Strategy.threaded()], ids=strategy_name
)
def test_a_run_that_has_ended_holds_no_slot_even_if_its_threads_are_late(strategy: Strategy) -> None:
    gate = _LateThreads(20)

    class Blocking:
        def complete(self, request: LLMRequest) -> LLMResponse:
            gate.callers.add(threading.get_ident())
            return LLMResponse("good")

    def ask(item: int) -> Any:
        reply = yield from complete(LLMRequest("ask", ({"role": "user", "content": "맛은?"},)))
        return reply.text

    runner = BatchRunner(llm=Blocking(), strategy=strategy, limits=Limits(llm=gate, open_items=2))
    try:
        report = runner.run(ask, range(10))
        assert len(report.results) == 10
        assert gate.statistics().in_flight == 0
    finally:
        gate.ended.set()
    runner.close()
    assert gate.statistics().in_flight == 0  # nothing was given back twice
