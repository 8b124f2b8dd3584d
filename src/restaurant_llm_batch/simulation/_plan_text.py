"""Facts, a table and warnings as text for a terminal, and as HTML for notebooks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from textwrap import shorten
from typing import TypeAlias

from .._shown import pairs_table, table
from .._text import terminal_text

_MAX_WARNINGS, _WIDTH = 8, 200

Facts: TypeAlias = Sequence[tuple[str, str]]
"""Names and values, in words."""


def as_text(title: str, facts: Facts, warnings: Sequence[str]) -> str:
    """Return a title, a line for each fact, and the first warnings."""
    lines = [terminal_text(title)]
    lines += [f"  {name:<17} {terminal_text(value)}" for name, value in facts]
    if warnings:
        lines.append("Warnings:")
        lines += [
            f"  - {terminal_text(shorten(text, _WIDTH, placeholder=' ...'))}" for text in _first(warnings)
        ]
    return "\n".join(lines)


def as_html(
    title: str, facts: Facts, heads: Sequence[str], rows: Iterable[Sequence[str]], warnings: Sequence[str]
) -> str:
    """Return a title, the facts, a table and the first warnings as HTML; all of it is escaped."""
    listed = "".join(f"<li>{_cell(text)}</li>" for text in _first(warnings))
    return (
        f"<div><p><b>{_cell(title)}</b></p>{pairs_table(dict(facts))}{table(heads, rows)}"
        f"{f'<ul>{listed}</ul>' if listed else ''}</div>"
    )


def _first(warnings: Sequence[str]) -> list[str]:
    """Return the first warnings, and how many more there are."""
    more = len(warnings) - _MAX_WARNINGS
    return [*warnings[:_MAX_WARNINGS], *([f"and {more} more"] if more > 0 else [])]


def _cell(text: str) -> str:
    return escape(terminal_text(text))
