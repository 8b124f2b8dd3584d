"""Every output is read back as it was, whole or not there at all, and a spreadsheet finds no formula in it."""

from __future__ import annotations

import csv
import json
import math
import os
import sqlite3
import stat
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from restaurant_llm_batch import BatchReport, Failure, RunStats, Spent, Success, errors
from restaurant_llm_batch._tables import data_frames as frames
from restaurant_llm_batch._tables.columns import Columns
from restaurant_llm_batch._tables.writing import format_of, unformulated, write_table

SPENT = Spent(1.5, 0.25, 2, 0, 0, 10, 5, None, 1)


def report(*values: Any) -> BatchReport[Any]:
    outcomes = [Success(number, value, number, SPENT) for number, value in enumerate(values)]
    return BatchReport(outcomes, RunStats())


DIRTY: tuple[dict[str, Any], ...] = (
    {"text": '맛있다, "정말"\n그렇다\r\n', "n": 1, "x": 0.1, "yes": True, "list": ["a", "b"]},
    {"text": "", "n": None, "x": math.nan, "yes": None, "list": []},
    {"text": "half \ud83d emoji", "n": -5, "x": 2, "yes": False, "list": None},
)


def read_csv(path: Path, separator: str = ",") -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file, delimiter=separator))


@pytest.mark.parametrize(("name", "separator"), [("out.csv", ","), ("out.tsv", "\t"), ("OUT.TSV", "\t")])
def test_csv_is_read_back_cell_by_cell(name: str, separator: str, tmp_path: Path) -> None:
    path = tmp_path / name
    report(*DIRTY).to_csv(path)
    rows = read_csv(path, separator)

    assert [row["text"] for row in rows] == [DIRTY[0]["text"], "", "half ? emoji"]
    assert [row["n"] for row in rows] == ["1", "", "-5"]
    assert [float(row["x"]) for row in rows[::2]] == [0.1, 2.0]
    assert [row["yes"] for row in rows] == ["true", "", "false"]
    assert [json.loads(row["list"]) for row in rows[:2]] == [["a", "b"], []]
    assert path.read_bytes().startswith(b"\xef\xbb\xbfitem_id"), "Excel reads no Korean without the mark"


@pytest.mark.parametrize("encoding", ["utf-8", "cp949", "utf-16"])
def test_csv_is_written_in_the_encoding_that_is_named(encoding: str, tmp_path: Path) -> None:
    report("맛있다", "🍜").to_csv(tmp_path / "out.csv", encoding=encoding)
    text = (tmp_path / "out.csv").read_bytes().decode(encoding)

    assert "맛있다" in text
    assert text.startswith("item_id")


def test_an_unknown_encoding_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(errors.ConfigurationError, match="encoding must be"):
        report("x").to_csv(tmp_path / "out.csv", encoding="utf-99")
    assert not list(tmp_path.iterdir())


FORMULAS = [
    "=cmd|' /C calc'!A0",
    "+1+1",
    "-2+3",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    " =1",
    "\u00a0=1",
    "'=1",
    '"=1"',
    "\u200b=1",
    "\ufeff=1",
    "\uff1d1",
    "\n@x",
    "' \" =1",
]


