"""The command `strengths`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from ...models import Review
from ...results import RestaurantStrength
from ...tasks.strengths import ExtractStrengths
from .. import _backends as services
from .. import _options as parameters
from .. import _tables as tables
from .._backends import MakeLLM
from .._options import Language, LoadedInput, SearchOptions
from .._running import command as run_command
from .._sources import NamedItems, ReviewSource
from .._views import ResultView

_HELP = """
Derive what each restaurant has over the others.

SOURCE is a file of reviews (JSON Lines, indexed in memory first) or a folder made by `index`; without it,
the sample that is shipped. With --search qdrant there is no SOURCE. For each restaurant a search finds reviews
of its own and reviews of others: of those with the same "category" (or "cuisine") where SOURCE is a file that
says it and there are any, else of all.
"""


@dataclass(frozen=True, kw_only=True)
class StrengthsOptions(SearchOptions[RestaurantStrength]):
    """What was asked for on the command line."""

    query: str | None
    max_tokens_per_batch: int
    language: Language

    @property
    def task(self) -> ExtractStrengths:
        """The task."""
        return ExtractStrengths(
            max_tokens_per_batch=self.max_tokens_per_batch,
            language=self.language,
            limit=self.limit,
            min_score=self.min_score,
            query=self.query,
        )

    def work(self, progress: Console | None) -> LoadedInput:
        """Open the reviews."""
        source = self.open_source(progress)
        categories = _shared_categories(source)
        items = [
            {"target_restaurant_id": one, "category": categories.get(str(one))} for one in self.chosen(source)
        ]
        return LoadedInput(items=items, known=source, search=source.search)


def command(llms: Mapping[str, MakeLLM]) -> click.Command:
    """
    Build the command.

    Args:
        llms: What makes a model, by the name to choose it by; the first is the default.
    """
    query = click.Option(
        ["--query"],
        metavar="TEXT",
        help="What to search for; without it, the words of service, price and food.",
    )
    options = [
        parameters.source(),
        *parameters.speed(search=True, batches=True),
        *services.llm_parameters(llms),
        *services.search_parameters(),
        query,
        parameters.limit(ExtractStrengths.limit),
        parameters.min_score(),
        parameters.batch_tokens(),
        parameters.language("What to search and answer in; auto goes by the reviews."),
        *parameters.which(),
        *parameters.results(),
    ]
    view = ResultView(
        table=_table,
        record=_record,
        done="compared",
        lost=lambda strength: strength.failed_count,
        lost_as=("review could not be read", "reviews could not be read"),
        offline="strengths and comparisons are sentences picked from the reviews",
    )
    return run_command("strengths", _HELP, options, StrengthsOptions, view, llms)


def _shared_categories(source: ReviewSource) -> Mapping[str, Any]:
    """Return the categories of restaurants that share them: the only one of its kind is compared with all."""
    sizes = Counter(map(str, source.categories.values()))
    return {one: category for one, category in source.categories.items() if sizes[str(category)] > 1}


def _table(strengths: Sequence[RestaurantStrength], known: NamedItems) -> Table:
    """Show restaurants: what they have over the others, and what the others are said to be."""
    table = tables.named_table("Restaurant", "Strength", "Compared with")
    table.columns[1].ratio, table.columns[2].ratio = 1, 1
    table.columns[1].overflow = "fold"
    table.show_lines = True
    for strength in strengths:
        table.add_row(
            tables.name_cell(known, strength.restaurant_id),
            tables.summary(strength.target_restaurant_strength, strength.target_count),
            tables.summary(strength.comparison_summary, strength.comparison_count),
        )
    return table


def _record(strength: RestaurantStrength) -> Mapping[str, Any]:
    record = asdict(strength)
    for field in ("target_reviews", "comparison_reviews"):
        record[field] = [_known(review) for review in getattr(strength, field)]
    return record


def _known(review: Review) -> Mapping[str, Any]:
    return {name: value for name, value in asdict(review).items() if value is not None}
