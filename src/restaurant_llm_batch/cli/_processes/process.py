"""
A process of a command, as the command sees it.

A process that stands still (SIGSTOP, a full memory) neither reads nor writes its link to the end. So two threads wait
for it, one for each direction, and whoever uses a `Process` waits for nothing.
"""

from __future__ import annotations

import os
import signal
import subprocess  # nosec B404  # this program itself
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing.connection import Pipe
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from ...events import CallEnded, CallStarted
from .child import command_line
from .job import Job
from .link import Link, LinkClosed, Message, packed

_LOOK_SECONDS = 0.2
"""Seconds between two looks at whether a process is gone."""
_END_SECONDS = 5.0
"""Seconds that a process has to end when its link is closed."""


class Process:
    """
    A process that was started, and what is known of it.

    To be made in a thread that blocks SIGINT and SIGTERM: the process inherits that.

    Args:
        number: Its number, from 1.
        job: What it does.
        wake: Called, in a thread, when there is something to `take`.

    Attributes:
        number: Its number.
        is_ready: Whether it takes items.
        is_done: Whether its run has ended.
        calls: Its calls in flight, as far as it has told, by number and attempt.
    """

    def __init__(self, number: int, job: Job, wake: Callable[[], object]) -> None:
        self.number = number
        self.is_ready: bool = False
        self.is_done: bool = False
        self.calls: dict[tuple[int, int], CallStarted] = {}
        mine, its = Pipe()
        try:
            self._process = subprocess.Popen(  # nosec B603
                command_line(its.fileno()),
                stdin=subprocess.DEVNULL,
                # Standard output may be the output of the command; whatever a task prints goes beside it.
                stdout=_standard_error(),
                pass_fds=(its.fileno(),),
            )
        except BaseException:
            mine.close()
            raise
        finally:
            its.close()
        self._link = Link(mine)
        self._wake = wake
        self._inbox: SimpleQueue[Message | None] = SimpleQueue()
        self._outbox: SimpleQueue[bytes | None] = SimpleQueue()
        self._reader = Thread(target=self._read, name=f"process {number}, reader", daemon=True)
        self._reader.start()
        self._writer = Thread(target=self._write, name=f"process {number}, writer", daemon=True)
        self._writer.start()
        self.send("job", job)

    def send(self, kind: str, *content: Any) -> None:
        """Send a message; if the process has died, that is found out when it is received from."""
        self._outbox.put(packed(kind, *content))

    def _write(self) -> None:
        with suppress(LinkClosed):
            while (message := self._outbox.get()) is not None:
                self._link.send_packed(message)

    def _read(self) -> None:
        with suppress(LinkClosed):
            # It is gone when the link says so, or when it has exited: a child of its own may hold the link open.
            while True:
                has_exited = self.has_exited
                if self._link.has_message(_LOOK_SECONDS):
                    self._inbox.put(self._link.receive())
                    self._wake()
                elif has_exited:
                    break
        self._inbox.put(None)
        self._wake()

    def take(self) -> Iterator[Message | None]:
        """Yield the messages that have arrived; None if it is gone, and has sent nothing more."""
        with suppress(Empty):
            while True:
                yield self._inbox.get_nowait()

    @property
    def pid(self) -> int:
        """Its number in the system."""
        return self._process.pid

    @property
    def has_exited(self) -> bool:
        """Whether it is gone."""
        return self._process.poll() is not None

    def note_call(self, event: CallStarted | CallEnded) -> None:
        """Note a call that starts or ends."""
        if isinstance(event, CallStarted):
            self.calls[event.call, event.attempt] = event
        else:
            self.calls.pop((event.call, event.attempt), None)

    def how_it_ended(self) -> str:
        """Return a phrase that says how it ended; if it lives without its link, it is killed."""
        self.wait(_END_SECONDS)
        code = self._process.returncode
        if code < 0:
            with suppress(ValueError):
                return f"was killed by {signal.Signals(-code).name}"
            return f"was killed by signal {-code}"
        return f"ended with exit status {code}"

    def wait(self, seconds: float) -> None:
        """Wait until it is gone, and kill it if that takes longer than `seconds`."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """Kill it, and wait until it is gone and its messages have arrived."""
        self._process.kill()
        self._process.wait()
        self._reader.join(2 * _LOOK_SECONDS)

    def close(self) -> None:
        """Close the link of a process that is gone."""
        self._outbox.put(None)
        self._writer.join(_END_SECONDS)  # not long: what it writes to is gone
        self._link.close()


def _standard_error() -> int:
    try:
        number = sys.__stderr__.fileno() if sys.__stderr__ is not None else 2
        os.fstat(number)
    except (OSError, ValueError):
        return subprocess.DEVNULL
    return number
