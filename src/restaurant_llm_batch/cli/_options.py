"""What was asked for on the command line, as far as several commands are asked the same."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeAlias

from rich.console import Console

from .._config.limits import Limits
from .._config.retry import RetryPolicy
from .._config.strategy import Strategy
from ..models import ItemId
from ..protocols import Task
from . import _backends as services
from ._indexing import Index
from ._results import R
from ._sources import Known, Source, in_qdrant, open_source

Language: TypeAlias = Literal["auto", "ko", "en"]


@dataclass(frozen=True, kw_only=True)
class Work:
    """
    What there is to do.

    Attributes:
        items: The task's items.
        known: Where they are from, and their names.
        search: What is searched, if anything is.
        note: What is to be said about the items when they are done.
    """

    items: Sequence[Any]
    known: Known
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
    def work(self, progress: Console | None) -> Work:
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
            "restaurants": self.window,
        }
        return {
            "strategy": Strategy.threaded() if self.stage == "threaded" else Strategy.stage(int(self.stage)),
            "limits": Limits(**{name: number for name, number in most.items() if number is not None}),
            "search_retry": retry,
            "llm_retry": retry,
            "store": self.store,
        }

    def chosen(self, known: Known) -> list[ItemId]:
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

    def open_source(self, progress: Console | None) -> Source:
        """Open the reviews."""
        if self.search == "qdrant":
            return in_qdrant(self.source, self.qdrant_url, self.collection)
        return open_source(self.source, progress)
