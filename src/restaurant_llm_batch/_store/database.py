"""
Database file: opening, checking and creating the SQLite file of a store or a record, and connections to it.

A store and a record are files of one format, so one file may be both. A record has some tables more (`FileKind`), which
are added when a file is first opened as a record.

A file that is neither is never written to. Its contents are read through SQLite only: closing it in any other way
would release the POSIX locks that this process holds on it.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from time import monotonic, sleep
from typing import Any, TypeAlias, TypeVar

from ..errors import ConfigurationError, StoreError
from .rows import APPLICATION_ID, CREATE, FORMAT, MIGRATE, MIGRATION_FUNCTIONS, SCHEMAS

_MIN_PAGE_SIZE = 512
"""Bytes of SQLite's smallest page."""

_CHECKPOINT = 4000
"""
Pages (of 4 KiB) appended to the write-ahead log before a checkpoint copies them into the file and waits for the disk.

Keys are random, so every reply changes some page of the index; the later the checkpoint, the more changes share a page.
With four times SQLite's default of 1000, a write takes about a quarter less CPU time.
"""

T = TypeVar("T")

FileIdentity: TypeAlias = tuple[tuple[int, int], ...]
"""Device and inode of the file and of its write-ahead log."""

_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_FORMAT}


def is_damage(error: BaseException) -> bool:
    """Return whether an exception means that what was read makes no sense, and not that it cannot be read now."""
    # SQLite tries to allocate what a damaged row says is its length.
    return _primary_code(error) in _DAMAGE or isinstance(error, MemoryError | OverflowError)


@dataclass(frozen=True, slots=True)
class FileKind:
    """
    What a file is used as.

    Attributes:
        name: The argument of `BatchRunner` that names it, for messages.
        example: An example of its path.
        contents: What it holds, for messages.
        tables: Tables and indexes that it has besides those of a store, and the SQL of each.
        views: Views that it has, and the SQL of each. One that differs is made anew.
    """

    name: str
    example: str
    contents: str
    tables: Mapping[str, str] = field(default_factory=dict)
    views: Mapping[str, str] = field(default_factory=dict)


STORE = FileKind("store", "run.db", "replies")


