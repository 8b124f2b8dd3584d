"""
Store: a cache of LLM replies and running jobs in an SQLite file, by cache key.

A reply is durable once its commit is done: it then survives the end of the process, `kill -9` included. (A power cut
may lose the last commits, but does not damage the file.) One thread writes; reads take microseconds and run in the
caller's thread. Several processes may share a file on a local disk.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from time import time
from types import TracebackType
from typing import Any, Self

from .._llm_response import LLMResponse
from ..errors import ConfigurationError, StoreError
from .changes import Change, Purge, prepare
from .connections import Connections
from .database import StoreFile, is_damage
from .inflight import InFlightCalls
from .repair import StoreCheck
from .rows import (
    CLAIM_JOB,
    DELETE_JOB,
    DELETE_JOBS,
    DISCARD,
    DISCARD_DAMAGED,
    GET,
    JOB,
    PRESENT,
    PRESENT_SIZES,
    RECORD_JOB,
    STATS,
    proof_of_job,
    read_job,
    read_reply,
)
from .writer import CommitFuture, OnCommit, Repair

log = logging.getLogger("restaurant_llm_batch")


@dataclass(frozen=True, slots=True)
class StoreStats:
    """
    The contents of a store.

    Attributes:
        entries: Number of replies.
        jobs: Number of jobs that may be running, and that a run would resume.
        bytes: Size of its files on disk, in bytes.
        oldest: When the oldest reply was written, in UTC; None if there are no replies.
        newest: When the newest reply was written, in UTC; None if there are no replies.
        stale_jobs: Number of recorded jobs that no run will resume: their request has a reply, or they are older than
            any job lives (8 days). A killed run may leave some. `Store.purge` deletes them.
        damaged: Number of damaged replies and jobs that this object has met and discarded so far.
    """

    entries: int
    jobs: int
    bytes: int
    oldest: datetime | None
    newest: datetime | None
    stale_jobs: int = 0
    damaged: int = 0


class Store:
    """
    A cache of LLM replies, and the jobs that may be running, in an SQLite file.

    The file is opened at the first use, and again at the first use after `close`. Threads, event loops and runners may
    share a store; a forked child opens the file for itself. Methods with an `OnCommit` queue a change and return at
    once; changes are written in the order of the calls.

    Args:
        path: The file. It is created if it does not exist; its folder is not.
        lock_timeout: Seconds to wait for a lock that another process holds, before that is an error.

    Raises:
        ConfigurationError: If `path` is not a path, or `lock_timeout` is not a number of at least 0.
    """

    claim_seconds: float = 0.0
    """Seconds after its commit until a claim is certain: the file is locked meanwhile."""
    vain: int = 0
    """Lookups in a row that have found no reply."""

    def __init__(self, path: str | os.PathLike[str], *, lock_timeout: float = 10.0) -> None:
        self.in_flight: InFlightCalls = InFlightCalls()
        self._file = StoreFile(path, lock_timeout)
        self._connections = Connections(self._file, partial(prepare, self._file.path))
        self._discarding: set[bytes] = set()  # discarded, but still in the file
        self._damaged = self._damaged_logged = 0

    @property
    def commits(self) -> int:
        """Number of commits made through this object in this process so far."""
        return self._connections.commits

    def open(self) -> None:
        """
        Open the file now, to find any problem with it early. It may take some milliseconds.

        Raises:
            ConfigurationError: If the file is not a store, is damaged, of another format, locked or read-only, or if
                its folder is missing. The file is left as it is.
        """
        with self._connections.reading:
            pass

    def get(self, key: bytes) -> LLMResponse | None:
        """
        Return the reply stored under a key, or None.

        A reply is found once it is durable, and no longer found once it is discarded. A row that is damaged is not
        found: it is discarded, counted in `StoreStats.damaged`, and logged.

        Raises:
            StoreError: If the file cannot be read.
        """
        if key in self._discarding:
            return None
        reading = self._connections.reading
        row = reading.ahead.take(key) if reading.ahead.rows else None
        if row is None:
            found = self._read(GET, key)
            if found is None:
                self.vain += 1
                return None
            row = found[:2]
            self._read_ahead(key, *found)
        self.vain = 0
        written, proof = row
        reply = read_reply(key, written, proof)
        if reply is None:
            self._on_damage("a reply does not match its proof")
            self._discard(key, DISCARD_DAMAGED, (key, proof), _log_failure)
        return reply

    def absent(self, keys: Sequence[bytes]) -> AbstractSet[bytes]:
        """
        Return those of some keys under which there is no reply, as far as one query says.

        Under the others there may be one. It takes a fifth of the time of a `get` for each.
        """
        reading = self._connections.reading
        asked = [key for key in keys if key not in reading.ahead.rows]
        if len(asked) < PRESENT_SIZES[0]:
            return frozenset()
        present: set[object] = set()
        try:
            for statement, part in _present(asked):
                present.update(key for (key,) in reading.fetchall(statement, part))
        except Exception:  # also of a file that has gone: each `get` reports what is wrong with its own row
            return frozenset()
        return set(asked).difference(present)

    def put(self, key: bytes, reply: LLMResponse, on_commit: OnCommit) -> None:
        """Store a reply, replacing the one under that key. Returns at once."""
        self._connections.submit(Change("", _checked(key), reply, on_commit))

    def discard(self, key: bytes, on_commit: OnCommit) -> None:
        """Delete a reply, for example one that turned out to be unusable. Returns at once."""
        self._discard(_checked(key), DISCARD, (key,), on_commit)

    def _discard(self, key: bytes, statement: str, values: tuple[object, ...], on_commit: OnCommit) -> None:
        self._discarding.add(key)

        def discarded(error: Exception | None) -> None:
            self._discarding.discard(key)
            on_commit(error)

        self._connections.submit(Change(statement, key, values, discarded))

    def record_job(self, key: bytes, backend: str, job_id: str, on_commit: OnCommit) -> None:
        """Record that a job was submitted for a key, replacing the one recorded before. Returns at once."""
        self._write_job(RECORD_JOB, key, backend, job_id, on_commit)

    def claim_job(self, key: bytes, backend: str, job_id: str, on_commit: OnCommit) -> None:
        """
        Record a job for a key, unless one is recorded. Returns at once.

        Of several processes that claim a key at the same time, one gets it: `job` says which, after the commit.
        """
        self._write_job(CLAIM_JOB, key, backend, job_id, on_commit)

    def _write_job(self, statement: str, key: bytes, backend: str, job_id: str, on_commit: OnCommit) -> None:
        proof = proof_of_job(_checked(key), _utf8(backend), _utf8(job_id))
        self._connections.submit(Change(statement, key, (key, time(), backend, job_id, proof), on_commit))

    def delete_job(self, key: bytes, job_id: str, on_commit: OnCommit) -> None:
        """
        Record that a job of a key has ended. Returns at once.

        If another job has been recorded for the key since, for example by another process, that one stays.
        """
        self._connections.submit(Change(DELETE_JOB, _checked(key), (key, job_id), on_commit))

    def job(self, key: bytes) -> str | None:
        """Return the id of the job that may be running for a key, or None. Raises `StoreError` as `get` does."""
        row = self._read(JOB, key)
        if row is None:
            return None
        job = read_job(key, *row)
        if job is None:
            self._on_damage("a job does not match its proof")
            self._connections.submit(Change(DELETE_JOBS, key, (key,), _log_failure))
        return job

    def stats(self) -> StoreStats:
        """Return the store's contents in numbers; 100,000 replies take some milliseconds. Raises as `get` does."""
        row = self._read(STATS)
        if row is None:  # the file is damaged
            repaired = CommitFuture()
            self._connections.submit(Repair(repaired))
            repaired.result()
            row = self._read(STATS)
        if row is None:
            raise StoreError(f"store {self._file.path} is damaged and cannot be repaired; see Store.verify()")
        entries, jobs, stale_jobs, oldest, newest = row
        size = sum(_size(Path(f"{self._file.path}{suffix}")) for suffix in ("", "-wal"))
        return StoreStats(entries, jobs, size, _moment(oldest), _moment(newest), stale_jobs, self._damaged)

    def verify(self) -> StoreCheck:
        """
        Check every row against its proof, and the structure of the file. It may take seconds for 100,000 replies.

        Changes nothing. What has been put but is not durable yet is not looked at.

        Returns:
            The numbers of whole and damaged rows, and what can be done.

        Raises:
            ConfigurationError: If the file cannot be opened as a store; see `open`.
            StoreError: If the file cannot be read.
        """
        try:
            return self._connections.check()
        except sqlite3.Error as error:
            raise StoreError(self._file.describe_error(error)) from error

    def purge(self, older_than: timedelta | float) -> int:
        """
        Delete replies and jobs above an age, and make the file smaller. Blocks until it is done.

        Stale jobs are deleted too, at any age.

        Args:
            older_than: The age, as a timedelta or in seconds; 0 deletes everything.

        Returns:
            The number of replies deleted.

        Raises:
            ConfigurationError: If `older_than` is negative or not a duration.
            StoreError: If the file cannot be written.
        """
        committed = CommitFuture()
        purge = Purge(time() - _seconds(older_than), committed)
        self._connections.submit(purge)
        committed.result()
        return purge.removed

    def close(self) -> None:
        """
        Write all queued changes and close the file. Blocks until it is done; closing again does nothing.

        A use of the store at the same time, or later, opens it again.
        """
        self._connections.close()
        if self._damaged > self._damaged_logged:
            self._damaged_logged = self._damaged
            log.warning("store %s: %d damaged rows in all were discarded", self._file.path, self._damaged)

    def _read(self, statement: str, *values: bytes) -> Any:
        """Return the first row of a query; None if there is none, or if the file is damaged where it would be."""
        try:
            return self._connections.reading.fetchone(statement, values)
        except (sqlite3.Error, MemoryError, OverflowError) as error:
            if not is_damage(error):
                raise StoreError(self._file.describe_error(error)) from error
            self._on_damage("SQLite cannot read a page")
            return None

    def _read_ahead(self, key: bytes, reply: object, _: object, row_id: int) -> None:
        with suppress(
            sqlite3.Error, MemoryError, OverflowError
        ):  # each lookup reports what is wrong with its own row
            self._connections.reading.read_ahead(row_id, key, reply, self._connections.count_commits)

    def _on_damage(self, what: str) -> None:
        """Count damage, log the first, and have the file's structure checked before anything else is written."""
        self._damaged += 1
        if self._damaged & (self._damaged - 1) == 0:  # each time it has doubled: a check reads the whole file
            self._connections.submit(Repair(_log_failure))
        if self._damaged_logged:
            return
        self._damaged_logged = 1
        log.warning(
            "store %s is damaged (%s): damaged rows are discarded, and their calls are made again; see Store.verify()",
            self._file.path,
            what,
        )

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Store {str(self._file.path)!r}>"


