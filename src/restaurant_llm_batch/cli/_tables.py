"""Rich tables of the command line, and the texts in their cells."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from .._text import MAX_MESSAGE, error_text, terminal_text
from ..models import Hit, ItemId
from ..outcomes import Failure
from ._sources import NamedItems

_NAME_WIDTH = 18


def counted(number: int, singular: str, plural: str) -> str:
    """Return a number with its noun."""
    return f"{number:,} {singular if number == 1 else plural}"


def dim(text: str) -> Text:
    """Return a text in a dim style."""
    return Text(text, style="dim")


def table(*headers: str) -> Table:
    """Return an empty table, as wide as the console."""
    new = Table(*headers, box=box.SIMPLE_HEAD, expand=True, header_style="bold", pad_edge=True)
    new.columns[-1].overflow = "fold"
    return new


def named_table(*headers: str) -> Table:
    """Return an empty table whose first column is for names (see `name_cell`)."""
    new = table(*headers)
    new.columns[0].width = _NAME_WIDTH
    return new


def name_cell(source: NamedItems, item_id: ItemId | None) -> Text:
    """Return a cell with an item's name and its id below; or only its id."""
    name = source.names.get(str(item_id))
    if name is None:
        return Text(terminal_text(str(item_id)), style="bold", overflow="fold")
    cell = Text(terminal_text(name), style="bold", overflow="fold")
    return cell.append(f"\n{terminal_text(str(item_id))}", style="not bold dim")


def summary(text: str, reviews: int) -> Text:
    """Return a cell with a summary and its number of reviews."""
    if not text:
        return dim("no reviews")
    return Text(terminal_text(text)).append(f" ({counted(reviews, 'review', 'reviews')})", style="dim")


def failed(what: str) -> Text:
    """Return a cell that says why something failed."""
    return Text(f"failed: {terminal_text(what)}", style="red")


def labelled(rows: Mapping[str, Text], *, wrap: bool = True, max_label_width: int = 16) -> Table:
    """
    Return a grid of texts, each beside its label.

    Args:
        rows: The texts by label.
        wrap: Whether to wrap a long text, instead of truncating it.
        max_label_width: Width in characters at which labels are truncated.
    """
    grid = Table.grid(padding=(0, 2), expand=True)
    width = min(max_label_width, max((cell_len(terminal_text(label)) for label in rows), default=0))
    grid.add_column(style="cyan", no_wrap=True, overflow="ellipsis", width=width)
    grid.add_column(no_wrap=not wrap, overflow="fold" if wrap else "ellipsis", ratio=1)
    for label, text in rows.items():
        grid.add_row(Text(terminal_text(label)), text)
    return grid


def hits_table(hits: Sequence[Hit]) -> Table:
    """Return a table of the hits of a search."""
    rows = table("#", "Score", "Review", "Text")
    rows.columns[0].justify = "right"
    rows.columns[2].max_width = 20
    rows.columns[2].overflow = "fold"
    for rank, hit in enumerate(hits, 1):
        review_id = Text(terminal_text(str(hit.review_id)), style="cyan")
        rows.add_row(Text(str(rank)), Text(f"{hit.score:.4f}"), review_id, Text(terminal_text(hit.content)))
    return rows


def failures_table(failures: Iterable[Failure], source: NamedItems) -> Table:
    """Return a table of failures: item, stage, error and number of attempts."""
    rows = named_table("Failed", "Stage", "Cause", "Attempts")
    rows.columns[2].ratio = 1
    rows.columns[3].justify = "right"
    for failure in failures:
        rows.add_row(
            name_cell(source, failure.item_id),
            Text(failure.stage),
            Text(terminal_text(error_text(failure.error)), style="red"),
            Text(str(failure.attempts)),
        )
    return rows


_MOST_CAUSES = 10


def causes_table(causes: Mapping[str, tuple[int, ItemId | None]], source: NamedItems) -> Table:
    """Return a table of the most frequent causes of failures: how many, and the item that failed by it first."""
    rows = named_table("For example", "Failures", "Cause")
    rows.columns[1].justify = "right"
    rows.columns[2].ratio = 1
    ranked = sorted(causes.items(), key=lambda cause: -cause[1][0])
    for cause, (number, example) in ranked[:_MOST_CAUSES]:
        text = Text(terminal_text(cause, MAX_MESSAGE), style="red")
        rows.add_row(name_cell(source, example), Text(f"{number:,}"), text)
    hidden = ranked[_MOST_CAUSES:]
    if hidden:
        failures = sum(number for _, (number, _) in hidden)
        rows.add_row("", f"{failures:,}", dim(f"of {counted(len(hidden), 'other cause', 'other causes')}"))
    return rows


def more(hidden: int, what: str) -> Text:
    """Return a line that says how many rows are hidden, and how to see them."""
    return dim(
        f"... and {hidden:,} more {what}; --show all shows all of them, --output FILE writes them to a file."
    )


MAX_WIDTH = 32


class StackedBar:
    """
    A stacked bar, as wide as its cell but at most `MAX_WIDTH` characters.

    Args:
        parts: Size, character and style of each part.
    """

    def __init__(self, parts: Sequence[tuple[int, str, str]]) -> None:
        self._parts = parts

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = min(options.max_width, MAX_WIDTH)
        sizes = [size for size, _, _ in self._parts]
        total = sum(sizes)
        # Round the ends of the parts and not their lengths, so that the parts fill the bar exactly.
        ends = [round(width * end / total) for end in accumulate(sizes)] if total else [0] * len(sizes)
        start = 0
        for end, (_, character, style) in zip(ends, self._parts, strict=True):
            yield Segment(character * (end - start), console.get_style(style))
            start = end
        yield Segment.line()
