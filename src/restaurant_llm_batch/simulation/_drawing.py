"""Drawing of a run's timeline as SVG, with matplotlib: ``pip install 'restaurant-llm-batch[plots]'``."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from io import StringIO
from typing import Any

from ..errors import ConfigurationError
from ..events import Event
from ._timeline import STEPS, Fate, Layout, Spans, lay_out, level

try:
    from matplotlib import rc_context
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.collections import PolyCollection
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch
    from matplotlib.ticker import MaxNLocator
except ImportError as _error:
    raise ImportError(
        "a timeline needs matplotlib; install it with: pip install 'restaurant-llm-batch[plots]'",
        name="matplotlib",
    ) from _error

MOST_BARS, MOST_ROWS = 2000, 80
"""Calls, and calls at once, above which their number is drawn instead of each of them."""
_ROW, _MOST_HEIGHT = 0.16, 6.0
"""Height of a slot's row, and of all of them at most, in inches."""
_WIDTH, _LEFT, _RIGHT = 9.0, 0.65, 0.2
_TOP, _GAP, _WAITS, _BOTTOM = 0.35, 0.12, 0.6, 0.75
"""Margins, and the height of the waits, in inches."""
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
"""Characters that XML does not allow, or that show nothing."""

_COLOURS: dict[Fate, str] = {
    "answered": "#4878a8",
    "retried": "#e8a33d",
    "refused": "#c8543c",
    "failed": "#7b2d26",
    "cancelled": "#9a9a9a",
}
"""Colour-blind safe: they differ in lightness, too."""
_LEGEND: dict[Fate, str] = {
    "answered": "answered",
    "retried": "failed, tried again",
    "refused": "refused",
    "failed": "failed for good",
    "cancelled": "cut off by the end",
}
_WAITING, _BACKING_OFF = "#b9cde0", "#f0d4a8"


def draw(events: Sequence[Event], title: str) -> str:
    """
    Return the timeline of a run as SVG; see `Simulation.timeline`.

    Raises:
        ConfigurationError: There are no events.
    """
    if not events:
        raise ConfigurationError(
            "the events of this simulation were not kept, because its outcomes were handed over; "
            "leave on_outcome out to draw a timeline"
        )
    layout = lay_out(events)
    many = len(layout.bars) > MOST_BARS or layout.rows > MOST_ROWS
    height = 2.2 if many else min(_MOST_HEIGHT, max(1.0, _ROW * layout.rows))
    style: Any = {
        "svg.hashsalt": "restaurant-llm-batch",  # equal runs have equal files
        "svg.fonttype": "none",  # text stays text: Korean is shown in the reader's font
        "font.size": 9.0,
    }
    with rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure = Figure(figsize=(_WIDTH, _TOP + height + _GAP + _WAITS + _BOTTOM))
        FigureCanvasSVG(figure)
        waits = _add_axes(figure, _BOTTOM, _WAITS)
        calls = _add_axes(figure, _BOTTOM + _WAITS + _GAP, height)
        _draw_areas(calls, layout) if many else _draw_bars(calls, layout)
        calls.tick_params(labelbottom=False)
        calls.set_title(_UNSEEN.sub(" ", title), loc="left", fontsize=10, parse_math=False)
        _draw_waits(waits, layout)
        _add_legend(figure, layout)
        output = StringIO()
        figure.savefig(output, format="svg", metadata={"Date": None})
    svg = output.getvalue()
    return svg[svg.index("<svg") :]


def _add_axes(figure: Figure, bottom: float, height: float) -> Axes:
    """Add axes of a height in inches. No layout engine does it: it would measure texts in fonts that lack them."""
    whole = figure.get_figheight()
    width = _WIDTH - _LEFT - _RIGHT
    return figure.add_axes((_LEFT / _WIDTH, bottom / whole, width / _WIDTH, height / whole))


def _draw_bars(axes: Axes, layout: Layout) -> None:
    # Between bars, in points: narrow bars have narrow gaps.
    gap = min(0.5, 6 * layout.rows / (1 + len(layout.bars)))
    for fate, colour in _COLOURS.items():
        bars = [(bar, bar.row + 0.6) for bar in layout.bars if bar.fate == fate]
        corners = [
            [(bar.start, y), (bar.end, y), (bar.end, y + 0.8), (bar.start, y + 0.8)] for bar, y in bars
        ]
        axes.add_collection(PolyCollection(corners, facecolor=colour, edgecolor="white", linewidth=gap))
        if fate != "answered":  # a refusal takes a thousandth of the time of an answer, and has to be seen
            starts, rows = [bar.start for bar, _ in bars], [bar.row + 1 for bar, _ in bars]
            axes.plot(starts, rows, "|", color=colour, markersize=5, markeredgewidth=1.2)
    axes.set_ylim(layout.rows + 0.6, 0.4)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_ylabel("slot of the model")
    _tidy(axes, layout)


def _draw_areas(axes: Axes, layout: Layout) -> None:
    _fill(axes, [(bar.start, bar.end) for bar in layout.bars], layout.seconds, _COLOURS["answered"])
    width = (layout.seconds or 1.0) / STEPS
    for fate in ("retried", "refused", "failed", "cancelled"):
        moments = sorted({int(bar.start / width) * width for bar in layout.bars if bar.fate == fate})
        axes.plot(moments, [0.0] * len(moments), "|", color=_COLOURS[fate], markersize=9, clip_on=False)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_ylabel("calls in flight")
    _tidy(axes, layout)


def _draw_waits(axes: Axes, layout: Layout) -> None:
    _fill(axes, layout.waiting + layout.backing_off, layout.seconds, _BACKING_OFF)
    _fill(axes, layout.waiting, layout.seconds, _WAITING)
    axes.set_ylabel("waiting")
    axes.set_xlabel("seconds")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=2))
    _tidy(axes, layout)


def _fill(axes: Axes, spans: Spans, seconds: float, colour: str) -> None:
    moments, numbers = level(spans, seconds)
    axes.fill_between(moments, numbers, step="post", color=colour, linewidth=0)
    axes.set_ylim(0, max(1.0, axes.get_ylim()[1], 1.05 * max(numbers)))


def _tidy(axes: Axes, layout: Layout) -> None:
    axes.set_xlim(0, layout.seconds or 1.0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", linewidth=0.4, alpha=0.5)
    axes.set_axisbelow(True)


def _add_legend(figure: Figure, layout: Layout) -> None:
    fates = {bar.fate for bar in layout.bars}
    entries = [(_COLOURS[fate], _LEGEND[fate]) for fate in _COLOURS if fate in fates]
    entries += [(_WAITING, "waiting for a slot")] * bool(layout.waiting)
    entries += [(_BACKING_OFF, "waiting to try again")] * bool(layout.backing_off)
    if entries:
        patches = [Patch(color=colour, label=label) for colour, label in entries]
        figure.legend(handles=patches, loc="lower center", ncols=len(entries), frameon=False, fontsize=8)
