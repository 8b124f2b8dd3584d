"""The option --processes: real processes, which share everything, and die."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tests.support.patience import PATIENCE, wait_until

from restaurant_llm_batch.cli._app import build
from restaurant_llm_batch.testing.server import Faults, FaultServer

MODULE = '''
import os, signal, time
from pathlib import Path
from restaurant_llm_batch import LLMRequest, LLMResponse
from restaurant_llm_batch.errors import PermanentBackendError
from restaurant_llm_batch.steps import complete

def ask(item):
    reply = yield from complete(LLMRequest("ask", ({"role": "user", "content": str(item)},)))
    return {"answer": reply.text}

def deadly(item):
    """Two items end their process."""
    if item in ("3", "11"):
        with open(f"deaths-{item}", "a") as file:
            file.write("x")
        os.kill(os.getpid(), signal.SIGKILL if item == "3" else signal.SIGABRT)
    return (yield from ask(item))

def printing(item):
    answer = yield from ask(item)
    print("a word beside the output")
    return answer

class Odd(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} {two}")

def failing(item):
    if int(item) % 2:
        raise Odd("odd", item)
    return (yield from ask(item))

def local(item):
    class Here:
        value = item
    yield from ask(item)
    return Here()

class Answers:
    """Answers after a moment, or when there is a file `go` if there is a file `hold`."""
    fingerprint = "answers"
    seconds = 0.0

    def complete(self, request):
        text = request.messages[-1]["content"]
        with open(f"asked-{os.getpid()}", "a") as file:  # who was asked
            file.write(f"{text}\\n")
        time.sleep(self.seconds)
        if Path("hold").exists() and text != "1":
            Path(f"held-{os.getpid()}-{text}").touch()
            while not Path("go").exists():
                time.sleep(0.01)
        return LLMResponse(text * 2, prompt_tokens=10, completion_tokens=5, model="answers-1")

class Together(Answers):
    """Answers when two processes have asked."""

    def complete(self, request):
        reply = super().complete(request)
        while len(list(Path().glob("asked-*"))) < 2:
            time.sleep(0.01)
        return reply

class Slow(Answers):
    seconds = 0.1

class Short(Answers):
    """Answers with the beginning of what it is asked, when three processes have been asked."""
    seconds = 0.2

    def complete(self, request):
        text = request.messages[-1]["content"][:10]
        Path(f"asked-{os.getpid()}").touch()
        while len(list(Path().glob("asked-*"))) < 3:
            time.sleep(0.01)
        time.sleep(self.seconds)
        return LLMResponse(text, prompt_tokens=10, completion_tokens=5, model="answers-1")

class Refuses:
    def complete(self, request):
        raise PermanentBackendError(f"the prompt is refused", status=400)

def only_here():
    """A model that only the command itself can make."""
    if os.getppid() == int(os.environ["THE_COMMAND"]):
        raise ValueError("no model in this process")
    return Answers()

def batches():
    from restaurant_llm_batch.backends import OpenAIBatchLLM

    return OpenAIBatchLLM("gpt-5-mini", api_key="sk-test")

def never():
    """A model with which no other process is ever ready."""
    if os.getppid() == int(os.environ["THE_COMMAND"]):
        os._exit(3)
    return Answers()
'''


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A working folder with a module of the user's, and 24 items."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "many_code", raising=False)
    monkeypatch.setenv("THE_COMMAND", str(os.getpid()))
    (tmp_path / "many_code.py").write_text(MODULE, encoding="utf-8")
    items(24)
    return tmp_path


def items(number: int) -> None:
    Path("items.txt").write_text("".join(f"{item}\n" for item in range(number)), encoding="utf-8")


def run(task: str, *words: object, llm: str = "many_code:Answers") -> Result:
    command = ["run", f"many_code:{task}", "items.txt", "--llm", llm, *map(str, words)]
    return CliRunner().invoke(build(), command)


def start(task: str, *words: object, llm: str = "many_code:Answers") -> subprocess.Popen[str]:
    """Start the command in a process and a group of its own, as a shell does."""
    command = ["run", f"many_code:{task}", "items.txt", "--llm", llm, *map(str, words)]
    return subprocess.Popen(
        [sys.executable, "-m", "restaurant_llm_batch", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONUTF8": "1"},
        process_group=0,
    )


@pytest.fixture
def started() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start commands that end with the test."""
    found: list[subprocess.Popen[str]] = []

    def begin(*words: object, **options: Any) -> subprocess.Popen[str]:
        found.append(start(*map(str, words), **options))
        return found[-1]

    yield begin
    for process in found:
        process.kill()
        process.communicate()


