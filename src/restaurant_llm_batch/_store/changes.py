"""Changes of the store: what is queued for its writer, and the statements that are executed for it."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from .._llm_response import LLMResponse
from ..errors import StoreError
from .rows import PURGE, PURGE_JOBS, PUT, PUT_SIZES, REPLY_COLUMNS, encode_reply, proof_of_reply
from .writer import GroupCommitWriter, OnCommit, Prepared, Request, in_transaction, notify


class Change(NamedTuple):
    """
    A change to be written.

    Attributes:
        statement: The SQL statement, or "" to put a reply.
        key: The key that it changes.
        values: The statement's parameters; to put a reply, the reply.
        on_commit: Called with the result.
    """

    statement: str
    key: bytes
    values: Any
    on_commit: OnCommit


class Purge(Request):
    """A request to delete rows written before `until`; `removed` counts the replies among them."""

    def __init__(self, until: float, on_commit: OnCommit) -> None:
        super().__init__(on_commit)
        self.until = until
        self.removed = 0

    def perform(self, writer: GroupCommitWriter, connection: sqlite3.Connection) -> None:
        """Delete the rows, and make the file smaller."""
        # In pieces, so that another process does not have to wait for all of them.
        while removed := connection.execute(PURGE, (self.until,)).rowcount:
            self.removed += removed
        connection.execute(PURGE_JOBS, (self.until,))
        connection.executescript("PRAGMA incremental_vacuum")  # execute() stops at one page
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def prepare(path: Path, group: list[Change]) -> Prepared:
    """
    Return what is written for changes of the store at a path.

    A reply that cannot be serialized is left out, and reported to its own callback.
    """
    now, valid = time.time(), []
    steps: list[tuple[str, Any]] = []
    for statement, changes in groupby(group, _statement):
        if statement:
            for change in changes:
                steps.append((statement, change.values))
                valid.append(change)
        else:
            rows, written = _rows(path, changes, now)
            steps += _in_chunks(rows)
            valid += written
    write = partial(_execute, steps) if steps else None
    return Prepared(write, partial(notify, valid), (change.key for change in valid))


def _statement(change: Change) -> str:
    return change.statement


def _rows(path: Path, changes: Iterator[Change], now: float) -> tuple[list[Any], list[Change]]:
    rows: list[Any] = []
    written: list[Change] = []
    for change in changes:
        reply: LLMResponse = change.values
        try:
            encoded = encode_reply(reply)
            rows += (change.key, now, encoded, proof_of_reply(change.key, encoded))
            written.append(change)
        except Exception as error:
            invalid = StoreError(
                f"a reply cannot be stored in {path}: {error}; the backend must return an "
                "LLMResponse of texts and whole numbers"
            )
            invalid.__cause__ = error
            notify([change], invalid)
    return rows, written


def _in_chunks(rows: list[Any]) -> Iterator[tuple[str, Any]]:
    start, left = 0, len(rows) // REPLY_COLUMNS
    for size in PUT_SIZES:
        while left >= size:
            end = start + REPLY_COLUMNS * size
            yield PUT[size], rows[start:end]
            start, left = end, left - size


def _execute(steps: list[tuple[str, Any]], connection: sqlite3.Connection) -> None:
    if len(steps) == 1:
        connection.execute(*steps[0])  # a single statement is a transaction
    else:
        in_transaction(connection, partial(_execute_each, steps))


def _execute_each(steps: list[tuple[str, Any]], connection: sqlite3.Connection) -> None:
    for step in steps:
        connection.execute(*step)
