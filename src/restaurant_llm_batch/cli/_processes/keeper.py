"""
Keeper: starts the processes of a command, hands out its items, and takes the outcomes, in a thread of its own.

Theory of operation. The thread waits for a byte in a pipe, by which the readers of the processes and the command wake
it. It alone uses the processes, so that a Ctrl-C, which interrupts the command's main thread anywhere, leaves no
message half read; and it waits for none of them, so that one that stands still holds up no other. Outcomes go into a
queue; if the command takes none of them, as when its output is a pager, no more items are handed out.

| phase | begins when | what happens |
|---|---|---|
| work | | processes are started, also in place of those that have died, and items handed out |
| end | every item has an outcome | the processes are told that there are no more items |
| stop | a stop condition, a fatal error, or the first Ctrl-C | nothing more is handed out; calls in flight finish |
| cancel | the second Ctrl-C, or the command's error | calls are cancelled; after `CANCEL_SECONDS` the rest is killed |

All processes are gone when the thread ends.
"""

from __future__ import annotations

import logging
import os
import signal
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import wait
from queue import SimpleQueue
from threading import Thread
from time import monotonic
from typing import Any

from ..._engine.items import RunItem
from ...errors import BatchError
from ...outcomes import Failure, Outcome
from .handout import HandOut
from .job import Job
from .portable import unpack_outcome
from .process import Process
from .telling import GATHER_SECONDS, ToldOutcome
from .whole import WholeRun

log = logging.getLogger("restaurant_llm_batch")

CANCEL_SECONDS = 2.0
"""Seconds that a process has to end its calls after a cancellation."""
CLOSE_SECONDS = 30.0
"""Seconds that a process has to close its store and its clients, once its run has ended."""
MOST_FAILED_STARTS = 3
"""Processes in a row that may die before they are ready."""


class ProcessDied(BatchError):
    """The process that ran an item died, and so did the next one that ran it."""


