"""
What a REPL and a notebook show of outcomes and results: short reprs, and small HTML tables.

A result may hold hundreds of reviews, and a report thousands of results: a repr shows ids, short texts and counts, and
a table its first rows. Texts of reviews and models are untrusted: each becomes one line of bounded length, without
control characters and signs of direction, and is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from html import escape
from typing import Any, TypeGuard, TypeVar

from ._text import error_text, terminal_text

T = TypeVar("T")

MAX_ROWS = 10
"""Most rows of a table, and most members of a list in its repr."""
_MAX_COLUMNS = 12
_MAX_TEXT = 60
"""Maximum length of a text in a repr, in characters."""
_MAX_CELL = 300
"""Maximum length of a text in a table, in characters."""
_MAX_NAMES = 5


class Shown:
    """A frozen dataclass with a short repr, and with a small table in a notebook."""

    __slots__ = ()

    def __repr__(self) -> str:
        members = (
            f"{field.name}={_short(getattr(self, field.name))}"
            for field in fields(self)  # type: ignore[arg-type]  # every subclass is a dataclass
            if field.repr and not _is_default(field, getattr(self, field.name))
        )
        return f"{type(self).__qualname__}({', '.join(members)})"

    def _repr_html_(self) -> str:
        return html_of(self)


class ShownList(list[T]):
    """A list of which a REPL and a notebook show the first members; in all else, a list."""

    __slots__ = ()

    def __repr__(self) -> str:
        if len(self) <= MAX_ROWS:
            return super().__repr__()
        first = "".join(f" {member!r},\n" for member in self[:MAX_ROWS])
        return f"[{first[1:]} ... and {len(self) - MAX_ROWS:,} more]"

    def _repr_html_(self) -> str:
        return members_table(self, f"{len(self):,} in all") if self else "[]"


def _is_default(field: Field[Any], value: object) -> bool:
    if field.default is not MISSING:
        return bool(value is field.default or value == field.default)
    return field.default_factory is not MISSING and not value


def _short(value: object) -> str:
    if isinstance(value, Shown):
        return repr(value)
    if isinstance(value, str):
        return repr(value if len(value) <= _MAX_TEXT else f"{value[: _MAX_TEXT - 1]}…")
    if isinstance(value, BaseException):
        return f"<{terminal_text(error_text(value), 2 * _MAX_TEXT)}>"
    if isinstance(value, Mapping):
        names = ", ".join(terminal_text(str(name), 30) for name in list(value)[:_MAX_NAMES])
        return f"<{len(value)}: {names}{', ...' if len(value) > _MAX_NAMES else ''}>" if value else "<0>"
    if _is_list(value):
        return f"<{len(value)}>"
    text = repr(value)
    return text if len(text) <= 4 * _MAX_TEXT else f"{text[: 4 * _MAX_TEXT - 1]}…"


def _is_list(value: object) -> TypeGuard[Sequence[object]]:
    return type(value) in (list, tuple)  # a named tuple is none


# HTML


def cell(value: object, limit: int = _MAX_CELL) -> str:
    """Return a value as the escaped content of a table's cell."""
    if value is None:
        return ""
    if isinstance(value, str):
        text = value
    elif isinstance(value, float):
        text = f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    elif isinstance(value, BaseException):
        text = error_text(value)
    elif _is_list(value) and all(isinstance(one, (str, int, float)) for one in value):
        text = "; ".join(map(str, value[:MAX_ROWS])) + ("; ..." if len(value) > MAX_ROWS else "")
    else:
        text = _short(value)
    return escape(terminal_text(text, limit))


def table(names: Sequence[str], rows: Iterable[Sequence[object]], caption: str = "") -> str:
    """Return an HTML table: names of columns, rows of values, and a caption."""
    head = "".join(f"<th>{cell(name)}</th>" for name in names)
    body = "\n".join(
        "<tr>" + "".join(f'<td style="text-align:left">{cell(value)}</td>' for value in row) + "</tr>"
        for row in rows
    )
    title = f'<caption style="text-align:left">{cell(caption)}</caption>' if caption else ""
    header = f"<thead><tr>{head}</tr></thead>\n" if head else ""
    return f"<table>{title}{header}<tbody>\n{body}\n</tbody></table>"


def pairs_table(pairs: Mapping[str, object], caption: str = "") -> str:
    """Return an HTML table of two columns: names, and their values."""
    body = "\n".join(
        f'<tr><th style="text-align:left">{cell(name)}</th><td style="text-align:left">{cell(value)}</td></tr>'
        for name, value in pairs.items()
    )
    title = f'<caption style="text-align:left">{cell(caption)}</caption>' if caption else ""
    return f"<table>{title}<tbody>\n{body}\n</tbody></table>"


def members_table(members: Sequence[object], caption: str) -> str:
    """Return a table of the first members of a list: a column for each field if they are dataclasses."""
    first = list(members[:MAX_ROWS])
    note = caption if len(members) <= MAX_ROWS else f"{caption}; the first {MAX_ROWS}"
    head = first[0] if first else None
    if is_dataclass(head) and all(type(member) is type(head) for member in first):
        names = [field.name for field in fields(head) if field.repr][:_MAX_COLUMNS]
        return table(names, [[getattr(member, name) for name in names] for member in first], note)
    return table([], [[member] for member in first], note)


def html_of(value: object) -> str:
    """Return the fields of a dataclass as a table, and a table for each field that holds dataclasses."""
    alone: dict[str, object] = {}
    tables: list[str] = []
    for field in fields(value):  # type: ignore[arg-type]
        member = getattr(value, field.name)
        if isinstance(member, Shown):
            tables.append(html_of(member))
        elif isinstance(member, Mapping) and _hold_dataclasses(list(member.values())):
            tables.append(_entries_table(member, field.name))
        elif isinstance(member, (list, tuple)) and _hold_dataclasses(member):
            tables.append(members_table(member, f"{field.name}: {len(member):,}"))
        elif field.repr or not _is_default(field, member):
            alone[field.name] = member
    return pairs_table(alone, type(value).__name__) + "".join(tables)


def _hold_dataclasses(members: Sequence[object]) -> bool:
    return bool(members) and all(is_dataclass(member) for member in members[:MAX_ROWS])


def _entries_table(entries: Mapping[Any, Any], name: str) -> str:
    first = list(entries.items())[:MAX_ROWS]
    columns = [field.name for field in fields(first[0][1])][:_MAX_COLUMNS]
    note = f"{name}: {len(entries):,}" + (f"; the first {MAX_ROWS}" if len(entries) > MAX_ROWS else "")
    rows = [[key, *(getattr(entry, column, None) for column in columns)] for key, entry in first]
    return table(["", *columns], rows, note)


_COLOURS = ("#4878a8", "#9fb8d0", "#e8a33d", "#9a9a9a")


def bar(parts: Mapping[str, float]) -> str:
    """Return a stacked bar, with a legend: the share of each part that is above 0."""
    known = {name: size for name, size in parts.items() if size > 0}
    total = sum(known.values())
    if not total:
        return ""
    spans, legend = [], []
    for (name, size), colour in zip(known.items(), _COLOURS, strict=False):
        spans.append(
            f'<span style="display:inline-block;height:12px;width:{100 * size / total:.2f}%;'
            f'background:{colour}"></span>'
        )
        legend.append(f'<span style="color:{colour}">■</span> {cell(name)} {size / total:.0%}')
    return (
        f'<div style="max-width:480px;white-space:nowrap;font-size:0">{"".join(spans)}</div>'
        f"<div>{' &nbsp; '.join(legend)}</div>"
    )
