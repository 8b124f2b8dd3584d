"""Command `summarize`: summarise restaurants by aspect and overall."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import click
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from ..._text import terminal_text
from ...results import AspectSummary, RestaurantSummary
from ...tasks.summary import SummarizeAspects
from .. import _options as parameters
from .. import _reading as reading
from .. import _settings as settings
from .. import _tables as tables
from .._backends import MakeLLM
from .._options import LoadedInput, SearchOptions
from .._running import command as run_command
from .._sources import NamedItems
from .._views import ResultView

_HELP = """
Summarise restaurants from their reviews, aspect by aspect and overall.

SOURCE is a file of reviews (CSV, JSON Lines, ...; indexed first) or a folder made by `index`; by default the
built-in sample. With --search qdrant there is no SOURCE: all restaurants of the collection are summarised.
Results are the same at every stage; only the time differs.
"""


@dataclass(frozen=True, kw_only=True)
class SummarizeOptions(SearchOptions[RestaurantSummary]):
    """Values of the command's options."""

    @property
    def task(self) -> SummarizeAspects:
        """The task."""
        return self.settings.summary()

    def load(self, progress: Console | None) -> LoadedInput:
        """Open the reviews."""
        source = self.open_source(progress)
        return LoadedInput(items=self.chosen(source), source=source, search=source.search)


def command(llms: Mapping[str, MakeLLM]) -> click.Command:
    """
    Build the command.

    Args:
        llms: Factories of LLM backends, by their names for ``--llm``; the first is the default.
    """
    options = [
        parameters.source(),
        *settings.options(search=True, llm=True, llms=[*llms], tasks=["summary", "aspects"]),
        *reading.options(),
        *parameters.which(),
        *parameters.results(),
    ]
    view = ResultView(
        table=_table,
        record=_record,
        done="summarised",
        count_failed_parts=_failed_summaries,
        failed_part_phrases=("summary failed", "summaries failed"),
        parts=("aspects",),
        offline="the summaries are sentences picked from the reviews",
    )
    return run_command("summarize", _HELP, options, SummarizeOptions, view, llms)


def _table(summaries: Sequence[RestaurantSummary], source: NamedItems) -> Table:
    """Return a table of restaurants with the overall summary and a line for each aspect."""
    table = tables.named_table("Restaurant", "Summary")
    table.columns[1].ratio = 1
    table.show_lines = True
    for summary in summaries:
        aspects = {name: _aspect(aspect) for name, aspect in summary.categories.items()}
        table.add_row(
            tables.name_cell(source, summary.restaurant_id),
            Group(_overall(summary), tables.labelled(aspects, wrap=False)),
        )
    return table


def _overall(summary: RestaurantSummary) -> Text:
    if summary.overall_status == "no_reviews":
        return tables.dim("no reviews")
    if summary.overall_status == "failed":
        return tables.failed(summary.overall_error or "for an unknown reason")
    return Text(terminal_text(summary.overall_summary))


def _aspect(aspect: AspectSummary) -> Text:
    if aspect.status == "no_reviews":
        return tables.dim("no reviews")
    if aspect.status == "failed":
        return tables.failed(aspect.error or "for an unknown reason")
    return Text(terminal_text(aspect.summary))


def _failed_summaries(summary: RestaurantSummary) -> int:
    aspects = sum(aspect.status == "failed" for aspect in summary.categories.values())
    return aspects + (summary.overall_status == "failed")


def _record(summary: RestaurantSummary) -> Mapping[str, Any]:
    return {
        "restaurant_id": summary.restaurant_id,
        "overall_summary": summary.overall_summary,
        "overall_status": summary.overall_status,
        "overall_error": summary.overall_error,
        "model": summary.model,
        "categories": {name: asdict(aspect) for name, aspect in summary.categories.items()},
    }
