"""
One of the processes of a command: gets items over a link, runs them as one run, and tells what comes of them.

Theory of operation. The process has one run from its first item to its last. Its input is an async iterable that ends
when the command says so, so that there is no barrier between the items of one message and those of the next. A thread
receives messages, and finds out that the command is gone: then it ends the process at once, whatever else it does.

Signals are for the command, which says what follows from them: a terminal sends Ctrl-C to all processes, and systemd
sends SIGTERM to all of them.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
from collections import deque
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Thread
from time import monotonic
from typing import Any

import anyio
from anyio.from_thread import BlockingPortal

from ..._engine.async_streams import AsyncOutcomeStream
from ..._runner import BatchRunner
from .job import Job
from .link import Link, LinkClosed
from .portable import portable_error
from .stopping import noted
from .telling import LogTeller, Teller

log = logging.getLogger("restaurant_llm_batch")


def main(number: int) -> None:
    """
    Run a process of a command.

    Args:
        number: The file descriptor of its link.
    """
    _leave_signals_to_the_command()
    os.set_inheritable(number, False)
    link = Link(Connection(number))
    log.addHandler(LogTeller(link))
    try:
        _, job = link.receive()
        _run(link, job)
    except LinkClosed:
        return
    except Exception as error:
        link.send("failed", portable_error(_only(error)))


def _only(error: Exception) -> Exception:
    """Return the one exception of a group, which a task group has made of it."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _leave_signals_to_the_command() -> None:
    # The command starts this process with both blocked, so that none is lost or acts before this.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})


def _run(link: Link, job: Job) -> None:
    feed = Feed()
    teller = Teller(link, feed.places, texts=job.texts)
    runner = job.make_runner(noted(teller.note, all_calls=job.counts_calls), teller)
    link.send("ready", monotonic())
    teller.send_regularly()
    anyio.run(partial(_work, link, job, runner, feed))
    teller.send()


async def _work(link: Link, job: Job, runner: BatchRunner, feed: Feed) -> None:
    async with BlockingPortal() as portal, runner:
        stream = runner.astream(job.task, feed)
        with anyio.CancelScope() as scope:
            listener = Listener(link, job.folder, portal, feed, stream, scope)
            Thread(target=listener.listen, name="listener", daemon=True).start()
            async for _ in stream:
                pass  # the teller has told of it
        if scope.cancel_called:
            with anyio.CancelScope(shield=True):
                await stream.aclose()
        listener.is_over = True
    stopped = stream.stats.stopped_because
    link.send("done", stopped)


class Feed:
    """
    The items of a process, an async iterator. Its methods belong to the event loop.

    Attributes:
        places: Positions in the whole input of the items that were taken, in that order.
    """

    def __init__(self) -> None:
        self.places: list[int] = []
        self._items: deque[tuple[int, Any]] = deque()
        self._changed: anyio.Event | None = None
        self._has_ended = False

    def put(self, items: list[tuple[int, Any]]) -> None:
        """Add items, each with its position in the whole input."""
        self._items.extend(items)
        self._notify()

    def end(self) -> None:
        """End after the items that are there."""
        self._has_ended = True
        self._notify()

    def _notify(self) -> None:
        if self._changed is not None:
            self._changed.set()

    def __aiter__(self) -> Feed:
        return self

    async def __anext__(self) -> Any:
        while not self._items:
            if self._has_ended:
                raise StopAsyncIteration
            self._changed = anyio.Event()
            await self._changed.wait()
        place, item = self._items.popleft()
        self.places.append(place)
        return item


class Listener:
    """
    Receives the messages of the command, in a thread of its own.

    Args:
        link: The link to the command.
        folder: The private folder of the run.
        portal: Runs what a message asks for on the event loop.
        feed: The items.
        stream: The outcomes.
        scope: Cancels the run.

    Attributes:
        is_over: Whether the run has ended, so that the command may go.
    """

    def __init__(
        self,
        link: Link,
        folder: Path,
        portal: BlockingPortal,
        feed: Feed,
        stream: AsyncOutcomeStream[Any],
        scope: anyio.CancelScope,
    ) -> None:
        self.is_over = False
        self._link = link
        self._folder = folder
        self._portal = portal
        self._feed = feed
        self._stream = stream
        self._scope = scope

    def listen(self) -> None:
        """Receive messages until the command is gone, and end the process then."""
        while True:
            try:
                kind, *content = self._link.receive()
            except LinkClosed:
                if not self.is_over:
                    # Killed: nobody takes the outcomes, and nobody else deletes the folder.
                    shutil.rmtree(self._folder, ignore_errors=True)
                    os._exit(1)
                return
            try:
                # It does not wait for the event loop, which may be busy, or this could not notice the command's end.
                self._portal.start_task_soon(self._obey, kind, *content)
            except RuntimeError:  # the loop has ended
                return

    def _obey(self, kind: str, *content: Any) -> None:
        match kind:
            case "items":
                self._feed.put(*content)
            case "end":
                self._feed.end()
            case "stop":
                self._stream.stop(*content)
            case "cancel":
                self._scope.cancel()


BOOT = (
    "import sys; sys.path[:] = sys.argv[2:]; number = int(sys.argv[1]); del sys.argv[1:]; "
    f"from {__name__} import main; main(number)"
)
"""Program of a process; its arguments are the file descriptor of its link, and the places of modules."""


def command_line(number: int) -> list[str]:
    """Return the command that starts a process with the file descriptor of a link."""
    return [sys.executable, "-P", "-c", BOOT, str(number), *sys.path]
