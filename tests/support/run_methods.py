"""Run methods and strategies to parametrize tests with, and the part of outcomes that must not depend on either."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import product
from typing import Any, TypeAlias

import anyio
import pytest

from restaurant_llm_batch import BatchRunner, Strategy, Success
from restaurant_llm_batch.outcomes import Outcome

RunMethod: TypeAlias = Callable[[BatchRunner, Any, Iterable[Any]], list[Outcome[Any]]]

STRATEGIES = [Strategy(*switches) for switches in product([False, True], repeat=3)] + [Strategy.threaded()]
REPRESENTATIVE = (Strategy.stage(1), Strategy.stage(4), Strategy.threaded())
"""One strategy per driver: sequential, concurrent and threaded."""


def strategy_name(strategy: Strategy) -> str:
    """Return the switches that are on, as a test id."""
    if strategy.threads:
        return "threaded"
    switches = ("search_async", "restaurant_async", "llm_async")
    return "+".join(name.removesuffix("_async") for name in switches if getattr(strategy, name)) or "none"


def strategies(of: Iterable[Strategy] = STRATEGIES) -> list[Any]:
    """Return parameters for a test of several strategies: the representative ones, and the others marked slow."""
    return [
        pytest.param(
            strategy,
            id=strategy_name(strategy),
            marks=() if strategy in REPRESENTATIVE else pytest.mark.slow,
        )
        for strategy in of
    ]


each_strategy = pytest.mark.parametrize("strategy", strategies())
"""Run the test with the representative strategies, and with all of them if slow tests are selected."""


def by_run(runner: BatchRunner, task: Any, items: Iterable[Any]) -> list[Outcome[Any]]:
    """Run sync, collected."""
    return list(runner.run(task, items).outcomes)


def by_stream(runner: BatchRunner, task: Any, items: Iterable[Any]) -> list[Outcome[Any]]:
    """Run sync, as items finish."""
    return list(runner.stream(task, items))


def by_arun(runner: BatchRunner, task: Any, items: Iterable[Any]) -> list[Outcome[Any]]:
    """Run async on asyncio, collected."""
    return list(anyio.run(runner.arun, task, items).outcomes)


def by_arun_on_trio(runner: BatchRunner, task: Any, items: Iterable[Any]) -> list[Outcome[Any]]:
    """Run async on trio, collected."""
    return list(anyio.run(runner.arun, task, items, backend="trio").outcomes)


def by_astream(runner: BatchRunner, task: Any, items: Iterable[Any]) -> list[Outcome[Any]]:
    """Run async on asyncio, as items finish."""

    async def main() -> list[Outcome[Any]]:
        async with runner:
            return [outcome async for outcome in runner.astream(task, items)]

    return anyio.run(main)


RUN_METHODS: list[RunMethod] = [by_run, by_stream, by_arun, by_arun_on_trio, by_astream]
each_run_method = pytest.mark.parametrize("way", RUN_METHODS, ids=lambda way: way.__name__)


def comparable(outcomes: Iterable[Outcome[Any]]) -> list[object]:
    """Return what must be equal in every mode: values, or error types, stages and attempts."""
    return [
        (outcome.index, outcome.item_id, outcome.value)
        if isinstance(outcome, Success)
        else (outcome.index, outcome.item_id, type(outcome.error), outcome.stage, outcome.attempts)
        for outcome in sorted(outcomes, key=lambda outcome: outcome.index)
    ]
