"""Every way to run a task, as one function each, so that a test can ask for the same promise of all."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import product
from typing import Any, TypeAlias

import anyio

from restaurant_llm_batch import BatchRunner, Strategy, Success
from restaurant_llm_batch.outcomes import Outcome

Way: TypeAlias = Callable[[BatchRunner, Any, Iterable[Any]], list[Outcome[Any]]]

STRATEGIES = [Strategy(*switches) for switches in product([False, True], repeat=3)] + [Strategy.threaded()]


def strategy_name(strategy: Strategy) -> str:
    """Name a strategy by what is on."""
    if strategy.threads:
        return "threaded"
    switches = ("search_async", "restaurant_async", "llm_async")
    return "+".join(name.removesuffix("_async") for name in switches if getattr(strategy, name)) or "none"


def by_run(runner: BatchRunner, task: Any, items: Iterable[Any]) -> list[Outcome[Any]]:
    """Blocking, collected."""
    return list(runner.run(task, items).outcomes)


def by_stream(runner: BatchRunner, task: Any, items: Iterable[Any]) -> list[Outcome[Any]]:
    """Blocking, as they finish."""
    return list(runner.stream(task, items))


def by_arun(runner: BatchRunner, task: Any, items: Iterable[Any]) -> list[Outcome[Any]]:
    """Awaited, collected, on asyncio."""
    return list(anyio.run(runner.arun, task, items).outcomes)


def by_arun_on_trio(runner: BatchRunner, task: Any, items: Iterable[Any]) -> list[Outcome[Any]]:
    """Awaited, collected, on trio."""
    return list(anyio.run(runner.arun, task, items, backend="trio").outcomes)


def by_astream(runner: BatchRunner, task: Any, items: Iterable[Any]) -> list[Outcome[Any]]:
    """Awaited, as they finish, on asyncio."""

    async def main() -> list[Outcome[Any]]:
        async with runner:
            return [outcome async for outcome in runner.astream(task, items)]

    return anyio.run(main)


WAYS: list[Way] = [by_run, by_stream, by_arun, by_arun_on_trio, by_astream]


def told(outcomes: Iterable[Outcome[Any]]) -> list[object]:
    """Return what must be equal in every mode: values, or error types, stages and attempts."""
    return [
        (outcome.index, outcome.item_id, outcome.value)
        if isinstance(outcome, Success)
        else (outcome.index, outcome.item_id, type(outcome.error), outcome.stage, outcome.attempts)
        for outcome in sorted(outcomes, key=lambda outcome: outcome.index)
    ]
