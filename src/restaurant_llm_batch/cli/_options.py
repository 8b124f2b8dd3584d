"""Command-line options that several commands share: click parameters, and classes that hold their values."""

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

GC_THRESHOLD = 50_000
"""The command line has the process to itself, so the garbage collector may run less often."""

Language: TypeAlias = Literal["auto", "ko", "en"]


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
    """Values of the options of every command that runs a task; None for an option that the command does not have."""

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

    @property
    def llm_settings(self) -> Mapping[str, Any]:
        """The settings of the LLM backend."""
        return services.llm_settings(self.model, self.llm_url)

    @property
    def runner_settings(self) -> Mapping[str, Any]:
        """The arguments of `BatchRunner`: strategy, limits, retry policies and store."""
        retry = RetryPolicy(attempts=self.attempts)
        limits = {
            "search": self.search_concurrency,
            "llm": self.llm_concurrency,
            "batches": self.batch_concurrency,
            "open_items": self.window,
        }
        return {
            "strategy": Strategy.threaded() if self.stage == "threaded" else Strategy.stage(int(self.stage)),
            "limits": Limits(**{name: number for name, number in limits.items() if number is not None}),
            "search_retry": retry,
            "llm_retry": retry,
            "store": self.store,
            "gc_threshold": GC_THRESHOLD,
        }

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


def count(name: str, default: Any, text: str, *, minimum: int = 1) -> click.Option:
    """Return an option with a whole number of at least `minimum`."""
    return click.Option(
        [name],
        type=click.IntRange(min=minimum),
        default=default,
        show_default=True,
        metavar="N",
        help=text,
    )


def source() -> click.Argument:
    """Return the argument SOURCE: a file or a folder."""
    return click.Argument(["source"], required=False, type=click.Path(path_type=Path))


def limit(default: int = 10) -> click.Option:
    """Return the option ``--limit``: reviews per search."""
    return click.Option(
        ["--limit"],
        type=click.IntRange(1, 1000),
        default=default,
        show_default=True,
        help="Maximum number of reviews per search.",
    )


def min_score() -> click.Option:
    """Return the option ``--min-score``: similarity of a review to the query."""
    return click.Option(
        ["--min-score"],
        type=click.FloatRange(-1, 1),
        default=0.0,
        show_default=True,
        help="Minimum similarity of a review to the query; 0 for no bound.",
    )


def language(text: str = "Language of the replies; auto detects that of the reviews.") -> click.Option:
    """Return the option ``--language``."""
    return click.Option(
        ["--language"],
        type=click.Choice(["auto", "ko", "en"]),
        default="auto",
        show_default=True,
        help=text,
    )


def batch_tokens() -> click.Option:
    """Return the option ``--max-tokens-per-batch``: token budget of a packed batch of reviews."""
    return count(
        "--max-tokens-per-batch",
        Limits().max_tokens_per_batch,
        "Maximum tokens of a batch of reviews, prompt and reply together.",
    )


def speed(
    *, search: bool = False, llm: bool = False, batches: bool = False, what: str = "Restaurants"
) -> list[click.Parameter]:
    """
    Return the options for strategy, concurrency limits and attempts.

    Args:
        search: Whether the command searches.
        llm: Whether it makes LLM calls for single items.
        batches: Whether it makes LLM calls for batches of reviews.
        what: Plural noun for its items, capitalised.
    """
    limits = Limits()
    options: list[click.Parameter] = [
        click.Option(
            ["--stage"],
            type=click.Choice(["1", "2", "3", "4", "threaded"]),
            default="4",
            show_default=True,
            help="1: one call at a time; 2: concurrent searches; 3: also the LLM's async client; "
            f"4: also concurrent {what.lower()}; threaded: all concurrent, without an event loop.",
        )
    ]
    if search:
        options.append(count("--search-concurrency", limits.search, "Maximum searches in flight."))
    if llm:
        options.append(count("--llm-concurrency", limits.llm, "Maximum LLM calls in flight."))
    if batches:
        text = "Maximum LLM calls in flight that carry a batch of reviews."
        options.append(count("--batch-concurrency", limits.batches, text))
    return [
        *options,
        count("--window", limits.open_items, f"{what} open at once at most."),
        count("--attempts", RetryPolicy().attempts, "Attempts of a call that fails with a transient error."),
    ]


def which(what: str = "restaurants") -> list[click.Parameter]:
    """Return the options that select items; `what` is their plural noun."""
    return [
        click.Option([f"--{what}", "only"], callback=names, metavar="ID,ID,...", help=f"Only these {what}."),
        click.Option(["--first"], type=click.IntRange(min=1), metavar="N", help="Only the first N of them."),
    ]


def store() -> click.Option:
    """Return the option ``--store``."""
    return click.Option(
        ["--store"],
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="Keep every reply of the model in FILE and reuse it: run the same command again, also after "
        "Ctrl-C, and only the missing calls are made.",
    )


def results() -> list[click.Parameter]:
    """Return the options for output, store and display of the results."""
    return [
        click.Option(
            ["-o", "--output"],
            metavar="FILE",
            help="Write the outcomes to FILE as JSON Lines; - for standard output. They are in FILE.partial until the "
            "run has ended.",
        ),
        store(),
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
