"""
Tables of a run's items and calls: filtered, sorted and searched in SQL, and read a part at a time.

Theory of operation. A query gives the ids of its rows in order, eight bytes for each, which are kept while the file
does not change; a part of the table is a slice of them, whose rows are then read. So no row is in memory but those on
the screen, and any part of 100,000 rows is as near as the first.
"""

from __future__ import annotations

import sqlite3
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from ..._values import composed
from .ranges import in_run

MOST_ROWS = 500
"""Most rows of one answer."""


@dataclass(frozen=True, slots=True)
class Query:
    """
    Which rows, in which order.

    Attributes:
        sort: A column; with "-" in front, the largest first.
        search: A text in an id, a label, a model or an error; "" for all.
        texts: Whether `search` is looked for in results and answers too.
        outcome: How it ended; "open" without an end.
        stage: The stage: where an item failed, or of a call.
        error_type: Type of the error.
        cause: Cause of the error.
        label: Label of a call, or of one of the item's calls.
        model: Model of a call, or of one of the item's calls.
        again: Whether only attempts after the first count, or items that have one.
    """

    sort: str = ""
    search: str = ""
    texts: bool = False
    outcome: str = ""
    stage: str = ""
    error_type: str = ""
    cause: str = ""
    label: str = ""
    model: str = ""
    again: bool = False


FIELDS = tuple(field.name for field in fields(Query))

_SPENT = f"""(
  SELECT item, sum(attempt > 0) AS calls, max(attempt) AS tries, sum(prompt_tokens) AS prompt_tokens,
    sum(completion_tokens) AS completion_tokens, sum(cost) AS cost,
    sum(slot_seconds + rate_seconds + retry_seconds) AS waited
  FROM calls WHERE {in_run("id")} {{which}} GROUP BY item
) AS spent"""  # nosec B608 (constants)
_SORTED_BY_CALLS = {
    "calls": "coalesce(spent.calls, 0)",
    "tries": "coalesce(spent.tries, 0)",
    "prompt_tokens": "coalesce(spent.prompt_tokens, 0)",
    "completion_tokens": "coalesce(spent.completion_tokens, 0)",
    "cost": "spent.cost",
    "waited": "coalesce(spent.waited, 0)",
}
_ITEM_COLUMNS = {
    "place": "items.id",
    "id": "items.item_id",
    "outcome": "items.outcome",
    "started": "items.started",
    "seconds": "items.ended - items.started",
    "stage": "items.stage",
    "error": "items.error",
    **_SORTED_BY_CALLS,
}
"""What items can be sorted by, and the SQL of it."""
ITEM_NAMES = (
    *("place", "id", "outcome", "started", "ended", "stage", "attempts", "error_type", "error"),
    *("calls", "tries", "prompt_tokens", "completion_tokens", "cost", "waited"),
)
CALL_NAMES = (
    *("number", "place", "id", "call", "attempt", "stage", "label", "model", "queued", "started", "ended"),
    *("slot_seconds", "rate_seconds", "retry_seconds", "outcome", "prompt_tokens", "completion_tokens"),
    *("cached_tokens", "cost", "finish_reason", "error_type", "status", "error"),
)
_CALL_COLUMNS = {
    "number": "calls.id",
    "id": "items.item_id",
    "label": "calls.label",
    "model": "calls.model",
    "attempt": "calls.attempt",
    "outcome": "calls.outcome",
    "started": "calls.started",
    "seconds": "calls.ended - calls.started",
    "waited": "calls.slot_seconds + calls.rate_seconds + calls.retry_seconds",
    "prompt_tokens": "calls.prompt_tokens",
    "completion_tokens": "calls.completion_tokens",
    "cost": "calls.cost",
    "error": "calls.error",
}
"""What calls can be sorted by, and the SQL of it."""


def item_ids(connection: sqlite3.Connection, run: int, query: Query) -> array[int]:
    """Return the ids of items, in order."""
    where, values = _conditions(run, query, "items")
    of_calls = _of_calls(query, values)
    if query.again:
        of_calls.append("attempt > 1")
    if of_calls:
        where.append(
            f"items.id IN (SELECT item FROM calls WHERE {in_run('id')} AND {' AND '.join(of_calls)})"  # nosec B608
        )
    if query.search:
        where.append(_item_search(query, values))
    spent = f"LEFT JOIN {_SPENT.format(which='')} ON spent.item = items.id"
    name, order = _order(query.sort, _ITEM_COLUMNS, "items.id")
    source = f"items {spent}" if name in _SORTED_BY_CALLS else "items"
    statement = f"SELECT items.id FROM {source} WHERE {' AND '.join(where)} {order}"  # nosec B608
    return array("q", (found for (found,) in connection.execute(statement, values.given)))


def call_ids(connection: sqlite3.Connection, run: int, query: Query) -> array[int]:
    """Return the ids of calls, in order."""
    where, values = _conditions(run, query, "calls")
    where += _of_calls(query, values)
    if query.again:
        where.append("calls.attempt > 1")
    if query.search:
        pattern = values.add(_like(query.search))
        texts = _has(("items.item_id", "calls.label", "calls.model", "calls.error"), pattern)
        inside = f" OR calls.id IN ({_answers(values.add(query.search))})" if query.texts else ""
        where.append(f"({texts}{inside})")
    _, order = _order(query.sort, _CALL_COLUMNS, "calls.id")
    source = "calls LEFT JOIN items ON items.id = calls.item"
    statement = f"SELECT calls.id FROM {source} WHERE {' AND '.join(where)} {order}"  # nosec B608
    return array("q", (found for (found,) in connection.execute(statement, values.given)))


