"""
The store: answers that were paid for, kept in a file, found again by the key of their question.

An answer is durable once its commit is done: it then survives the end of the process, a `kill -9` as well. (A
power cut may cost the last commits, never the file.) Writing is left to one thread; reading takes some
microseconds and is done wherever it is asked for. Several processes may share a file on a local disk.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import inf
from pathlib import Path
from queue import SimpleQueue
from time import time
from types import TracebackType
from typing import Any, Self

from .._llm_response import LLMResponse
from ..errors import ConfigurationError, StoreError
from .database import (
    DELETE_JOB,
    DISCARD,
    GET,
    JOB,
    RECORD_JOB,
    STATS,
    SharedConnection,
    StoreFile,
    decode_reply,
)
from .inflight import InFlightCalls
from .writer import Change, Durable, GroupCommitWriter, OnCommit, Purge, Work


@dataclass(frozen=True, slots=True)
class StoreStats:
    """
    What is in a store.

    Attributes:
        entries: Answers.
        jobs: Jobs that may be running, and that a run would go on with.
        bytes: What its files take on the disk.
        oldest: When the oldest answer was written, or None.
        newest: When the newest was, likewise.
        stale_jobs: Jobs that were noted too, but that nobody will go on with: their question has an answer, or they
            are older than any job gets (8 days). A run that was killed leaves some. `Store.purge` takes them out.
    """

    entries: int
    jobs: int
    bytes: int
    oldest: datetime | None
    newest: datetime | None
    stale_jobs: int = 0


class Store:
    """
    Answers and running jobs, in an SQLite file.

    It opens the file when it is first used, and again when it is used after `close`. It may be shared by
    threads, event loops and runners; a forked child opens the file for itself. What it is told with an
    `OnCommit` is written in the order it is told.

    Args:
        path: The file; it is made where there is none, its folder is not.
        lock_timeout: Seconds to wait for a lock of another process before that counts as an error.

    Raises:
        ConfigurationError: When `path` is no path, or `lock_timeout` no such number.
    """

    def __init__(self, path: str | os.PathLike[str], *, lock_timeout: float = 10.0) -> None:
        seconds: object = lock_timeout
        if not isinstance(seconds, (int, float)) or isinstance(seconds, bool) or not 0 <= seconds < inf:
            raise ConfigurationError(
                f"wait must be a number of seconds from 0, got {lock_timeout!r}; write for example wait=10"
            )
        self.in_flight = InFlightCalls()
        self._file = StoreFile(path, lock_timeout)
        self._connections = Connections(self._file)
        self._closing: set[bytes] = set()  # discarded, and not yet gone from the file

    @property
    def commits(self) -> int:
        """Commits made for this object in this process so far."""
        return self._connections.commits

    def open(self) -> None:
        """
        Open the file now, so that whatever is the matter with it is known; it may take some milliseconds.

        Raises:
            ConfigurationError: When the file is no store, damaged, of another format, locked or read-only, or
                its folder is missing. The file is left as it is.
        """
        with self._connections.reading:
            pass

    def get(self, key: bytes) -> LLMResponse | None:
        """
        Return the answer of a key, or None. What is not durable yet is not found, and what is discarded neither.

        Raises:
            StoreError: When it cannot be read.
        """
        if key in self._closing:
            return None
        row = self._read(GET, key)
        if row is None:
            return None
        try:
            return decode_reply(row[0])
        except Exception as error:
            raise StoreError(
                f"an answer in store {self._file.path} cannot be read; something else wrote to it: "
                "write the path of a new file as store"
            ) from error

    def put(self, key: bytes, reply: LLMResponse, on_commit: OnCommit) -> None:
        """Keep an answer, instead of the one that is there; returns at once."""
        self._connections.submit(Change("", _checked(key), reply, on_commit))

    def discard(self, key: bytes, on_commit: OnCommit) -> None:
        """Take an answer out, such as one that turned out to be of no use; returns at once."""
        self._closing.add(_checked(key))

        def gone(error: Exception | None) -> None:
            self._closing.discard(key)
            on_commit(error)

        self._connections.submit(Change(DISCARD, key, (key,), gone))

    def record_job(self, key: bytes, backend: str, job_id: str, on_commit: OnCommit) -> None:
        """Note that a job was submitted for a key, instead of the one noted before; returns at once."""
        values = (_checked(key), time(), backend, job_id)
        self._connections.submit(Change(RECORD_JOB, key, values, on_commit))

    def delete_job(self, key: bytes, job_id: str, on_commit: OnCommit) -> None:
        """
        Note that a job of a key has ended; returns at once.

        Another one that was noted for the key since, by another process for one, stays noted.
        """
        self._connections.submit(Change(DELETE_JOB, _checked(key), (key, job_id), on_commit))

    def job(self, key: bytes) -> str | None:
        """Return the id of the job that may be running for a key, or None; raises as `get` does."""
        row = self._read(JOB, key)
        return None if row is None else str(row[0])

    def stats(self) -> StoreStats:
        """Return what is in the store, in some milliseconds for 100,000 answers; raises as `get` does."""
        entries, jobs, stale_jobs, oldest, newest = self._read(STATS)
        size = sum(_size(Path(f"{self._file.path}{suffix}")) for suffix in ("", "-wal"))
        return StoreStats(entries, jobs, size, _moment(oldest), _moment(newest), stale_jobs)

    def purge(self, older_than: timedelta | float) -> int:
        """
        Take out the answers and jobs that were written longer ago, and make the file smaller. Blocks.

        Stale jobs, which are of no use any more, go with them however old they are.

        Args:
            older_than: An age, or seconds; 0 takes out everything.

        Returns:
            How many answers were taken out.

        Raises:
            ConfigurationError: When `older_than` is negative or no duration.
            StoreError: When the file cannot be written.
        """
        durable = Durable()
        purge = Purge(time() - _seconds(older_than), durable)
        self._connections.submit(purge)
        durable.wait()
        return purge.removed

    def close(self) -> None:
        """
        Write what is left, and close the file. Blocks meanwhile; doing it twice does nothing.

        Whoever uses the store at the same time, or afterwards, opens it again.
        """
        self._connections.close()

    def _read(self, statement: str, *values: bytes) -> Any:
        try:
            with self._connections.reading as connection:
                return connection.execute(statement, values).fetchone()
        except sqlite3.Error as error:
            raise StoreError(self._file.describe_error(error)) from error

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Store {str(self._file.path)!r}>"


def _checked(key: bytes) -> bytes:
    if not isinstance(key, bytes):
        raise TypeError(f"key must be bytes, of request_key(), got {key!r}")
    return key


def _seconds(older_than: object) -> float:
    seconds = older_than.total_seconds() if isinstance(older_than, timedelta) else older_than
    if isinstance(seconds, int | float) and not isinstance(seconds, bool) and seconds >= 0:
        return seconds
    raise ConfigurationError(
        f"older_than must be a timedelta or seconds, 0 or more, got {older_than!r}; "
        "write older_than=timedelta(days=30)"
    )


def _moment(at: float | None) -> datetime | None:
    return None if at is None else datetime.fromtimestamp(at, UTC)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


READ_WAIT = 1.0
"""Seconds that a read waits for a lock; it hardly ever meets one, and it may be an event loop that waits."""


class Connections:
    """
    The open things of one store; they are opened when they are needed, also after `close`.

    Args:
        file: The store's file.

    Attributes:
        reading: The connection for reading, of whoever reads.
    """

    def __init__(self, file: StoreFile) -> None:
        self._file = file
        self.reset_after_fork()
        if hasattr(os, "register_at_fork"):
            _close_around_forks(weakref.ref(self))

    def reset_after_fork(self) -> None:
        """Have nothing open, and nothing to write."""
        self.reading = SharedConnection(self._file, min(READ_WAIT, self._file.lock_timeout))
        self._writing = SharedConnection(self._file, self._file.lock_timeout)
        self._lock = threading.RLock()  # the garbage collector may call `end` while it is held
        self._work: Work = SimpleQueue()
        self._writer: GroupCommitWriter | None = None

    @property
    def commits(self) -> int:
        """Commits so far."""
        return 0 if self._writer is None else self._writer.commits

    def submit(self, change: Change | Purge) -> None:
        """Have something written, after all that was handed in before; never waits for the disk."""
        with self._lock:
            self._work.put(
                change
            )  # first: a writer that is told to end now still meets it, or the next one does
            writer = self._writer
            if writer is None or writer.ending:
                self._writer = GroupCommitWriter(self._file, self._writing, self._work, writer)

    def close(self) -> None:
        """Wait until what was handed in is written, and close everything."""
        with self._lock:
            writer = self._writer
            if writer is not None and not writer.ending:
                writer.ending = True
                self._work.put(None)
        if writer is not None:
            writer.join()
        self.reading.close()

    def suspend(self) -> None:
        """Close the connections and keep everybody from using them until `let_go`."""
        self.reading.suspend()
        self._writing.suspend()

    def resume(self) -> None:
        """Allow uses again."""
        self._writing.resume()
        self.reading.resume()

    def __del__(self) -> None:
        # The store was not closed. Nothing is lost: the thread writes what is left, closes its file and ends.
        self._work.put(None)
        self.reading.close()


def _close_around_forks(mine: weakref.ref[Connections]) -> None:
    """
    Have the file closed while this process forks, and begin anew in the child.

    SQLite does not survive a fork with a file open: the child would believe to hold its parent's locks, and
    write without any. The hooks stay for ever, the session need not.
    """
    held: list[Connections] = []  # from before the fork until after it

    def before() -> None:
        session = mine()
        if session is not None:
            session.suspend()
            held.append(session)

    def in_parent() -> None:
        if held:
            held.pop().resume()

    def in_child() -> None:
        if held:
            held.pop().reset_after_fork()

    os.register_at_fork(before=before, after_in_parent=in_parent, after_in_child=in_child)
