"""
Verification and repair of a damaged store: reads every row that can be read, and keeps those whose proofs hold.

A single row that does not verify is deleted where it is met. Rows of a record have no proof: every one that can be read
is kept. Repair is for pages that make no sense to SQLite, and for
an index that leads to other rows: no statement could write there any more. Nothing is thrown away: the damaged file is
copied to ``NAME.damaged`` first.

Theory of operation. All rows that verify are written to a new, temporary file. SQLite's backup then copies that file
into the store page by page, in a single transaction: the file keeps its inode, and other processes see one more commit.
A backup cannot start within a transaction, so the lock under which the rows were read is released first. As soon as
the backup holds the lock in turn, it looks for a commit of another process in between, and gives up if there is one;
then all rows are read again.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

from .database import StoreFile, is_damage
from .rows import CREATE, FORMAT, SCHEMAS, read_job, read_reply

_MAX_GAP = 10_000
"""Unreadable ids in a row after which the search by id ends; what lies behind is found through the index."""

_FAR = 1_000_000
"""A larger step from one id to the next is taken for damage."""

_TRIES = 5


@dataclass(frozen=True, slots=True)
class StoreCheck:
    """
    What `Store.verify` found.

    Attributes:
        replies: Number of replies that are whole.
        damaged: Number of replies that are damaged or cannot be read, as far as they can be counted.
        jobs: Number of recorded jobs that are whole.
        damaged_jobs: Number of recorded jobs that are damaged.
        problems: What SQLite finds wrong with the structure of the file; at most 10 lines.
    """

    replies: int
    damaged: int
    jobs: int
    damaged_jobs: int
    problems: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether everything is whole."""
        return not (self.damaged or self.damaged_jobs or self.problems)

    @property
    def advice(self) -> str:
        """What can be done."""
        if self.ok:
            return "nothing needs to be done: every reply and every job is whole"
        if not self.problems:
            return (
                "nothing needs to be done: a run that meets a damaged row discards it and makes its call again; "
                "a copy of the file from before the damage may save these calls"
            )
        return (
            "a run that meets the damage copies the file to NAME.damaged, keeps the rows that are whole, and makes the "
            "other calls again; a copy of the file from before the damage may save these calls. Check the disk"
        )


@dataclass(slots=True)
class _Tally:
    """
    Which rows were read.

    Attributes:
        whole: Keys of the replies that verify.
        indexed: Keys in the index of replies.
        damaged: Number of rows of replies that do not verify.
        jobs: Number of jobs that verify.
        damaged_jobs: Number of jobs that do not.
    """

    whole: set[bytes] = field(default_factory=set)
    indexed: set[bytes] = field(default_factory=set)
    damaged: int = 0
    jobs: int = 0
    damaged_jobs: int = 0

    @property
    def lost(self) -> int:
        """Number of replies that are damaged or cannot be read, as far as they can be counted."""
        return max(self.damaged, len(self.indexed - self.whole))


class _InterruptedError(Exception):
    """Another process has committed between reading and writing."""


def verify(connection: sqlite3.Connection) -> StoreCheck:
    """Read a store and check the proof of every row."""
    tally = _Tally()
    connection.execute("BEGIN")
    try:
        for _ in _whole_rows(connection, tally):
            pass
        problems = _problems(connection, 10)
    finally:
        connection.execute("ROLLBACK")
    return StoreCheck(len(tally.whole), tally.lost, tally.jobs, tally.damaged_jobs, problems)


