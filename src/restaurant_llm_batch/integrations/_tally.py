"""Progress state of a run, computed from its events: items done, calls in flight, retries, and the current wait."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias, TypeVar

from ..errors import RateLimited
from ..events import (
    BatchProgress,
    CallEnded,
    CallStarted,
    Event,
    ItemEnded,
    LimitChanged,
    RetryScheduled,
    RunEnded,
    RunStarted,
    ServerRead,
)
from ..models import ItemId, ServerLoad
from ..outcomes import Failure, Reason

_T = TypeVar("_T")

_RECENT_ITEMS = 100
"""Number of latest items from which the remaining time is estimated."""
_SLOW_CALL_SECONDS = 5.0
"""Seconds after which a call in flight is reported as slow."""

Key: TypeAlias = tuple[str, str, int]
"""Stage, label and attempt of a call."""
_LOWERED: dict[Reason, str] = {
    "latency": "calls took too long",
    "server": "by the server's own load",
    "prompt_too_long": "a prompt was too long",
    "out_of_memory": "the server's memory was full",
}
"""What is said of a limit that was changed for these reasons."""


_GOES_ON = frozenset({"validating", "in_progress", "finalizing", "cancelling", ""})
"""Statuses of a batch that has not ended."""


@dataclass(slots=True)
class ProgressState:
    """
    Progress of one run.

    The caller passes in the time (`now`), in seconds on one monotonic clock of its choice.

    Attributes:
        started_at: Time of the run's start.
        total: Number of items; None if unknown.
        done: Number of items that ended, successfully or not.
        failed: Number of items that failed.
        stopped: Number of items that were not finished because the run stopped.
        is_stopping: Whether the run has stopped, or ends early.
        retries: Number of retries made or scheduled.
        rate_limited: Number of calls that the service refused (HTTP 429).
        in_flight: Number of calls in flight, by stage.
        without_broker: Limits whose broker does not answer, and the calls in flight that go on without it.
        lowered: Limits that were changed because of latency or the server's load, what they are, and why.
        servers: The loads of the model's servers that could be read last.
        preemptions: How often they have stopped a request to make room.
        batches: Provider's batches that go on: since when, and the latest that is known of each.
        runs: Number of open runs with this run number: runs of two runners may share it.
        ended: Time when the last of these runs ended, or None.
    """

    started_at: float = 0.0
    total: int | None = None
    done: int = 0
    failed: int = 0
    stopped: int = 0
    is_stopping: bool = False
    retries: int = 0
    rate_limited: int = 0
    in_flight: Counter[str] = field(default_factory=Counter)
    without_broker: dict[str, int] = field(default_factory=dict)
    lowered: dict[str, tuple[int, str]] = field(default_factory=dict)
    servers: dict[str, ServerLoad] = field(default_factory=dict)
    preemptions: int = 0
    batches: dict[str, tuple[float, BatchProgress]] = field(default_factory=dict)
    runs: int = 0
    ended: float | None = None
    _finished: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT_ITEMS))
    _calls: dict[ItemId, dict[Key, list[float]]] = field(default_factory=dict)
    _scheduled: dict[ItemId, dict[Key, list[tuple[float, str]]]] = field(default_factory=dict)

    def handle(self, event: Event, now: float) -> None:
        """Update the state with an event."""
        if isinstance(event, CallStarted):
            key = (event.stage, event.label, event.attempt)
            self.in_flight[event.stage] += event.weight
            self._calls.setdefault(event.item_id, {}).setdefault(key, []).append(now)
            _remove_oldest(self._scheduled, event.item_id, key)
        elif isinstance(event, CallEnded):
            self.in_flight[event.stage] -= event.weight
            self.rate_limited += isinstance(event.error, RateLimited)
            _remove_oldest(self._calls, event.item_id, (event.stage, event.label, event.attempt))
        elif isinstance(event, RetryScheduled):
            key = (event.stage, event.label, event.attempt + 1)
            retries = self._scheduled.setdefault(event.item_id, {}).setdefault(key, [])
            retries.append((now + event.wait, cause(event.error)))
            self.retries += 1
        elif isinstance(event, LimitChanged):
            self.without_broker.pop(event.limiter, None)
            self.lowered.pop(event.limiter, None)
            if event.reason == "no_broker":
                self.without_broker[event.limiter] = event.limit
            elif event.reason in _LOWERED:
                self.lowered[event.limiter] = event.limit, _LOWERED[event.reason]
        elif isinstance(event, ServerRead):
            self._server_read(event)
        elif isinstance(event, BatchProgress):
            since = self.batches.pop(event.batch, (now,))[0]
            if event.status in _GOES_ON:
                self.batches[event.batch] = since, event
        elif isinstance(event, ItemEnded):
            self._item_ended(event, now)
        elif isinstance(event, RunStarted):
            self._run_started(event, now)
        elif isinstance(event, RunEnded):
            self._run_ended(event, now)

    @property
    def finished(self) -> int:
        """Number of items that were finished: that succeeded or failed."""
        return self.done - self.stopped

    @property
    def not_started(self) -> int:
        """Number of items that were never started, once the run has ended."""
        return 0 if self.ended is None or self.total is None else max(0, self.total - self.done)

    @property
    def load(self) -> str:
        """The load of the model's servers in words; "" if it is not known."""
        return load_text(list(self.servers.values()), self.preemptions)

    def seconds_left(self, now: float) -> float | None:
        """Estimate the seconds until the run ends, from the rate of the latest items; None if unknown."""
        if self.total is None or not self._finished or self.is_stopping:
            return None
        # Until the window is full, the rate counts from the start of the run, so that a stall shows at once.
        full = len(self._finished) == _RECENT_ITEMS
        since = self._finished[0] if full else self.started_at
        at_current_rate = (self.total - self.done) * (now - since) / len(self._finished)
        return max(0.0, at_current_rate, *(due - now for due, _ in _flatten(self._scheduled)))

    def waiting_for(self, now: float) -> str | None:
        """Return a text that names the current wait (a broker, a retry delay, a slot, a slow call), or None."""
        for limiter, limit in self.without_broker.items():
            goes_on = f"goes on with {limit}" if limit else "starts nothing more"
            return f"no answer from the broker of the limit {limiter}: {goes_on}"
        retries = list(_flatten(self._scheduled))
        delayed = [retry for retry in retries if retry[0] > now]
        if delayed:
            first = min(due for due, _ in delayed)
            causes = Counter(error for _, error in delayed)
            return f"waiting {duration(first - now)}: {calls(len(delayed))} after {_most_common(causes)}"
        if retries:
            causes = Counter(error for _, error in retries)
            return f"waiting for a slot: {calls(len(retries))} to retry after {_most_common(causes)}"
        if self.is_stopping and self.batches:
            return "stopping: batches are not waited for"
        if self.is_stopping and (number := sum(self.in_flight.values())):
            return f"stopping: {calls(number)} in flight may finish"
        if self.batches:
            return _batches(list(self.batches.values()), now)
        oldest = now - min(_flatten(self._calls), default=now)
        if oldest >= _SLOW_CALL_SECONDS:
            number = sum(self.in_flight.values())
            return f"waiting for {calls(number)} in flight, the oldest for {duration(oldest)}"
        for limiter, (limit, why) in self.lowered.items():
            return f"limit {limiter} at {limit:,}: {why}"
        return None

    def _server_read(self, event: ServerRead) -> None:
        if event.load is None:
            self.servers.pop(event.server, None)
            return
        if event.server in self.servers:  # what it has counted before is of another time
            self.preemptions += event.preemptions
        self.servers[event.server] = event.load

    def _run_started(self, event: RunStarted, now: float) -> None:
        if not self.runs:
            self.started_at, self.total = now, event.total
        elif self.total is not None:
            self.total = None if event.total is None else self.total + event.total
        self.runs += 1

    def _run_ended(self, event: RunEnded, now: float) -> None:
        self.runs -= 1
        self.is_stopping = self.is_stopping or event.stats.stopped_because is not None
        if not self.runs:
            # A cancelled run emits no CallEnded for its calls in flight.
            self.ended = now
            self.in_flight.clear()
            self.batches.clear()
            self._calls.clear()
            self._scheduled.clear()

    def _item_ended(self, event: ItemEnded, now: float) -> None:
        self.done += 1
        if isinstance(event.outcome, Failure):
            stopped = event.outcome.stage == "run"
            self.stopped += stopped
            self.is_stopping = self.is_stopping or stopped
            self.failed += not stopped
        self._finished.append(now)
        item_id = event.outcome.item_id
        if item_id is not None:
            self._scheduled.pop(item_id, None)


