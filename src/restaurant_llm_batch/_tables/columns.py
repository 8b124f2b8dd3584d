"""Columns of a table: which there are, and one kind for all cells of each, as data frames and Parquet need it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeAlias

from .._text import escaped_json
from .plain import plain

Kind: TypeAlias = Literal[
    "empty", "boolean", "integer", "number", "text", "empty list", "integers", "numbers", "texts", "json"
]
"""
Kind of a column: of the cells that are not None.

"empty" has none, "empty list" empty lists only. A column of cells of several kinds holds their texts, one with nested
values their JSON.
"""

_SMALLEST, _LARGEST = -(2**63), 2**63 - 1
_LISTS: dict[Kind, Kind] = {"integer": "integers", "number": "numbers", "text": "texts", "boolean": "texts"}


class Columns:
    """
    The columns of a table, in the order in which the rows name them first.

    Args:
        rows: The rows.
        names: Columns that are there without a row, too.
    """

    def __init__(self, rows: Iterable[Mapping[str, Any]] = (), names: Iterable[str] = ()) -> None:
        self.kinds: dict[str, Kind] = dict.fromkeys(names, "empty")
        for row in rows:
            self.add(row)

    def add(self, row: Mapping[str, Any]) -> None:
        """Add the columns of a row."""
        kinds = self.kinds
        for name, cell in row.items():
            kinds[name] = merged(kinds.get(name, "empty"), kind_of(cell))

    def cells(self, row: Mapping[str, Any]) -> list[Any]:
        """Return a row's cells in the order of the columns, each as its column's kind has it."""
        return [as_kind(row.get(name), kind) for name, kind in self.kinds.items()]


def kind_of(cell: object) -> Kind:
    """Return the kind of a cell."""
    if cell is None:
        return "empty"
    if isinstance(cell, str):
        return "text"
    if isinstance(cell, bool):
        return "boolean"
    if isinstance(cell, int):
        return "integer" if _SMALLEST <= cell <= _LARGEST else "text"
    if isinstance(cell, float):
        return "number"
    if isinstance(cell, (list, tuple)):
        kind: Kind = "empty list"
        for member in cell:
            one = kind_of(member)
            if one not in _LISTS:
                return "json"
            kind = merged(kind, _LISTS[one])
        return kind
    return "json"


def merged(kind: Kind, other: Kind) -> Kind:
    """Return the kind of a column that has cells of two kinds."""
    if kind == other or other == "empty":
        return kind
    if kind == "empty":
        return other
    kinds = {kind, other}
    if kinds == {"integer", "number"}:
        return "number"
    lists = {"empty list", "integers", "numbers", "texts"}
    if kinds <= lists:
        if "empty list" in kinds:
            return other if kind == "empty list" else kind
        return "numbers" if kinds == {"integers", "numbers"} else "texts"
    return "json" if "json" in kinds or kinds & lists else "text"


def as_kind(cell: Any, kind: Kind) -> Any:
    """Return a cell as its column's kind has it."""
    if cell is None:
        return None
    if kind == "number":
        return float(cell)
    if kind == "text":
        return as_text(cell)
    if kind == "json":
        return json_text(cell)
    if kind == "numbers":
        return [float(member) for member in cell]
    if kind == "texts":
        return [as_text(member) for member in cell]
    return cell


def as_text(cell: Any) -> str:
    """Return a cell that is no list as a text. A lone surrogate, which UTF-8 cannot encode, becomes a question mark."""
    if isinstance(cell, bool):
        return "true" if cell else "false"
    text = cell if isinstance(cell, str) else str(cell)
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def json_text(cell: Any) -> str:
    """Return a cell as JSON."""
    return as_text(escaped_json(json.dumps(plain(cell), ensure_ascii=False)))
