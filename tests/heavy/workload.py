"""The main job in a size for two cores, and requests of a known length."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from importlib.resources import files
from typing import Any

from restaurant_llm_batch import LLMRequest, LLMResponse, RetryPolicy, SummarizeAspects
from restaurant_llm_batch.search import EmbeddedSearch

TASK = SummarizeAspects(limit=1, max_tokens=300, temperature=0.0, language="auto")
"""The main job; greedy, so that the same prompt has the same answer."""

PATIENT = RetryPolicy(attempts=60, wait_initial=0.05, wait_max=0.5)


@cache
def sample(mark: str = "") -> tuple[EmbeddedSearch, list[str]]:
    """Return a search among the 50 restaurants that are shipped, and their ids; reviews begin with the mark."""
    search, restaurants = EmbeddedSearch(), []
    text = (files("restaurant_llm_batch") / "data" / "sample_reviews.jsonl").read_text(encoding="utf-8")
    for line in text.splitlines():
        restaurant = json.loads(line)
        restaurants.append(restaurant["restaurant_id"])
        search.index_reviews(
            {
                "restaurant_id": restaurant["restaurant_id"],
                "review_id": review["review_id"],
                "content": f"{mark} {review['content']}".strip()[:200],
            }
            for review in restaurant["reviews"]
        )
    return search, restaurants


def bounded(schema: Any) -> Any:
    """Return a schema whose strings and lists are short: a model of random numbers finds no end by itself."""
    if isinstance(schema, Mapping):
        limits = {
            "string": {"maxLength": 12},
            "array": {"maxItems": 2},
            "integer": {"minimum": 0, "maximum": 3},
        }
        kind = schema.get("type")
        shorter = {key: bounded(value) for key, value in schema.items()}
        return {**shorter, **limits.get(kind if isinstance(kind, str) else "", {})}
    return schema


class Bounded:
    """A backend whose answers are kept short."""

    def __init__(self, llm: Any) -> None:
        self.llm = llm

    def complete(self, request: LLMRequest, /) -> LLMResponse:
        reply: LLMResponse = self.llm.complete(replace(request, schema=bounded(request.schema)))
        return reply

    async def acomplete(self, request: LLMRequest, /) -> LLMResponse:
        reply: LLMResponse = await self.llm.acomplete(replace(request, schema=bounded(request.schema)))
        return reply

    def close(self) -> None:
        self.llm.close()

    async def aclose(self) -> None:
        await self.llm.aclose()


def free(words: str = "맛", *, tokens: int = 60, priority: int = 0, temperature: float = 1.0) -> LLMRequest:
    """Return a request for free text, which ends only at its limit (but for one in about 2,000 tokens)."""
    message = {"role": "user", "content": words}
    return LLMRequest("free", [message], None, {}, tokens, temperature, priority)
