"""Progress bars for terminals and notebooks (`RichProgress`), with the wait that holds a run up."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from threading import Lock
from time import monotonic
from typing import Self

from .._text import terminal_text
from ..events import Event, ItemEnded, RetryScheduled, RunEnded, RunStarted
from ._tally import ProgressState, duration

try:
    from rich.console import Console, Group, RenderableType
    from rich.errors import LiveError
    from rich.live import Live
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text
except ImportError as _error:
    raise ImportError("RichProgress needs rich: pip install 'restaurant-llm-batch[cli]'") from _error

__all__ = ["RichProgress"]

_MAX_WIDTH = 100
_REFRESHES_PER_SECOND = 8


class RichProgress:
    """
    Displays the progress of runs, and what they wait for.

        runner = BatchRunner(llm=..., search=..., observers=[RichProgress()])

    In a terminal or a notebook it shows a bar, the calls in flight, the retries, rate-limited calls and failures so
    far, and the current wait if there is one. Elsewhere it prints a plain line from time to time. At its end a notebook
    shows the statistics of the run in place of the bar. One instance may display several runs at once, of runners in
    several threads.
    """

    def __init__(
        self,
        *,
        console: Console | None = None,
        what: str = "restaurants",
        transient: bool = False,
        plain_every: float = 10.0,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """
        Prepare a display; it appears when a run starts.

        Args:
            console: The console to draw on; None for standard error.
            what: Plural noun for the items.
            transient: Whether to remove the display when the runs end, instead of leaving its last state.
            plain_every: Seconds between two plain lines if the console cannot be redrawn; 0 for no lines.
            clock: Returns the time in seconds; monotonic.
        """
        self._console = Console(stderr=True) if console is None else console
        self._what = what
        self._transient = transient
        self._plain_every = plain_every
        self._clock = clock
        self._note = ""
        self._states: dict[int, ProgressState] = {}
        self._last_line = clock()
        # Always acquired in this order. Two, because rich calls `_draw` while it holds its own lock: starting or
        # stopping the display under `_counts` would deadlock.
        self._display = Lock()
        self._counts = Lock()
        self._live: Live | None = None
        self._redraws = _can_redraw(self._console)

    def __call__(self, event: Event, /) -> None:
        """Update the display with an event."""
        now = self._clock()
        with self._counts:
            if isinstance(event, RunStarted) and event.run not in self._states:
                self._states[event.run] = ProgressState()
            state = self._states.get(event.run)
            if state is None:
                return
            state.handle(event, now)
            line = None if self._redraws else self._line_due(event, state, now)
            if state.ended is not None:
                del self._states[event.run]
        if line is not None:
            self._console.print(Text(terminal_text(line)), soft_wrap=True)
        if self._redraws and isinstance(event, (RunStarted, RunEnded)):
            self._start_or_stop(state, now)
        if isinstance(event, RunEnded) and self._console.is_jupyter and not self._transient:
            from IPython.display import display

            display(event.stats)  # type: ignore[no-untyped-call]

    @property
    def in_flight(self) -> int:
        """Number of calls in flight now. Takes no lock, so that a signal handler may read it."""
        return sum(sum(list(state.in_flight.values())) for state in list(self._states.values()))

    @property
    def batches(self) -> int:
        """Number of provider's batches that go on. Takes no lock, as `in_flight`."""
        return sum(len(state.batches) for state in list(self._states.values()))

    def note(self, text: str) -> bool:
        """
        Show a line of text under the bars from now on.

        Takes no lock and draws nothing, so that a signal handler may call it.

        Returns:
            Whether a display is running that will show the line.
        """
        self._note = text
        return self._live is not None

    def close(self) -> None:
        """Stop the display, even if runs have not ended."""
        with self._counts:
            self._states.clear()
        with self._display:
            self._stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start_or_stop(self, state: ProgressState, now: float) -> None:
        with self._display:
            with self._counts:
                has_open_runs = bool(self._states)
            if has_open_runs and self._live is None:
                self._start()
            if state.ended is not None and not self._transient and not self._console.is_jupyter:
                self._console.print(Group(*self._rows(state, now)))
            if not has_open_runs:
                self._stop()

    def _start(self) -> None:
        # rich may capture the program's standard output only if that is a terminal: redirected to a file, it must
        # not end up on the console.
        redirect = self._console.is_jupyter or sys.stdout.isatty()
        live = Live(
            console=self._console,
            get_renderable=self._draw,
            refresh_per_second=_REFRESHES_PER_SECOND,
            transient=True,
            redirect_stdout=redirect,
        )
        try:
            live.start()
        except LiveError:
            # Older versions of rich allow one live display at a time, and the program already has one.
            self._redraws = False
        else:
            self._live = live

    def _stop(self) -> None:
        live, self._live, self._note = self._live, None, ""
        if live is not None:
            live.stop()

    def _draw(self) -> RenderableType:
        now = self._clock()
        with self._counts:
            rows = [row for state in self._states.values() for row in self._rows(state, now)]
        if self._note:
            rows.append(Text(self._note, style="bold"))
        return Group(*rows)

    def _rows(self, state: ProgressState, now: float) -> Iterator[RenderableType]:
        grid = Table.grid(padding=(0, 1))
        grid.width = min(self._console.width, _MAX_WIDTH)
        grid.add_column()
        grid.add_column(ratio=1)
        grid.add_column(justify="right", no_wrap=True)
        grid.add_column(no_wrap=True)
        grid.add_row(Text(self._what.capitalize()), _bar(state), Text(_share(state)), Text(_time(state, now)))
        yield grid
        if details := _details(state):
            yield Text(f"  {details}", style="dim", overflow="ellipsis", no_wrap=True)
        if waiting := state.waiting_for(now):
            yield Text(f"  {terminal_text(waiting)}", style="yellow", overflow="ellipsis", no_wrap=True)

    def _line_due(self, event: Event, state: ProgressState, now: float) -> str | None:
        if not self._plain_every:
            return None
        long_wait = isinstance(event, RetryScheduled) and event.wait >= self._plain_every
        ended = (
            isinstance(event, ItemEnded) and state.done == state.total and self._last_line > state.started_at
        ) or (state.ended is not None and state.is_stopping)
        if not ended and now - self._last_line < (1.0 if long_wait else self._plain_every):
            return None
        self._last_line = now
        parts = [f"{_share(state)} {self._what}", _details(state), state.waiting_for(now), _time(state, now)]
        return "; ".join(part for part in parts if part)


