"""``-o`` writes what the ending says, with names, in one piece; and nothing of the user's is overwritten."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from restaurant_llm_batch import LLMRequest, LLMResponse, errors
from restaurant_llm_batch.backends import OfflineLLM
from restaurant_llm_batch.cli._app import build


class Refusing(OfflineLLM):
    """Refuses restaurant 3."""

    def complete(self, request: LLMRequest, /) -> LLMResponse:
        if request.inputs["restaurant_id"] == 3:
            raise errors.PermanentBackendError("=too long")
        return super().complete(request)


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    path = tmp_path / "reviews.jsonl"
    lines = [
        {"restaurant_id": n, "name": f"={n}번 집", "reviews": [{"review_id": 1, "content": f"맛있어요 {n}"}]}
        for n in range(1, 6)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def invoke(*words: str | Path) -> Result:
    llms: Any = {"refusing": lambda options: Refusing(), "offline": lambda options: OfflineLLM()}
    return CliRunner().invoke(build(llms), [str(word) for word in words])


def read_csv(path: Path, separator: str = ",") -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file, delimiter=separator))


@pytest.mark.parametrize(("name", "separator"), [("out.csv", ","), ("out.tsv", "\t")])
@pytest.mark.sample(1)
def test_a_table_has_a_row_for_every_item_with_its_id_and_name(
    name: str, separator: str, reviews: Path, tmp_path: Path
) -> None:
    invoke("sentiment", reviews, "-q", "--llm", "refusing", "-o", tmp_path / name)
    rows = sorted(read_csv(tmp_path / name, separator), key=lambda row: row["restaurant_id"])

    assert [row["restaurant_id"] for row in rows] == ["1", "2", "3", "4", "5"]
    assert [row["name"] for row in rows] == [f"'={n}번 집" for n in range(1, 6)]
    assert [row["positive_count"] for row in rows] == ["1", "1", "", "1", "1"]
    assert [row["failure.message"] for row in rows] == ["", "", "'=too long", "", ""]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "reviews.jsonl"])


def test_an_item_that_failed_is_a_row_with_its_error(reviews: Path, tmp_path: Path) -> None:
    assert invoke("summarize", reviews, "-q", "--llm", "refusing", "-o", tmp_path / "out.csv").exit_code == 1
    rows = {row["restaurant_id"]: row for row in read_csv(tmp_path / "out.csv")}

    assert (rows["3"]["failure.stage"], rows["3"]["failure.message"]) == ("llm", "'=too long")
    assert rows["3"]["overall_summary"] == ""
    assert rows["3"]["name"] == "'=3번 집"
    assert rows["1"]["failure.stage"] == ""
    assert rows["1"]["service.status"]


@pytest.mark.parametrize(("level", "expected"), [("labels", 5), ("failures", 0), ("results", 5)])
@pytest.mark.sample(2)
def test_a_level_says_what_a_row_is(level: str, expected: int, reviews: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    invoke("sentiment", reviews, "-q", "--level", level, "-o", out)
    rows = [json.loads(line) for line in out.read_text().splitlines()]

    assert len(rows) == expected
    assert all("name" in row and "labels" not in row for row in rows)


@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_a_table_without_failures_has_a_line_of_names(ending: str, reviews: Path, tmp_path: Path) -> None:
    out = tmp_path / f"out.{ending}"
    invoke("sentiment", reviews, "-q", "--level", "failures", "-o", out)
    (line,) = out.read_text(encoding="utf-8-sig").splitlines()

    assert line.replace("\t", ",").startswith("item_id,name,index,stage,error,message,attempts,spent.seconds")


def test_a_level_that_the_command_does_not_have_is_refused_before_a_call(
    reviews: Path, tmp_path: Path
) -> None:
    done = invoke("sentiment", reviews, "-q", "--level", "words", "-o", tmp_path / "out.csv")

    assert done.exit_code == 2
    assert "--level words" in done.output
    assert not (tmp_path / "out.csv").exists()


def test_json_is_a_list_and_anything_else_is_json_lines(reviews: Path, tmp_path: Path) -> None:
    assert invoke("sentiment", reviews, "-q", "--llm", "offline", "-o", tmp_path / "out.json").exit_code == 0
    assert invoke("sentiment", reviews, "-q", "--llm", "offline", "-o", tmp_path / "out").exit_code == 0

    key = "restaurant_id"
    listed = json.loads((tmp_path / "out.json").read_text())
    lines = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert sorted(listed, key=lambda one: one[key]) == sorted(lines, key=lambda one: one[key])
    assert len(listed) == 5


def test_parquet_has_numbers_lists_and_names(reviews: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    done = invoke("summarize", reviews, "-q", "--llm", "offline", "-o", tmp_path / "out.parquet")

    assert done.exit_code == 0, done.output
    rows = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert sorted(row["restaurant_id"] for row in rows) == [1, 2, 3, 4, 5]
    assert {row["name"] for row in rows} == {f"={n}번 집" for n in range(1, 6)}
    assert all(isinstance(row["food.bullets"], list) for row in rows)


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-o", "out.csv.gz"], "must end with one of"),
        (["-o", "reviews.jsonl"], "is the input file"),
        (["--store", "s.csv", "-o", "s.csv"], "is the store"),
        (["--plan", "-o", "plan.csv"], "a plan is written as JSON"),
    ],
)
def test_an_output_that_cannot_be_is_refused_before_anything_is_opened(
    words: list[str], said: str, reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = invoke("sentiment", reviews, "-q", *words)

    assert done.exit_code == 2
    assert said in " ".join(done.output.split())
    assert [path.name for path in tmp_path.iterdir()] == ["reviews.jsonl"]


def test_a_library_that_is_missing_is_said_before_a_call(
    reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    done = invoke("sentiment", reviews, "-q", "-o", tmp_path / "out.parquet")

    assert done.exit_code == 2
    assert "pip install 'restaurant-llm-batch[tables]'" in " ".join(done.output.split())
    assert list(tmp_path.iterdir()) == [reviews]


KILLED = """
import os, sys
from restaurant_llm_batch.backends import OfflineLLM
from restaurant_llm_batch.cli._app import build

class Killed(OfflineLLM):
    calls = 0
    def complete(self, request):
        Killed.calls += 1
        if Killed.calls == 4:
            os.kill(os.getpid(), 9)
        return super().complete(request)

build({"killed": lambda options: Killed()}).main()
"""


@pytest.mark.slow
def test_a_killed_run_leaves_the_old_table_and_the_rows_that_were_finished(
    reviews: Path, tmp_path: Path
) -> None:
    (tmp_path / "out.csv").write_text("yesterday\n")
    words = ["sentiment", str(reviews), "-q", "--stage", "1", "-o", str(tmp_path / "out.csv")]
    subprocess.run([sys.executable, "-c", KILLED, *words], check=False)

    assert (tmp_path / "out.csv").read_text() == "yesterday\n"
    finished = (tmp_path / "out.csv.partial").read_text().splitlines()
    assert [json.loads(line)["restaurant_id"] for line in finished] == [1, 2, 3]


def test_a_plan_is_one_object_whatever_the_ending_is(reviews: Path, tmp_path: Path) -> None:
    assert invoke("sentiment", reviews, "-q", "--plan", "-o", tmp_path / "plan.json").exit_code == 0

    assert "calls" in json.loads((tmp_path / "plan.json").read_text())
