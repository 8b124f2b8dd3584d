"""Nights for tests that learn from a record: simulated runs that are recorded as if they were real."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from random import Random
from typing import Any

from restaurant_llm_batch import BatchRunner, Limits, LLMRequest, LLMResponse, Strategy
from restaurant_llm_batch.simulation import SimulatedServer, Simulation
from restaurant_llm_batch.steps import Flow, complete, gather


class NeverCalled:
    """A model that must not be called."""

    model = "night-model"

    def complete(self, request: LLMRequest) -> Any:
        raise AssertionError("the model was called")

    async def acomplete(self, request: LLMRequest) -> Any:
        raise AssertionError("the model was called")


def say(kind: str, words: int, item: object = "") -> Flow[LLMResponse]:
    """Ask for free text with a prompt of so many words."""
    message = {"role": "user", "content": f"Dish {item}. " + "word " * words}
    return (yield from complete(LLMRequest(kind, (message,), max_tokens=600)))


def dish(item: int) -> Flow[None]:
    """One call."""
    yield from say("dish", 20 + item % 40, item)


def course(item: int) -> Flow[None]:
    """Three calls side by side, then one."""
    yield from gather(*(say("part", 30 + 10 * number, f"{item}/{number}") for number in range(3)))
    yield from say("whole", 60, item)


def runner(limit: Any = 8, strategy: Strategy = Strategy.stage(4), **arguments: Any) -> BatchRunner:
    """Return a runner whose model must not be called."""
    return BatchRunner(
        llm=NeverCalled(), strategy=strategy, limits=Limits(llm=limit, open_items=50), **arguments
    )


def record_night(
    path: Path,
    by: BatchRunner,
    task: Any,
    items: Any,
    server: SimulatedServer,
    seed: int = 1,
    **arguments: Any,
) -> Simulation[Any]:
    """Record a simulated run, and mark it as a real one."""
    simulation = by.simulate(task, items, server, seed=seed, record=path, **arguments)
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("UPDATE runs SET simulated = 0")
    connection.close()
    return simulation


class Varying:
    """A model whose answers vary in length with the seed, and which says what they are worth."""

    model = "varying"
    fingerprint = "varying"

    def __init__(self, seed: int, sigma: float = 0.5) -> None:
        self._random = Random(seed)
        self._sigma = sigma

    def complete(self, request: LLMRequest) -> LLMResponse:
        text = " ".join(str(message["content"]) for message in request.messages)
        tokens = round(80 * self._random.lognormvariate(0.0, self._sigma))
        return LLMResponse(
            "yes " * (1 + tokens // 4),
            prompt_tokens=11 + len(text) // 3,
            completion_tokens=min(request.max_tokens, max(1, tokens)),
            model=self.model,
        )

    async def acomplete(self, request: LLMRequest) -> LLMResponse:
        return self.complete(request)