@pytest.mark.parametrize("text", FORMULAS)
def test_what_a_spreadsheet_takes_for_a_formula_is_a_text(text: str, tmp_path: Path) -> None:
    report({text: text}).to_csv(tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(encoding="utf-8-sig", newline="") as file:
        names, cells = csv.reader(file)

    assert names[1] == cells[1] == f"'{text}"


@pytest.mark.parametrize("text", ["맛있다", "3 - 2", "a=b", "100%", "it's", "'quoted'", "#1", ""])
def test_any_other_text_stays_as_it_is(text: str) -> None:
    assert unformulated(text) == text


def test_numbers_stay_numbers(tmp_path: Path) -> None:
    report({"a": -5, "b": -0.5, "c": 10**20, "d": "-5"}).to_csv(tmp_path / "out.csv")
    (row,) = read_csv(tmp_path / "out.csv")

    assert (row["a"], row["b"], row["c"], row["d"]) == ("-5", "-0.5", str(10**20), "'-5")


@settings(max_examples=40)
@given(st.text() | st.lists(st.sampled_from("'\"=+-@ \t\r\nx")).map("".join))
@example("''=")
def test_the_text_is_had_back_from_what_was_made_of_it(text: str) -> None:
    text = text.replace("\x00", "")
    written = unformulated(text)
    rest = written[1:]

    assert (rest if written[:1] == "'" and unformulated(rest) != rest else written) == text


def test_json_lines_are_the_rows(tmp_path: Path) -> None:
    done = report(*DIRTY, "\u2028")
    done.to_jsonl(tmp_path / "out.jsonl")
    lines = (tmp_path / "out.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    rows = [json.loads(line) for line in lines]

    assert len(rows) == 4
    assert rows[0] == done.to_dicts()[0]
    assert rows[1]["x"] is None
    assert rows[3]["value"] == "\u2028"


def test_json_is_a_list_of_the_rows(tmp_path: Path) -> None:
    for number, values in enumerate([(), ("a",), ("a", "b", "c")]):
        path = tmp_path / f"{number}.json"
        write_table(report(*values).to_dicts(), path, "json")
        assert json.loads(path.read_text()) == report(*values).to_dicts()


def test_failures_are_written_too(tmp_path: Path) -> None:
    done: BatchReport[Any] = BatchReport([Failure(None, ValueError("=x"), "input", 0, 0)], RunStats())
    done.to_csv(tmp_path / "out.csv", level="failures", names={})
    (row,) = read_csv(tmp_path / "out.csv")

    assert (row["item_id"], row["name"], row["error"], row["message"]) == ("", "", "ValueError", "'=x")


def test_a_file_that_is_there_is_replaced_whole_and_keeps_its_mode_and_its_link(tmp_path: Path) -> None:
    real, link = tmp_path / "real.csv", tmp_path / "link.csv"
    real.write_text("yesterday")
    real.chmod(0o640)
    link.symlink_to(real)
    report("a").to_csv(link)

    assert link.is_symlink()
    assert len(read_csv(real)) == 1
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.csv", "real.csv"]


def test_a_new_file_is_for_its_owner_only(tmp_path: Path) -> None:
    report("a").to_jsonl(tmp_path / "out.jsonl")

    assert stat.S_IMODE((tmp_path / "out.jsonl").stat().st_mode) == 0o600


def test_a_table_that_cannot_be_written_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.csv"
    path.write_text("yesterday")
    monkeypatch.setattr(Columns, "cells", lambda self, row: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        report("a").to_csv(path)

    assert path.read_text() == "yesterday"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_a_full_disk_is_a_sentence() -> None:
    with pytest.raises(errors.BatchError, match="the disk is full"):
        report(*["x" * 100_000]).to_csv("/dev/full")


def test_a_folder_a_missing_folder_and_a_store_are_refused(tmp_path: Path) -> None:
    store = tmp_path / "night.db"
    with sqlite3.connect(store) as connection:
        connection.execute("CREATE TABLE replies (key)")
    connection.close()
    for path, said in [
        (tmp_path, "is a folder"),
        (tmp_path / "no" / "x", "does not exist"),
        (store, "is a database"),
    ]:
        with pytest.raises(errors.ConfigurationError, match=said):
            report("a").to_csv(path)


@pytest.mark.parametrize("ending", [".gz", ".xls", ".feather", ".ZIP"])
def test_an_ending_of_a_format_that_is_not_written_is_refused(ending: str) -> None:
    with pytest.raises(errors.ConfigurationError, match=r"must end with one of \.jsonl, \.json, \.csv"):
        format_of(f"out.csv{ending}", "--output")


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.CSV", "csv"), ("a.b.tsv", "tsv"), ("a", "jsonl"), ("a.txt", "jsonl"), (".csv", "jsonl")],
)
def test_the_ending_names_the_format(name: str, kind: str) -> None:
    assert format_of(name, "--output") == kind


# Kinds of columns


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        ([], "empty"),
        ([None, None], "empty"),
        ([1, None], "integer"),
        ([1, 2.5], "number"),
        ([1, "a"], "text"),
        ([True, False, None], "boolean"),
        ([True, 1], "text"),
        ([2**63], "text"),
        ([-(2**63)], "integer"),
        ([[], None], "empty list"),
        ([[], ["a"]], "texts"),
        ([["a"], []], "texts"),
        ([[1], [2]], "integers"),
        ([[1], [2.5]], "numbers"),
        ([[1], ["a"]], "texts"),
        ([[1, "a"]], "texts"),
        ([["a"], "a"], "json"),
        ([{"a": 1}, None], "json"),
        ([[{"a": 1}], []], "json"),
        ([[None]], "json"),
        ([[[1]]], "json"),
    ],
)
def test_a_column_has_one_kind_whatever_its_cells_are(cells: list[Any], kind: str) -> None:
    columns = Columns({"x": cell} for cell in cells)

    assert columns.kinds.get("x", "empty") == kind
    assert len([columns.cells({"x": cell}) for cell in cells]) == len(cells)