def read(name: str = "out.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(name).read_text(encoding="utf-8").splitlines()]


def in_order(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(records, key=lambda record: str(record))


def asked() -> dict[int, list[str]]:
    """Return which process has asked about which items."""
    return {int(path.name[6:]): path.read_text().split() for path in Path().glob("asked-*")}


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
def test_two_processes_give_the_results_of_one() -> None:
    # With room for all calls, since those of the first process wait for the second.
    words = ("--processes", 2, "--llm-concurrency", 24, "-o", "out.jsonl")
    result = run("ask", *words, llm="many_code:Together")
    assert result.exit_code == 0, result.output
    assert "24 of 24 items done" in result.stdout
    assert "24 LLM calls" in result.stdout
    assert in_order(read()) == in_order(
        [{"item_id": str(item), "value": {"answer": str(item) * 2}} for item in range(24)]
    )
    assert len(asked()) == 2
    assert os.getpid() not in asked()
    assert Counter(item for of_one in asked().values() for item in of_one) == Counter(map(str, range(24)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", ["summarize", "sentiment", "summarize-reviews", "strengths", "vocabulary"]
)
def test_every_command_gives_the_same_in_several_processes(command: str) -> None:
    words = [command, "--first", "9", "--quiet"]
    results = [CliRunner().invoke(build(), [*words, "-o", "one.jsonl"])]
    results.append(CliRunner().invoke(build(), [*words, "-o", "many.jsonl", "--processes", "3"]))
    assert [result.exit_code for result in results] == [0, 0], results[-1].output
    assert in_order(read("many.jsonl")) == in_order(read("one.jsonl"))


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["1", "2", "3", "threaded"])
def test_every_stage_runs_in_several_processes(stage: str) -> None:
    result = run("ask", "--processes", 2, "-o", "out.jsonl", "--stage", stage)
    assert result.exit_code == 0, result.output
    assert len(read()) == 24


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["csv", "json", "parquet"])
def test_tables_are_written_as_by_one_process(ending: str) -> None:
    import pandas as pd

    for name, words in (("one", ()), ("many", ("--processes", 2))):
        assert run("failing", *words, "-o", f"{name}.{ending}").exit_code == 1
    one, many = (
        getattr(pd, f"read_{ending}")(f"{name}.{ending}").sort_values("item_id").reset_index(drop=True)
        for name in ("one", "many")
    )
    kept = [column for column in one.columns if not column.startswith("spent.")]
    pd.testing.assert_frame_equal(one[kept], many[kept], check_like=True)


@pytest.mark.slow
def test_a_folder_that_was_indexed_is_read_by_all_processes_and_stays_as_it_is(tmp_path: Path) -> None:
    reviews = [
        {"restaurant_id": number, "content": f"the food no. {number} was great"} for number in range(8)
    ]
    Path("reviews.jsonl").write_text("".join(json.dumps(one) + "\n" for one in reviews))
    assert CliRunner().invoke(build(), ["index", "reviews.jsonl", "--into", "an.index"]).exit_code == 0
    for _ in range(2):
        words = ["summarize", "an.index", "--processes", "2", "-o", "out.jsonl", "-q"]
        result = CliRunner().invoke(build(), words)
        assert result.exit_code == 0, result.output
        assert sorted(record["restaurant_id"] for record in read()) == [*range(8)]


# Death


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 3])
def test_an_item_that_ends_its_process_twice_fails_alone(
    processes: int, caplog: pytest.LogCaptureFixture
) -> None:
    result = run("deadly", "--processes", processes, "-o", "out.jsonl")
    assert result.exit_code == 1, result.output
    failed = {record["item_id"]: record["failure"] for record in read() if "failure" in record}
    assert failed.keys() == {"3", "11"}
    assert failed["3"]["stage"] == "task"
    assert failed["3"]["attempts"] == 2
    assert "was killed by SIGKILL, and so did one before it" in failed["3"]["error"]
    assert "was killed by SIGABRT" in failed["11"]["error"]
    assert len(read()) == 24
    deaths = [Path(f"deaths-{item}").read_text() for item in ("3", "11")]
    assert all(death in ("x", "xx") for death in deaths)  # "x": its first process died before it came to it
    assert "22 of 24 items done, 2 failed" in " ".join(result.stdout.split())
    assert any("was killed by SIGKILL; its" in record.message for record in caplog.records)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_a_process_killed_at_any_moment_loses_nothing(
    seed: int, started: Callable[..., subprocess.Popen[str]]
) -> None:
    items(80)
    command = started(
        *("ask", "--processes", 3, "-o", "out.jsonl", "--store", "store.db", "--llm-concurrency", 6),
        llm="many_code:Slow",
    )
    random = Random(seed)
    wait_until(asked)
    time.sleep(random.uniform(0.0, 0.6))
    killed = random.sample(sorted(asked()), random.randint(1, len(asked())))
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    _, shown = command.communicate(timeout=PATIENCE)
    assert command.returncode == 0, shown
    assert sorted(int(record["item_id"]) for record in read()) == [*range(80)]
    assert not any("failure" in record for record in read())
    assert shown.count("was killed by SIGKILL") == len(killed)
    assert not any(map(is_alive, asked()))


