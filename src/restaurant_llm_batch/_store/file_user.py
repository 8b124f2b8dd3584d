"""File user: what has an SQLite file of its own open, by one connection, and closes it around forks."""

from __future__ import annotations

import os
import weakref

from .connections import close_around_forks
from .database import FileKind, StoreFile
from .shared_connection import SharedConnection


class FileUser:
    """
    Something that is kept in an SQLite file; a forked child opens the file for itself.

    Args:
        path: The file. It is created at the first use if it does not exist.
        lock_timeout: Seconds to wait for a lock that another process holds.
        kind: What the file holds.

    Raises:
        ConfigurationError: If `path` is not the path of a file.
    """

    def __init__(self, path: str | os.PathLike[str], lock_timeout: float, kind: FileKind) -> None:
        self._file = StoreFile(path, lock_timeout, kind)
        self._lock_timeout = lock_timeout
        self.reset_after_fork()
        if hasattr(os, "register_at_fork"):
            close_around_forks(weakref.ref(self))

    def close(self) -> None:
        """Close the file. A later use opens it again."""
        self._connection.close()

    def suspend(self) -> None:
        """Close the file and block its use, before a fork."""
        self._connection.suspend()

    def resume(self) -> None:
        """Allow uses again, after `suspend`."""
        self._connection.resume()

    def reset_after_fork(self) -> None:
        """Start with nothing open."""
        self._connection: SharedConnection = SharedConnection(self._file, self._lock_timeout)
