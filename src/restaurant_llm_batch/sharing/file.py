"""File broker: limits in an SQLite file, for the processes of one machine."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf
from time import monotonic
from typing import Any, TypeVar

from .._store.database import FileKind
from .._store.file_user import FileUser
from ._broker import Broker, perform, restored
from ._messages import LOAN_SECONDS, BrokerUnavailable, Command

LOCK_SECONDS = 1.0
"""Seconds to wait for other processes' steps. One takes a tenth of a millisecond."""

KIND = FileKind(
    "broker",
    "limits.db",
    "shared limits",
    tables={
        "shared_limits": "CREATE TABLE shared_limits (name TEXT PRIMARY KEY, state TEXT NOT NULL) STRICT"
    },
)

T = TypeVar("T")


class FileBroker(FileUser, Broker):
    """
    Keeps shared limits in a file, for the processes of one machine. Nothing has to be installed or started.

    The file is created if it does not exist, and only its owner may read it. It has to be on a local disk; it may be
    the file of a store or a record, but must not be deleted while a process uses it.

    Args:
        path: The file.

    Raises:
        ConfigurationError: If `path` is not the path of a file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path, LOCK_SECONDS, KIND)
        self._replaced_at = -inf

    @property
    def place(self) -> str:
        """The path of the file."""
        return f"file:{self._file.path}"

    def perform(self, name: str, command: Command) -> Any:
        """Perform a command on a limit in one short transaction."""

        def step(connection: sqlite3.Connection) -> Any:
            row = connection.execute("SELECT state FROM shared_limits WHERE name = ?", (name,)).fetchone()
            lender, now = restored(row and row[0]), monotonic()
            is_lost = row is not None or now - self._replaced_at < LOAN_SECONDS
            lender, answer = perform(lender, name, command, now, may_be_lost=lender is None and is_lost)
            connection.execute("INSERT OR REPLACE INTO shared_limits VALUES (?, ?)", (name, lender.to_json()))
            return answer

        return self._in_transaction(step)

    def names(self) -> list[str]:
        """Return the names of the limits."""

        def step(connection: sqlite3.Connection) -> list[str]:
            rows = connection.execute("SELECT name FROM shared_limits ORDER BY name").fetchall()
            return [name.decode() for (name,) in rows]

        return self._in_transaction(step)

    def _in_transaction(self, step: Callable[[sqlite3.Connection], T]) -> T:
        try:
            if self._connection.leave_replaced_file():
                self._replaced_at = monotonic()
            with self._connection as connection, _transaction(connection):
                return step(connection)
        except sqlite3.Error as error:
            raise BrokerUnavailable(self._file.describe_error(error)) from error

    def __reduce__(self) -> tuple[Any, ...]:
        return FileBroker, (self._file.path,)


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
