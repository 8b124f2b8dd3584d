"""Indexing the lines of a file, with a bar where one can be shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ..errors import ConfigurationError
from ..search.embedded.search import EmbeddedSearch, Indexed
from ._reading import FileError, ReviewLines

if TYPE_CHECKING:
    from ..search import QdrantSearch

Index: TypeAlias = "EmbeddedSearch | QdrantSearch"
"""Where reviews can be put."""


def index_lines(lines: ReviewLines, search: Index, size: int, progress: Console | None) -> Indexed:
    """
    Index the reviews of a file.

    Args:
        lines: The file.
        search: Where they go.
        size: The file's size in bytes.
        progress: Where to show how far it is, if that is a terminal; None for nowhere.

    Returns:
        What was indexed.

    Raises:
        ConfigurationError: A line cannot be used.
    """
    if progress is None or not progress.is_terminal:
        return _index(lines, search, None)
    columns = TextColumn("Indexing"), BarColumn(), TextColumn("{task.fields[reviews]:,} reviews")
    with Progress(*columns, TimeRemainingColumn(), console=progress, transient=True) as bar:
        task = bar.add_task("", total=size, reviews=0)

        def show(written: int) -> None:
            bar.update(task, completed=lines.bytes_read, reviews=written)

        return _index(lines, search, show)


def _index(lines: ReviewLines, search: Index, show: Callable[[int], object] | None) -> Indexed:
    try:
        return search.index_reviews(lines, on_progress=show)
    except FileError:
        raise
    except ConfigurationError as error:
        raise lines.complaint(str(error)) from error
