"""The command line, run the way people run it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import pytest
from click.testing import CliRunner, Result
from rich.cells import cell_len
from tests.support.patience import PATIENCE

from restaurant_llm_batch import LLMRequest, LLMResponse
from restaurant_llm_batch.backends import OfflineLLM
from restaurant_llm_batch.cli._app import build
from restaurant_llm_batch.errors import PermanentBackendError

REVIEWS = [
    {
        "restaurant_id": 1,
        "name": "Café [red]Nord[/red]",
        "reviews": [
            {"review_id": "a", "content": "The service was friendly and the soup was great."},
            {"id": 8, "content": "Prices are high, but the food is delicious.\x1b[2J"},
        ],
    },
    {
        "restaurant_id": "ko-1",
        "name": "너울솥국밥",
        "reviews": [{"id": 1, "content": "국물이 진하고 맛있어요. 직원이 친절해요."}],
    },
    {"restaurant_id": 0, "name": "Nothing yet", "reviews": []},
    {"restaurant_id": 2, "review_id": "b", "content": "맛은 좋은데 가격이 비싸요."},
]
STAGES = ["1", "2", "3", "4", "threaded"]


class Invoke(Protocol):
    def __call__(self, *words: str | Path, llm: Callable[[], Any] = OfflineLLM) -> Result: ...


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Run the command, in a terminal 80 columns wide that is no terminal."""
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "80")

    def run(*words: str | Path, llm: Callable[[], Any] = OfflineLLM) -> Result:
        return CliRunner().invoke(build({"fake": lambda options: llm()}), [str(word) for word in words])

    return run


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    """A small file of reviews."""
    path = tmp_path / "reviews.jsonl"
    path.write_text(
        "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in REVIEWS), encoding="utf-8"
    )
    return path


class Picky:
    """Refuses one restaurant for good."""

    def __init__(self) -> None:
        self.inner = OfflineLLM()

    def complete(self, request: LLMRequest, /) -> LLMResponse:
        if request.inputs["restaurant_id"] == 1:
            raise PermanentBackendError("the prompt was refused", status=400)
        return self.inner.complete(request)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_sample_is_summarised_on_a_fresh_machine_without_any_option(invoke: Invoke) -> None:
    result = invoke("summarize")
    assert result.exit_code == 0, result.output
    assert "Sequoia" in result.stdout
    assert "40 more restaurants" in result.stdout
    assert "50 of 50 restaurants summarised" in result.stdout
    assert "No language model was used" in " ".join(result.stdout.split())


@pytest.mark.slow
def test_every_stage_gives_the_same_results(invoke: Invoke, reviews: Path, tmp_path: Path) -> None:
    written = []
    for stage in STAGES:
        assert invoke("summarize", reviews, "--stage", stage, "-o", tmp_path / stage).exit_code == 0
        written.append(sorted(read(tmp_path / stage), key=lambda record: str(record["restaurant_id"])))
    assert all(records == written[0] for records in written)
    assert [record["restaurant_id"] for record in written[0]] == [0, 1, 2, "ko-1"]


def test_results_are_written_as_utf8_lines_with_their_evidence(
    invoke: Invoke, reviews: Path, tmp_path: Path
) -> None:
    target = tmp_path / "out.jsonl"
    assert invoke("summarize", reviews, "--aspects", "food,국물", "-o", target).exit_code == 0
    assert "국물이" in target.read_text(encoding="utf-8")
    record = next(record for record in read(target) if record["restaurant_id"] == "ko-1")
    assert record["model"] == "offline-extractive"
    assert list(record["categories"]) == ["food", "국물"]
    assert record["categories"]["국물"]["status"] == "ok"
    assert record["categories"]["국물"]["evidence"][0]["review_id"] == 1


def test_with_output_to_standard_output_it_holds_nothing_else(invoke: Invoke, reviews: Path) -> None:
    result = invoke("summarize", reviews, "--output", "-")
    assert result.exit_code == 0
    assert len([json.loads(line) for line in result.stdout.splitlines()]) == 4
    assert "너울솥국밥" in result.stderr
    assert "4 of 4 restaurants summarised" in result.stderr


