"""What `summarize` says when it is done."""

from __future__ import annotations

from rich.console import Console
from rich.padding import Padding

from ..report import RunStats
from . import tables
from .gathering import Gathered
from .sources import Source


def console(*, stderr: bool = False) -> Console:
    """Return a console that prints texts as they are."""
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False)


def show(
    out: Console,
    gathered: Gathered,
    stats: RunStats,
    source: Source,
    asked_for: int,
    quiet: bool,
    written: bool,
) -> None:
    """
    Print restaurants, failures and what the run took.

    Args:
        out: Where to.
        gathered: What the run brought.
        stats: What it took.
        source: Where the restaurants are from.
        asked_for: How many restaurants there were to do.
        quiet: Whether to leave out what is not a result.
        written: Whether the results were written elsewhere.
    """
    successes, failures = gathered.successes, gathered.failures
    if successes and not (quiet and written):
        out.print(tables.summaries_table(successes, source))
        _print_more(out, len(successes), gathered.done, "restaurant")
    if failures:
        out.print(tables.failures_table(failures, source))
        _print_more(out, len(failures), gathered.failed, "failure")
    if not quiet:
        out.print(Padding(tables.footer(gathered, stats, asked_for), (0, 1)))


def _print_more(out: Console, shown: int, total: int, what: str) -> None:
    if shown < total:
        out.print(
            Padding(tables.more(total - shown, what if total - shown == 1 else f"{what}s"), (0, 1, 1, 1))
        )
