"""What a command says when its run is done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.padding import Padding

from ..outcomes import RunStats
from . import _footer as footer
from . import _tables as tables
from ._gathering import Gathered
from ._options import Work
from ._results import R, View


def console(*, stderr: bool = False) -> Console:
    """Return a console that prints texts as they are."""
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False)


def show(
    out: Console,
    gathered: Gathered[R],
    view: View[R],
    work: Work,
    stats: RunStats,
    *,
    written: bool,
    quiet: bool,
) -> None:
    """
    Print results, failures and what the run took.

    Args:
        out: Where to.
        gathered: What the run brought.
        view: How its results are shown.
        work: What there was to do.
        stats: What it took.
        written: Whether the results were written elsewhere.
        quiet: Whether to leave out what is not a result.
    """
    results, failures = gathered.results, gathered.failures
    if results and not (quiet and written):
        out.print(view.table(results, work.known))
        _print_more(out, results, gathered.done, view.what)
    if failures:
        out.print(tables.failures_table(failures, work.known))
        _print_more(out, failures, gathered.failed, "failure")
    if not quiet:
        out.print(Padding(footer.footer(gathered, view, work, stats), (0, 1)))


def _print_more(out: Console, shown: Sequence[Any], total: int, what: str) -> None:
    left = total - len(shown)
    if left:
        out.print(Padding(tables.more(left, what if left == 1 else f"{what}s"), (0, 1, 1, 1)))
