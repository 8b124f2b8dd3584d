"""
The file of a store: opening it, and saying what is the matter with it.

A file that is not a store is never written to. It is looked at through SQLite alone, since opening and closing
it in any other way would take the locks off it that the process holds.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from ..errors import ConfigurationError
from .rows import APPLICATION_ID, FORMAT, TABLES

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
        wait: Seconds to wait for other processes' locks.
    """

    def __init__(self, path: str | os.PathLike[str], wait: float) -> None:
        self.path = _checked(path).absolute()  # the process may change its folder
        self.wait = wait

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
        until = monotonic() + self.wait
        while True:
            try:
                return self._connect(busy)
            except sqlite3.Error as error:
                # Who makes a file a store does not wait for others who do, whatever the time-out.
                if _kind(error) != sqlite3.SQLITE_BUSY or monotonic() > until:
                    raise ConfigurationError(self.explain(error)) from error
            sleep(0.005)

    def _connect(self, busy: float) -> sqlite3.Connection:
        new = self._look()
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
            timeout=self.wait,
            isolation_level=None,
            check_same_thread=False,
        )

    def _look(self) -> bool:
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
                return self._look_at("ro&immutable=1")
            except (ConfigurationError, sqlite3.Error):
                if not used.exists():  # else somebody began to write in this very moment
                    raise
        return self._look_at("ro")

    def _look_at(self, mode: str) -> bool:
        connection = self._open(mode)
        try:
            return self._is_begun(connection)
        finally:
            connection.close()

    def _is_begun(self, connection: sqlite3.Connection) -> bool:
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
            if self._is_begun(connection):  # nobody else made it a store meanwhile
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

    def explain(self, error: BaseException) -> str:
        """Say what is the matter with the file, and what to do."""
        kind = _kind(error)
        if kind == sqlite3.SQLITE_NOTADB:
            return self._foreign()
        if kind == sqlite3.SQLITE_CORRUPT:
            return self._damaged(str(error))
        if kind in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return (
                f"store {self.path} is locked by another program, for more than {self.wait:g} s; end that "
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
