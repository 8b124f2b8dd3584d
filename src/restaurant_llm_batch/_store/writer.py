"""
Group-commit writer: the thread that writes a database file, committing all queued changes in one transaction.

While one group is being committed, the next one gathers in the queue. The busier a file is, the larger its groups are;
a change waits at most for the group before its own. A file whose changes are not waited for, such as a record, lets
its groups gather for some time more.

What a change is, and what is written for it, is the business of the file's `Prepare` function.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable, Iterable
from functools import partial
from itertools import groupby
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, Protocol, TypeAlias

from .._claim import Claim
from .._shortage import is_thread_shortage
from .._threads import SignalSafeEvent, SignalSafeThread
from ..errors import StoreError
from .database import StoreFile, is_damage
from .repair import repair
from .shared_connection import SharedConnection

log = logging.getLogger("restaurant_llm_batch")

OnCommit: TypeAlias = Callable[[Exception | None], object]
"""
Called once, in the writing thread, with None when a change is durable, or with the error that prevented it.

It must be quick and must not wait for the file: the next group waits for it.
"""

MAX_GROUP_SIZE = 1000
"""Most changes in one transaction."""

LINGER_SECONDS = 5.0
"""Seconds for which the thread waits for more changes, before it ends."""

MAX_REPAIRS = 3
"""Most repairs by one writer. A disk that damages the file again and again is not worth more."""

Write: TypeAlias = Callable[[sqlite3.Connection], object]
"""Writes in one transaction. After a repair it is called again."""


class Prepared(NamedTuple):
    """
    What is written for changes.

    Attributes:
        write: Writes it; None if there is nothing to write.
        on_commit: Called with the result.
        keys: Keys of the rows that it changes, which may have been read ahead.
    """

    write: Write | None
    on_commit: OnCommit
    keys: Iterable[bytes] = ()


Prepare: TypeAlias = Callable[[list[Any]], Prepared]
"""Returns what is written for queued changes, in their order. It is called in the writing thread."""


class Tick(Protocol):
    """What the writing thread does besides, after every group, and when nothing has been queued for some time."""

    @property
    def seconds(self) -> float | None:
        """How long it may wait for its turn; None if it has nothing to do."""
        ...

    def __call__(self, connection: sqlite3.Connection) -> None:
        """Do it."""
        ...


class Request:
    """
    A queued request that has a transaction of its own.

    Args:
        on_commit: Called with the result.
    """

    def __init__(self, on_commit: OnCommit) -> None:
        self.on_commit = on_commit

    def perform(self, writer: GroupCommitWriter, connection: sqlite3.Connection) -> None:
        """Do what is requested."""


class Flush(Request):
    """A request to say when all changes that were queued before are durable."""


class Repair(Request):
    """A request to rebuild the file if its structure is damaged."""

    def perform(self, writer: GroupCommitWriter, connection: sqlite3.Connection) -> None:
        """Rebuild the file."""
        writer.repair(connection)


Work: TypeAlias = "SimpleQueue[Any]"
"""Changes and requests, in order; a writer in it ends when it takes itself, and others pass over it."""


class CommitFuture:
    """An `OnCommit` for callers that may block: pass it with a change, then wait for its `result()`."""

    def __init__(self) -> None:
        self._done = SignalSafeEvent()
        self._error: Exception | None = None

    def __call__(self, error: Exception | None) -> None:
        """Set the result."""
        self._error = error
        self._done.set()

    def exception(self, timeout: float | None = None) -> Exception | None:
        """Wait for the commit, and return the error if it failed; raise `TimeoutError` if it takes longer."""
        if not self._done.wait(timeout):
            raise TimeoutError
        return self._error

    def result(self, timeout: float | None = None) -> None:
        """Wait for the commit as `exception` does, and raise the error if it failed."""
        error = self.exception(timeout)
        if error is not None:
            raise error


class GroupCommitWriter:
    """
    A thread that writes the changes of a queue; it ends when it finds itself there, or nothing for some time.

    So a change that comes after the file was closed, such as the reply to a call that was given up, leaves no thread.

    Args:
        file: The file, to describe errors.
        connection: Its connection, which it closes when it ends.
        reading: The connection for reads, which it closes when the file was replaced.
        work: The queue; it outlives the writer.
        prepare: Returns what is written for changes.
        gather: Waits until a group has gathered, when its first change is there.
        tick: What it does besides, or None.
        after: The previous writer, which has to end before this one starts to write.

    Attributes:
        ending: Whether it is asked to end, or is about to; whoever queues a change looks at this after it.
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
        prepare: Prepare,
        gather: Callable[[], object] | None,
        tick: Tick | None,
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
        self._prepare = prepare
        self._gather = gather
        self._tick = tick
        self._after = after
        # A daemon: a change that it has not committed was not reported as durable to any caller.
        name = f"restaurant-llm-batch-{file.kind.name}"
        self._thread = SignalSafeThread(self._run, name)
        self._claim = Claim()  # taken by the thread, of which an interrupt within `start` may leave two

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
            self._gather = None
            self._work.put(self)
            self._run()

    def join(self) -> None:
        """Wait until the writer has ended, unless this is its own thread."""
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        if not self._claim.take():
            return
        after, self._after = self._after, None
        if after is not None:
            after.join()
            self.commits, self.repairs = after.commits, after.repairs
        goes_on = True
        while goes_on:
            group, goes_on = self._take()
            for is_request, part in groupby(group, _is_request):
                if not is_request:
                    self._write(list(part))
                    continue
                for request in part:
                    error = self._try(partial(request.perform, self))
                    self.commits += 1  # before rows are forgotten; see `SharedConnection.read_ahead`
                    self._reading.ahead.rows.clear()
                    notify([request], error)
            if self._tick is not None and self._tick.seconds is not None:
                self._do_besides(self._tick)
        self._connection.close()
        self.over = True

    def _do_besides(self, tick: Tick) -> None:
        # Not by `_try`: a file that has gone is reported to those whose changes are lost with it.
        try:
            with self._connection as connection:
                tick(connection)
        except Exception:
            log.debug("the file could not be looked at; it will be again", exc_info=True)

    def _take(self) -> tuple[list[Any], bool]:
        """Wait for changes; return all that are queued, none if the tick is due, and whether the writer goes on."""
        group: list[Any] = []
        seconds = None if self._tick is None else self._tick.seconds
        try:
            if self.ending:
                found = self._work.get_nowait()
            else:
                # A SimpleQueue may overlook its timeout if this thread got no CPU until then (see `ThreadMailbox`): the
                # tick, or the end, is late then, until the next change.
                found = self._work.get(timeout=LINGER_SECONDS if seconds is None else seconds)
        except Empty:
            if self.ending:
                return group, False
            if seconds is None:
                self.ending = True  # before the queue is looked at once more
            return group, True
        if self._gather is not None and found is not self and self._work.qsize() < MAX_GROUP_SIZE:
            self._gather()
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

    def _write(self, changes: list[Any]) -> None:
        write, on_commit, keys = self._prepare(changes)
        error = None
        if write is not None:
            error = self._try(write)
            if error is None:
                self.commits += 1
        self._reading.ahead.forget(keys)
        on_commit(error)

    def repair(self, connection: sqlite3.Connection) -> None:
        """Rebuild the file if its structure is damaged."""
        if self.repairs == MAX_REPAIRS:
            raise sqlite3.DatabaseError("damaged again after each repair; check the disk")
        done = repair(self._file, connection)
        if done is not None:
            self.repairs += 1
            log.warning(
                "%s %s was damaged and has been repaired: %s", self._file.kind.name, self._file.path, done
            )

    def _try(self, write: Write) -> Exception | None:
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
            self.repair(connection)
        except Exception as failure:
            name, path = self._file.kind.name, self._file.path
            log.warning("%s %s is damaged and cannot be repaired: %s", name, path, failure)
            raise error from failure

    def _describe_error(self, error: Exception) -> Exception:
        if not isinstance(error, sqlite3.Error):
            return error
        described = StoreError(self._file.describe_error(error))
        described.__cause__ = error
        return described


def notify(changes: Iterable[Any], error: Exception | None) -> None:
    """Call the `on_commit` of each change; what one of them raises is logged."""
    for change in changes:
        try:
            change.on_commit(error)
        except Exception:
            log.exception("a callback after a commit failed")


def _is_request(change: object) -> bool:
    return isinstance(change, Request)


def in_transaction(connection: sqlite3.Connection, write: Write) -> None:
    """Write in one transaction, which is rolled back if that fails."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        write(connection)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # after some errors SQLite has rolled back by itself
            connection.execute("ROLLBACK")
        raise
