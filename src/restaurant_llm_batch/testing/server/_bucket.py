"""A token bucket that is told the time, and its rate, whenever it is asked."""

from __future__ import annotations

from math import inf


class Bucket:
    """
    Fills at a rate up to what it holds; full at first.

    Rate and size come with each call, so that both may change while the server runs.
    """

    def __init__(self) -> None:
        self._level: float | None = None
        self._at = 0.0

    def wait(self, amount: float, rate: float, holds: float, now: float) -> float:
        """Return the seconds until so much is in it; 0.0 when it is, infinite when it never will be."""
        if self._level is None:
            self._level = holds
        else:
            self._level = min(holds, self._level + max(0.0, now - self._at) * rate)
        self._at = now
        if amount > holds:
            return inf
        # A wait that was waited out exactly must do, so rounding is forgiven.
        return 0.0 if self._level >= amount - 1e-6 else (amount - self._level) / rate

    def take(self, amount: float) -> None:
        """Take so much, after `wait` said 0."""
        if self._level is not None:
            self._level -= amount

    def left(self) -> int:
        """Return how much was in it when it was last asked."""
        return max(0, int(self._level or 0))
