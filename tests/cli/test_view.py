"""Command `view`: it prints an address that works, ends by Ctrl-C, and refuses what is no record in one sentence."""

from __future__ import annotations

import re
import signal
import socket
import sqlite3
import sys
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner
from tests.support.nights import record_night
from tests.support.patience import PATIENCE, wait_until
from tests.support.viewed import viewed

from restaurant_llm_batch.cli._app import build


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_the_address_shows_the_page_until_it_is_ended(tmp_path: Path, number: int) -> None:
    record_night(tmp_path / "night.db", 2)
    with viewed(tmp_path / "night.db") as view:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{32}/", view.address)
        with httpx.Client(timeout=PATIENCE) as client:
            assert "restaurant-llm-batch" in client.get(view.address).text
            assert client.get(f"{view.address}api/runs").json()[0]["task"] == "SummarizeAspects"
        view.process.send_signal(number)
        rest, _ = view.process.communicate(timeout=PATIENCE)
    assert view.process.returncode == 0
    assert rest == "stopped\n"


def test_what_is_no_record_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a record " * 100)
    (tmp_path / "folder").mkdir()
    sqlite3.connect(tmp_path / "other.db").executescript(
        "CREATE TABLE t (x); INSERT INTO t VALUES (1)"
    ).close()
    for name in ("nothing.db", "notes.txt", "folder", "other.db"):
        found = CliRunner().invoke(build(), ["view", str(tmp_path / name), "--no-browser"])
        assert found.exit_code == 2, name
        assert found.stderr.count("\n") == 1, found.stderr
        assert name in found.stderr


def test_a_run_that_is_not_there_is_refused_before_anything_is_served(tmp_path: Path) -> None:
    record_night(tmp_path / "night.db", 1)
    found = CliRunner().invoke(build(), ["view", str(tmp_path / "night.db"), "--run", "7"])
    assert found.exit_code == 2
    assert "has no run 7" in found.stderr


@pytest.mark.parametrize("missing", ["fastapi", "uvicorn"])
def test_without_the_extra_the_message_names_it(
    tmp_path: Path, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_night(tmp_path / "night.db", 1)
    for name in [name for name in sys.modules if name.endswith("_page_server")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    found = CliRunner().invoke(build(), ["view", str(tmp_path / "night.db")])
    assert found.exit_code == 2
    assert "pip install 'restaurant-llm-batch[fastapi]'" in found.stderr


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("words", "display", "opens"), [([], ":0", True), (["--no-browser"], ":0", False), ([], "", False)]
)
def test_a_browser_is_opened_where_there_is_a_screen_unless_told_not_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], display: str, opens: bool
) -> None:
    record_night(tmp_path / "night.db", 1)
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setattr("sys.platform", "linux")
    for name in ("WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DISPLAY", display)
    monkeypatch.setattr("uvicorn.Server.run", lambda *_, **__: wait_until(lambda: opened or not opens))
    found = CliRunner().invoke(build(), ["view", str(tmp_path / "night.db"), *words])
    assert found.exit_code == 0
    assert [address in found.stdout for address in opened] == [True] * opens


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    record_night(tmp_path / "night.db", 1)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        found = CliRunner().invoke(build(), ["view", str(tmp_path / "night.db"), "--port", str(port)])
    assert found.exit_code == 2
    assert "--port" in found.stderr
