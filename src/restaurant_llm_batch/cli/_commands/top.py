"""Command `top`: show a run while it goes on, and change its limits."""

from __future__ import annotations

from pathlib import Path

import click

from ...records._record import open_record
from .. import _report as report
from .._signals import terminated_like_interrupted
from .._top.prompt import parse_settings

_HELP = """
Show a run that is being recorded (--record FILE), and change its limits while it goes on.

Progress, slots, waits, rates, latencies, cost, slow items and failures are shown as they are; of a run that has ended,
as they were. In a terminal, type `set llm=16` to change a limit, and q to quit. In a script, add it to the command.
Elsewhere than in a terminal, a line is printed whenever something has changed.

\b
    restaurant-llm-batch top night.db
    restaurant-llm-batch top night.db --once
    restaurant-llm-batch top night.db set llm=16 search=4

What can be set: search, llm, batches, requests_per_minute and tokens_per_minute; llm_total and tokens_in_flight, if the
run has them. A higher limit lets waiting calls start at once; a lower one cancels no call.

Exit status: 0, or 2 if the run refuses or does not answer.
"""
_ON_TERMINAL, _IN_LINES = 1.0, 10.0
"""Seconds between two looks."""


def command() -> click.Command:
    """Build the command."""
    return click.Command(
        "top",
        params=[
            click.Argument(["file"], type=click.Path(path_type=Path), metavar="FILE"),
            click.Argument(["words"], nargs=-1, metavar="[set NAME=NUMBER...]"),
            click.Option(
                ["--run"], type=click.IntRange(min=1), metavar="N", help="The run; without it, the latest."
            ),
            click.Option(["--once"], is_flag=True, help="Show it once, and do not wait for its end."),
            click.Option(
                ["--every"],
                type=click.FloatRange(min=0.1, max=3600.0),
                metavar="SECONDS",
                help=f"Time between two looks. [default: {_ON_TERMINAL:g}, or {_IN_LINES:g} without a terminal]",
            ),
        ],
        callback=_main,
        help=_HELP,
    )


@terminated_like_interrupted()  # so that the terminal is left as it was
def _main(file: Path, words: tuple[str, ...], run: int | None, once: bool, every: float | None) -> None:
    settings = parse_settings(words) if words else []
    record = open_record(file)
    if settings:
        for name, value in settings:
            click.echo(record.set_limit(name, value, run))
        return
    from .._top.following import Follower  # other commands need no live display

    out = report.console()
    redraws = out.is_terminal and not out.is_dumb_terminal and not once
    follower = Follower(record, record.run(run).run, out, every or (_ON_TERMINAL if redraws else _IN_LINES))
    if once:
        follower.show()
    elif redraws:
        follower.on_terminal()
    else:
        follower.in_lines()
