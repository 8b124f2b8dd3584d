"""Records for the tests of the page: small ones with real runs, and large ones written by SQL."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path
from typing import Any

from restaurant_llm_batch import (
    AdaptiveLimit,
    BatchRunner,
    Limits,
    LLMRequest,
    Price,
    Strategy,
    SummarizeAspects,
    errors,
)
from restaurant_llm_batch.records import Recording
from restaurant_llm_batch.records._schema import COLUMNS
from restaurant_llm_batch.testing import FakeLLM, FakeSearch
from tests.support.records import AT_ONCE

SCRIPT = "<img src=x onerror=\"document.title='OWNED'\"><script>document.title='OWNED'</script>"
"""A review that would run something if it were ever taken for markup."""
REVIEWS = [
    "국물이 진하고 맛있어요",
    "직원이 친절해요",
    f"가격이 비싸요 {SCRIPT}",
    "</script><b>굵게</b> & 좋아요",
]


def record_night(path: Path, items: int = 6, *, texts: bool = True, **arguments: Any) -> None:
    """Record a run of summaries, of which some items fail."""
    search = FakeSearch(dict.fromkeys(range(items), REVIEWS))

    def fault(request: LLMRequest, attempt: int) -> Exception | None:
        item = request.inputs.get("restaurant_id")
        if item == 3:
            return errors.PermanentBackendError(f"prompt of {item} has 12345 tokens {SCRIPT}")
        if item == 4 and attempt == 1:
            return errors.RateLimited("slow down", retry_after=0.01)
        return None

    given: dict[str, Any] = {
        "llm": FakeLLM(fault=fault),
        "search": search,
        "strategy": Strategy.stage(4),
        "limits": Limits(llm=AdaptiveLimit(start=2)),
        "llm_retry": AT_ONCE,
        "prices": {"": Price(1, 2)},
        **arguments,
    }
    with BatchRunner(record=Recording(path, texts=texts), **given) as runner:
        runner.run(SummarizeAspects(), range(items))


def write_large(path: Path, items: int, calls: int = 1, *, seed: int = 0, ends: bool = True) -> None:
    """Write a record of many items by SQL: as a real one is, made in a moment."""
    Recording(path).open()
    drawn = random.Random(seed)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN")
    moment, base = 0.0, 1 << 32
    rows: dict[str, list[tuple[Any, ...]]] = {"items": [], "calls": []}
    busy = [0.0] * 32
    for place in range(items):
        slot = min(range(32), key=busy.__getitem__) if items <= 5000 else place % 32
        began = moment = busy[slot]
        for number in range(calls):
            seconds = drawn.lognormvariate(-0.2, 0.5)
            refused = drawn.random() < 0.01
            row = {
                "id": base + place * calls + number + 1,
                "run": 1,
                "item": base + place + 1,
                "prompt": base + place * calls + number,
                "attempt": 1,
                "stage": "llm",
                "label": f"label {number % 3}",
                "model": None if refused else "model",
                "queued": max(0.0, moment - 0.5),
                "started": moment,
                "ended": moment + seconds,
                "slot_seconds": min(0.5, moment),
                "rate_seconds": 0.0,
                "retry_seconds": 0.0,
                "slots": 1,
                "outcome": "refused" if refused else "ok",
                "prompt_tokens": 900 + place % 200,
                "completion_tokens": 100,
                "cached_tokens": 0,
                "cost": 0.001,
                "finish_reason": "stop",
                "error_type": "RateLimited" if refused else None,
                "status": 429 if refused else None,
                "error": f"RateLimited: slow down {place}" if refused else None,
            }
            rows["calls"].append(tuple(row.get(column) for column in COLUMNS["calls"]))
            moment += seconds
        busy[slot] = moment
        failed = drawn.random() < 0.01
        rows["items"].append(
            (
                base + place + 1,
                1,
                place,
                f"r{place}",
                f'"r{place}"',
                began,
                moment,
                "failed" if failed else "succeeded",
                "llm" if failed else None,
                3 if failed else None,
                "OutputInvalid" if failed else None,
                f"OutputInvalid: no JSON in answer {place}" if failed else None,
            )
        )
    rows["calls"].sort(key=lambda row: row[8])
    rows["calls"] = [(base + number, *row[1:]) for number, row in enumerate(rows["calls"], 1)]
    for table, given in rows.items():
        marks = ", ".join("?" * len(COLUMNS[table]))
        connection.executemany(f"INSERT INTO {table} VALUES ({marks})", given)
    end = max(busy)
    run: dict[str, Any] = {
        "id": 1,
        "task": "Large",
        "model": "model",
        "strategy": "stage 4",
        "settings": "{}",
        "version": "0",
        "total": items,
        "simulated": 0,
        "texts": 0,
        "began": "2026-01-01T00:00:00.000Z",
        "began_unix": 1767225600.0,
        "process": 1,
        "latest": end,
        "missing": 0,
    }
    if ends:
        run |= {
            "ended": "2026-01-01T01:00:00.000Z",
            "seconds": end,
            "succeeded": items,
            "failed": 0,
            "calls": items * calls,
            "retries": 0,
            "rate_limited": 0,
            "cache_hits": 0,
            "prompt_tokens": 1,
            "completion_tokens": 1,
            "cached_tokens": 0,
        }
    marks = ", ".join("?" * len(COLUMNS["runs"]))
    connection.execute(f"INSERT INTO runs VALUES ({marks})", [run.get(column) for column in COLUMNS["runs"]])
    connection.execute("COMMIT")
    connection.close()