@pytest.mark.slow
def test_what_a_killed_process_was_answered_is_not_asked_again() -> None:
    items(30)
    assert run("ask", "--processes", 3, "--store", "store.db").exit_code == 0
    result = run("ask", "--processes", 2, "--store", "store.db")
    assert "0 LLM calls" in result.stdout
    assert "30 replies from the store" in " ".join(result.stdout.split())


@pytest.mark.slow
def test_processes_end_when_their_command_is_killed(started: Callable[..., subprocess.Popen[str]]) -> None:
    Path("hold").touch()
    command = started("ask", "--processes", 2, "--llm-concurrency", 24)
    wait_until(lambda: len(asked()) == 2)
    folders = list(Path(os.environ.get("TMPDIR", "/tmp")).glob("restaurant-llm-batch-*"))
    command.kill()
    wait_until(lambda: not any(map(is_alive, asked())))
    assert any(not folder.exists() for folder in folders)  # others' folders may be among them


@pytest.mark.slow
def test_a_model_that_cannot_be_made_in_a_process_ends_the_command_with_its_reason() -> None:
    result = run("ask", "--processes", 2, "-o", "out.jsonl", llm="many_code:only_here")
    assert result.exit_code == 2
    assert "many_code:only_here failed: ValueError: no model in this process" in result.output
    assert not Path("out.jsonl").exists()


@pytest.mark.slow
def test_processes_that_never_get_ready_are_not_started_for_ever() -> None:
    result = run("ask", "--processes", 2, llm="many_code:never")
    assert result.exit_code == 2
    assert "in a row ended before they were ready; the last one ended with exit status 3" in result.output


# Stopping


