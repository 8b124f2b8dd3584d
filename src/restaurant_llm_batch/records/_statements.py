"""
Statements that write rows of a record: many rows in one statement, with a parameter only for what differs.

Not `executemany`, which waits for the GIL after each row; see `_store/rows.py`. Most calls and items end well, and an
SQL literal, or the NULL of a column that is left out, takes a fraction of the time of a parameter. So there are several
kinds of rows of one table.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, TypeAlias

from ._schema import COLUMNS, ID_BITS

Row: TypeAlias = tuple[Any, ...]
"""Values of a row of some kind, in the order of its columns."""

_IDS = frozenset({"id", "item", "prompt"})
"""Columns with an id. A row has the number within its run there; the statement makes it an id of the file."""

SIZES = (64, 16, 4, 1)
"""Rows in one statement."""


class RowKind:
    """
    A kind of rows of one table.

    Args:
        table: The table.
        columns: The columns that a row has values for; its number within the run is the first. None for all of them
            but `run`, which every row gets from the statement.
        fixed: The SQL of others, which is the same for all rows. What is left is NULL.

    Attributes:
        statements: Statements by the number of rows that each writes; their first parameter is the id of the run,
            shifted by `ID_BITS`.
    """

    def __init__(
        self, table: str, columns: Sequence[str] | None = None, fixed: Mapping[str, str] | None = None
    ) -> None:
        self.table: str = table
        self.columns: tuple[str, ...] = tuple(
            [name for name in COLUMNS[table] if name != "run"] if columns is None else columns
        )
        constants = fixed or {}
        named = ", ".join([*self.columns, "run", *constants])
        values = ["?1 + ?" if name in _IDS else "?" for name in self.columns]
        row = f"({', '.join([*values, f'?1 >> {ID_BITS}', *constants.values()])})"
        put = f"INSERT OR REPLACE INTO {table} ({named}) VALUES "  # nosec B608 (constants)
        self.statements: Mapping[int, str] = {size: put + ", ".join([row] * size) for size in SIZES}

    def __repr__(self) -> str:
        return f"<RowKind {self.table} {', '.join(self.columns)}>"

    def parts(self, rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
        """Yield rows in parts, for each of which there is a statement."""
        start, left = 0, len(rows)
        for size in SIZES:
            while left >= size:
                yield rows[start : start + size]
                start, left = start + size, left - size

    def put(self, connection: sqlite3.Connection, run: int, part: Sequence[Row]) -> None:
        """Write a part of the rows of a run."""
        connection.execute(self.statements[len(part)], [run << ID_BITS, *chain.from_iterable(part)])


_STARTED_CALL = (
    *("id", "item", "prompt", "attempt", "stage", "label", "queued", "started"),
    *("slot_seconds", "rate_seconds", "retry_seconds", "slots", "store_key"),
)
_REPLY = ("model", "prompt_tokens", "completion_tokens", "cached_tokens", "cost", "finish_reason")

OPEN_ITEM = RowKind("items", ("id", "place", "item_id", "item_json", "started"))
SUCCEEDED_ITEM = RowKind("items", (*OPEN_ITEM.columns, "ended"), {"outcome": "'succeeded'"})
FAILED_ITEM = RowKind(
    "items",
    (*OPEN_ITEM.columns, "ended", "stage", "attempts", "error_type", "error"),
    {"outcome": "'failed'"},
)
OPEN_CALL = RowKind("calls", _STARTED_CALL)
OK_CALL = RowKind("calls", (*_STARTED_CALL, "ended", *_REPLY), {"outcome": "'ok'"})
OTHER_CALL = RowKind("calls", (*OK_CALL.columns, "outcome", "error_type", "status", "error"))
STORED_CALL = RowKind(
    "calls",
    ("id", "item", "prompt", "label", "queued", "started", "ended", "model", "finish_reason", "store_key"),
    {"attempt": "0", "stage": "'llm'", "outcome": "'stored'", "slots": "0"}
    | dict.fromkeys(("slot_seconds", "rate_seconds", "retry_seconds"), "0.0"),
)
CALL_ENDPOINT = RowKind("call_endpoints")
BATCHED_CALL = RowKind("batched_calls")
SERVER_LOAD = RowKind("server_loads")
RUN_MEMORY = RowKind("run_memory")
LIMIT = RowKind("limits")
LIMITER = RowKind("limiters")
PROMPT = RowKind("prompts")
ANSWER = RowKind("answers")
REVIEW = RowKind("reviews")
RESULT = RowKind("results")

Batch: TypeAlias = dict[RowKind, list[Row]]
"""Rows of one run by their kind, in the order in which they are written."""

PUT_RUN = f"INSERT OR REPLACE INTO runs VALUES ({', '.join('?' * len(COLUMNS['runs']))})"  # nosec B608 (constants)
PROGRESS = "UPDATE runs SET latest = ?, missing = ? WHERE id = ?"
