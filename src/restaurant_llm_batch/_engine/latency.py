"""
Latency histogram: quantiles of the durations of any number of calls, in bounded memory.

A bucket holds the durations that are equal in the upper half of a 32-bit float: eight significant bits, as in bfloat16
(https://en.wikipedia.org/wiki/Bfloat16_floating-point_format). So a quantile is exact to 0.4 %, from microseconds to
days, and a run has a few hundred buckets, 128 for each doubling of the duration at most. Durations are put into their
buckets a thousand at a time, in C: one by one that would cost every call ten times as much.
"""

from __future__ import annotations

import threading
from collections import Counter
from itertools import accumulate
from struct import pack, unpack

from ..outcomes import Latency

MAX_RECENT = 1024
"""Durations that are kept one by one before they are put into their buckets."""


class LatencyHistogram:
    """
    Durations of calls, in seconds. One thread adds them; any thread may summarise them.

    Attributes:
        recent: The latest durations. To add one, append it, and call `sort_in` when there are `MAX_RECENT`; that takes
            half the time of `add`.
    """

    __slots__ = ("_counts", "_lock", "_longest", "_shortest", "_sum", "recent")

    def __init__(self) -> None:
        self.recent: list[float] = []
        self._counts: Counter[int] = Counter()
        self._sum = 0.0
        self._shortest = float("inf")
        self._longest = 0.0
        self._lock = threading.Lock()

    def add(self, seconds: float) -> None:
        """Add a duration."""
        recent = self.recent
        recent.append(seconds)
        if len(recent) >= MAX_RECENT:
            self.sort_in()

    def sort_in(self) -> None:
        """Put the latest durations into their buckets."""
        with self._lock:
            durations, self.recent = self.recent, []
            self._counts.update(_buckets(durations))
            self._sum += sum(durations)
            self._shortest = min(self._shortest, *durations)
            self._longest = max(self._longest, *durations)

    def summary(self) -> Latency:
        """Return the quantiles of the durations so far. Thread-safe."""
        with self._lock:
            recent = self.recent[:]
            counts = self._counts.copy()
            total = self._sum + sum(recent)
            shortest, longest = min([self._shortest, *recent]), max([self._longest, *recent])
        counts.update(_buckets(recent))
        buckets = sorted(counts)
        ranks = list(accumulate(counts[bucket] for bucket in buckets))
        if not ranks:
            return Latency()

        def quantile(share: float) -> float:
            # The nearest rank: a duration that at least this share of the calls did not exceed.
            found = next(
                bucket for bucket, rank in zip(buckets, ranks, strict=True) if rank >= share * ranks[-1]
            )
            return min(longest, max(shortest, _middle(found)))

        return Latency(ranks[-1], total / ranks[-1], quantile(0.5), quantile(0.95), longest)


def _buckets(durations: list[float]) -> tuple[int, ...]:
    """Return the upper half of each duration as a 32-bit float."""
    halves = unpack(f"<{2 * len(durations)}H", pack(f"<{len(durations)}f", *durations))
    return halves[1::2]


def _middle(bucket: int) -> float:
    low, high = unpack("<2f", pack("<4H", 0, bucket, 0, bucket + 1))
    return float(low + high) / 2
