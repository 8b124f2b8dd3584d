"""The command `top`: what it shows of a run, what is typed, and limits that it sets."""

from __future__ import annotations

import os
import re
import select as selecting
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rich.cells import cell_len
from tests.support.held import Held, ask_once
from tests.support.patience import PATIENCE, wait_until
from tests.support.records import ask, runner, select

from restaurant_llm_batch import BatchRunner, Limits, LLMRequest, Strategy, errors
from restaurant_llm_batch.cli._app import build
from restaurant_llm_batch.cli._top import drawing
from restaurant_llm_batch.cli._top.prompt import PromptLine, Setting, parse_settings
from restaurant_llm_batch.records import open_record
from restaurant_llm_batch.records._live import LiveView
from restaurant_llm_batch.steps import Flow, complete
from restaurant_llm_batch.testing.server import Faults, FaultServer


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "night.db"


def invoke(*words: str | Path, columns: int = 120) -> Result:
    return CliRunner(env={"COLUMNS": str(columns)}).invoke(build(), ["top", *map(str, words)])


@contextmanager
def night(path: Path, llm: Held, task: Any = ask_once) -> Iterator[None]:
    """Record a run in another thread for a block."""
    given = BatchRunner(llm=llm, strategy=Strategy.stage(4), limits=Limits(llm=2, open_items=6), record=path)
    thread = threading.Thread(target=given.run, args=(task, range(12)))
    thread.start()
    try:
        llm.wait_for(started=2)
        wait_until(lambda: select(path, "SELECT count(*) FROM calls") == [(2,)])
        yield
    finally:
        llm.let_all_go()
        thread.join()


def fail_some(item: Any) -> Flow[str]:
    """Fail for two of three items, with a message that a terminal would obey."""
    yield from complete(LLMRequest("dish\x1b[2J", ({"role": "user", "content": "?"},)))
    if item % 3:
        raise ValueError(f"no dish \x1b[31mfor\x07 {item}\u202e")
    return "ok"


def test_a_finished_run_is_shown_as_it_ended(path: Path) -> None:
    with runner(path, strategy=Strategy.stage(4)) as used:
        used.run(fail_some, range(7))
    result = invoke(path, "--once")
    assert result.exit_code == 0, result.output
    assert "run 1 · fail_some" in result.output
    assert "done in" in result.output
    assert "7/7" in result.output
    assert "4 failed" in result.output
    assert re.search(r"4 +task +ValueError: no dish", result.output)
    assert re.search(r"llm dish\[2J +7", result.output)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\u202e]", result.output)
    assert all(len(line) <= 120 for line in result.output.splitlines())


@pytest.mark.parametrize("columns", [1, 25, 60])
def test_a_narrow_terminal_shows_what_fits(path: Path, columns: int) -> None:
    with runner(path, strategy=Strategy.stage(4)) as used:
        used.run(fail_some, range(7))
    result = invoke(path, "--once", columns=columns)
    assert result.exit_code == 0, result.output
    assert all(cell_len(line) <= columns for line in result.output.splitlines())


def test_on_80_columns_names_are_cut_and_numbers_and_headings_are_whole(path: Path) -> None:
    label = "a_name_of_calls_that_takes_a_whole_line_of_a_small_terminal_by_itself_and_some_of_the_next"

    def fails(item: Any) -> Flow[str]:
        yield from complete(LLMRequest(label, ({"role": "user", "content": "?"},)))
        raise ValueError(f"{label} {label}")

    with runner(path, strategy=Strategy.stage(4)) as used:
        used.run(fails, [f"{label} {number}" for number in range(7)])
    lines = invoke(path, "--once", columns=80).output.splitlines()
    headings = "In flight", "Ended", "p50", "p95", "Refused", "Failed", "Stored"
    (place,) = (index for index, line in enumerate(lines) if line.startswith("Call "))
    assert re.fullmatch(r"Call +" + " +".join(headings) + " *", lines[place])
    assert re.fullmatch(r"llm a_name\S+… +7 +\d+\.\d\d s +\d+\.\d\d s *", lines[place + 1])
    (place,) = (index for index, line in enumerate(lines) if line.startswith("Failed "))
    assert re.fullmatch(r"Failed  Stage  Cause +For example *", lines[place])
    assert re.fullmatch(r" +7  task   ValueError: a_name\S+…  a_name\S+… *", lines[place + 1])
    assert all(cell_len(line) <= 80 for line in lines)


