"""A bar of several parts, which can be told apart without colours too."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment

WIDEST = 32


class ShareBar:
    """
    Shows shares of a whole, as wide as there is room but not wider than `WIDEST`.

    Args:
        parts: Each part's size, the character that it is drawn with, and its style.
    """

    def __init__(self, parts: Sequence[tuple[int, str, str]]) -> None:
        self._parts = parts

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = min(options.max_width, WIDEST)
        sizes = [size for size, _, _ in self._parts]
        whole = sum(sizes)
        # Rounding the ends rather than the lengths makes the parts fill the bar exactly.
        ends = [round(width * end / whole) for end in accumulate(sizes)] if whole else [0] * len(sizes)
        begin = 0
        for end, (_, character, style) in zip(ends, self._parts, strict=True):
            yield Segment(character * (end - begin), console.get_style(style))
            begin = end
        yield Segment.line()
