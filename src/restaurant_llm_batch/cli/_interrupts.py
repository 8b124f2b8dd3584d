"""Ctrl-C in two steps: the first lets calls in flight end, the second cancels them."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import current_thread, main_thread
from types import FrameType

from ..integrations._tally import calls


class Interrupts:
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
    def held(self) -> Iterator[None]:
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
