"""A record is read as rows with names, by SQL, and two runs of it are compared."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.support.records import ask, runner, select

from restaurant_llm_batch import Limits, LLMRequest, Price, Store, Strategy, errors
from restaurant_llm_batch.errors import ConfigurationError
from restaurant_llm_batch.records import Recording, open_record
from restaurant_llm_batch.records._schema import COLUMNS, TABLES, VIEWS
from restaurant_llm_batch.testing import FakeLLM

ROOT = Path(__file__).parents[2]


@pytest.fixture
def two(path: Path) -> Path:
    """Record two runs: in the second, an item fails, one answer differs, and the items are others."""
    with runner(Recording(path, texts=True), prices={"": Price(1, 1)}) as used:
        used.run(ask, [1, 2, 3, "x"])

    def other(request: LLMRequest) -> str:
        asked = request.messages[0]["content"]
        if "for 2" in asked:
            raise errors.PermanentBackendError("no")
        return "another" if "for 3" in asked else '"'

    with runner(Recording(path, texts=True), llm=FakeLLM(answer=other), limits=Limits(llm=3)) as used:
        used.run(ask, [1, 2, 3, "y"])
    return path


def test_every_row_is_an_object_and_a_mapping(two: Path) -> None:
    record = open_record(two)
    for row in (record.run(), record.items()[0], record.calls()[0]):
        assert dict(row) == {name: getattr(row, name) for name in list(row.keys())}
        with pytest.raises(KeyError):
            row["nothing"]


def test_times_are_seconds_and_iso_texts_that_agree(two: Path) -> None:
    run = open_record(two).run(1)
    for row, call in zip(
        select(two, "SELECT queued_at, started_at, ended_at FROM call_overview WHERE run = 1"),
        open_record(two).calls(1),
        strict=True,
    ):
        moments = [datetime.fromisoformat(text) for text in row]
        assert all(moment.tzinfo is not None for moment in moments)
        for moment, seconds in zip(moments, (call.queued, call.started, call.ended), strict=True):
            assert (moment - run.began).total_seconds() == pytest.approx(seconds, abs=0.002)
    ((began, unix),) = select(two, "SELECT began, began_unix FROM runs WHERE id = 1")
    assert datetime.fromisoformat(began).timestamp() == pytest.approx(unix, abs=0.001)
    assert run.began.tzinfo is UTC


@pytest.mark.sample(2)
@pytest.mark.parametrize("view", VIEWS)
def test_every_view_can_be_read(view: str, two: Path) -> None:
    rows = select(two, f"SELECT * FROM {view}")
    assert rows or view in ("limit_overview", "server_overview")  # no limit was changed, and no server read


def test_the_documentation_names_every_table_column_and_view() -> None:
    page = (ROOT / "docs" / "how-to" / "record.md").read_text(encoding="utf-8")
    rows = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `")}
    for table, columns in COLUMNS.items():
        assert [name for name in columns if f"`{name}`" not in rows[table]] == [], table
    assert [view for view in VIEWS if view not in rows] == []


def test_column_names_are_those_of_the_file(two: Path) -> None:
    for table in TABLES:
        found = tuple(name for (name,) in select(two, "SELECT name FROM pragma_table_info(?)", table))
        assert COLUMNS[table] == found


def test_a_comparison_names_what_differs(two: Path) -> None:
    comparison = open_record(two).compare(1, 2)

    assert comparison.figures["succeeded"] == (4, 3)
    assert list(comparison.now_failed) == [2]
    assert list(comparison.now_succeeded) == []
    assert (list(comparison.only_a), list(comparison.only_b)) == (["x"], ["y"])
    assert list(comparison.changed or ()) == [1, 3]
    assert comparison.errors == {"PermanentBackendError": (0, 1)}
    assert comparison.settings["limits.llm"][1] == 3
    words = str(comparison)
    assert "failed with PermanentBackendError" in words
    assert "1 items succeeded only in the first: 2" in words
    assert "<pre>" in comparison._repr_html_()


def test_results_are_compared_only_if_both_runs_have_texts(path: Path) -> None:
    for texts in (True, False):
        with runner(Recording(path, texts=texts)) as used:
            used.run(ask, [1])
    assert open_record(path).compare(1, 2).changed is None
    assert list(open_record(path).compare(1, 1).changed or ()) == []


@pytest.mark.sample(2)
@pytest.mark.parametrize("run", [0, -1, 3, "1", 1.0, True, object()])
def test_a_run_that_is_not_there_is_refused(run: Any, two: Path) -> None:
    record = open_record(two)
    for read in (record.run, record.items, record.calls, record.limits):
        with pytest.raises(ConfigurationError, match="run"):
            read(run)


def test_a_record_without_a_run_says_so(path: Path) -> None:
    runner(path).close()
    record = open_record(path)
    assert record.runs() == []
    with pytest.raises(ConfigurationError, match="has no run yet"):
        record.items()


def test_what_is_no_record_is_named(path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no such file"):
        open_record(path)
    assert not path.exists()
    with pytest.raises(ConfigurationError, match="a folder"):
        open_record(path.parent)
    with Store(path) as store:
        store.open()
    with pytest.raises(ConfigurationError, match="holds no record"):
        open_record(path)


def test_pandas_takes_the_rows(two: Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(open_record(two).calls(1))
    assert list(frame["item_id"]) == [1, 2, 3, "x"]


def test_a_damaged_record_is_repaired_and_keeps_its_rows(path: Path) -> None:
    with runner(path, store=path) as used:
        used.run(ask, range(200))
    with path.open("r+b") as file:
        pages = path.stat().st_size // 4096
        ((root,),) = select(
            path, "SELECT rootpage FROM sqlite_master WHERE name = 'sqlite_autoindex_replies_1'"
        )
        assert root < pages
        file.seek((root - 1) * 4096)
        file.write(b"\xff" * 4096)
    with runner(path, store=path) as used:
        assert used.run(ask, range(200)).stats.succeeded == 200
    record = open_record(path)

    assert [run.succeeded for run in record.runs()] == [200, 200]
    assert len(record.items(1)) == len(record.calls(1)) == 200
    assert select(path, "PRAGMA integrity_check") == [("ok",)]


def test_a_reader_in_a_transaction_does_not_hold_up_the_run(path: Path) -> None:
    with runner(path, strategy=Strategy.stage(1)) as used:
        used.run(ask, [1])
        reader = sqlite3.connect(path, isolation_level=None)
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM items").fetchone() == (1,)
        used.run(ask, [2])
        assert open_record(path).run().succeeded == 1
        assert reader.execute("SELECT count(*) FROM items").fetchone() == (1,)
        reader.close()
    assert len(open_record(path).runs()) == 2
