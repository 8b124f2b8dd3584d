"""Tables on the command line: every command reads every kind, under other names of columns, with bad rows left out."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner, Result

from restaurant_llm_batch.cli._app import build

COMMANDS = ["summarize", "summarize-reviews", "sentiment", "strengths", "compare", "vocabulary"]
CSV = (
    "가게,이름,리뷰,별점\n1,을지면옥,육수가 시원하고 직원이 친절해요,9\n"
    "1,을지면옥,가격이 비싸요,2\n2,마포갈비,고기가 맛있어요,10\n"
)
COLUMNS = "restaurant_id=가게,name=이름,content=리뷰,rating=별점"


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "reviews.csv").write_text(CSV, encoding="cp949")
    return tmp_path


def invoke(*words: object, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(build(), list(map(str, words)), input=stdin)


def flat(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.sample(1)
def test_a_table_in_cp949_with_columns_of_its_own_is_read(command: str, folder: Path) -> None:
    scale = ("--rating-scale", "1-10") if command == "summarize-reviews" else ()
    result = invoke(command, "reviews.csv", "--columns", COLUMNS, *scale, "-o", "out.jsonl")
    assert result.exit_code == 0, result.output
    records = [json.loads(line) for line in (folder / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    ids = {
        next(
            record[name]
            for name in ("restaurant_id", "target_restaurant_id", "document_id")
            if name in record
        )
        for record in records
    }
    assert ids == {1, 2}
    assert "을지면옥" in result.stdout


def test_the_scale_of_ratings_decides_what_is_positive() -> None:
    result = invoke(
        "summarize-reviews", "reviews.csv", "--columns", COLUMNS, "--rating-scale", "1-10", "-o", "-"
    )
    counts = {
        (record["positive_count"], record["negative_count"])
        for record in map(json.loads, result.stdout.splitlines())
    }
    assert counts == {(1, 1), (1, 0)}
    result = invoke("summarize-reviews", "reviews.csv", "--columns", COLUMNS)
    assert result.exit_code == 2
    assert (
        "line 2: rating must be a number from 1 to 5, got '9' (for another scale: --rating-scale 1-10)"
        in flat(result.stderr)
    )
    assert "--rating-scale 1-10" in invoke("summarize-reviews", "reviews.csv", "--rating-scale", "ten").stderr


@pytest.mark.parametrize("command", ["summarize", "sentiment", "vocabulary", "index"])
@pytest.mark.sample(2)
def test_columns_that_are_missing_are_told_with_the_option(command: str) -> None:
    more = ("--into", "x") if command == "index" else ()
    result = invoke(command, "reviews.csv", *more)
    assert result.exit_code == 2
    assert "did you mean --columns restaurant_id=가게,content=리뷰" in flat(result.stderr)
    assert result.stdout == ""


def test_an_index_is_made_of_a_packed_table_and_searched(folder: Path) -> None:
    (folder / "reviews.csv.gz").write_bytes(gzip.compress((CSV + ",,어디인지 없음,1\n").encode("utf-16")))
    result = invoke("index", "reviews.csv.gz", "--columns", COLUMNS, "--into", "x")
    assert "line 5: restaurant_id is missing" in flat(result.stderr)
    result = invoke("index", "reviews.csv.gz", "--columns", COLUMNS, "--into", "x", "--bad-rows", "skip")
    assert result.exit_code == 0, result.output
    assert "Indexed 3 reviews of 2 restaurants (1 bad row left out)" in flat(result.stdout)
    found = invoke("search", "reviews.csv", "--columns", COLUMNS, "--restaurant", "2", "고기")
    assert "고기가 맛있어요" in found.stdout


def test_reviews_come_from_standard_input() -> None:
    lines = b'{"restaurant_id": 1, "content": "good food"}\n'
    for words in (("sentiment", "-"), ("vocabulary", "-")):
        result = invoke(*words, stdin=lines)
        assert result.exit_code == 0, result.output
    assert "1 of 1 restaurant" in flat(
        invoke("sentiment", "-", "--columns", "content=b,restaurant_id=a", stdin=b"a,b\n1,good\n").stdout
    )


def test_bad_rows_are_left_out_and_counted_at_the_end(folder: Path) -> None:
    (folder / "bad.jsonl").write_text('{"restaurant_id": 1, "content": "good"}\n{"restaurant_id": 1}\n[]\n')
    result = invoke("sentiment", "bad.jsonl", "--bad-rows", "skip")
    assert result.exit_code == 0, result.output
    assert "2 bad rows were left out." in flat(result.stdout)
    assert "line 2" in invoke("sentiment", "bad.jsonl").stderr


def test_parquet_and_a_folder_of_it_are_read(folder: Path) -> None:
    frame = pd.DataFrame(
        {"restaurant_id": [1, 2], "content": ["good food", "bad service"], "name": ["A", "B"]}
    )
    (folder / "parts").mkdir()
    frame.to_parquet(folder / "parts" / "part-0.parquet")
    frame.to_parquet(folder / "reviews.parquet")
    for source in ("parts", "reviews.parquet"):
        result = invoke("sentiment", source, "-o", "-")
        assert result.exit_code == 0, result.output
        assert {json.loads(line)["restaurant_id"] for line in result.stdout.splitlines()} == {1, 2}


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--columns", "content"], "'content' is not FIELD=COLUMN"),
        (["--columns", "리뷰=content"], "there is no column 'content'"),
        (["--columns", "restaurant_id=가게,content=리븀"], "did you mean --columns content=리뷰"),
        (["--columns", "restaurant_id=가게", "--columns", "content=nothing"], "there is no column 'nothing'"),
        (["--encoding", "korean-97"], "there is no encoding 'korean-97'; for example --encoding cp949"),
        (["--encoding", "utf-8"], "'reviews.csv', line 1: not UTF-8 text"),
        (["--bad-rows", "drop"], "'drop' is not one of 'refuse', 'skip'"),
    ],
)
def test_wrong_options_are_explained(words: list[str], says: str) -> None:
    result = invoke("sentiment", "reviews.csv", *words)
    assert result.exit_code == 2
    assert says in flat(result.stderr)
    assert "Traceback" not in result.output


def test_a_comma_in_the_name_of_a_column_is_part_of_it(folder: Path) -> None:
    (folder / "a.csv").write_text('id,"text, long"\n1,good\n')
    result = invoke("sentiment", "a.csv", "--columns", "restaurant_id=id,content=text, long")
    assert result.exit_code == 0, result.output


def test_text_files_in_cp949_are_documents(folder: Path) -> None:
    (folder / "menu.txt").write_text("국물이 진하고 면이 쫄깃하다.", encoding="cp949")
    result = invoke("vocabulary", "menu.txt")
    assert result.exit_code == 0, result.output
    assert re.search("국물|면", result.stdout)


def test_every_command_that_reads_reviews_has_the_options() -> None:
    for command in (*COMMANDS, "index", "search", "run", "serve"):
        text = invoke(command, "--help").stdout
        assert all(option in text for option in ("--columns", "--encoding", "--bad-rows")), command
        assert ("--rating-scale" in text) == (command == "summarize-reviews")
