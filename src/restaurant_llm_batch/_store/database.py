"""
SQLite database of the store: opening, checking and creating the file, and connections to it.

A file that is not a store is never written to. Its contents are read through SQLite only: closing it in any other way
would release the POSIX locks that this process holds on it.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep
from typing import Any, TypeAlias

from ..errors import ConfigurationError, StoreError
from .read_ahead import ReadAhead
from .rows import APPLICATION_ID, CREATE, FORMAT, GET_BEHIND, MIGRATE, MIGRATION_FUNCTIONS, SCHEMAS

_MIN_PAGE_SIZE = 512
"""Bytes of SQLite's smallest page."""

_CHECKPOINT = 4000
"""
Pages (of 4 KiB) appended to the write-ahead log before a checkpoint copies them into the file and waits for the disk.

Keys are random, so every reply changes some page of the index; the later the checkpoint, the more changes share a page.
With four times SQLite's default of 1000, a write takes about a quarter less CPU time.
"""

FileIdentity: TypeAlias = tuple[tuple[int, int], ...]
"""Device and inode of the file and of its write-ahead log."""

_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_FORMAT}


def is_damage(error: BaseException) -> bool:
    """Return whether an exception means that what was read makes no sense, and not that it cannot be read now."""
    # SQLite tries to allocate what a damaged row says is its length.
    return _primary_code(error) in _DAMAGE or isinstance(error, MemoryError | OverflowError)


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
        self._log = Path(f"{self.path}-wal")

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
            except OSError as error:
                raise ConfigurationError(self._unwritable(error)) from error
            except sqlite3.Error as error:
                # When several processes create the store at once, SQLite returns SQLITE_BUSY without waiting.
                if _primary_code(error) != sqlite3.SQLITE_BUSY or monotonic() > deadline:
                    raise ConfigurationError(self.describe_error(error)) from error
            sleep(0.005)

    def _connect(self, lock_timeout: float) -> sqlite3.Connection:
        new = self._inspect()
        if new:
            self._create_file()
        connection = self.open_file("rwc" if new else "rw")
        try:
            if new:
                self._create(connection)
            else:
                self._migrate(connection)
            # The operating system has committed data, so it survives any end of the process. A power cut may lose the
            # last commits, but does not damage the file. FULL would wait for the disk at each commit.
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT}")
            connection.execute(f"PRAGMA busy_timeout = {int(lock_timeout * 1000)}")
            connection.text_factory = bytes  # a damaged text need not be UTF-8
        except BaseException:
            connection.close()
            raise
        return connection

    def open_file(self, mode: str) -> sqlite3.Connection:
        """Open the file without any check, in a mode of SQLite's URIs."""
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
        if not self._log.exists():
            try:
                return self._inspect_as("ro&immutable=1")
            except (ConfigurationError, sqlite3.Error):
                if not self._log.exists():  # otherwise a process has just begun to write
                    raise
        return self._inspect_as("ro")

    def _inspect_as(self, mode: str) -> bool:
        connection = self.open_file(mode)
        try:
            return self._is_initialised(connection)
        finally:
            connection.close()

    def _is_initialised(self, connection: sqlite3.Connection) -> bool:
        application, version = _pragma(connection, "application_id"), _pragma(connection, "user_version")
        # As bytes, because a damaged text need not be UTF-8.
        master = "SELECT CAST(name AS BLOB), CAST(sql AS BLOB) FROM sqlite_master"
        tables = dict(connection.execute(master).fetchall())
        if (application, version) == (0, 0) and not tables:
            return True
        if application != APPLICATION_ID:
            raise ConfigurationError(
                f"{self.path} is a database of another program, not a store; it was left as it is: "
                "use the path of a new file as store"
            )
        if version not in SCHEMAS:
            raise ConfigurationError(
                f"store {self.path} has format {version}, this version of the library writes format {FORMAT}; "
                "it was left as it is: use the version that wrote it, or the path of a new file as store"
            )
        for name, statement in SCHEMAS[version].items():
            if tables.get(name.encode()) != statement.encode():
                raise ConfigurationError(self._damaged(f"table {name} is missing or another one"))
        return False

    def _create_file(self) -> None:
        """Create an empty file that only its owner may read, unless there is one; SQLite's others get its mode."""
        # Not in place: closing the file would release the locks of a connection that another thread has just opened.
        handle, name = tempfile.mkstemp(prefix=f"{self.path.name[:100]}.", dir=self.path.parent)  # mode 0600
        os.close(handle)
        try:
            os.link(name, self.path)
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            with suppress(FileExistsError):
                os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        finally:
            Path(name).unlink()

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
                for statement in CREATE:
                    connection.execute(statement)
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise

    def _migrate(self, connection: sqlite3.Connection) -> None:
        """Check that the file can be written, and give a file of format 1 the proofs of format 2."""
        connection.execute("BEGIN IMMEDIATE")
        try:
            version = _pragma(connection, "user_version")
            connection.execute(f"PRAGMA user_version = {version}")  # never reaches the file
            if version != FORMAT:
                for name, arguments, function in MIGRATION_FUNCTIONS:
                    connection.create_function(name, arguments, function)
                for statement in MIGRATE:
                    connection.execute(statement)
                connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")

    def identity(self) -> FileIdentity | None:
        """Return which file is at the path, with which write-ahead log; None if there is none."""
        try:
            found = [path.stat() for path in (self.path, self._log)]
        except OSError:
            return None
        return tuple((status.st_dev, status.st_ino) for status in found)

    def check_identity(self, opened: FileIdentity | None) -> None:
        """
        Check that the path still leads to the file that was opened.

        Raises:
            StoreError: If the file or its write-ahead log was deleted, moved or replaced meanwhile: what is written
                then reaches no file that has a name.
        """
        if self.identity() != opened:
            raise StoreError(
                f"store {self.path} was deleted, moved or replaced while it was open, and replies of this run may be "
                "lost with it; leave the file and its -wal in place until the run has ended, and run again"
            )

    def describe_error(self, error: BaseException) -> str:
        """Describe an SQLite error, and what to do about it."""
        code = _primary_code(error)
        if code == sqlite3.SQLITE_NOTADB:
            return self._foreign()
        if code == sqlite3.SQLITE_CORRUPT:
            return self._damaged(_printable(str(error)))
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return (
                f"store {self.path} is locked by another program, for more than {self.lock_timeout:g} s; end that "
                "program or its transaction, or use the path of another file as store"
            )
        if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
            return self._unwritable(error)
        if code == sqlite3.SQLITE_FULL:
            return f"the disk of store {self.path} is full; free some space and run again"
        return f"store {self.path} failed: {type(error).__name__}: {_printable(str(error))}"

    def _unwritable(self, error: BaseException) -> str:
        return (
            f"store {self.path} cannot be written ({error}); let this user write to the file and its "
            "folder, where SQLite creates two more files, or use another path as store"
        )

    def _foreign(self) -> str:
        return (
            f"{self.path} is not a store, nor any SQLite file; it was left as it is: "
            "use the path of a new file as store, or restore a copy of it if it was a store"
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


def _printable(text: str) -> str:
    """Escape and cut an error of SQLite, which may quote what a damaged file says."""
    return "".join(sign if sign.isprintable() else f"\\x{ord(sign):02x}" for sign in text[:300])


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

    Attributes:
        identity: Which file it has open, or had last.
        ahead: Rows that were read ahead.
    """

    def __init__(self, file: StoreFile, lock_timeout: float) -> None:
        self._file = file
        self._lock_timeout = lock_timeout
        self.identity: FileIdentity | None = None
        self.ahead: ReadAhead = ReadAhead()
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._cursor: sqlite3.Cursor | None = None
        self._users = 0
        self._close_requested = False

    def __enter__(self) -> sqlite3.Connection:
        self._lock.acquire()
        try:
            connection = self._connection or self._open()
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
                if self._cursor is None:
                    self._cursor = (self._connection or self._open()).cursor()
                return self._cursor.execute(statement, values).fetchone()
            finally:
                self._users -= 1
                if self._close_requested:
                    self.close()

    def read_ahead(self, row_id: int, key: bytes, reply: object, commits: Callable[[], int]) -> None:
        """Read the rows behind one that was found, unless there is no point in it."""
        before = commits()
        with self._lock:
            last, count = self.ahead.after(row_id, reply)
            if not count:
                return
            self._users += 1
            try:
                if self._cursor is not None:
                    self.ahead.add(key, self._cursor.execute(GET_BEHIND, (last, count)).fetchall())
            finally:
                self._users -= 1
                if self._close_requested:
                    self.close()
        # The writer forgets what it has written to after it has counted its commit.
        if commits() != before:
            self.ahead.rows.clear()

    def _open(self) -> sqlite3.Connection:
        connection = self._connection = self._file.connect(self._lock_timeout)
        self.identity = self._file.identity()
        return connection

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
        self.ahead.rows.clear()
        if connection is not None:
            connection.close()
