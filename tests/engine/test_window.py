"""The sliding window, by hypothesis, on a virtual clock."""

from __future__ import annotations

from typing import Any

import anyio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.examples import examples

from restaurant_llm_batch import BatchRunner, Limits, LLMRequest, LLMResponse, Strategy
from restaurant_llm_batch.events import ItemEnded, ItemStarted
from restaurant_llm_batch.steps import complete, gather, sleep


class Uneven:
    """A model whose calls take as long as they are told."""

    async def acomplete(self, request: LLMRequest) -> LLMResponse:
        await anyio.sleep(request.inputs["seconds"])
        return LLMResponse("done")


def flow(item: tuple[int, list[float]]) -> Any:
    """Ask once for each duration, side by side, then once more."""
    number, durations = item
    requests = [LLMRequest("t", (), inputs={"seconds": seconds}) for seconds in durations]
    yield from gather(*[complete(request) for request in requests])
    yield from sleep(0.5)
    yield from complete(LLMRequest("t", (), inputs={"seconds": 0.1}))
    return number


class Numbered(list[Any]):
    """An item that knows its id."""

    @property
    def id(self) -> int:
        number: int = self[0]
        return number


durations = st.lists(st.sampled_from([0.0, 0.1, 1.0, 7.0]), min_size=1, max_size=4)


@settings(max_examples=examples(40), deadline=None)
@given(st.lists(durations, max_size=25), st.integers(1, 8), st.integers(1, 6), st.booleans())
def test_never_more_open_than_the_window_and_the_next_is_let_in_when_one_ends(
    items: list[list[float]], window: int, slots: int, streamed: bool
) -> None:
    open_now = 0
    most_open = 0

    def watch(event: Any) -> None:
        nonlocal open_now, most_open
        open_now += isinstance(event, ItemStarted) - isinstance(event, ItemEnded)
        most_open = max(most_open, open_now)

    limits = Limits(llm=slots, open_items=window)
    runner = BatchRunner(llm=Uneven(), strategy=Strategy.stage(4), limits=limits, observers=[watch])
    entries = [Numbered([number, seconds]) for number, seconds in enumerate(items)]

    async def main() -> list[Any]:
        if not streamed:
            return list((await runner.arun(flow, iter(entries))).outcomes)
        async with runner:
            return [outcome async for outcome in runner.astream(flow, iter(entries))]

    clock = trio.testing.MockClock(autojump_threshold=0)
    outcomes = trio.run(main, clock=clock)

    assert open_now == 0
    assert most_open <= window
    assert most_open == min(window, len(items)) or streamed
    assert sorted(outcome.index for outcome in outcomes) == list(range(len(items)))
    assert all(outcome.ok for outcome in outcomes)
    statistics = runner._config.limiters.llm[0].statistics()
    assert statistics.peak <= slots
    assert (statistics.in_flight, statistics.waiting) == (0, 0)


class Noting:
    """A model that notes the order in which it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def acomplete(self, request: LLMRequest) -> LLMResponse:
        self.asked.append(request.task)
        await anyio.sleep(1)
        return LLMResponse("done")


def two_steps(number: int) -> Any:
    """Ask twice, one after the other."""
    yield from complete(LLMRequest(f"{number} first", ()))
    yield from complete(LLMRequest(f"{number} then", ()))


def asked(items: int, slots: int) -> list[str]:
    model = Noting()
    runner = BatchRunner(llm=model, strategy=Strategy.stage(4), limits=Limits(llm=slots))

    async def main() -> None:
        await runner.arun(two_steps, range(items))

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    return model.asked


def test_items_are_brought_to_their_end_in_order_of_arrival() -> None:
    assert asked(8, 1)[:10] == [f"{n} {step}" for n in range(5) for step in ("first", "then")]


def test_in_the_tail_of_a_run_those_with_the_longest_way_to_go_come_first() -> None:
    """Three items left for each slot: what has not begun would otherwise end the run alone, step after step."""
    assert asked(8, 1)[10:] == ["5 first", "6 first", "7 first", "5 then", "6 then", "7 then"]
    assert asked(4, 2) == [f"{n} {step}" for step in ("first", "then") for n in range(4)]


def many_then_one(number: int) -> Any:
    """Ask ten times side by side, then once more."""
    yield from gather(*(complete(LLMRequest(f"{number} first", ())) for _ in range(10)))
    yield from complete(LLMRequest(f"{number} then", ()))


def test_items_of_many_calls_finish_in_order_until_the_last_rounds() -> None:
    """A tail that went by items would put all the last steps of a short list to its end."""
    model = Noting()
    runner = BatchRunner(llm=model, strategy=Strategy.stage(4), limits=Limits(llm=4))

    async def main() -> None:
        await runner.arun(many_then_one, range(8))

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    last_steps = [place for place, task in enumerate(model.asked) if task.endswith("then")]

    assert [model.asked[place] for place in last_steps] == [f"{n} then" for n in range(8)]
    assert last_steps[0] < 20
    assert last_steps[4] < 64
