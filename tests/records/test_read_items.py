"""`read_items`: a table of any kind gives the same items, whatever wrote it."""

from __future__ import annotations

import gzip
import io
import json
import os
import sys
import threading
import tracemalloc
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from restaurant_llm_batch.errors import ConfigurationError
from restaurant_llm_batch.records import read_items

ROWS = [
    {"restaurant_id": 12, "content": "국물이 진해요", "limit": 5},
    {"restaurant_id": "mapo-3", "content": None, "limit": None},
]
CSV = "restaurant_id,content,limit\n12.0,국물이 진해요,5.0\nmapo-3,,\n"


def as_xlsx(path: Path, rows: list[list[Any]]) -> Path:
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    book.save(path)
    return path


def excel(path: Path) -> Path:
    return as_xlsx(
        path,
        [
            [None],
            ["restaurant_id", "content", "limit"],
            [12, "국물이 진해요", 5.0],
            [],
            ["mapo-3", None, "#N/A"],
        ],
    )


def parquet(path: Path) -> Path:
    ids = pa.array(["12", "mapo-3"])
    pq.write_table(
        pa.table({"restaurant_id": ids, "content": ["국물이 진해요", None], "limit": [5.0, float("nan")]}),
        path,
    )
    return path


def text(data: str, encoding: str = "utf-8") -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        data_in = data.encode(encoding)
        path.write_bytes(gzip.compress(data_in) if path.suffix == ".gz" else data_in)
        return path

    return write


LINES = (
    '{"restaurant_id": 12.0, "content": "국물이 진해요", "limit": 5.0}\n\n'
    '{"restaurant_id": "mapo-3", "content": NaN, "limit": null}\n'
)
LIST = (
    '[{"restaurant_id": 12.0, "content": "국물이 진해요", "limit": 5},\n'
    ' {"restaurant_id": "mapo-3", "content": null, "limit": NaN}]'
)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.csv", text(CSV)),
        ("a.csv", text(CSV, "utf-8-sig")),
        ("a.csv", text(CSV, "cp949")),
        ("a.csv", text(CSV, "utf-16")),
        ("a.csv", text(CSV.replace("\n", "\r\n"), "cp949")),
        ("a.csv", text(CSV.replace("\n", "\r"))),
        ("a.csv", text("sep=;\n" + CSV.replace(",", ";"))),
        ("a.csv", text(CSV.replace(",", ";"))),
        ("a.csv", text(CSV.replace("\n", ",,\n"))),
        ("a.csv", text(CSV + "\n,,\n")),
        ("a.CSV", text(" restaurant_id , content,limit\n12,국물이 진해요,5\nmapo-3,,\n")),
        ("a.tsv", text(CSV.replace(",", "\t"))),
        ("a.csv.gz", text(CSV, "cp949")),
        ("a.jsonl", text(LINES)),
        ("a.jsonl", text(LINES, "utf-8-sig")),
        ("a.jsonl", text(LINES, "cp949")),
        ("a.jsonl", text(LINES, "utf-16")),
        ("a.ndjson.gz", text(LINES.replace("\n", "\r\n"))),
        ("a.json", text(LIST)),
        ("a.json", text(LINES)),
        ("a.json", text(json.dumps({"total": 2, "rows": ROWS}))),
        ("a.json.gz", text(LIST, "utf-16")),
        ("a", text(LINES)),
        ("a", text(LIST)),
        ("a.data", text(CSV)),
        ("a.parquet", parquet),
        ("a.xlsx", excel),
    ],
)
@pytest.mark.sample(12)
def test_the_same_items_come_from_every_kind(
    name: str, write: Callable[[Path], Path], tmp_path: Path
) -> None:
    found = list(read_items(write(tmp_path / name)))
    for row in found:  # a column of a Parquet file has one type
        row["restaurant_id"] = 12 if row["restaurant_id"] == "12" else row["restaurant_id"]
    assert found == ROWS
    assert {type(row["limit"]) for row in found} == {int, type(None)}


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame({"restaurant_id": [1.0, 2.0], "text": ["a", np.nan], "n": [np.int64(3), 4]}),
        pd.DataFrame(
            {
                "restaurant_id": pd.array([1, 2], "Int64"),
                "text": pd.array(["a", pd.NA], "string"),
                "n": [3, 4],
            }
        ),
        pd.DataFrame({"text": ["a", None], "n": [3, 4]}, index=pd.Index([1, 2], name="restaurant_id")),
        pd.DataFrame(
            {"restaurant_id": [Decimal(1), Decimal(2)], "text": pd.Categorical(["a", None]), "n": [3, 4]}
        ),
        pl.DataFrame({"restaurant_id": [1, 2], "text": ["a", None], "n": [3, 4]}),
        pl.LazyFrame({"restaurant_id": [1.0, 2.0], "text": ["a", None], "n": [3, 4]}),
        pa.table({"restaurant_id": [1, 2], "text": ["a", None], "n": [3, 4]}),
        pa.table({"restaurant_id": [1, 2], "text": ["a", None], "n": [3, 4]}).to_batches()[0],
        pa.table({"restaurant_id": [1, 2], "text": ["a", None], "n": [3, 4]}).to_reader(),
        [{"restaurant_id": np.int64(1), "text": "a", "n": 3}, {"restaurant_id": 2.0, "text": pd.NA, "n": 4}],
    ],
    ids=lambda frame: type(frame).__module__ + type(frame).__name__,
)
def test_the_same_items_come_from_every_frame(frame: Any) -> None:
    found = [dict(sorted(row.items())) for row in read_items(frame)]
    assert found == [{"n": 3, "restaurant_id": 1, "text": "a"}, {"n": 4, "restaurant_id": 2, "text": None}]
    assert {type(row["restaurant_id"]) for row in found} == {int}


