"""Keys of the calls in batch files by hand, kept in the store, so that answers to other calls are noticed."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable
from contextlib import closing

from ..errors import StoreError
from .database import FileKind, StoreFile

_TABLE = "asked_by_hand"
_KIND = FileKind(
    "store",
    "run.db",
    "replies",
    {_TABLE: f"CREATE TABLE {_TABLE} (key BLOB PRIMARY KEY) WITHOUT ROWID"},
)


def remember_asked(path: str | os.PathLike[str], keys: Iterable[bytes]) -> None:
    """
    Remember the keys of calls that were written to a batch file.

    Raises:
        ConfigurationError: The file is no store, or cannot be written.
        StoreError: It cannot be written now.
    """
    file = StoreFile(path, 10.0, _KIND)
    with closing(file.connect(file.lock_timeout)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(f"INSERT OR IGNORE INTO {_TABLE} VALUES (?)", ((key,) for key in keys))  # nosec B608
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise StoreError(file.describe_error(error)) from error


def asked_by_hand(path: str | os.PathLike[str]) -> frozenset[bytes]:
    """
    Return the keys that are remembered; none if `path` has none, or is not there.

    Raises:
        StoreError: The file cannot be read.
    """
    file = StoreFile(path, 10.0, _KIND)

    def query(connection: sqlite3.Connection) -> frozenset[bytes]:
        named = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
        if connection.execute(named, (_TABLE,)).fetchone() is None:
            return frozenset()
        return frozenset(key for (key,) in connection.execute(f"SELECT key FROM {_TABLE}"))  # nosec B608

    if not file.path.is_file():
        return frozenset()
    try:
        return file.read(query)
    except sqlite3.Error as error:
        raise StoreError(file.describe_error(error)) from error
