"""Command `sentiment`: label the sentiment of every review and count the labels by restaurant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ...results import RestaurantSentiment
from ...tasks.sentiment import AnalyzeSentiment
from .. import _options as parameters
from .. import _reading as reading
from .. import _settings as settings
from .. import _tables as tables
from .._backends import MakeLLM
from .._options import LoadedInput, SearchOptions
from .._running import command as run_command
from .._sources import NamedItems, read_grouped
from .._tables import StackedBar
from .._views import ResultView

_HELP = """
Label every review as positive, negative or neutral, and count by restaurant.

SOURCE is a file of reviews (CSV, JSON Lines), all of which are labelled; by default the built-in sample. If it is a
folder made by `index`, or with --search qdrant and no SOURCE, a search finds the reviews of each restaurant. Ratings
and other fields of the reviews are ignored. Reviews without a label count as failed; percentages are those of the
labelled reviews.
"""
_LEGEND = {"positive": ("█", "green"), "negative": ("▒", "red"), "neutral": ("░", "bright_black")}
"""Character and style of each label's part of the bar."""


@dataclass(frozen=True, kw_only=True)
class SentimentOptions(SearchOptions[RestaurantSentiment]):
    """Values of the command's options."""

    @property
    def task(self) -> AnalyzeSentiment:
        """The task."""
        return self.settings.sentiment()

    def load(self, progress: Console | None) -> LoadedInput:
        """Read the reviews, or open what is searched."""
        if self._is_searched:
            index = self.open_source(progress)
            return LoadedInput(items=self.chosen(index), source=index, search=index.search)
        source = read_grouped(self.source, self.form, progress)
        items = [{"restaurant_id": item_id, "reviews": source.of(item_id)} for item_id in self.chosen(source)]
        return LoadedInput(items=items, source=source)

    @property
    def _is_searched(self) -> bool:
        if self.source is not None:
            return self.source.is_dir()
        return self.settings.batch_search_backend == "qdrant" or self.settings.batch_search_path is not None


def command(llms: Mapping[str, MakeLLM]) -> click.Command:
    """
    Build the command.

    Args:
        llms: Factories of LLM backends, by their names for ``--llm``; the first is the default.
    """
    options = [
        parameters.source(),
        *settings.options(search=True, batches=True, llms=[*llms], tasks=["sentiment"]),
        *reading.options(),
        *parameters.which(),
        *parameters.results(),
    ]
    view = ResultView(
        table=_table,
        record=asdict,
        done="judged",
        count_failed_parts=lambda result: result.failed_count,
        failed_part_phrases=("review got no label", "reviews got no label"),
        parts=("labels",),
        offline="the labels are those of a small linear model, over runs of letters",
    )
    return run_command("sentiment", _HELP, options, SentimentOptions, view, llms)


def _table(results: Sequence[RestaurantSentiment], source: NamedItems) -> Table:
    """Return a table of restaurants with a bar, number and percentage of each label."""
    failed = any(result.failed_count for result in results)
    labels = [f"{character} {label.capitalize()}" for label, (character, _) in _LEGEND.items()]
    table = tables.named_table("Restaurant", "", *labels, *(["Failed"] if failed else []))
    name, bar = table.columns[:2]
    name.width, name.ratio, bar.ratio = None, 2, 1
    for column, (_, style) in zip(table.columns[2:], _LEGEND.values(), strict=False):
        column.header_style = f"bold {style}"
    for column in table.columns[2:]:
        column.justify, column.no_wrap = "right", True
    for result in results:
        shares = _shares(result)
        parts = [(count, *_LEGEND[label]) for label, (count, _) in shares.items()]
        cells = [_share(count, percent) for count, percent in shares.values()]
        if failed:
            cells.append(_failed(result.failed_count))
        table.add_row(tables.name_cell(source, result.restaurant_id), StackedBar(parts), *cells)
    return table


def _shares(result: RestaurantSentiment) -> Mapping[str, tuple[int, int]]:
    return {
        "positive": (result.positive_count, result.positive_ratio),
        "negative": (result.negative_count, result.negative_ratio),
        "neutral": (result.neutral_count, result.neutral_ratio),
    }


def _share(count: int, percent: int) -> Text:
    return Text(f"{count:,} {percent:>3}%") if count else tables.dim("-")


def _failed(count: int) -> Text:
    return Text(f"{count:,}", style="red") if count else tables.dim("-")
