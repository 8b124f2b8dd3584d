"""
Sound rows: the tables of a record as its readers see them, in which a value that cannot be is unknown.

Theory of operation. Any program may write into a record, and a disk may change it. SQLite puts a temporary view before
a table of the same name, so each reading connection gets a view of every table but `runs`, whose rows are checked when
they are read. A view passes on what its column can hold. Anything else, such as a text for a number, an infinite time
or a negative count, becomes NULL, or where the column is never NULL the value in `_INSTEAD`. So no reader meets such a
value, be it written in SQL or in Python. Ids stay as they are: rows are found and joined by them. SQLite merges the
views into the statements that read them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from ._schema import ID_BITS, TABLES

MOST = 2**40
"""The largest number or count that is believed: sums of millions of them fit into 64 bits."""
LONGEST = 10_000_000_000
"""The most seconds, or cost, that are believed; some 300 years."""

_KEYS = {("calls", "item"), ("reviews", "prompt")}
"""Columns that rows are joined by, beside the ids; what they cannot be finds no row."""
_JSON = {"item_json", "review_json", "messages", "result"}
_INSTEAD = {
    "attempt": "1",
    "slots": "1",
    "prompt": "id",
    "item_json": "'null'",
    "messages": "'[]'",
    "result": "'null'",
    "started": f"CASE WHEN ended BETWEEN -{LONGEST} AND {LONGEST} THEN ended ELSE 0.0 END",
}
"""What stands for a value that cannot be where there must be one, by column; otherwise 0 or an empty text."""
_ZERO = {"INTEGER": "0", "REAL": "0.0", "TEXT": "''"}


def _sound(table: str, name: str, kind: str, *, required: bool) -> str:
    """Return the SQL of a column."""
    if name == "run":
        return f"id >> {ID_BITS} AS run"
    if name == "id" or (table, name) in _KEYS:
        return name
    if name == "prompt":
        fits = f"typeof(prompt) = 'integer' AND prompt >> {ID_BITS} = id >> {ID_BITS}"
    elif name in _JSON:
        fits = f"typeof({name}) = 'text' AND json_valid({name})"
    elif kind == "INTEGER":
        fits = f"typeof({name}) = 'integer' AND {name} BETWEEN 0 AND {MOST}"
    elif kind == "REAL":  # SQLite sorts texts and blobs behind all numbers
        fits = f"{name} BETWEEN -{LONGEST} AND {LONGEST}"
    else:
        fits = f"typeof({name}) = '{kind.lower()}'"
    instead = f" ELSE {_INSTEAD.get(name, _ZERO[kind])}" if required else ""
    return f"CASE WHEN {fits} THEN {name}{instead} END AS {name}"


def _columns(table: str, statement: str) -> Iterator[str]:
    for line in statement.splitlines()[1:-1]:
        name, kind, *rest = line.rstrip(",").split()
        yield _sound(table, name, kind, required=rest[:2] == ["NOT", "NULL"])


_SOUND = {
    name: f"SELECT {', '.join(_columns(name, statement))} FROM main.{name}"  # nosec B608 (constants)
    for name, statement in TABLES.items()
    if name not in {"runs", "wishes"}
}


def show_sound_rows(connection: sqlite3.Connection) -> None:
    """Let all statements of a connection see sound rows."""
    for (name,) in connection.execute("SELECT name FROM main.sqlite_master WHERE type = 'table'").fetchall():
        if name in _SOUND:
            connection.execute(f"CREATE TEMP VIEW {name} AS {_SOUND[name]}")


def copy_sound_rows(
    connection: sqlite3.Connection, table: str, where: str, values: tuple[object, ...]
) -> None:
    """Copy sound rows into a temporary table, which the statements of the connection see in place of all."""
    connection.execute(f"DROP VIEW temp.{table}")
    connection.execute(TABLES[table].replace("CREATE TABLE", "CREATE TEMP TABLE", 1))
    connection.execute(f"INSERT INTO temp.{table} {_SOUND[table]} WHERE {where}", values)  # nosec B608
