"""The supervisor of processes that do the same: who ends is replaced, until a signal ends all."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import sleep
from typing import Any

import pytest
from tests.support.patience import wait_until

from restaurant_llm_batch.cli import _supervisor
from restaurant_llm_batch.cli._supervisor import CANNOT_START, Supervisor

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="processes are ended by POSIX signals")


class Process:
    """A process that does what a test tells it."""

    made: list[Process]

    def __init__(self, **_: Any) -> None:
        self.exitcode: int | None = None
        self.sentinel, self._end = os.pipe()
        self.got: list[str] = []
        self.pid = len(self.made) + 1
        self.made.append(self)

    def start(self) -> None:
        pass

    def is_alive(self) -> bool:
        return self.exitcode is None

    def ends(self, code: int) -> None:
        self.exitcode = code
        os.close(self._end)

    def terminate(self) -> None:
        self.got.append("term")

    def kill(self) -> None:
        self.got.append("kill")
        self.ends(-9)

    def join(self) -> None:
        assert self.exitcode is not None

    def close(self) -> None:
        pass


class Pipe:
    """The pipe of a process: what it has said, and what the supervisor has heard."""

    def __init__(self) -> None:
        self.said: list[bytes] = []

    def poll(self) -> bool:
        return bool(self.said)

    def recv_bytes(self) -> bytes:
        return self.said.pop()

    def close(self) -> None:
        pass


class Spawn:
    """A context of `multiprocessing` whose processes are `Process`es."""

    def __init__(self) -> None:
        self.pipes: list[Pipe] = []
        self.Process = type("Made", (Process,), {"made": []})

    def Pipe(self, duplex: bool) -> tuple[Pipe, Pipe]:  # noqa: N802  # as `multiprocessing` has it
        self.pipes.append(Pipe())
        return self.pipes[-1], Pipe()


class Bench:
    """A supervisor whose processes and clock a test has in hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, count: int = 2) -> None:
        self.now = 1_000.0
        monkeypatch.setattr(_supervisor, "monotonic", lambda: self.now)
        self.supervisor = Supervisor(lambda _up: 0, count, 10.0)
        self.spawn = Spawn()
        self.supervisor._spawn = self.spawn  # type: ignore[assignment]

    @property
    def made(self) -> list[Process]:
        return self.spawn.Process.made  # type: ignore[attr-defined,no-any-return]

    def tend(self, *, up: bool = True) -> None:
        for slot in self.supervisor._slots:
            self.supervisor._tend(slot)
        if up:
            for pipe in self.spawn.pipes:
                pipe.said.append(b"up")
            for slot in self.supervisor._slots:
                self.supervisor._tend(slot)


def test_a_process_that_has_ended_is_replaced_at_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(monkeypatch)
    bench.tend()
    bench.now += 60
    bench.made[0].ends(-9)
    with caplog.at_level(logging.WARNING, "restaurant_llm_batch"):
        bench.tend()

    assert len(bench.made) == 3
    assert "worker 1 (process 1) has ended with signal SIGKILL; another one is started" in caplog.text
    assert bench.made[1].is_alive()


def test_one_that_ends_again_and_again_is_replaced_ever_later(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, count=1)
    pauses = []
    for _ in range(9):
        bench.tend()
        bench.made[-1].ends(1)
        count, began = len(bench.made), bench.now
        bench.tend(up=False)
        while len(bench.made) == count:
            bench.now += 0.25
            bench.tend(up=False)
        pauses.append(bench.now - began)

    assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


def test_one_that_has_run_for_long_counts_as_sound_again(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, count=1)
    for seconds in (0.0, 0.0, 60.0):
        bench.tend()
        bench.now += seconds
        bench.made[-1].ends(1)
        count = len(bench.made)
        bench.tend(up=False)
        assert (len(bench.made) == count + 1) == (seconds > 0)
        bench.now += 30


def test_if_the_first_cannot_start_none_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch)
    bench.tend(up=False)
    bench.made[0].ends(CANNOT_START)
    bench.tend(up=False)

    assert len(bench.made) == 2
    assert bench.supervisor._cannot_start


def test_once_one_has_been_up_one_that_cannot_start_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch)
    bench.tend()
    bench.made[0].ends(CANNOT_START)
    bench.tend(up=False)
    bench.now += 0.5
    bench.tend(up=False)

    assert len(bench.made) == 3
    assert not bench.supervisor._cannot_start


def _serve(folder: Path, up: Callable[[], object], *, stubborn: bool = False) -> int:
    (folder / f"{os.getpid()}").touch()
    if stubborn:
        signal.signal(signal.SIGTERM, lambda *_: (folder / f"{os.getpid()}.told").touch())
    up()
    while True:
        sleep(0.01)


def _refuse(_up: Callable[[], object]) -> int:
    return CANNOT_START


def run_in_thread(supervisor: Supervisor) -> tuple[threading.Thread, list[bool]]:
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(supervisor.run()))
    thread.start()
    return thread, answers


@pytest.mark.slow
def test_real_processes_are_made_again_after_a_kill_and_end_by_a_signal(tmp_path: Path) -> None:
    closed: list[str] = []
    supervisor = Supervisor(partial(_serve, tmp_path), 2, 60.0, lambda: closed.append("closed"))
    thread, answers = run_in_thread(supervisor)
    wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
    os.kill(int(next(tmp_path.iterdir()).name), signal.SIGKILL)
    wait_until(lambda: len(list(tmp_path.iterdir())) == 3)
    supervisor._on_signal(signal.SIGTERM, None)
    thread.join()

    assert (answers, closed) == ([True], ["closed"])


@pytest.mark.slow
def test_processes_that_do_not_end_are_killed_by_the_third_signal(tmp_path: Path) -> None:
    supervisor = Supervisor(partial(_serve, tmp_path, stubborn=True), 2, 3600.0)
    thread, answers = run_in_thread(supervisor)
    wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
    for _ in range(2):
        supervisor._on_signal(signal.SIGTERM, None)
        wait_until(lambda: len(list(tmp_path.glob("*.told"))) == 2)
        assert thread.is_alive()
    supervisor._on_signal(signal.SIGTERM, None)
    thread.join()

    assert answers == [True]


@pytest.mark.slow
def test_processes_that_cannot_start_end_all() -> None:
    assert not Supervisor(_refuse, 2, 60.0).run()


def test_one_that_cannot_be_started_now_is_tried_again_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(monkeypatch)
    bench.tend()
    bench.now += 60
    bench.made[0].ends(-9)
    full = [True]

    def start(process: Process) -> None:
        if full[0]:
            raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(Process, "start", start)
    with caplog.at_level(logging.WARNING, "restaurant_llm_batch"):
        bench.tend(up=False)
    assert "worker 1 cannot be started now; it is tried again in 0.5 s" in caplog.text
    assert bench.made[1].is_alive()
    full[0] = False
    bench.now += 0.5
    bench.tend()

    assert bench.supervisor._slots[0].is_up
