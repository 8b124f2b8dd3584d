"""Overview of a run: its figures, what is going on in it, what it will come to, and its calls by kind."""

from __future__ import annotations

import sqlite3
from datetime import datetime
from typing import Any

from ..._page.sketches import Sketch, histogram, read_sketch
from .._recorded import RecordedRun, run_of, runs_statement
from .._snapshot import has_table
from .ranges import in_run

BARS = 120
"""Bars of the chart of progress."""
_RECENT = 0.2
"""The share of a run, at its end, by which its speed is judged."""
_ENOUGH = 20
"""Items that must have ended in that time; otherwise the whole run counts."""


def runs(connection: sqlite3.Connection) -> list[dict[str, Any]]:
    """Return all runs, oldest first, without counting what those without an end have done so far."""
    names = (
        "run",
        "task",
        "model",
        "began",
        "has_ended",
        "stopped",
        "seconds",
        "total",
        "succeeded",
        "failed",
        "simulated",
        "texts",
    )
    rows = connection.execute(
        "SELECT id, task, model, began, ended IS NOT NULL, stopped, coalesce(seconds, latest), total, succeeded, "
        "failed, simulated, texts FROM runs ORDER BY id"
    )
    return [dict(zip(names, row, strict=True)) for row in rows]


def recorded_run(connection: sqlite3.Connection, run: int) -> RecordedRun:
    """
    Return a run.

    Raises:
        LookupError: There is none of that number.
    """
    row = connection.execute(f"{runs_statement(connection)} WHERE id = ?", (run,)).fetchone()
    if row is None:
        raise LookupError(f"the record has no run {run}")
    return run_of(row)


def run_json(run: RecordedRun) -> dict[str, Any]:
    """Return a run as JSON can hold it."""
    return {name: _moment(value) for name, value in dict(run).items()}


def _moment(value: Any) -> Any:
    return value.isoformat(timespec="milliseconds") if isinstance(value, datetime) else value


_GROUPS = f"""
SELECT stage, label, coalesce(model, ''), sum(attempt > 0), sum(outcome = 'ok'), sum(outcome = 'refused'),
  sum(outcome = 'failed'), sum(outcome = 'late'), sum(outcome = 'cancelled'), sum(outcome = 'stored'),
  sum(outcome IS NULL), sum(attempt > 1), sum(prompt_tokens), sum(completion_tokens), sum(cached_tokens), sum(cost),
  sum(slot_seconds), sum(rate_seconds), sum(retry_seconds),
  sketch(CASE WHEN outcome = 'ok' THEN ended - started END)
FROM calls WHERE {in_run("id")} GROUP BY 1, 2, 3 ORDER BY 1 DESC, 4 DESC
"""  # nosec B608 (constants)
_GROUP_NAMES = (
    *(
        "stage",
        "label",
        "model",
        "calls",
        "ok",
        "refused",
        "failed",
        "late",
        "cancelled",
        "stored",
        "open",
        "again",
    ),
    *(
        "prompt_tokens",
        "completion_tokens",
        "cached_tokens",
        "cost",
        "slot_seconds",
        "rate_seconds",
        "retry_seconds",
    ),
)
MOST_GROUPS = 200
"""Most kinds of calls that are listed."""


def groups(connection: sqlite3.Connection, run: int) -> list[dict[str, Any]]:
    """Return the calls by stage, label and model: how many, how they ended, tokens, cost, waits and durations."""
    found = []
    for *row, sketch in connection.execute(_GROUPS, (run,)).fetchall()[:MOST_GROUPS]:
        latency = read_sketch(sketch).figures()
        found.append({**dict(zip(_GROUP_NAMES, row, strict=True)), "latency": latency})
    return _with_unanswered(found)


