"""Command `summarize-reviews`: summarise the positive and the negative reviews of restaurants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import click
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from ..._rows.polarity import Polarity, RatingScale
from ..._text import terminal_text
from ...results import ReviewSummary
from ...tasks.reviews import SummarizeReviews
from .. import _options as parameters
from .. import _reading as reading
from .. import _settings as settings
from .. import _tables as tables
from .._backends import MakeLLM
from .._options import FileOptions, LoadedInput
from .._running import command as run_command
from .._sources import NamedItems, read_grouped
from .._views import ResultView

_HELP = """
Summarise the positive reviews of each restaurant, the negative ones, and both together.

SOURCE is a file of reviews (CSV, JSON Lines); by default the built-in sample. Nothing is searched or indexed. The file
says which reviews are positive, in one of these ways:

\b
    {"restaurant_id": 1, "content": "...", "is_recommended": true}
    {"restaurant_id": 1, "content": "...", "label": "negative"}
    {"restaurant_id": 1, "content": "...", "rating": 5}
    {"restaurant_id": 1, "positive_reviews": ["..."], "negative_reviews": ["..."]}

Ratings are from 1 to 5: 4 and 5 are positive, 1 and 2 negative; --rating-scale names another scale. Reviews with a
rating between or without any of these fields are left out.
"""


@dataclass(frozen=True, kw_only=True)
class SummarizeReviewsOptions(FileOptions[ReviewSummary]):
    """Values of the command's options."""

    rating_scale: RatingScale

    @property
    def task(self) -> SummarizeReviews:
        """The task."""
        return self.settings.review_summary()

    def load(self, progress: Console | None) -> LoadedInput:
        """Read the reviews, and split them by polarity."""
        source = read_grouped(self.source, self.form, progress, Polarity(self.rating_scale))
        items, left_out = [], 0
        for item_id in self.chosen(source):
            reviews = source.of(item_id)
            positive = [review for review in reviews if review.is_recommended]
            negative = [review for review in reviews if review.is_recommended is False]
            items.append(
                {"restaurant_id": item_id, "positive_reviews": positive, "negative_reviews": negative}
            )
            left_out += len(reviews) - len(positive) - len(negative)
        return LoadedInput(items=items, source=source, note=_note(left_out))


def command(llms: Mapping[str, MakeLLM]) -> click.Command:
    """
    Build the command.

    Args:
        llms: Factories of LLM backends, by their names for ``--llm``; the first is the default.
    """
    options = [
        parameters.source(),
        *settings.options(batches=True, llms=[*llms], tasks=["reviews"]),
        *reading.options(ratings=True),
        *parameters.which(),
        *parameters.results(),
    ]
    view = ResultView(
        table=_table,
        record=asdict,
        done="summarised",
        count_failed_parts=lambda summary: summary.failed_count,
        failed_part_phrases=("review could not be summarised", "reviews could not be summarised"),
        offline="the summaries are sentences picked from the reviews",
    )
    return run_command("summarize-reviews", _HELP, options, SummarizeReviewsOptions, view, llms)


def _note(left_out: int) -> str:
    if not left_out:
        return ""
    reviews = tables.counted(left_out, "review was", "reviews were")
    return f"{reviews} left out: neither positive nor negative, or of unknown polarity."


def _table(summaries: Sequence[ReviewSummary], source: NamedItems) -> Table:
    """Return a table of restaurants with the overall summary, and the summary and number of reviews by polarity."""
    table = tables.named_table("Restaurant", "Summary")
    table.columns[1].ratio = 1
    table.show_lines = True
    for summary in summaries:
        overall = terminal_text(summary.overall_summary)
        kinds = {
            "positive": tables.summary(summary.positive_summary, summary.positive_count),
            "negative": tables.summary(summary.negative_summary, summary.negative_count),
        }
        if summary.failed_count:
            kinds["failed"] = Text(f"{summary.failed_count:,} of the reviews", style="red")
        table.add_row(
            tables.name_cell(source, summary.restaurant_id),
            Group(Text(overall) if overall else tables.dim("no reviews"), tables.labelled(kinds)),
        )
    return table
