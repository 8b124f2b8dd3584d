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

from restaurant_llm_batch import Store
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


def asked(reviews: Path, tmp_path: Path, *more: object) -> Path:
    batch = tmp_path / "batch.jsonl"
    result = call("requests", reviews, "-o", batch, "--model", "tiny", *more)
    assert result.exit_code == 0, result.output
    return batch


def test_answers_to_other_calls_only_are_refused_before_a_run_pays_again(
    reviews: Path, tmp_path: Path
) -> None:
    store = ("--store", tmp_path / "run.db")
    asked(reviews, tmp_path, *store)
    other = asked(reviews, tmp_path, "--temperature", "0.7")  # of the same reviews, but other calls
    result = call("answers", answered(other, tmp_path / "answers.jsonl"), *store)
    assert result.exit_code == 2, result.output
    assert "none of the 2 answers is to a call that `requests` has written" in " ".join(result.output.split())


def test_some_answers_to_other_calls_are_counted(reviews: Path, tmp_path: Path) -> None:
    store = ("--store", tmp_path / "run.db")
    ours = answered(asked(reviews, tmp_path, *store), tmp_path / "ours.jsonl")
    other = answered(asked(reviews, tmp_path, "--temperature", "0.7"), tmp_path / "other.jsonl")
    result = call("answers", ours, other, *store)
    assert result.exit_code == 1
    assert "4 answers are in" in result.output
    assert "2 answers are to calls that `requests` has not written" in result.output


def test_ids_of_another_tool_are_refused(reviews: Path, tmp_path: Path) -> None:
    answers = answered(asked(reviews, tmp_path), tmp_path / "answers.jsonl", custom_id="request-1")
    result = call("answers", answers, "--store", tmp_path / "run.db")
    assert result.exit_code == 2
    assert "no line answers a call" in result.output


def test_without_the_store_of_requests_it_is_said_that_nothing_is_known(
    reviews: Path, tmp_path: Path
) -> None:
    answers = answered(asked(reviews, tmp_path), tmp_path / "answers.jsonl")
    result = call("answers", answers, "--store", tmp_path / "run.db")
    assert result.exit_code == 0
    assert "whether a run asks for them is not known" in result.output


def test_a_call_answered_twice_counts_once_and_keeps_its_first_reply(reviews: Path, tmp_path: Path) -> None:
    store = tmp_path / "run.db"
    batch = asked(reviews, tmp_path, "--store", store)
    answers = answered(batch, tmp_path / "answers.jsonl")
    lines = [json.loads(raw) for raw in answers.read_text().splitlines()]
    failed = {**lines[0], "response": None, "error": {"code": "oops", "message": "out of memory"}}
    later = json.loads(json.dumps(lines[1]))
    later["response"]["body"]["choices"][0]["message"]["content"] = "another"
    answers.write_text("\n".join(json.dumps(one) for one in (failed, *lines, later, failed)))
    result = call("answers", answers, "--store", store)
    assert result.exit_code == 0, result.output
    assert "2 answers are in" in result.output
    assert "0 calls failed" in result.output
    assert "3 lines answer a call that a line before answers" in result.output
    with Store(store) as opened:
        kept = opened.get(bytes.fromhex(lines[1]["custom_id"]))
    assert kept is not None
    assert kept.text == lines[1]["response"]["body"]["choices"][0]["message"]["content"]


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