def test_a_library_that_only_speaks_arrows_interface_is_read() -> None:
    class Relation:
        """As that of duckdb: columns, and a stream of Arrow."""

        columns = ("restaurant_id",)

        def __arrow_c_stream__(self, requested_schema: object = None) -> object:
            return pa.table({"restaurant_id": [1, 2]}).__arrow_c_stream__(requested_schema)

    assert list(read_items(Relation())) == [{"restaurant_id": 1}, {"restaurant_id": 2}]


def test_lists_and_objects_in_cells_are_plain_too(tmp_path: Path) -> None:
    rows = [
        {
            "id": 1,
            "reviews": np.array(["a", "b"]),
            "more": {"n": np.float64("nan")},
            "at": np.datetime64("2024-01-02"),
        }
    ]
    assert next(iter(read_items(pd.DataFrame(rows).astype(object))))["reviews"] == ["a", "b"]
    pq.write_table(
        pa.table({"id": [1], "reviews": [["a", None]], "more": [{"n": float("nan")}]}), tmp_path / "a.parquet"
    )
    assert list(read_items(tmp_path / "a.parquet")) == [
        {"id": 1, "reviews": ["a", None], "more": {"n": None}}
    ]


def test_times_of_nanoseconds_are_read(tmp_path: Path) -> None:
    table = pa.table({"id": [1], "at": pa.array([1_700_000_000_123_456_789], pa.timestamp("ns"))})
    pq.write_table(table, tmp_path / "a.parquet")
    [row] = read_items(tmp_path / "a.parquet")
    assert row["at"] == datetime.fromisoformat("2023-11-14T22:13:20.123456")


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("12", 12), ("12.0", 12), (" 12 ", 12), ("-3", -3), ("0", 0), ("007", "007"), ("1e3", "1e3"), ("12.5", "12.5"),
        ("-0", "-0"), ("+1", "+1"), ("9223372036854775807", 2**63 - 1), ("9223372036854775808", "9223372036854775808"),
        ("", None), ("NaN", None), ("NULL", None), ("<NA>", None), ("가게-1", "가게-1"), ("１２", "１２"),
    ],
)  # fmt: skip
def test_an_id_in_a_table_of_texts_is_a_number_if_it_is_written_as_one(
    cell: str, value: Any, tmp_path: Path
) -> None:
    (tmp_path / "a.csv").write_text(f"restaurant_id,x\n{cell},y\n", encoding="utf-8")
    [row] = read_items(tmp_path / "a.csv")
    assert row == {"restaurant_id": value, "x": "y"}


def test_columns_are_renamed_and_one_whose_name_is_taken_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("가게,text,content\n1,a,b\n", encoding="utf-8")
    assert list(read_items(path, columns={"restaurant_id": "가게", "content": "text"})) == [
        {"restaurant_id": 1, "content": "a"}
    ]
    assert list(read_items(path, columns={"restaurant_id": "가게", "name": "가게"})) == [
        {"restaurant_id": 1, "name": "1", "text": "a", "content": "b"}
    ]


