"""Tables that are not what they seem, and rows that cannot be read: one sentence that says what to write."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path
from typing import Any

import openpyxl
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from restaurant_llm_batch.errors import ConfigurationError
from restaurant_llm_batch.records import read_items, read_reviews

CSV = b"restaurant_id,content\n1,a\n2,b\n"
LINES = b'{"restaurant_id": 1, "content": "a"}\n{"restaurant_id": 2, "content": "b"}\n'


def complaint(path: Path, **arguments: Any) -> str:
    """Return what the error of reading a file says; it must be one line."""
    with pytest.raises(ConfigurationError) as caught:
        list(read_reviews(path, **arguments))
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("a.jsonl", CSV, "is a CSV table, and not JSON Lines; rename it to 'a.csv'"),
        ("a.jsonl.gz", gzip.compress(CSV, mtime=0), "rename it to 'a.csv.gz'"),
        ("a.jsonl", b"restaurant_id\tcontent\n1\ta\n", "is a TSV table, and not JSON Lines; rename it to 'a.tsv'"),
        ("a.csv", LINES, "is JSON Lines, and not a CSV table; rename it to 'a.jsonl'"),
        ("a.csv", b'[\n{"restaurant_id": 1}]', "is a JSON document, and not a CSV table; rename it to 'a.json'"),
        ("a.jsonl", gzip.compress(LINES, mtime=0), "is packed with gzip, and its name does not say so; rename"),
        ("a", gzip.compress(LINES, mtime=0), "rename it to 'a.jsonl.gz'"),
        ("a", gzip.compress(CSV, mtime=0), "rename it to 'a.csv.gz'"),
        ("a.jsonl.gz", LINES, "is not packed with gzip; rename it to 'a.jsonl'"),
        ("a.jsonl.gz", gzip.compress(LINES * 5000, mtime=0)[:-20], "the gzip file is cut off or damaged"),
        ("a.csv.gz", gzip.compress(CSV * 5000, mtime=0)[:200], "the gzip file is cut off or damaged"),
        ("a.parquet", CSV, "is a CSV table, and not a Parquet file; rename it to 'a.csv'"),
        ("a.parquet", b"PAR1 and no end", "the Parquet file is cut off or damaged"),
        ("a.xlsx", CSV, "rename it to 'a.csv'"),
        ("a.xlsx", b"PK\x03\x04 and no end", "the workbook cannot be read"),
        ("a.xlsx", b"\xd0\xcf\x11\xe0", "a workbook of old Excel, or one with a password; save it as .xlsx or .csv"),
        ("a.xls", b"\xd0\xcf\x11\xe0", "save it as .xlsx or .csv"),
        ("a.csv", b"PK\x03\x04....xl/", "is an Excel workbook, and not a CSV table; rename it to 'a.xlsx'"),
        ("a.zip", b"PK\x03\x04....", "is a zip archive; unpack it"),
        ("a.csv", b"\x28\xb5\x2f\xfd..", "packed with zstd; unpack it: unzstd"),
        ("a.db", b"SQLite format 3\0", "is a database; export a table"),
        ("a.csv", "restaurant_id,content\n1,가\n".encode("utf-16-le"), 'its mark; write encoding="utf-16-le"'),
        ("a.csv", "restaurant_id,content\n1,café\n".encode("latin-1"), "line 2: not UTF-8 text"),
        ("a.csv", b"restaurant_id,content,content\n1,a,b\n", "two columns are called 'content'"),
        ("a.csv", b'restaurant_id,content\n1,"a\n', "a quotation mark is not closed; the file may be cut off"),
        ("a.csv", b"restaurant_id,content\n1,a\n2\n", "line 3: not 2 cells as in the line of names, but 1"),
        ("a.csv", b"restaurant_id,content\n1,a,b\n", "needs quotation marks"),
        ("a.csv", b'restaurant_id,content\n1,"a\nb"\n2\n', "line 4: not 2 cells"),
        ("a.json", b'[{"restaurant_id": 1, "content": "a"}', "it ends within a list; the file may be cut off"),
        ("a.json", b'[{"restaurant_id": 1, "content": "a"} {"b": 1}]', "a comma is missing"),
        ("a.json", b'[{"restaurant_id": 1, "con', "not JSON (Unterminated string"),
        ("a.json", b'{"restaurants": "none"}', "not a list of items"),
        ("a.jsonl", LINES + b'{"restaurant_id": 3, "con', "line 3: not JSON"),
        ("a.jsonl", LINES + b"null\n", "line 3: null, not an object"),
        ("a.csv", b"restaurant_id,content\n1.5,a\n,b\n", "line 3: restaurant_id is missing"),
    ],
)  # fmt: skip
@pytest.mark.sample(18)
def test_a_file_that_is_not_what_it_seems_is_one_sentence(
    name: str, data: bytes, says: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    assert says in complaint(path)


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ("restaurant_id,리뷰", 'did you mean columns={"content": "리뷰"}'),
        ("가게,리뷰", 'did you mean columns={"restaurant_id": "가게", "content": "리뷰"}'),
        (
            "Restaurant ID,Content",
            'did you mean columns={"restaurant_id": "Restaurant ID", "content": "Content"}',
        ),
        (
            "store_id,review_text",
            'did you mean columns={"restaurant_id": "store_id", "content": "review_text"}',
        ),
        ("가게번호,리뷰", 'did you mean columns={"restaurant_id": "가게번호", "content": "리뷰"}'),
        ("restaurant_id,contnet", 'did you mean columns={"content": "contnet"}'),
        ("restaurant_id,감상", 'did you mean columns={"content": "감상"}'),
        ("x,content", 'say which it is: columns={"restaurant_id": "NAME"}'),
    ],
)
def test_a_missing_column_is_guessed(header: str, says: str, tmp_path: Path) -> None:
    for name, separator in (("a.csv", ","), ("a.tsv", "\t")):
        path = tmp_path / name
        path.write_text(f"{header}\n1,맛있어요\n".replace(",", separator), encoding="utf-8")
        assert says in complaint(path)
    frame = pd.DataFrame([["1", "맛있어요"]], columns=header.split(","))
    with pytest.raises(ConfigurationError) as caught:
        list(read_reviews(frame))
    assert says in str(caught.value)


@pytest.mark.parametrize("number", ["가게번호", "가게 코드", "매장 번호", "식당ID"])
@pytest.mark.parametrize("name", ["상호", "가게명", "식당명"])
def test_a_number_is_guessed_for_the_id_before_a_name(number: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"{name},{number},리뷰\n집,1,맛있어요\n", encoding="utf-8")
    assert f'{{"restaurant_id": "{number}", "content": "리뷰"}}' in complaint(tmp_path / "a.csv")


def test_a_missing_field_of_json_is_guessed(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"restaurant_id": 1, "리뷰": "맛"}\n', encoding="utf-8")
    assert 'line 1: content is missing; did you mean columns={"content": "리뷰"}' in complaint(
        tmp_path / "a.jsonl"
    )


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"content": "reveiw"}, 'there is no column \'reveiw\' (its columns: \'restaurant_id\', \'review\'); did you '),
        ({"review": "content"}, 'write it the other way round: columns={"content": "review"}'),
        ({"content": ""}, "columns must be names of columns"),
        (["content"], "columns must be names of columns"),
        ("content=review", "columns must be names of columns"),
    ],
)  # fmt: skip
def test_wrong_names_of_columns_are_told_what_to_write(columns: Any, says: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("restaurant_id,review\n1,a\n")
    assert says in complaint(tmp_path / "a.csv", columns=columns)


def test_wrong_arguments_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no file"):
        read_items(tmp_path / "gone.csv")
    (tmp_path / "a.csv").write_bytes(CSV)
    for arguments, says in (
        ({"encoding": "utf-9"}, "there is no encoding 'utf-9'"),
        ({"encoding": "base64"}, "there is no encoding 'base64'"),
        ({"bad_rows": "drop"}, 'bad_rows must be "refuse" or "skip"'),
        ({"rating_scale": (5, 1)}, "rating_scale must be the lowest and the highest rating"),
        ({"rating_scale": "ten"}, "rating_scale must be"),
    ):
        with pytest.raises(ConfigurationError, match=says):
            read_reviews(tmp_path / "a.csv", **arguments)
    for source in (7, None, b"a.csv", {"id": 1}):
        with pytest.raises(ConfigurationError, match="source must be a path"):
            read_items(source)


def test_a_named_encoding_is_used_and_one_that_differs_from_the_mark_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("restaurant_id,content\n1,とても美味しい\n", encoding="shift_jis")
    assert [review.content for review in read_reviews(path, encoding="shift_jis")] == ["とても美味しい"]
    path.write_text("restaurant_id,content\n1,맛\n", encoding="utf-16")
    assert "begins with the mark of utf-16, and is not cp949" in complaint(path, encoding="CP949")
    path.write_text("restaurant_id,content\n1,맛\n", encoding="utf-8-sig")
    assert [review.content for review in read_reviews(path, encoding="utf-8")] == ["맛"]


def test_one_torn_character_does_not_make_a_file_another_encoding(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    good = "".join(f"{number},국물이 진해요 {number}\n" for number in range(50)).encode()
    path.write_bytes(
        b"restaurant_id,content\n" + good + "60,맛".encode()[:-1] + b"\n" + "61,좋아요\n".encode()
    )
    reviews = read_reviews(path, bad_rows="skip")
    assert len(list(reviews)) == 51
    assert [(row.line, row.reason[:14]) for row in reviews.skipped_rows] == [(52, "not UTF-8 text")]
    assert "line 52" in complaint(path)


def test_bad_rows_are_skipped_counted_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.jsonl"
    bad = [
        '{"restaurant_id": 1, "content": 5}',
        "null",
        '{"content": "x"}',
        '{"restaurant_id": true, "content": "x"}',
        "{",
    ]
    lines = [
        '{"restaurant_id": 1, "content": "a"}',
        *bad * 6,
        '{"restaurant_id": 2, "reviews": [{"content": "b"}, {"content": 1}]}',
    ]
    path.write_text("\n".join(lines))
    reviews = read_reviews(path, bad_rows="skip")
    assert [review.content for review in reviews] == ["a", "b"]
    assert reviews.skipped == 31
    assert len(reviews.skipped_rows) == 20
    assert [row.line for row in reviews.skipped_rows[:5]] == [2, 3, 4, 5, 6]
    assert reviews.skipped_rows[0].reason == "content must be text, got a number"
    assert len(caplog.messages) == 6
    assert "31 rows were left out in all" in caplog.messages[-1]
    list(reviews)
    assert reviews.skipped == 31


def test_a_table_without_a_good_row_is_refused_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("restaurant_id,content\n,a\n,b\n")
    assert "none of its 2 rows can be used; the first, line 2: restaurant_id is missing" in complaint(
        tmp_path / "a.csv", bad_rows="skip"
    )


def test_other_columns_are_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.csv").write_text("restaurant_id,content,at,user\n1,a,b,c\n2,a,b,c\n")
    reviews = read_reviews(tmp_path / "a.csv")
    list(reviews), list(reviews)
    assert [message.partition(": ")[2] for message in caplog.messages] == ["ignored columns: 'at', 'user'"]


@pytest.mark.parametrize(("name", "module"), [("a.parquet", "pyarrow"), ("a.xlsx", "openpyxl")])
def test_a_missing_package_names_the_extra(
    name: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "a.xlsx":
        openpyxl.Workbook().save(tmp_path / name)
    else:
        pq.write_table(pa.table({"restaurant_id": [1]}), tmp_path / name)
    monkeypatch.setitem(sys.modules, module, None)
    says = complaint(tmp_path / name)
    assert f"needs the package {module}: pip install 'restaurant-llm-batch[tables]'" in says


def test_a_rounded_id_is_refused() -> None:
    frame = pd.DataFrame({"restaurant_id": [1.0, 2.0**60], "content": ["a", "b"]})
    with pytest.raises(
        ConfigurationError, match=r"row 1: restaurant_id .* is too large for a number with a decimal point"
    ):
        list(read_reviews(frame))


def test_columns_of_several_levels_are_refused() -> None:
    frame = pd.DataFrame({"a": [1], "b": [2]}).T.reset_index()
    frame.columns = pd.MultiIndex.from_tuples([("x", "y"), ("x", "z")])
    frame.index.name = "id"
    with pytest.raises(ConfigurationError, match="columns of several levels"):
        list(read_items(frame))
