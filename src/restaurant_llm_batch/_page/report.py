"""
The page of a report: the results and failures of a run without its calls, which only a record has.

It is the same page as that of a record, with the same data where there is some.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .._tables.plain import plain, plain_error
from .._tables.rows import cause_of
from ..tokens.sentences import sentences
from .document import document, packed
from .result_texts import result_texts
from .sketches import Sketch, histogram
from .writing import write_document

_NAMES = (
    *("place", "id", "outcome", "started", "ended", "stage", "attempts", "error_type", "error"),
    *("calls", "tries", "prompt_tokens", "completion_tokens", "cost", "waited", "cause"),
)
"""The columns of an item, as in records/_page/tables.py, with its cause."""
MOST_BYTES = 3_500_000
"""Most bytes that results take, compressed."""
_CHUNK = 50


def write_report(report: Any, path: str | os.PathLike[str]) -> None:
    """
    Write the page of a report.

    Raises:
        ConfigurationError: The file cannot be written, or is a folder or a database.
    """
    write_document(document(report_data(report), "report", in_file=True), path)


def report_data(report: Any) -> dict[str, Any]:
    """Return the data of the page of a report."""
    outcomes, stats = report.outcomes, report.stats
    rows = [_row(one) for one in outcomes]
    notes: list[str] = []
    details = _details(outcomes, notes)
    causes = _causes(outcomes, rows)
    run = _run(report, stats, rows)
    views = ["overview", "items", "failures", "distributions"]
    if stats.limit_history:
        views.append("limits")
    return {
        "kind": "file",
        "name": "report",
        "run": 1,
        "views": views,
        "notes": notes,
        "runs": [
            {
                "run": 1,
                "has_ended": True,
                **{name: run[name] for name in ("task", "model", "began", "stopped", "simulated")},
            }
        ],
        "overview": {
            "run": run,
            "groups": None,
            "latency": [_stage(stats, stage) for stage in sorted(stats.calls, reverse=True)],
            "open_items": 0,
            "projected": None,
            "progress": None,
            "slowest": _most(rows, lambda row: row[4]),
            "costliest": _most(rows, lambda row: row[13])
            or _most(rows, lambda row: row[11] + row[12] or None, tokens=True),
        },
        "distributions": packed(_shapes(rows)),
        "limits": packed(_limits(stats)),
        "causes": packed(causes),
        "choices": {
            "label": [],
            "model": [],
            "stage": [],
            "call_error_type": [],
            "item_stage": list(dict.fromkeys(row[5] for row in rows if row[5])),
            "item_error_type": list(dict.fromkeys(row[7] for row in rows if row[7])),
        },
        "items": packed({"names": _NAMES, "rows": rows, "total": len(rows)}),
        "calls": None,
        "details": details,
    }


def _row(outcome: Any) -> list[Any]:
    spent = outcome.spent
    error = None if outcome.ok else plain_error(outcome.error)
    return [
        outcome.index,
        json.dumps(plain(outcome.item_id), ensure_ascii=False),
        "succeeded" if outcome.ok else "failed",
        0.0,
        spent.seconds,
        None if outcome.ok else outcome.stage,
        None if outcome.ok else outcome.attempts,
        error and error["type"],
        error and f"{error['type']}: {error['message']}",
        spent.calls + spent.searches,
        spent.tries,
        spent.prompt_tokens,
        spent.completion_tokens,
        spent.cost,
        spent.waited,
        None if outcome.ok else cause_of(outcome).partition(": ")[2],
    ]


def _run(report: Any, stats: Any, rows: Sequence[Sequence[Any]]) -> dict[str, Any]:
    names = (
        "succeeded",
        "failed",
        "retries",
        "rate_limited",
        "cache_hits",
        "prompt_tokens",
        "completion_tokens",
        "cached_tokens",
    )
    kinds = dict.fromkeys(type(one.value).__name__ for one in report.outcomes if one.ok)
    return {
        "run": 1,
        "task": ", ".join(list(kinds)[:3]) or "no results",
        "model": "",
        "state": "done" if stats.stopped_because is None else "stopped",
        "began": None,
        "ended": None,
        "seconds": stats.wall_seconds,
        "stopped": stats.stopped_because,
        "total": len(rows),
        "calls": sum(stats.calls.values()),
        "cost": stats.cost,
        "estimated_cost": stats.estimated_cost,
        "simulated": False,
        "missing": 0,
        "settings": None,
        **{name: getattr(stats, name) for name in names},
    }


def _stage(stats: Any, stage: str) -> dict[str, Any]:
    """Return what is known of the calls of a stage."""
    latency = stats.latency.get(stage)
    figures = {name: getattr(latency, name, None) for name in ("count", "mean", "p50", "p95", "max")}
    return {"stage": stage, "calls": stats.calls[stage], "peak": stats.peak_in_flight.get(stage), **figures}


def _most(rows: Sequence[Sequence[Any]], value: Any, *, tokens: bool = False) -> list[dict[str, Any]]:
    known = [row for row in rows if value(row)]
    first = sorted(known, key=value, reverse=True)[:5]
    return [
        {
            "place": row[0],
            "id": row[1],
            "outcome": row[2],
            "value": None if tokens else value(row),
            "tokens": row[11] + row[12],
        }
        for row in first
    ]


def _shapes(rows: Iterable[Sequence[Any]]) -> dict[str, Any]:
    sketches: dict[str, Sketch] = defaultdict(Sketch)
    for row in rows:
        for name, value in (
            ("items", row[4]),
            ("waits", row[14]),
            ("prompt_tokens", row[11]),
            ("completion_tokens", row[12]),
        ):
            if value:
                sketches[name].add([value])
    shapes = {
        name: histogram([("items", sketches[name])], whole=name.endswith("tokens"))
        for name in ("items", "waits", "prompt_tokens", "completion_tokens")
    }
    return {"latency": {}, "models": None, "of_items": True, **shapes}


def _limits(stats: Any) -> dict[str, Any]:
    counted: dict[tuple[str, str], int] = defaultdict(int)
    for one in stats.limit_history:
        counted[one.limiter, one.reason] += 1
    return {
        "count": len(stats.limit_history),
        "changes": [
            {"limiter": one.limiter, "seconds": one.seconds, "limit": one.limit, "reason": one.reason}
            for one in stats.limit_history[-3000:]
        ],
        "reasons": [
            {"limiter": limiter, "reason": reason, "count": count}
            for (limiter, reason), count in counted.items()
        ],
    }


def _causes(outcomes: Iterable[Any], rows: Iterable[Sequence[Any]]) -> dict[str, Any]:
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        if row[2] != "failed":
            continue
        new = {
            "stage": row[5],
            "error_type": row[7],
            "cause": row[15],
            "count": 0,
            "first": row[0],
            "began": None,
            "ended": None,
            "example": row[8],
            "labels": "",
        }
        found.setdefault((row[5], row[15]), new)["count"] += 1
    listed = sorted(found.values(), key=lambda one: -one["count"])
    return {
        "items": {"causes": listed[:200], "left_out": sum(one["count"] for one in listed[200:])},
        "calls": None,
    }


def _details(outcomes: Sequence[Any], notes: list[str]) -> dict[str, Any]:
    """Return the results in chunks, and the chunk of each item by its place."""
    chunks: list[object] = []
    where: dict[int, int] = {}
    size = 0
    for start in range(0, len(outcomes), _CHUNK):
        some = outcomes[start : start + _CHUNK]
        made = packed({str(one.index): _detail(one) for one in some})
        size += len(made["gzip"]) if isinstance(made, dict) and "gzip" in made else len(str(made))
        if size > MOST_BYTES:
            notes.append(
                f"This page has the results of the first {len(where):,} of {len(outcomes):,} items; the report has all."
            )
            break
        where.update((one.index, len(chunks)) for one in some)
        chunks.append(made)
    return {
        "of": where,
        "chunks": chunks,
        "missing": "This page has only figures of this item; the report has the rest.",
    }


WITHOUT_CALLS = (
    "A report has no prompts, answers and attempts; a record of the run with texts has them: "
    'BatchRunner(record=Recording("night.db", texts=True))'
)


def _detail(outcome: Any) -> dict[str, Any]:
    names = [name for name in _NAMES if name not in ("started", "ended", "waited", "cause")]
    row = dict(zip(_NAMES, _row(outcome), strict=True))
    result = plain(outcome.value) if outcome.ok else None
    numbers: dict[str, int] = {}
    reviews: list[dict[str, Any]] = []

    def number(citation: Any) -> int:
        key = json.dumps(citation, sort_keys=True)
        if key not in numbers:
            numbers[key] = len(reviews)
            reviews.append(_review(citation))
        return numbers[key]

    found = [
        {"path": path, "text": sentence, "calls": [], "reviews": [number(one) for one in cited]}
        for path, text, cited in result_texts(result)
        for sentence in sentences(text)
    ]
    return {
        **{name: row[name] for name in names},
        "started": row["started"],
        "ended": row["ended"],
        "seconds": row["ended"],
        "wait_seconds": row["waited"],
        "result": result,
        "sentences": found,
        "calls_made": [],
        "reviews": reviews,
        "missing": WITHOUT_CALLS,
    }


def _review(citation: Any) -> dict[str, Any]:
    if isinstance(citation, Mapping):
        shown, content = citation.get("review_id"), citation.get("snippet", "")
        return {
            "parts": [],
            "id": None if shown is None else str(shown),
            "content": str(content),
        }
    return {"parts": [], "id": str(citation), "content": ""}