def test_a_name_in_the_decomposed_form_of_macos_is_the_same_name(tmp_path: Path) -> None:
    from unicodedata import normalize

    (tmp_path / "a.csv").write_text(normalize("NFD", "가게,리뷰\n1,a\n"), encoding="utf-8")
    assert list(read_items(tmp_path / "a.csv", columns={"restaurant_id": "가게"})) == [
        {"restaurant_id": 1, "리뷰": "a"}
    ]


def test_the_index_that_pandas_writes_without_a_name_is_no_column(tmp_path: Path) -> None:
    pd.DataFrame({"id": [5, 6]}).to_csv(tmp_path / "a.csv")
    assert list(read_items(tmp_path / "a.csv")) == [{"id": 5}, {"id": 6}]


def test_cells_of_several_lines_and_long_ones_are_whole(tmp_path: Path) -> None:
    long = "가" * 100_000
    pd.DataFrame({"id": [1, 2], "text": ['a,\n"b"', long]}).to_csv(tmp_path / "a.csv", index=False)
    assert [row["text"] for row in read_items(tmp_path / "a.csv")] == ['a,\n"b"', long]


@pytest.mark.parametrize("size", [1, 3, 70_000, 300_000])
def test_a_json_document_is_read_element_by_element(size: int, tmp_path: Path) -> None:
    rows = [{"id": number, "text": "나" * size, "n": [number]} for number in range(4)] + [7, "x", 1.5, None]
    for indent in (None, 1):
        (tmp_path / "a.json").write_text(
            json.dumps(rows, ensure_ascii=False, indent=indent), encoding="utf-8"
        )
        assert list(read_items(tmp_path / "a.json")) == rows


def test_a_table_can_be_read_again_and_says_how_far_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": 1}\n{"id": 2}\n')
    table = read_items(path)
    assert list(table) == list(table) == [{"id": 1}, {"id": 2}]
    assert table.bytes_read == table.size == path.stat().st_size
    assert table.line == 2


def test_standard_input_is_read_whatever_it_holds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    packed = gzip.compress(CSV.encode("cp949"))
    for data in (CSV.encode("utf-16"), LINES.encode(), packed, parquet(tmp_path / "a.parquet").read_bytes()):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        assert [row["content"] for row in read_items("-")] == ["국물이 진해요", None]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
@pytest.mark.parametrize("kind", ["csv", "xlsx"])
def test_a_named_pipe_is_read_once_and_to_its_end(kind: str, tmp_path: Path) -> None:
    data = CSV.encode("cp949") if kind == "csv" else excel(tmp_path / "a.xlsx").read_bytes()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(data,))
    writer.start()
    assert [row["restaurant_id"] for row in read_items(pipe)] == [12, "mapo-3"]
    writer.join()


def test_opened_files_are_read(tmp_path: Path) -> None:
    assert len(list(read_items(io.BytesIO(CSV.encode())))) == 2
    assert len(list(read_items(io.StringIO(LINES)))) == 2
    with text(CSV)(tmp_path / "a.csv").open(encoding="utf-8") as file:
        assert len(list(read_items(file))) == 2


def test_a_folder_of_one_kind_is_one_table(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"part-{number}.csv").write_text(f"id\n{number}\n")
    (tmp_path / "_SUCCESS").write_text("")
    assert list(read_items(tmp_path)) == [{"id": 0}, {"id": 1}, {"id": 2}]
    (tmp_path / "part-1.csv").write_text("id\n1,2,3\n")
    with pytest.raises(ConfigurationError, match=r"part-1\.csv', line 2"):
        list(read_items(tmp_path))
    (tmp_path / "notes.md").write_text("")
    with pytest.raises(ConfigurationError, match="is a folder, and not one of tables of one kind"):
        read_items(tmp_path)


def test_only_what_is_wanted_is_read() -> None:
    taken = []

    def rows() -> Any:
        for number in range(10):
            taken.append(number)
            yield {"id": number}

    next(iter(read_items(rows())))
    assert taken == [0]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["csv", "jsonl", "json", "json.gz", "parquet"])
def test_memory_does_not_grow_with_the_file(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{kind}"
    frame = pd.DataFrame({"id": range(60_000), "text": ["국물이 진하고 맛있어요 " * 5] * 60_000})
    if kind == "csv":
        frame.to_csv(path, index=False)
    elif kind == "parquet":
        frame.to_parquet(path, row_group_size=5_000)
    else:
        frame.to_json(path, orient="records", lines=kind == "jsonl", force_ascii=False)
    del frame
    table = read_items(path)
    tracemalloc.start()
    try:
        assert sum(1 for _ in table) == 60_000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8e6
    assert table.bytes_read == table.size
