"""
SQLite database of the store: opening and checking the file, SQL schema, statements and reply serialization.

A file that is not a store is never written to. Its contents are read through SQLite only: closing it in any other way
would release the POSIX locks that this process holds on it.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from dataclasses import fields
from operator import index
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from .._llm_response import LLMResponse
from ..errors import ConfigurationError

_MIN_PAGE_SIZE = 512
"""Bytes of SQLite's smallest page."""

_CHECKPOINT = 4000
"""
Pages (of 4 KiB) appended to the write-ahead log before a checkpoint copies them into the file and waits for the disk.

Keys are random, so every reply changes some page of the index; the later the checkpoint, the more changes share a page.
With four times SQLite's default of 1000, a write takes about a quarter less CPU time.
"""


class StoreFile:
    """
    A store's file.

    Args:
        path: Its path.
        lock_timeout: Seconds to wait for other processes' locks.

    Raises:
        ConfigurationError: If `path` is not the path of a file.
    """

    def __init__(self, path: str | os.PathLike[str], lock_timeout: float) -> None:
        self.path = _checked(path).absolute()  # the process may change its working directory
        self.lock_timeout = lock_timeout

    def connect(self, lock_timeout: float) -> sqlite3.Connection:
        """
        Open the file, and create the store in it if it is new.

        Args:
            lock_timeout: Seconds that the connection's statements will wait for other processes' locks.

        Raises:
            ConfigurationError: If the file is not a store, is damaged or locked, or cannot be written.
        """
        if self.path.is_dir():
            raise ConfigurationError(
                f"store must be the path of a file, got the folder {self.path}; "
                f'for example store="{self.path}/run.db"'
            )
        if not self.path.parent.is_dir():
            raise ConfigurationError(f"the folder of store {self.path} does not exist; create it first")
        deadline = monotonic() + self.lock_timeout
        while True:
            try:
                return self._connect(lock_timeout)
            except sqlite3.Error as error:
                # When several processes create the store at once, SQLite returns SQLITE_BUSY without waiting.
                if _primary_code(error) != sqlite3.SQLITE_BUSY or monotonic() > deadline:
                    raise ConfigurationError(self.describe_error(error)) from error
            sleep(0.005)

    def _connect(self, lock_timeout: float) -> sqlite3.Connection:
        new = self._inspect()
        connection = self._open("rwc" if new else "rw")
        try:
            if new:
                self._create(connection)
            else:
                self._check_writable(connection)
            # The operating system has committed data, so it survives any end of the process. A power cut may lose the
            # last commits, but does not damage the file. FULL would wait for the disk at each commit.
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT}")
            connection.execute(f"PRAGMA busy_timeout = {int(lock_timeout * 1000)}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _open(self, mode: str) -> sqlite3.Connection:
        return sqlite3.connect(
            f"{self.path.as_uri()}?mode={mode}",
            uri=True,
            timeout=self.lock_timeout,
            isolation_level=None,
            check_same_thread=False,
        )

    def _inspect(self) -> bool:
        """Return whether the store has yet to be created in the file; raise if it is neither empty nor a store."""
        try:
            size = self.path.stat().st_size
            if not size:
                return True
            if size < _MIN_PAGE_SIZE:  # SQLite treats a file of one byte as empty
                raise ConfigurationError(self._foreign())
        except FileNotFoundError:
            return True
        # The last connection that closes a file opened for writing checkpoints it, which changes it. A read-only one
        # would create two more files next to it. If there are no such files, no process is writing, and the file can be
        # read as immutable, which does neither.
        write_ahead_log = Path(f"{self.path}-wal")
        if not write_ahead_log.exists():
            try:
                return self._inspect_as("ro&immutable=1")
            except (ConfigurationError, sqlite3.Error):
                if not write_ahead_log.exists():  # otherwise a process has just begun to write
                    raise
        return self._inspect_as("ro")

    def _inspect_as(self, mode: str) -> bool:
        connection = self._open(mode)
        try:
            return self._is_initialised(connection)
        finally:
            connection.close()

    def _is_initialised(self, connection: sqlite3.Connection) -> bool:
        application, version = _pragma(connection, "application_id"), _pragma(connection, "user_version")
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        if (application, version) == (0, 0) and not tables:
            return True
        if application != APPLICATION_ID:
            raise ConfigurationError(
                f"{self.path} is a database of another program, not a store; it was left as it is: "
                "use the path of a new file as store"
            )
        if version != FORMAT:
            raise ConfigurationError(
                f"store {self.path} has format {version}, this version of the library writes format {FORMAT}; "
                "it was left as it is: use the version that wrote it, or the path of a new file as store"
            )
        if not tables >= {"replies", "jobs"}:
            raise ConfigurationError(self._damaged("a table is missing"))
        return False

    def _create(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # so that a purge makes the file smaller
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise ConfigurationError(
                f"store {self.path} cannot be shared safely on this type of disk; "
                "use the path of a file on a local disk"
            )
        connection.execute("BEGIN IMMEDIATE")
        try:
            if self._is_initialised(connection):  # no other process has created the store meanwhile
                for statement in TABLES:
                    connection.execute(statement)
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise

    @staticmethod
    def _check_writable(connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN IMMEDIATE")
        try:
            connection.execute(f"PRAGMA user_version = {FORMAT}")  # never reaches the file
        finally:
            connection.execute("ROLLBACK")

    def describe_error(self, error: BaseException) -> str:
        """Describe an SQLite error, and what to do about it."""
        code = _primary_code(error)
        if code == sqlite3.SQLITE_NOTADB:
            return self._foreign()
        if code == sqlite3.SQLITE_CORRUPT:
            return self._damaged(str(error))
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return (
                f"store {self.path} is locked by another program, for more than {self.lock_timeout:g} s; end that "
                "program or its transaction, or use the path of another file as store"
            )
        if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
            return (
                f"store {self.path} cannot be written ({error}); let this user write to the file and its "
                "folder, where SQLite creates two more files, or use another path as store"
            )
        if code == sqlite3.SQLITE_FULL:
            return f"the disk of store {self.path} is full; free some space and run again"
        return f"store {self.path} failed: {type(error).__name__}: {error}"

    def _foreign(self) -> str:
        return (
            f"{self.path} is not a store, nor any SQLite file; it was left as it is: "
            "use the path of a new file as store"
        )

    def _damaged(self, reason: str) -> str:
        return (
            f"store {self.path} is damaged ({reason}); it was left as it is: restore a copy of it, or "
            f"use the path of a new file as store. `sqlite3 {self.path.name} .recover` may save its contents"
        )


def _checked(path: object) -> Path:
    if not isinstance(path, str | os.PathLike) or str(path) in ("", ":memory:"):
        raise ConfigurationError(
            f'store must be the path of a file, got {path!r}; for example store="run.db"'
        )
    return Path(path)


def _pragma(connection: sqlite3.Connection, name: str) -> Any:
    return connection.execute(f"PRAGMA {name}").fetchone()[0]


def _primary_code(error: BaseException) -> int:
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF  # the other bits of an extended result code refine it


class SharedConnection:
    """
    A connection to the file that threads share: a context manager for use by one thread at a time.

    It is opened at the first use. `close` does not wait: the garbage collector may call it anywhere, even in the middle
    of a use in the same thread. If the connection is in use, it is closed at the end of that use.
    """

    def __init__(self, file: StoreFile, lock_timeout: float) -> None:
        self._file = file
        self._lock_timeout = lock_timeout
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._cursor: sqlite3.Cursor | None = None
        self._users = 0
        self._close_requested = False

    def __enter__(self) -> sqlite3.Connection:
        self._lock.acquire()
        try:
            connection = self._connection
            if connection is None:
                connection = self._connection = self._file.connect(self._lock_timeout)
        except BaseException:
            self._lock.release()
            raise
        self._users += 1
        return connection

    def __exit__(self, *exc: object) -> None:
        self._users -= 1
        self._lock.release()
        if self._close_requested:
            self.close()

    def fetchone(self, statement: str, values: tuple[object, ...]) -> Any:
        """Return the first row of a query, or None: a use of its own, in fewer steps."""
        with self._lock:
            self._users += 1
            try:
                if self._connection is None:
                    self._connection = self._file.connect(self._lock_timeout)
                if self._cursor is None:
                    self._cursor = self._connection.cursor()
                return self._cursor.execute(statement, values).fetchone()
            finally:
                self._users -= 1
                if self._close_requested:
                    self.close()

    def close(self) -> None:
        """Close the connection now or at the end of its current use; the next use opens another."""
        self._close_requested = True
        if self._lock.acquire(blocking=False):
            try:
                if not self._users:
                    self._close_requested = False
                    self._drop()
            finally:
                self._lock.release()

    def suspend(self) -> None:
        """Wait until the connection is not in use, close it, and block its use until `resume`."""
        self._lock.acquire()
        self._drop()

    def resume(self) -> None:
        """Allow uses again, after `suspend`."""
        self._lock.release()

    def _drop(self) -> None:
        connection, self._connection, self._cursor = self._connection, None, None
        if connection is not None:
            connection.close()


APPLICATION_ID = 0x524C4C42
"""Marks an SQLite file as a store in its header ("RLLB")."""

FORMAT = 1
"""The file's `user_version`. A new field of a reply does not need a new format: fields are read by name."""

# Rows are appended to `replies`; only a small index is written to in random places. `at` comes before the reply, so
# that a search for old rows does not read long replies. There are few `jobs`.
TABLES = (
    "CREATE TABLE replies (id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, at REAL NOT NULL, reply BLOB NOT NULL)",
    "CREATE TABLE jobs (key BLOB PRIMARY KEY, at REAL NOT NULL, backend TEXT NOT NULL, job_id TEXT NOT NULL)",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {FORMAT}",
)

_PUT = "INSERT OR REPLACE INTO replies (key, at, reply) VALUES "
PUT_SIZES = (64, 32, 16, 8, 4, 2, 1)
PUT = {size: _PUT + ", ".join(["(?, ?, ?)"] * size) for size in PUT_SIZES}
"""
Statements by the number of replies that each inserts.

Not `executemany`: it releases the GIL for every row and waits for it again, for up to 5 ms while the event loop is
busy.
"""

DISCARD = "DELETE FROM replies WHERE key = ?"
RECORD_JOB = "INSERT OR REPLACE INTO jobs (key, at, backend, job_id) VALUES (?, ?, ?, ?)"
DELETE_JOB = "DELETE FROM jobs WHERE key = ? AND job_id = ?"
PURGE = "DELETE FROM replies WHERE id IN (SELECT id FROM replies WHERE at <= ? LIMIT 5000)"
MAX_JOB_AGE = 8 * 24 * 3600
"""Seconds after which no job is running: RunPod keeps a job for at most a week, and its reply for half an hour."""
_IS_STALE = (
    f"(at <= strftime('%s', 'now') - {MAX_JOB_AGE} OR EXISTS (SELECT 1 FROM replies WHERE key = jobs.key))"
)
"""No run will resume such a job: it is too old, or its request has a reply."""
PURGE_JOBS = f"DELETE FROM jobs WHERE at <= ? OR {_IS_STALE}"
GET = "SELECT reply FROM replies WHERE key = ?"
JOB = "SELECT job_id FROM jobs WHERE key = ?"
STATS = f"""
SELECT (SELECT count(*) FROM replies),
    (SELECT count(*) FROM jobs WHERE NOT {_IS_STALE}), (SELECT count(*) FROM jobs WHERE {_IS_STALE}),
    (SELECT at FROM replies ORDER BY id LIMIT 1), (SELECT at FROM replies ORDER BY id DESC LIMIT 1)
"""

# Fields that replies are not compared by, such as the rate-limit headers of the moment, are not stored.
_FIELDS = tuple(field.name for field in fields(LLMResponse) if field.compare)
_TEXTS = tuple(field.name for field in fields(LLMResponse) if field.compare and field.type == "str")
_write_text = json.encoder.encode_basestring
_read_json = json.JSONDecoder().raw_decode  # without a search for blanks around


def encode_reply(reply: LLMResponse) -> bytes:
    """Serialize a reply to JSON; raise any exception if it is not a reply of texts and whole numbers."""
    # Not json.dumps, which takes three times as long.
    values = [
        f'"{name}":{_write_text(getattr(reply, name)) if name in _TEXTS else index(getattr(reply, name))}'
        for name in _FIELDS
    ]
    # A reply may contain half a surrogate pair, which SQLite does not accept as text.
    return f"{{{','.join(values)}}}".encode("utf-8", "surrogatepass")


def decode_reply(written: bytes) -> LLMResponse:
    """Parse the bytes of `encode_reply`, also of a version with other fields; raise any exception if invalid."""
    read: dict[str, Any] = _read_json(written.decode("utf-8", "surrogatepass"))[0]
    return LLMResponse(**{name: read[name] for name in _FIELDS if name in read})
