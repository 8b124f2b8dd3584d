"""Every file in examples/ runs offline, and prints what it promises."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

EXAMPLES = Path(__file__).parents[1] / "examples"

SCRIPTS = {
    "minimal.py": ["service: ok ['a']", "restaurant 3: (no reviews)"],
    "own_backend.py": ["restaurant 7: ", "calls: 2, rate limited: 1"],
    "own_task.py": ["restaurant 7: noodle soup", "restaurant 8: none"],
    "otlp.py": ["    chat gpt-5-mini (", "      restaurant_llm_batch attempt ("],
}


def run_example(name: str, folder: Path) -> str:
    """Run a script as a user would, in a folder of its own, and return its output."""
    return subprocess.run(
        [sys.executable, EXAMPLES / name],
        cwd=folder,
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        check=True,
        timeout=50,
    ).stdout


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] if name == "otlp.py" else []) for name in SCRIPTS],
)
def test_a_script_prints_what_it_promises(name: str, tmp_path: Path) -> None:
    output = run_example(name, tmp_path)

    assert [text for text in SCRIPTS[name] if text not in output] == []


def test_the_resumed_run_pays_only_for_what_was_not_answered(tmp_path: Path) -> None:
    lines = dict(line.split(": ") for line in run_example("resume.py", tmp_path).splitlines())
    before, after = map(int, lines["model calls before and after the stop"].split(" + "))

    assert lines["restaurants"] == "20"
    assert int(lines["answers from the store"]) >= 5
    assert after < 20
    assert before < 20


def test_the_application_serves_its_own_route_and_the_batch_routes() -> None:
    app = runpy.run_path(str(EXAMPLES / "fastapi_app.py"))["app"]
    with TestClient(app) as client:
        own = client.get("/restaurants/1/summary").json()
        batch = client.post(
            "/api/v1/llm/summarize/batch", json={"restaurants": [{"restaurant_id": 1}]}
        ).json()

    assert own["failures"] == batch["failures"] == []
    assert own["results"][0]["summary"] == batch["results"][0]["overall_summary"] != ""


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_the_notebook_runs_cell_by_cell(kernel: Any) -> None:
    notebook = json.loads((EXAMPLES / "notebook.ipynb").read_text(encoding="utf-8"))
    output: list[str] = []
    shown: list[str] = []

    def collect(message: Any) -> None:
        content = message["content"]
        data = content.get("data", {})
        shown.append(data.get("text/html", ""))
        output.append(
            content.get("text") or data.get("text/plain") or "\n".join(content.get("traceback", []))
        )

    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            reply = kernel.execute_interactive("".join(cell["source"]), output_hook=collect, timeout=50)
            assert reply["content"]["status"] == "ok", output

    lines = "\n".join(output).splitlines()
    assert any("(no reviews)" in line for line in lines)
    assert {"1 True", "2 True", "3 True"} <= set(lines)
    pages = [page for page in shown if page]
    for text in (
        "2 succeeded, 1 failed",
        "을지면옥",
        "Plan of SummarizeAspects: 3 items",
        "국물이 진하고",
        "2 succeeded, 0 failed",
    ):
        assert any(text in page for page in pages), text
    assert max(page.count("\n") for page in pages) < 200


def test_the_notebook_is_committed_without_outputs() -> None:
    notebook = json.loads((EXAMPLES / "notebook.ipynb").read_text(encoding="utf-8"))

    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert all(cell["id"] for cell in notebook["cells"])
    assert [c for c in notebook["cells"] if c.get("outputs") or c.get("execution_count")] == []


def test_every_example_is_run_by_a_test() -> None:
    tested = {*SCRIPTS, "fastapi_app.py", "notebook.ipynb", "resume.py"}

    assert {path.name for path in EXAMPLES.glob("*") if path.suffix in {".py", ".ipynb"}} == tested
