"""The command `sentiment`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..._config.limits import Limits
from ...results import RestaurantSentiment
from ...tasks.sentiment import AnalyzeSentiment
from .. import _backends as services
from .. import _options as parameters
from .. import _tables as tables
from .._backends import MakeLLM
from .._options import FileOptions, Language, LoadedInput
from .._running import command as run_command
from .._sources import NamedItems, read_grouped
from .._tables import StackedBar
from .._views import ResultView

_HELP = """
Label every review as positive, negative or neutral, and count by restaurant.

SOURCE is a file of reviews (JSON Lines); without it, the sample that is shipped. Nothing is searched or
indexed. What the file says of its reviews, such as a rating, is not looked at. Reviews that get no label are
counted as failed, and percentages are those of the others.
"""
_LEGEND = {"positive": ("█", "green"), "negative": ("▒", "red"), "neutral": ("░", "bright_black")}
"""How the bar's parts are drawn."""


@dataclass(frozen=True, kw_only=True)
class SentimentOptions(FileOptions[RestaurantSentiment]):
    """What was asked for on the command line."""

    batch_size: int
    max_tokens_per_batch: int
    language: Language

    @property
    def task(self) -> AnalyzeSentiment:
        """The task."""
        return AnalyzeSentiment(
            batch_size=self.batch_size,
            max_tokens_per_batch=self.max_tokens_per_batch,
            language=self.language,
        )

    def work(self, progress: Console | None) -> LoadedInput:
        """Read the reviews."""
        known = read_grouped(self.source)
        items = [{"restaurant_id": one, "reviews": known.of(one)} for one in self.chosen(known)]
        return LoadedInput(items=items, known=known)


def command(llms: Mapping[str, MakeLLM]) -> click.Command:
    """
    Build the command.

    Args:
        llms: What makes a model, by the name to choose it by; the first is the default.
    """
    options = [
        parameters.source(),
        *parameters.speed(batches=True),
        *services.llm_parameters(llms),
        parameters.count("--batch-size", Limits().max_batch_size, "Most reviews in a batch."),
        parameters.batch_tokens(),
        parameters.language("What to instruct the model in; auto goes by the reviews."),
        *parameters.which(),
        *parameters.results(),
    ]
    view = ResultView(
        table=_table,
        record=asdict,
        done="judged",
        lost=lambda result: result.failed_count,
        lost_as=("review got no label", "reviews got no label"),
        offline="the labels are those of a small linear model, over runs of letters",
    )
    return run_command("sentiment", _HELP, options, SentimentOptions, view, llms)


def _table(results: Sequence[RestaurantSentiment], known: NamedItems) -> Table:
    """Show restaurants: how many reviews have which label, as a bar, numbers and percentages."""
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
        table.add_row(tables.name_cell(known, result.restaurant_id), StackedBar(parts), *cells)
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
