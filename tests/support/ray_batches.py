"""What the tests of `RayBatch` share: a runner, a task, and a mailbox without Ray."""

from __future__ import annotations

from typing import Any

from restaurant_llm_batch import BatchRunner, LLMRequest, Strategy
from restaurant_llm_batch.backends import OfflineLLM
from restaurant_llm_batch.integrations.ray import RayBatch
from restaurant_llm_batch.steps import Flow, complete

REVIEWS = [{"id": 1, "content": "국물이 진하고 맛있어요"}, {"id": 2, "content": "불친절하고 비싸요"}]


def make_runner(**options: Any) -> BatchRunner:
    return BatchRunner(llm=OfflineLLM(), strategy=Strategy.stage(4), **options)


def ask(item: Any) -> Flow[dict[str, Any]]:
    reply = yield from complete(LLMRequest("ask", ({"role": "user", "content": f"about {item['id']}"},)))
    return {"text": reply.text, "ok": "mine", "error": 7}


def answered(batch: RayBatch, rows: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = batch.run(rows).to_pylist()
    return found


class Line:
    """A mailbox in this process, with the interface of an actor's handle."""

    def __init__(self) -> None:
        self.kept: list[tuple[str, list[bytes]]] = []
        self.put = self

    def remote(self, source: str, events: list[bytes]) -> str:
        self.kept.append((source, events))
        return "sent"

    def take(self) -> list[tuple[str, list[bytes]]]:
        kept, self.kept = self.kept, []
        return kept
