"""A progress display for terminals and notebooks, which says what a run is waiting for."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from threading import Lock
from time import monotonic
from typing import Self

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

_WIDEST = 100
_REFRESHES_PER_SECOND = 8


class RichProgress:
    """
    Shows how far runs are, and what they are waiting for.

        runner = BatchRunner(llm=..., search=..., observers=[RichProgress()])

    In a terminal or a notebook: a bar, the calls in flight, retries, refusals and failures so far, and a line
    that says what is waited for when something is. Anywhere else: a plain line now and then. It may watch
    several runs at once, and runners in several threads.
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
        Prepare a display; it appears when a run begins.

        Args:
            console: Where it goes; standard error if not given.
            what: What the items are called.
            transient: Whether it goes away when the runs are over, instead of staying as it was last.
            plain_every: Seconds between two lines where nothing can be redrawn; 0 for no lines at all.
            clock: Tells the time in seconds.
        """
        self._console = Console(stderr=True) if console is None else console
        self._what = what
        self._transient = transient
        self._plain_every = plain_every
        self._clock = clock
        self._note = ""
        self._tallies: dict[int, ProgressState] = {}
        self._last_line = clock()
        # Two locks, taken in this order only: rich draws, holding its own, while it asks us for the counts.
        self._display = Lock()
        self._counts = Lock()
        self._live: Live | None = None
        self._redraws = _can_redraw(self._console)

    def __call__(self, event: Event, /) -> None:
        """Take note of an event."""
        now = self._clock()
        with self._counts:
            if isinstance(event, RunStarted) and event.run not in self._tallies:
                self._tallies[event.run] = ProgressState()
            tally = self._tallies.get(event.run)
            if tally is None:
                return
            tally.handle(event, now)
            line = None if self._redraws else self._line_due(event, tally, now)
            if tally.ended is not None:
                del self._tallies[event.run]
        if line is not None:
            self._console.print(Text(line), soft_wrap=True)
        if self._redraws and isinstance(event, (RunStarted, RunEnded)):
            self._appear_or_go(tally, now)

    @property
    def in_flight(self) -> int:
        """Calls in flight now; takes no lock, so that a signal handler may ask."""
        return sum(sum(list(tally.in_flight.values())) for tally in list(self._tallies.values()))

    def note(self, text: str) -> bool:
        """
        Show a line under the bars from now on.

        Takes no lock and draws nothing, so that a signal handler may call it.

        Returns:
            Whether there is a display that will show it.
        """
        self._note = text
        return self._live is not None

    def close(self) -> None:
        """Take the display down, also when runs have not told that they are over."""
        with self._counts:
            self._tallies.clear()
        with self._display:
            self._take_down()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _appear_or_go(self, tally: ProgressState, now: float) -> None:
        with self._display:
            with self._counts:
                wanted = bool(self._tallies)
            if wanted and self._live is None:
                self._put_up()
            if tally.ended is not None and not self._transient:
                self._console.print(Group(*self._rows(tally, now)))
            if not wanted:
                self._take_down()

    def _put_up(self) -> None:
        # What the program prints to a file must not end up on the console.
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
            # Older versions of rich have room for one display, and somebody else's is up.
            self._redraws = False
        else:
            self._live = live

    def _take_down(self) -> None:
        live, self._live, self._note = self._live, None, ""
        if live is not None:
            live.stop()

    def _draw(self) -> RenderableType:
        now = self._clock()
        with self._counts:
            rows = [row for tally in self._tallies.values() for row in self._rows(tally, now)]
        if self._note:
            rows.append(Text(self._note, style="bold"))
        return Group(*rows)

    def _rows(self, tally: ProgressState, now: float) -> Iterator[RenderableType]:
        grid = Table.grid(padding=(0, 1))
        grid.width = min(self._console.width, _WIDEST)
        grid.add_column()
        grid.add_column(ratio=1)
        grid.add_column(justify="right", no_wrap=True)
        grid.add_column(no_wrap=True)
        grid.add_row(Text(self._what.capitalize()), _bar(tally), Text(_share(tally)), Text(_time(tally, now)))
        yield grid
        if details := _details(tally):
            yield Text(f"  {details}", style="dim", overflow="ellipsis", no_wrap=True)
        if waiting := tally.waiting_for(now):
            yield Text(f"  {waiting}", style="yellow", overflow="ellipsis", no_wrap=True)

    def _line_due(self, event: Event, tally: ProgressState, now: float) -> str | None:
        if not self._plain_every:
            return None
        long_wait = isinstance(event, RetryScheduled) and event.wait >= self._plain_every
        ended = (
            isinstance(event, ItemEnded) and tally.done == tally.total and self._last_line > tally.started_at
        )
        if not ended and now - self._last_line < (1.0 if long_wait else self._plain_every):
            return None
        self._last_line = now
        parts = [f"{_share(tally)} {self._what}", _details(tally), tally.waiting_for(now), _time(tally, now)]
        return "; ".join(part for part in parts if part)


def _can_redraw(console: Console) -> bool:
    if console.is_jupyter:
        return find_spec("ipywidgets") is not None
    return console.is_terminal and not console.is_dumb_terminal


def _bar(tally: ProgressState) -> ProgressBar:
    total = tally.total if tally.ended is None else tally.total or tally.done
    # A bar of nothing is full; one of unknown length only says that something is going on.
    return ProgressBar(total=1, completed=1) if total == 0 else ProgressBar(total=total, completed=tally.done)


def _share(tally: ProgressState) -> str:
    return f"{tally.done:,}" if tally.total is None else f"{tally.done:,}/{tally.total:,}"


def _time(tally: ProgressState, now: float) -> str:
    if tally.ended is not None:
        return duration(tally.ended - tally.started_at)
    left = tally.seconds_left(now)
    passed = duration(now - tally.started_at)
    return passed if left is None else f"{passed}, about {duration(left)} left"


def _details(tally: ProgressState) -> str:
    parts = [f"{stage} {number:,} in flight" for stage, number in tally.in_flight.items() if number > 0]
    counted = (
        ("retries", tally.retries),
        ("refused", tally.rate_limited),
        ("failed", tally.failed),
        ("stopped", tally.stopped),
    )
    parts += [f"{name} {number:,}" for name, number in counted if number]
    return " · ".join(parts)
