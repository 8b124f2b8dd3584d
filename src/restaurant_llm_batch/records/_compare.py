"""Comparison of two recorded runs: their figures, and the items whose outcome or result differs."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from .._text import message_text
from ..models import ItemId
from ._recorded import RecordedRun, read_id

FIGURES = (
    *(
        "task",
        "model",
        "state",
        "total",
        "succeeded",
        "failed",
        "calls",
        "retries",
        "rate_limited",
        "cache_hits",
    ),
    *("prompt_tokens", "completion_tokens", "cost", "seconds"),
)
"""Fields of `RecordedRun` that are compared."""

_SHOWN = 10


@dataclass(frozen=True, slots=True, repr=False)
class Comparison:
    """
    Two runs side by side; ``str()`` returns it in words.

    Attributes:
        run_a: The first run.
        run_b: The second run.
        figures: Figures by name, of the first run and of the second.
        settings: Settings that differ, likewise.
        now_failed: Ids of items that succeeded in the first run and not in the second.
        now_succeeded: Ids of items that succeeded in the second run and not in the first.
        only_a: Ids of items of the first run only.
        only_b: Ids of items of the second run only.
        errors: Types of the failed items' errors, with their numbers in both runs.
        changed: Ids of items that succeeded in both runs with different results; None unless both have texts.
    """

    run_a: RecordedRun
    run_b: RecordedRun
    figures: Mapping[str, tuple[object, object]]
    settings: Mapping[str, tuple[object, object]]
    now_failed: Sequence[ItemId]
    now_succeeded: Sequence[ItemId]
    only_a: Sequence[ItemId]
    only_b: Sequence[ItemId]
    errors: Mapping[str, tuple[int, int]]
    changed: Sequence[ItemId] | None

    def __str__(self) -> str:
        rows = [("", f"run {self.run_a.run}", f"run {self.run_b.run}")]
        for part, prefix in ((self.figures, ""), (self.settings, ""), (self.errors, "failed with ")):
            rows += ((f"{prefix}{name}", _cell(a), _cell(b)) for name, (a, b) in part.items())
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        for text, ids in self._lists():
            lines.append(f"{len(ids)} items {text}: {_named(ids)}")
        return "\n".join(message_text(line, 2000) for line in lines)

    def _lists(self) -> list[tuple[str, Sequence[ItemId]]]:
        given = [
            ("succeeded only in the first", self.now_failed),
            ("succeeded only in the second", self.now_succeeded),
            ("are in the first only", self.only_a),
            ("are in the second only", self.only_b),
            ("have another result", self.changed or ()),
        ]
        return [(text, ids) for text, ids in given if ids]

    def __repr__(self) -> str:
        return f"<Comparison of run {self.run_a.run} and run {self.run_b.run}>"

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"


def compare(connection: sqlite3.Connection, run_a: RecordedRun, run_b: RecordedRun) -> Comparison:
    """Compare two runs of a record."""
    items_a, items_b = _items(connection, run_a.run), _items(connection, run_b.run)
    both = [item for item in items_a if item in items_b]
    won_a, won_b = ({item for item, (won, *_) in items.items() if won} for items in (items_a, items_b))
    changed = None
    if run_a.texts and run_b.texts:
        won_both = won_a & won_b
        changed = [item for item in both if item in won_both and items_a[item][2] != items_b[item][2]]
    errors_a, errors_b = (
        Counter(kind for _, kind, _ in items.values() if kind is not None) for items in (items_a, items_b)
    )
    settings = {
        f"{group}.{name}": pair
        for group in sorted({*run_a.settings, *run_b.settings})
        for name, pair in _differences(run_a.settings.get(group), run_b.settings.get(group)).items()
    }
    if run_a.strategy != run_b.strategy:
        settings["strategy"] = run_a.strategy, run_b.strategy
    return Comparison(
        run_a,
        run_b,
        {name: (run_a[name], run_b[name]) for name in FIGURES},
        settings,
        [item for item in both if item in won_a and item not in won_b],
        [item for item in both if item in won_b and item not in won_a],
        [item for item in items_a if item not in items_b],
        [item for item in items_b if item not in items_a],
        {kind: (errors_a[kind], errors_b[kind]) for kind in sorted({*errors_a, *errors_b})},
        changed,
    )


def _items(connection: sqlite3.Connection, run: int) -> dict[ItemId, tuple[bool, str | None, str | None]]:
    """Return for each item whether it succeeded, the type of its error, and its result."""
    rows = connection.execute(
        "SELECT item_json, outcome, error_type, result FROM items LEFT JOIN results ON results.id = items.id "
        "WHERE items.id >= ?1 << 32 AND items.id < (?1 + 1) << 32 ORDER BY items.id",
        (run,),
    )
    found = (
        (read_id(written), (outcome == "succeeded", kind, result)) for written, outcome, kind, result in rows
    )
    return {item: facts for item, facts in found if item is not None}


def _differences(a: object, b: object) -> dict[str, tuple[object, object]]:
    named_a, named_b = (given if isinstance(given, Mapping) else {} for given in (a, b))
    names = sorted({*named_a, *named_b})
    return {
        name: (named_a.get(name), named_b.get(name))
        for name in names
        if named_a.get(name) != named_b.get(name)
    }


def _cell(value: object) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _named(ids: Sequence[ItemId]) -> str:
    named = ", ".join(map(repr, ids[:_SHOWN]))
    return named if len(ids) <= _SHOWN else f"{named} and {len(ids) - _SHOWN} more"
