"""Closing what others may be in the middle of using."""

from __future__ import annotations

import threading


class InUse:
    """
    How many calls use something that is to be closed when nobody does.

    A runner closes a backend when its own work is over; another runner, or a thread that was let go, may be
    in the middle of a call. To cut that off would make it be paid for twice, or leave its fate unknown.
    """

    def __init__(self) -> None:
        self._calls = 0
        self._to_close = False
        self._lock = threading.Lock()

    def enter(self) -> None:
        """Note a call."""
        with self._lock:
            self._calls += 1

    def leave(self) -> bool:
        """Note a call's end; return whether to close now."""
        with self._lock:
            self._calls -= 1
            return self._due()

    def close(self) -> bool:
        """Ask to close; return whether to do so now, rather than when the last call has ended."""
        with self._lock:
            self._to_close = True
            return self._due()

    def _due(self) -> bool:
        due = self._to_close and not self._calls
        if due:
            self._to_close = False
        return due
