"""Packing under a runner's limits, by its counter."""

from __future__ import annotations

import threading
from itertools import pairwise
from typing import Any

import anyio
import pytest
from tests.support.run_methods import each_strategy

from restaurant_llm_batch import (
    BatchRunner,
    Limits,
    LLMRequest,
    LLMResponse,
    Strategy,
    errors,
    estimate_tokens,
)
from restaurant_llm_batch._engine.packer import BatchPacker
from restaurant_llm_batch.steps import Pack, complete, pack
from restaurant_llm_batch.testing import FakeLLM
from restaurant_llm_batch.tokens.packing import CHAT_TEMPLATE_OVERHEAD, SLICE, PackedText


def step(texts: list[str], **fields: Any) -> Pack:
    return Pack(tuple(texts), **{"render": lambda text: f"[9] {text}", "fixed_text": "12345", **fields})


def characters(limits: Limits) -> BatchPacker:
    return BatchPacker(limits, len)


def test_the_prompts_own_tokens_and_the_answers_belong_to_the_budget() -> None:
    budget = 5 + CHAT_TEMPLATE_OVERHEAD + 10 + 3 * (len("[9] text\n") + 2)
    batches = characters(Limits(max_tokens_per_batch=budget)).pack(
        step(["text"] * 7, answer_tokens=10, answer_tokens_each=2)
    )

    assert [[one.index for one in batch] for batch in batches] == [[0, 1, 2], [3, 4, 5], [6]]


def test_a_step_may_have_its_own_budget_and_size() -> None:
    packer = characters(Limits(max_tokens_per_batch=10_000, max_batch_size=60, default_batch_size=50))
    sizes = [len(batch) for batch in packer.pack(step(["t"] * 100))]
    assert sizes == [60, 40]
    assert [len(batch) for batch in packer.pack(step(["t"] * 5, max_texts=2))] == [2, 2, 1]
    assert len(packer.pack(step(["t"] * 5, max_tokens=5 + CHAT_TEMPLATE_OVERHEAD + 2 * len("[9] t\n")))) == 3


def test_a_text_too_long_for_any_batch_goes_alone_and_cut() -> None:
    batches = characters(Limits(max_tokens_per_batch=100)).pack(step(["a", "b" * 500, "c"]))

    assert [[one.truncated for one in batch] for batch in batches] == [[False], [True], [False]]
    assert len("[9] " + batches[1][0].text + "\n") + 5 + CHAT_TEMPLATE_OVERHEAD <= 100


def flow(item: int) -> Any:
    return (yield from pack(["a b", "c"], render=str, fixed_text="f", max_tokens=60))


class Service:
    """A counter that asks a service: it blocks, and notes where."""

    blocking = True

    def __init__(self) -> None:
        self.threads: set[int] = set()
        self.broken = False

    def __call__(self, text: str) -> int:
        self.threads.add(threading.get_ident())
        if self.broken:
            raise errors.TransientBackendError("no counting today")
        return len(text)


@each_strategy
def test_a_counter_that_blocks_is_called_in_worker_threads_where_there_is_a_loop(strategy: Strategy) -> None:
    count = Service()
    report = BatchRunner(llm=FakeLLM(), strategy=strategy, count_tokens=count).run(flow, [1, 2])

    assert report.results == [[[PackedText(0, "a b", False), PackedText(1, "c", False)]]] * 2
    here = threading.get_ident()
    assert count.threads == {here} if not strategy.is_concurrent else here not in count.threads
    assert report.stats.calls == {"tokens": 2}


def test_a_counting_service_that_fails_fails_the_item_at_that_stage() -> None:
    count = Service()
    count.broken = True
    (failure,) = BatchRunner(llm=FakeLLM(), count_tokens=count).run(flow, [1]).failures

    assert (failure.stage, failure.attempts, type(failure.error)) == (
        "tokens",
        3,
        errors.TransientBackendError,
    )


def test_a_counter_that_learns_is_reported_what_prompts_came_to() -> None:
    class Learning:
        def __init__(self) -> None:
            self.told: list[tuple[str, int]] = []

        def __call__(self, text: str) -> int:
            return len(text)

        def observe(self, text: str, tokens: int) -> None:
            self.told.append((text, tokens))

    def ask(item: int) -> Any:
        messages = ({"role": "system", "content": "s"}, {"role": "user", "content": str(item)})
        return (yield from complete(LLMRequest("ask", messages)))

    class Model:
        def complete(self, request: LLMRequest) -> LLMResponse:
            return LLMResponse("{}", prompt_tokens=7 if request.messages[1]["content"] == "1" else 0)

    count = Learning()
    BatchRunner(llm=Model(), count_tokens=count).run(ask, [1, 2])

    assert count.told == [("s\n1", 7)]


def test_a_counter_that_is_none_is_reported_at_once() -> None:
    with pytest.raises(errors.ConfigurationError, match="count_tokens=estimate_tokens"):
        BatchRunner(llm=FakeLLM(), count_tokens=4000)  # type: ignore[arg-type]


def test_the_frame_is_counted_once() -> None:
    counted: list[str] = []

    def count(text: str) -> int:
        counted.append(text)
        return estimate_tokens(text)

    packer = BatchPacker(Limits(), count)
    for _ in range(3):
        packer.pack(step(["text"]))

    assert counted.count("12345") == 1


MANY = [f"{number} " + "맛있어요 " * 20 for number in range(1000)]


def long_flow(item: int) -> Any:
    batches = yield from pack(MANY, render=str, fixed_text="f", max_tokens=900)
    return [[one.index for one in batch] for batch in batches]


@pytest.mark.sample(1)
@each_strategy
def test_a_long_list_is_packed_alike_in_slices(strategy: Strategy) -> None:
    packer = BatchPacker(Limits(), estimate_tokens)
    whole = packer.pack(Pack(tuple(MANY), str, "f", max_tokens=900))
    report = BatchRunner(llm=FakeLLM(), strategy=strategy).run(long_flow, [1, 2])
    assert report.results == [[[one.index for one in batch] for batch in whole]] * 2


@pytest.mark.anyio
async def test_others_have_their_turns_while_a_long_list_is_packed() -> None:
    turns: list[int] = []
    counted = 0

    def count(text: str) -> int:
        nonlocal counted
        counted += len(text)
        return len(text)

    async def others() -> None:
        while True:
            turns.append(counted)
            await anyio.lowlevel.checkpoint()

    runner = BatchRunner(llm=FakeLLM(), strategy=Strategy.stage(4), count_tokens=count)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(others)
        report = await runner.arun(long_flow, [1])
        tasks.cancel_scope.cancel()

    assert report.results
    pauses = [later - before for before, later in pairwise(turns)]
    assert max(pauses) <= 1.2 * SLICE
    assert max(turns) >= 10 * SLICE


def test_a_run_that_is_stopped_packs_no_further() -> None:
    counted = 0

    def count(text: str) -> int:
        nonlocal counted
        counted += 1
        if counted == 300:
            stream.stop("enough")
        return len(text)

    runner = BatchRunner(llm=FakeLLM(), strategy=Strategy.stage(1), count_tokens=count)
    stream = runner.stream(long_flow, [1])
    (outcome,) = list(stream)
    assert isinstance(outcome.error, errors.RunStopped)
    assert counted < 500