class Keeper:
    """
    Keeps the processes of a run.

    Args:
        run: The run.
        make_job: Makes the job of a process.
        items: The items, each with its raw form, in the order in which they are handed out.
        hand_out: Which process gets which of them.
        processes: How many processes there are.
        most_waiting: Outcomes that may wait to be taken until no more items are handed out.

    Attributes:
        outcomes: The outcomes, and None after the last.
        failure: The exception that ended the run; None if there was none.
    """

    def __init__(
        self,
        run: WholeRun,
        make_job: Callable[[], Job],
        items: Sequence[tuple[RunItem, Any]],
        hand_out: HandOut,
        processes: int,
        most_waiting: int,
    ) -> None:
        self.outcomes: SimpleQueue[Outcome[Any] | None] = SimpleQueue()
        self.failure: BaseException | None = None
        self._run = run
        self._make_job = make_job
        self._items = {item.index: (item.item_id, raw) for item, raw in items}
        self._hand_out_of = hand_out
        self._wanted = processes
        self._most_waiting = most_waiting
        self._processes: list[Process] = []
        self._started = 0
        self._failed_starts = 0
        self._wish: str | None = None
        self._is_cancelled = self._is_killed = self._is_closing = False
        self._told: set[str] = set()  # what all processes were told: "end", "stop", "cancel"
        self._kill_at: float | None = None
        self._logged: dict[tuple[int, str], int] = {}
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        # Not before: a signal handler or a thread may wake it at any time.
        weakref.finalize(self, _close_pipe, self._wake_read, self._wake_write)
        self.thread = Thread(target=self._work, name="keeper", daemon=True)

    # For the command's thread, and its signal handlers

    def stop(self, reason: str) -> None:
        """Have the run stop softly. Takes no lock."""
        self._wish = self._wish or reason
        self.wake()

    def cancel(self) -> None:
        """Have the run end at once. Takes no lock."""
        self._is_cancelled = True
        self.wake()

    def kill(self) -> None:
        """Have all processes killed. Takes no lock."""
        self._is_killed = True
        self.wake()

    def wake(self) -> None:
        """Have the thread look at what has changed. Takes no lock."""
        with suppress(OSError):  # it is full, so the thread will wake anyway
            os.write(self._wake_write, b"\0")

    # The thread

    def _work(self) -> None:
        # Processes inherit this, so that a Ctrl-C of the terminal, which all of them get, is the command's alone.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            self._run.start()
            while not self._is_over:
                self._start_processes()
                self._hand_out()
                self._tell_all()
                self._receive()
                self._run.look()
            for process in self._processes:
                if process.is_done:
                    process.wait(CANCEL_SECONDS if self._is_cancelled else CLOSE_SECONDS)
        except BaseException as error:
            self.failure = error
            self._run.stop("the command failed")
        finally:
            self._close()
            self._run.finish()
            self.outcomes.put(None)

    @property
    def _is_over(self) -> bool:
        """Whether all processes have ended their runs, and no other is to be started."""
        if self._is_killed or (self._kill_at is not None and monotonic() >= self._kill_at):
            return True
        is_ending = self._is_cancelled or self._run.reason is not None or self._hand_out_of.done
        return is_ending and all(process.is_done or not process.is_ready for process in self._processes)

    def _start_processes(self) -> None:
        if self._is_cancelled or self._wish or self._run.reason is not None:
            return
        while len(self._processes) < self._wanted and self._hand_out_of.left:
            self._started += 1
            self._processes.append(Process(self._started, self._make_job(), self.wake))

    def _hand_out(self) -> None:
        if self._is_cancelled or self._wish or self._run.reason is not None:
            return
        if self.outcomes.qsize() >= self._most_waiting:
            return
        for process in self._processes:
            taken = self._hand_out_of.take(process.number) if process.is_ready else []
            if taken:
                process.send("items", [(index, self._items[index][1]) for index in taken])

    def _tell_all(self) -> None:
        if self._wish is not None:
            self._run.stop(self._wish)
        if self._is_cancelled:
            self._run.stop("the run was cancelled")
            if self._kill_at is None:
                self._kill_at = monotonic() + CANCEL_SECONDS
        reason = self._run.reason
        if reason is not None:
            self._tell("stop", reason)
        if self._is_cancelled:
            self._tell("cancel")
        if reason is not None or self._hand_out_of.done:
            self._tell("end")

    def _tell(self, kind: str, *content: Any) -> None:
        """Tell all processes something, once each."""
        if kind not in self._told:
            self._told.add(kind)
            for process in self._processes:
                if process.is_ready:
                    process.send(kind, *content)

    def _receive(self) -> None:
        if wait([self._wake_read], GATHER_SECONDS):
            os.read(self._wake_read, 4096)
        for process in list(self._processes):
            self._receive_from(process)

    def _receive_from(self, process: Process) -> None:
        for message in process.take():
            if message is None:
                self._lose(process)
            else:
                self._take(process, *message)

    def _take(self, process: Process, kind: str, *content: Any) -> None:
        match kind, content:
            case "told", (told, until):
                for outcome in self._run.take(process, told, until):
                    self._take_outcome(process, outcome)
            case "ready", (time,):
                process.is_ready = True
                self._failed_starts = 0
                self._run.ready(process, time)
                for late in ("stop", "cancel", "end"):
                    if late in self._told:
                        process.send(late, *([self._run.reason] if late == "stop" else []))
            case "log", (level, text):
                self._log(process, level, text)
            case "done", (reason,):
                process.is_done = True
                if reason is not None:
                    self._run.stop(reason)
            case "failed", (error,):
                raise error

    def _take_outcome(self, process: Process, told: ToldOutcome) -> None:
        if self._hand_out_of.ended(process.number, told.place):
            outcome = unpack_outcome(told.packed, told.item_id, told.place)
            self.outcomes.put(self._run.ended(outcome, told.time))

    def _log(self, process: Process, level: int, text: str) -> None:
        """Log a record of a process; what several processes say in the same words is logged once."""
        times = self._logged[process.number, text] = self._logged.get((process.number, text), 0) + 1
        others = [
            number for (one, said), number in self._logged.items() if said == text and one != process.number
        ]
        if times > max(others, default=0):
            log.log(level, "%s", text)

    def _lose(self, process: Process) -> None:
        """Remove a process that is gone; unless its run had ended, its items go to another one."""
        self._processes.remove(process)
        how = process.how_it_ended()
        process.close()
        self._run.lost(process)
        if process.is_done:
            return
        if not process.is_ready:
            self._failed_starts += 1
            if self._failed_starts >= MOST_FAILED_STARTS:
                raise BatchError(
                    f"{self._failed_starts} processes in a row ended before they were ready; the last one {how}"
                )
        held = self._hand_out_of.held(process.number)
        given_up = self._hand_out_of.lost(process.number)
        if self._run.reason is None and not self._is_closing:
            log.warning("%s", _loss(process, how, len(held), given_up=bool(given_up)))
        for index in given_up:
            error = ProcessDied(
                f"the process that ran this item {how}, and so did one before it; the item is not tried again"
            )
            outcome = Failure(self._items[index][0], error, "task", 2, index)
            self.outcomes.put(self._run.ended(outcome, monotonic()))

    def _close(self) -> None:
        self._is_closing = True
        for process in list(self._processes):
            process.kill()
            with suppress(Exception):  # what it told before may be read still
                self._receive_from(process)
            process.close()


def _close_pipe(*ends: int) -> None:
    for end in ends:
        os.close(end)


def _loss(process: Process, how: str, held: int, *, given_up: bool) -> str:
    """Return a sentence about a process that died."""
    text = f"process {process.pid} {how}"
    if given_up:
        return f"{text} with the item that another one had ended with before; that item fails"
    if not held:
        return text
    items = "its unfinished item is" if held == 1 else f"its {held} unfinished items are"
    return f"{text}; {items} given to another one"
