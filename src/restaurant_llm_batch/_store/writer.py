"""
The thread that writes a store: whatever waits when it comes along is committed together.

While one group is on its way to the disk the next one gathers, so the busier a store is, the larger its groups
are; nobody waits for longer than the group under way and his own.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from itertools import groupby
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, TypeAlias

from .._llm_response import LLMResponse
from ..errors import StoreError
from .database import PURGE, PURGE_JOBS, PUT, PUT_SIZES, SharedConnection, StoreFile, encode_reply

log = logging.getLogger("restaurant_llm_batch")

OnCommit: TypeAlias = Callable[[Exception | None], object]
"""
Told once, by the writing thread, that a change is durable, or what kept it from being.

It must be quick and must not wait for the store: the next group waits for it.
"""

LARGEST_GROUP = 1000


class Change(NamedTuple):
    """
    Something to be written.

    Attributes:
        statement: What SQLite is told, or "" for a reply to put.
        key: The key it is about.
        values: The statement's parameters; for a reply to put, the reply.
        on_commit: Told how it went.
    """

    statement: str
    key: bytes
    values: Any
    on_commit: OnCommit


class Purge:
    """A request to take out old rows; `removed` counts the replies among them."""

    def __init__(self, until: float, on_commit: OnCommit) -> None:
        self.until = until
        self.on_commit = on_commit
        self.removed = 0


Work: TypeAlias = SimpleQueue[Change | Purge | None]
"""What is to be written, in order; None ends the writer that meets it."""


class Durable:
    """An `OnCommit` for callers who may wait: pass it on, then `wait`."""

    def __init__(self) -> None:
        self._told = threading.Event()
        self._error: Exception | None = None

    def __call__(self, error: Exception | None) -> None:
        """Note how it went."""
        self._error = error
        self._told.set()

    def wait(self) -> None:
        """Wait until the change is durable; raise what kept it from being."""
        self._told.wait()
        if self._error is not None:
            raise self._error


class GroupCommitWriter:
    """
    A thread that works off a queue, to be ended with a None in it.

    Args:
        file: For explaining errors.
        link: Its connection, which it closes at its end.
        work: The queue; it outlives the writer.
        after: The writer before it, which must have ended first.

    Attributes:
        ending: Whether it was told to end.
        commits: Commits of this and of all writers before it.
    """

    def __init__(
        self, file: StoreFile, link: SharedConnection, work: Work, after: GroupCommitWriter | None
    ) -> None:
        self.ending = False
        self.commits = 0
        self._file = file
        self._connection = link
        self._work = work
        self._after = after
        # A daemon: what it has not committed, nobody has been told is durable.
        self._thread = threading.Thread(target=self._run, name="restaurant-llm-batch-store", daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Wait for its end, unless this is its own thread."""
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        after, self._after = self._after, None
        if after is not None:
            after.join()
            self.commits = after.commits
        goes_on = True
        while goes_on:
            group, goes_on = _take(self._work)
            for kind, part in groupby(group, type):
                if kind is Change:
                    self._write(list(part))
                else:
                    for purge in part:
                        self._notify([purge], self._purge(purge))
        self._connection.close()

    def _write(self, group: list[Any]) -> None:
        now, sound = time.time(), []
        steps: list[tuple[str, Any]] = []
        for statement, changes in groupby(group, _statement):
            if statement:
                for change in changes:
                    steps.append((statement, change.values))
                    sound.append(change)
            else:
                rows, written = self._rows(changes, now)
                steps += _in_chunks(rows)
                sound += written
        self._notify(sound, self._commit(steps))

    def _rows(self, changes: Iterator[Change], now: float) -> tuple[list[Any], list[Change]]:
        rows: list[Any] = []
        written: list[Change] = []
        for change in changes:
            reply: LLMResponse = change.values
            try:
                rows += (change.key, now, encode_reply(reply))
                written.append(change)
            except Exception as error:
                refusal = StoreError(
                    f"a reply cannot be kept in store {self._file.path}: {error}; the backend must return an "
                    "LLMResponse of texts and whole numbers"
                )
                refusal.__cause__ = error
                self._notify([change], refusal)
        return rows, written

    def _commit(self, steps: list[tuple[str, Any]]) -> Exception | None:
        if not steps:
            return None
        try:
            with self._connection as connection:
                if len(steps) == 1:
                    connection.execute(*steps[0])  # a statement by itself is a transaction
                else:
                    _together(connection, steps)
        except Exception as error:
            return self._describe_error(error)
        self.commits += 1
        return None

    def _purge(self, purge: Any) -> Exception | None:
        try:
            with self._connection as connection:
                # In pieces, so that another process need not wait for all of it.
                while removed := connection.execute(PURGE, (purge.until,)).rowcount:
                    purge.removed += removed
                connection.execute(PURGE_JOBS, (purge.until,))
                connection.executescript("PRAGMA incremental_vacuum")  # execute() stops at one page
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except Exception as error:
            return self._describe_error(error)
        return None

    def _describe_error(self, error: Exception) -> Exception:
        if not isinstance(error, sqlite3.Error):
            return error
        explained = StoreError(self._file.describe_error(error))
        explained.__cause__ = error
        return explained

    @staticmethod
    def _notify(changes: list[Any], error: Exception | None) -> None:
        for change in changes:
            try:
                change.on_commit(error)
            except Exception:
                log.exception("what was to be told of a store's commit failed")


def _take(work: Work) -> tuple[list[Change | Purge], bool]:
    """Wait for work and return all there is, and whether the writer goes on."""
    group: list[Change | Purge] = []
    change = work.get()
    while change is not None:
        group.append(change)
        if len(group) == LARGEST_GROUP:
            return group, True
        try:
            change = work.get_nowait()
        except Empty:
            return group, True
    return group, False


def _statement(change: Change) -> str:
    return change.statement


def _in_chunks(rows: list[Any]) -> Iterator[tuple[str, Any]]:
    start, left = 0, len(rows) // 3
    for size in PUT_SIZES:
        while left >= size:
            yield PUT[size], rows[start : start + 3 * size]
            start, left = start + 3 * size, left - size


def _together(connection: sqlite3.Connection, steps: list[tuple[str, Any]]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        for step in steps:
            connection.execute(*step)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # after some errors SQLite has rolled back itself
            connection.execute("ROLLBACK")
        raise
