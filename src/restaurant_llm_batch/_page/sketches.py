"""
Histogram of positive numbers as an aggregate function of SQL, in bounded memory: ``sketch(seconds)``.

A bucket is 1/512 of a factor of e wide, so a quantile is exact to 0.1 %, whatever the numbers are. A sketch is JSON; the
sketches of groups can be added.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import exp, floor, log
from typing import Any

_STEPS = 512
"""Buckets in a factor of e."""
BARS = 48
"""Most bars of a histogram."""
_LINEAR = 8.0
"""A histogram whose largest number is at most so many times its smallest has bars of equal width."""
_BUCKETS_OF_BAR = 6
"""Fewest buckets of a bar of equal width: with fewer, bars beside each other have unequal numbers of them."""
_EXACT = 200
"""Whole numbers up to this one have buckets of their own."""


class SketchAggregate:
    """The aggregate function: `step` takes a number or None, `finalize` returns a sketch as JSON."""

    def __init__(self) -> None:
        self._sketch = Sketch()

    def step(self, value: object) -> None:
        """Add a number; anything else is left out."""
        if isinstance(value, int | float):
            self._sketch.add(value)

    def finalize(self) -> str:
        """Return the sketch."""
        found = self._sketch
        return json.dumps([found.count, found.zeros, found.total, found.least, found.most, dict(found.buckets)])


@dataclass(slots=True)
class Sketch:
    """
    A histogram of numbers.

    Attributes:
        count: How many numbers there are.
        zeros: How many of them are 0 or less.
        total: Their sum.
        least: The smallest.
        most: The largest.
        buckets: How many stand in each bucket.
    """

    count: int = 0
    zeros: int = 0
    total: float = 0.0
    least: float = 0.0
    most: float = 0.0
    buckets: Counter[int] = field(default_factory=Counter)

    def add(self, value: float) -> None:
        """Add a number."""
        self.least = value if not self.count else min(self.least, value)
        self.most = value if not self.count else max(self.most, value)
        self.count += 1
        self.total += value
        if value > 0:
            self.buckets[floor(log(value) * _STEPS)] += 1
        else:
            self.zeros += 1

    def merge(self, other: Sketch) -> None:
        """Add the numbers of another sketch."""
        if not other.count:
            return
        self.least = other.least if not self.count else min(self.least, other.least)
        self.most = other.most if not self.count else max(self.most, other.most)
        self.count += other.count
        self.zeros += other.zeros
        self.total += other.total
        self.buckets.update(other.buckets)

    def quantile(self, share: float) -> float | None:
        """Return the number that a share of the numbers does not exceed; None if there is none."""
        if not self.count:
            return None
        wanted = max(1.0, share * self.count) - self.zeros
        if wanted <= 0:
            return max(0.0, self.least)
        for bucket in sorted(self.buckets):
            wanted -= self.buckets[bucket]
            if wanted <= 1e-9:
                return min(self.most, max(self.least, _middle(bucket)))
        return self.most

    def figures(self) -> dict[str, float | int | None]:
        """Return count, mean, median, 95th percentile and maximum."""
        mean = self.total / self.count if self.count else None
        return {
            "count": self.count,
            "mean": mean,
            "p50": self.quantile(0.5),
            "p95": self.quantile(0.95),
            "max": self.most if self.count else None,
        }


def read_sketch(written: str | None) -> Sketch:
    """Return a sketch from its JSON."""
    if written is None:
        return Sketch()
    count, zeros, total, least, most, buckets = json.loads(written)
    return Sketch(count, zeros, total, least, most, Counter({int(key): n for key, n in buckets.items()}))


def histogram(series: Iterable[tuple[str, Sketch]], *, whole: bool = False) -> dict[str, Any] | None:
    """
    Return a histogram of several series with common bars, and the figures of each; None if there are no numbers.

    Args:
        series: Names and sketches.
        whole: Whether the numbers are whole ones.
    """
    found = [(name, sketch) for name, sketch in series if sketch.count]
    above = [sketch for _, sketch in found if sketch.buckets]
    if not above:
        return None
    low = min(_lower(min(sketch.buckets)) for sketch in above)
    high = max(sketch.most for sketch in above)
    edges = _edges(low, high, whole)
    return {
        "edges": edges,
        "series": [
            {"name": name, "counts": _counts(sketch, edges), "zeros": sketch.zeros, **sketch.figures()}
            for name, sketch in found
        ],
    }


def _edges(low: float, high: float, whole: bool) -> list[float]:
    if whole and high <= _EXACT and high - low < BARS:
        return [number - 0.5 for number in range(round(low), round(high) + 2)]
    if high <= low * _LINEAR:
        bars = max(1, min(BARS, int((high - low) / (high / _STEPS * _BUCKETS_OF_BAR))))
        width = max(high - low, high / _STEPS) / bars
        return [low + width * place for place in range(bars + 1)]
    factor = (high / low) ** (1 / BARS)
    return [low * factor**place for place in range(BARS + 1)]


def _counts(sketch: Sketch, edges: list[float]) -> list[int]:
    counts = [0] * (len(edges) - 1)
    place = 0
    for bucket in sorted(sketch.buckets):
        middle = _middle(bucket)
        while place < len(counts) - 1 and middle >= edges[place + 1]:
            place += 1
        counts[place] += sketch.buckets[bucket]
    return counts


def _lower(bucket: int) -> float:
    return exp(bucket / _STEPS)


def _middle(bucket: int) -> float:
    return exp((bucket + 0.5) / _STEPS)


def add_functions(connection: sqlite3.Connection) -> None:
    """Let the statements of a connection use ``sketch``."""
    connection.create_aggregate("sketch", 1, SketchAggregate)