def repair(file: StoreFile, target: sqlite3.Connection) -> str | None:
    """
    Rebuild a damaged file in place from the rows that verify.

    Args:
        file: The file.
        target: A connection to it, without an open transaction.

    Returns:
        What was done, or None if the file turns out to be whole.

    Raises:
        sqlite3.Error: If the file cannot be read or written at all.
        OSError: If the copy of the file cannot be made.
    """
    copied: Path | None = None
    with closing(file.open_file("rw")) as source:
        source.text_factory = bytes
        for _ in range(_TRIES):
            source.execute("BEGIN IMMEDIATE")  # no other process writes meanwhile
            try:
                if not _problems(source, 1):
                    return None
                copied = copied or _copy(file)
                clean, tally = _rebuild(file, source)
                version = _pragma(source, "data_version")
            finally:
                source.execute("ROLLBACK")
            try:
                _overwrite(file, target, source, version, clean)
            except _InterruptedError:
                continue
            finally:
                clean.unlink()
            return (
                f"{len(tally.whole)} whole replies were kept, {tally.lost} were not; "
                f"the damaged file was copied to {copied}"
            )
    raise sqlite3.OperationalError(
        "other processes wrote to the store all the time while it was being repaired"
    )


def _problems(connection: sqlite3.Connection, most: int) -> tuple[str, ...]:
    try:
        found = connection.execute(f"PRAGMA integrity_check({most})").fetchall()
    except Exception as error:
        if not is_damage(error):
            raise
        return (str(error),)
    lines = tuple(line.decode("utf-8", "replace") for (line,) in found)
    return () if lines == ("ok",) else lines


def _pragma(connection: sqlite3.Connection, name: str) -> Any:
    return connection.execute(f"PRAGMA {name}").fetchone()[0]


def _copy(file: StoreFile) -> Path:
    """Copy a damaged store, write-ahead log included, to a file next to it; return its path."""
    number = 1
    while True:
        path = Path(f"{file.path}.damaged{'' if number == 1 else f'.{number}'}")
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            break
        number += 1
    try:
        # Not from the connection that holds the lock: SQLite copies no database with an open write transaction.
        with closing(file.open_file("rw")) as source, closing(sqlite3.connect(path)) as copy:
            source.backup(copy)
    except BaseException:
        path.unlink()
        raise
    return path


_INSERT = {
    "replies": "INSERT OR REPLACE INTO replies (key, at, reply, proof) VALUES (?, ?, ?, ?)",
    # Texts were read as bytes.
    "jobs": "INSERT OR REPLACE INTO jobs (key, at, backend, job_id, proof) "
    "VALUES (?, ?, CAST(? AS TEXT), CAST(? AS TEXT), ?)",
}


def _rebuild(file: StoreFile, source: sqlite3.Connection) -> tuple[Path, _Tally]:
    """Write the rows that verify to a new store in a temporary file."""
    tally = _Tally()
    handle, name = tempfile.mkstemp(prefix=f"{file.path.name[:100]}.", dir=file.path.parent)
    os.close(handle)
    try:
        with closing(sqlite3.connect(name, isolation_level=None)) as clean:
            clean.execute(f"PRAGMA page_size = {_pragma(source, 'page_size')}")
            clean.execute("PRAGMA auto_vacuum = INCREMENTAL")
            clean.execute("PRAGMA journal_mode = OFF")
            clean.execute("BEGIN")
            for statement in CREATE:
                clean.execute(statement)
            for table, row in _whole_rows(source, tally):
                clean.execute(_INSERT[table], row)
            _copy_other_tables(source, clean)
            clean.execute("COMMIT")
    except BaseException:
        Path(name).unlink()
        raise
    return Path(name), tally


def _copy_other_tables(source: sqlite3.Connection, clean: sqlite3.Connection) -> None:
    """Copy the tables that are not the store's, as far as they can be read, and the views."""
    source.text_factory = _decoded
    try:
        others = "SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY rowid"
        for kind, name, statement in source.execute(others).fetchall():
            if name in SCHEMAS[FORMAT] or name.startswith("sqlite_"):
                continue
            with suppress(sqlite3.Error):  # a table of another program, for example one without row ids
                clean.execute(statement)
                if kind == "table":
                    columns = [
                        one[0] for one in source.execute("SELECT name FROM pragma_table_info(?)", (name,))
                    ]
                    insert = f"INSERT OR REPLACE INTO {name} VALUES ({', '.join('?' * len(columns))})"  # nosec B608
                    for row in _table(source, ", ".join(columns), name):
                        clean.execute(insert, row)
    finally:
        source.text_factory = bytes


