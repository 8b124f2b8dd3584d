"""
The page of a run as one file: its data, chosen and compressed so that the file can be sent.

All rows are in the file while they are not too many; otherwise those that are looked for, which are the failed, the
slowest and the costliest, and the page says so. What is behind an item is compressed with that of others, a chunk of
some items each, which a browser reads when one of them is opened.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator
from typing import Any

from ..._page.document import document, packed
from ..._page.writing import write_document
from .._sound_rows import copy_sound_rows
from . import causes, overview, tables, timeline
from .data import RecordData
from .item import item
from .ranges import in_run
from .tables import Query

MOST_ITEMS = 10_000
"""Most items that are all in the file; of more, so many are chosen."""
MOST_CALLS = 20_000
"""The same for calls."""
MOST_DETAILS = 2_000
"""Most items of which the file has what is behind them."""
MOST_BYTES = 3_500_000
"""Most bytes that those take, compressed."""
_CHUNK = 20
"""Items in a chunk."""
VIEWS = ("overview", "timeline", "items", "calls", "failures", "distributions", "limits")


def write_run(data: RecordData, run: int, path: str | os.PathLike[str]) -> None:
    """
    Write the page of a run.

    Raises:
        ConfigurationError: The file cannot be written, or is a database: the record itself, for example.
        StoreError: The record cannot be read.
    """
    given = data.read(lambda connection: page_data(connection, run, data.name))
    write_document(
        document(given, f"{given['runs'][0]['task']}, run {run} of {data.name}", in_file=True), path
    )


def page_data(connection: sqlite3.Connection, run: int, name: str) -> dict[str, Any]:
    """
    Return the data of the page of a run.

    Raises:
        LookupError: There is no such run.
    """
    recorded = overview.recorded_run(connection, run)
    _index_calls(connection, run)
    shown = overview.overview(connection, run)
    items, all_items = _chosen(connection, run, tables.item_ids, MOST_ITEMS, ("-seconds", "-cost", "-waited"))
    calls, all_calls = _chosen(connection, run, tables.call_ids, MOST_CALLS, ("-seconds", "-cost", "-waited"))
    notes = [
        f"This page shows the run as it was {recorded.seconds:,.0f} s after it began; it had no end then."
    ]
    if recorded.ended is not None:
        notes = []
    for chosen, all_rows, what in ((items, all_items, "items"), (calls, all_calls, "calls")):
        if len(chosen) < all_rows:
            notes.append(
                f"The tables of this page have {len(chosen):,} of {all_rows:,} {what}: the failed, the slowest, the "
                "costliest and the first ones. The figures are of all."
            )
    details = _details(connection, run, items, all_items, notes)
    return {
        "kind": "file",
        "name": name,
        "run": run,
        "views": VIEWS,
        "notes": notes,
        "runs": [one for one in overview.runs(connection) if one["run"] == run],
        "overview": shown,
        "distributions": packed(overview.distributions(connection, run)),
        "limits": packed(overview.limits(connection, run)),
        "causes": packed(causes.causes(connection, run)),
        "choices": packed(tables.choices(connection, run)),
        "timeline": packed(timeline.window(connection, run, timeline.Lanes(run), most_spans=MOST_CALLS)),
        "items": packed(
            _table(tables.ITEM_NAMES, _rows(connection, run, items, tables.item_rows), all_items)
        ),
        "calls": packed(
            _table(tables.CALL_NAMES, _rows(connection, run, calls, tables.call_rows), all_calls)
        ),
        "details": details,
    }


def _index_calls(connection: sqlite3.Connection, run: int) -> None:
    """
    Copy the calls of a run into a temporary table with an index by item.

    The record has none, so each item would be looked for in all calls. The statements find the copy, since SQLite looks
    for a name among the temporary tables first; the record itself is not changed.
    """
    copy_sound_rows(connection, "calls", in_run("id"), (run,))
    connection.execute("CREATE INDEX temp.calls_by_item ON calls (item)")


def _table(names: tuple[str, ...], rows: list[list[Any]], total: int) -> dict[str, Any]:
    """Return a table with a column more, by which rows of one cause are found."""
    error = names.index("error")
    return {
        "names": [*names, "cause"],
        "rows": [[*row, causes.cause_of(row[error])] for row in rows],
        "total": total,
    }


def _chosen(
    connection: sqlite3.Connection, run: int, find: Any, most: int, orders: Iterable[str]
) -> tuple[list[int], int]:
    """Return the ids of the rows that the page has, in order, and how many there are in all."""
    found = find(connection, run, Query())
    if len(found) <= most:
        return list(found), len(found)
    queries = [Query(outcome=outcome) for outcome in ("failed", "refused", "late")]
    queries += [Query(sort=order) for order in orders]
    part = most // (len(queries) + 1)
    wanted = {row_id for query in queries for row_id in find(connection, run, query)[:part]}
    for row_id in found:
        if len(wanted) >= most:
            break
        wanted.add(row_id)
    return sorted(wanted), len(found)


def _rows(connection: sqlite3.Connection, run: int, ids: list[int], read: Any) -> list[list[Any]]:
    return [
        row
        for start in range(0, len(ids), 5_000)
        for row in read(connection, run, ids[start : start + 5_000])
    ]


def _details(
    connection: sqlite3.Connection, run: int, items: list[int], all_items: int, notes: list[str]
) -> dict[str, Any]:
    """Return what is behind items, in chunks, and the chunk of each item by its place."""
    chunks: list[object] = []
    where: dict[int, int] = {}
    size = 0
    for places in _by_importance(connection, run, items):
        chunk = {str(place): _without_neighbours(item(connection, run, place)) for place in places}
        made = packed(chunk)
        length = len(made["gzip"]) if isinstance(made, dict) and "gzip" in made else len(str(made))
        if size + length > MOST_BYTES:
            if length < MOST_BYTES // 10:
                break
            continue  # one huge prompt must not take the place of all others
        size += length
        where.update(dict.fromkeys(places, len(chunks)))
        chunks.append(made)
    if len(where) < all_items:
        notes.append(
            f"This page has prompts, answers, reviews and attempts of {len(where):,} of {all_items:,} items: the "
            "failed, the slowest, the costliest and the first ones."
        )
    return {
        "of": where,
        "chunks": chunks,
        "missing": "This page has only figures of this item; the record has the rest.",
    }


def _without_neighbours(found: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if name not in ("before", "after")}


def _by_importance(connection: sqlite3.Connection, run: int, items: list[int]) -> Iterator[list[int]]:
    """Yield the places of items in chunks, those first that are looked for."""
    known = set(items)
    orders: list[Iterable[int]] = []
    if len(items) > MOST_DETAILS:
        part = MOST_DETAILS // 4
        queries = (Query(outcome="failed"), Query(sort="-seconds"), Query(sort="-cost"))
        orders = [tables.item_ids(connection, run, query)[:part] for query in queries]
    first = dict.fromkeys(row_id for order in [*orders, items] for row_id in order if row_id in known)
    places = [(row_id & 0xFFFFFFFF) - 1 for row_id in list(first)[:MOST_DETAILS]]
    for start in range(0, len(places), _CHUNK):
        yield places[start : start + _CHUNK]
