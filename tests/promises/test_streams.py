"""Streams end when they are left, take nothing down with them, and give every outcome once."""

from __future__ import annotations

import gc
import threading
from typing import Any

import anyio
import pytest
import trio.testing
from blockbuster import BlockBuster
from tests.support.patience import PATIENCE
from tests.support.run_methods import STRATEGIES, each_strategy, strategies, strategy_name

from restaurant_llm_batch import BatchRunner, Limits, LLMRequest, Strategy, SummarizeAspects, errors
from restaurant_llm_batch.events import Event, RunEnded
from restaurant_llm_batch.steps import complete
from restaurant_llm_batch.testing import FakeLLM, FakeSearch

pytestmark = pytest.mark.anyio
CONCURRENT = [strategy for strategy in STRATEGIES if strategy.is_concurrent]


def reviews(restaurant_id: object) -> list[str]:
    return ["맛있어요", "친절해요"]


def make(strategy: Strategy, seconds: float = 0.0) -> tuple[BatchRunner, FakeLLM]:
    llm = FakeLLM(seconds=seconds)
    limits = Limits(llm=4, open_items=8)
    return BatchRunner(llm=llm, search=FakeSearch(reviews), strategy=strategy, limits=limits), llm


@pytest.mark.sample(2)
@each_strategy
async def test_breaking_out_of_astream_ends_its_run_and_nothing_else(strategy: Strategy) -> None:
    runner, llm = make(strategy)
    async with runner:
        taken = 0
        async for outcome in runner.astream(SummarizeAspects(), range(1000)):
            assert outcome.ok
            taken += 1
            if taken == 3:
                break
        calls = llm.calls
        after = [outcome async for outcome in runner.astream(SummarizeAspects(), range(5))]

    assert taken == 3
    assert calls < 60
    assert len(after) == 5
    assert llm.in_flight == 0


async def test_the_callers_own_task_is_not_cancelled_by_a_break() -> None:
    runner, _ = make(Strategy.stage(4), seconds=0.001)
    async with runner:
        async for _ in runner.astream(SummarizeAspects(), range(100)):
            break
        for _ in range(20):
            await anyio.lowlevel.checkpoint()  # would raise if a cancellation had leaked
        alive = True

    assert alive


@pytest.mark.sample(1)
async def test_collecting_an_abandoned_iterator_cancels_its_calls() -> None:
    runner, llm = make(Strategy.stage(4), seconds=30)
    async with runner:
        stream = runner.astream(SummarizeAspects(), range(10))
        with anyio.move_on_after(0.05):
            await anext(stream)
        assert llm.in_flight == 4
        del stream
        gc.collect()
        with anyio.fail_after(PATIENCE):
            while llm.in_flight:
                await anyio.lowlevel.checkpoint()

    assert llm.cancelled == 4


async def test_aclose_waits_until_nothing_is_in_flight() -> None:
    runner, llm = make(Strategy.stage(4), seconds=30)
    async with runner:
        stream = runner.astream(SummarizeAspects(), range(10))
        with anyio.move_on_after(0.05):
            await anext(stream)
        await stream.aclose()

        assert llm.in_flight == 0
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


async def test_closing_and_stopping_before_the_first_outcome_begin_nothing() -> None:
    runner, llm = make(Strategy.stage(4))
    async with runner:
        closed = runner.astream(SummarizeAspects(), range(5))
        await closed.aclose()
        stopped = runner.astream(SummarizeAspects(), range(5))
        stopped.stop()
        outcomes = [o async for o in closed] + [o async for o in stopped]

    assert outcomes == []
    assert llm.calls == 0


async def test_a_stream_whose_run_could_not_begin_ends_when_it_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runner, llm = make(Strategy.stage(4))
    async with runner:
        stream: Any = runner.astream(SummarizeAspects(), range(5))

        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt), anyio.fail_after(PATIENCE):
            patched.setattr(stream._tasks, "start_soon", interrupted)
            await anext(stream)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
    assert llm.calls == 0


async def test_a_stream_begun_after_its_block_says_what_to_do() -> None:
    runner, _ = make(Strategy.stage(4))
    async with runner:
        stream = runner.astream(SummarizeAspects(), range(5))

    with pytest.raises(errors.ConfigurationError, match="read the stream inside it"):
        await anext(stream)


async def test_astream_needs_an_open_runner() -> None:
    runner, llm = make(Strategy.stage(4))

    with pytest.raises(errors.ConfigurationError, match="async with runner"):
        runner.astream(SummarizeAspects(), [1])
    assert llm.calls == 0


async def test_an_exception_in_the_block_leaves_as_itself_and_ends_the_streams() -> None:
    runner, llm = make(Strategy.stage(4), seconds=30)

    with pytest.raises(ZeroDivisionError):
        async with runner:
            stream = runner.astream(SummarizeAspects(), range(10))
            with anyio.move_on_after(0.05):
                await anext(stream)
            raise ZeroDivisionError

    assert llm.in_flight == 0