def _decoded(text: bytes) -> str:
    return text.decode("utf-8", "replace")


def _overwrite(
    file: StoreFile, target: sqlite3.Connection, source: sqlite3.Connection, version: object, clean: Path
) -> None:
    """Copy a database into the store; raise `_InterruptedError` if `source` is no longer at `version`."""
    deadline = monotonic() + file.lock_timeout
    compared = False

    def progress(status: int, remaining: int, total: int) -> None:
        nonlocal compared
        if status in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            if monotonic() > deadline:
                raise sqlite3.OperationalError("the store is locked by another program")
        elif not compared:  # after the first page: the backup holds the lock
            compared = True
            if _pragma(source, "data_version") != version:
                raise _InterruptedError

    with closing(sqlite3.connect(clean)) as new:
        new.backup(target, pages=1, progress=progress, sleep=0.01)


def _whole_rows(connection: sqlite3.Connection, tally: _Tally) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Yield the table and the values of each row that verifies, of all that can be read."""
    for key, at, reply, proof in _replies(connection, tally):
        if isinstance(key, bytes) and read_reply(key, reply, proof) is not None:
            tally.whole.add(key)
            yield "replies", (key, at if isinstance(at, float) else 0.0, reply, proof)
        else:
            tally.damaged += 1
    for key, at, backend, job_id, proof in _jobs(connection):
        if isinstance(key, bytes) and read_job(key, backend, job_id, proof) is not None:
            tally.jobs += 1
            yield "jobs", (key, at if isinstance(at, float) else 0.0, backend, job_id, proof)
        else:
            tally.damaged_jobs += 1


def _replies(connection: sqlite3.Connection, tally: _Tally) -> Iterator[tuple[Any, ...]]:
    """Yield the replies that can be read: by their ids, then those that are found through the index only."""
    yield from _table(connection, "key, at, reply, proof", "replies")
    for key, row_id in _indexed(connection):
        tally.indexed.add(key)
        if key not in tally.whole:
            try:
                row = connection.execute(
                    "SELECT key, at, reply, proof FROM replies WHERE id = ?", (row_id,)
                ).fetchone()
            except Exception as error:
                if not is_damage(error):
                    raise
                continue
            # A row that was read before does not verify now either.
            if row is not None and row[0] not in tally.whole and read_reply(key, row[2], row[3]) is not None:
                yield row


def _jobs(connection: sqlite3.Connection) -> Iterator[tuple[Any, ...]]:
    yield from _table(connection, "key, at, backend, job_id, proof", "jobs")


def _table(connection: sqlite3.Connection, columns: str, table: str) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a table in the order of their ids, without those that cannot be read."""
    statement = f"SELECT rowid, {columns} FROM {table} NOT INDEXED WHERE rowid > ? ORDER BY rowid"  # nosec B608 (constants)
    low = unreadable = 0
    while unreadable < _MAX_GAP:
        try:
            for row_id, *row in connection.execute(statement, (low,)):
                yield tuple(row)
                if low < row_id <= low + _FAR:
                    low, unreadable = row_id, 0
        except Exception as error:
            if not is_damage(error):
                raise
            low, unreadable = low + 1, unreadable + 1
        else:
            return


def _indexed(connection: sqlite3.Connection) -> Iterator[tuple[bytes, int]]:
    """Yield the keys in the index of replies with the ids of their rows; skip what cannot be read."""
    statement = (
        "SELECT key, id FROM replies INDEXED BY sqlite_autoindex_replies_1 WHERE key >= ? ORDER BY key"
    )
    low = b""
    while True:
        try:
            for key, row_id in connection.execute(statement, (low,)):
                if isinstance(key, bytes):
                    low = max(low, key)
                    yield key, row_id
        except Exception as error:
            if not is_damage(error):
                raise
            # Go on with the next of 4096 equal parts of all keys, which are random.
            part = int.from_bytes(low[:2].ljust(2, b"\0"), "big") // 16 + 1
            if part == 4096:
                return
            low = (16 * part).to_bytes(2, "big")
        else:
            return
