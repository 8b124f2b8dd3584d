"""
Supervisor: keeps several processes running until a signal ends all of them.

Theory of operation. Each process is started anew (``spawn``), calls `Work` and says through a pipe when it is up. One
that ends is replaced: at once, or after a pause that doubles if it ended soon after its start. If none has been up yet
and one says by its exit status that it cannot start, all are ended: every other one would fail in the same way.

| signal to the supervisor | what the processes get |
|---|---|
| the first Ctrl-C, SIGTERM or SIGHUP | SIGTERM: they finish what they do |
| the second | SIGTERM again: they cancel it |
| the third, or `seconds` after the first | SIGKILL |

Ctrl-C in a terminal, and its hang-up, reach all processes of its group, but those of the supervisor block SIGINT and
ignore SIGHUP. If the supervisor itself is killed, they end as by SIGTERM.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import connection, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from time import monotonic
from types import FrameType
from typing import TypeAlias

from ._signals import handlers, terminated_like_interrupted

log = logging.getLogger("restaurant_llm_batch")

Work: TypeAlias = Callable[[Callable[[], object]], int]
"""
What a process does, given a function that it calls when it is up; returns its exit status. It must be picklable, and
ends by `KeyboardInterrupt` on SIGTERM unless it handles that signal.
"""

CANNOT_START = 3
"""Exit status of a process that cannot start, as uvicorn's is."""
_POLL_SECONDS = 0.1
_SOON_SECONDS = 5.0
"""A process that ends sooner after its start counts as failing."""
_PAUSE_SECONDS, _MOST_PAUSE_SECONDS = 0.5, 30.0
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


@dataclass
class _Slot:
    """One of the processes, with those that it replaces."""

    number: int
    process: SpawnProcess | None = None
    says: Connection | None = None
    is_up: bool = False
    started: float = 0.0
    start_at: float = 0.0
    failures: int = 0


class Supervisor:
    """
    Runs processes that do the same.

    Args:
        work: What each does.
        count: How many there are.
        seconds: How long they may take to end after the first signal.
        on_stop: Called at the first signal.
    """

    def __init__(
        self, work: Work, count: int, seconds: float, on_stop: Callable[[], object] = lambda: None
    ) -> None:
        self._work = work
        self._seconds = seconds
        self._on_stop = on_stop
        self._slots = [_Slot(number) for number in range(1, count + 1)]
        self._spawn = multiprocessing.get_context("spawn")
        self._signal_count = 0
        self._has_been_up = False
        self._cannot_start = False

    def run(self) -> bool:
        """Run until a signal comes; return False if the processes could not start, and True otherwise."""
        with handlers(self._on_signal, *_SIGNALS):
            try:
                while not self._signal_count and not self._cannot_start:
                    for slot in self._slots:
                        self._tend(slot)
                    self._wait()
            finally:
                self._end()
        return not self._cannot_start

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._signal_count += 1

    def _tend(self, slot: _Slot) -> None:
        """Note that a process is up or has ended, and start the next one when it is time."""
        if slot.says is not None and slot.says.poll():
            self._hear(slot, slot.says)
        if slot.process is not None and not slot.process.is_alive():
            self._note_end(slot, slot.process)
        if slot.process is None and not self._cannot_start and monotonic() >= slot.start_at:
            self._start(slot)

    def _hear(self, slot: _Slot, says: Connection) -> None:
        try:
            says.recv_bytes()
        except (EOFError, OSError):  # it has ended
            says.close()
            slot.says = None
        else:
            slot.is_up = self._has_been_up = True

    def _note_end(self, slot: _Slot, process: SpawnProcess) -> None:
        process.join()
        code, lived = process.exitcode, monotonic() - slot.started
        slot.process, was_up, slot.is_up = None, slot.is_up, False
        if slot.says is not None:
            slot.says.close()
            slot.says = None
        if code == CANNOT_START and not self._has_been_up:
            self._cannot_start = True
            return
        slot.failures = slot.failures + 1 if lived < _SOON_SECONDS or not was_up else 0
        pause = self._plan_start(slot)
        log.warning(
            "worker %d (process %s) has ended with %s; another one is started%s",
            slot.number,
            process.pid,
            _how(code),
            f" in {pause:g} s" if pause else "",
        )
        process.close()

    @staticmethod
    def _plan_start(slot: _Slot) -> float:
        """Plan the next start, and return the seconds until then."""
        pause = min(_PAUSE_SECONDS * 2 ** (slot.failures - 1), _MOST_PAUSE_SECONDS) if slot.failures else 0.0
        slot.start_at = monotonic() + pause
        return pause

    def _start(self, slot: _Slot) -> None:
        says, told = self._spawn.Pipe(duplex=False)
        process = self._spawn.Process(
            target=_main, args=(self._work, told), name=f"worker {slot.number}", daemon=False
        )
        try:
            with _interrupts_blocked():
                process.start()
        except OSError as error:  # too many processes, or no memory: the others serve meanwhile
            says.close()
            slot.failures += 1
            pause = self._plan_start(slot)
            log.warning(
                "worker %d cannot be started now; it is tried again in %g s: %s", slot.number, pause, error
            )
            return
        finally:
            told.close()
        slot.process, slot.says, slot.started = process, says, monotonic()

    def _wait(self) -> None:
        sentinels = [slot.process.sentinel for slot in self._slots if slot.process is not None]
        connection.wait(sentinels, _POLL_SECONDS)

    def _end(self) -> None:
        """End all processes, the more urgently the more signals come."""
        self._on_stop()
        late, sent = monotonic() + self._seconds, 0
        while alive := [one for slot in self._slots if (one := slot.process) is not None and one.is_alive()]:
            wanted = 3 if monotonic() > late else max(1, self._signal_count)
            if wanted > sent:
                sent = wanted
                for process in alive:
                    process.kill() if wanted > 2 else process.terminate()
            connection.wait([process.sentinel for process in alive], _POLL_SECONDS)
        for slot in self._slots:
            if slot.process is not None:
                slot.process.join()
            if slot.says is not None:
                slot.says.close()


def _how(code: int | None) -> str:
    if code is not None and code < 0:
        try:
            return f"signal {signal.Signals(-code).name}"
        except ValueError:
            return f"signal {-code}"
    return f"status {code}"


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Block SIGINT during the block, which is handed on to a process that is started in it."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # otherwise the first process starts it, and it unblocks SIGINT here
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _main(work: Work, told: Connection) -> None:
    """Run in the process: end as by SIGTERM if the supervisor is gone."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # for the supervisor, which sends SIGTERM
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="supervisor", daemon=True).start()
    try:
        with terminated_like_interrupted():
            status = work(lambda: told.send_bytes(b"up"))
    except KeyboardInterrupt:
        status = 0
    raise SystemExit(status)
