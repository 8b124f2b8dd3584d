"""The command `index`."""

from __future__ import annotations

from pathlib import Path

import click

from ..backends import EmbeddedSearch
from ..errors import ConfigurationError
from . import report
from .indexing import index_lines
from .lines import FileError, ReviewLines

_HELP = """
Index the reviews of FILE into a folder, for `search` and `summarize`.

FILE is JSON Lines in UTF-8: one object per line, a review or a restaurant with its reviews:

\b
    {"restaurant_id": 1, "review_id": 7, "content": "..."}
    {"restaurant_id": 1, "name": "...", "reviews": [{"review_id": 7, "content": "..."}]}

A review that is there already is replaced, so it is safe to index again.
"""


def command() -> click.Command:
    """Build the command."""
    path = click.Path(path_type=Path)
    return click.Command(
        "index",
        params=[
            click.Argument(["file"], type=path),
            click.Option(["--into"], type=path, required=True, metavar="FOLDER", help="The folder."),
        ],
        callback=_main,
        help=_HELP,
    )


def _main(file: Path, into: Path) -> None:
    if not file.exists():
        raise ConfigurationError(f"there is no file {str(file)!r}")
    lines = ReviewLines(file)
    with EmbeddedSearch(into) as search:
        try:
            indexed = index_lines(lines, search, file.stat().st_size, report.console(stderr=True))
        except FileError as error:
            written = f" ({search.count():,} reviews are in {str(into)!r})" if into.exists() else ""
            raise ConfigurationError(f"{error}{written}") from error
        count = search.count()
    left_out = f" ({indexed.blank:,} without text left out)" if indexed.blank else ""
    click.echo(
        f"Indexed {indexed.reviews:,} reviews of {len(lines.restaurants):,} restaurants{left_out}; "
        f"{str(into)!r} now holds {count:,} reviews."
    )
    click.echo(f"Next: restaurant-llm-batch summarize {into}")
