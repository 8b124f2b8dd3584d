"""An output appears whole or not at all, and nothing of the user's is overwritten."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from restaurant_llm_batch.cli._app import build
from restaurant_llm_batch.cli._output import OutputFileError, open_writer
from restaurant_llm_batch.errors import ConfigurationError
from restaurant_llm_batch.records import open_record


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    path = tmp_path / "reviews.jsonl"
    lines = [{"restaurant_id": n, "review_id": 1, "content": f"맛있어요 {n}"} for n in range(1, 6)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def invoke(*words: str | Path) -> Result:
    return CliRunner().invoke(build(), [str(word) for word in words])


def replies(store: Path) -> int:
    with sqlite3.connect(store) as db:
        return int(db.execute("SELECT count(*) FROM replies").fetchone()[0])


@pytest.mark.parametrize(
    "words",
    [
        ["--store", "s.db", "-o", "s.db"],
        ["--store", "s.db", "-o", "s.db-wal"],
        ["--store", "./s.db", "-o", "sub/../s.db"],
        ["--store", "s.db", "-o", "sub"],
        ["--store", "s.db", "-o", "no/such/folder"],
        ["--store", "s.db", "-o", "reviews.jsonl"],
        ["-o", "s.db"],
        ["--store", "s.db", "--record", "night.db", "-o", "night.db"],
        ["--store", "s.db", "--record", "night.db", "-o", "sub/../night.db-wal"],
        ["--store", "s.db", "--record", "s.db", "-o", "./s.db"],
    ],
)
@pytest.mark.sample(2)
def test_nothing_is_created_before_an_output_is_refused(
    words: list[str], reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    if "--store" not in words:
        monkeypatch.setenv("BATCH_STORE", "s.db")
    before = sorted(tmp_path.rglob("*"))
    result = invoke("sentiment", reviews, "-q", *words)
    assert result.exit_code == 2, result.output
    assert "--output" in result.output
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["run.db", "run.db-wal", "./sub/../run.db", "a link", "another store"])
@pytest.mark.sample(2)
def test_an_output_that_is_a_store_is_refused_before_anything_is_opened(
    name: str, reviews: Path, tmp_path: Path
) -> None:
    store, target = tmp_path / "run.db", tmp_path / name
    (tmp_path / "sub").mkdir()
    assert invoke("sentiment", reviews, "-q", "--store", store).exit_code == 0
    if name == "a link":
        target.symlink_to(store)
    elif name == "another store":
        assert invoke("sentiment", reviews, "-q", "--store", target).exit_code == 0
    before = replies(store)

    result = invoke("sentiment", reviews, "-q", "--store", store, "-o", target)

    assert result.exit_code == 2
    assert "--output" in result.output
    assert "name another file" in result.output
    assert replies(store) == before > 0
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.sample(1)
@pytest.mark.parametrize("texts", [False, True])
def test_a_command_records_its_run(texts: bool, reviews: Path, tmp_path: Path) -> None:
    path = tmp_path / "night.db"
    words: list[str | Path] = [
        "--record",
        path,
        *(["--record-texts"] if texts else []),
        "--store",
        path,
        "-o",
        tmp_path / "out.jsonl",
    ]
    assert invoke("sentiment", reviews, "-q", *words).exit_code == 0
    record = open_record(path)

    assert record.run().state == "done"
    assert [item.item_id for item in record.items()] == [1, 2, 3, 4, 5]
    assert bool(record.explain(1).result) is texts
    assert replies(path) > 0


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    "words",
    [
        ["--store", "/no/such/folder/run.db"],
        ["--record", "/no/such/folder/night.db"],
        ["--record", "foreign.db"],
        ["--store", "foreign.db"],
        ["--first", "-1"],
        ["--only", "999"],
        ["--llm", "vllm"],
    ],
)
def test_an_argument_that_is_wrong_leaves_the_output_as_it_was(
    words: list[str], reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "foreign.db").write_text("not a database, and long enough to look like one" * 20)
    (tmp_path / "out.jsonl").write_text("yesterday\n")

    assert invoke("sentiment", reviews, "-q", "-o", "out.jsonl", *words).exit_code == 2
    assert (tmp_path / "out.jsonl").read_text() == "yesterday\n"
    assert not list(tmp_path.glob("*.partial"))


def test_an_output_is_replaced_when_it_is_whole_and_keeps_its_mode_and_its_link(
    reviews: Path, tmp_path: Path
) -> None:
    real, link = tmp_path / "real.jsonl", tmp_path / "link.jsonl"
    real.write_text("yesterday\n")
    real.chmod(0o640)
    link.symlink_to(real)

    assert invoke("sentiment", reviews, "-q", "-o", link).exit_code == 0
    assert link.is_symlink()
    assert len(real.read_text().splitlines()) == 5
    assert real.stat().st_mode & 0o777 == 0o640
    assert not list(tmp_path.glob("*.partial"))


def test_a_pipe_is_written_as_the_outcomes_finish(reviews: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    process = subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE, text=True)
    try:
        assert invoke("sentiment", reviews, "-q", "-o", pipe).exit_code == 0
        assert len(process.communicate()[0].splitlines()) == 5
    finally:
        process.kill()
        process.wait()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
@pytest.mark.slow
def test_a_full_disk_is_a_sentence(reviews: Path) -> None:
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "restaurant_llm_batch",
            "sentiment",
            str(reviews),
            "-q",
            "-o",
            "/dev/full",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].endswith("the disk is full; free some space and run again")
    assert "Traceback" not in result.stderr


LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))
from restaurant_llm_batch.cli import main
sys.argv[0] = "restaurant-llm-batch"
main()
"""


