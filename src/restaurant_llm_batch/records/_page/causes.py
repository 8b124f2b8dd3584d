"""Causes of failures: errors that differ in numbers and quoted texts only are of one cause."""

from __future__ import annotations

import sqlite3
from typing import Any

from ..._tables.rows import without_particulars
from .ranges import in_run

MOST = 200
"""Most causes of a run that are listed; the rest is counted."""
_LONGEST = 400
"""Most characters of a cause."""


def cause_of(error: object) -> str | None:
    """Return the cause of an error, by its text; None of none."""
    if not isinstance(error, str):
        return None
    return without_particulars(error[: 4 * _LONGEST])[:_LONGEST]


_ITEMS = f"""
SELECT stage, error_type, cause(error) AS cause, count(*), min(id) & 0xFFFFFFFF, min(ended), max(ended), error, ''
FROM items WHERE {in_run("id")} AND outcome = 'failed' GROUP BY 1, 2, 3 ORDER BY 4 DESC, 5
"""  # nosec B608 (constants)
_CALLS = f"""
SELECT stage, error_type, cause(error) AS cause, count(*), min(id) & 0xFFFFFFFF, min(started),
  max(coalesce(ended, started)), error, group_concat(DISTINCT label)
FROM calls WHERE {in_run("id")} AND error_type IS NOT NULL GROUP BY 1, 2, 3 ORDER BY 4 DESC, 5
"""  # nosec B608 (constants)


def causes(connection: sqlite3.Connection, run: int) -> dict[str, Any]:
    """Return the causes of the failures of a run, of its items and of its calls, the most frequent first."""
    return {
        "items": _listed(connection.execute(_ITEMS, (run,)).fetchall()),
        "calls": _listed(connection.execute(_CALLS, (run,)).fetchall()),
    }


def _listed(rows: list[tuple[Any, ...]]) -> dict[str, Any]:
    names = ("stage", "error_type", "cause", "count", "first", "began", "ended", "example", "labels")
    return {
        "causes": [dict(zip(names, row, strict=True)) for row in rows[:MOST]],
        "left_out": sum(row[3] for row in rows[MOST:]),
    }


def add_functions(connection: sqlite3.Connection) -> None:
    """Let the statements of a connection use ``cause``."""
    connection.create_function("cause", 1, cause_of, deterministic=True)