def _can_redraw(console: Console) -> bool:
    if console.is_jupyter:
        return find_spec("ipywidgets") is not None
    return console.is_terminal and not console.is_dumb_terminal


def _bar(state: ProgressState) -> ProgressBar:
    total = state.total if state.ended is None else state.total or state.done
    complete, finished = ("yellow", "yellow") if state.is_stopping else ("bar.complete", "bar.finished")
    # No items: a full bar. Unknown number of items (total None): rich draws a pulsing bar.
    total, done = (1, 1) if total == 0 else (total, state.finished)
    return ProgressBar(total=total, completed=done, complete_style=complete, finished_style=finished)


def _share(state: ProgressState) -> str:
    return f"{state.finished:,}" if state.total is None else f"{state.finished:,}/{state.total:,}"


def _time(state: ProgressState, now: float) -> str:
    if state.ended is not None:
        passed = duration(state.ended - state.started_at)
        return f"stopped after {passed}" if state.is_stopping else passed
    left = state.seconds_left(now)
    passed = duration(now - state.started_at)
    return passed if left is None else f"{passed}, about {duration(left)} left"


def _details(state: ProgressState) -> str:
    parts = [f"{stage} {number:,} in flight" for stage, number in state.in_flight.items() if number > 0]
    counted = (
        ("retries", state.retries),
        ("rate limited", state.rate_limited),
        ("failed", state.failed),
        ("stopped", state.stopped),
        ("not started", state.not_started),
    )
    parts += [f"{name} {number:,}" for name, number in counted if number]
    if state.ended is None and (load := state.load):
        parts.append(load)
    return " · ".join(parts)
