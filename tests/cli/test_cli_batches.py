"""Batches on the command line: `--llm openai-batch`, and batch files by hand."""

from __future__ import annotations

import json
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tests.support.patience import PATIENCE
from tests.support.waves import look_often

from restaurant_llm_batch.cli._app import build
from restaurant_llm_batch.testing.server import Faults, FaultServer


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    look_often(monkeypatch)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    path = tmp_path / "reviews.jsonl"
    rows = [
        {"restaurant_id": n, "review_id": f"r{n}", "content": f"{n}번 집 음식이 맛있고 친절해요"}
        for n in (1, 2)
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def call(*words: object) -> Result:
    return CliRunner().invoke(build(), [str(word) for word in words])


def answered(batch: Path, into: Path, **broken: Any) -> Path:
    """Answer a batch file as `vllm run-batch` does, by a server's answers."""
    import httpx

    with FaultServer() as server, into.open("w") as file:
        for raw in batch.read_text().splitlines():
            line = json.loads(raw)
            body = httpx.post(f"{server.url}{line['url']}", json=line["body"]).json()
            response = {"status_code": 200, "request_id": "x", "body": body}
            answer = {
                "id": "vllm-1",
                "custom_id": line["custom_id"],
                "response": response,
                "error": None,
                **broken,
            }
            file.write(json.dumps(answer) + "\n")
    return into


@pytest.mark.slow
def test_batch_files_by_hand_go_step_by_step_until_all_is_answered(reviews: Path, tmp_path: Path) -> None:
    model = ("--model", "tiny", "--llm-url", "http://localhost:1/v1", "--store", tmp_path / "run.db")
    batch = tmp_path / "batch.jsonl"
    asked = ("requests", reviews, "-o", batch, "--mode", "split", *model)
    lines = []
    for _ in range(2):
        done = call(*asked)
        assert done.exit_code == 0, done.output
        lines.append(len(batch.read_text().splitlines()))
        kept = call("answers", answered(batch, tmp_path / "answers.jsonl"), "--store", tmp_path / "run.db")
        assert kept.exit_code == 0, kept.output
        assert f"{lines[-1]} answers are in" in kept.output
    assert lines[0] >= 2 * lines[1] == 4
    assert "there is nothing to ask: 2 of 2" in call(*asked).output
    result = call(
        "summarize", reviews, "--llm", "openai", "--mode", "split", *model, "-o", tmp_path / "out.jsonl"
    )
    assert result.exit_code == 0, result.output  # and nobody listens at that address


def test_answers_that_are_none_are_counted_and_told(reviews: Path, tmp_path: Path) -> None:
    batch = tmp_path / "batch.jsonl"
    assert call("requests", reviews, "-o", batch, "--model", "tiny").exit_code == 0
    error = {"code": "oops", "message": "out of memory"}
    broken = answered(batch, tmp_path / "answers.jsonl", response=None, error=error)
    broken.write_text(broken.read_text() + "not JSON\n\n")
    result = call("answers", broken, "--store", tmp_path / "run.db")
    assert result.exit_code == 1
    assert "0 answers are in" in result.output
    assert "2 calls failed, 1 lines are no answers" in result.output
    assert "out of memory" in result.output


@pytest.mark.slow
@pytest.mark.parametrize("store", [True, False])
def test_a_first_ctrl_c_says_what_becomes_of_batches(
    store: bool,
    reviews: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    given = ["--store", tmp_path / "run.db"] if store else []
    with FaultServer(Faults(batch_faults=["batch_never_ends"])) as server:

        def interrupt() -> None:
            until = time.monotonic() + PATIENCE
            while "in_progress" not in server.counts.batches and time.monotonic() < until:
                time.sleep(0.005)
            signal.raise_signal(signal.SIGINT)

        presses = threading.Thread(target=interrupt)
        presses.start()
        words = ("--llm", "openai-batch", "--model", "tiny", "--llm-url", server.openai_url)
        result = call("summarize", reviews, *words, *given, "-o", tmp_path / "out.jsonl")
        presses.join(PATIENCE)
        statuses = server.counts.batches
    assert result.exit_code == 130, result.output
    told = capfd.readouterr().err  # written past Python's streams: the handler may have interrupted one
    assert "stopping: the batch is cancelled at the service" in told
    assert ("run the same command again to use what it has answered" in told) == store
    assert "press Ctrl-C again" not in told
    assert statuses == {"cancelling": 1}


def test_requests_need_a_model_and_answers_a_file_that_is_there(reviews: Path, tmp_path: Path) -> None:
    assert "--model gpt-5-mini" in call("requests", reviews, "-o", tmp_path / "b.jsonl").output
    missing = call("answers", tmp_path / "none.jsonl", "--store", tmp_path / "run.db")
    assert missing.exit_code == 2
    assert "cannot be read" in missing.output


@pytest.mark.slow
def test_a_command_sends_its_calls_in_batches(
    reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    with FaultServer() as server:
        given = ("--llm", "openai-batch", "--model", "tiny", "--llm-url", server.openai_url)
        result = call(
            "summarize", reviews, *given, "--store", tmp_path / "run.db", "-q", "-o", tmp_path / "out.jsonl"
        )
        counts = server.counts
    assert result.exit_code == 0, result.output
    assert (counts.batches, counts.asked("/v1/chat/completions")) == ({"completed": 1}, 0)


@pytest.mark.slow
def test_a_plan_says_what_batches_and_online_calls_come_to(
    reviews: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    prices = json.dumps({"tiny": {"prompt": 1.0, "completion": 2.0, "batch": 0.5}})
    given = (reviews, "--mode", "split", "--model", "tiny", "--prices", prices, "--plan")
    by_batch = call("summarize", *given, "--llm", "openai-batch")
    online = call("summarize", *given, "--llm", "openai")
    assert "in 2 waves, each of which may take a day" in by_batch.output
    assert "in 2 waves, each of which may take a day, with OpenAIBatchLLM" in online.output
