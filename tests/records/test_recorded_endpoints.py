"""A record says which endpoint of a pool each call went to, and records from before there were pools stay readable."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import Any

from restaurant_llm_batch import AdaptiveLimit, BatchRunner, LLMRequest, Strategy
from restaurant_llm_batch.backends import LLMPool
from restaurant_llm_batch.records import open_record
from restaurant_llm_batch.steps import complete
from restaurant_llm_batch.testing import FakeLLM


def ask(item: int) -> Generator[Any, Any, str]:
    reply = yield from complete(LLMRequest("ask", ({"role": "user", "content": str(item)},)))
    return str(reply.text)


def record(llm: Any, path: Path) -> None:
    with BatchRunner(llm=llm, record=path, strategy=Strategy.stage(4)) as runner:
        runner.run(ask, range(12))


def test_each_call_has_its_endpoint(tmp_path: Path) -> None:
    path = tmp_path / "night.db"
    pool = LLMPool({"a": FakeLLM(), "나": FakeLLM()}, limits={"a": 1, "나": AdaptiveLimit(start=2)})
    record(pool, path)
    record(FakeLLM(), path)

    found = open_record(path)
    calls = Counter(call.endpoint for call in found.calls(1))
    assert calls == {name: one.calls for name, one in pool.statistics().items()}
    assert {call.endpoint for call in found.calls(2)} == {None}
    assert {limit.limiter for limit in found.limits(1)} == {"llm:나"}
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT endpoint, count(*) FROM call_overview WHERE run = 1 GROUP BY 1")
        assert dict(rows.fetchall()) == calls


def test_a_record_from_before_there_were_pools_is_read_and_added_to(tmp_path: Path) -> None:
    path = tmp_path / "night.db"
    record(FakeLLM(), path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP VIEW call_overview")
        connection.execute("DROP TABLE call_endpoints")
        connection.commit()

    assert [call.endpoint for call in open_record(path).calls()] == [None] * 12
    record(LLMPool({"a": FakeLLM()}), path)
    assert {call.endpoint for call in open_record(path).calls(2)} == {"a"}
    assert len(open_record(path).calls(1)) == 12
