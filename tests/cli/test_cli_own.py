"""The command `run`: tasks and backends of the user's own, named as ``module:name``."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from restaurant_llm_batch.cli._app import build

MODULE = """
from dataclasses import dataclass
from pydantic import BaseModel
from restaurant_llm_batch import LLMRequest, LLMResponse, SummarizeAspects
from restaurant_llm_batch.errors import ConfigurationError
from restaurant_llm_batch.steps import complete, gather, search
from restaurant_llm_batch import SearchQuery

def shout(item):
    reply = yield from complete(LLMRequest("shout", ({"role": "user", "content": item["text"]},)))
    return {"shouted": reply.text, "length": len(item["text"])}

def fails(item):
    raise ValueError("no such thing")
    yield

def found(item):
    hits = yield from search(SearchQuery(item["restaurant_id"], "친절"))
    return [hit.content for hit in hits]

class Upper:
    fingerprint = "upper"
    def complete(self, request):
        return LLMResponse(request.messages[-1]["content"].upper(), model="upper-1")

def searches_later(item):
    yield from gather()
    yield from found(item)

def searches_in_parts(item):
    yield from gather(found(item), found(item))

class Form(BaseModel):
    name: str

class FormOfDefaults(BaseModel):
    name: str = ""

class Breaks:
    def __init__(self):
        {}["url"]

def breaks():
    return {}["key"]

def has_no_model():
    raise ConfigurationError("set MY_URL")

class NeedsURL:
    def __init__(self, url): ...

def make():
    return Upper()

