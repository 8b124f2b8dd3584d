"""Holding Ctrl-C back for a moment in which an interruption would lose something that is paid for."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class HeldSignals:
    """
    In this block the main thread's first Ctrl-C, or SIGTERM with a handler, waits for the block's end.

    A second one goes through. In other threads, which Python interrupts with no signal, it does nothing.
    """

    def __init__(self) -> None:
        self._handlers: dict[int, Any] = {}
        self._came: tuple[int, FrameType | None] | None = None

    def __enter__(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.getsignal(number)
            if callable(handler):
                try:
                    signal.signal(number, self._note)
                except ValueError:  # an interpreter within another one gets no signals
                    return
                self._handlers[number] = handler

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if self._came is not None:
            number, frame = self._came
            self._handlers[number](number, frame)

    def _note(self, number: int, frame: FrameType | None) -> None:
        first = self._came is None
        self._came = (number, frame)
        if not first:
            self._came = None
            self._handlers[number](number, frame)
