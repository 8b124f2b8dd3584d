"""Data of the page: what a record answers to the page's questions, with what is kept between them."""

from __future__ import annotations

import os
import sqlite3
import threading
from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from ..._page import sketches
from ..._store.database import StoreFile
from .._compare import compare
from .._schema import RECORD
from .._snapshot import read_snapshot
from . import causes, item, overview, tables, timeline

T = TypeVar("T")

_KEPT = 8
"""Orders of tables that are kept."""
MOST_NAMED = 500
"""Most ids of a list in a comparison."""


class RecordData:
    """
    The data of a record, read from its tables; each method returns what JSON can hold. Thread-safe.

    Args:
        path: The record; see `open_record`, which checks it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file = StoreFile(path, 10.0, RECORD)
        self._lock = threading.Lock()
        self._orders: OrderedDict[tuple[object, ...], array[int]] = OrderedDict()
        self._lane_lock = threading.Lock()
        self._lanes: dict[tuple[str, int], timeline.Lanes] = {}

    @property
    def name(self) -> str:
        """Name of the file."""
        return self._file.path.name

    def read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """
        Return what a query finds, with the functions of SQL that the page uses.

        Raises:
            StoreError: The file cannot be read.
        """

        def with_functions(connection: sqlite3.Connection) -> T:
            sketches.add_functions(connection)
            causes.add_functions(connection)
            return query(connection)

        return read_snapshot(self._file, with_functions)

    def version(self) -> str:
        """Return a text that is another one after each change of the file; nothing is read for it."""
        found = []
        for path in (self._file.path, Path(f"{self._file.path}-wal")):
            try:
                status = path.stat()
            except OSError:
                found.append("none")
            else:
                found.append(f"{status.st_ino:x}.{status.st_size:x}.{status.st_mtime_ns:x}")
        return "-".join(found)

    def runs(self) -> list[dict[str, Any]]:
        """Return all runs, oldest first."""
        return self.read(overview.runs)

    def overview(self, run: int) -> dict[str, Any]:
        """Return the overview of a run."""
        return self.read(lambda connection: overview.overview(connection, run))

    def distributions(self, run: int) -> dict[str, Any]:
        """Return the histograms of a run."""
        return self.read(lambda connection: overview.distributions(connection, run))

    def limits(self, run: int) -> dict[str, Any]:
        """Return how the limits of a run changed."""
        return self.read(lambda connection: overview.limits(connection, run))

    def causes(self, run: int) -> dict[str, Any]:
        """Return the causes of the failures of a run."""
        return self.read(lambda connection: causes.causes(connection, run))

    def choices(self, run: int) -> dict[str, list[str]]:
        """Return what the tables of a run can be filtered by."""
        return self.read(lambda connection: tables.choices(connection, run))

    def item(self, run: int, place: int) -> dict[str, Any]:
        """Return an item of a run, with what is behind its result."""
        return self.read(lambda connection: item.item(connection, run, place))

    def timeline(self, run: int, begin: float | None = None, end: float | None = None) -> dict[str, Any]:
        """Return a window of the timeline of a run."""
        with self._lane_lock:
            file = self.version().partition(".")[0]
            lanes = self._lanes.setdefault((file, run), timeline.Lanes(run))
            return self.read(lambda connection: timeline.window(connection, run, lanes, begin, end))

    def rows(
        self,
        table: Literal["items", "calls"],
        run: int,
        query: tables.Query,
        offset: int = 0,
        limit: int = 100,
    ) -> dict[str, Any]:
        """Return rows of a table from a position on, and how many there are in all."""
        order, read, names = (
            (tables.item_ids, tables.item_rows, tables.ITEM_NAMES)
            if table == "items"
            else (tables.call_ids, tables.call_rows, tables.CALL_NAMES)
        )

        def find(connection: sqlite3.Connection) -> dict[str, Any]:
            ids = self._ids(connection, (table, run, query), order)
            start = max(0, offset)
            part = ids[start : start + min(max(0, limit), tables.MOST_ROWS)]
            return {"total": len(ids), "names": names, "rows": read(connection, run, part)}

        return self.read(find)

    def _ids(
        self,
        connection: sqlite3.Connection,
        wanted: tuple[str, int, tables.Query],
        order: Callable[[sqlite3.Connection, int, tables.Query], array[int]],
    ) -> Sequence[int]:
        key = (self.version(), *wanted)
        with self._lock:
            if (kept := self._orders.get(key)) is not None:
                self._orders.move_to_end(key)
                return kept
        _, run, query = wanted
        found = order(connection, run, query)
        with self._lock:
            self._orders[key] = found
            while len(self._orders) > _KEPT:
                self._orders.popitem(last=False)
        return found

    def comparison(self, run_a: int, run_b: int) -> dict[str, Any]:
        """Return two runs side by side."""

        def find(connection: sqlite3.Connection) -> dict[str, Any]:
            found = compare(
                connection, overview.recorded_run(connection, run_a), overview.recorded_run(connection, run_b)
            )
            lists = ("now_failed", "now_succeeded", "only_a", "only_b", "changed")
            named = {name: getattr(found, name) for name in lists}
            return {
                "runs": [run_a, run_b],
                "figures": dict(found.figures),
                "settings": dict(found.settings),
                "errors": dict(found.errors),
                "lists": {
                    name: None
                    if ids is None
                    else {"count": len(ids), "ids": [str(one) for one in ids[:MOST_NAMED]]}
                    for name, ids in named.items()
                },
            }

        return self.read(find)
