"""Snapshot of a record: what a query finds in one transaction, also while a run writes."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from .._store.database import StoreFile
from ..errors import StoreError

T = TypeVar("T")

_decoded = partial(str, encoding="utf-8", errors="replace")


def read_snapshot(file: StoreFile, query: Callable[[sqlite3.Connection], T]) -> T:
    """
    Return what a query finds.

    Raises:
        StoreError: The file cannot be read.
    """

    def in_snapshot(connection: sqlite3.Connection) -> T:
        connection.text_factory = _decoded  # a damaged text need not be UTF-8
        connection.execute("BEGIN")
        return query(connection)

    try:
        return file.read(in_snapshot)
    except sqlite3.Error as error:
        raise StoreError(file.describe_error(error)) from error


def has_table(connection: sqlite3.Connection, name: str) -> bool:
    """Return whether the file has a table, which earlier records may lack."""
    found = connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (name,)).fetchone()
    return found is not None