@pytest.mark.slow
@pytest.mark.parametrize("to_all", [False, True], ids=["to the command", "to its group"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_lets_calls_in_flight_finish_in_all_processes(
    number: signal.Signals, to_all: bool, started: Callable[..., subprocess.Popen[str]]
) -> None:
    Path("hold").touch()
    command = started("ask", "--processes", 2, "--llm-concurrency", 4, "-o", "-")
    assert command.stdout is not None
    assert json.loads(command.stdout.readline())["item_id"] == "1"
    wait_until(lambda: len(list(Path().glob("held-*"))) == 4)
    (os.killpg if to_all else os.kill)(command.pid, number)
    assert command.stderr is not None
    while "in flight; " not in (line := command.stderr.readline()):  # how many is told a moment later
        assert line
    time.sleep(1.0)  # the processes hear of it a moment later
    in_flight = {path.name.rpartition("-")[2] for path in Path().glob("held-*")}
    Path("go").touch()
    out, shown = command.communicate(timeout=PATIENCE)
    assert command.returncode == 130, shown
    records = [json.loads(line) for line in out.splitlines()]
    done = {record["item_id"] for record in records if "failure" not in record}
    assert in_flight <= done
    assert len(done) < 20
    assert all(record["failure"]["stage"] == "run" for record in records if "failure" in record)
    assert f"Interrupted: {len(done) + 1} of 24 items done" in shown
    assert "Traceback" not in shown
    assert not any(map(is_alive, asked()))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_ends_all_processes(
    number: signal.Signals, started: Callable[..., subprocess.Popen[str]]
) -> None:
    Path("hold").touch()
    command = started("ask", "--processes", 2, "--llm-concurrency", 4, "-o", "out.jsonl")
    wait_until(lambda: len(list(Path().glob("held-*"))) == 4)
    os.killpg(command.pid, number)
    assert command.stderr is not None
    while "finishing" not in (line := command.stderr.readline()):
        assert line
    os.killpg(command.pid, number)
    out, shown = command.communicate(timeout=PATIENCE)  # what was asked is never answered
    assert command.returncode == 130, shown
    assert "Interrupted: 1 of 24 items done" in " ".join(out.split())
    assert "Traceback" not in shown
    assert not any(map(is_alive, asked()))
    assert [record for record in read() if "failure" not in record] == [
        {"item_id": "1", "value": {"answer": "11"}}
    ]


@pytest.mark.slow
def test_a_process_that_stands_still_holds_up_no_other_and_ends_with_the_second_signal(
    started: Callable[..., subprocess.Popen[str]],
) -> None:
    """Items are larger than what fits between two processes, so to hand one out takes a process that reads."""
    Path("items.txt").write_text("".join(f"{item}{'x' * 600_000}\n" for item in range(24)), encoding="utf-8")
    command = started(
        "ask", "--processes", 3, "--llm-concurrency", 24, "-o", "out.jsonl", llm="many_code:Short"
    )
    wait_until(lambda: len(asked()) == 3)
    stopped = min(asked())
    os.kill(stopped, signal.SIGSTOP)

    def done() -> list[str]:
        path = Path("out.jsonl.partial")
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []

    try:
        wait_until(lambda: len(done()) >= 6)  # the others go on
        os.killpg(command.pid, signal.SIGINT)
        assert command.stderr is not None
        while "finishing" not in (line := command.stderr.readline()):
            assert line
        os.killpg(command.pid, signal.SIGINT)
        command.communicate(timeout=PATIENCE)
    finally:
        with suppress(ProcessLookupError):
            os.kill(stopped, signal.SIGCONT)
    assert command.returncode == 130
    assert not any(map(is_alive, asked()))


@pytest.mark.slow
def test_no_more_processes_are_started_than_there_are_items() -> None:
    items(2)
    result = run("ask", "--processes", 40, "--llm-concurrency", 40, "-o", "out.jsonl")
    assert result.exit_code == 0, result.output
    assert len(read()) == 2
    assert len(asked()) <= 2


@pytest.mark.slow
def test_a_full_disk_ends_all_processes_with_a_sentence(
    started: Callable[..., subprocess.Popen[str]],
) -> None:
    command = started("ask", "--processes", 2, "-o", "/dev/full", llm="many_code:Slow")
    _, shown = command.communicate(timeout=PATIENCE)
    assert command.returncode == 2
    assert "cannot write --output '/dev/full': the disk is full" in shown
    assert "Traceback" not in shown
    assert not any(map(is_alive, asked()))


@pytest.mark.slow
def test_a_budget_is_that_of_all_processes() -> None:
    items(200)
    words = ("--processes", 3, "--llm-concurrency", 6, "--stop-tokens", 600)
    result = run("ask", *words, "-o", "out.jsonl", llm="many_code:Slow")
    shown = " ".join(result.stdout.split())
    assert result.exit_code == 1, result.output
    assert "max_tokens=600 is used up" in shown
    done = sum("failure" not in record for record in read())
    assert 40 <= done <= 40 + 2 * 6  # each call takes 15 tokens


@pytest.mark.slow
def test_an_error_rate_is_that_of_all_processes() -> None:
    words = ("--processes", 2, "--stop-error-rate", 0.5)
    items(300)
    result = run("ask", *words, llm="many_code:Refuses")
    assert re.search(r"latest 50 tries failed|items in a row ended with the same error", result.stdout)
    assert "300 of 300" not in result.stdout


@pytest.mark.slow
def test_the_time_of_a_run_is_that_of_all_processes() -> None:
    Path("hold").touch()
    result = run("ask", "--processes", 2, "--run-seconds", 4, "-o", "out.jsonl")
    assert result.exit_code == 1, result.output
    assert "the run's 4 s are up" in " ".join(result.stdout.split())
    assert {record["item_id"] for record in read() if "failure" not in record} <= {"1"}


# What they share


@pytest.mark.slow
@pytest.mark.parametrize("limit", [3, 8])
def test_calls_in_flight_of_all_processes_keep_to_the_limit(
    limit: int, started: Callable[..., subprocess.Popen[str]]
) -> None:
    items(120)
    with FaultServer(Faults(latency=0.05, limit=limit)) as server:
        words = ["--model", "tiny", "--llm-url", server.openai_url, "--llm-concurrency", limit]
        env = {"OPENAI_API_KEY": "sk-test"}
        os.environ.update(env)
        try:
            command = started("ask", "--processes", 4, *words, "-o", "out.jsonl", llm="openai")
            _, shown = command.communicate(timeout=PATIENCE)
        finally:
            del os.environ["OPENAI_API_KEY"]
        stats = server.counts
    assert command.returncode == 0, shown
    assert (stats.peak, stats.refused) == (limit, 0)
    assert len(read()) == 120


@pytest.mark.slow
def test_one_record_has_the_run_of_all_processes() -> None:
    result = run("failing", "--processes", 2, "--record", "night.db", "--record-texts")
    assert result.exit_code == 1, result.output
    with sqlite3.connect("night.db") as file:
        (run_row,) = file.execute("SELECT total, succeeded, failed, ended IS NOT NULL FROM runs").fetchall()
        assert run_row == (24, 12, 12, 1)
        states = Counter(state for (state,) in file.execute("SELECT outcome FROM items"))
        assert states == {"succeeded": 12, "failed": 12}
        places = sorted(place for (place,) in file.execute("SELECT place FROM items"))
        assert places == [*range(24)]
        assert file.execute("SELECT count(*), count(ended) FROM calls").fetchone() == (12, 12)
        assert file.execute("SELECT count(*) FROM prompts").fetchone() == (12,)
        assert file.execute("SELECT count(*) FROM answers").fetchone() == (12,)
    file.close()


@pytest.mark.slow
def test_what_a_task_prints_is_not_in_the_output(started: Callable[..., subprocess.Popen[str]]) -> None:
    command = started("printing", "--processes", 2, "-o", "-")
    out, shown = command.communicate(timeout=PATIENCE)
    assert command.returncode == 0, shown
    assert len([json.loads(line) for line in out.splitlines()]) == 24
    assert "a word beside the output" in shown


@pytest.mark.slow
def test_errors_and_results_of_a_users_own_classes_arrive() -> None:
    assert run("failing", "--processes", 2, "-o", "out.jsonl").exit_code == 1
    failed = [record["failure"]["error"] for record in read() if "failure" in record]
    assert sorted(failed) == sorted(f"Odd: odd {item}" for item in range(1, 24, 2))
    assert run("local", "--processes", 2, "-o", "local.jsonl").exit_code == 0
    assert len(read("local.jsonl")) == 24


# Usage


@pytest.mark.parametrize("number", ["0", "-1", "two", "1.5"])
def test_a_number_of_processes_is_at_least_one(number: str) -> None:
    result = run("ask", "--processes", number)
    assert result.exit_code == 2
    assert "--processes" in result.output


def test_a_model_that_lives_in_a_process_is_refused() -> None:
    result = run("ask", "--processes", 2, "--model", "tiny", llm="vllm-engine")
    assert result.exit_code == 2
    assert "each process would load the model" in " ".join(result.output.split())


def test_batches_of_a_provider_are_refused() -> None:
    result = run("ask", "--processes", 2, llm="many_code:batches")
    assert result.exit_code == 2
    assert "one process is enough" in " ".join(result.output.split())


def test_a_model_that_other_processes_cannot_make_is_refused_before_anything_is_written() -> None:
    from restaurant_llm_batch.backends import OfflineLLM

    command = ["summarize", "--processes", "2", "-o", "out.jsonl", "--first", "1"]
    result = CliRunner().invoke(build({"mine": lambda settings: OfflineLLM()}), command)
    assert result.exit_code == 2
    assert "name a model of your own as MODULE:NAME" in " ".join(result.output.split())
    assert not Path("out.jsonl").exists()


def test_a_plan_and_a_preview_start_no_process() -> None:
    for word in ("--plan", "--preview"):
        result = run("ask", "--processes", 2, word)
        assert result.exit_code == 0, result.output
    assert not asked().keys() - {os.getpid()}
