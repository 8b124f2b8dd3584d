"""
The claims that the source service's documents make, reproduced with simulated latencies.

    python benchmarks/claims.py

Time is virtual, so the figures are exact and the same on every machine: blocking calls add to a clock, awaited
ones wait on trio's MockClock. `bound` is ceil(calls / slots) rounds on the longest path.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import ceil
from typing import Any

import anyio
import trio
import trio.testing

from restaurant_llm_batch import (
    BatchRunner,
    ExtractStrengths,
    Hit,
    Limits,
    LLMRequest,
    LLMResponse,
    SearchQuery,
    Strategy,
    SummarizeAspects,
    SummarizeReviews,
)
from restaurant_llm_batch.testing import answer_from_schema
from restaurant_llm_batch.tokens.kv import kv_cache_tokens, max_concurrent_sequences

QWEN = {"num_hidden_layers": 48, "num_key_value_heads": 8, "hidden_size": 5120, "num_attention_heads": 40}
WEIGHTS_GIB = 9.29
GPUS = {"24 GB": (24.0, "4-8"), "40 GB": (39.5, "8-16"), "80 GB": (79.2, "16-32")}
CHUNK = 3000
"""Tokens of a 2,000-token chunk with 500 of instructions and 500 of answer."""


class Simulated:
    """A search and a model that take their time on a virtual clock."""

    def __init__(self, search: float, llm: float) -> None:
        self.clock = 0.0
        self._seconds = {"search": search, "llm": llm}

    def search(self, query: SearchQuery) -> Sequence[Hit]:
        """Search, blocking."""
        self.clock += self._seconds["search"]
        return _hits(query)

    async def asearch(self, query: SearchQuery) -> Sequence[Hit]:
        """Search, awaited."""
        await anyio.sleep(self._seconds["search"])
        return _hits(query)

    def complete(self, request: LLMRequest) -> LLMResponse:
        """Answer, blocking."""
        self.clock += self._seconds["llm"]
        return _reply(request)

    async def acomplete(self, request: LLMRequest) -> LLMResponse:
        """Answer, awaited."""
        await anyio.sleep(self._seconds["llm"])
        return _reply(request)


def _hits(query: SearchQuery) -> list[Hit]:
    return [Hit("r", "맛있어요", 1.0, query.restaurant_id)]


def _reply(request: LLMRequest) -> LLMResponse:
    assert request.schema is not None
    return LLMResponse(json.dumps(answer_from_schema(request.schema)))


def seconds(
    task: Any, items: Sequence[Any], strategy: Strategy, *, search: float, llm: float, slots: int
) -> float:
    """Return how long a run takes, in simulated seconds."""
    service = Simulated(search, llm)
    runner = BatchRunner(
        llm=service, search=service, strategy=strategy, limits=Limits(llm=slots, batches=slots)
    )
    if not strategy.is_concurrent:
        runner.run(task, items).raise_for_failures()
        return service.clock

    async def main() -> float:
        began = trio.current_time()
        (await runner.arun(task, items)).raise_for_failures()
        return trio.current_time() - began

    return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def one_by_one(task: Any, items: Sequence[Any], **times: Any) -> float:
    """Return how long stage 1 takes."""
    return seconds(task, items, Strategy.stage(1), **times)


def side_by_side(task: Any, items: Sequence[Any], **times: Any) -> float:
    """Return how long stage 4 takes."""
    return seconds(task, items, Strategy.stage(4), **times)


def show(what: str, claim: str, before: float, after: float, bound: float) -> None:
    """Print one row."""
    print(f"{what:52} {claim:>14} {before:7.1f} -> {after:5.1f} s {bound:7.1f} s {1 - after / before:7.0%}")


def main() -> None:
    """Simulate and print."""
    print(f"{'what':52} {'claimed':>14} {'true':>18} {'bound':>9} {'saved':>7}")
    for number, claim in ((10, "50 -> 10 s"), (50, "250 -> 25 s"), (100, "500 -> 50 s")):
        items, times = range(number), {"search": 0.0, "llm": 5.0, "slots": 20}
        show(
            f"{number} restaurants, 5 s a call, 20 in flight",
            claim,
            one_by_one(SummarizeAspects(), items, **times),
            side_by_side(SummarizeAspects(), items, **times),
            ceil(number / 20) * 5.0,
        )
    reviews = [{"restaurant_id": n, "positive_reviews": ["맛있어요"]} for n in range(10)]
    for slots in (8, 20):
        times = {"search": 0.0, "llm": 6.0, "slots": slots}
        show(
            f"review summaries of 10, 6 s a call, {slots} in flight",
            "60 -> 12 s",
            one_by_one(SummarizeReviews(), reviews, **times),
            side_by_side(SummarizeReviews(), reviews, **times),
            ceil(10 / slots) * 6.0,
        )
    strengths = [
        {"target_restaurant_id": n, "target_reviews": ["맛있어요"], "comparison_reviews": [f"보통 {n}"]}
        for n in range(10)
    ]
    times = {"search": 0.0, "llm": 2.5, "slots": 20}
    show(
        "strengths of 10, two calls of 2.5 s, 20 in flight",
        "50 -> 5 s",
        one_by_one(ExtractStrengths(), strengths, **times),
        side_by_side(ExtractStrengths(), strengths, **times),
        5.0,
    )
    for search in (0.02, 0.1):
        for number, claim in ((1, "10-20 %"), (50, "50-80 %")):
            times = {"search": search, "llm": 0.5, "slots": 8}
            show(
                f"{number} restaurant(s), 3 searches of {search * 1000:.0f} ms, 500 ms a call",
                claim,
                one_by_one(SummarizeAspects(), range(number), **times),
                side_by_side(SummarizeAspects(), range(number), **times),
                ceil(number / 8) * 0.5 + search,
            )
    times = {"search": 0.0, "llm": 0.5, "slots": 8}
    before, after = (200 / way(SummarizeAspects(), range(200), **times) for way in (one_by_one, side_by_side))
    print(
        f"{'requests per second, 500 ms a call, 8 in flight':52} {'2 -> 10':>14} {before:7.1f} -> {after:5.1f}"
    )

    print(
        f"\nQwen2.5-14B-AWQ, sequences of {CHUNK} tokens that fit the KV cache, by overhead of 3 and 1.5 GiB"
    )
    for name, (gib, claim) in GPUS.items():
        low, high = (
            max_concurrent_sequences(
                kv_cache_tokens(QWEN, gib, weights_gib=WEIGHTS_GIB, overhead_gib=overhead), CHUNK
            )
            for overhead in (3.0, 1.5)
        )
        print(f"{name:52} {claim:>14} {low:7} to {high}")


if __name__ == "__main__":
    main()
