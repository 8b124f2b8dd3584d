"""What the tests of the record share: tasks of one call, and runners that record them."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from restaurant_llm_batch import BatchRunner, LLMRequest, RetryPolicy, Strategy
from restaurant_llm_batch.records import Recording
from restaurant_llm_batch.steps import Flow, complete
from restaurant_llm_batch.testing import FakeLLM

AT_ONCE = RetryPolicy(attempts=3, wait_initial=0.0, wait_max=0.0)


def ask(item: Any) -> Flow[str]:
    """Make one call whose prompt names the item."""
    messages = ({"role": "user", "content": f"Name a dish for {item!r}."},)
    reply = yield from complete(LLMRequest("dish", messages))
    return reply.text


def runner(record: Path | str | Recording, **arguments: Any) -> BatchRunner:
    """Return a runner that records."""
    given = {"llm": FakeLLM(), "strategy": Strategy.stage(1), "llm_retry": AT_ONCE, **arguments}
    return BatchRunner(record=record, **given)


def select(path: Path, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    """Return the rows of a query of a record."""
    connection = sqlite3.connect(path)
    try:
        return connection.execute(statement, values).fetchall()
    finally:
        connection.close()
