"""A call that has ended leaves no reference cycle: what its item had in hand is freed at once, not by a collection."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio.lowlevel
import pytest
from tests.support.run_methods import each_strategy

from restaurant_llm_batch import (
    AdaptiveLimit,
    BatchRunner,
    Client,
    Limits,
    LLMRequest,
    LLMResponse,
    RetryPolicy,
    Store,
    Strategy,
    errors,
)
from restaurant_llm_batch._engine.call import Call
from restaurant_llm_batch.backends import LLMPool
from restaurant_llm_batch.steps import Flow, complete, gather

ITEMS = 40
FEW = 15
"""Calls that a worker, or what is left of the run itself, may have in hand to the end."""


class Model:
    """Answers; a share of its calls fails first."""

    def __init__(self, fails: int) -> None:
        self.calls, self.fails = 0, fails

    def complete(self, request: LLMRequest) -> LLMResponse:
        self.calls += 1
        if self.fails and self.calls % self.fails == 0:
            raise errors.TransientBackendError("again")
        return LLMResponse("답", prompt_tokens=10, completion_tokens=1)

    async def acomplete(self, request: LLMRequest) -> LLMResponse:
        await anyio.lowlevel.checkpoint()
        return self.complete(request)


def ask(item: int) -> Flow[str]:
    """Ask a question of the item's own, and two that its neighbour asks too."""
    yield from one(f"{item}")
    texts = yield from gather(one(f"{item // 2} a"), one(f"{item // 2} b"))
    return f"{texts}"


def one(content: str) -> Flow[str]:
    request = LLMRequest("ask", ({"role": "user", "content": content},), max_tokens=5)
    return (yield from complete(request)).text


LIMITS = {
    "a number": Limits(llm=3),
    "several": Limits(llm=4, llm_total=3, tokens_in_flight=200),
    "per minute": Limits(llm=3, requests_per_minute=10**6, tokens_per_minute=10**8),
    "learned": Limits(llm=AdaptiveLimit(start=3, latency_factor=2.0)),
}


@pytest.fixture
def without_collections() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def calls_left() -> int:
    return sum(type(one) is Call for one in gc.get_objects())


@each_strategy
@pytest.mark.parametrize("fails", [0, 4], ids=["", "retries"])
@pytest.mark.parametrize("has_store", [False, True], ids=["", "a store"])
@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.usefixtures("without_collections")
def test_calls_are_freed_without_a_collection(
    strategy: Strategy, limits: str, has_store: bool, fails: int, tmp_path: Path
) -> None:
    llm: Any = Model(fails)
    if limits == "a number" and not has_store:
        llm = LLMPool([llm, Model(fails)], limits=2)
    retry = RetryPolicy(attempts=ITEMS, wait_initial=1e-6, wait_max=1e-6)
    before = calls_left()
    store = Store(tmp_path / "store.db") if has_store else None
    with BatchRunner(
        llm=llm,
        strategy=strategy,
        limits=LIMITS[limits] if not isinstance(llm, LLMPool) else Limits(),
        llm_retry=retry,
        store=store,
        count_tokens=len,
    ) as runner:
        report = runner.run(ask, range(ITEMS), client=Client("shop"))
    if store is not None:
        store.close()  # its writer has what it wrote last in hand

    assert not report.failures
    assert calls_left() - before <= FEW