def test_a_restaurant_that_fails_is_named_with_stage_cause_and_attempts_and_the_status_is_1(
    invoke: Invoke, reviews: Path, tmp_path: Path
) -> None:
    result = invoke("summarize", reviews, "-o", tmp_path / "out", llm=Picky)
    assert result.exit_code == 1
    shown = " ".join(result.stdout.split())
    assert re.search(r"llm PermanentBackendError: the prompt\s+1 ", shown)
    assert "3 of 4 restaurants summarised, 1 failed" in shown
    [failure] = [record for record in read(tmp_path / "out") if "failure" in record]
    cause = "PermanentBackendError: the prompt was refused"
    said = {"stage": "llm", "error": cause, "attempts": 1}
    assert failure == {"restaurant_id": 1, "name": "Café [red]Nord[/red]", "failure": said}


class Refusing:
    """Refuses every restaurant, with numbers of its own."""

    def complete(self, request: LLMRequest, /) -> LLMResponse:
        number = abs(hash(str(request.messages))) % 1000
        raise PermanentBackendError(f"a prompt of {number} tokens\x1b[2J is refused", status=400)


def test_failures_of_one_cause_are_counted_with_an_example(invoke: Invoke, reviews: Path) -> None:
    result = invoke("summarize", reviews, "--show", "1", llm=Refusing)
    assert result.exit_code == 1
    shown = " ".join(result.stdout.split())
    assert "For example Failures Cause" in shown
    assert re.search(r" 3 llm: PermanentBackendError: a prompt of N", shown), shown
    assert "and 2 more failures" in shown
    assert "\x1b" not in result.stdout


def test_failures_that_differ_are_listed_and_not_counted_again(invoke: Invoke, reviews: Path) -> None:
    assert "For example" not in invoke("summarize", reviews, llm=Picky).stdout


def test_a_finished_restaurant_is_on_disk_before_the_next_is_asked_about(
    invoke: Invoke, reviews: Path, tmp_path: Path
) -> None:
    target = tmp_path / "out"
    seen: list[int] = []

    class Looks(OfflineLLM):
        def complete(self, request: LLMRequest, /) -> LLMResponse:
            seen.append(len(read(tmp_path / "out.partial")))
            return super().complete(request)

    assert invoke("summarize", reviews, "--stage", "1", "-o", target, llm=Looks).exit_code == 0
    assert seen == [0, 1, 3]  # the restaurant without reviews needs no call
    assert len(read(target)) == 4


