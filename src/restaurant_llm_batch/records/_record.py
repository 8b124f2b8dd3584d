"""
Record: reads the file that a `Recording` writes, also while it is being written.

Every method opens the file, reads from one snapshot of it, and closes it: nothing is held while a run goes on, and
nothing is changed. The exception is `set_limit`, which asks the run for something.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from .._store.database import StoreFile
from .._values import composed
from ..errors import ConfigurationError, StoreError
from ..models import ItemId
from ._compare import Comparison, compare
from ._explain import Explanation, explain
from ._recorded import (
    ITEMS,
    LIMITERS,
    LIMITS,
    SERVER_LOADS,
    RecordedCall,
    RecordedItem,
    RecordedLimit,
    RecordedLimiter,
    RecordedRun,
    RecordedServerLoad,
    call_of,
    calls_of_run,
    item_of,
    run_of,
    runs_statement,
)
from ._schema import LATER, RECORD
from ._snapshot import has_table, read_snapshot
from ._values import id_texts
from ._wishes import ask

T = TypeVar("T")


def open_record(path: str | os.PathLike[str]) -> Record:
    """
    Open a record to read it.

    Args:
        path: The file that `BatchRunner(record=...)` writes or has written.

    Raises:
        ConfigurationError: There is no such file, or it is not a record.
    """
    return Record(path)


def as_record(record: str | os.PathLike[str] | Record) -> Record:
    """
    Return what an argument names, opened to be read.

    Raises:
        ConfigurationError: It is not a record.
    """
    return record if isinstance(record, Record) else open_record(record)


def find_record(path: str | os.PathLike[str]) -> Record | None:
    """
    Open a record that may not be there yet: None if there is no such file, or a store without a record.

    Raises:
        ConfigurationError: The file is something else.
    """
    file = StoreFile(path, 10.0, RECORD)
    try:
        if not file.path.is_file() or not file.is_initialised() or not file.read(_has_tables):
            return None
    except (sqlite3.Error, OSError) as error:
        raise ConfigurationError(file.describe_error(error)) from error
    return Record(path)


class Record:
    """
    The record of runs in a file; see `open_record`.

    A `run` argument is the number of a run, or a run that `runs` has returned; None for the latest one.

    Attributes:
        path: The file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file = StoreFile(path, 10.0, RECORD)
        self.path: Path = self._file.path
        if not self.path.is_file():
            what = "a folder" if self.path.is_dir() else "no such file"
            raise ConfigurationError(
                f'there is no record at {self.path}: {what}; BatchRunner(record="{self.path.name}") writes one'
            )
        try:
            found = self._file.is_initialised() and self._file.read(_has_tables)
        except (sqlite3.Error, OSError) as error:
            raise ConfigurationError(self._file.describe_error(error)) from error
        if not found:
            raise ConfigurationError(
                f"{self.path} holds no record; BatchRunner(record={self.path.name!r}) adds one to a store"
            )

    def runs(self) -> list[RecordedRun]:
        """Return all runs, oldest first."""
        return self._read(
            lambda connection: [
                run_of(row) for row in connection.execute(f"{runs_statement(connection)} ORDER BY id")
            ]
        )

    def run(self, run: int | RecordedRun | None = None) -> RecordedRun:
        """Return a run."""
        return self._read(lambda connection: _run(connection, run, self.path))

    def items(self, run: int | RecordedRun | None = None) -> list[RecordedItem]:
        """Return the items of a run that have started or ended, in input order."""
        return self._of_run(run, f"{ITEMS} ORDER BY items.id", item_of)

    def calls(self, run: int | RecordedRun | None = None) -> list[RecordedCall]:
        """Return every attempt of every call of a run, and the replies found in the store, as they started."""

        def read(connection: sqlite3.Connection) -> list[RecordedCall]:
            number = _run_number(connection, run, self.path)
            rows = connection.execute(f"{calls_of_run(connection)} ORDER BY calls.id", (number,))
            return [call_of(row) for row in rows]

        return self._read(read)

    def limits(self, run: int | RecordedRun | None = None) -> list[RecordedLimit]:
        """
        Return how the limits changed in a run, oldest first.

        Those that are adaptive begin with the limits at its start.
        """
        return self._of_run(run, LIMITS, lambda row: RecordedLimit(*row))

    def limiters(self, run: int | RecordedRun | None = None) -> list[RecordedLimiter]:
        """Return how the limiters of a run stand, or stood at its end: what is in use, and how many calls wait."""
        if not self._read(partial(has_table, name="limiters")):
            return []
        return self._of_run(run, LIMITERS, lambda row: RecordedLimiter(*row))

    def server_loads(self, run: int | RecordedRun | None = None) -> list[RecordedServerLoad]:
        """Return what the model's server said of its load in a run with `watch_server`, oldest first."""
        if not self._read(partial(has_table, name="server_loads")):
            return []
        return self._of_run(run, SERVER_LOADS, lambda row: RecordedServerLoad(*row))

    def set_limit(
        self, name: str, limit: int | str, run: int | RecordedRun | None = None, *, wait: float = 10.0
    ) -> str:
        """
        Change a limit of a run that goes on, perhaps in another process, and return the run's answer.

        The limit is that of its runner, for all of its runs; see `BatchRunner.set_limit`. What is asked for is written
        into the file; the run looks for it at least four times a second.

        Args:
            name: Field of `Limits`, for example "llm".
            limit: The new limit.
            run: The run.
            wait: Seconds to wait for the answer.

        Raises:
            ConfigurationError: There is no such run, it has ended, it refuses, it does not answer, or the file cannot
                be written. The message says what to write instead.
        """
        chosen = self.run(run)
        if chosen.ended is not None:
            raise ConfigurationError(
                f"run {chosen.run} has ended ({chosen.state}), so its limits cannot be changed"
            )
        try:
            return ask(self._file, chosen.run, name, str(limit), wait)
        except sqlite3.Error as error:
            raise StoreError(self._file.describe_error(error)) from error

    def explain(self, item_id: ItemId, run: int | RecordedRun | None = None) -> Explanation:
        """
        Explain the result of an item: for each sentence, the calls and reviews behind it, and what they cost.

        Args:
            item_id: The item's id. If there is none with this very id, 12 and "12" are the same.
            run: The run; None for the latest one that has the item.

        Raises:
            ConfigurationError: There is no such run, or no such item in it.
        """

        def read(connection: sqlite3.Connection) -> Explanation:
            chosen = None if run is None else _run(connection, run, self.path)
            found = _find_item(connection, item_id, None if chosen is None else chosen.run)
            if found is None:
                where = f"run {chosen.run} of {self.path}" if chosen else f"record {self.path}"
                raise ConfigurationError(
                    f"{where} has no item {item_id!r}; see items() for those that it has"
                )
            return explain(connection, _run(connection, found >> 32, self.path), found)

        return self._read(read)

    def compare(self, run_a: int | RecordedRun, run_b: int | RecordedRun) -> Comparison:
        """
        Compare two runs: their figures, and the items whose outcome or result differs.

        Raises:
            ConfigurationError: There is no such run.
        """
        return self._read(
            lambda connection: compare(
                connection, _run(connection, run_a, self.path), _run(connection, run_b, self.path)
            )
        )

    def to_html(self, path: str | os.PathLike[str], run: int | RecordedRun | None = None) -> None:
        """
        Write the page of a run as one HTML file, which a browser shows without this package and without a network.

        It holds what the record has of the run, with the texts if they are recorded. Of a very large run it holds all
        figures, and the items and calls that failed, took longest and cost most, as it says itself.

        Args:
            path: The file, in place of one of that name.
            run: The run.

        Raises:
            ConfigurationError: There is no such run; or the file cannot be written, or is a folder or a database, such
                as the record itself.
        """
        from ._page.data import RecordData
        from ._page.export import write_run

        write_run(RecordData(self.path), self.run(run).run, path)

    def _of_run(
        self, run: int | RecordedRun | None, statement: str, make: Callable[[tuple[Any, ...]], T]
    ) -> list[T]:
        def read(connection: sqlite3.Connection) -> list[T]:
            number = _run_number(connection, run, self.path)
            return [make(row) for row in connection.execute(statement, (number,))]

        return self._read(read)

    def _read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        return read_snapshot(self._file, query)

    def __repr__(self) -> str:
        return f"<Record {str(self.path)!r}>"


