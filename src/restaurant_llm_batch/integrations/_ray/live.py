"""
Live run: one run of an actor, into which batches of rows are put while it goes on.

Theory of operation. A thread with an event loop of its own runs the task over an async iterable, which yields the rows
of all batches in the order in which they come. So the rows of several batches are open together, within one window and
the runner's limits, and no batch waits for the end of another. Outcomes are numbered as the rows were yielded; by that
number each finds its place in its batch. A batch is done when its last outcome is there.

The run ends when `close` is called, or when it stops by itself (a stop condition, a key that is refused). Rows that
come later then fail, each with the reason: to begin another run would make the calls that the stop was to prevent.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

import anyio

from ..._engine.loop_mailbox import EventLoopMailbox
from ..._runner.runner import BatchRunner
from ..._tables.rows import Row
from ...errors import RunStopped
from ...models import ID_FIELDS
from ...outcomes import Failure, Outcome
from ...protocols import Task

log = logging.getLogger("restaurant_llm_batch")

CLOSE_SECONDS = 30.0
"""Seconds that `close` waits for calls in flight that are being cancelled."""


class Batch:
    """
    Rows that are answered together.

    Attributes:
        done: Has the outcomes in the order of the rows.
    """

    def __init__(self, size: int) -> None:
        self.done: Future[list[Outcome[Any]]] = Future()
        self._outcomes: list[Any] = [None] * size
        self._missing = size
        if not size:
            self.done.set_result([])

    def put(self, place: int, outcome: Outcome[Any]) -> None:
        """Take in the outcome of a row."""
        self._outcomes[place] = outcome
        self._missing -= 1
        if not self._missing:
            self.done.set_result(self._outcomes)


class _Slot(NamedTuple):
    batch: Batch
    place: int
    row: Row


class LiveRun:
    """
    A run that takes batches of rows until it is closed. Thread-safe.

    Args:
        runner: The runner, which is closed with the run.
        task: The task, whose items the rows are.

    Raises:
        ConfigurationError: The runner cannot perform the task.
    """

    def __init__(self, runner: BatchRunner, task: Task[Any]) -> None:
        self._runner = runner
        self._task = task
        self._lock = threading.Lock()
        self._unread: deque[_Slot] = deque()
        self._open: dict[int, _Slot] = {}
        self._closed = False
        self._stopped: Exception | None = None
        self._more: anyio.Event | None = None
        self._mailbox: EventLoopMailbox | None = None
        self._started: Future[None] = Future()
        # A daemon: a process that ends without `close` does not wait for calls.
        self._thread = threading.Thread(target=self._run, name="restaurant-llm-batch-rows", daemon=True)
        self._thread.start()
        self._started.result()

    def submit(self, rows: Sequence[Row]) -> Future[list[Outcome[Any]]]:
        """Put rows into the run, and return the future of their outcomes."""
        batch = Batch(len(rows))
        with self._lock:
            stopped = self._stopped
            if stopped is None:
                self._unread.extend(_Slot(batch, place, row) for place, row in enumerate(rows))
        if stopped is not None:
            for place, row in enumerate(rows):
                batch.put(place, _refused(row, stopped))
        else:
            self._wake()
        return batch.done

    def close(self) -> None:
        """End the run: rows that are open are finished first. Closing again does nothing."""
        self._closed = True
        self._wake()
        if self._thread is not threading.current_thread():
            self._thread.join(CLOSE_SECONDS)

    def _wake(self) -> None:
        if self._mailbox is not None:
            self._mailbox.post_unattended(self._look)

    def _look(self) -> None:
        if self._more is not None:
            self._more.set()

    def _run(self) -> None:
        try:
            stopped: BaseException | None = anyio.run(self._main)
        except BaseException as error:
            stopped = error
            if self._started.done():
                log.exception("the run of this actor has failed, and its rows fail with the error")
            else:
                self._started.set_exception(error)
        self._end(stopped)

    async def _main(self) -> RunStopped | None:
        """Deliver outcomes until the run ends; return why it has stopped, if it has by itself."""
        self._mailbox = EventLoopMailbox()
        async with self._runner:
            outcomes = self._runner.astream(self._task, self._rows())
            self._started.set_result(None)
            async for outcome in outcomes:
                slot = self._open.pop(outcome.index)
                slot.batch.put(slot.place, outcome)
            reason = outcomes.stats.stopped_because
        if reason is None:
            return None
        log.warning("the run of this actor has stopped, and rows that it has not begun fail: %s", reason)
        return RunStopped(f"the run has stopped: {reason}")

    async def _rows(self) -> AsyncIterator[Row]:
        number = 0
        while True:
            while self._unread:
                slot = self._open[number] = self._unread.popleft()
                number += 1
                yield slot.row
            if self._closed:
                return
            self._more = anyio.Event()
            if not self._unread and not self._closed:
                await self._more.wait()

    def _end(self, error: BaseException | None) -> None:
        """Fail what is open and what comes later."""
        reason = error if isinstance(error, Exception) else RunStopped("the run has ended")
        with self._lock:
            self._stopped = reason
            left = [*self._open.values(), *self._unread]
            self._open.clear()
            self._unread.clear()
        for slot in left:
            slot.batch.put(slot.place, _refused(slot.row, reason))


def _refused(row: Row, error: Exception) -> Failure:
    item_id = next((row[name] for name in ID_FIELDS if isinstance(row.get(name), (int, str))), None)
    return Failure(item_id, error, "run")