class _Values:
    """The values of a statement; `add` returns the name of one in it."""

    def __init__(self, run: int) -> None:
        self.given: list[object] = [run]

    def add(self, value: object) -> str:
        self.given.append(value)
        return f"?{len(self.given)}"


def _conditions(run: int, query: Query, table: str) -> tuple[list[str], _Values]:
    values = _Values(run)
    where = [in_run(f"{table}.id")]
    if query.outcome == "open":
        where.append(f"{table}.outcome IS NULL")
    elif query.outcome:
        where.append(f"{table}.outcome = {values.add(query.outcome)}")
    for name, value in {"stage": query.stage, "error_type": query.error_type}.items():
        where += [f"{table}.{name} = {values.add(value)}"] if value else []
    if query.cause:
        where.append(f"cause({table}.error) = {values.add(query.cause)}")
    return where, values


def _of_calls(query: Query, values: _Values) -> list[str]:
    given = {name: getattr(query, name) for name in ("label", "model")}
    return [f"calls.{name} = {values.add(value)}" for name, value in given.items() if value]


def _item_search(query: Query, values: _Values) -> str:
    pattern = values.add(_like(query.search))
    columns = ("items.item_id", "items.error", "items.stage")
    own = _has(columns, pattern)
    calls = f"SELECT item FROM calls WHERE {in_run('id')} AND ({_has(('label', 'model', 'error'), pattern)})"  # nosec B608
    found = f"{own} OR items.id IN ({calls})"
    if query.texts:
        text = values.add(query.search)
        results = f"SELECT id FROM results WHERE {in_run('id')} AND instr(result, {text})"  # nosec B608
        shown = (
            f"SELECT calls.item FROM reviews JOIN calls ON calls.prompt = reviews.prompt WHERE {in_run('reviews.id')} "
            f"AND {in_run('calls.id')} AND instr(content, {text})"  # nosec B608
        )
        answers = f"SELECT item FROM calls WHERE id IN ({_answers(text)})"  # nosec B608
        found += f" OR items.id IN ({results}) OR items.id IN ({answers}) OR items.id IN ({shown})"
    return f"({found})"


def _answers(text: str) -> str:
    return f"SELECT id FROM answers WHERE {in_run('id')} AND instr(text, {text})"  # nosec B608


def _has(columns: Sequence[str], pattern: str) -> str:
    return " OR ".join(f"{column} LIKE {pattern} ESCAPE '\\'" for column in columns)


def _like(text: str) -> str:
    for sign in ("\\", "%", "_"):
        text = text.replace(sign, "\\" + sign)
    return f"%{composed(text)}%"


def _order(sort: str, columns: Mapping[str, str], last: str) -> tuple[str, str]:
    """Return the column of an order, and its SQL; rows without a value come last."""
    name = sort.removeprefix("-")
    if name not in columns:
        return "", f"ORDER BY {last}"
    down = "DESC" if sort.startswith("-") else "ASC"
    if columns[name] == last:
        return name, f"ORDER BY {last} {down}"
    return name, f"ORDER BY {columns[name]} {down} NULLS LAST, {last}"


def item_rows(connection: sqlite3.Connection, run: int, ids: Sequence[int]) -> list[list[Any]]:
    """Return items by their ids; see `ITEM_NAMES`."""
    if not ids:
        return []
    named = ",".join(str(int(one)) for one in ids)
    spent = _SPENT.format(which=f"AND item IN ({named})")
    statement = (
        "SELECT items.id, place, item_json, outcome, started, ended, stage, attempts, error_type, error, "
        "coalesce(spent.calls, 0), coalesce(spent.tries, 0), coalesce(spent.prompt_tokens, 0), "
        "coalesce(spent.completion_tokens, 0), spent.cost, coalesce(spent.waited, 0) "
        f"FROM items LEFT JOIN {spent} ON spent.item = items.id WHERE items.id IN ({named})"  # nosec B608
    )
    return _in_order(connection.execute(statement, (run,)), ids)


def call_rows(connection: sqlite3.Connection, run: int, ids: Sequence[int]) -> list[list[Any]]:
    """Return calls by their ids; see `CALL_NAMES`."""
    if not ids:
        return []
    named = ",".join(str(int(one)) for one in ids)
    statement = (
        "SELECT calls.id, calls.id & 0xFFFFFFFF, items.place, items.item_json, prompt & 0xFFFFFFFF, attempt, "
        "calls.stage, label, model, queued, calls.started, calls.ended, slot_seconds, rate_seconds, retry_seconds, "
        "calls.outcome, prompt_tokens, completion_tokens, cached_tokens, cost, finish_reason, calls.error_type, "
        "status, calls.error "
        f"FROM calls LEFT JOIN items ON items.id = calls.item WHERE calls.id IN ({named})"  # nosec B608
    )
    return _in_order(connection.execute(statement), ids)


def _in_order(rows: sqlite3.Cursor, ids: Sequence[int]) -> list[list[Any]]:
    found = {row[0]: list(row[1:]) for row in rows}
    return [found[one] for one in ids if one in found]


def choices(connection: sqlite3.Connection, run: int) -> dict[str, list[str]]:
    """Return what the tables can be filtered by."""

    def values(table: str, column: str) -> list[str]:
        rows = connection.execute(
            f"SELECT {column} FROM {table} WHERE {in_run('id')} AND {column} IS NOT NULL "
            "GROUP BY 1 ORDER BY count(*) DESC LIMIT 100",  # nosec B608
            (run,),
        )
        return [found for (found,) in rows]

    return {
        "label": values("calls", "label"),
        "model": values("calls", "model"),
        "stage": values("calls", "stage"),
        "item_stage": values("items", "stage"),
        "item_error_type": values("items", "error_type"),
        "call_error_type": values("calls", "error_type"),
    }
