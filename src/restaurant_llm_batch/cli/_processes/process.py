"""A process of a command, as the command sees it."""

from __future__ import annotations

import os
import signal
import subprocess  # nosec B404  # this program itself
import sys
from contextlib import suppress
from multiprocessing.connection import Pipe
from typing import Any

from ...events import CallEnded, CallStarted
from .child import command_line
from .job import Job
from .link import Link, LinkClosed


class Process:
    """
    A process that was started, and what is known of it.

    To be made in a thread that blocks SIGINT and SIGTERM: the process inherits that.

    Args:
        number: Its number, from 1.
        job: What it does.

    Attributes:
        number: Its number.
        link: The link to it.
        is_ready: Whether it takes items.
        is_done: Whether its run has ended.
        calls: Its calls in flight, as far as it has told, by number and attempt.
    """

    def __init__(self, number: int, job: Job) -> None:
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
        self.link = Link(mine)
        self.send("job", job)

    def send(self, kind: str, *content: Any) -> None:
        """Send a message; if the process has died, that is found out when it is received from."""
        with suppress(LinkClosed):
            self.link.send(kind, *content)

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
        """Return a phrase that says how it ended, once it is gone."""
        code = self._process.wait()
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
        """Kill it, and wait until it is gone."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Close the link."""
        self.link.close()


def _standard_error() -> int:
    try:
        number = sys.__stderr__.fileno() if sys.__stderr__ is not None else 2
        os.fstat(number)
    except (OSError, ValueError):
        return subprocess.DEVNULL
    return number
