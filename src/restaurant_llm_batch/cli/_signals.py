"""Ctrl-C and SIGTERM on the command line: the first stops a run softly, the second cancels it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from threading import current_thread, main_thread
from types import FrameType


@contextmanager
def terminated_like_interrupted() -> Iterator[None]:
    """Have SIGTERM raise `KeyboardInterrupt` during the block, as Ctrl-C does, unless it is ignored."""
    with handlers(signal.default_int_handler, signal.SIGTERM):
        yield


@contextmanager
def handlers(handler: Callable[[int, FrameType | None], object], *signals: signal.Signals) -> Iterator[None]:
    """Install a handler of signals for the block, unless they are ignored, and restore the previous ones."""
    with ExitStack() as stack:
        # Only the main thread can install handlers.
        for number in signals if current_thread() is main_thread() else ():
            previous = signal.getsignal(number)
            # A process started with SIGINT ignored (nohup, a background job of a shell) keeps ignoring it.
            if previous not in (signal.SIG_IGN, None):
                stack.callback(signal.signal, number, previous)
                signal.signal(number, handler)
        yield


class StopSignals:
    """
    Handles Ctrl-C and SIGTERM during a run: the first stops it softly, the second raises `KeyboardInterrupt`.

    Args:
        stop: Stops the run: calls in flight finish, and no item is started.
        describe: Returns a text about what is in flight; it is given what to do to cancel it.
        note: Shows a line in the progress display; returns False if there is no display.

    Attributes:
        count: How often Ctrl-C was pressed, or SIGTERM was sent.
    """

    def __init__(
        self, stop: Callable[[], object], describe: Callable[[str], str], note: Callable[[str], bool]
    ) -> None:
        self.count = 0
        self._stop = stop
        self._describe = describe
        self._note = note
        self._is_deferred = False
        self._is_pending = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Install the signal handler for the block, and restore the previous ones."""
        with handlers(self._on_signal, signal.SIGINT, signal.SIGTERM):
            yield

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Defer the `KeyboardInterrupt` of a second signal to the end of the block."""
        self._is_deferred = True
        try:
            yield
        finally:
            self._is_deferred = False
        if self._is_pending:
            self._is_pending = False
            raise KeyboardInterrupt

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self.count += 1
        if self.count == 1:
            # Counted before stop(), which may already end the calls.
            text = self._describe("press Ctrl-C" if number == signal.SIGINT else "send SIGTERM")
            self._stop()
            self._show(text)
        elif self._is_deferred:
            self._is_pending = True
        else:
            raise KeyboardInterrupt

    def _show(self, text: str) -> None:
        # Not print(): the handler may have interrupted a buffered write, which is not re-entrant.
        if not self._note(text):
            with suppress(OSError):
                os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"\n{text}\n".encode())
