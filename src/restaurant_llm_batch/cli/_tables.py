"""Tables, and what goes into their cells."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from ..models import Hit, ItemId
from ..outcomes import Failure
from ._sources import NamedItems

_NAME_WIDTH = 18
_INVISIBLE = {ord("\N{VARIATION SELECTOR-16}"): None}


def clean(text: str) -> str:
    """Return a text on one line, without characters that move the cursor or whose width is in dispute."""
    flat = " ".join(text.translate(_INVISIBLE).split())
    return "".join(character for character in flat if character.isprintable())


def counted(number: int, one: str, several: str) -> str:
    """Return a number with the word for it."""
    return f"{number:,} {one if number == 1 else several}"


def dim(text: str) -> Text:
    """Return a text that is beside the point."""
    return Text(text, style="dim")


def table(*headers: str) -> Table:
    """Return a table without rows, as wide as the console."""
    made = Table(*headers, box=box.SIMPLE_HEAD, expand=True, header_style="bold", pad_edge=True)
    made.columns[-1].overflow = "fold"
    return made


def named_table(*headers: str) -> Table:
    """Return a table without rows, whose first column holds names (see `name_cell`)."""
    made = table(*headers)
    made.columns[0].width = _NAME_WIDTH
    return made


def name_cell(known: NamedItems, item_id: ItemId | None) -> Text:
    """Show a name, with the id below; or the id alone."""
    name = known.names.get(str(item_id))
    if name is None:
        return Text(clean(str(item_id)), style="bold", overflow="fold")
    cell = Text(clean(name), style="bold", overflow="fold")
    return cell.append(f"\n{clean(str(item_id))}", style="not bold dim")


def summary(text: str, reviews: int) -> Text:
    """Show what some reviews were summed up to."""
    if not text:
        return dim("no reviews")
    return Text(clean(text)).append(f" ({counted(reviews, 'review', 'reviews')})", style="dim")


def failed(what: str) -> Text:
    """Say that something failed."""
    return Text(f"failed: {clean(what)}", style="red")


def labelled(rows: Mapping[str, Text], *, wrap: bool = True, widest: int = 16) -> Table:
    """
    Show texts, each beside its label.

    Args:
        rows: The texts by label.
        wrap: Whether a text may take several lines, instead of being cut at the end of the first.
        widest: The width at which labels are cut.
    """
    grid = Table.grid(padding=(0, 2), expand=True)
    width = min(widest, max((cell_len(clean(label)) for label in rows), default=0))
    grid.add_column(style="cyan", no_wrap=True, overflow="ellipsis", width=width)
    grid.add_column(no_wrap=not wrap, overflow="fold" if wrap else "ellipsis", ratio=1)
    for label, text in rows.items():
        grid.add_row(Text(clean(label)), text)
    return grid


def hits_table(hits: Sequence[Hit]) -> Table:
    """Show the hits of a search."""
    shown = table("#", "Score", "Review", "Text")
    shown.columns[0].justify = "right"
    shown.columns[2].max_width = 20
    shown.columns[2].overflow = "fold"
    for rank, hit in enumerate(hits, 1):
        identity = Text(clean(str(hit.review_id)), style="cyan")
        shown.add_row(Text(str(rank)), Text(f"{hit.score:.4f}"), identity, Text(clean(hit.content)))
    return shown


def failures_table(failures: Iterable[Failure], known: NamedItems) -> Table:
    """Show what failed: where, why, and after how many attempts."""
    shown = named_table("Failed", "Stage", "Cause", "Attempts")
    shown.columns[2].ratio = 1
    shown.columns[3].justify = "right"
    for failure in failures:
        cause = f"{type(failure.error).__name__}: {failure.error}"
        shown.add_row(
            name_cell(known, failure.item_id),
            Text(failure.stage),
            Text(clean(cause), style="red"),
            Text(str(failure.attempts)),
        )
    return shown


def more(left: int, what: str) -> Text:
    """Say how many were left out and how to see them."""
    return dim(
        f"... and {left:,} more {what}; --show all shows all of them, --output FILE writes them to a file."
    )


MAX_WIDTH = 32


class StackedBar:
    """
    Shows shares of a whole, as wide as there is room but not wider than `MAX_WIDTH`.

    Args:
        parts: Each part's size, the character that it is drawn with, and its style.
    """

    def __init__(self, parts: Sequence[tuple[int, str, str]]) -> None:
        self._parts = parts

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = min(options.max_width, MAX_WIDTH)
        sizes = [size for size, _, _ in self._parts]
        whole = sum(sizes)
        # Rounding the ends rather than the lengths makes the parts fill the bar exactly.
        ends = [round(width * end / whole) for end in accumulate(sizes)] if whole else [0] * len(sizes)
        begin = 0
        for end, (_, character, style) in zip(ends, self._parts, strict=True):
            yield Segment(character * (end - begin), console.get_style(style))
            begin = end
        yield Segment.line()
