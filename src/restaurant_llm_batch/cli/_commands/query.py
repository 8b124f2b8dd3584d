"""Command `search`: search among the reviews of one restaurant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.padding import Padding
from rich.text import Text

from ..._text import terminal_text
from ...models import SearchQuery
from ...records._kinds import ENDINGS
from ...records._opening import STDIN
from .. import _reading as reading
from .. import _report as report
from .. import _settings as settings
from .. import _tables as tables
from .._sources import open_source

_HELP = """
Search among the reviews of one restaurant.

SOURCE is a file of reviews (CSV, JSON Lines, ...) or a folder made by `index`; by default the built-in sample. The
first word is SOURCE if it looks like a path, or if it names an existing file or folder and more words follow. With
--search qdrant there is no SOURCE.
"""
_PATH_SUFFIXES = (*ENDINGS, ".gz", "/")
_PATH_PREFIXES = ("/", "./", "../", "~")


def command() -> click.Command:
    """Build the command."""
    return settings.SectionedCommand(
        "search",
        params=[
            click.Argument(["words"], nargs=-1, required=True, metavar="[SOURCE] TEXT..."),
            click.Option(["--restaurant"], required=True, metavar="ID", help="The restaurant."),
            *settings.options(search=True, tasks=["query"]),
            *reading.options(),
        ],
        callback=_main,
        help=_HELP,
    )


def _main(
    words: tuple[str, ...],
    restaurant: str,
    **values: Any,
) -> None:
    chosen, form = settings.take_settings(values), reading.take_form(values)
    use_qdrant = chosen.batch_search_backend == "qdrant"
    path = Path(words[0]) if not use_qdrant and _starts_with_source(words) else None
    text = " ".join(words if path is None else words[1:])
    if not text.strip():
        raise click.UsageError("missing the text to search for")
    progress = report.console(stderr=True)
    source = open_source(path, progress, chosen, form)
    [restaurant_id] = source.pick([restaurant])
    with source.search as reviews:
        hits = reviews.search(SearchQuery(restaurant_id, text, **chosen.arguments("query")))
    out = report.console()
    heading = f"{terminal_text(text)!r} in {terminal_text(source.title(restaurant_id))}, {terminal_text(source.label)}"
    out.print(Padding(Text(heading, style="bold"), (0, 1)))
    out.print(tables.hits_table(hits) if hits else Padding(Text("nothing found"), (0, 1)))


def _starts_with_source(words: tuple[str, ...]) -> bool:
    first = words[0]
    if first == STDIN or first.lower().endswith(_PATH_SUFFIXES) or first.startswith(_PATH_PREFIXES):
        return True
    return len(words) > 1 and Path(first).exists()