def _with_unanswered(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Count calls without an answer, which name no model, as those of the only model that has answered their kind."""
    answered: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for one in groups:
        if one["model"]:
            answered.setdefault((one["stage"], one["label"]), []).append(one)
    left = []
    for one in groups:
        same = answered.get((one["stage"], one["label"]), [])
        if one["model"] or len(same) != 1:
            left.append(one)
            continue
        for name in _GROUP_NAMES[3:]:
            if one[name] is not None:
                same[0][name] = (same[0][name] or 0) + one[name]
    return left


def overview(connection: sqlite3.Connection, run: int) -> dict[str, Any]:
    """
    Return the overview of a run.

    Raises:
        LookupError: There is no such run.
    """
    recorded = recorded_run(connection, run)
    kinds = groups(connection, run)
    return {
        "run": run_json(recorded),
        "groups": kinds,
        "open_items": _one(
            connection,
            f"SELECT count(*) FROM items WHERE {in_run('id')} AND outcome IS NULL",  # nosec B608
            run,
        ),
        "projected": _projected(connection, recorded),
        "limiters": _limiters(connection, run),
        "servers": _servers(connection, run),
        "progress": _progress(connection, recorded),
        "slowest": _extreme(connection, run, "ended - started"),
        "costliest": _costliest(connection, run),
    }


_LIMITER_NAMES = ("limiter", "most", "in_use", "waiting", "retrying", "peak")


def _limiters(connection: sqlite3.Connection, run: int) -> list[dict[str, Any]]:
    """Return how the limiters stand, or stood at the end of the run; the first records do not have it."""
    if not has_table(connection, "limiters"):
        return []
    columns = ", ".join(_LIMITER_NAMES)
    rows = connection.execute(f"SELECT {columns} FROM limiters WHERE {in_run('id')} ORDER BY id", (run,))  # nosec B608
    return [dict(zip(_LIMITER_NAMES, row, strict=True)) for row in rows]


_SERVER_NAMES = (
    *("server", "readings", "failed_readings", "running", "waiting", "kv_usage", "kv_tokens"),
    *("preemptions", "rejections"),
)
_SERVERS = f"""
SELECT server, count(running), sum(running IS NULL), max(running), max(waiting), max(kv_usage), max(kv_tokens),
  coalesce(sum(preemptions), 0), coalesce(sum(rejections), 0)
FROM server_loads WHERE {in_run("id")} GROUP BY server ORDER BY server
"""  # nosec B608 (constants)


def _servers(connection: sqlite3.Connection, run: int) -> list[dict[str, Any]]:
    """Return what the model's servers said of their load; earlier records do not have it."""
    if not has_table(connection, "server_loads"):
        return []
    return [dict(zip(_SERVER_NAMES, row, strict=True)) for row in connection.execute(_SERVERS, (run,))]


def _one(connection: sqlite3.Connection, statement: str, *values: object) -> Any:
    return connection.execute(statement, values).fetchone()[0]


def _projected(connection: sqlite3.Connection, run: RecordedRun) -> dict[str, Any] | None:
    """Return what a run without an end will come to if it goes on as it does; None if that cannot be said."""
    done = run.succeeded + run.failed
    if run.ended is not None or not run.total or not done or done >= run.total or run.seconds <= 0:
        return None
    since = run.seconds * (1 - _RECENT)
    recent = _one(
        connection,
        f"SELECT count(*) FROM items WHERE {in_run('id')} AND ended > ?2",  # nosec B608
        run.run,
        since,
    )
    speed = recent / (run.seconds - since) if recent >= _ENOUGH else done / run.seconds
    share = run.total / done
    return {
        "cost": None if run.cost is None else run.cost * share,
        "tokens": round((run.prompt_tokens + run.completion_tokens) * share),
        "calls": round(run.calls * share),
        "seconds_left": (run.total - done) / speed,
        "per_minute": speed * 60,
    }


def _progress(connection: sqlite3.Connection, run: RecordedRun) -> dict[str, Any]:
    """Return how many items ended in each part of a run."""
    width = max(run.seconds, 1e-9) / BARS
    counted = connection.execute(
        f"SELECT min(CAST(ended / ?2 AS INTEGER), {BARS - 1}), sum(outcome = 'succeeded'), sum(outcome = 'failed') "
        f"FROM items WHERE {in_run('id')} AND ended IS NOT NULL GROUP BY 1",  # nosec B608
        (run.run, width),
    )
    succeeded, failed = [0] * BARS, [0] * BARS
    for place, won, lost in counted:
        succeeded[max(0, place)], failed[max(0, place)] = won, lost
    return {"width": width, "succeeded": succeeded, "failed": failed}


def _extreme(connection: sqlite3.Connection, run: int, value: str, most: int = 5) -> list[dict[str, Any]]:
    rows = connection.execute(
        f"SELECT place, item_json, outcome, {value} FROM items WHERE {in_run('id')} AND {value} IS NOT NULL "
        f"ORDER BY 4 DESC, id LIMIT {most}",  # nosec B608
        (run,),
    )
    return [_line(row) for row in rows]


def _costliest(connection: sqlite3.Connection, run: int, most: int = 5) -> list[dict[str, Any]]:
    """Return the items of the highest cost, or of the most tokens if no cost is known."""
    rows = connection.execute(
        "SELECT place, item_json, outcome, cost, tokens FROM (SELECT item, sum(cost) AS cost, "
        "sum(coalesce(prompt_tokens, 0) + coalesce(completion_tokens, 0)) AS tokens FROM calls "
        f"WHERE {in_run('id')} GROUP BY item) AS spent JOIN items ON items.id = spent.item WHERE tokens > 0 "
        f"ORDER BY cost DESC NULLS LAST, tokens DESC, items.id LIMIT {most}",  # nosec B608
        (run,),
    )
    return [{**_line(row), "tokens": row[4]} for row in rows]


def _line(row: tuple[Any, ...]) -> dict[str, Any]:
    return {"place": row[0], "id": row[1], "outcome": row[2], "value": row[3]}


_TIMES = f"""
SELECT stage, label, CASE WHEN outcome = 'ok' THEN model END, CASE WHEN outcome = 'ok' THEN ended - started END,
  nullif(prompt_tokens, 0), nullif(completion_tokens, 0), CASE WHEN attempt > 0 THEN slot_seconds END,
  CASE WHEN attempt > 0 THEN rate_seconds END, CASE WHEN attempt > 1 THEN retry_seconds END
FROM calls WHERE {in_run("id")}
"""  # nosec B608 (constants)
MOST_SERIES = 8
"""Most series of a histogram; the other labels are one."""
_ROWS = 8192
"""Rows that are counted at once."""


def distributions(connection: sqlite3.Connection, run: int) -> dict[str, Any]:
    """Return the histograms of a run: how long calls took and waited, their tokens, and how long items took."""
    latency: dict[str, _Series] = {}
    models, read, written = _Series(), _Series(), _Series()
    waits = {name: Sketch() for name in ("for a slot", "for a minute's limit", "to be made again")}
    rows = connection.execute(_TIMES, (run,))
    while some := rows.fetchmany(
        _ROWS
    ):  # not an aggregate function of SQL, whose calls take longer than all the rest
        for (stage, label), alike in _grouped(some, 0, 1).items():
            latency.setdefault(stage, _Series()).add(label, alike, 3)
            if stage == "llm":
                read.add(label, alike, 4)
                written.add(label, alike, 5)
                for (model,), answered in _grouped(alike, 2).items():
                    models.add(model or "", answered, 3)
        for column, sketch in enumerate(waits.values(), 6):
            sketch.add(_values(some, column))
    items = _one(connection, f"SELECT sketch(ended - started) FROM items WHERE {in_run('id')}", run)  # nosec B608
    return {
        "latency": {stage: series.histogram() for stage, series in sorted(latency.items(), reverse=True)},
        "models": models.histogram() if len(models.sketches) > 1 else None,
        "prompt_tokens": read.histogram(whole=True),
        "completion_tokens": written.histogram(whole=True),
        "waits": histogram(waits.items()),
        "items": histogram([("items", read_sketch(items))]),
    }


def _grouped(rows: list[tuple[Any, ...]], *columns: int) -> dict[tuple[Any, ...], list[tuple[Any, ...]]]:
    groups: dict[tuple[Any, ...], list[tuple[Any, ...]]] = {}
    for row in rows:
        groups.setdefault(tuple([row[column] for column in columns]), []).append(row)
    return groups


def _values(rows: list[tuple[Any, ...]], column: int) -> list[float]:
    return [row[column] for row in rows if row[column] is not None]


class _Series:
    """Sketches by label."""

    def __init__(self) -> None:
        self.sketches: dict[str, Sketch] = {}

    def add(self, label: str, rows: list[tuple[Any, ...]], column: int) -> None:
        """Add a column of rows."""
        values = _values(rows, column)
        if values:
            self.sketches.setdefault(label, Sketch()).add(values)

    def histogram(self, *, whole: bool = False) -> dict[str, Any] | None:
        """Return the histogram of the most frequent labels, the others being one series."""
        first = sorted(self.sketches.items(), key=lambda one: -one[1].count)
        rest = Sketch()
        for _, sketch in first[MOST_SERIES:]:
            rest.merge(sketch)
        return histogram([*first[:MOST_SERIES], ("others", rest)], whole=whole)


MOST_CHANGES = 3000
"""Most changes of limits that are shown one by one."""


def limits(connection: sqlite3.Connection, run: int) -> dict[str, Any]:
    """Return how the limits changed; of very many changes, the first and the last in each part of the time."""
    count = _one(connection, f"SELECT count(*) FROM limits WHERE {in_run('id')}", run)  # nosec B608
    chosen = f"SELECT id FROM limits WHERE {in_run('id')}"  # nosec B608
    if count > MOST_CHANGES:
        end = _one(connection, f"SELECT max(seconds) FROM limits WHERE {in_run('id')}", run) or 1.0  # nosec B608
        width = 3 * max(end, 1e-9) / MOST_CHANGES
        part = f"FROM limits WHERE {in_run('id')} GROUP BY limiter, CAST(seconds / {width!r} AS INTEGER)"
        chosen = f"SELECT min(id) {part} UNION SELECT max(id) {part}"
    rows = connection.execute(
        f"SELECT limiter, seconds, calls_in_flight, reason FROM limits WHERE id IN ({chosen}) ORDER BY seconds, id",  # nosec B608
        (run,),
    )
    names = ("limiter", "seconds", "limit", "reason")
    reasons = connection.execute(
        f"SELECT limiter, reason, count(*) FROM limits WHERE {in_run('id')} GROUP BY 1, 2 ORDER BY 1, 3 DESC",  # nosec B608
        (run,),
    )
    return {
        "count": count,
        "changes": [dict(zip(names, row, strict=True)) for row in rows],
        "reasons": [dict(zip(("limiter", "reason", "count"), row, strict=True)) for row in reasons],
    }
