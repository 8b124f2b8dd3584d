"""Running a command's task: the outcomes are written as they come, shown at the end, and Ctrl-C loses none."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from threading import current_thread, main_thread
from types import FrameType
from typing import Any

import click
from rich.console import Console

from .._engine.streams import OutcomeStream
from .._runner import BatchRunner
from ..integrations._tally import calls
from ..integrations.progress import RichProgress
from ..outcomes import Outcome
from . import _report as report
from ._backends import MakeLLM
from ._options import RunOptions
from ._report import ResultCollector
from ._views import STDOUT, R, ResultView, open_writer

_ENDING = """
Ctrl-C lets the calls in flight finish and shows what is done; pressed again, it cancels them.

Exit status: 0 all done, 1 some {what}s failed, 2 wrong usage, 130 interrupted.
"""


def command(
    name: str,
    help_text: str,
    parameters: Sequence[click.Parameter],
    options: type[RunOptions[R]],
    view: ResultView[R],
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
    kind: Callable[..., RunOptions[R]], view: ResultView[R], llms: Mapping[str, MakeLLM], /, **given: Any
) -> None:
    options = kind(**given)
    task, llm = options.task, llms[options.llm](options.llm_settings)
    work = options.work(None if options.quiet else report.console(stderr=True))
    gathered: ResultCollector[R] = ResultCollector(options.show, view.lost)
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


def _collect(stream: OutcomeStream[R], take: Callable[[Outcome[R]], object], progress: RichProgress) -> bool:
    """Take every outcome, and tell whether Ctrl-C came in between."""
    interrupts = SigintHandler(stream.stop, lambda: progress.in_flight, progress.note)

    def take_whole(outcome: Outcome[R]) -> None:
        with interrupts.deferred():
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


class SigintHandler:
    """
    Listens for Ctrl-C while a run goes on.

    Args:
        stop: Lets calls in flight end, and begins nothing more.
        in_flight: Tells how many calls are in flight.
        note: Shows a line in the progress display; returns whether there is one.

    Attributes:
        count: How often Ctrl-C was pressed.
    """

    def __init__(
        self, stop: Callable[[], object], in_flight: Callable[[], int], note: Callable[[str], bool]
    ) -> None:
        self.count = 0
        self._stop = stop
        self._in_flight = in_flight
        self._note = note
        self._held = False
        self._owed = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take Ctrl-C over, and give it back afterwards."""
        before = signal.getsignal(signal.SIGINT)
        # Only the main thread may; and a process that was told to ignore Ctrl-C goes on doing so.
        if current_thread() is not main_thread() or before in (signal.SIG_IGN, None):
            yield
            return
        signal.signal(signal.SIGINT, self._pressed)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Put off the second Ctrl-C, so that what happens inside is not done by halves."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        if self._owed:
            self._owed = False
            raise KeyboardInterrupt

    def _pressed(self, _signal: int, _frame: FrameType | None) -> None:
        self.count += 1
        if self.count == 1:
            in_flight = self._in_flight()
            self._stop()
            self._say(f"finishing {calls(in_flight)} in flight; press Ctrl-C again to cancel them")
        elif self._held:
            self._owed = True
        else:
            raise KeyboardInterrupt

    def _say(self, text: str) -> None:
        # What the handler interrupted may be in the middle of a buffered write, which must not be re-entered.
        if not self._note(text):
            with suppress(OSError):
                os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"\n{text}\n".encode())
