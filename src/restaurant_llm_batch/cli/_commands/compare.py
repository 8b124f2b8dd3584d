"""Command `compare`: compare restaurants with the average of the others, aspect by aspect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..._text import terminal_text
from ...results import AspectComparison, AspectLift
from ...tasks.comparison import CompareAspects
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
Compare each restaurant with the average of the others, aspect by aspect.

SOURCE is a file of reviews (CSV, JSON Lines, ...; indexed first) or a folder made by `index`; by default the
built-in sample. With --search qdrant there is no SOURCE. For each aspect a search finds the restaurant's reviews, and
one for all restaurants the reviews that the average is of: if SOURCE is a file that names a "category" (or "cuisine"),
of restaurants of the same category, if there are any; otherwise of all. The model labels who is satisfied.
"""


@dataclass(frozen=True, kw_only=True)
class CompareOptions(SearchOptions[AspectComparison]):
    """Values of the command's options."""

    @property
    def task(self) -> CompareAspects:
        """The task."""
        return self.settings.comparison()

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
    options = [
        parameters.source(),
        *settings.options(search=True, batches=True, llms=[*llms], tasks=["comparison", "aspects"]),
        *reading.options(),
        *parameters.which(),
        *parameters.results(),
    ]
    view = ResultView(
        table=_table,
        record=asdict,
        done="compared",
        count_failed_parts=_failed_parts,
        failed_part_phrases=("review or aspect failed", "reviews or aspects failed"),
        parts=("aspects",),
        offline="the labels are those of a lexicon",
    )
    return run_command("compare", _HELP, options, CompareOptions, view, llms)


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
