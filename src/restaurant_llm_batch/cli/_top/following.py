"""Following of a run until it ends: on a terminal that is redrawn, with a prompt line, or in plain lines."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from threading import Thread
from time import monotonic, sleep

import click
from rich.console import Console
from rich.layout import Layout
from rich.live import Live
from rich.text import Text

from ..._text import terminal_text
from ...errors import BatchError
from ...records._live import LiveView, Picture
from ...records._record import Record
from . import drawing
from .prompt import HELP, Keys, PromptLine, parse_settings

GONE_SECONDS = 60.0
"""Seconds without an event after which a run whose process is gone is taken for one that was killed."""


class Follower:
    """
    Shows a run until it ends.

    Args:
        record: The record.
        run: Number of the run.
        out: Console to draw on.
        every: Seconds between two looks.
    """

    def __init__(self, record: Record, run: int, out: Console, every: float) -> None:
        self._record = record
        self._run = run
        self._out = out
        self._every = every
        self._view = LiveView(record.path, run)
        self._prompt = PromptLine()
        self._message = ""

    def show(self) -> None:
        """Show it once."""
        self._out.print(drawing.draw(self._view.look()))

    def on_terminal(self) -> None:
        """Redraw it until it ends, or until "q" is pressed; then leave the last drawing."""
        picture = self._view.look()
        if not _is_over(picture):
            with ExitStack() as stack:
                keys = _open_keys(stack)
                live = stack.enter_context(
                    Live(console=self._out, screen=True, auto_refresh=False, redirect_stdout=False)
                )
                picture = self._redraw(live, keys, picture)
        self._out.print(drawing.draw(picture))

    def _redraw(self, live: Live, keys: Keys | None, picture: Picture) -> Picture:
        try:
            while not picture.ended:
                for _ in self._turns(keys):
                    live.update(self._screen(picture, keys), refresh=True)
                picture = self._view.look()
        except (_Quit, KeyboardInterrupt):
            pass
        return picture

    def _turns(self, keys: Keys | None) -> Iterator[None]:
        """Yield when the screen is to be drawn: now, and after each key, until the next look."""
        late = monotonic() + self._every
        shown = None
        while True:
            if shown != (self._prompt.text, self._message):
                shown = self._prompt.text, self._message
                yield
            left = late - monotonic()
            if left <= 0:
                return
            if keys is None:
                sleep(left)
                return
            typed = keys.read(min(left, 0.2))
            if typed is None:
                raise _Quit
            for line in self._prompt.type(typed):
                self._obey(line)

    def _obey(self, line: str) -> None:
        if line in ("q", "quit", "exit"):
            raise _Quit
        if line in ("?", "h", "help"):
            self._message = HELP
            return
        try:
            settings = parse_settings(line.split())
        except BatchError as error:
            self._message = str(error)
            return

        def ask() -> None:
            # Not in the loop: a run that hangs answers late, and the display goes on.
            answers: list[str] = []
            for name, value in settings:
                try:
                    answers.append(self._record.set_limit(name, value, self._run))
                except BatchError as error:
                    answers.append(str(error))
                self._message = "; ".join(answers)

        self._message = "asking the run ..."
        Thread(target=ask, name="restaurant-llm-batch-top", daemon=True).start()

    def _screen(self, picture: Picture, keys: Keys | None) -> Layout:
        layout = Layout()
        footer = Text(terminal_text(self._message or (HELP if keys else "")), style="yellow")
        if keys is not None:
            footer.append(f"\n> {terminal_text(self._prompt.text)}", style="not yellow bold")
        layout.split_column(Layout(drawing.draw(picture), name="run"), Layout(footer, name="prompt", size=3))
        return layout

    def in_lines(self) -> None:
        """Print a line whenever something has changed, until it ends."""
        before: object = None
        changes: set[object] = set()
        while True:
            picture = self._view.look()
            for change in picture.limits:
                if change not in changes:
                    changes.add(change)
                    click.echo(f"run {picture.run}: limit changed: {drawing.describe(change)}")
            counts = (picture.succeeded, picture.failed, picture.unfinished, picture.open)
            now = (*counts, picture.prompt_tokens, picture.ended, tuple(picture.limiters))
            if now != before:
                before = now
                click.echo(drawing.line(picture))
            sys.stdout.flush()
            if _is_over(picture):
                return
            sleep(self._every)


class _Quit(Exception):
    """The display is to be left."""


def _is_over(picture: Picture) -> bool:
    return picture.ended or (
        picture.silent > GONE_SECONDS and (picture.simulated or not drawing.is_here(picture.process))
    )


def _open_keys(stack: ExitStack) -> Keys | None:
    """Return the keys of the terminal; None if standard input is none, as in a pipe."""
    stdin: object = sys.stdin
    if os.name != "posix" or stdin is None or not sys.stdin.isatty():
        return None
    keys = Keys(sys.stdin.fileno())
    stack.enter_context(keys.unbuffered())
    return keys
