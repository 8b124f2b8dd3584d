"""
Group-commit writer: the thread that writes a store, committing all queued changes in one transaction.

While one group is being committed, the next one gathers in the queue. The busier a store is, the larger its groups are;
a change waits at most for the group before its own.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from itertools import groupby
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, TypeAlias

from .._llm_response import LLMResponse
from .._shortage import is_thread_shortage
from ..errors import StoreError
from .database import SharedConnection, StoreFile, is_damage
from .repair import repair
from .rows import PURGE, PURGE_JOBS, PUT, PUT_SIZES, REPLY_COLUMNS, encode_reply, proof_of_reply

log = logging.getLogger("restaurant_llm_batch")

OnCommit: TypeAlias = Callable[[Exception | None], object]
"""
Called once, in the writing thread, with None when a change is durable, or with the error that prevented it.

It must be quick and must not wait for the store: the next group waits for it.
"""

MAX_GROUP_SIZE = 1000
"""Most changes in one transaction."""

MAX_REPAIRS = 3
"""Most repairs by one writer. A disk that damages the file again and again is not worth more."""


class Change(NamedTuple):
    """
    A change to be written.

    Attributes:
        statement: The SQL statement, or "" to put a reply.
        key: The key that it changes.
        values: The statement's parameters; to put a reply, the reply.
        on_commit: Called with the result.
    """

    statement: str
    key: bytes
    values: Any
    on_commit: OnCommit


class Purge:
    """A request to delete rows written before `until`; `removed` counts the replies among them."""

    def __init__(self, until: float, on_commit: OnCommit) -> None:
        self.until = until
        self.on_commit = on_commit
        self.removed = 0


class Repair:
    """A request to rebuild the file if its structure is damaged."""

    def __init__(self, on_commit: OnCommit) -> None:
        self.on_commit = on_commit


Work: TypeAlias = "SimpleQueue[Change | Purge | Repair | GroupCommitWriter]"
"""Changes to be written, in order; a writer in it ends when it takes itself, and others pass over it."""


class CommitFuture(Future[None]):
    """An `OnCommit` for callers that may block: pass it with a change, then wait for its `result()`."""

    def __call__(self, error: Exception | None) -> None:
        """Set the result."""
        if error is None:
            self.set_result(None)
        else:
            self.set_exception(error)


class GroupCommitWriter:
    """
    A thread that writes the changes of a queue; it ends when it finds itself there.

    Args:
        file: The file, to describe errors.
        connection: Its connection, which it closes when it ends.
        reading: The connection for reads, which it closes when the file was replaced.
        work: The queue; it outlives the writer.
        after: The previous writer, which has to end before this one starts to write.

    Attributes:
        ending: Whether it is asked to end.
        over: Whether it has ended.
        commits: Commits of this writer and of all before it.
        repairs: Repairs likewise.
    """

    def __init__(
        self,
        file: StoreFile,
        connection: SharedConnection,
        reading: SharedConnection,
        work: Work,
        after: GroupCommitWriter | None,
    ) -> None:
        self.ending = False
        self.over = False
        self.commits = 0
        self.repairs = 0
        self._file = file
        self._connection = connection
        self._reading = reading
        self._work = work
        self._after = after
        # A daemon: a change that it has not committed was not reported as durable to any caller.
        self._thread = threading.Thread(target=self._run, name="restaurant-llm-batch-store", daemon=True)
        self._claim = [True]  # taken by the thread, of which an interrupt within `start` may leave two

    @property
    def started(self) -> bool:
        """Whether its thread runs, or has run."""
        return self._thread.ident is not None

    def start(self) -> None:
        """
        Start the thread. If the system starts no more threads, write what is queued in this one, and end.

        Starting it again does nothing, unless the first start was interrupted.

        Raises:
            RuntimeError: If the interpreter starts no thread for another reason.
        """
        if self.started or self.over:
            return
        try:
            self._thread.start()
        except RuntimeError as error:
            if self.started:
                return
            if not is_thread_shortage(error):
                raise
            self.ending = True  # the next change tries to start another
            self._work.put(self)
            self._run()

    def join(self) -> None:
        """Wait until the writer has ended, unless this is its own thread."""
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        try:
            self._claim.pop()
        except IndexError:
            return
        after, self._after = self._after, None
        if after is not None:
            after.join()
            self.commits, self.repairs = after.commits, after.repairs
        goes_on = True
        while goes_on:
            group, goes_on = self._take()
            for work_type, part in groupby(group, type):
                if work_type is Change:
                    self._write(list(part))
                    continue
                perform = self._purge if work_type is Purge else self._repair
                for request in part:
                    error = self._try(partial(perform, request))
                    self.commits += 1  # before rows are forgotten; see `SharedConnection.read_ahead`
                    self._reading.ahead.rows.clear()
                    self._notify([request], error)
        self._connection.close()
        self.over = True

    def _take(self) -> tuple[list[Change | Purge | Repair], bool]:
        """Wait for changes; return all that are queued, and whether the writer goes on."""
        group: list[Change | Purge | Repair] = []
        found = self._work.get()
        while found is not self:
            if not isinstance(found, GroupCommitWriter):
                group.append(found)
            if len(group) == MAX_GROUP_SIZE:
                return group, True
            try:
                found = self._work.get_nowait()
            except Empty:
                return group, True
        return group, False

    def _write(self, group: list[Any]) -> None:
        now, valid = time.time(), []
        steps: list[tuple[str, Any]] = []
        for statement, changes in groupby(group, _statement):
            if statement:
                for change in changes:
                    steps.append((statement, change.values))
                    valid.append(change)
            else:
                rows, written = self._rows(changes, now)
                steps += _in_chunks(rows)
                valid += written
        error = self._commit(steps)
        self._reading.ahead.forget(change.key for change in valid)
        self._notify(valid, error)

    def _rows(self, changes: Iterator[Change], now: float) -> tuple[list[Any], list[Change]]:
        rows: list[Any] = []
        written: list[Change] = []
        for change in changes:
            reply: LLMResponse = change.values
            try:
                encoded = encode_reply(reply)
                rows += (change.key, now, encoded, proof_of_reply(change.key, encoded))
                written.append(change)
            except Exception as error:
                invalid = StoreError(
                    f"a reply cannot be stored in {self._file.path}: {error}; the backend must return an "
                    "LLMResponse of texts and whole numbers"
                )
                invalid.__cause__ = error
                self._notify([change], invalid)
        return rows, written

    def _commit(self, steps: list[tuple[str, Any]]) -> Exception | None:
        if not steps:
            return None
        error = self._try(partial(self._execute, steps))
        if error is None:
            self.commits += 1
        return error

    def _execute(self, steps: list[tuple[str, Any]], connection: sqlite3.Connection) -> None:
        if len(steps) == 1:
            connection.execute(*steps[0])  # a single statement is a transaction
        else:
            _in_transaction(connection, steps)

    @staticmethod
    def _purge(purge: Any, connection: sqlite3.Connection) -> None:
        # In pieces, so that another process does not have to wait for all of them.
        while removed := connection.execute(PURGE, (purge.until,)).rowcount:
            purge.removed += removed
        connection.execute(PURGE_JOBS, (purge.until,))
        connection.executescript("PRAGMA incremental_vacuum")  # execute() stops at one page
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _repair(self, _: Any, connection: sqlite3.Connection) -> None:
        if self.repairs == MAX_REPAIRS:
            raise sqlite3.DatabaseError("damaged again after each repair; check the disk")
        done = repair(self._file, connection)
        if done is not None:
            self.repairs += 1
            log.warning("store %s was damaged and has been repaired: %s", self._file.path, done)

    def _try(self, write: Callable[[sqlite3.Connection], None]) -> Exception | None:
        """Write to the file, once more if it was damaged and could be repaired; return the error, or None."""
        try:
            with self._connection as connection:
                try:
                    write(connection)
                except Exception as error:
                    if not is_damage(error):
                        raise
                    self._repair_after(error, connection)
                    write(connection)
                self._file.check_identity(self._connection.identity)
        except StoreError as error:  # the next use opens the file that is at the path then
            self._connection.close()
            self._reading.close()
            return error
        except Exception as error:
            return self._describe_error(error)
        return None

    def _repair_after(self, error: Exception, connection: sqlite3.Connection) -> None:
        try:
            self._repair(None, connection)
        except Exception as failure:
            log.warning("store %s is damaged and cannot be repaired: %s", self._file.path, failure)
            raise error from failure

    def _describe_error(self, error: Exception) -> Exception:
        if not isinstance(error, sqlite3.Error):
            return error
        described = StoreError(self._file.describe_error(error))
        described.__cause__ = error
        return described

    @staticmethod
    def _notify(changes: list[Any], error: Exception | None) -> None:
        for change in changes:
            try:
                change.on_commit(error)
            except Exception:
                log.exception("a callback after a commit to the store failed")


def _statement(change: Change) -> str:
    return change.statement


def _in_chunks(rows: list[Any]) -> Iterator[tuple[str, Any]]:
    start, left = 0, len(rows) // REPLY_COLUMNS
    for size in PUT_SIZES:
        while left >= size:
            end = start + REPLY_COLUMNS * size
            yield PUT[size], rows[start:end]
            start, left = end, left - size


def _in_transaction(connection: sqlite3.Connection, steps: list[tuple[str, Any]]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        for step in steps:
            connection.execute(*step)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # after some errors SQLite has rolled back by itself
            connection.execute("ROLLBACK")
        raise
