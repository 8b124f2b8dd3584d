"""What was asked for on the command line, as far as several commands are asked the same."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeAlias

import click
from rich.console import Console

from .._config.limits import Limits
from .._config.retry import RetryPolicy
from .._config.strategy import Strategy
from ..models import ItemId
from ..protocols import Task
from . import _backends as services
from ._sources import Index, NamedItems, ReviewSource, in_qdrant, open_source
from ._views import R

Language: TypeAlias = Literal["auto", "ko", "en"]


@dataclass(frozen=True, kw_only=True)
class LoadedInput:
    """
    What there is to do.

    Attributes:
        items: The task's items.
        known: Where they are from, and their names.
        search: What is searched, if anything is.
        note: What is to be said about the items when they are done.
    """

    items: Sequence[Any]
    known: NamedItems
    search: Index | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class RunOptions(ABC, Generic[R]):
    """The options of every command that runs a task; None where a command does not have one."""

    stage: str
    search_concurrency: int | None = None
    llm_concurrency: int | None = None
    batch_concurrency: int | None = None
    window: int
    attempts: int
    llm: str
    model: str | None
    llm_url: str | None
    only: tuple[str, ...] | None
    first: int | None
    output: str | None
    store: Path | None = None
    show: int | None
    quiet: bool

    @property
    @abstractmethod
    def task(self) -> Task[R]:
        """The task."""

    @property
    @abstractmethod
    def paths(self) -> Sequence[Path]:
        """The files that are read, which must not be overwritten."""

    @abstractmethod
    def work(self, progress: Console | None) -> LoadedInput:
        """
        Read what there is to do.

        Args:
            progress: Where to show how far the reading is; None for nowhere.

        Raises:
            ConfigurationError: What was named cannot be read.
        """

    @property
    def llm_settings(self) -> Mapping[str, Any]:
        """The settings of the model."""
        return services.llm_settings(self.model, self.llm_url)

    @property
    def runner_settings(self) -> Mapping[str, Any]:
        """The arguments of the runner that say how much happens at once, and how often it is tried."""
        retry = RetryPolicy(attempts=self.attempts)
        most = {
            "search": self.search_concurrency,
            "llm": self.llm_concurrency,
            "batches": self.batch_concurrency,
            "open_items": self.window,
        }
        return {
            "strategy": Strategy.threaded() if self.stage == "threaded" else Strategy.stage(int(self.stage)),
            "limits": Limits(**{name: number for name, number in most.items() if number is not None}),
            "search_retry": retry,
            "llm_retry": retry,
            "store": self.store,
        }

    def chosen(self, known: NamedItems) -> list[ItemId]:
        """Return the ids of what is to be done."""
        ids = known.ids if self.only is None else known.pick(self.only)
        return list(ids[: self.first])


@dataclass(frozen=True, kw_only=True)
class FileOptions(RunOptions[R]):
    """The options of a command that reads every review of a file."""

    source: Path | None

    @property
    def paths(self) -> Sequence[Path]:
        """The file."""
        return [] if self.source is None else [self.source]


@dataclass(frozen=True, kw_only=True)
class SearchOptions(FileOptions[R]):
    """The options of a command that searches."""

    limit: int
    min_score: float
    search: str
    qdrant_url: str | None
    collection: str | None

    def open_source(self, progress: Console | None) -> ReviewSource:
        """Open the reviews."""
        if self.search == "qdrant":
            return in_qdrant(self.source, self.qdrant_url, self.collection)
        return open_source(self.source, progress)


def names(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    """Split what was given at its commas."""
    if value is None:
        return None
    found = tuple(part.strip() for part in value.split(",") if part.strip())
    if not found:
        raise click.BadParameter("name at least one, with commas between several.", ctx, param)
    return found


def number_or_all(ctx: click.Context, param: click.Parameter, value: str) -> int | None:
    """Read a number, or "all", which becomes None."""
    text = value.strip().lower()
    if text != "all" and not text.isdecimal():
        raise click.BadParameter(f"{value!r} is neither a number nor 'all'.", ctx, param)
    return None if text == "all" else int(text)


def count(name: str, default: Any, text: str, *, least: int = 1) -> click.Option:
    """Return an option that is a whole number."""
    return click.Option(
        [name],
        type=click.IntRange(min=least),
        default=default,
        show_default=True,
        metavar="N",
        help=text,
    )


def source() -> click.Argument:
    """Return the parameter that names a file or a folder."""
    return click.Argument(["source"], required=False, type=click.Path(path_type=Path))


def limit(default: int = 10) -> click.Option:
    """Return the option that bounds the number of reviews."""
    return click.Option(
        ["--limit"],
        type=click.IntRange(1, 1000),
        default=default,
        show_default=True,
        help="Most reviews that a search finds.",
    )


def min_score() -> click.Option:
    """Return the option that bounds the similarity."""
    return click.Option(
        ["--min-score"],
        type=click.FloatRange(-1, 1),
        default=0.0,
        show_default=True,
        help="Least similarity of a review to what is searched for; 0 for no bound.",
    )


def language(text: str = "What to answer in; auto goes by the reviews.") -> click.Option:
    """Return the option that chooses a language."""
    return click.Option(
        ["--language"],
        type=click.Choice(["auto", "ko", "en"]),
        default="auto",
        show_default=True,
        help=text,
    )


def batch_tokens() -> click.Option:
    """Return the option that bounds a packed batch of reviews."""
    return count(
        "--max-tokens-per-batch",
        Limits().max_tokens_per_batch,
        "Most tokens of a batch of reviews, prompt and answer together.",
    )


def speed(
    *, search: bool = False, llm: bool = False, batches: bool = False, what: str = "Restaurants"
) -> list[click.Parameter]:
    """
    Return the options that say how much happens at once.

    Args:
        search: Whether the command searches.
        llm: Whether it asks the model about one thing at a time.
        batches: Whether it asks the model about batches of reviews.
        what: What it does side by side.
    """
    limits = Limits()
    chosen: list[click.Parameter] = [
        click.Option(
            ["--stage"],
            type=click.Choice(["1", "2", "3", "4", "threaded"]),
            default="4",
            show_default=True,
            help="1: one thing at a time; 2: searches side by side; 3: and the model's async client; "
            f"4: and {what.lower()} side by side; threaded: side by side without an event loop.",
        )
    ]
    if search:
        chosen.append(count("--search-concurrency", limits.search, "Searches in flight at most."))
    if llm:
        chosen.append(count("--llm-concurrency", limits.llm, "Calls to the model in flight at most."))
    if batches:
        text = "Calls to the model in flight at most that carry a batch of reviews."
        chosen.append(count("--batch-concurrency", limits.batches, text))
    return [
        *chosen,
        count("--window", limits.open_items, f"{what} open at once at most."),
        count("--attempts", RetryPolicy().attempts, "Tries of a call that fails in a way that may pass."),
    ]


def which(what: str = "restaurants") -> list[click.Parameter]:
    """Return the options that choose restaurants, or what else is done."""
    return [
        click.Option([f"--{what}", "only"], callback=names, metavar="ID,ID,...", help=f"Only these {what}."),
        click.Option(["--first"], type=click.IntRange(min=1), metavar="N", help="Only the first N of them."),
    ]


def results() -> list[click.Parameter]:
    """Return the options that say what becomes of the results."""
    return [
        click.Option(
            ["-o", "--output"],
            metavar="FILE",
            help="Write each outcome to FILE as JSON Lines as soon as it is there; - for standard output.",
        ),
        click.Option(
            ["--store"],
            type=click.Path(path_type=Path, dir_okay=False),
            metavar="FILE",
            help="Keep every answer of the model in FILE, and take from there what it has: run the same command again, "
            "after Ctrl-C too, and only the rest is asked.",
        ),
        click.Option(
            ["--show"],
            callback=number_or_all,
            default="10",
            show_default=True,
            metavar="N|all",
            help="How many results to show.",
        ),
        click.Option(
            ["-q", "--quiet"],
            is_flag=True,
            help="No progress and no statistics; with --output, nothing but failures.",
        ),
    ]