def test_only_the_wanted_restaurants_are_summarised(invoke: Invoke, reviews: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    words = ("--restaurants", "2, ko-1,2,1", "--first", "2", "--stage", "1")
    assert invoke("summarize", reviews, *words, "-o", target).exit_code == 0
    assert [record["restaurant_id"] for record in read(target)] == [2, "ko-1"]


def test_more_restaurants_than_fit_are_counted_and_the_way_to_see_them_is_reported(
    invoke: Invoke, reviews: Path
) -> None:
    few = invoke("summarize", reviews, "--show", "1").stdout
    assert "3 more restaurants; --show all" in few
    assert "Nothing yet" not in few
    everything = invoke("summarize", reviews, "--show", "all").stdout
    assert "Nothing yet" in everything
    assert "no reviews" in everything
    assert "more restaurants" not in everything


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.sample(1)
def test_piped_output_fits_and_holds_no_control_codes(
    invoke: Invoke, reviews: Path, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    shown = (
        invoke("summarize", reviews, llm=Picky).output
        + invoke("search", reviews, "--restaurant", "1", "soup").output
    )
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", shown)
    assert max(map(cell_len, shown.splitlines())) <= columns


def test_names_are_shown_as_they_are_however_they_look(invoke: Invoke, reviews: Path) -> None:
    shown = invoke("summarize", reviews).stdout
    assert "[red]Nord[/red" in shown
    assert "[2J" not in shown.replace("food is delicious.[2J", "")


def test_korean_and_english_line_up(invoke: Invoke, reviews: Path) -> None:
    shown = invoke("summarize", reviews).stdout.splitlines()
    starts = {
        cell_len(line[: line.index(name)])
        for line in shown
        for name in ("service", "price", "food")
        if re.search(rf" {name} {{2,}}", line)
    }
    assert len(starts) == 1


def test_quiet_with_output_prints_nothing(invoke: Invoke, reviews: Path, tmp_path: Path) -> None:
    assert invoke("summarize", reviews, "-q", "-o", tmp_path / "out").output == ""
    assert "summarised" not in invoke("summarize", reviews, "-q").output


def test_a_folder_that_was_indexed_is_searched_and_summarised(
    invoke: Invoke, reviews: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "index"
    result = invoke("index", reviews, "--into", folder)
    assert result.exit_code == 0, result.output
    assert "Indexed 4 reviews of 4 restaurants" in result.stdout
    found = invoke("search", folder, "--restaurant", "1", "soup")
    assert found.exit_code == 0
    assert re.search(r"1 +1\.0000 +a +The service was friendly and the soup", found.stdout)
    summarised = invoke("summarize", folder)
    assert summarised.exit_code == 0
    assert "3 of 3 restaurants summarised" in summarised.stdout


def test_indexing_again_replaces_and_does_not_double(invoke: Invoke, reviews: Path, tmp_path: Path) -> None:
    invoke("index", reviews, "--into", tmp_path / "index")
    assert "now holds 4 reviews" in invoke("index", reviews, "--into", tmp_path / "index").stdout


def test_search_takes_its_first_word_for_a_source_only_when_it_is_one(invoke: Invoke) -> None:
    result = invoke("search", "great", "service", "--restaurant", "110")
    assert result.exit_code == 0
    assert "'great service' in Atwood Café, the shipped sample" in result.stdout
    assert (
        "no file or folder 'great.jsonl'" in invoke("search", "great.jsonl", "x", "--restaurant", "1").output
    )


def test_a_search_without_hits_says_so(invoke: Invoke) -> None:
    result = invoke("search", "soup", "--restaurant", "110", "--min-score", "1")
    assert result.exit_code == 0
    assert "nothing found" in result.stdout


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ('{"restaurant_id": 1, "content": "x"}\n\nfood is good\n', "line 3: not JSON"),
        ('[{"restaurant_id": 1}]', "line 1: a list, not an object"),
        ('{"review_id": 1, "content": "x"}', "line 1: restaurant_id is missing"),
        ('{"restaurant_id": 1, "review_id": 1}', "line 1: content is missing"),
        ('{"restaurant_id": 1, "content": 5}', "line 1: content must be text, got a number"),
        ('{"restaurant_id": true, "content": "x"}', "line 1: restaurant_id must be an integer or a string"),
        ('{"restaurant_id": 18446744073709551616, "content": "x"}', "line 1: restaurant_id is too large"),
        ('{"restaurant_id": 1, "reviews": {"a": 1}}', "line 1: reviews must be a list, got an object"),
        (
            '{"restaurant_id": 1, "reviews": ["x"]}',
            'reviews[0] must be an object, got text; for example {"content": "..."}',
        ),
        ('{"restaurant_id": 1, "reviews": [{"id": []}]}', "line 1: reviews[0].content is missing"),
        ('{"restaurant_id": 1, "content": "x", "id": 1.5}', "line 1: id must be an integer or a string"),
        (b'{"restaurant_id": 1, "content": "\xff"}', "line 1: not UTF-8"),
    ],
)
@pytest.mark.parametrize("command", ["summarize", "index"])
@pytest.mark.sample(2)
def test_a_file_that_cannot_be_used_is_one_clear_line_with_the_line_number(
    invoke: Invoke, tmp_path: Path, command: str, text: str | bytes, complaint: str
) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    more = ("--into", tmp_path / "index") if command == "index" else ()
    result = invoke(command, path, *more)
    assert result.exit_code == 2
    assert result.stdout == ""
    [line] = result.stderr.splitlines()
    assert line.startswith("Error: ")
    assert complaint in line


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["summarize", "missing.jsonl"], "there is no file or folder 'missing.jsonl'"),
        (["summarize", "folder"], "the folder 'folder' is not an index"),
        (["summarize", "--restaurants", "110,7"], "there is no restaurant '7' in the shipped sample"),
        (["summarize", "--stage", "5"], "'5' is not one of '1', '2', '3', '4', 'threaded'"),
        (["summarize", "--limit", "0"], "'0': input should be greater than or equal to 1"),
        (["summarize", "--llm-concurrency", "0"], "give a whole number of at least 1, or auto"),
        (["summarize", "--aspects", ","], "name at least one"),
        (["summarize", "--show", "some"], "'some' is neither a number nor 'all'"),
        (["summarize", "--output", "nowhere/out"], "cannot write --output 'nowhere/out'"),
        (["search", "soup", "--restaurant", "nope"], "there is no restaurant 'nope'"),
        (["search", "soup"], "Missing option '--restaurant'"),
        (["search", "  ", "--restaurant", "110"], "missing the text to search for"),
        (["index", "missing.jsonl", "--into", "x"], "there is no file 'missing.jsonl'"),
        (["index", "folder/note.txt", "--into", "folder"], "holds other files"),
    ],
)
@pytest.mark.sample(4)
def test_wrong_usage_is_explained_with_status_2_and_no_traceback(
    invoke: Invoke, words: list[str], complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "note.txt").write_text("a note")
    result = invoke(*words)
    assert result.exit_code == 2
    assert complaint in result.stderr
    assert "Traceback" not in result.output
    assert result.stdout == ""


