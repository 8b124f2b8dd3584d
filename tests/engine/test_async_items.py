"""Items of an async iterable: read when there is room for them, closed at the end, and otherwise as any others."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from tests.support.patience import PATIENCE
from tests.support.run_methods import STRATEGIES, each_strategy

from restaurant_llm_batch import BatchRunner, Limits, LLMRequest, Strategy, errors
from restaurant_llm_batch.events import ItemStarted, RunEnded
from restaurant_llm_batch.steps import Flow, complete
from restaurant_llm_batch.testing import FakeLLM

pytestmark = pytest.mark.anyio


def ask(item: Any) -> Flow[str]:
    return (yield from complete(LLMRequest("t", (), inputs={"item": str(item)}))).text


class Rows:
    """An async generator that records what becomes of it."""

    def __init__(
        self, items: Any, pause: Callable[[Any], Any] | None = None, end: BaseException | None = None
    ):
        self.items = items
        self.pause = pause
        self.end = end
        self.read = 0
        self.closed: str | None = None

    async def __aiter__(self) -> AsyncIterator[Any]:
        try:
            for item in self.items:
                self.read += 1
                if self.pause is not None:
                    await self.pause(item)
                yield item
            if self.end is not None:
                raise self.end
        finally:
            await anyio.lowlevel.cancel_shielded_checkpoint()
            self.closed = anyio.get_current_task().name or "here"


def make(strategy: Strategy = STRATEGIES[-1], open_items: int = 4, **arguments: Any) -> BatchRunner:
    return BatchRunner(llm=FakeLLM(), strategy=strategy, limits=Limits(open_items=open_items), **arguments)


async def until(condition: Callable[[], object]) -> None:
    with anyio.fail_after(PATIENCE):
        while not condition():
            await anyio.sleep(0.001)


def shown(outcomes: Any) -> list[Any]:
    return [(one.index, one.item_id, one.ok, "" if one.ok else str(one.error)) for one in outcomes]


@each_strategy
async def test_the_report_is_that_of_a_plain_iterator(strategy: Strategy) -> None:
    items = [3, "가게", {"no": "id"}, 1, None, {"id": 9}, 7]
    async with make(strategy, open_items=2) as runner:
        plain = await runner.arun(ask, iter(items))
        rows = Rows(items)
        awaited = await runner.arun(ask, rows)
        streamed = [outcome async for outcome in runner.astream(ask, Rows(items))]

    assert shown(awaited) == shown(plain)
    assert sorted(shown(streamed)) == shown(plain)
    assert [one.ok for one in awaited] == [True, True, False, True, False, True, True]
    assert rows.closed


async def test_an_id_is_a_duplicate_while_another_item_of_it_is_open() -> None:
    asked = anyio.Event()

    class Slow(FakeLLM):
        async def acomplete(self, request: LLMRequest) -> Any:
            await asked.wait()
            return await super().acomplete(request)

    async def rows() -> AsyncIterator[int]:
        yield 1
        yield 1
        asked.set()
        await until(lambda: runner_llm.calls == 1)
        yield 2

    runner_llm = Slow()
    report = await BatchRunner(llm=runner_llm, strategy=Strategy.stage(4)).arun(ask, rows())

    assert [one.ok for one in report] == [True, False, True]
    assert "duplicate id 1" in str(report.failures[0])


async def test_items_are_read_only_when_the_window_has_room() -> None:
    rows = Rows(range(100))
    async with make(open_items=3) as runner:
        taken = 0
        async for _ in runner.astream(ask, rows):
            taken += 1
            for _ in range(50):
                await anyio.lowlevel.checkpoint()
            assert rows.read <= taken + 3
            if taken == 20:
                break
        await until(lambda: rows.closed)
    assert rows.read <= 24


async def test_calls_go_on_and_outcomes_come_while_the_next_item_is_awaited() -> None:
    more = anyio.Event()
    rows = Rows(range(4), lambda item: more.wait() if item == 2 else anyio.lowlevel.checkpoint())
    async with make() as runner:
        stream = runner.astream(ask, rows)
        first = [(await anext(stream)).item_id for _ in range(2)]
        more.set()
        rest = [outcome.item_id async for outcome in stream]

    assert (set(first), set(rest)) == ({0, 1}, {2, 3})


async def test_an_iterable_that_never_waits_lets_other_tasks_run() -> None:
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await anyio.lowlevel.checkpoint()

    def no_call(item: int) -> Flow[int]:
        return item
        yield from ()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(others)
        report = await make().arun(no_call, Rows(range(300)))
        tasks.cancel_scope.cancel()

    assert report.results == list(range(300))
    assert turns >= 300


@each_strategy
async def test_an_exception_of_the_iterable_leaves_with_the_report_of_what_was_read(
    strategy: Strategy,
) -> None:
    rows = Rows(range(5), end=OSError("the database went away"))
    with pytest.raises(OSError, match="the database went away") as caught:
        await make(strategy, open_items=2).arun(ask, rows)

    assert [one.ok for one in caught.value.report] == [True] * 5  # type: ignore[attr-defined]
    assert rows.closed


async def test_an_exception_of_the_iterable_ends_a_stream_after_its_outcomes() -> None:
    got: set[Any] = set(range(5))
    async with make() as runner:
        with pytest.raises(OSError, match="gone"):
            async for outcome in runner.astream(ask, Rows(range(5), end=OSError("gone"))):
                got.remove(outcome.item_id)
    assert not got


async def test_an_exit_in_the_iterable_ends_the_run_at_once_with_its_report() -> None:
    events: list[Any] = []
    rows = Rows(range(3), end=SystemExit(3))
    with pytest.raises(SystemExit) as caught:
        await make(observers=[events.append]).arun(ask, rows)

    assert [one.index for one in caught.value.report] == [0, 1, 2]  # type: ignore[attr-defined]
    assert sum(isinstance(event, RunEnded) for event in events) == 1


async def test_an_iterable_that_is_cancelled_from_inside_is_an_error_and_no_cancellation(
    anyio_backend: str,
) -> None:
    if anyio_backend == "trio":
        pytest.skip("only trio makes its Cancelled")
    import asyncio

    async def rows() -> AsyncIterator[int]:
        yield 1
        raise asyncio.CancelledError

    with pytest.raises(RuntimeError, match="cancelled itself") as caught:
        await make().arun(ask, rows())
    assert len(caught.value.report) == 1  # type: ignore[attr-defined]


async def test_cancelling_arun_closes_the_iterable_on_its_loop() -> None:
    rows = Rows(range(9), lambda item: anyio.sleep_forever() if item == 2 else anyio.lowlevel.checkpoint())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(make().arun, ask, rows)
        await until(lambda: rows.read == 3)
        tasks.cancel_scope.cancel()
    assert rows.closed


async def test_a_full_window_keeps_no_iterable_open_after_a_cancellation() -> None:
    started: list[Any] = []

    class Stuck(FakeLLM):
        async def acomplete(self, request: LLMRequest) -> Any:
            await anyio.sleep_forever()

    rows = Rows(range(9))
    runner = BatchRunner(
        llm=Stuck(), strategy=Strategy.stage(4), limits=Limits(open_items=2), observers=[started.append]
    )
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(runner.arun, ask, rows)
        await until(lambda: sum(isinstance(event, ItemStarted) for event in started) == 2)
        tasks.cancel_scope.cancel()
    assert (rows.read, bool(rows.closed)) == (2, True)


@pytest.mark.parametrize("way", ["break", "aclose", "block"])
async def test_leaving_a_stream_closes_the_iterable(way: str) -> None:
    rows = Rows(range(99))
    async with make() as runner:
        stream = runner.astream(ask, rows)
        async for _ in stream:
            break
        if way == "aclose":
            await stream.aclose()
            assert rows.closed
        if way == "break":
            del stream
            await until(lambda: rows.closed)
    assert rows.closed


async def test_after_a_stop_what_was_read_has_an_outcome_and_the_iterable_is_closed() -> None:
    go_on = anyio.Event()
    rows = Rows(range(9), lambda item: go_on.wait() if item == 2 else anyio.lowlevel.checkpoint())
    late = anyio.Event()

    class Held(FakeLLM):
        async def acomplete(self, request: LLMRequest) -> Any:
            await late.wait()
            return await super().acomplete(request)

    async with BatchRunner(llm=Held(), strategy=Strategy.stage(4)) as runner:
        stream = runner.astream(ask, rows)
        got: list[Any] = []

        async def read() -> None:
            got.extend([outcome async for outcome in stream])

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            await until(lambda: rows.read == 3)
            stream.stop()
            go_on.set()  # the item that is awaited arrives after the stop
            for _ in range(20):
                await anyio.lowlevel.checkpoint()
            late.set()

    assert [one.index for one in sorted(got, key=lambda one: one.index)] == [0, 1, 2]
    assert [one.ok for one in sorted(got, key=lambda one: one.index)] == [True, True, False]
    assert stream.stats.succeeded + stream.stats.failed == 3
    assert rows.closed


async def test_a_stopped_run_does_not_wait_for_an_item_that_never_comes() -> None:
    rows = Rows(range(9), lambda item: anyio.sleep_forever() if item == 1 else anyio.lowlevel.checkpoint())
    async with make() as runner:
        stream = runner.astream(ask, rows)
        assert (await anext(stream)).ok
        stream.stop()
        with anyio.fail_after(PATIENCE):
            assert [outcome async for outcome in stream] == []
    assert rows.closed


async def test_a_cancel_scope_of_the_iterable_may_span_its_items() -> None:
    async def rows() -> AsyncIterator[int]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.sleep_forever)
            with anyio.move_on_after(PATIENCE):
                for number in range(5):
                    await anyio.lowlevel.checkpoint()
                    yield number
            tasks.cancel_scope.cancel()

    async with make(open_items=2) as runner:
        assert len(await runner.arun(ask, rows())) == 5
        async for _ in runner.astream(ask, rows()):
            break
        await anyio.lowlevel.checkpoint()  # no cancellation leaks


async def test_an_iterator_without_aclose_will_do() -> None:
    class Received:
        def __init__(self) -> None:
            self.left = 3

        def __aiter__(self) -> Received:
            return self

        async def __anext__(self) -> int:
            self.left -= 1
            if self.left < 0:
                raise StopAsyncIteration
            return self.left

    assert len(await make().arun(ask, Received())) == 3


async def test_what_is_both_plain_and_async_is_awaited_on_a_loop_and_iterated_elsewhere() -> None:
    class Both(Rows):
        def __iter__(self) -> Any:
            return iter([7, 8])

    both = Both([1])
    assert [one.item_id for one in await make().arun(ask, both)] == [1]
    assert [one.item_id for one in make(Strategy.stage(1)).run(ask, both)] == [7, 8]


@each_strategy
@pytest.mark.parametrize("method", ["run", "stream"])
def test_blocking_methods_name_the_ones_that_await_items(strategy: Strategy, method: str) -> None:
    with pytest.raises(
        errors.ConfigurationError, match=r"Rows is an async iterable; use `await runner\.arun"
    ):
        getattr(make(strategy), method)(ask, Rows([1]))


async def test_what_has_to_be_called_or_awaited_first_is_said_so() -> None:
    async def rows() -> AsyncIterator[int]:
        yield 1

    async def listed() -> list[int]:
        return [1]

    with pytest.raises(errors.ConfigurationError, match=r"got function; for example items=rows\(\)"):
        await make().arun(ask, rows)  # type: ignore[arg-type]
    found = listed()
    with pytest.raises(errors.ConfigurationError, match="got coroutine; for example items=await"):
        await make().arun(ask, found)  # type: ignore[arg-type]
    assert await found == [1]