def _has_tables(connection: sqlite3.Connection) -> bool:
    found = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    return found >= set(RECORD.tables) - LATER


def _run_number(connection: sqlite3.Connection, run: object, path: Path) -> int:
    number = run.run if isinstance(run, RecordedRun) else run
    if number is not None and (not isinstance(number, int) or isinstance(number, bool)):
        raise ConfigurationError(f"run must be the number of a run, got {run!r}; for example run=1")
    known = [found for (found,) in connection.execute("SELECT id FROM runs ORDER BY id")]
    if not known:
        raise ConfigurationError(f"record {path} has no run yet")
    if number is None:
        return int(known[-1])
    if number not in known:
        named = ", ".join(map(str, known[-10:]))
        raise ConfigurationError(f"record {path} has no run {number}; its latest runs are {named}")
    return number


def _run(connection: sqlite3.Connection, run: object, path: Path) -> RecordedRun:
    number = _run_number(connection, run, path)
    return run_of(connection.execute(f"{runs_statement(connection)} WHERE id = ?", (number,)).fetchone())


_FIND = (
    "SELECT id FROM items WHERE {column} = ? AND (?2 IS NULL OR run = ?2) ORDER BY run DESC, id DESC LIMIT 1"
)


def _find_item(connection: sqlite3.Connection, item_id: object, run: int | None) -> int | None:
    """Return the row of an item: of the very id, otherwise of one that reads the same."""
    same = {item_id: None, composed(item_id): None} if isinstance(item_id, str) else {item_id: None}
    texts = [id_texts(one) for one in same]
    for column, values in (
        ("item_json", [json for _, json in texts]),
        ("item_id", [text for text, _ in texts]),
    ):
        for value in values:
            row = connection.execute(_FIND.format(column=column), (value, run)).fetchone()
            if row is not None:
                return int(row[0])
    return None
