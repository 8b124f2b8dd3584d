"""
Histogram of numbers of at least 0, in bounded memory: an aggregate function of SQL, ``sketch(seconds)``.

A bucket holds the numbers that are equal in the sign, the exponent and the first 10 bits of the fraction of a 32-bit
float, so a quantile is exact to 0.1 %, whatever the numbers are, and whole numbers up to 2,048 have buckets of their
own. Numbers are put into their buckets some thousand at a time, in C: one by one that would take most of the time of a
query. A sketch is JSON, and sketches can be added.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import floor
from struct import pack, unpack
from typing import Any

_DROPPED = 13
"""Bits of a 32-bit float that are left out."""
_STEPS = 1024
"""Buckets in a doubling of the numbers."""
_AT_ONCE = 4096
"""Numbers that are put into their buckets at once."""
_LARGEST = 3e38
"""The largest number; a 32-bit float is not much larger."""
BARS = 48
"""Most bars of a histogram."""
_LINEAR = 8.0
"""A histogram whose largest number is at most so many times its smallest has bars of equal width."""
_BUCKETS_OF_BAR = 6
"""Fewest buckets of a bar of equal width: with fewer, bars beside each other have unequal numbers of them."""


class SketchAggregate:
    """The aggregate function: `step` takes a number or None, `finalize` returns a sketch as JSON."""

    def __init__(self) -> None:
        self._sketch = Sketch()
        self._recent: list[Any] = []

    def step(self, value: object, /) -> None:
        """Add a number; anything else is left out."""
        if value is not None:
            self._recent.append(value)
            if len(self._recent) >= _AT_ONCE:
                self._sort_in()

    def _sort_in(self) -> None:
        self._sketch.add([value for value in self._recent if isinstance(value, int | float)])
        self._recent.clear()

    def finalize(self) -> str:
        """Return the sketch."""
        self._sort_in()
        found = self._sketch
        return json.dumps([found.count, found.total, found.least, found.most, dict(found.buckets)])


@dataclass(slots=True)
class Sketch:
    """
    A histogram of numbers.

    Attributes:
        count: How many numbers there are.
        total: Their sum.
        least: The smallest.
        most: The largest.
        buckets: How many stand in each bucket; those of 0 and less in bucket 0.
    """

    count: int = 0
    total: float = 0.0
    least: float = 0.0
    most: float = 0.0
    buckets: Counter[int] = field(default_factory=Counter)

    def add(self, values: Sequence[float]) -> None:
        """Add numbers."""
        if not values:
            return
        least, most = min(values), max(values)
        if least < 0 or most > _LARGEST:
            self.add([min(max(value, 0.0), _LARGEST) for value in values])
            return
        bits = unpack(f"<{len(values)}I", pack(f"<{len(values)}f", *values))
        self._widen(least, most)
        self.count += len(values)
        self.total += sum(values)
        self.buckets.update([number >> _DROPPED for number in bits])

    def merge(self, other: Sketch) -> None:
        """Add the numbers of another sketch."""
        if not other.count:
            return
        self._widen(other.least, other.most)
        self.count += other.count
        self.total += other.total
        self.buckets.update(other.buckets)

    def _widen(self, least: float, most: float) -> None:
        self.least = least if not self.count else min(self.least, least)
        self.most = most if not self.count else max(self.most, most)

    def quantile(self, share: float) -> float | None:
        """Return the number that a share of the numbers does not exceed; None if there is none."""
        if not self.count:
            return None
        wanted = max(1.0, share * self.count)
        for bucket in sorted(self.buckets):
            wanted -= self.buckets[bucket]
            if wanted <= 1e-9:
                return min(self.most, max(self.least, _middle(bucket)))
        return self.most

    def figures(self) -> dict[str, float | int | None]:
        """Return count, mean, median, 95th percentile and maximum."""
        return {
            "count": self.count,
            "mean": self.total / self.count if self.count else None,
            "p50": self.quantile(0.5),
            "p95": self.quantile(0.95),
            "max": self.most if self.count else None,
        }


def read_sketch(written: str | None) -> Sketch:
    """Return a sketch from its JSON."""
    if written is None:
        return Sketch()
    count, total, least, most, buckets = json.loads(written)
    return Sketch(count, total, least, most, Counter({int(key): n for key, n in buckets.items()}))


def histogram(series: Iterable[tuple[str, Sketch]], *, whole: bool = False) -> dict[str, Any] | None:
    """
    Return a histogram of several series with common bars, and the figures of each; None if all numbers are 0.

    Args:
        series: Names and sketches.
        whole: Whether the numbers are whole ones.
    """
    found = [(name, sketch) for name, sketch in series if sketch.count]
    above = [bucket for _, sketch in found for bucket in sketch.buckets if bucket]
    if not above:
        return None
    edges = _edges(_lower(min(above)), max(sketch.most for _, sketch in found), whole)
    return {
        "edges": edges,
        "series": [
            {"name": name, "counts": _counts(sketch, edges), "zeros": sketch.buckets[0], **sketch.figures()}
            for name, sketch in found
        ],
    }


def _edges(low: float, high: float, whole: bool) -> list[float]:
    if whole and high <= _STEPS and high - low < BARS:
        return [number - 0.5 for number in range(floor(low), floor(high) + 2)]
    if high <= low * _LINEAR:
        bars = max(1, min(BARS, int((high - low) / (high / _STEPS * _BUCKETS_OF_BAR))))
        width = max(high - low, high / _STEPS) / bars
        return [low + width * place for place in range(bars + 1)]
    factor = (high / low) ** (1 / BARS)
    return [low * factor**place for place in range(BARS + 1)]


def _counts(sketch: Sketch, edges: list[float]) -> list[int]:
    counts = [0] * (len(edges) - 1)
    place = 0
    for bucket in sorted(filter(None, sketch.buckets)):
        while place < len(counts) - 1 and _middle(bucket) >= edges[place + 1]:
            place += 1
        counts[place] += sketch.buckets[bucket]
    return counts


def _lower(bucket: int) -> float:
    (number,) = unpack("<f", pack("<I", bucket << _DROPPED))
    return float(number)


def _middle(bucket: int) -> float:
    return (_lower(bucket) + _lower(bucket + 1)) / 2 if bucket else 0.0


def add_functions(connection: sqlite3.Connection) -> None:
    """Let the statements of a connection use ``sketch``."""
    made: Any = SketchAggregate  # whose result is a text: mypy knows aggregates of integers only
    connection.create_aggregate("sketch", 1, made)