def test_a_terminal_too_narrow_for_the_numbers_shows_the_names(path: Path) -> None:
    with runner(path, strategy=Strategy.stage(4)) as used:
        used.run(fail_some, range(7))
    output = invoke(path, "--once", columns=40).output
    for line in (
        r"Limiter +Limit",
        r"llm +8 +0",
        r"Call +In flight",
        r"llm dish",
        r" +4  task   ValueError:…",
    ):
        assert re.search(f"^{line}", output, re.MULTILINE), output


def test_why_a_run_was_stopped_is_said_in_full(path: Path) -> None:
    why = (
        "the key is wrong, and this is a long sentence about it that does not fit into one line of 60 columns"
    )

    class Refuses:
        def complete(self, request: LLMRequest, /) -> Any:
            raise errors.AuthenticationFailed(why)

    with BatchRunner(llm=Refuses(), record=path) as used:
        used.run(ask_once, range(2))
    assert why in " ".join(invoke(path, "--once", columns=60).output.split())


def test_a_run_that_goes_on_shows_who_waits_for_what(path: Path) -> None:
    with night(path, Held()):
        wait_until(lambda: "4" in str([one.waiting for one in open_record(path).limiters()]))
        result = invoke(path, "--once")
        line = drawing.line(LiveView(path, 1).look())
    assert line.startswith("run 1: 0/12 items; 6 open; 4 calls wait for a slot; llm 2 of 2 in use; ")
    assert "running for" in result.output
    assert "0/12" in result.output
    assert "6 open" in result.output
    assert re.search(r"llm +2 +2 +4", result.output)  # limit, in use, waits for a slot
    assert re.search(r"llm dish +2", result.output)
    assert re.search(r"llm dish for [\d.]+ s", result.output)
    assert "no call in flight" in result.output


def test_without_a_terminal_there_is_a_line_for_each_change_until_the_end(path: Path) -> None:
    llm = Held()
    with night(path, llm):
        found: list[Result] = []
        top = threading.Thread(target=lambda: found.append(invoke(path, "--every", "0.1")))
        top.start()
        open_record(path).set_limit("llm", 3)
        llm.let_all_go()
        top.join()
    lines = found[0].output.splitlines()
    assert found[0].exit_code == 0
    assert all(line.startswith("run 1: ") for line in lines)
    assert "run 1: limit changed: llm 3 (set by a person)" in lines
    assert lines[-1].startswith("run 1: 12/12 items; ")
    assert "done in" in lines[-1]
    assert len(lines) == len(set(lines))


def started(*words: str | Path) -> subprocess.Popen[str]:
    """Start the command in a process of its own."""
    command = [sys.executable, "-m", "restaurant_llm_batch", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_run_that_was_killed_is_told_from_one_whose_calls_take_long(path: Path) -> None:
    with runner(path) as used:
        used.run(ask, [1])
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("UPDATE runs SET ended = NULL, seconds = NULL, began_unix = began_unix - 7200")
    assert "running for 2 h 00 min; nothing has happened for 2 h 00 min" in invoke(path, "--once").output
    with connection:
        connection.execute("UPDATE runs SET process = 4194305")  # above what Linux gives
    connection.close()
    result = invoke(path)  # it does not wait for its end
    assert "no end; began 2 h 00 min ago" in result.output
    assert "process 4194305 is not on this machine" in result.output


class Terminal:
    """A process on a terminal of its own."""

    def __init__(self, *words: str | Path) -> None:
        import pty

        self._mine, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "restaurant_llm_batch", *map(str, words)],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, "COLUMNS": "120", "LINES": "40", "TERM": "xterm"},
        )
        os.close(theirs)
        self.shown = ""

    def type(self, text: str) -> None:
        os.write(self._mine, text.encode())

    def wait_for(self, text: str) -> None:
        """Read until it shows a text."""
        while text not in self.shown:
            ready, _, _ = selecting.select([self._mine], [], [], PATIENCE)
            assert ready, self.shown[-2000:]
            try:
                data = os.read(self._mine, 65_536)
            except OSError:  # the other side is closed
                data = b""
            assert data, f"it ended before it showed {text!r}: {self.shown[-2000:]}"
            self.shown += data.decode(errors="replace")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._mine)