# Libraries that are not always there


def test_a_library_that_is_missing_is_named_with_the_way_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("pandas", "polars", "pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, name, None)
    done = report("a")
    methods: list[tuple[Any, str]] = [
        (done.to_pandas, "pip install pandas"),
        (done.to_polars, "pip install polars"),
        (done.to_arrow, r"restaurant-llm-batch\[tables\]"),
        (lambda: done.to_parquet("out.parquet"), r"restaurant-llm-batch\[tables\]"),
    ]
    for method, said in methods:
        with pytest.raises(ImportError, match=said):
            method()


def test_pandas_keeps_integers_texts_and_missing_cells_apart() -> None:
    pytest.importorskip("pandas")
    frame = report(*DIRTY).to_pandas()

    assert frame["item_id"].tolist() == [0, 1, 2]
    assert str(frame["n"].dtype) == "Int64"
    assert frame["n"].dropna().tolist() == [1, -5]
    assert str(frame["yes"].dtype) == "boolean"
    assert frame["x"].tolist()[::2] == [0.1, 2.0]
    assert frame["list"].tolist() == [["a", "b"], [], None]
    assert frame["spent.seconds"].sum() == 4.5
    assert frame["spent.cost"].isna().all()


def test_polars_has_a_type_for_every_column() -> None:
    polars = pytest.importorskip("polars")
    frame = report(*DIRTY).to_polars()

    assert frame.schema["n"] == polars.Int64
    assert frame.schema["list"] == polars.List(polars.String)
    assert frame["n"].to_list() == [1, None, -5]
    assert frame["text"].to_list() == [DIRTY[0]["text"], "", "half ? emoji"]
    assert report().to_polars().shape == (0, 0)


def test_arrow_has_the_rows() -> None:
    pytest.importorskip("pyarrow")
    table = report({"a": 1}, {"a": 2.5, "b": [{"c": "=1"}]}).to_arrow()

    assert table.column("a").to_pylist() == [1.0, 2.5]
    assert table.column("b").to_pylist() == [None, '[{"c": "=1"}]']
    assert report().to_arrow().num_rows == 0


def test_parquet_is_read_back_as_it_was(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    done = report(*DIRTY)
    done.to_parquet(tmp_path / "out.parquet", names={0: "을지면옥", "2": "=집"})
    rows = parquet.read_table(tmp_path / "out.parquet").to_pylist()

    assert [row["name"] for row in rows] == ["을지면옥", None, "=집"]
    assert [row["n"] for row in rows] == [1, None, -5]
    assert rows[0]["text"] == DIRTY[0]["text"]
    assert rows[0]["list"] == ["a", "b"]
    assert [row["x"] for row in rows] == [0.1, None, 2.0]
    assert [row["spent.seconds"] for row in rows] == [1.5] * 3


def test_parquet_of_many_rows_and_of_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr("restaurant_llm_batch._tables.writing._ROWS_AT_ONCE", 3)
    for rows in (0, 1, 3, 7):
        report(*range(rows)).to_parquet(tmp_path / "out.parquet")
        assert parquet.read_table(tmp_path / "out.parquet").num_rows == rows


def test_ids_of_two_kinds_are_texts_in_a_column(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    outcomes = [Success(12, "a"), Success("12b", "b"), Success(2**70, "c")]

    table = BatchReport(outcomes, RunStats()).to_arrow()
    assert table.column("item_id").to_pylist() == ["12", "12b", str(2**70)]


@pytest.mark.parametrize("text", FORMULAS)
@pytest.mark.sample(3)
def test_excel_has_texts_and_numbers_and_no_formula(text: str, tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    rows = report(
        {text: text, "n": -5, "x": math.inf, "big": 10**17, "l": ["a"], "c": "a\x00\x1bb"}
    ).to_dicts()
    write_table(rows, tmp_path / "out.xlsx", "xlsx")
    names, cells = openpyxl.load_workbook(tmp_path / "out.xlsx").active.iter_rows()

    assert {cell.data_type for cell in (*names, *cells)} <= {"s", "n"}
    assert [cell.value for cell in cells[2:7]] == [-5, None, str(10**17), '["a"]', "ab"]


def test_frames_are_made_without_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pandas")
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    assert len(frames.to_pandas(report("a").to_dicts())) == 1


def test_a_report_can_be_written_to_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        report("a").to_jsonl(pipe)
        assert json.loads(os.read(reader, 10_000))["value"] == "a"
    finally:
        os.close(reader)