@pytest.mark.slow
def test_a_disk_that_fills_up_keeps_the_old_output_and_says_where_the_rest_is(
    reviews: Path, tmp_path: Path
) -> None:
    (tmp_path / "out.jsonl").write_text("yesterday\n")
    words = ["sentiment", str(reviews), "-q", "-o", "out.jsonl"]
    result = subprocess.run(
        [sys.executable, "-c", LIMITED, *words], capture_output=True, text=True, check=False, cwd=tmp_path
    )

    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert "cannot write --output 'out.jsonl'" in result.stderr
    assert "out.jsonl.partial" in " ".join(result.stderr.split())
    assert (tmp_path / "out.jsonl").read_text() == "yesterday\n"


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
def test_a_killed_run_leaves_the_old_output_and_what_was_finished(reviews: Path, tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").write_text("yesterday\n")
    (tmp_path / "out.jsonl.partial").write_text("of another run\n")
    words = ["sentiment", str(reviews), "-q", "--stage", "1", "-o", str(tmp_path / "out.jsonl")]
    process = subprocess.run([sys.executable, "-c", KILLED, *words], check=False)

    assert process.returncode == -signal.SIGKILL
    assert (tmp_path / "out.jsonl").read_text() == "yesterday\n"
    assert (tmp_path / "out.jsonl.partial").read_text() == "of another run\n"
    finished = (tmp_path / "out.jsonl.2.partial").read_text().splitlines()
    assert [json.loads(line)["restaurant_id"] for line in finished] == [1, 2, 3]


def test_a_block_that_fails_before_it_writes_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), open_writer(str(tmp_path / "out"), []):
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_ctrl_c_while_a_table_is_made_says_where_the_results_are(
    reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("restaurant_llm_batch._tables.writing._write_csv", interrupted)
    out = tmp_path / "out.csv"
    done = invoke("sentiment", reviews, "-q", "-o", out)

    assert done.exit_code == 130
    assert f"What is finished is in {out}.partial; out.csv was not touched." in done.output.replace("\n", "")
    assert Path(f"{out}.partial").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("target", "said"), [("folder", "is a folder"), ("no/out", "its folder does not exist")]
)
def test_a_name_that_cannot_be_an_output_is_refused(target: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigurationError, match=said), open_writer(str(tmp_path / target), []):
        pass


def test_an_output_whose_folder_goes_away_says_where_the_results_are(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with (
        pytest.raises(OutputFileError, match="the results are in"),
        open_writer(str(folder / "out"), []) as writer,
    ):
        writer.write({"a": 1})
        folder.rename(tmp_path / "elsewhere")


@pytest.fixture
def open_umask() -> Iterator[None]:
    """Let new files be readable by all, as most systems do."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.mark.usefixtures("open_umask")
def test_a_new_output_is_for_its_owner_only_from_its_creation_on(tmp_path: Path) -> None:
    target = tmp_path / "out.jsonl"
    with open_writer(str(target), ()) as writer:
        assert (tmp_path / "out.jsonl.partial").stat().st_mode & 0o777 == 0o600
        writer.write({"restaurant_id": 1})

    assert target.stat().st_mode & 0o777 == 0o600


@pytest.mark.usefixtures("open_umask")
@pytest.mark.parametrize("mode", [0o644, 0o660, 0o400])
def test_an_output_of_a_run_that_failed_leaves_no_more_readable_file_than_it_found(
    mode: int, tmp_path: Path
) -> None:
    target = tmp_path / "out.jsonl"
    target.write_text("yesterday\n")
    target.chmod(mode)
    with pytest.raises(RuntimeError), open_writer(str(target), ()) as writer:
        writer.write({"restaurant_id": 1})
        raise RuntimeError

    assert target.read_text() == "yesterday\n"
    assert target.stat().st_mode & 0o777 == mode
    assert (tmp_path / "out.jsonl.partial").stat().st_mode & 0o777 == 0o600


@pytest.mark.usefixtures("open_umask")
def test_a_command_makes_output_and_store_for_their_owner_only(reviews: Path, tmp_path: Path) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    result = invoke("sentiment", reviews, "-q", "--store", folder / "run.db", "-o", folder / "out.jsonl")

    assert result.exit_code == 0
    modes = {file.name: file.stat().st_mode & 0o777 for file in folder.iterdir()}
    assert modes == {"run.db": 0o600, "out.jsonl": 0o600}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
@pytest.mark.parametrize(
    "words", [["--help"], ["sentiment", "-q"], ["search", "--restaurant", "ko-1", "친절"]]
)
@pytest.mark.sample(1)
@pytest.mark.slow
def test_a_full_disk_under_the_terminals_output_is_a_sentence_too(words: list[str]) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "restaurant_llm_batch", *words],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )

    assert done.returncode == 2
    assert done.stderr.splitlines() == ["Error: cannot write the output: No space left on device"]


def test_a_closed_standard_output_is_refused_before_a_call_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)

    with pytest.raises(ConfigurationError, match="standard output is closed"), open_writer("-", []):
        pass