@pytest.mark.slow
def test_on_a_terminal_a_running_night_is_shown_and_its_limit_is_set(path: Path, tmp_path: Path) -> None:
    reviews = tmp_path / "reviews.jsonl"
    reviews.write_text(
        "".join(f'{{"restaurant_id": {number}, "content": "좋아요", "rating": 5}}\n' for number in range(30))
    )
    options = f"--llm vllm --batch-concurrency 2 --stage 4 --record {path} -q --llm-url".split()
    with FaultServer(Faults(latency=PATIENCE)) as server, ExitStack() as stack:
        run = started("summarize-reviews", reviews, *options, server.url)
        stack.callback(run.communicate)
        stack.callback(run.kill)
        wait_until(lambda: server.counts.in_flight == 2)
        wait_until(lambda: select(path, "SELECT count(*) FROM calls") == [(2,)])
        terminal = stack.enter_context(closing(Terminal("top", path)))
        terminal.wait_for(" 28 ")  # calls that wait for a slot
        terminal.type("set batchs=5\r")
        terminal.wait_for("did you mean batches?")
        terminal.type("set batches=555\x7f\x7f\r")
        terminal.wait_for("batches is 5 now; it was 2")
        wait_until(lambda: server.counts.in_flight == 5)
        terminal.type("q")
        assert terminal.process.wait(PATIENCE) == 0
        script = invoke(path, "set", "batches=3")
        assert (script.exit_code, script.output) == (0, "batches is 3 now; it was 5\n")
        assert server.counts.peak == 5


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("set", "set needs a limit and a number; for example: set llm=16"),
        ("set llm", "set takes NAME=NUMBER, got 'llm'; for example: set llm=16"),
        ("set llm=", "set takes NAME=NUMBER, got 'llm='"),
        ("set =16", "set takes NAME=NUMBER"),
        ("put llm=16", "there is no command 'put llm=16'; for example: set llm=16"),
        ("llm=16", "there is no command 'llm=16'"),
        ("set llm=16", r"run 1 has ended \(done\), so its limits cannot be changed"),
        ("set llm=16 --run 7", "has no run 7; its latest runs are 1"),
    ],
)
def test_odd_commands_are_one_line_with_what_to_write_and_status_2(path: Path, words: str, said: str) -> None:
    with runner(path) as used:
        used.run(ask, [1])
    result = invoke(path, *words.split())
    assert result.exit_code == 2
    assert len(result.output.splitlines()) == 1
    assert re.search(said, result.output), result.output


@pytest.mark.slow
def test_what_the_run_refuses_is_the_error_of_the_command(path: Path) -> None:
    with night(path, Held()):
        for value in ("0", "-1", "1.5", "sixteen", "9" * 40):
            result = invoke(path, "set", f"llm={value}")
            assert result.exit_code == 2
            assert "llm must be a whole number from 1 to 1,000,000,000,000, got" in result.output
        result = invoke(path, "set", "llm", "=", "3,", "search=4")
        assert (result.exit_code, result.output) == (
            0,
            "llm is 3 now; it was 2\nsearch is 4 now; it was 50\n",
        )


@pytest.mark.parametrize("kind", ["missing", "folder", "text", "store"])
def test_what_is_no_record_is_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "night.db"
    if kind == "folder":
        path.mkdir()
    elif kind == "text":
        path.write_text("hello" * 1000)
    elif kind == "store":
        from restaurant_llm_batch import Store

        with Store(path):
            pass
    for words in ([], ["set", "llm=16"]):
        result = invoke(path, *words)
        assert result.exit_code == 2
        assert len(result.output.splitlines()) == 1
        assert "night.db" in result.output


def test_settings_are_read_as_people_write_them() -> None:
    assert parse_settings(["set", "llm=16", "search", "=", "4"]) == [
        Setting("llm", "16"),
        Setting("search", "4"),
    ]
    assert parse_settings(["set", "llm=1_6,", "a=b=c"]) == [Setting("llm", "1_6"), Setting("a", "b=c")]
    for words in ([], ["se", "llm=1"], ["set llm"]):
        with pytest.raises(errors.ConfigurationError, match="for example: set llm=16"):
            parse_settings(words)


def test_a_line_is_typed_key_by_key() -> None:
    line = PromptLine()
    assert list(line.type("set l")) == []
    assert list(line.type("lm=17\x7f6\r")) == ["set llm=16"]
    assert list(line.type("\x1b[A\x1b[1;5C\x1bOP\x15abc\x08\x7f")) == []  # arrows, F1, Ctrl-U
    assert line.text == "a"
    assert list(line.type("q")) == []  # part of a word
    assert list(line.type("\x15q")) == ["q"]
    assert list(line.type("\r\n  \r")) == []
    assert list(line.type("세트" + "x" * 500)) == []
    assert len(line.text) == 200
