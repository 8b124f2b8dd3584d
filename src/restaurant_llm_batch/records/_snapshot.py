"""Snapshot of a record: what a query finds in one transaction, also while a run writes; and values that cannot be."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from functools import partial
from math import isfinite
from typing import TypeVar

from .._store.database import StoreFile
from .._values import short
from ..errors import BatchError, StoreError
from ._sound_rows import show_sound_rows

T = TypeVar("T")

_decoded = partial(str, encoding="utf-8", errors="replace")


def read_snapshot(file: StoreFile, query: Callable[[sqlite3.Connection], T]) -> T:
    """
    Return what a query finds, in which values that cannot be are unknown; see `_sound_rows`.

    Raises:
        StoreError: The file cannot be read, or a value in it cannot be.
        OverflowError: It asks for a number that is too large for SQLite.
    """

    def in_snapshot(connection: sqlite3.Connection) -> T:
        connection.text_factory = _decoded  # a damaged text need not be UTF-8
        connection.execute("BEGIN")
        show_sound_rows(connection)
        return query(connection)

    try:
        return file.read(in_snapshot)
    except sqlite3.Error as error:
        raise StoreError(file.describe_error(error)) from error
    except BatchError:
        raise
    except (TypeError, ValueError, ArithmeticError, AttributeError, OSError) as error:
        if isinstance(error, OverflowError) and "SQLite" in str(error):
            raise  # of a number that was asked for
        raise StoreError(file.describe_damage(f"a value cannot be: {short(str(error))}")) from error


def has_table(connection: sqlite3.Connection, name: str) -> bool:
    """Return whether the file has a table, which earlier records may lack."""
    found = connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (name,)).fetchone()
    return found is not None


_KINDS: Mapping[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "str": (str,),
    "Mapping[str, Any]": (dict,),
}


def check_kind(name: str, value: object, kind: str) -> None:
    """Raise `ValueError` if a value is not of a kind: something else than this library has written it."""
    kinds = _KINDS.get(kind.partition(" | ")[0])
    if value is None or kinds is None:
        return
    if not isinstance(value, kinds) or (isinstance(value, float) and not isfinite(value)):
        raise ValueError(f"{name} is {short(value)}")
