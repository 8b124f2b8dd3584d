"""Command `compare`: compare restaurants with the average of the others, aspect by aspect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..._text import terminal_text
from ...results import AspectComparison, AspectLift
from ...tasks.comparison import CompareAspects
from .. import _options as parameters
from .. import _settings as settings
from .. import _tables as tables
from .._backends import MakeLLM
from .._options import LoadedInput, SearchOptions, shared_categories
from .._running import command as run_command
from .._sources import NamedItems
from .._views import ResultView

_HELP = """
Compare each restaurant with the average of the others, aspect by aspect.

SOURCE is a file of reviews (JSON Lines, indexed in memory first) or a folder made by `index`; by default the
built-in sample. With --search qdrant there is no SOURCE. For each aspect a search finds the restaurant's reviews, and
one for all restaurants the reviews that the average is of: if SOURCE is a file that names a "category" (or "cuisine"),
of restaurants of the same category, if there are any; otherwise of all. The model labels who is satisfied.
"""


@dataclass(frozen=True, kw_only=True)
class CompareOptions(SearchOptions[AspectComparison]):
    """Values of the command's options."""

    aspects: tuple[str, ...] | None
    averages: Mapping[str, float] | None

    @property
    def task(self) -> CompareAspects:
        """The task."""
        return CompareAspects(
            aspects=self._aspects,
            limit=self.limit,
            min_score=self.min_score,
            averages=self.averages,
            **self.wording,
        )

    @property
    def _aspects(self) -> Any:
        """The aspects, with the seed words of the settings' file as far as it has them."""
        names = self.aspects or tuple(self.averages or ()) or CompareAspects.aspects
        seeds = self.settings.aspects()
        if isinstance(seeds, Mapping) and all(name in seeds for name in names):
            return {name: seeds[name] for name in names}
        return names

    def load(self, progress: Console | None) -> LoadedInput:
        """Open the reviews."""
        source = self.open_source(progress)
        categories = shared_categories(source)
        items = [
            {"restaurant_id": item_id, "category": categories.get(str(item_id))}
            for item_id in self.chosen(source)
        ]
        return LoadedInput(items=items, source=source, search=source.search)


def command(llms: Mapping[str, MakeLLM]) -> click.Command:
    """
    Build the command.

    Args:
        llms: Factories of LLM backends, by their names for ``--llm``; the first is the default.
    """
    own = [
        click.Option(
            ["--aspects"],
            callback=parameters.names,
            metavar="A,B,...",
            help="Aspects to compare, by default service and price; an aspect without seed words is searched by its "
            "name.",
        ),
        click.Option(
            ["--averages"],
            callback=_averages,
            metavar="A=SHARE,...",
            help="The average share of satisfied remarks, if you know it: service=0.6,price=0.55. Reviews of others "
            "are then not looked at.",
        ),
    ]
    options = [
        parameters.source(),
        *settings.options(search=True, batches=True, llms=[*llms]),
        settings.SettingOption("aspect_seeds_file"),
        *own,
        parameters.limit(CompareAspects.limit),
        parameters.min_score(),
        *parameters.wording("Language of search and sentences; auto detects that of the reviews."),
        *parameters.which(),
        *parameters.results(),
    ]
    view = ResultView(
        table=_table,
        record=asdict,
        done="compared",
        count_failed_parts=_failed_parts,
        failed_part_phrases=("review or aspect failed", "reviews or aspects failed"),
        offline="the labels are those of a lexicon",
    )
    return run_command("compare", _HELP, options, CompareOptions, view, llms)


def _averages(ctx: click.Context, param: click.Parameter, value: str | None) -> Mapping[str, float] | None:
    averages: dict[str, float] = {}
    for part in parameters.names(ctx, param, value) or ():
        name, separator, share = part.partition("=")
        try:
            averages[name.strip()] = float(share)
        except ValueError:
            separator = ""
        if not separator:
            example = "for example service=0.6,price=0.55."
            raise click.BadParameter(f"{part!r} is not an aspect and a number; {example}", ctx, param)
    return averages or None


def _table(comparisons: Sequence[AspectComparison], source: NamedItems) -> Table:
    """Return a table of restaurants with a line for each aspect."""
    table = tables.named_table("Restaurant", "Compared with the average")
    table.columns[1].ratio = 1
    table.show_lines = True
    for comparison in comparisons:
        aspects = {name: _aspect(lift) for name, lift in comparison.aspects.items()}
        table.add_row(tables.name_cell(source, comparison.restaurant_id), tables.labelled(aspects))
    return table


def _aspect(lift: AspectLift) -> Text:
    if lift.error is not None:
        return tables.failed(lift.error)
    remarks = tables.counted(lift.satisfied + lift.dissatisfied, "remark", "remarks")
    if not lift.sentence:
        return tables.dim(f"cannot be said ({remarks})")
    average = f"average {lift.average:.0%} of {lift.comparison_count:,}" if lift.comparison_count else ""
    average = average or f"given average {lift.average:.0%}"
    numbers = f" ({lift.share:.0%} of {remarks} satisfied, {average})"
    return Text(terminal_text(lift.sentence)).append(numbers, style="dim")


def _failed_parts(comparison: AspectComparison) -> int:
    return sum(lift.failed or lift.error is not None for lift in comparison.aspects.values())