class Load(Protocol):
    """The load of a server."""

    @property
    def running(self) -> int | None:
        """Requests that it works on."""
        ...

    @property
    def waiting(self) -> int | None:
        """Requests that wait for it."""
        ...

    @property
    def kv_usage(self) -> float | None:
        """Share of its KV cache in use."""
        ...


def load_text(loads: Sequence[Load], preemptions: int) -> str:
    """Return the load of servers in words; "" for none."""
    if not loads:
        return ""
    parts = [f"{sum(load.running or 0 for load in loads):,} running"]
    if waiting := sum(load.waiting or 0 for load in loads):
        parts.append(f"{waiting:,} waiting")
    usages = [load.kv_usage for load in loads if load.kv_usage is not None]
    if usages:
        parts.append(f"KV cache {max(usages):.0%}")
    if preemptions:
        parts.append(f"{preemptions:,} preempted")
    return f"server {', '.join(parts)}"


def _batches(batches: list[tuple[float, BatchProgress]], now: float) -> str:
    """Return a text that names batches, and how far they are."""
    lines, done = (sum(getattr(event, name) for _, event in batches) for name in ("lines", "done"))
    passed = duration(now - min(since for since, _ in batches))
    (_, first), *others = batches
    which = f"{len(batches)} batches" if others else f"batch {first.batch}"
    status = f" ({first.status})" if first.status and not others else ""
    return f"waiting for {which}{status}: {done:,} of {calls(lines)} answered, for {passed}"


def cause(error: BaseException) -> str:
    """Return the class name of an error, with its HTTP status if it has one."""
    status = getattr(error, "status", None)
    if status is None and isinstance(error, RateLimited):
        status = 429
    name = type(error).__name__
    return f"{status} ({name})" if status is not None else name


def calls(number: int) -> str:
    """Return a number of calls in words."""
    return "1 call" if number == 1 else f"{number:,} calls"


def duration(seconds: float) -> str:
    """Return a time span in words: "12 s", "3 min 05 s", "2 h 07 min"."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def _most_common(causes: Counter[str]) -> str:
    (first, _), *others = causes.most_common()
    return f"{first} and others" if others else first


def _remove_oldest(table: dict[ItemId, dict[Key, list[_T]]], item_id: ItemId, key: Key) -> None:
    """Remove the oldest entry of a key; an item may have several concurrent calls with the same key."""
    by_key = table.get(item_id, {})
    entries = by_key.get(key)
    if not entries:
        return
    del entries[0]
    if not entries:
        del by_key[key]
    if not by_key:
        del table[item_id]


def _flatten(table: dict[ItemId, dict[Key, list[_T]]]) -> Iterable[_T]:
    return (entry for by_key in table.values() for entries in by_key.values() for entry in entries)
