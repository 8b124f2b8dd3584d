"""
Timeline of a run: each call in the lane of a slot, and how many calls were made and waited at each moment.

Theory of operation. The record does not number slots, so a call gets the first lane of its stage that is free when it
starts (interval partitioning); there are as many lanes as calls were in flight at once. The ids of calls rise with
their starts, so lanes are given in one pass over the file, which goes on where it stopped while the run goes on; two
bytes are kept for each call. A window of time shows its calls one by one, or, if it has more than `MOST_SPANS`, how
busy each lane is in each part of the window.
"""

from __future__ import annotations

import sqlite3
from array import array
from collections.abc import Iterable, Iterator
from heapq import heappop, heappush
from itertools import accumulate
from math import isfinite
from typing import Any

from .overview import recorded_run
from .ranges import in_run

MOST_SPANS = 4000
"""Most calls that a window shows one by one."""
PARTS = 400
"""Parts of a window's time, for what is shown of very many calls, and for the levels."""
MOST_LANES = 1000
"""Most lanes of a stage that are shown."""
_NONE = 0xFFFF
"""The lane of a reply from the store, which takes no slot."""
_AT_ONCE = 1e-9
_FATES = ("ok", "refused", "failed", "late", "cancelled", "open")
"""How calls end; in the answer, a fate is its place here."""


class Lanes:
    """
    The lanes of the calls of one run.

    Args:
        run: Number of the run.
    """

    def __init__(self, run: int) -> None:
        self._base = run << 32
        self._run = run
        self._given = array("H")
        self._busy: dict[str, list[tuple[float, int]]] = {}
        self._free: dict[str, list[int]] = {}
        self._open: dict[int, tuple[str, int]] = {}
        self.counts: dict[str, int] = {}

    def of(self, number: int) -> int | None:
        """Return the lane of a call by its number, from 1; None if it takes none."""
        lane = self._given[number - 1] if 0 < number <= len(self._given) else _NONE
        return None if lane == _NONE else lane

    def extend(self, connection: sqlite3.Connection) -> None:
        """Give lanes to the calls that have started since the last time."""
        for row_id, ended in self._ended(connection):
            stage, lane = self._open.pop(row_id)
            heappush(self._busy[stage], (ended, lane))
        rows = connection.execute(
            f"SELECT id, stage, started, ended, attempt FROM calls WHERE {in_run('id')} AND id > ?2 ORDER BY id",  # nosec B608
            (self._run, self._base + len(self._given)),
        )
        for row_id, stage, started, ended, attempt in rows:
            number = row_id - self._base
            while len(self._given) < number - 1:  # calls that the record lacks
                self._given.append(_NONE)
            self._given.append(self._place(row_id, stage, started, ended) if attempt else _NONE)

    def _ended(self, connection: sqlite3.Connection) -> Iterator[tuple[int, float]]:
        waiting = list(self._open)
        for start in range(0, len(waiting), 500):
            named = ",".join(map(str, waiting[start : start + 500]))
            yield from connection.execute(
                f"SELECT id, ended FROM calls WHERE id IN ({named}) AND ended IS NOT NULL"  # nosec B608
            ).fetchall()

    def _place(self, row_id: int, stage: str, started: float, ended: float | None) -> int:
        busy, free = self._busy.setdefault(stage, []), self._free.setdefault(stage, [])
        while busy and busy[0][0] <= started + _AT_ONCE:
            heappush(free, heappop(busy)[1])
        if free:
            lane = heappop(free)
        else:
            lane = self.counts.get(stage, 0)
            self.counts[stage] = lane + 1
        if ended is None:
            self._open[row_id] = stage, lane
        else:
            heappush(busy, (ended, lane))
        return min(lane, _NONE - 1)


class Level:
    """
    How many of some intervals there are, on average in each part of a window.

    Args:
        begin: Where the window begins, in seconds.
        end: Where it ends.
        parts: How many parts it has.
    """

    def __init__(self, begin: float, end: float, parts: int = PARTS) -> None:
        self._begin, self._end, self._parts = begin, end, parts
        self._width = (end - begin) / parts
        self._inside = [0.0] * parts
        self._steps = [0.0] * (parts + 1)

    def add(self, start: float, stop: float) -> None:
        """Add an interval; what lies outside the window does not count."""
        start, stop = max(start, self._begin), min(stop, self._end)
        if stop <= start:
            return
        first, last = self._part(start), self._part(stop)
        if first == last:
            self._inside[first] += stop - start
            return
        self._inside[first] += self._begin + (first + 1) * self._width - start
        self._inside[last] += stop - (self._begin + last * self._width)
        self._steps[first + 1] += 1
        self._steps[last] -= 1

    def _part(self, moment: float) -> int:
        return min(self._parts - 1, int((moment - self._begin) / self._width))

    def values(self) -> list[float]:
        """Return the levels."""
        whole = accumulate(self._steps[:-1])
        return [round(part / self._width + full, 3) for part, full in zip(self._inside, whole, strict=True)]


