"""Layout of a run's timeline, computed from its events: calls in rows, and the waits beside them."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import accumulate
from typing import Any, Literal, NamedTuple, TypeAlias

from ..events import CallEnded, CallStarted, Event, RetryScheduled, RunEnded, RunStarted

STEPS = 600
"""Most steps of a `level`: of one that changes more often, each step is a mean."""

Fate: TypeAlias = Literal["answered", "retried", "refused", "failed", "cancelled"]
"""How a call ended; "retried" if it failed and was made again, "refused" if the service had no room for it."""
Spans: TypeAlias = list[tuple[float, float]]
"""From when until when, in seconds from the start of the run."""


class Bar(NamedTuple):
    """A call of the model, in a row from 0, and in seconds from the start of the run."""

    row: int
    start: float
    end: float
    fate: Fate


@dataclass(frozen=True, slots=True)
class Layout:
    """
    What a timeline shows.

    Attributes:
        seconds: Length of the run.
        bars: Calls of the model, by their start.
        waiting: When calls waited for the runner's limits.
        backing_off: When calls waited to be tried again.
    """

    seconds: float
    bars: list[Bar] = field(default_factory=list)
    waiting: Spans = field(default_factory=list)
    backing_off: Spans = field(default_factory=list)

    @property
    def rows(self) -> int:
        """Most calls at once."""
        return 1 + max((bar.row for bar in self.bars), default=0)


def lay_out(events: Iterable[Event]) -> Layout:
    """Return the layout of a run, in which each call has the first row that is free."""
    began, ended = 0.0, 0.0
    open_calls: dict[tuple[Any, ...], deque[float]] = defaultdict(deque)
    calls: list[tuple[float, float, Fate]] = []
    failed: dict[int, int] = {}  # places in `calls`, by the identity of the error
    waiting: Spans = []
    backing_off: Spans = []
    for event in events:
        ended = max(ended, event.time)
        match event:
            case RunStarted():
                began = event.time
            case CallStarted(stage="llm"):
                open_calls[event.item_id, event.label, event.attempt].append(event.time)
                if event.queue_seconds > 0:
                    waiting.append((event.time - event.queue_seconds, event.time))
            case CallEnded(stage="llm"):
                start = event.time - event.seconds
                alike = open_calls[event.item_id, event.label, event.attempt]
                if alike:
                    alike.remove(min(alike, key=lambda moment: abs(moment - start)))
                if event.error is not None:
                    failed[id(event.error)] = len(calls)
                calls.append((start, event.time, "answered" if event.error is None else "failed"))
            case RetryScheduled(stage="llm"):
                backing_off.append((event.time, event.time + event.wait))
                place = failed.pop(id(event.error), None)
                if place is not None:
                    calls[place] = (*calls[place][:2], "refused" if event.rate_limited else "retried")
            case RunEnded():
                ended = event.time
    calls += [(start, ended, "cancelled") for alike in open_calls.values() for start in alike]

    def moved(spans: Spans) -> Spans:
        return [(start - began, min(end, ended) - began) for start, end in spans]

    bars = _place([(start - began, end - began, fate) for start, end, fate in calls])
    return Layout(ended - began, bars, moved(waiting), moved(backing_off))


def _place(calls: Iterable[tuple[float, float, Fate]]) -> list[Bar]:
    bars: list[Bar] = []
    free: list[int] = []
    busy: list[tuple[float, int]] = []
    rows = 0
    for start, end, fate in sorted(calls):
        while busy and busy[0][0] <= start + 1e-9:
            heappush(free, heappop(busy)[1])
        if free:
            row = heappop(free)
        else:
            row, rows = rows, rows + 1
        bars.append(Bar(row, start, end, fate))
        heappush(busy, (end, row))
    return bars


def level(spans: Iterable[tuple[float, float]], seconds: float) -> tuple[list[float], list[float]]:
    """Return how many of the spans there are at once: moments, and the number from each of them to the next."""
    changes: defaultdict[float, int] = defaultdict(int, {0.0: 0, seconds: 0})
    for start, end in spans:
        changes[start] += 1
        changes[end] -= 1
    moments = sorted(changes)
    numbers = [float(number) for number in accumulate(changes[moment] for moment in moments)]
    return (moments, numbers) if len(moments) <= STEPS else _means(moments, numbers, seconds)


def _means(
    moments: Sequence[float], numbers: Sequence[float], seconds: float
) -> tuple[list[float], list[float]]:
    width = seconds / STEPS
    areas = [0.0] * STEPS
    for number, start, end in zip(numbers, moments, moments[1:], strict=False):
        for step in range(max(0, int(start / width)), min(STEPS - 1, int(end / width)) + 1):
            areas[step] += number * max(0.0, min(end, (step + 1) * width) - max(start, step * width))
    return [step * width for step in range(STEPS + 1)], [area / width for area in areas] + [0.0]
