"""Counting calls in flight, truly: from when a call is begun to when its backend has returned."""

from __future__ import annotations

import threading
from collections import Counter


class Meter:
    """
    The calls of one run in flight, by stage.

    Not counted from events: a blocking call returns in its thread, a moment before the run hears of it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._in_flight: Counter[str] = Counter()
        self._peak: dict[str, int] = {}

    def enter(self, stage: str, weight: int) -> None:
        """Note that a call begins."""
        with self._lock:
            now = self._in_flight[stage] = self._in_flight[stage] + weight
            if now > self._peak.get(stage, 0):
                self._peak[stage] = now

    def leave(self, stage: str, weight: int) -> None:
        """Note that a call has returned."""
        with self._lock:
            self._in_flight[stage] -= weight

    def peak(self) -> dict[str, int]:
        """Return the most that were in flight at once, by stage."""
        with self._lock:
            return dict(self._peak)