_WITHIN = f"""
{in_run("calls.id")} AND attempt > 0 AND coalesce(calls.ended, ?3) >= ?2 AND queued - retry_seconds <= ?4
"""  # nosec B608 (constants)
_COLUMNS = (
    *(
        "number",
        "stage",
        "fate",
        "queued",
        "started",
        "ended",
        "slot_seconds",
        "rate_seconds",
        "retry_seconds",
    ),
    *("place", "label", "attempt", "slots"),
)
"""The columns of a span; `lane` is added in front."""
_BUSY = (
    "SELECT calls.id & 0xFFFFFFFF, calls.stage, coalesce(calls.outcome, 'open'), queued, calls.started, calls.ended, "
    "slot_seconds, rate_seconds, retry_seconds"
)
_SPANS = (
    f"{_BUSY}, place, label, attempt, slots FROM calls LEFT JOIN items ON items.id = calls.item WHERE {_WITHIN} "
    "ORDER BY calls.id"
)


def window(
    connection: sqlite3.Connection,
    run: int,
    lanes: Lanes,
    begin: float | None = None,
    end: float | None = None,
    most_spans: int = MOST_SPANS,
) -> dict[str, Any]:
    """
    Return a window of the timeline of a run.

    Args:
        connection: The record.
        run: Number of the run.
        lanes: Its lanes.
        begin: Where the window begins, in seconds; None for the begin of the run.
        end: Where it ends; None for the end of the run.
        most_spans: Most calls that it shows one by one.

    Raises:
        LookupError: There is no such run.
    """
    lanes.extend(connection)
    recorded = recorded_run(connection, run)
    latest = max(recorded.seconds, 1e-6)
    begin = min(max(0.0, begin), latest) if begin is not None and isfinite(begin) else 0.0
    end = max(end, begin + 1e-6) if end is not None and isfinite(end) else max(latest, begin + 1e-6)
    values = (run, begin, latest, end)
    (count,) = connection.execute(f"SELECT count(*) FROM calls WHERE {_WITHIN}", values).fetchone()  # nosec B608
    answer = {
        "begin": begin,
        "end": end,
        "seconds": latest,
        "live": recorded.ended is None,
        "calls": count,
        "stages": {stage: min(lanes_, MOST_LANES) for stage, lanes_ in sorted(lanes.counts.items())},
        "hidden_lanes": sum(max(0, found - MOST_LANES) for found in lanes.counts.values()),
        "fates": _FATES,
    }
    levels = _Levels(begin, end)
    if count <= most_spans:
        rows = connection.execute(_SPANS, values)
        spans = [[lanes.of(row[0]), *row] for row in levels.watch(rows, latest)]
        return {**answer, "columns": ["lane", *_COLUMNS], "spans": spans, "levels": levels.values()}
    busy = _Busy(begin, end)
    rows = connection.execute(f"{_BUSY} FROM calls WHERE {_WITHIN}", values)
    for number, stage, fate, _, started, ended, *_ in levels.watch(rows, latest):
        lane = lanes.of(number)
        if lane is not None and lane < MOST_LANES:
            busy.add(stage, lane, fate, started, latest if ended is None else ended)
    return {**answer, "parts": PARTS, "busy": busy.values(), "levels": levels.values()}


class _Levels:
    """How many calls of each stage were made, and how many waited for each reason."""

    def __init__(self, begin: float, end: float) -> None:
        self._window = begin, end
        self._flight: dict[str, Level] = {}
        self._waits = {name: Level(begin, end) for name in ("slot", "rate", "retry")}

    def watch(self, rows: Iterable[tuple[Any, ...]], latest: float) -> Iterator[tuple[Any, ...]]:
        """Yield rows of calls, and count them."""
        waits = self._waits
        for row in rows:
            stage, _, queued, started, ended, slot, rate, retry = row[1:9]
            level = self._flight.get(stage)
            if level is None:
                level = self._flight[stage] = Level(*self._window)
            level.add(started, latest if ended is None else ended)
            if slot > 0:
                waits["slot"].add(queued, queued + slot)
            if rate > 0:
                waits["rate"].add(started - rate, started)
            if retry > 0:
                waits["retry"].add(queued - retry, queued)
            yield row

    def values(self) -> dict[str, Any]:
        return {
            "flight": {stage: level.values() for stage, level in sorted(self._flight.items())},
            "waits": {name: level.values() for name, level in self._waits.items()},
        }


class _Busy:
    """How busy each lane is in each part of a window, and whether a call there ended badly."""

    def __init__(self, begin: float, end: float) -> None:
        self._window = begin, end
        self._width = (end - begin) / PARTS
        self._lanes: dict[tuple[str, int], tuple[Level, bytearray]] = {}

    def add(self, stage: str, lane: int, fate: str, started: float, ended: float) -> None:
        """Add a call."""
        found = self._lanes.get((stage, lane))
        if found is None:
            found = self._lanes[stage, lane] = Level(*self._window), bytearray(PARTS)
        level, fates = found
        level.add(started, ended)
        worst = _RANK.get(fate, 0)
        if not worst:
            return
        begin, _ = self._window
        first = max(0, int((started - begin) / self._width))
        last = min(PARTS - 1, int((ended - begin) / self._width))
        for part in range(first, last + 1):
            fates[part] = max(fates[part], worst)

    def values(self) -> list[list[Any]]:
        """Return for each lane: its stage, its number, how busy each part is, by a digit, and the fates in it."""
        answer = []
        for (stage, lane), (level, fates) in sorted(self._lanes.items()):
            shares = "".join(str(min(9, round(9 * value + 0.4))) for value in level.values())
            answer.append([stage, lane, shares, "".join(map(str, fates))])
        return answer


_RANK = {"open": 1, "cancelled": 2, "late": 3, "refused": 4, "failed": 5}
"""What a part of a lane shows if calls in it ended in several ways: the highest; 0 if all were answered."""
