"""Running a command's task: the outcomes are written as they come, shown at the end, and Ctrl-C loses none."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import click
from rich.console import Console

from .._engine.streams import Outcomes
from .._runner import BatchRunner
from ..integrations.progress import RichProgress
from ..outcomes import Outcome
from . import _report as report
from ._backends import MakeLLM
from ._gathering import Gathered
from ._interrupts import Interrupts
from ._options import RunOptions
from ._results import R, View
from ._views import STDOUT, open_writer

_ENDING = """
Ctrl-C lets the calls in flight finish and shows what is done; pressed again, it cancels them.

Exit status: 0 all done, 1 some {what}s failed, 2 wrong usage, 130 interrupted.
"""


def command(
    name: str,
    help_text: str,
    parameters: Sequence[click.Parameter],
    options: type[RunOptions[R]],
    view: View[R],
    llms: Mapping[str, MakeLLM],
) -> click.Command:
    """
    Build a command that runs a task.

    Args:
        name: What it is called.
        help_text: What it says of itself, without what is true of all such commands.
        parameters: Its parameters, in the order to show them.
        options: Takes their values.
        view: How its results are shown.
        llms: What makes a model, by the name to choose it by.
    """
    callback = partial(_main, options, view, llms)
    ending = _ENDING.format(what=view.what)
    return click.Command(name, params=[*parameters], callback=callback, help=f"{help_text}{ending}")


def _main(
    kind: Callable[..., RunOptions[R]], view: View[R], llms: Mapping[str, MakeLLM], /, **given: Any
) -> None:
    options = kind(**given)
    task, llm = options.task, llms[options.llm](options.llm_settings)
    work = options.work(None if options.quiet else report.console(stderr=True))
    gathered: Gathered[R] = Gathered(options.show, view.lost)
    with ExitStack() as stack:
        if work.search is not None:
            stack.enter_context(work.search)
        writer = stack.enter_context(open_writer(options.output, options.paths))
        progress = stack.enter_context(_progress(options, f"{view.what}s"))
        runner = BatchRunner(llm=llm, search=work.search, observers=[progress], **options.runner_settings)
        stream = stack.enter_context(runner).stream(task, work.items)

        def take(outcome: Outcome[R]) -> None:
            gathered.add(outcome)
            writer.write(view.as_record(outcome))

        gathered.interrupted = _collect(stream, take, progress)
    out = report.console(stderr=options.output == STDOUT)
    written = options.output is not None
    report.show(out, gathered, view, work, stream.stats, written=written, quiet=options.quiet)
    if gathered.interrupted:
        sys.exit(130)
    sys.exit(0 if gathered.done == len(work.items) else 1)


def _collect(stream: Outcomes[R], take: Callable[[Outcome[R]], object], progress: RichProgress) -> bool:
    """Take every outcome, and tell whether Ctrl-C came in between."""
    interrupts = Interrupts(stream.stop, lambda: progress.in_flight, progress.note)

    def take_whole(outcome: Outcome[R]) -> None:
        with interrupts.held():
            take(outcome)

    with interrupts.listening():
        try:
            for outcome in stream:
                take_whole(outcome)
                if interrupts.count:
                    stream.stop()
        except KeyboardInterrupt as interrupt:
            left = getattr(interrupt, "report", None)
            for outcome in stream.close() if left is None else left.outcomes:
                take_whole(outcome)
            return True
        finally:
            stream.close()
    return bool(interrupts.count)


def _progress(options: RunOptions[R], what: str) -> RichProgress:
    if options.quiet:
        return RichProgress(console=Console(quiet=True, force_terminal=False), plain_every=0)
    # Lines written to a terminal would run into a bar that is redrawn there.
    plain = options.output == STDOUT and sys.stdout.isatty()
    console = Console(stderr=True, force_terminal=False if plain else None)
    return RichProgress(console=console, what=what, transient=True)
