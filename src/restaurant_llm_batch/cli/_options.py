"""Command-line options that several commands share: click parameters, and classes that hold their values."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

import click
from rich.console import Console

from .._rows.columns import TableForm
from .._settings import BatchSettings
from .._tables.levels import Level
from ..models import ItemId
from ..protocols import Task
from ._sources import Index, NamedItems, ReviewSource, open_source
from ._views import R


@dataclass(frozen=True, kw_only=True)
class LoadedInput:
    """
    Input of a command, read from its source.

    Attributes:
        items: The task's items.
        source: The source of the items, with their names.
        search: The search backend, if the task searches.
        note: A sentence about the input for the final report, or "".
    """

    items: Sequence[Any]
    source: NamedItems
    search: Index | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class RunOptions(ABC, Generic[R]):
    """Values of the options of every command that runs a task; those of settings and of tables are in two of them."""

    settings: BatchSettings
    form: TableForm
    only: tuple[str, ...] | None = None
    first: int | None
    output: str | None
    level: Level | None
    show: int | None
    quiet: bool
    preview: bool = False
    plan: bool | str = False
    processes: int | None = None
    index_folder: Path | None = None  # where to index a file that is searched; None for a temporary folder

    @property
    @abstractmethod
    def task(self) -> Task[R]:
        """The task."""

    @property
    @abstractmethod
    def paths(self) -> Sequence[Path]:
        """The input files, which must not be overwritten."""

    @abstractmethod
    def load(self, progress: Console | None) -> LoadedInput:
        """
        Read the input.

        Args:
            progress: Console for the progress of indexing; None for no progress.

        Raises:
            ConfigurationError: The source does not exist or is invalid, or has no item of a given id.
        """

    def chosen(self, source: NamedItems) -> list[ItemId]:
        """Return the ids of the items to run, as selected by ``--restaurants`` (or ``--documents``) and ``--first``."""
        ids = source.ids if self.only is None else source.pick(self.only)
        return list(ids[: self.first])


@dataclass(frozen=True, kw_only=True)
class FileOptions(RunOptions[R]):
    """Values of the options of a command that reads every review of a file."""

    source: Path | None

    @property
    def paths(self) -> Sequence[Path]:
        """The file."""
        return [] if self.source is None else [self.source]


@dataclass(frozen=True, kw_only=True)
class SearchOptions(FileOptions[R]):
    """Values of the options of a command that searches."""

    def open_source(self, progress: Console | None) -> ReviewSource:
        """Open the reviews."""
        return open_source(self.source, progress, self.settings, self.form, self.index_folder)


def shared_categories(source: ReviewSource) -> Mapping[str, ItemId]:
    """Return the categories that several restaurants share; one alone in its category is compared with all others."""
    sizes = Counter(map(str, source.categories.values()))
    return {item_id: category for item_id, category in source.categories.items() if sizes[str(category)] > 1}


def names(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    """Split a comma-separated value; a callback of click."""
    if value is None:
        return None
    parts = tuple(part.strip() for part in value.split(",") if part.strip())
    if not parts:
        raise click.BadParameter("name at least one, with commas between several.", ctx, param)
    return parts


def number_or_all(ctx: click.Context, param: click.Parameter, value: str) -> int | None:
    """Parse a number, or "all", which becomes None; a callback of click."""
    text = value.strip().lower()
    if text != "all" and not text.isdecimal():
        raise click.BadParameter(f"{value!r} is neither a number nor 'all'.", ctx, param)
    return None if text == "all" else int(text)


def source() -> click.Argument:
    """Return the argument SOURCE: a file or a folder."""
    return click.Argument(["source"], required=False, type=click.Path(path_type=Path))


def which(what: str = "restaurants") -> list[click.Parameter]:
    """Return the options that select items; `what` is their plural noun."""
    return [
        click.Option([f"--{what}", "only"], callback=names, metavar="ID,ID,...", help=f"Only these {what}."),
        click.Option(["--first"], type=click.IntRange(min=1), metavar="N", help="Only the first N of them."),
    ]


def plan(**others: Any) -> click.Option:
    """Return the option ``--plan``; `others` are what a command does with it besides."""
    arguments: dict[str, Any] = {
        "is_flag": True,
        "help": "Print what the run comes to: calls, tokens, cost, time, and what will fail. Make no call to a model. "
        "With --record, learn from the runs in it, and write nothing to it. With --output, write it to FILE as JSON.",
    }
    return click.Option(["--plan"], **(arguments | others))


def results(plan_option: click.Option | None = None) -> list[click.Parameter]:
    """Return the options for output, store and display of the results; the command may have a `plan` of its own."""
    return [
        plan() if plan_option is None else plan_option,
        click.Option(
            ["--preview"],
            is_flag=True,
            help="Print the prompts of the first item, or of those that other options choose, and make no call.",
        ),
        click.Option(
            ["-o", "--output"],
            metavar="FILE",
            help="Write the outcomes to FILE, as its ending says: .csv, .tsv, .parquet, .xlsx, .json, and JSON Lines "
            "for any other; - for standard output, as JSON Lines. They are in FILE.partial until the run has ended.",
        ),
        click.Option(
            ["--processes"],
            type=click.IntRange(min=1),
            metavar="N",
            help="Run in N processes, for work that keeps a processor busy: the offline model, packing, local "
            "embedders. They share limits, budget, store and output; one that dies is replaced.",
        ),
        click.Option(
            ["--level"],
            type=click.Choice(["results", "aspects", "labels", "words", "failures"]),
            help="What a row of the output is: a result (the default), an aspect, a label of a review, a word, or a "
            "failure.",
        ),
        click.Option(
            ["--show"],
            callback=number_or_all,
            default="10",
            show_default=True,
            metavar="N|all",
            help="Number of results to show.",
        ),
        click.Option(
            ["-q", "--quiet"],
            is_flag=True,
            help="No progress and no statistics; with --output, nothing but failures.",
        ),
    ]
