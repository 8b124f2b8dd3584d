"""A connection to a store's file, shared by threads."""

from __future__ import annotations

import sqlite3
import threading

from .database import StoreFile


class Link:
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

    def hold(self) -> None:
        """Wait until nobody uses the connection, close it and let nobody use it until `let_go`."""
        self._lock.acquire()
        self._drop()

    def let_go(self) -> None:
        """Allow uses again."""
        self._lock.release()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