def test_the_file_that_is_read_is_never_overwritten(invoke: Invoke, reviews: Path) -> None:
    before = reviews.read_bytes()
    result = invoke("summarize", reviews, "--output", reviews)
    assert result.exit_code == 2
    assert reviews.read_bytes() == before


def test_the_ctrl_c_handler_is_given_back(invoke: Invoke, reviews: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    invoke("summarize", reviews)
    assert signal.getsignal(signal.SIGINT) is before


CHILD = """
import itertools, os, sys, threading
from restaurant_llm_batch.backends import OfflineLLM
from restaurant_llm_batch.cli._app import build

class Held:
    '''Answers the first question at once, the others when something comes in on standard input.'''

    def __init__(self):
        self.inner, self.go, self.numbers = OfflineLLM(), threading.Event(), itertools.count()
        threading.Thread(target=self.wait, daemon=True).start()

    def wait(self):
        if os.read(0, 1):
            self.go.set()

    def complete(self, request):
        if next(self.numbers):
            os.write(2, b"asked\\n")
            self.go.wait()
        return self.inner.complete(request)

build({"held": lambda options: Held()}).main()
"""


@pytest.fixture
def child(tmp_path: Path) -> Any:
    """A run of six restaurants in a process of its own, which ends with the test."""
    path = tmp_path / "six.jsonl"
    lines = [{"restaurant_id": number, "content": "The food was great."} for number in range(1, 7)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    started: list[subprocess.Popen[str]] = []

    def start(
        stage: str, command: str = "summarize", limit: str = "--llm-concurrency"
    ) -> subprocess.Popen[str]:
        words = [command, str(path), "--stage", stage, limit, "2", "--output", "-"]
        process = subprocess.Popen(
            [sys.executable, "-c", CHILD, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env={**os.environ, "PYTHONUTF8": "1"},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def wait_for(process: subprocess.Popen[str], text: str, times: int = 1) -> str:
    """Read what the process says until it has said something so often; return the last line."""
    assert process.stderr is not None
    seen: list[str] = []
    while sum(text in line for line in seen) < times:
        seen.append(process.stderr.readline())
        assert seen[-1], f"the process ended before it said {text!r}: {seen}"
    return seen[-1]


INTERRUPTED_STAGES = [
    pytest.param("1", 1, marks=pytest.mark.slow),
    pytest.param("3", 1, marks=pytest.mark.slow),
    pytest.param("4", 2),
    pytest.param("threaded", 2),
]


def first_result(process: subprocess.Popen[str], asked: int) -> str:
    """Wait until one restaurant is done and `asked` others are being asked about."""
    assert process.stdout is not None
    line = process.stdout.readline()
    wait_for(process, "asked", asked)
    return line


@pytest.mark.parametrize(("stage", "in_flight"), INTERRUPTED_STAGES)
@pytest.mark.slow
def test_ctrl_c_lets_calls_in_flight_finish_and_keeps_what_is_done(
    child: Callable[[str], subprocess.Popen[str]], stage: str, in_flight: int
) -> None:
    process = child(stage)
    first = first_result(process, in_flight)
    os.kill(process.pid, signal.SIGINT)
    said = re.fullmatch(
        r"finishing (\d+) calls? in flight; press Ctrl-C again to cancel them\n",
        wait_for(process, "finishing "),
    )
    assert said
    assert int(said[1]) >= in_flight  # searches for later restaurants may be among them
    out, shown = process.communicate("\n")
    assert process.returncode == 130, shown
    done = [record for record in map(json.loads, [first, *out.splitlines()]) if "failure" not in record]
    assert len(done) == 1 + in_flight
    assert f"Interrupted: {1 + in_flight} of 6 restaurants summarised" in shown
    assert "The food was great." in shown


@pytest.mark.parametrize(("stage", "in_flight"), INTERRUPTED_STAGES)
@pytest.mark.sample(1)
@pytest.mark.slow
def test_a_second_ctrl_c_cancels_at_once_and_keeps_what_is_done(
    child: Callable[[str], subprocess.Popen[str]], stage: str, in_flight: int
) -> None:
    process = child(stage)
    first = first_result(process, in_flight)
    os.kill(process.pid, signal.SIGINT)
    wait_for(process, "finishing ")
    os.kill(process.pid, signal.SIGINT)
    out, shown = process.communicate()  # what was asked is never answered
    assert process.returncode == 130, shown
    assert "Traceback" not in shown
    assert "failure" not in json.loads(first)
    assert all(json.loads(line)["failure"]["stage"] == "run" for line in out.splitlines())
    assert "Interrupted: 1 of 6 restaurants summarised" in shown


@pytest.mark.parametrize(("stage", "in_flight"), INTERRUPTED_STAGES)
@pytest.mark.sample(1)
def test_sigterm_is_the_first_ctrl_c_and_the_second_sigterm_the_second(
    child: Callable[[str], subprocess.Popen[str]], stage: str, in_flight: int
) -> None:
    process = child(stage)
    first = first_result(process, in_flight)
    process.terminate()
    assert wait_for(process, "finishing ").endswith("send SIGTERM again to cancel them\n")
    process.terminate()
    out, shown = process.communicate()  # what was asked is never answered
    assert process.returncode == 130, shown
    assert "Traceback" not in shown
    assert "failure" not in json.loads(first)
    assert all(json.loads(line)["failure"]["stage"] == "run" for line in out.splitlines())
    assert "Interrupted: 1 of 6 restaurants summarised" in shown


@pytest.mark.slow
@pytest.mark.parametrize("second", [signal.SIGINT, None])
def test_sigterm_and_ctrl_c_count_together_and_calls_in_flight_may_finish(
    child: Callable[[str], subprocess.Popen[str]], second: signal.Signals | None
) -> None:
    process = child("4")
    first_result(process, 2)
    process.terminate()
    wait_for(process, "finishing ")
    if second is None:
        _, shown = process.communicate("\n")
        assert "Interrupted: 3 of 6 restaurants summarised" in shown
    else:
        process.send_signal(second)
        _out, shown = process.communicate()
        assert "Interrupted: 1 of 6 restaurants summarised" in shown
    assert process.returncode == 130, shown


@pytest.mark.slow
def test_sigterm_while_the_input_is_read_ends_the_command_like_ctrl_c() -> None:
    command = [sys.executable, "-m", "restaurant_llm_batch", "sentiment", "-"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdin is not None
    process.stdin.write('{"restaurant_id": 1, "content": "good"}\n' * 5000)
    process.stdin.flush()
    process.terminate()
    _, shown = process.communicate(timeout=PATIENCE)
    # Before Python has begun, SIGTERM ends it as any other program.
    assert (process.returncode, shown) in ((130, "interrupted\n"), (-signal.SIGTERM, ""))


@pytest.mark.parametrize(
    ("command", "limit", "said"),
    [
        ("sentiment", "--batch-concurrency", "of 6 restaurants judged"),
        ("vocabulary", "--llm-concurrency", "of 6 documents read"),
    ],
)
@pytest.mark.sample(1)
@pytest.mark.slow
def test_ctrl_c_means_the_same_to_every_command(
    child: Callable[..., subprocess.Popen[str]], command: str, limit: str, said: str
) -> None:
    process = child("4", command, limit)
    wait_for(process, "asked", 2)
    os.kill(process.pid, signal.SIGINT)
    wait_for(process, "finishing ")
    out, shown = process.communicate("\n")
    assert process.returncode == 130, shown
    assert "Traceback" not in shown
    assert re.search(rf"Interrupted: \d {said}", shown)
    assert all(json.loads(line) for line in out.splitlines())


def run_python(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("missing", ["click", "rich"])
@pytest.mark.sample(1)
def test_without_its_extra_the_command_says_in_one_line_what_to_install(missing: str) -> None:
    done = run_python(
        "-c",
        f"import sys; sys.modules[{missing!r}] = None; from restaurant_llm_batch.cli import main; main()",
    )
    assert done.returncode == 2
    assert "pip install 'restaurant-llm-batch[cli]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_the_package_runs_as_a_module() -> None:
    done = run_python("-m", "restaurant_llm_batch", "--help")
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: restaurant-llm-batch")
    assert run_python("-m", "restaurant_llm_batch", "--version").stdout.startswith("restaurant-llm-batch ")
