"""`restaurant-llm-batch limits`: shows who holds what, and sets a limit for all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from restaurant_llm_batch import AdaptiveLimit
from restaurant_llm_batch.cli._app import build
from restaurant_llm_batch.sharing import FileBroker
from restaurant_llm_batch.sharing._messages import Ask, Terms


@pytest.fixture
def path(tmp_path: Path) -> str:
    broker = FileBroker(tmp_path / "limits.db")
    broker.perform("gpu", Ask("a", 1, Terms(8), "web1:1", in_use=0, waiting=5, need=1))
    broker.perform("gpu", Ask("b", 1, Terms(8), "web1:\x1b[31m2", waiting=20, need=1))
    broker.perform("모델", Ask("a", 1, Terms(AdaptiveLimit(start=4))))
    return str(tmp_path / "limits.db")


def invoke(*arguments: str, ok: bool = True) -> str:
    found = CliRunner().invoke(build(), ["limits", *arguments])
    assert (found.exit_code == 0) is ok, found.output
    return found.output


def test_it_shows_who_holds_what(path: str) -> None:
    shown = invoke(path)

    assert "gpu" in shown
    assert "2 in all" in shown
    assert "adaptive, 1 in all" in shown
    assert "web1:1" in shown
    assert "\x1b[31m" not in shown
    rows = [line.split() for line in shown.splitlines() if "web1:1" in line]
    assert rows[0][1:4] == ["6", "0", "5"]


def test_as_json_it_is_for_scripts(path: str) -> None:
    found = json.loads(invoke(path, "--json"))

    assert (found["gpu"]["limit"], found["gpu"]["lent"], found["gpu"]["waiting"]) == (8, 8, 25)
    assert found["gpu"]["declared"] == "limit=8"
    assert [member["lent"] for member in found["gpu"]["members"]] == [2, 6]


def test_it_sets_limits(path: str) -> None:
    invoke(path, "set", "gpu=16", "모델=3")

    limits = FileBroker(path).limits()
    assert (limits["gpu"].limit, limits["모델"].limit) == (16, 3)
    assert limits["gpu"].declared == Terms(8)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["set"], "expected set NAME=LIMIT"),
        (["unset", "gpu=3"], "expected set NAME=LIMIT"),
        (["set", "gpu"], "expected NAME=LIMIT"),
        (["set", "gpu=0"], "at least 1"),
        (["set", "gpu=-3"], "at least 1"),
        (["set", "gpu=1.5"], "at least 1"),
        (["set", "gpu=²"], "at least 1"),
        (["set", "=3"], "expected NAME=LIMIT"),
        (["set", "cpu=3"], "no limit 'cpu'"),
    ],
)
def test_what_cannot_be_set_is_refused_in_a_line(path: str, words: list[str], message: str) -> None:
    assert message in invoke(path, *words, ok=False)
    assert FileBroker(path).limits()["gpu"].limit == 8


def test_a_broker_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    assert "there is no file" in invoke(str(tmp_path / "no.db"), ok=False)
    assert not (tmp_path / "no.db").exists()
    (tmp_path / "text.db").write_text("no database" * 100)
    assert "Error" in invoke(str(tmp_path / "text.db"), ok=False)
    assert "RedisBroker" in invoke("http://localhost", ok=False)
    assert "does not answer" in invoke("redis://:s3cret@127.0.0.1:1/0", ok=False)
    assert "s3cret" not in invoke("redis://:s3cret@127.0.0.1:1/0", ok=False)


def test_a_file_without_limits_says_so(tmp_path: Path) -> None:
    broker = FileBroker(tmp_path / "limits.db")
    assert broker.names() == []
    assert "no limit has been declared" in invoke(str(tmp_path / "limits.db"))
