"""
The file of a store: opening it, and saying what is the matter with it.

A file that is not a store is never written to. It is looked at through SQLite alone, since opening and closing
it in any other way would take the locks off it that the process holds.
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

_SMALLEST = 512
"""Bytes of the smallest page that SQLite knows."""


_CHECKPOINT = 4000
"""
Pages (of 4 KiB) that are appended to the log before they are brought into the file, which waits for the disk.

Keys are random, so every answer changes a page of the index: the later, the more of these changes are to the
same page. With four times SQLite's 1000 a write takes about a quarter less CPU time.
"""


class StoreFile:
    """
    A store's file.

    Args:
        path: Where it is.
        lock_timeout: Seconds to wait for other processes' locks.
    """

    def __init__(self, path: str | os.PathLike[str], lock_timeout: float) -> None:
        self.path = _checked(path).absolute()  # the process may change its folder
        self.lock_timeout = lock_timeout

    def connect(self, busy: float) -> sqlite3.Connection:
        """
        Open the file, and make it a store where it is new.

        Args:
            busy: Seconds that the connection's statements will wait for other processes' locks.

        Raises:
            ConfigurationError: When it is none, is damaged or locked, or cannot be written.
        """
        if self.path.is_dir():
            raise ConfigurationError(f'store is a folder: {self.path}; write store="{self.path.name}/run.db"')
        if not self.path.parent.is_dir():
            raise ConfigurationError(f"the folder of store {self.path} does not exist; create it first")
        until = monotonic() + self.lock_timeout
        while True:
            try:
                return self._connect(busy)
            except sqlite3.Error as error:
                # Who makes a file a store does not wait for others who do, whatever the time-out.
                if _kind(error) != sqlite3.SQLITE_BUSY or monotonic() > until:
                    raise ConfigurationError(self.describe_error(error)) from error
            sleep(0.005)

    def _connect(self, busy: float) -> sqlite3.Connection:
        new = self._inspect()
        connection = self._open("rwc" if new else "rw")
        try:
            if new:
                self._create(connection)
            else:
                self._check_writable(connection)
            # What is committed survives the end of the process, however it ends: it is the system's by then. A
            # power cut may take the last commits, but not break the file. FULL would wait for the disk each time.
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT}")
            connection.execute(f"PRAGMA busy_timeout = {int(busy * 1000)}")
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
        """Return whether the file is new, or only begun; complain when it is neither that nor a store."""
        try:
            size = self.path.stat().st_size
            if not size:
                return True
            if size < _SMALLEST:  # SQLite would take one byte for none
                raise ConfigurationError(self._foreign())
        except FileNotFoundError:
            return True
        # The last one to close a file for writing also tidies it up, which changes it. One who only reads would
        # leave two more files next to it; but where there are none, nobody is writing, and it reads as it stands.
        used = Path(f"{self.path}-wal")
        if not used.exists():
            try:
                return self._inspect_as("ro&immutable=1")
            except (ConfigurationError, sqlite3.Error):
                if not used.exists():  # else somebody began to write in this very moment
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
                f"{self.path} is a database of something else, not a store; it was left as it is: "
                "write the path of a new file as store"
            )
        if version != FORMAT:
            raise ConfigurationError(
                f"store {self.path} has format {version}, this version of the library writes format {FORMAT}; "
                "it was left as it is: use the version that wrote it, or write the path of a new file as store"
            )
        if not tables >= {"replies", "jobs"}:
            raise ConfigurationError(self._damaged("a table is missing"))
        return False

    def _create(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # so that a purge makes the file smaller
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise ConfigurationError(
                f"store {self.path} cannot be shared safely on this kind of disk; "
                "write the path of a file on a local disk"
            )
        connection.execute("BEGIN IMMEDIATE")
        try:
            if self._is_initialised(connection):  # nobody else made it a store meanwhile
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
        """Say what is the matter with the file, and what to do."""
        kind = _kind(error)
        if kind == sqlite3.SQLITE_NOTADB:
            return self._foreign()
        if kind == sqlite3.SQLITE_CORRUPT:
            return self._damaged(str(error))
        if kind in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return (
                f"store {self.path} is locked by another program, for more than {self.lock_timeout:g} s; end that "
                "program, or have it end its transaction, or write the path of another file as store"
            )
        if kind in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
            return (
                f"store {self.path} cannot be written ({error}); let this user write to the file and its "
                "folder, where SQLite puts two more files, or write another path as store"
            )
        if kind == sqlite3.SQLITE_FULL:
            return f"the disk of store {self.path} is full; free some space and run again"
        return f"store {self.path} failed: {type(error).__name__}: {error}"

    def _foreign(self) -> str:
        return (
            f"{self.path} is not a store, and no SQLite file at all; it was left as it is: "
            "write the path of a new file as store"
        )

    def _damaged(self, how: str) -> str:
        return (
            f"store {self.path} is damaged ({how}); it was left as it is: put a copy of it in its place, or "
            f"write the path of a new file as store. `sqlite3 {self.path.name} .recover` may save its contents"
        )


def _checked(path: object) -> Path:
    if not isinstance(path, str | os.PathLike) or str(path) in ("", ":memory:"):
        raise ConfigurationError(f'store must be the path of a file, got {path!r}; write store="run.db"')
    return Path(path)


def _pragma(connection: sqlite3.Connection, name: str) -> Any:
    return connection.execute(f"PRAGMA {name}").fetchone()[0]


def _kind(error: BaseException) -> int:
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF


class SharedConnection:
    """
    A connection to the file, opened when it is first used, by one thread at a time: a context manager.

    `close` never waits. The garbage collector may call it anywhere, even in the middle of a use in this very
    thread; whoever uses the connection then closes it afterwards.
    """

    def __init__(self, file: StoreFile, busy: float) -> None:
        self._file = file
        self._busy = busy
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._users = 0
        self._unwanted = False

    def __enter__(self) -> sqlite3.Connection:
        self._lock.acquire()
        try:
            connection = self._connection
            if connection is None:
                connection = self._connection = self._file.connect(self._busy)
        except BaseException:
            self._lock.release()
            raise
        self._users += 1
        return connection

    def __exit__(self, *exc: object) -> None:
        self._users -= 1
        self._lock.release()
        if self._unwanted:
            self.close()

    def close(self) -> None:
        """Close the connection, or have whoever uses it close it; the next use opens another."""
        self._unwanted = True
        if self._lock.acquire(blocking=False):
            try:
                if not self._users:
                    self._unwanted = False
                    self._drop()
            finally:
                self._lock.release()

    def suspend(self) -> None:
        """Wait until nobody uses the connection, close it and let nobody use it until `let_go`."""
        self._lock.acquire()
        self._drop()

    def resume(self) -> None:
        """Allow uses again."""
        self._lock.release()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


APPLICATION_ID = 0x524C4C42
"""Says in an SQLite file's header that it is a store of ours ("RLLB")."""