backend = Upper()
summaries = SummarizeAspects(language="ko")
number = 7
"""


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A working folder with a module of the user's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "own_code", raising=False)
    (tmp_path / "own_code.py").write_text(MODULE, encoding="utf-8")
    (tmp_path / "items.csv").write_text("id,text\n1,맛 good\n2,bad\n", encoding="utf-8")
    return tmp_path


def run(*words: object, stdin: str | None = None) -> Result:
    return CliRunner().invoke(build(), ["run", *map(str, words)], input=stdin)


@pytest.mark.parametrize("llm", ["own_code:Upper", "own_code:make", "own_code:backend"])
@pytest.mark.parametrize("stage", ["1", "4", "threaded"])
@pytest.mark.sample(2)
def test_an_own_task_runs_with_an_own_backend(llm: str, stage: str, folder: Path) -> None:
    result = run("own_code:shout", "items.csv", "--llm", llm, "--stage", stage, "-o", "out.jsonl")
    assert result.exit_code == 0, result.output
    lines = sorted((folder / "out.jsonl").read_text(encoding="utf-8").splitlines())
    assert [json.loads(line) for line in lines] == [
        {"item_id": 1, "value": {"shouted": "맛 GOOD", "length": 6}},
        {"item_id": 2, "value": {"shouted": "BAD", "length": 3}},
    ]
    assert "shouted: 맛 GOOD; length: 6" in result.output
    assert "2 of 2 items done" in result.output


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("items.jsonl", '{"id": 1, "text": "a"}\n\n{"id": 2, "text": "b"}\n'),
        ("items.json", '[{"id": 1, "text": "a"}, {"id": 2, "text": "b"}]'),
        ("items.tsv", "\ufeffid\ttext\n1\ta\n2\tb\n"),
        ("items.csv", 'id,text\n1,a\n2,"b"\n'),
    ],
)
def test_items_come_from_files_of_many_kinds(name: str, text: str, folder: Path) -> None:
    (folder / name).write_text(text, encoding="utf-8")
    result = run("own_code:shout", name, "--llm", "own_code:Upper")
    assert result.exit_code == 0, result.output
    assert "shouted: B" in result.output


def test_items_come_from_standard_input_and_some_can_be_left_out() -> None:
    result = run(
        "own_code:shout", "-", "--llm", "own_code:Upper", "--first", 1, stdin='{"id": 1, "text": "a"}\n{}\n'
    )
    assert result.exit_code == 0, result.output
    assert "1 of 1 item done" in result.output


def test_a_task_of_the_library_with_a_search_runs_too(folder: Path) -> None:
    (folder / "reviews.jsonl").write_text(
        '{"restaurant_id": 1, "content": "직원이 친절해요"}\n', encoding="utf-8"
    )
    (folder / "ids.txt").write_text("1\n", encoding="utf-8")
    result = run("own_code:summaries", "ids.txt", "--reviews", "reviews.jsonl")
    assert result.exit_code == 0, result.output
    (folder / "ids.jsonl").write_text('{"restaurant_id": 1}\n')
    result = run("own_code:found", "ids.jsonl", "--reviews", "reviews.jsonl")
    assert "직원이 친절해요" in result.output


def test_a_failure_is_named_and_the_status_is_1() -> None:
    result = run("own_code:fails", "items.csv")
    assert result.exit_code == 1
    assert "no such thing" in result.output


def test_a_search_that_comes_later_without_reviews_names_the_option_too(folder: Path) -> None:
    (folder / "ids.jsonl").write_text('{"restaurant_id": 1}\n')
    result = run("own_code:searches_later", "ids.jsonl")
    assert result.exit_code == 1
    assert "search: --reviews FILE" in result.output
    assert "--search-concurrency" not in result.output


def test_a_preview_of_a_task_that_searches_needs_no_reviews(folder: Path) -> None:
    (folder / "ids.jsonl").write_text('{"restaurant_id": 1}\n')
    assert run("own_code:found", "ids.jsonl", "--preview").exit_code == 0


def test_the_example_of_the_docs_works_as_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "command-line.md").read_text(encoding="utf-8")
    section = page.partition("## Tasks of your own")[2]
    files = re.findall(r"`([\w.]+)`[^\n]*:\n\n```\w+\n(.*?)```", section, re.DOTALL)
    assert {"my_tasks.py", "my_backend.py", "remarks.csv", "items.jsonl", "ids.txt"} < {
        name for name, _ in files
    }
    for name, text in files:
        (folder / name).write_text(text, encoding="utf-8")
        monkeypatch.delitem(sys.modules, name.removesuffix(".py"), raising=False)
    commands = [line for line in section.splitlines() if line.startswith("restaurant-llm-batch run")]
    assert len(commands) == 3
    for line in commands:
        result = run(*shlex.split(line)[2:])
        assert result.exit_code == 0, result.output
    assert json.loads((folder / "answers.jsonl").read_text(encoding="utf-8")).keys() == {"item_id", "value"}


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (
            ["shout", "items.csv"],
            "the task must be module:name, got 'shout'; for example my_tasks:Complaints",
        ),
        (
            ["nowhere:shout", "items.csv"],
            "there is no module 'nowhere' here; run the command in the folder of nowhere.py",
        ),
        (["own_code:nothing", "items.csv"], "the task own_code:nothing: own_code has no nothing"),
        (["own_code:number", "items.csv"], "task must be a task or a generator function, got 7"),
        (["broken:x", "items.csv"], "broken cannot be imported: ZeroDivisionError: division by zero"),
        (["needs:x", "items.csv"], "needs needs absent_package, which is not installed"),
        (
            ["own_code:shout", "items.csv", "--llm", "own_code:number"],
            "--llm own_code:number must be a backend",
        ),
        (["own_code:shout", "items.csv", "--llm", "own_code:NeedsURL"], "NeedsURL needs arguments"),
        (["own_code:shout", "items.csv", "--llm", "vlm"], "'vlm' is not one of"),
        (["own_code:shout", "gone.csv"], "there is no file 'gone.csv'"),
        (["own_code:shout", "empty.csv"], "'empty.csv' has no item"),
        (["own_code:shout", "short.csv"], "'short.csv', line 3: not 2 cells as in the line of names"),
        (["own_code:shout", "short.json"], "'short.json': not JSON"),
        (["own_code:shout", "bad.jsonl"], "'bad.jsonl', line 2: not JSON"),
        (["own_code:shout", "object.json"], "'object.json': not a list of items"),
        (["own_code:summaries", "items.csv"], "there is no column 'restaurant_id'"),
        (["own_code:Form", "items.csv"], "Form is a pydantic model, the form of an answer"),
        (["own_code:FormOfDefaults", "items.csv"], "yield from ask(FormOfDefaults, ...)"),
        (["own_code:Breaks", "items.csv"], "the task own_code:Breaks failed: KeyError: 'url' (at "),
        (
            ["own_code:shout", "items.csv", "--llm", "own_code:breaks"],
            "--llm own_code:breaks failed: KeyError: 'key' (at ",
        ),
        (["own_code:shout", "items.csv", "--llm", "own_code:has_no_model"], "Error: set MY_URL"),
        (["own_code:shout", "items.csv", "--llm", "my_backend"], "nor MODULE:NAME of a backend of your own"),
        (["own_code:found", "ids.jsonl"], "the task own_code:found searches for reviews: pass --reviews"),
        (["own_code:searches_in_parts", "ids.jsonl"], "pass --reviews FILE"),
    ],
)
@pytest.mark.sample(2)
def test_what_cannot_work_is_said_in_one_sentence(words: list[str], complaint: str, folder: Path) -> None:
    (folder / "broken.py").write_text("1 / 0")
    (folder / "needs.py").write_text("import absent_package")
    (folder / "empty.csv").write_text("id,text\n")
    (folder / "short.csv").write_text("id,text\n1,a\n2\n")
    (folder / "short.json").write_text("[1,")
    (folder / "object.json").write_text("{}")
    (folder / "bad.jsonl").write_text('{"id": 1}\n{"id"\n')
    (folder / "ids.jsonl").write_text('{"restaurant_id": 1}\n{"restaurant_id": 2}\n')
    result = run(*words)
    assert result.exit_code == 2, result.output
    assert complaint in " ".join(result.output.split())
    assert "Traceback" not in result.output
