"""Shared connection: one SQLite connection to a database file that threads use in turn."""

from __future__ import annotations

import sqlite3
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from .database import FileIdentity, StoreFile
from .read_ahead import ReadAhead
from .rows import GET_BEHIND


class SharedConnection:
    """
    A connection to the file that threads share: a context manager for use by one thread at a time.

    It is opened at the first use. `close` does not wait: the garbage collector may call it anywhere, even in the middle
    of a use in the same thread. If the connection is in use, it is closed at the end of that use. What is dropped
    without being closed, also in a reference cycle, closes its connection before SQLite's own finalizer warns of it.

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
        self._closer: weakref.finalize[..., SharedConnection] | None = None
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

    def fetchone(self, statement: str, values: Sequence[object]) -> Any:
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

    def fetchall(self, statement: str, values: Sequence[object]) -> list[Any]:
        """Return the rows of a query."""
        with self as connection:
            return connection.execute(statement, values).fetchall()

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
        connection = self._file.connect(self._lock_timeout)
        # Before it is in use: then an interrupt leaves it to the finalizer, which no garbage collection takes with it.
        self._closer = weakref.finalize(self, connection.close)
        self._closer.atexit = False
        self._connection = connection
        self.identity = self._file.identity()
        return connection

    def leave_replaced_file(self) -> bool:
        """
        Close the connection if its file was deleted or replaced: the next use opens the one that is there then.

        Returns:
            Whether it was.
        """
        is_replaced = self.identity not in (None, self._file.identity())
        if is_replaced:
            self.close()
        return is_replaced

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
        if self._closer is not None:
            self._closer.detach()
            self._closer = None
        if connection is not None:
            connection.close()
