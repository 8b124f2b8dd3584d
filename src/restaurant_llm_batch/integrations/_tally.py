"""Counting what a run is doing right now, from its events; no display, no clock."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

from ..errors import RateLimited
from ..events import CallEnded, CallStarted, Event, ItemEnded, RetryScheduled, RunEnded, RunStarted
from ..models import ItemId
from ..outcomes import Failure

_T = TypeVar("_T")

_RECENT = 100
_NOTE_AFTER = 5.0

Key: TypeAlias = tuple[str, str, int]
"""Stage, what is called, and the attempt."""


@dataclass(slots=True)
class ProgressState:
    """
    What a run has done, and what it is waiting for.

    Times are those of whoever calls, on one clock of their choice.

    Attributes:
        started_at: When the run began.
        total: How many restaurants there are; None while that is not known.
        done: Restaurants that are over, whichever way.
        failed: Those that failed.
        stopped: Those that a stop of the run left unfinished.
        retries: Calls made again, or to be made again, after an error that may pass.
        rate_limited: Calls that the service refused.
        in_flight: Calls in flight, by stage.
        runs: How many runs of this number are going on: two runners may both have a first run.
        ended: When the last of them was over, or None.
    """

    started_at: float = 0.0
    total: int | None = None
    done: int = 0
    failed: int = 0
    stopped: int = 0
    retries: int = 0
    rate_limited: int = 0
    in_flight: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    ended: float | None = None
    _finished: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))
    _calls: dict[ItemId, dict[Key, list[float]]] = field(default_factory=dict)
    _planned: dict[ItemId, dict[Key, list[tuple[float, str]]]] = field(default_factory=dict)

    def handle(self, event: Event, now: float) -> None:
        """Take note of an event."""
        if isinstance(event, CallStarted):
            key = (event.stage, event.label, event.attempt)
            self.in_flight[event.stage] += event.weight
            self._calls.setdefault(event.item_id, {}).setdefault(key, []).append(now)
            _take(self._planned, event.item_id, key)
        elif isinstance(event, CallEnded):
            self.in_flight[event.stage] -= event.weight
            self.rate_limited += isinstance(event.error, RateLimited)
            _take(self._calls, event.item_id, (event.stage, event.label, event.attempt))
        elif isinstance(event, RetryScheduled):
            key = (event.stage, event.label, event.attempt + 1)
            waits = self._planned.setdefault(event.item_id, {}).setdefault(key, [])
            waits.append((now + event.wait, cause(event.error)))
            self.retries += 1
        elif isinstance(event, ItemEnded):
            self._item_ended(event, now)
        elif isinstance(event, RunStarted):
            self._run_started(event, now)
        elif isinstance(event, RunEnded):
            self._run_ended(now)

    def seconds_left(self, now: float) -> float | None:
        """Estimate how long the rest takes at the pace of the latest restaurants; None if unknown."""
        if self.total is None or not self._finished:
            return None
        # Before the window is full its pace counts from the start, so that a stall shows at once.
        full = len(self._finished) == _RECENT
        since = self._finished[0] if full else self.started_at
        at_this_pace = (self.total - self.done) * (now - since) / len(self._finished)
        return max(0.0, at_this_pace, *(due - now for due, _ in _flat(self._planned)))

    def waiting_for(self, now: float) -> str | None:
        """Say what is waited for, when there is something: a pause, a slot, or a slow answer."""
        waits = list(_flat(self._planned))
        coming = [wait for wait in waits if wait[0] > now]
        if coming:
            first = min(due for due, _ in coming)
            causes = Counter(why for _, why in coming)
            return f"waiting {duration(first - now)}: {calls(len(coming))} after {_listed(causes)}"
        if waits:
            causes = Counter(why for _, why in waits)
            return f"waiting for a slot: {calls(len(waits))} to be made again after {_listed(causes)}"
        oldest = now - min(_flat(self._calls), default=now)
        if oldest >= _NOTE_AFTER:
            number = sum(self.in_flight.values())
            return f"waiting for {calls(number)} in flight, the oldest for {duration(oldest)}"
        return None

    def _run_started(self, event: RunStarted, now: float) -> None:
        if not self.runs:
            self.started_at, self.total = now, event.total
        elif self.total is not None:
            self.total = None if event.total is None else self.total + event.total
        self.runs += 1

    def _run_ended(self, now: float) -> None:
        self.runs -= 1
        if not self.runs:
            # A run that was cancelled does not hear of its calls again.
            self.ended = now
            self.in_flight.clear()
            self._calls.clear()
            self._planned.clear()

    def _item_ended(self, event: ItemEnded, now: float) -> None:
        self.done += 1
        if isinstance(event.outcome, Failure):
            stopped = event.outcome.stage == "run"
            self.stopped += stopped
            self.failed += not stopped
        self._finished.append(now)
        item_id = event.outcome.item_id
        if item_id is not None:
            self._planned.pop(item_id, None)


def cause(error: BaseException) -> str:
    """Name an error in a word or two, with its HTTP status where there is one."""
    status = getattr(error, "status", None)
    if status is None and isinstance(error, RateLimited):
        status = 429
    name = type(error).__name__
    return f"{status} ({name})" if status is not None else name


def calls(number: int) -> str:
    """Count calls in words."""
    return "1 call" if number == 1 else f"{number:,} calls"


def duration(seconds: float) -> str:
    """Write a time span the way people say it."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def _listed(causes: Counter[str]) -> str:
    (most, _), *others = causes.most_common()
    return f"{most} and others" if others else most


def _take(where: dict[ItemId, dict[Key, list[_T]]], item_id: ItemId, key: Key) -> None:
    """Remove the oldest entry of a key; a key may occur several times at once."""
    of_item = where.get(item_id, {})
    entries = of_item.get(key)
    if not entries:
        return
    del entries[0]
    if not entries:
        del of_item[key]
    if not of_item:
        del where[item_id]


def _flat(where: dict[ItemId, dict[Key, list[_T]]]) -> Iterable[_T]:
    return (entry for of_item in where.values() for entries in of_item.values() for entry in entries)
