"""What a call costs: functions that are called for it, which a shared limiter and a pool of one add little to."""

from __future__ import annotations

import cProfile
import pstats
from collections.abc import Callable
from time import monotonic
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from restaurant_llm_batch import BatchRunner, Limits, LLMRequest, LLMResponse, SharedLimiter, Strategy
from restaurant_llm_batch.backends import LLMPool
from restaurant_llm_batch.sharing._memory import MemoryBroker
from restaurant_llm_batch.steps import Flow, complete

CALLS = 300
REPLY = LLMResponse("text")
REQUEST = LLMRequest("ask", ({"role": "user", "content": "?"},))


class Instant:
    """Answers after one turn of the loop."""

    async def acomplete(self, request: LLMRequest, /) -> LLMResponse:
        await anyio.lowlevel.checkpoint()
        return REPLY


def ask(item: int) -> Flow[str]:
    reply = yield from complete(REQUEST)
    return reply.text


def functions_per_call(llm: Any, limits: Limits) -> float:
    """Return how many functions this thread calls for each call, those of C included."""
    runner = BatchRunner(llm=llm, strategy=Strategy.stage(4), limits=limits)
    profile = cProfile.Profile()

    async def main() -> None:
        await runner.arun(ask, range(20))
        profile.enable()
        await runner.arun(ask, range(CALLS))
        profile.disable()

    anyio.run(main)
    counted: Any = pstats.Stats(profile)
    return float(counted.total_calls) / CALLS


@pytest.mark.parametrize(
    ("most", "other"),
    [
        (6, lambda: (Instant(), Limits(llm=SharedLimiter("gpu", 8, broker=MemoryBroker(monotonic))))),
        (22, lambda: (LLMPool([Instant()], limits=8), Limits())),
    ],
    ids=["a shared limiter", "a pool of one"],
)
def test_a_call_takes_few_functions_more_than_through_a_limiter_alone(
    most: int, other: Callable[[], tuple[Any, Limits]]
) -> None:
    alone = functions_per_call(Instant(), Limits(llm=8))

    assert functions_per_call(*other()) <= alone + most
