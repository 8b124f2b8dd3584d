"""Rows of a record with values that cannot be: whoever reads them meets what their columns can hold, or nothing."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing, suppress
from io import StringIO
from math import isfinite
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tests.support.records import ask, runner

from restaurant_llm_batch import AdaptiveLimit, BatchRunner, Limits, Strategy, errors
from restaurant_llm_batch.cli._top import drawing
from restaurant_llm_batch.records import Recording, open_record
from restaurant_llm_batch.records._live import LiveView
from restaurant_llm_batch.records._page.data import RecordData
from restaurant_llm_batch.records._page.tables import Query
from restaurant_llm_batch.records._schema import COLUMNS, TABLES
from restaurant_llm_batch.simulation import SimulatedServer
from restaurant_llm_batch.testing import FakeLLM

IMPOSSIBLE: list[Any] = ["x", b"\xff", "", float("inf"), float("-inf"), -7, 2**62, 1.5, None]
DAMAGED = [name for name in TABLES if name not in ("runs", "run_memory", "wishes")]
ITEMS = [*range(1, 35), "bad", "bad too"]


def refuses_bad(request: Any, attempt: int) -> Exception | None:
    if "bad" in str(request.messages):
        return errors.PermanentBackendError("no")
    return errors.RateLimited("later") if "for 2." in str(request.messages) and attempt == 1 else None


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a record with some thirty rows in each table."""
    path = tmp_path_factory.mktemp("kept") / "kept.db"
    llm, limits = FakeLLM(fault=refuses_bad), Limits(llm=AdaptiveLimit(start=2))
    with runner(Recording(path, texts=True), llm=llm, limits=limits, strategy=Strategy.stage(4)) as used:
        used.run(ask, ITEMS)
    with closing(sqlite3.connect(path)) as connection:
        for number in range(1, 31):
            row, later = (1 << 32) + number, (1 << 32) + 100 + number
            for values in (
                f"server_loads VALUES ({row}, 1, 'llm', 1.0, 1, 2, 0.5, 9, 1, 1, NULL)",
                f"call_endpoints VALUES ({row}, 1, 'a')",
                f"batched_calls VALUES ({row}, 1)",
                f"limits VALUES ({later}, 1, 'llm', {number}, 2, 'set')",
                f"limiters VALUES ({later}, 1, 'l{number}', 1.0, 2, 1, 1, 1, 2)",
                f"reviews VALUES ({row}, 1, {row}, 'food', 0, '1', '7', '7', 'Good.')",
            ):
                connection.execute(f"INSERT INTO {values}")
        connection.commit()
    return path


def damage(path: Path, value: Any) -> None:
    """Put a value into each column of each table, another column in each row, NULL too where a table allows none."""
    with closing(sqlite3.connect(path)) as connection:
        schema = "UPDATE sqlite_master SET sql = ? WHERE type = 'table' AND name = ?"
        connection.execute("PRAGMA writable_schema = ON")
        connection.executemany(schema, [(TABLES[name].replace(" NOT NULL", ""), name) for name in DAMAGED])
        connection.commit()
    with closing(sqlite3.connect(path)) as connection:
        for table in DAMAGED:
            columns = COLUMNS[table][1:]
            rows = connection.execute(f"SELECT id FROM {table} ORDER BY id").fetchall()
            assert len(rows) >= len(columns), table
            for column, (row,) in zip(columns, rows, strict=False):
                connection.execute(f"UPDATE {table} SET {column} = ? WHERE id = ?", (value, row))
        connection.execute("PRAGMA writable_schema = ON")
        connection.executemany(schema, [(TABLES[name], name) for name in DAMAGED])
        connection.commit()


@pytest.fixture(params=IMPOSSIBLE, ids=repr)
def path(request: pytest.FixtureRequest, kept: Path, tmp_path: Path) -> Path:
    """Return a record in which each column of each table has a value that it cannot have."""
    path = tmp_path / "night.db"
    shutil.copy(kept, path)
    damage(path, request.param)
    return path


def test_rows_have_sound_values_and_none_is_lost(path: Path, kept: Path) -> None:
    record, whole = open_record(path), open_record(kept)
    for name in ("items", "calls", "limits", "limiters", "server_loads"):
        rows = getattr(record, name)()
        assert len(rows) == len(getattr(whole, name)())
        for row in rows:
            given = {column: value for column, value in dict(row).items() if column != "item_id"}
            for column, value in given.items():
                if isinstance(value, float | int):
                    assert isfinite(value), column
                    assert abs(value) < 2**41, column


def test_each_item_is_explained_and_runs_are_compared(path: Path) -> None:
    record = open_record(path)
    for item in record.items():
        if item.item_id is not None:
            assert str(record.explain(item.item_id))
    assert str(record.compare(1, 1))


def test_top_draws_the_run(path: Path) -> None:
    picture = LiveView(path, 1).look()
    Console(width=120, file=StringIO()).print(drawing.draw(picture))
    assert drawing.line(picture)


def test_the_page_shows_the_run(path: Path) -> None:
    open_record(path).to_html(path.with_suffix(".html"))
    data = RecordData(path)
    answers = [data.overview(1), data.distributions(1), data.limits(1), data.causes(1), data.choices(1)]
    answers += [
        data.timeline(1),
        data.comparison(1, 1),
        *(data.item(1, place) for place in range(len(ITEMS))),
    ]
    answers += [data.rows("items", 1, Query(sort=sort)) for sort in ("seconds", "-cost", "waited")]
    answers += [data.rows("calls", 1, Query(sort=sort)) for sort in ("seconds", "-cost", "waited")]
    assert json.dumps(answers, allow_nan=False)


def test_simulations_and_plans_learn_from_the_rest(path: Path) -> None:
    with suppress(errors.ConfigurationError):  # the rest may not fit any server
        SimulatedServer.from_record(path)
    with suppress(errors.ConfigurationError):
        assert str(BatchRunner(llm=FakeLLM()).plan(ask, [1], record=path))


def test_an_odd_value_is_unknown_and_the_rest_of_its_row_is_there(kept: Path, tmp_path: Path) -> None:
    path = tmp_path / "night.db"
    shutil.copy(kept, path)
    before = open_record(path).calls()[0]
    with closing(sqlite3.connect(path)) as connection:
        odd = "prompt_tokens = 'many', cost = 9e999, slots = -3, label = x'ff'"
        connection.execute(f"UPDATE calls SET {odd}")
        connection.commit()
    call = open_record(path).calls()[0]
    assert (call.prompt_tokens, call.cost, call.slots, call.label) == (None, None, 1, "")
    for name in ("item_id", "call", "completion_tokens", "started", "ended", "outcome"):
        assert call[name] == before[name]


def test_every_column_of_every_table_has_a_kind_that_is_judged() -> None:
    kinds = {line.split()[1].rstrip(",") for sql in TABLES.values() for line in sql.splitlines()[1:-1]}
    assert kinds == {"INTEGER", "REAL", "TEXT", "BLOB"}
