"""
Live view of a run in a record: figures that are looked up again and again while the run goes on, at little cost.

Theory of operation. Rows of a run are numbered as they begin, and change once more, when they end. So a look reads the
rows that are new and those that were open at the last look, adds up what has ended among them, and remembers which are
open. The first look at a run reads all of its rows, in SQL; a later one costs what has happened since. When the run has
ended, one more look reads everything afresh, for what changed in another way (a reply that came too late).
"""

from __future__ import annotations

import json
import sqlite3
from bisect import insort
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import time
from typing import Any, NamedTuple

from .._store.database import StoreFile
from .._tables.rows import without_particulars
from ._recorded import LIMITERS, RecordedLimit, RecordedLimiter, RecordedServerLoad
from ._schema import RECORD
from ._snapshot import check_kind, has_table, read_snapshot

RECENT_SECONDS = 10.0
"""Seconds over which rates are computed."""
RECENT_CALLS = 1000
"""Latest calls of a label from which its latencies are computed."""
_RECENT_ITEMS = 100
"""Latest items from whose rate the remaining time is estimated."""
_FIRST_ROWS = 5_000
"""Latest calls and items of which the first look reads more than sums."""
SHOWN = 5
"""Slow items, and changes of limits, that are kept."""


class Cause(NamedTuple):
    """Failures of one cause (see `BatchReport.failures_by_cause`): how many items, and the id of one of them."""

    stage: str
    error: str
    items: int
    example: str


class SlowItem(NamedTuple):
    """An item, how long it took or has taken so far, and what it waits for; "" if it has ended."""

    item_id: str
    seconds: float
    waits_for: str


@dataclass(slots=True)
class CallFigures:
    """
    Figures of the calls of one stage and label.

    Attributes:
        ended: Number of calls by outcome.
        in_flight: Number of calls in flight.
        p50: Median duration of the latest calls that were answered, in seconds; None without one.
        p95: 95 of 100 of them took no longer.
    """

    ended: Counter[str] = field(default_factory=Counter)
    in_flight: int = 0
    p50: float | None = None
    p95: float | None = None


@dataclass(frozen=True, slots=True)
class Picture:
    """
    A run at one moment.

    Attributes:
        run: Its number.
        task: Name of its task.
        model: Name of its model.
        strategy: Its strategy.
        process: Id of its process.
        simulated: Whether it is a simulation.
        settings: The settings of its runner.
        ended: Whether it has ended.
        stopped: Why it ended early, or None.
        seconds: Seconds since it began, until now or until its end.
        silent: Seconds since its latest event; 0 when it has ended.
        total: Number of its items; None if unknown.
        open: Number of items that are open.
        succeeded: Number of items that succeeded.
        failed: Number of items that failed.
        unfinished: Number of items that were not finished because the run stopped.
        seconds_left: Seconds until it ends, as estimated; None if unknown.
        limiters: How its limiters stand.
        calls: Figures of its calls, by stage and label.
        calls_per_second: Calls that ended per second, of the last `RECENT_SECONDS` and of all.
        tokens_per_second: Tokens of these.
        prompt_tokens: Tokens read by the model.
        completion_tokens: Tokens written by the model.
        cost: Cost so far; None if it is unknown.
        cost_at_end: Cost when all items are done, if the others cost as much; None if unknown.
        slow_open: The items that have been open for the longest.
        slow_ended: The items that took the longest.
        causes: Failures by cause, the largest group first.
        limits: The latest changes of limits, the latest last.
        servers: The latest reading of each of the model's servers.
        preemptions: How often they stopped a request to make room.
        others: Numbers of other runs in the file that have no end.
    """

    run: int
    task: str
    model: str
    strategy: str
    process: int
    simulated: bool
    settings: dict[str, Any]
    ended: bool
    stopped: str | None
    seconds: float
    silent: float
    total: int | None
    open: int
    succeeded: int
    failed: int
    unfinished: int
    seconds_left: float | None
    limiters: Sequence[RecordedLimiter]
    calls: dict[tuple[str, str], CallFigures]
    calls_per_second: tuple[float, float]
    tokens_per_second: tuple[float, float]
    prompt_tokens: int
    completion_tokens: int
    cost: float | None
    cost_at_end: float | None
    slow_open: Sequence[SlowItem]
    slow_ended: Sequence[SlowItem]
    causes: Sequence[Cause]
    limits: Sequence[RecordedLimit]
    servers: Sequence[RecordedServerLoad]
    preemptions: int
    others: Sequence[int]


_RUN = """SELECT task, model, strategy, settings, process, simulated, began_unix, latest, total, ended IS NOT NULL,
  seconds, stopped, prompt_tokens, completion_tokens, cost, calls FROM runs WHERE id = ?"""
