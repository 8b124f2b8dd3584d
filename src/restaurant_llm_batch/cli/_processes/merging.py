"""Merger: puts the events of several processes in the order of their times."""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import count
from typing import Generic, TypeVar

T = TypeVar("T")

PATIENCE = 1.0
"""Seconds for which events wait for a process that tells nothing: it may be paused, or busy."""


class Merger(Generic[T]):
    """Events with their times, by several processes; one is due when every process has told what came before it."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, T]] = []
        self._number = count().__next__
        self._told: dict[int, float] = {}

    def add(self, time: float, event: T) -> None:
        """Add an event."""
        heappush(self._heap, (time, self._number(), event))

    def told_until(self, process: int, time: float) -> None:
        """Record that a process has told everything until a time."""
        self._told[process] = time

    def remove(self, process: int) -> None:
        """Wait no more for a process."""
        self._told.pop(process, None)

    def due(self, now: float) -> list[T]:
        """Return the events that are due, in order."""
        until = max(min(self._told.values(), default=now), now - PATIENCE)
        due: list[T] = []
        while self._heap and self._heap[0][0] <= until:
            due.append(heappop(self._heap)[2])
        return due

    def rest(self) -> list[T]:
        """Return all events that are left, in order."""
        return [heappop(self._heap)[2] for _ in range(len(self._heap))]
