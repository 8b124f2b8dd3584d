"""Command `index`: index the reviews of a file into a folder or a Qdrant collection."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from ..._rows.columns import TableForm
from ..._rows.table import FileError
from ..._text import terminal_text
from ...errors import BatchError, ConfigurationError
from ...records._opening import check
from ...search import EmbeddedSearch
from .. import _backends as services
from .. import _reading as reading
from .. import _report as report
from .. import _settings as settings
from .._sources import Index, index_table, open_reviews

_NAMED_FAILURES = 20
_HELP = """
Index the reviews of FILE into a folder, or into a Qdrant server, for `search` and `summarize`.

FILE is a table (CSV, TSV, Parquet, Excel) with the columns restaurant_id and content, or JSON Lines: one object per
line, a review or a restaurant with its reviews. Each may be packed with gzip; - is standard input.

\b
    {"restaurant_id": 1, "review_id": 7, "content": "..."}
    {"restaurant_id": 1, "name": "...", "reviews": [{"review_id": 7, "content": "..."}]}

A review that is already in the index is replaced, so it is safe to index a file again.
"""


def command() -> click.Command:
    """Build the command."""
    path = click.Path(path_type=Path)
    return settings.SectionedCommand(
        "index",
        params=[
            click.Argument(["file"], type=path),
            click.Option(["--into"], type=path, metavar="FOLDER", help="The folder of the index."),
            *reading.options(),
            *settings.options(search=True),
        ],
        callback=_main,
        help=_HELP,
    )


def _main(file: Path, into: Path | None, **values: Any) -> None:
    chosen, form = settings.take_settings(values), reading.take_form(values)
    if into is None and chosen.batch_search_backend == "embedded":
        into = chosen.batch_search_path
    check(file)
    if chosen.batch_search_backend == "qdrant":
        if into is not None:
            raise click.UsageError("--into names a folder, and --search qdrant a server; choose one")
        server, label = services.qdrant(chosen)
        _index(file, form, server, label)
        click.echo("Next: restaurant-llm-batch summarize --search qdrant")
    elif into is None:
        raise click.UsageError("missing the destination: --into FOLDER, or --search qdrant")
    else:
        _index(file, form, EmbeddedSearch(into, embedder=chosen.embedder()), repr(str(into)))
        click.echo(f"Next: restaurant-llm-batch summarize {terminal_text(shlex.quote(str(into)))}")


def _index(file: Path, form: TableForm, index: Index, label: str) -> None:
    table = open_reviews(file, form)
    with index as search:
        try:
            indexed = index_table(table, search, report.console(stderr=True))
        except FileError as error:
            raise ConfigurationError(f"{error}{_indexed_so_far(search, label)}") from error
        count = search.count()
    skipped = f" ({indexed.blank:,} without text left out)" if indexed.blank else ""
    for failure in indexed.failures[:_NAMED_FAILURES]:
        name = f"review {failure.review_id!r} of restaurant {failure.restaurant_id!r}"
        click.echo(terminal_text(f"Left out: {name}: {failure.reason}"), err=True)
    if table.skipped:
        skipped += f" ({table.skipped:,} bad {'row' if table.skipped == 1 else 'rows'} left out)"
    if indexed.failed:
        skipped += f" ({indexed.failed:,} that cannot be embedded left out)"
    click.echo(
        f"Indexed {indexed.reviews:,} reviews of {len(table.restaurants):,} restaurants{skipped}; "
        f"{terminal_text(label)} now holds {count:,} reviews."
    )


def _indexed_so_far(search: Index, label: str) -> str:
    try:
        return f" ({search.count():,} reviews are in {label})"
    except BatchError:  # the first line was invalid, so no index was created
        return ""