_TEXTS, _INTS, _FLOATS = ("str",) * 4, ("int",) * 2, ("float",) * 2
_RUN_KINDS = (*_TEXTS, *_INTS, *_FLOATS, *_INTS, "float", "str", *_INTS, "float", "int")
_OTHERS = "SELECT id FROM runs WHERE ended IS NULL AND id != ? AND simulated = 0 ORDER BY id DESC LIMIT 20"
_LIMITS_LATEST = """SELECT run, limiter, seconds, calls_in_flight, reason FROM limits
WHERE id > ?1 << 32 AND id < (?1 + 1) << 32 AND reason != 'start' ORDER BY id DESC LIMIT 5"""
_SERVERS_LATEST = """SELECT run, server, seconds, running, waiting, kv_usage, kv_tokens, preemptions, rejections, error
FROM server_loads WHERE id > ?1 << 32 AND id < (?1 + 1) << 32 ORDER BY id DESC LIMIT 64"""
_PREEMPTIONS = """SELECT coalesce(sum(preemptions), 0) FROM server_loads
WHERE id > ?1 << 32 AND id < (?1 + 1) << 32"""
_NEW = "id > :last AND id < :end"
_KNOWN = "id IN (SELECT value FROM json_each(:known))"

_CALL_SUMS = """SELECT stage, label, outcome, sum(max(slots, 1)), sum(prompt_tokens), sum(completion_tokens), sum(cost),
  min(id) FROM calls WHERE {rows} GROUP BY stage, label, outcome"""
_CALLS_OPEN = (
    "SELECT id, item, stage, label, attempt, started, slots FROM calls WHERE {rows} AND outcome IS NULL"
)
_CALLS_ENDED = """SELECT stage, label, outcome, ended, ended - started, slots,
  coalesce(prompt_tokens, 0) + coalesce(completion_tokens, 0)
FROM calls WHERE {rows} AND outcome IS NOT NULL AND ended IS NOT NULL AND attempt > 0"""
_ITEMS_SUCCEEDED = "SELECT count(*) FROM items WHERE {rows} AND outcome = 'succeeded'"
"""Apart from the others, since SQLite sorts what it groups."""
_ITEM_SUMS = """SELECT outcome, stage, error, count(*), min(id) FROM items WHERE {rows} AND outcome IS NOT 'succeeded'
GROUP BY outcome, stage, error"""
_ITEMS_OPEN = "SELECT id, item_id, started FROM items WHERE {rows} AND outcome IS NULL"
_ITEMS_SLOW = """SELECT ended - started, -id, item_id FROM items
WHERE {rows} AND outcome IS NOT NULL AND started IS NOT NULL ORDER BY 1 DESC, 2 DESC LIMIT 5"""
_ITEMS_LATEST = """SELECT ended FROM items WHERE {rows} AND outcome IS NOT NULL AND ended IS NOT NULL
ORDER BY 1 DESC LIMIT 100"""


class _Rows:
    """Which rows of a table have been read: all up to one of them, but those that are open."""

    def __init__(self, table: str, run: int) -> None:
        self.last = run << 32
        self.open: dict[int, tuple[Any, ...]] = {}
        self._table = table
        self._end = (run + 1) << 32

    def read(self, connection: sqlite3.Connection, statement: str) -> Iterable[tuple[Any, ...]]:
        """Yield what a statement finds among the rows that are new or were open."""
        yield from connection.execute(statement.format(rows=_NEW), {"last": self.last, "end": self._end})
        if self.open:
            yield from connection.execute(
                statement.format(rows=_KNOWN), {"known": json.dumps(list(self.open))}
            )

    def read_latest(self, connection: sqlite3.Connection, statement: str) -> Iterable[tuple[Any, ...]]:
        """Yield as `read` does, but at a first look only from the latest rows."""
        first, self.last = self.last, max(self.last, self._newest(connection) - _FIRST_ROWS)
        yield from self.read(connection, statement)
        self.last = first

    def advance(self, connection: sqlite3.Connection, statement: str, first_open: int | None) -> None:
        """
        Remember which rows are open now, and that all others have been read.

        Args:
            connection: The record.
            statement: Selects open rows.
            first_open: The first row that is open; None if none is.
        """
        newest = self._newest(connection)
        if first_open is None:
            self.open = {}
        else:  # all before it are closed, in a long run nearly all
            self.last = max(self.last, first_open - 1)
            self.open = {row[0]: row for row in self.read(connection, statement)}
        self.last = newest

    def _newest(self, connection: sqlite3.Connection) -> int:
        found: int | None = connection.execute(
            f"SELECT max(id) FROM {self._table} WHERE id > ? AND id < ?",  # nosec B608 (constants)
            (self.last, self._end),
        ).fetchone()[0]
        return found or self.last


