"""Command `strengths`: derive the strengths of restaurants over others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from ...models import Review
from ...results import RestaurantStrength
from ...tasks.strengths import ExtractStrengths
from .. import _options as parameters
from .. import _reading as reading
from .. import _settings as settings
from .. import _tables as tables
from .._backends import MakeLLM
from .._options import LoadedInput, SearchOptions, shared_categories
from .._running import command as run_command
from .._sources import NamedItems
from .._views import ResultView

_HELP = """
Derive the strengths of each restaurant over the others.

SOURCE is a file of reviews (CSV, JSON Lines, ...; indexed first) or a folder made by `index`; by default the
built-in sample. With --search qdrant there is no SOURCE. For each restaurant a search finds its own reviews and
reviews of others: if SOURCE is a file that names a "category" (or "cuisine"), of restaurants of the same category,
if there are any; otherwise of all.
"""


@dataclass(frozen=True, kw_only=True)
class StrengthsOptions(SearchOptions[RestaurantStrength]):
    """Values of the command's options."""

    @property
    def task(self) -> ExtractStrengths:
        """The task."""
        return self.settings.strengths()

    def load(self, progress: Console | None) -> LoadedInput:
        """Open the reviews."""
        source = self.open_source(progress)
        categories = shared_categories(source)
        items = [
            {"target_restaurant_id": item_id, "category": categories.get(str(item_id))}
            for item_id in self.chosen(source)
        ]
        return LoadedInput(items=items, source=source, search=source.search)


def command(llms: Mapping[str, MakeLLM]) -> click.Command:
    """
    Build the command.

    Args:
        llms: Factories of LLM backends, by their names for ``--llm``; the first is the default.
    """
    options = [
        parameters.source(),
        *settings.options(search=True, batches=True, llms=[*llms], tasks=["strengths"]),
        *reading.options(),
        *parameters.which(),
        *parameters.results(),
    ]
    view = ResultView(
        table=_table,
        record=_record,
        done="compared",
        count_failed_parts=lambda strength: strength.failed_count,
        failed_part_phrases=("review could not be used", "reviews could not be used"),
        offline="strengths and comparisons are sentences picked from the reviews",
    )
    return run_command("strengths", _HELP, options, StrengthsOptions, view, llms)


def _table(strengths: Sequence[RestaurantStrength], source: NamedItems) -> Table:
    """Return a table of restaurants with their strengths and the summary of the reviews compared with."""
    table = tables.named_table("Restaurant", "Strength", "Compared with")
    table.columns[1].ratio, table.columns[2].ratio = 1, 1
    table.columns[1].overflow = "fold"
    table.show_lines = True
    for strength in strengths:
        table.add_row(
            tables.name_cell(source, strength.restaurant_id),
            tables.summary(strength.target_restaurant_strength, strength.target_count),
            tables.summary(strength.comparison_summary, strength.comparison_count),
        )
    return table


def _record(strength: RestaurantStrength) -> Mapping[str, Any]:
    record = asdict(strength)
    for field in ("target_reviews", "comparison_reviews"):
        record[field] = [_without_none(review) for review in getattr(strength, field)]
    return record


def _without_none(review: Review) -> Mapping[str, Any]:
    return {name: value for name, value in asdict(review).items() if value is not None}
