"""What is printed: hits, summaries, failures and the footer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..integrations._tally import duration
from ..models import AspectSummary, Hit
from ..report import Failure, RunStats
from .gathering import Done, Gathered
from .sources import Source

NO_MODEL = "offline-extractive"
_WIDEST_ASPECT = 16
_INVISIBLE = {ord("\N{VARIATION SELECTOR-16}"): None}


def clean(text: str) -> str:
    """Return a text on one line, without characters that move the cursor or whose width is in dispute."""
    flat = " ".join(text.translate(_INVISIBLE).split())
    return "".join(character for character in flat if character.isprintable())


def hits_table(hits: Sequence[Hit]) -> Table:
    """Show the hits of a search."""
    table = _table("#", "Score", "Review", "Text")
    table.columns[0].justify = "right"
    table.columns[2].max_width = 20
    table.columns[2].overflow = "fold"
    for rank, hit in enumerate(hits, 1):
        identity = Text(clean(str(hit.review_id)), style="cyan")
        table.add_row(Text(str(rank)), Text(f"{hit.score:.4f}"), identity, Text(clean(hit.content)))
    return table


def summaries_table(successes: Iterable[Done], source: Source) -> Table:
    """Show restaurants: name and id, the overall summary, and a line for each aspect."""
    table = _table("Restaurant", "Summary")
    table.columns[0].width = 18
    table.columns[1].ratio = 1
    table.show_lines = True
    for success in successes:
        summary = success.value
        overall = Text(clean(summary.overall_summary)) if summary.overall_summary else _dim("no reviews")
        table.add_row(
            restaurant_cell(source, str(summary.restaurant_id)),
            Group(overall, _aspects(summary.categories)),
        )
    return table


def restaurant_cell(source: Source, restaurant_id: str) -> Text:
    """Show a restaurant's name, with its id below; or its id alone."""
    name = source.names.get(restaurant_id)
    if name is None:
        return Text(clean(restaurant_id), style="bold", overflow="fold")
    cell = Text(clean(name), style="bold", overflow="fold")
    return cell.append(f"\n{clean(restaurant_id)}", style="not bold dim")


def _aspects(categories: Mapping[str, AspectSummary]) -> RenderableType:
    grid = Table.grid(padding=(0, 2), expand=True)
    width = min(_WIDEST_ASPECT, max((cell_len(clean(name)) for name in categories), default=0))
    grid.add_column(style="cyan", no_wrap=True, overflow="ellipsis", width=width)
    grid.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    for name, aspect in categories.items():
        grid.add_row(Text(clean(name)), _aspect(aspect))
    return grid


def _aspect(aspect: AspectSummary) -> Text:
    if aspect.status == "no_reviews":
        return _dim("no reviews")
    if aspect.status == "failed":
        return Text(f"failed: {clean(aspect.error or 'for an unknown reason')}", style="red")
    return Text(clean(aspect.summary))


def failures_table(failures: Iterable[Failure], source: Source) -> Table:
    """Show what failed: where, why, and after how many attempts."""
    table = _table("Failed", "Stage", "Cause", "Attempts")
    table.columns[0].width = 18
    table.columns[2].ratio = 1
    table.columns[3].justify = "right"
    for failure in failures:
        cause = f"{type(failure.error).__name__}: {failure.error}"
        table.add_row(
            restaurant_cell(source, str(failure.item_id)),
            Text(failure.stage),
            Text(clean(cause), style="red"),
            Text(str(failure.attempts)),
        )
    return table


def more(left: int, what: str) -> Text:
    """Say how many were left out and how to see them."""
    return _dim(
        f"... and {left:,} more {what}; --show all shows all of them, --output FILE writes them to a file."
    )


def footer(gathered: Gathered, stats: RunStats, asked_for: int) -> Text:
    """Say in a paragraph what the run took."""
    text = Text(f"{_counts(gathered, asked_for)} {_effort(stats)}")
    if stats.stopped_because is not None and not gathered.interrupted:
        text.append(f" The run stopped early: {clean(stats.stopped_because)}.", style="red")
    models = ", ".join(sorted(map(clean, gathered.models)))
    if models:
        text.append(f" Model: {models}.")
    if NO_MODEL in gathered.models:
        text.append(
            " No language model was used: the summaries are sentences picked from the reviews.",
            style="yellow",
        )
    return text


def _counts(gathered: Gathered, asked_for: int) -> str:
    restaurants = _number(asked_for, "restaurant", "restaurants")
    parts = [f"{gathered.done:,} of {restaurants} summarised"]
    others = {
        "failed": gathered.failed,
        "not finished": gathered.unfinished,
        "not begun": asked_for - gathered.total,
    }
    parts += [f"{number:,} {what}" for what, number in others.items() if number]
    return ("Interrupted: " if gathered.interrupted else "") + ", ".join(parts)


def _effort(stats: RunStats) -> str:
    searches, asked = stats.calls.get("search", 0), stats.calls.get("llm", 0)
    peak = stats.peak_in_flight
    tokens = (
        f"{stats.prompt_tokens:,} tokens in and {stats.completion_tokens:,} out"
        if stats.prompt_tokens or stats.completion_tokens
        else "no tokens"
    )
    return (
        f"in {seconds(stats.wall_seconds)}, with {_number(searches, 'search', 'searches')} and "
        f"{_number(asked, 'LLM call', 'LLM calls')} "
        f"(at most {peak.get('search', 0)} and {peak.get('llm', 0)} in flight), "
        f"{_number(stats.retries, 'retry', 'retries')}, "
        f"{_number(stats.refusals, 'refusal', 'refusals')} and {tokens}."
    )


def _number(number: int, one: str, several: str) -> str:
    return f"{number:,} {one if number == 1 else several}"


def seconds(number: float) -> str:
    """Write a time span, with tenths while it is short."""
    return f"{number:.1f} s" if number < 10 else duration(number)


def _table(*headers: str) -> Table:
    table = Table(*headers, box=box.SIMPLE_HEAD, expand=True, header_style="bold", pad_edge=True)
    table.columns[-1].overflow = "fold"
    return table


def _dim(text: str) -> Text:
    return Text(text, style="dim")