class LiveView:
    """
    A run that is looked at repeatedly.

    Args:
        path: The record.
        run: Number of the run.
    """

    def __init__(self, path: Path, run: int) -> None:
        self._file = StoreFile(path, 10.0, RECORD)
        self._run = run
        self._settled = False
        self._start()

    def _start(self) -> None:
        """Begin with nothing read."""
        self._items, self._calls = _Rows("items", self._run), _Rows("calls", self._run)
        self._outcomes: Counter[str] = Counter()
        self._causes: dict[tuple[str, str], list[int]] = {}  # number, and id of the first item
        self._figures: defaultdict[tuple[str, str], CallFigures] = defaultdict(CallFigures)
        self._latencies: defaultdict[tuple[str, str], deque[float]] = defaultdict(
            lambda: deque(maxlen=RECENT_CALLS)
        )
        self._recent: deque[tuple[float, int, int]] = deque()  # calls: ended, slots, tokens
        self._slow: list[tuple[Any, ...]] = []  # seconds, minus the id of the row, id of the item
        self._latest: list[float] = []  # ends of the latest items, in order
        self._tokens = [0, 0]
        self._cost: float | None = None
        self._made = 0

    def look(self) -> Picture:
        """
        Return the run as it is now.

        Raises:
            StoreError: The file cannot be read.
        """
        return read_snapshot(self._file, self._look)

    def _look(self, connection: sqlite3.Connection) -> Picture:
        run = connection.execute(_RUN, (self._run,)).fetchone()
        for value, kind in zip(run, _RUN_KINDS, strict=True):
            check_kind(f"a value of run {self._run}", value, kind)
        if run[9] and not self._settled:
            self._settled = True
            self._start()
        self._read_items(connection)
        self._read_calls(connection)
        return self._picture(connection, run)

    def _read_items(self, connection: sqlite3.Connection) -> None:
        items, first_open = self._items, None
        for (number,) in items.read(connection, _ITEMS_SUCCEEDED):
            self._outcomes["succeeded"] += number
        for outcome, stage, error, number, first in items.read(connection, _ITEM_SUMS):
            if outcome is None:
                first_open = first if first_open is None else min(first, first_open)
                continue
            stopped = outcome == "failed" and stage == "run"
            self._outcomes["unfinished" if stopped else outcome] += number
            if outcome == "failed" and not stopped:
                kind, colon, message = (error or "").partition(": ")
                name = stage or "", f"{kind}{colon}{without_particulars(message)}"
                self._causes.setdefault(name, [0, first])[0] += number
        self._slow = sorted([*self._slow, *items.read(connection, _ITEMS_SLOW)], reverse=True)[:SHOWN]
        for (ended,) in items.read_latest(connection, _ITEMS_LATEST):
            insort(self._latest, ended)
        del self._latest[:-_RECENT_ITEMS]
        items.advance(connection, _ITEMS_OPEN, first_open)

    def _read_calls(self, connection: sqlite3.Connection) -> None:
        calls, first_open = self._calls, None
        for stage, label, outcome, number, prompt, completion, cost, first in calls.read(
            connection, _CALL_SUMS
        ):
            if outcome is None:
                first_open = first if first_open is None else min(first, first_open)
                continue
            self._figures[stage, label].ended[outcome] += number
            self._made += 0 if outcome == "stored" else number
            self._tokens[0] += prompt or 0
            self._tokens[1] += completion or 0
            if cost is not None:
                self._cost = (self._cost or 0.0) + cost
        for stage, label, outcome, ended, seconds, slots, tokens in calls.read_latest(
            connection, _CALLS_ENDED
        ):
            self._recent.append((ended, slots, tokens))
            if outcome == "ok":
                self._latencies[stage, label].append(seconds)
        calls.advance(connection, _CALLS_OPEN, first_open)

    def _picture(self, connection: sqlite3.Connection, run: tuple[Any, ...]) -> Picture:
        (
            task,
            model,
            strategy,
            settings,
            process,
            simulated,
            began,
            latest,
            total,
            has_ended,
            seconds,
            stopped,
        ) = run[:12]
        passed = latest if simulated else max(latest, time() - began)
        now = seconds if has_ended else passed
        outcomes, items = self._outcomes, self._items
        done = outcomes["succeeded"] + outcomes["failed"]
        cost = run[14] if has_ended else self._cost
        live = has_table(connection, "limiters") and has_table(connection, "wishes")
        reads_servers = has_table(connection, "server_loads")
        servers = _rows(connection, _SERVERS_LATEST, self._run, RecordedServerLoad) if reads_servers else []
        latest_of = {one.server: one for one in reversed(servers)}
        calls_per_second, tokens_per_second = self._rates(now)
        return Picture(
            run=self._run,
            task=task,
            model=model,
            strategy=strategy,
            process=process,
            simulated=bool(simulated),
            settings=json.loads(settings),
            ended=bool(has_ended),
            stopped=stopped,
            seconds=now,
            silent=0.0 if has_ended else max(0.0, passed - latest),
            total=total,
            open=0 if has_ended else len(items.open),
            succeeded=outcomes["succeeded"],
            failed=outcomes["failed"],
            unfinished=outcomes["unfinished"] + (len(items.open) if has_ended else 0),
            seconds_left=None if has_ended else self._seconds_left(total, done, now),
            limiters=_rows(connection, LIMITERS, self._run, RecordedLimiter) if live else [],
            calls=self._call_figures(),
            calls_per_second=calls_per_second,
            tokens_per_second=tokens_per_second,
            prompt_tokens=self._tokens[0],
            completion_tokens=self._tokens[1],
            cost=cost,
            cost_at_end=None if not (cost and total and done) or has_ended else cost / done * total,
            slow_open=self._slow_open(now),
            slow_ended=[SlowItem(item or "", seconds, "") for seconds, _, item in self._slow],
            causes=self._top_causes(connection),
            limits=_rows(connection, _LIMITS_LATEST, self._run, RecordedLimit)[::-1],
            servers=[latest_of[server] for server in sorted(latest_of)],
            preemptions=connection.execute(_PREEMPTIONS, (self._run,)).fetchone()[0] if servers else 0,
            others=[number for (number,) in connection.execute(_OTHERS, (self._run,))],
        )

    def _seconds_left(self, total: int | None, done: int, now: float) -> float | None:
        latest = self._latest
        if total is None or not latest:
            return None
        # As long as there are few, the rate counts from the start of the run, so that a stall shows at once.
        since = latest[0] if len(latest) == _RECENT_ITEMS else 0.0
        return max(0, total - done) * max(0.0, now - since) / len(latest)

    def _rates(self, now: float) -> tuple[tuple[float, float], tuple[float, float]]:
        since = now - RECENT_SECONDS
        self._recent = deque(one for one in self._recent if one[0] > since)
        span, whole = max(0.001, min(RECENT_SECONDS, now)), max(0.001, now)
        calls = sum(slots for _, slots, _ in self._recent)
        tokens = sum(tokens for _, _, tokens in self._recent)
        return (calls / span, self._made / whole), (tokens / span, sum(self._tokens) / whole)

    def _call_figures(self) -> dict[tuple[str, str], CallFigures]:
        for figures in self._figures.values():
            figures.in_flight = 0
        for _, _, stage, label, _, _, slots in self._calls.open.values():
            self._figures[stage, label].in_flight += slots
        for name, seconds in self._latencies.items():
            ordered = sorted(seconds)
            figures = self._figures[name]
            figures.p50 = ordered[(len(ordered) - 1) // 2]
            figures.p95 = ordered[-(-95 * len(ordered) // 100) - 1]
        return dict(sorted(self._figures.items()))

    def _slow_open(self, now: float) -> list[SlowItem]:
        opened = sorted(
            self._items.open.values(), key=lambda row: (now if row[2] is None else row[2], row[0])
        )[:SHOWN]
        shown = {row[0] for row in opened}
        calls: dict[int, str] = {}
        for _, item, stage, label, attempt, started, _ in sorted(self._calls.open.values(), reverse=True):
            if item in shown:  # the call that began first is named
                again = f", attempt {attempt}" if attempt > 1 else ""
                calls[item] = f"{stage} {label} for {max(0.0, now - started):.1f} s{again}"
        return [
            SlowItem(
                item or "",
                0.0 if started is None else max(0.0, now - started),
                calls.get(number, "no call in flight"),
            )
            for number, item, started in opened
        ]

    def _top_causes(self, connection: sqlite3.Connection) -> list[Cause]:
        ranked = sorted(self._causes.items(), key=lambda cause: -cause[1][0])
        causes: list[Cause] = []
        for (stage, error), (number, first) in ranked:
            example = ""
            if len(causes) < SHOWN:
                found = connection.execute("SELECT item_id FROM items WHERE id = ?", (first,)).fetchone()
                example = found[0] or "" if found else ""
            causes.append(Cause(stage, error, number, example))
        return causes


def _rows(connection: sqlite3.Connection, statement: str, run: int, make: Any) -> list[Any]:
    return [make(*row) for row in connection.execute(statement, (run,))]
