"""Command `index`: index the reviews of a file into a folder or a Qdrant collection."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from ..._text import terminal_text
from ...errors import BatchError, ConfigurationError
from ...search import EmbeddedSearch
from .. import _backends as services
from .. import _report as report
from .. import _settings as settings
from .._reading import FileError, ReviewLines
from .._sources import Index, index_lines

_NAMED_FAILURES = 20
_HELP = """
Index the reviews of FILE into a folder, or into a Qdrant server, for `search` and `summarize`.

FILE is JSON Lines in UTF-8: one object per line, a review or a restaurant with its reviews:

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
            *settings.options(search=True),
        ],
        callback=_main,
        help=_HELP,
    )


def _main(file: Path, into: Path | None, **values: Any) -> None:
    chosen = settings.take_settings(values)
    if into is None and chosen.batch_search_backend == "embedded":
        into = chosen.batch_search_path
    if not file.exists():
        raise ConfigurationError(f"there is no file {str(file)!r}")
    if chosen.batch_search_backend == "qdrant":
        if into is not None:
            raise click.UsageError("--into names a folder, and --search qdrant a server; choose one")
        server, label = services.qdrant(chosen)
        _index(file, server, label)
        click.echo("Next: restaurant-llm-batch summarize --search qdrant")
    elif into is None:
        raise click.UsageError("missing the destination: --into FOLDER, or --search qdrant")
    else:
        _index(file, EmbeddedSearch(into, embedder=chosen.embedder()), repr(str(into)))
        click.echo(f"Next: restaurant-llm-batch summarize {terminal_text(shlex.quote(str(into)))}")


def _index(file: Path, index: Index, label: str) -> None:
    lines = ReviewLines(file)
    with index as search:
        try:
            indexed = index_lines(lines, search, file.stat().st_size, report.console(stderr=True))
        except FileError as error:
            raise ConfigurationError(f"{error}{_indexed_so_far(search, label)}") from error
        count = search.count()
    skipped = f" ({indexed.blank:,} without text left out)" if indexed.blank else ""
    for failure in indexed.failures[:_NAMED_FAILURES]:
        name = f"review {failure.review_id!r} of restaurant {failure.restaurant_id!r}"
        click.echo(terminal_text(f"Left out: {name}: {failure.reason}"), err=True)
    if indexed.failed:
        skipped += f" ({indexed.failed:,} that cannot be embedded left out)"
    click.echo(
        f"Indexed {indexed.reviews:,} reviews of {len(lines.restaurants):,} restaurants{skipped}; "
        f"{terminal_text(label)} now holds {count:,} reviews."
    )


def _indexed_so_far(search: Index, label: str) -> str:
    try:
        return f" ({search.count():,} reviews are in {label})"
    except BatchError:  # the first line was invalid, so no index was created
        return ""