def _present(keys: list[bytes]) -> Iterator[tuple[str, list[bytes]]]:
    """Yield statements that look for keys, and their values; the last key is repeated where there is room for more."""
    for start in range(0, len(keys), PRESENT_SIZES[-1]):
        part = keys[start : start + PRESENT_SIZES[-1]]
        size = next(size for size in PRESENT_SIZES if size >= len(part))
        yield PRESENT[size], part + part[-1:] * (size - len(part))


def _log_failure(error: Exception | None) -> None:
    if error is not None:
        log.warning("%s", error)


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _checked(key: bytes) -> bytes:
    if not isinstance(key, bytes):
        raise TypeError(f"key must be bytes, as request_key() returns, got {key!r}")
    return key


def _seconds(older_than: object) -> float:
    seconds = older_than.total_seconds() if isinstance(older_than, timedelta) else older_than
    if isinstance(seconds, int | float) and not isinstance(seconds, bool) and seconds >= 0:
        return seconds
    raise ConfigurationError(
        f"older_than must be a timedelta or a number of seconds of at least 0, got {older_than!r}; "
        "for example older_than=timedelta(days=30)"
    )


def _moment(at: object) -> datetime | None:
    try:
        return datetime.fromtimestamp(at, UTC) if isinstance(at, float) else None
    except (ValueError, OverflowError, OSError):  # a damaged date
        return None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