class StoreFile:
    """
    A store's or a record's file.

    Args:
        path: Its path.
        lock_timeout: Seconds to wait for other processes' locks.
        kind: What it is used as.

    Raises:
        ConfigurationError: If `path` is not the path of a file, or `lock_timeout` is not a number of at least 0.
    """

    def __init__(self, path: str | os.PathLike[str], lock_timeout: float, kind: FileKind = STORE) -> None:
        seconds: object = lock_timeout
        if not isinstance(seconds, (int, float)) or isinstance(seconds, bool) or not 0 <= seconds < inf:
            raise ConfigurationError(
                f"lock_timeout must be a number of seconds of at least 0, got {lock_timeout!r}; "
                "for example lock_timeout=10"
            )
        self.path: Path = _checked(path, kind).absolute()  # the process may change its working directory
        self.lock_timeout = lock_timeout
        self.kind = kind
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
                f"{self.kind.name} must be the path of a file, got the folder {self.path}; "
                f'for example {self.kind.name}="{self.path}/{self.kind.example}"'
            )
        if not self.path.parent.is_dir():
            raise ConfigurationError(
                f"the folder of {self.kind.name} {self.path} does not exist; create it first"
            )
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
        return self.read(self._is_initialised)

    def read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """
        Return what a query finds, on a connection that changes nothing: neither the file nor what stands next to it.

        Args:
            query: Reads from a connection; it may be called twice.

        Raises:
            sqlite3.Error: The file cannot be read.
        """
        # The last connection that closes a file opened for writing checkpoints it, which changes it. A read-only one
        # would create two more files next to it. If there are no such files, no process is writing, and the file can be
        # read as immutable, which does neither.
        if not self._log.exists():
            try:
                found = self._read_as("ro&immutable=1", query)
            except (ConfigurationError, sqlite3.Error):
                if not self._log.exists():
                    raise
            else:
                if not self._log.exists():
                    return found
            # Otherwise a process has just begun to write: read again, with its locks.
        return self._read_as("ro", query)

    def _read_as(self, mode: str, query: Callable[[sqlite3.Connection], T]) -> T:
        with closing(self.open_file(mode)) as connection:
            return query(connection)

    def is_initialised(self) -> bool:
        """
        Return whether there is a store or a record in the file.

        Raises:
            ConfigurationError: If it is neither empty nor a store or record.
            sqlite3.Error: If it cannot be read.
        """
        return not self._inspect()

    def _is_initialised(self, connection: sqlite3.Connection) -> bool:
        application, version = _pragma(connection, "application_id"), _pragma(connection, "user_version")
        # As bytes, because a damaged text need not be UTF-8.
        master = "SELECT CAST(name AS BLOB), CAST(sql AS BLOB) FROM sqlite_master"
        try:
            tables = dict(connection.execute(master).fetchall())
        except UnicodeDecodeError:  # raised by the message in which SQLite quotes a damaged statement
            raise ConfigurationError(self.describe_damage("its tables cannot be read")) from None
        if (application, version) == (0, 0) and not tables:
            return True
        if application != APPLICATION_ID:
            raise ConfigurationError(
                f"{self.path} is a database of another program, not a {self.kind.name}; it was left as it is: "
                f"use the path of a new file as {self.kind.name}"
            )
        if version not in SCHEMAS:
            raise ConfigurationError(
                f"{self.kind.name} {self.path} has format {version}, this version of the library writes format "
                f"{FORMAT}; it was left as it is: use the version that wrote it, or the path of a new file as "
                f"{self.kind.name}"
            )
        for name, statement in SCHEMAS[version].items():
            if tables.get(name.encode()) != statement.encode():
                raise ConfigurationError(self.describe_damage(f"table {name} is missing or another one"))
        for name, statement in self.kind.tables.items():
            if tables.get(name.encode(), statement.encode()) != statement.encode():
                raise ConfigurationError(self.describe_damage(f"table {name} is another one"))
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
                f"{self.kind.name} {self.path} cannot be shared safely on this type of disk; "
                "use the path of a file on a local disk"
            )
        connection.execute("BEGIN IMMEDIATE")
        try:
            if self._is_initialised(connection):  # no other process has created the store meanwhile
                for statement in CREATE:
                    connection.execute(statement)
            self._add_tables(connection)
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise

    def _migrate(self, connection: sqlite3.Connection) -> None:
        """Check that the file can be written, give format 1 the proofs of format 2, and add the tables of its kind."""
        connection.execute("BEGIN IMMEDIATE")
        try:
            version = _pragma(connection, "user_version")
            connection.execute(f"PRAGMA user_version = {version}")  # never reaches the file
            if version != FORMAT:
                for name, arguments, function in MIGRATION_FUNCTIONS:
                    connection.create_function(name, arguments, function)
                for statement in MIGRATE:
                    connection.execute(statement)
            if self._add_tables(connection) or version != FORMAT:
                connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")

    def _add_tables(self, connection: sqlite3.Connection) -> bool:
        """Create the tables and views of the file's kind that it does not have; return whether there was one."""
        if not self.kind.tables:
            return False
        master = "SELECT CAST(name AS BLOB), CAST(sql AS BLOB) FROM sqlite_master"
        found = dict(connection.execute(master).fetchall())
        added = False
        for name, statement in {**self.kind.tables, **self.kind.views}.items():
            if found.get(name.encode()) == statement.encode():
                continue
            if name in self.kind.views:
                connection.execute(f"DROP VIEW IF EXISTS {name}")
            connection.execute(statement)
            added = True
        return added

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
                f"{self.kind.name} {self.path} was deleted, moved or replaced while it was open, and "
                f"{self.kind.contents} of this run may be lost with it; leave the file and its -wal in place until the "
                "run has ended, and run again"
            )

    def describe_error(self, error: BaseException) -> str:
        """Describe an SQLite error, and what to do about it."""
        code, name = _primary_code(error), self.kind.name
        if code == sqlite3.SQLITE_NOTADB:
            return self._foreign()
        if code == sqlite3.SQLITE_CORRUPT:
            return self.describe_damage(_printable(str(error)))
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return (
                f"{name} {self.path} is locked by another program, for more than {self.lock_timeout:g} s; end that "
                f"program or its transaction, or use the path of another file as {name}"
            )
        if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
            return self._unwritable(error)
        if code == sqlite3.SQLITE_FULL:
            return f"the disk of {name} {self.path} is full; free some space and run again"
        return f"{name} {self.path} failed: {type(error).__name__}: {_printable(str(error))}"

    def _unwritable(self, error: BaseException) -> str:
        name = f"{self.kind.name} {self.path}"
        another = f"or use another path as {self.kind.name}"
        if self.path.exists() and not os.access(self.path, os.R_OK):
            return f"{name} cannot be read: this user may not read it; allow it, {another}"
        for path in (self.path, self._log, Path(f"{self.path}-shm"), self.path.parent):
            if path.exists() and not os.access(path, os.W_OK):
                return (
                    f"{name} cannot be written ({error}): this user may not write to {path}; allow it, for the file, "
                    f"those next to it that have its name, and the folder, {another}"
                )
        return (
            f"{name} cannot be written ({error}); let this user write to the file and its folder, where SQLite "
            f"creates two more files, {another}"
        )

    def _foreign(self) -> str:
        return (
            f"{self.path} is not a {self.kind.name}, nor any SQLite file; it was left as it is: "
            f"use the path of a new file as {self.kind.name}, or restore a copy of it if it was a {self.kind.name}"
        )

    def describe_damage(self, reason: str) -> str:
        """Describe what is wrong inside the file, and what to do about it."""
        return (
            f"{self.kind.name} {self.path} is damaged ({reason}); it was left as it is: restore a copy of it, or "
            f"use the path of a new file as {self.kind.name}. `sqlite3 {self.path.name} .recover` may save its contents"
        )


def _checked(path: object, kind: FileKind) -> Path:
    if not isinstance(path, str | os.PathLike) or str(path) in ("", ":memory:") or "\0" in str(path):
        raise ConfigurationError(
            f'{kind.name} must be the path of a file, got {path!r}; for example {kind.name}="{kind.example}"'
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