FORMAT = 1
"""The file's `user_version`. Fields that a reply gains need no other: they are found by name."""

# Rows go to the end of `replies`, and only a small index is written to in many places. `at` stands before the
# reply, so that looking for old rows does not read long answers. `jobs` are few.
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
Statements for so many replies each.

Not `executemany`: every row would give the interpreter's lock away and wait for it again, for up to 5 ms while
the event loop is busy.
"""

DISCARD = "DELETE FROM replies WHERE key = ?"
RECORD_JOB = "INSERT OR REPLACE INTO jobs (key, at, backend, job_id) VALUES (?, ?, ?, ?)"
DELETE_JOB = "DELETE FROM jobs WHERE key = ? AND job_id = ?"
PURGE = "DELETE FROM replies WHERE id IN (SELECT id FROM replies WHERE at <= ? LIMIT 5000)"
JOBS_LIVE = 8 * 24 * 3600
"""Seconds after which no job is alive: RunPod keeps none for more than a week, and its answer for half an hour."""
_IS_STALE = (
    f"(at <= strftime('%s', 'now') - {JOBS_LIVE} OR EXISTS (SELECT 1 FROM replies WHERE key = jobs.key))"
)
"""Nobody will go on with such a job: it is too old, or its question has an answer."""
PURGE_JOBS = f"DELETE FROM jobs WHERE at <= ? OR {_IS_STALE}"
GET = "SELECT reply FROM replies WHERE key = ?"
JOB = "SELECT job_id FROM jobs WHERE key = ?"
STATS = f"""
SELECT (SELECT count(*) FROM replies),
    (SELECT count(*) FROM jobs WHERE NOT {_IS_STALE}), (SELECT count(*) FROM jobs WHERE {_IS_STALE}),
    (SELECT at FROM replies ORDER BY id LIMIT 1), (SELECT at FROM replies ORDER BY id DESC LIMIT 1)
"""

# What replies are not compared by, such as what was left of a limit at that moment, is no part of an answer.
_FIELDS = tuple(field.name for field in fields(LLMResponse) if field.compare)
_write_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=index).encode


def encode_reply(reply: LLMResponse) -> bytes:
    """Write a reply down; raise an error of any kind when it is no reply of texts and whole numbers."""
    # A model may answer half a surrogate pair, which SQLite takes for no text.
    return _write_json({name: getattr(reply, name) for name in _FIELDS}).encode("utf-8", "surrogatepass")


def decode_reply(written: bytes) -> LLMResponse:
    """Read what `encode_reply` wrote, also in a version with other fields; raise any error if none."""
    read: dict[str, Any] = json.loads(written.decode("utf-8", "surrogatepass"))
    return LLMResponse(**{name: read[name] for name in _FIELDS if name in read})
