"""`--plan` on the command line: what a run comes to, without a call to a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from restaurant_llm_batch import LLMRequest, LLMResponse, Store
from restaurant_llm_batch.backends import OfflineLLM
from restaurant_llm_batch.cli._app import build

TASKS = ["summarize", "sentiment", "summarize-reviews", "strengths", "compare", "vocabulary"]
REVIEWS = [
    {"restaurant_id": 1, "review_id": 1, "content": "The soup was great.", "rating": 5},
    {"restaurant_id": 1, "review_id": 2, "content": "Friendly staff, fair prices.", "rating": 4},
    {"restaurant_id": 2, "review_id": 3, "content": "너무 짜고 비싸요.", "rating": 1},
]


class NeverCalled:
    """A model that must not be called."""

    def complete(self, request: LLMRequest) -> Any:
        raise AssertionError("the model was called")

    async def acomplete(self, request: LLMRequest) -> Any:
        raise AssertionError("the model was called")


@pytest.fixture(autouse=True)
def _in_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [json.dumps(review, ensure_ascii=False) for review in REVIEWS]
    Path("reviews.jsonl").write_text("\n".join(lines), encoding="utf-8")


def invoke(*words: str) -> Result:
    return CliRunner().invoke(build({"fake": lambda options: NeverCalled()}), [*words])


def invoke_real(*words: str) -> Result:
    return CliRunner().invoke(build(), [*words])


@pytest.mark.parametrize("command", TASKS)
@pytest.mark.sample(1)
def test_every_command_plans_its_run_and_calls_no_model(command: str) -> None:
    result = invoke(command, "reviews.jsonl", "--plan")

    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("Plan of ")
    assert ": 2 items" in result.stdout.splitlines()[0]


@pytest.mark.parametrize(
    "words",
    [
        ["--llm", "openai", "--model", "m"],
        ["--llm", "openai-batch", "--model", "m"],
        ["--llm", "runpod", "--runpod-endpoint", "abc123def456"],
    ],
    ids=lambda words: words[1],
)
def test_a_plan_needs_no_key_as_it_calls_no_model(monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    for variable in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "RUNPOD_API_KEY"):
        monkeypatch.delenv(variable, raising=False)
    planned = invoke_real("summarize", "reviews.jsonl", *words, "--plan")
    assert planned.exit_code == 0, planned.output
    assert planned.stdout.startswith("Plan of ")
    run = invoke_real("summarize", "reviews.jsonl", *words)
    assert run.exit_code == 2
    assert "API_KEY" in run.output


def test_an_own_task_is_planned_too(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("planned_tasks.py").write_text(
        "from restaurant_llm_batch import LLMRequest\n"
        "from restaurant_llm_batch.steps import complete\n"
        "def dish(item):\n"
        "    yield from complete(LLMRequest('dish', ({'role': 'user', 'content': 'A dish?'},)))\n",
        encoding="utf-8",
    )
    Path("items.csv").write_text("id,name\n1,a\n2,b\n3,c\n", encoding="utf-8")
    monkeypatch.syspath_prepend(".")
    result = invoke("run", "planned_tasks:dish", "items.csv", "--plan")

    assert result.exit_code == 0, result.output
    assert "dish 3" in result.stdout


def test_the_plan_is_written_as_json() -> None:
    to_file = invoke("summarize", "reviews.jsonl", "--plan", "-o", "plan.json")
    to_output = invoke("summarize", "reviews.jsonl", "--plan", "-o", "-")

    assert to_file.stdout.startswith("Plan of ")
    assert json.loads(Path("plan.json").read_text(encoding="utf-8")) == json.loads(to_output.stdout)
    assert json.loads(to_output.stdout)["calls"] == {"aspect_summaries": 2}
    assert invoke("summarize", "reviews.jsonl", "--plan", "-q", "-o", "quiet.json").stdout == ""


def test_the_plan_does_not_overwrite_its_input() -> None:
    before = Path("reviews.jsonl").read_bytes()
    result = invoke("sentiment", "reviews.jsonl", "--plan", "-o", "reviews.jsonl")

    assert result.exit_code == 2
    assert Path("reviews.jsonl").read_bytes() == before


@pytest.mark.parametrize("words", [["--plan", "B"], ["--order", "b"], ["--plan", "a"]])
def test_a_letter_after_plan_is_the_order_of_a_vocabulary(words: list[str]) -> None:
    assert "the model was called" in str(invoke("vocabulary", "reviews.jsonl", *words).output)


def test_an_order_can_be_planned() -> None:
    assert "words 2" in invoke("vocabulary", "reviews.jsonl", "--order", "B", "--plan").stdout
    assert "is not one of" in invoke("vocabulary", "--plan", "reviews.jsonl").output


class Answering:
    """A model that says how many tokens its answers have."""

    model = "answering"

    def complete(self, request: LLMRequest) -> LLMResponse:
        text = OfflineLLM().complete(request).text
        return LLMResponse(text, prompt_tokens=300, completion_tokens=len(text) // 3, model=self.model)


@pytest.mark.slow
def test_a_plan_with_a_record_learns_from_it_and_leaves_it_as_it_is() -> None:
    def invoke_answering(*words: str) -> Result:
        command = build({"fake": lambda options: Answering()})
        return CliRunner().invoke(command, ["summarize", "reviews.jsonl", "--record", "night.db", *words])

    lines = [
        json.dumps({"restaurant_id": number % 12, "review_id": number, "content": f"Soup {number} was good."})
        for number in range(36)
    ]
    Path("reviews.jsonl").write_text("\n".join(lines), encoding="utf-8")
    first = invoke_answering("--plan")
    assert first.exit_code == 0, first.output
    assert "learned from" not in first.stdout
    assert not Path("night.db").exists()
    for _ in range(2):
        assert invoke_answering().exit_code == 0
    before = Path("night.db").read_bytes()
    plan = invoke_answering("--plan", "-o", "plan.json")

    assert plan.exit_code == 0, plan.output
    assert "learned from      2 runs of night.db" in plan.stdout
    assert json.loads(Path("plan.json").read_text(encoding="utf-8"))["learned_from"].startswith("2 runs")
    assert Path("night.db").read_bytes() == before


def test_a_plan_takes_a_store_without_runs_for_an_empty_record_and_refuses_other_files() -> None:
    Store("night.db").open()
    Path("notes.txt").write_text("no database " * 100, encoding="utf-8")

    assert invoke("summarize", "reviews.jsonl", "--plan", "--record", "night.db").exit_code == 0
    refused = invoke("summarize", "reviews.jsonl", "--plan", "--record", "notes.txt")
    assert refused.exit_code != 0
    assert "notes.txt" in refused.output
