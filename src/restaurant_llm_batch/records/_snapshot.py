"""Snapshot of a record: reads the file as it is at one moment, and changes nothing."""

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
    Return what a query finds in a record, all of it at one moment.

    Args:
        file: The record.
        query: Reads from a connection; it may be called twice.

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