async def test_a_stream_outlived_by_its_runner_says_so() -> None:
    runner, _ = make(Strategy.stage(4), seconds=30)
    async with runner:
        stream = runner.astream(SummarizeAspects(), range(10))
        with anyio.move_on_after(0.05):
            await anext(stream)

    left = []
    with pytest.raises(errors.RunStopped, match="runner was closed"):
        while True:
            left.append(await anext(stream))
    assert [type(outcome.error) for outcome in left if not outcome.ok] == [errors.RunStopped] * 8


async def test_a_slow_reader_holds_the_input_back() -> None:
    runner, _ = make(Strategy.stage(4))
    taken: list[int] = []

    def restaurants() -> Any:
        for number in range(1000):
            taken.append(number)
            yield number

    async with runner:
        stream = runner.astream(SummarizeAspects(), restaurants())
        await anext(stream)
        for _ in range(200):
            await anyio.lowlevel.checkpoint()

        assert len(taken) <= 9
        await stream.aclose()


async def test_cancelling_arun_cancels_its_calls() -> None:
    runner, llm = make(Strategy.stage(4), seconds=30)
    with anyio.move_on_after(0.05):
        await runner.arun(SummarizeAspects(), range(10))

    assert (llm.in_flight, llm.cancelled) == (0, 4)
    assert runner._config.limiters.llm[0].statistics().in_flight == 0
    assert runner._config.limiters.llm[0].statistics().waiting == 0


@pytest.mark.parametrize("strategy", strategies(CONCURRENT))
@pytest.mark.sample(1)
async def test_the_loop_is_never_blocked(strategy: Strategy, nothing_blocks: BlockBuster) -> None:
    runner, _ = make(strategy, seconds=0.001)
    report = await runner.arun(SummarizeAspects(mode="split"), range(12))
    async with runner:
        streamed = [outcome async for outcome in runner.astream(SummarizeAspects(), range(12))]

    assert len(report.results) == len(streamed) == 12


@pytest.mark.sample(1)
async def test_a_call_that_takes_no_time_does_not_keep_the_loop_to_itself() -> None:
    runner, _ = make(Strategy.stage(4))
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(other)
        await runner.arun(SummarizeAspects(), range(500))
        tasks.cancel_scope.cancel()

    assert turns > 5


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # on trio, only trio can make a Cancelled
async def test_a_backend_that_cancels_itself_fails_its_item_only() -> None:
    class Confused(FakeLLM):
        async def acomplete(self, request: Any) -> Any:
            if request.inputs["restaurant_id"] == 1:
                raise anyio.get_cancelled_exc_class()
            return await super().acomplete(request)

    runner = BatchRunner(llm=Confused(), search=FakeSearch(reviews), strategy=Strategy.stage(4))
    report = await runner.arun(SummarizeAspects(), range(3))

    assert [type(failure.error) for failure in report.failures] == [RuntimeError]
    assert len(report.results) == 2


def test_an_hour_of_retries_takes_no_time_on_a_virtual_clock() -> None:
    from restaurant_llm_batch import RetryPolicy

    def fault(request: Any, attempt: int) -> Exception | None:
        return errors.RateLimited("429", retry_after=3600) if attempt == 1 else None

    llm = FakeLLM(fault=fault, seconds=60)
    runner = BatchRunner(
        llm=llm,
        search=FakeSearch(reviews),
        strategy=Strategy.stage(4),
        llm_retry=RetryPolicy(attempts=1, wait_max=7200),
    )

    async def main() -> tuple[int, float]:
        report = await runner.arun(SummarizeAspects(), range(3))
        return len(report.results), anyio.current_time() - started

    started = 0.0
    clock = trio.testing.MockClock(autojump_threshold=0)

    async def timed() -> tuple[int, float]:
        nonlocal started
        started = anyio.current_time()
        return await main()

    done, seconds = trio.run(timed, clock=clock)

    assert done == 3
    assert 3600 + 120 <= seconds < 5000


@pytest.mark.parametrize(
    "strategy", [Strategy.stage(2), Strategy.stage(4), Strategy.threaded()], ids=strategy_name
)
@pytest.mark.sample(1)
def test_a_stream_that_another_thread_closes_ends_for_its_reader(strategy: Strategy) -> None:
    ended: list[Event] = []

    def watch(event: Event) -> None:
        if isinstance(event, RunEnded):
            ended.append(event)

    llm = FakeLLM(seconds=0.01)
    with BatchRunner(llm=llm, strategy=strategy, observers=[watch]) as runner:
        for number in range(60):
            stream = runner.stream(lambda item: complete(LLMRequest("t", ())), iter(range(50)))
            closing = threading.Timer(0.002 * (number % 9), stream.close)
            closing.start()
            for _ in stream:
                pass
            closing.join()

    assert len(ended) == len({event.run for event in ended})
