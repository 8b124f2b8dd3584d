"""The command `summarize`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import click
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from ...results import AspectSummary, RestaurantSummary
from ...tasks.summary import SummarizeAspects
from .. import _backends as services
from .. import _options as parameters
from .. import _tables as tables
from .._backends import MakeLLM
from .._options import Language, LoadedInput, SearchOptions
from .._running import command as run_command
from .._sources import NamedItems
from .._views import ResultView

_HELP = """
Summarise restaurants from their reviews, aspect by aspect and overall.

SOURCE is a file of reviews (JSON Lines, indexed in memory first) or a folder made by `index`; without it,
the sample that is shipped. With --search qdrant there is no SOURCE: all restaurants of the collection are
summarised. Results are the same at every stage; only the time differs.
"""


@dataclass(frozen=True, kw_only=True)
class SummarizeOptions(SearchOptions[RestaurantSummary]):
    """What was asked for on the command line."""

    mode: Literal["single", "split"]
    language: Language
    aspects: tuple[str, ...]

    @property
    def task(self) -> SummarizeAspects:
        """The task."""
        return SummarizeAspects(
            limit=self.limit,
            min_score=self.min_score,
            mode=self.mode,
            language=self.language,
            aspects=self.aspects,
        )

    def work(self, progress: Console | None) -> LoadedInput:
        """Open the reviews."""
        source = self.open_source(progress)
        return LoadedInput(items=self.chosen(source), known=source, search=source.search)


def command(llms: Mapping[str, MakeLLM]) -> click.Command:
    """
    Build the command.

    Args:
        llms: What makes a model, by the name to choose it by; the first is the default.
    """
    own = [
        click.Option(
            ["--aspects"],
            callback=parameters.names,
            default="service,price,food",
            show_default=True,
            metavar="A,B,...",
            help="What to summarise; an aspect without words of its own is searched by its name.",
        ),
        click.Option(
            ["--mode"],
            type=click.Choice(["single", "split"]),
            default="single",
            show_default=True,
            help="One call per restaurant, or one per aspect and one for the whole.",
        ),
        parameters.language("What to search and answer in; auto goes by the reviews."),
    ]
    options = [
        parameters.source(),
        *parameters.speed(search=True, llm=True),
        *services.llm_parameters(llms),
        *services.search_parameters(),
        *own,
        parameters.limit(),
        parameters.min_score(),
        *parameters.which(),
        *parameters.results(),
    ]
    view = ResultView(
        table=_table,
        record=_record,
        done="summarised",
        lost=_failed_aspects,
        lost_as=("aspect failed", "aspects failed"),
        offline="the summaries are sentences picked from the reviews",
    )
    return run_command("summarize", _HELP, options, SummarizeOptions, view, llms)


def _table(summaries: Sequence[RestaurantSummary], known: NamedItems) -> Table:
    """Show restaurants: name and id, the overall summary, and a line for each aspect."""
    table = tables.named_table("Restaurant", "Summary")
    table.columns[1].ratio = 1
    table.show_lines = True
    for summary in summaries:
        overall = tables.clean(summary.overall_summary)
        aspects = {name: _aspect(aspect) for name, aspect in summary.categories.items()}
        table.add_row(
            tables.name_cell(known, summary.restaurant_id),
            Group(
                Text(overall) if overall else tables.dim("no reviews"), tables.labelled(aspects, wrap=False)
            ),
        )
    return table


def _aspect(aspect: AspectSummary) -> Text:
    if aspect.status == "no_reviews":
        return tables.dim("no reviews")
    if aspect.status == "failed":
        return tables.failed(aspect.error or "for an unknown reason")
    return Text(tables.clean(aspect.summary))


def _failed_aspects(summary: RestaurantSummary) -> int:
    return sum(aspect.status == "failed" for aspect in summary.categories.values())


def _record(summary: RestaurantSummary) -> Mapping[str, Any]:
    return {
        "restaurant_id": summary.restaurant_id,
        "overall_summary": summary.overall_summary,
        "model": summary.model,
        "categories": {name: asdict(aspect) for name, aspect in summary.categories.items()},
    }
