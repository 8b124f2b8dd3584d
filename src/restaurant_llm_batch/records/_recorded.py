"""Rows of a record as Python objects: runs, items, calls and limits."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any

from ..models import ItemId
from ._snapshot import check_kind, has_table


class RecordRow:
    """A row with names: ``row.error``, ``row["error"]`` and ``dict(row)`` all work, and pandas takes a list of them."""

    __slots__ = ()

    def keys(self) -> list[str]:
        """Return the names of its columns."""
        return [field.name for field in fields(self)]  # type: ignore[arg-type]  # each subclass is a dataclass

    def __getitem__(self, name: str) -> Any:
        if name not in self.keys():
            raise KeyError(name)
        return getattr(self, name)


@dataclass(frozen=True, slots=True)
class RecordedRun(RecordRow):
    """
    A run. Of a run without an end, the numbers are those of what is in the record so far.

    Attributes:
        run: Its number in the record, from 1.
        task: Name of its task.
        model: Name of the model, as the backend has it.
        state: "done"; "stopped" if it ended early; "no end" if it still runs, or was killed.
        began: When it began, in UTC.
        ended: When it ended, in UTC; None without an end.
        seconds: Seconds until its end; without one, until the latest event that is recorded.
        stopped: Why it ended early, or None.
        total: Number of its items; None if the input had no length.
        succeeded: Number of items that succeeded.
        failed: Number of items that failed.
        calls: Number of calls; the queries of one round trip count one by one.
        retries: Number of calls made again.
        rate_limited: Number of calls that the service refused.
        cache_hits: Number of replies taken from the store.
        prompt_tokens: Tokens read by the model.
        completion_tokens: Tokens written by the model.
        cached_tokens: How many of `prompt_tokens` came from the service's prompt cache.
        cost: Cost of the tokens; None without prices, or if it is unknown.
        estimated_cost: The same, with estimates for calls whose tokens are unknown; None until the run has ended.
        strategy: Its strategy.
        settings: Its limits, retries, time limits and stop conditions.
        version: Version of the library.
        process: Id of the process that made it.
        missing: Number of events that could not be written.
        simulated: Whether it was a simulation.
        texts: Whether prompts, answers, reviews and results are recorded.
        peak_memory_mib: Peak memory of the process during the run, in MiB; None if it is unknown, and without an end.
        out_of_memory: Number of calls that failed because the server had no memory left; None without an end.
    """

    run: int
    task: str
    model: str
    state: str
    began: datetime
    ended: datetime | None
    seconds: float
    stopped: str | None
    total: int | None
    succeeded: int
    failed: int
    calls: int
    retries: int
    rate_limited: int
    cache_hits: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    cost: float | None
    estimated_cost: float | None
    strategy: str
    settings: Mapping[str, Any]
    version: str
    process: int
    missing: int
    simulated: bool
    texts: bool
    peak_memory_mib: float | None = None
    out_of_memory: int | None = None

    def __str__(self) -> str:
        what = "simulated run" if self.simulated else "run"
        end = f"{self.state}: {self.stopped}" if self.stopped else self.state
        if self.ended is None:
            end = "no end: it still runs, or was killed"
        cost = "" if self.cost is None else f", cost {self.cost:.4g}"
        missing = f"; {self.missing} events are missing" if self.missing else ""
        return (
            f"{what} {self.run} of {self.began:%Y-%m-%d %H:%M:%S} UTC, {self.task}"
            f"{f' with {self.model}' if self.model else ''}: "
            f"{self.succeeded} succeeded, {self.failed} failed, {self.calls} calls, "
            f"{self.prompt_tokens + self.completion_tokens} tokens{cost}, {self.seconds:.1f} s ({end}){missing}"
        )


@dataclass(frozen=True, slots=True)
class RecordedItem(RecordRow):
    """
    An item of a run.

    Attributes:
        run: Number of the run.
        place: Its position in the input, from 0.
        item_id: Its id, as it was; None if it had no valid one.
        outcome: "succeeded" or "failed"; None while it is open, or if the run has no end.
        started: When it entered the window, in seconds since the run began; None if it never did.
        ended: When it ended, likewise.
        seconds: Seconds from one to the other; None if one is missing.
        stage: Where it failed; see `Failure.stage`.
        attempts: How often the failing call was attempted.
        error_type: Type of the error.
        error: Type and message of the error.
        calls: Number of attempts of its calls.
        prompt_tokens: Tokens read by the model.
        completion_tokens: Tokens written by the model.
        cost: Cost of its calls; None if none has a known cost.
        wait_seconds: Seconds that its calls waited for slots, for limits per minute and to be made again; calls that
            waited at the same time count one by one.
    """

    run: int
    place: int
    item_id: ItemId | None
    outcome: str | None
    started: float | None
    ended: float | None
    seconds: float | None
    stage: str | None
    attempts: int | None
    error_type: str | None
    error: str | None
    calls: int
    prompt_tokens: int
    completion_tokens: int
    cost: float | None
    wait_seconds: float


@dataclass(frozen=True, slots=True)
class RecordedCall(RecordRow):
    """
    One attempt of a call, or a reply that was found in the store.

    Attributes:
        run: Number of the run.
        item_id: Id of its item, as it was.
        call: Number of the call in its run; its attempts share it.
        attempt: Number of the attempt, from 1; 0 for a reply that was found in the store.
        stage: "search", "llm" or "tokens".
        label: The aspect searched for, or the request's task.
        model: Model that answered; None without an answer.
        queued: When it was queued, in seconds since the run began.
        started: When it was admitted and made, likewise.
        ended: When it ended; None if it had not ended when this was recorded.
        seconds: Seconds from `started` to `ended`; None without an end.
        slot_seconds: Seconds that it waited for a slot.
        rate_seconds: Seconds that it waited for a limit per minute.
        retry_seconds: Seconds from the end of the attempt before until it was queued.
        slots: Slots that it held.
        outcome: "ok"; "refused" (429, "busy"); "failed"; "late" if its time was up and its reply came later;
            "cancelled" with its item or its run; "stored" for a reply that was found in the store; None without an end.
        prompt_tokens: Tokens read by the model; None without a reply.
        completion_tokens: Tokens written by the model, likewise.
        cached_tokens: How many of `prompt_tokens` came from the service's prompt cache, likewise.
        cost: Cost of the tokens; None if it is unknown.
        finish_reason: Why the model's answer ended; see `LLMResponse`.
        error_type: Type of the error.
        status: HTTP status of the error, if it has one.
        error: Type and message of the error.
        store_key: Key of the reply in the store; None without a store.
        endpoint: Name of the endpoint of an `LLMPool` that it went to; None without a pool.
        batched: Whether a provider's batch has answered it, at its price; `seconds` are then those of the batch.
    """

    run: int
    item_id: ItemId | None
    call: int
    attempt: int
    stage: str
    label: str
    model: str | None
    queued: float
    started: float
    ended: float | None
    seconds: float | None
    slot_seconds: float
    rate_seconds: float
    retry_seconds: float
    slots: int
    outcome: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    cached_tokens: int | None
    cost: float | None
    finish_reason: str | None
    error_type: str | None
    status: int | None
    error: str | None
    store_key: bytes | None
    endpoint: str | None = None
    batched: bool = False


@dataclass(frozen=True, slots=True)
class RecordedLimit(RecordRow):
    """
    A change of a limit: of an adaptive one, or of any that a user has set while the run went on.

    Attributes:
        run: Number of the run.
        limiter: Field of `Limits`.
        seconds: When it changed, in seconds since the run began.
        calls_in_flight: The limit from then on; of tokens, or per minute, if the name of the limiter says so.
        reason: Why; see `LimitChange`.
    """

    run: int
    limiter: str
    seconds: float
    calls_in_flight: int
    reason: str


@dataclass(frozen=True, slots=True)
class RecordedLimiter(RecordRow):
    """
    How a limiter stood when the run was last written. Other runs of the same runner use it too, and are counted.

    Attributes:
        run: Number of the run.
        limiter: Field of `Limits`.
        seconds: Since when it stands so, in seconds since the run began.
        most: The limit; None for a limit per minute that only the service reports.
        in_use: Slots, or tokens, that are taken; None for a limit per minute.
        waiting: Number of calls that wait at it: for a slot, or for their minute.
        retrying: Number of calls that wait to be made again; they stand with "search" and "llm".
        peak: Most slots, or tokens, that were taken at once; None for a limit per minute.
    """

    run: int
    limiter: str
    seconds: float
    most: int | None
    in_use: int | None
    waiting: int
    retrying: int
    peak: int | None


@dataclass(frozen=True, slots=True)
class RecordedServerLoad(RecordRow):
    """
    A reading of the load of a model's server.

    Attributes:
        run: Number of the run that read it.
        server: "llm"; or "llm:" and the name of an endpoint of an `LLMPool`.
        seconds: When, in seconds since the run began.
        running: Requests that it worked on; None if it could not be read, and so for all others.
        waiting: Requests that waited for it.
        kv_usage: Share of its KV cache in use, 0 to 1; None if it does not say.
        kv_tokens: Capacity of its KV cache in tokens; None if it does not say.
        preemptions: How often it stopped a request to make room since the reading before, whoever asked it.
        rejections: Requests that it refused since then.
        error: Why it could not be read; None if it could.
    """

    run: int
    server: str
    seconds: float
    running: int | None
    waiting: int | None
    kv_usage: float | None
    kv_tokens: int | None
    preemptions: int | None
    rejections: int | None
    error: str | None


_RUN_COLUMNS = (
    *("run", "task", "model", "strategy", "settings", "version", "total", "simulated", "texts", "began_unix"),
    *(
        "process",
        "latest",
        "missing",
        "has_ended",
        "seconds",
        "stopped",
        "succeeded",
        "failed",
        "calls",
        "retries",
    ),
    *(
        "rate_limited",
        "cache_hits",
        "prompt_tokens",
        "completion_tokens",
        "cached_tokens",
        "cost",
        "estimated_cost",
        "peak_memory_mib",
        "out_of_memory",
    ),
)
"""What the columns of `RUNS` are."""
_RUN_BEGINS = "items.id >= runs.id << 32 AND items.id < (runs.id + 1) << 32"
_CALLS = "FROM calls WHERE calls.id >= runs.id << 32 AND calls.id < (runs.id + 1) << 32"

_RUNS = f"""
SELECT id, task, model, strategy, settings, version, total, simulated, texts, began_unix, process, latest, missing,
  ended IS NOT NULL, coalesce(seconds, latest), stopped,
  coalesce(succeeded, (SELECT count(*) FROM items WHERE {_RUN_BEGINS} AND outcome = 'succeeded')),
  coalesce(failed, (SELECT count(*) FROM items WHERE {_RUN_BEGINS} AND outcome = 'failed')),
  coalesce(calls, (SELECT coalesce(sum(slots), 0) {_CALLS})),
  coalesce(retries, (SELECT count(*) {_CALLS} AND attempt > 1)),
  coalesce(rate_limited, (SELECT count(*) {_CALLS} AND outcome = 'refused')),
  coalesce(cache_hits, (SELECT count(*) {_CALLS} AND outcome = 'stored')),
  coalesce(prompt_tokens, (SELECT coalesce(sum(prompt_tokens), 0) {_CALLS})),
  coalesce(completion_tokens, (SELECT coalesce(sum(completion_tokens), 0) {_CALLS})),
  coalesce(cached_tokens, (SELECT coalesce(sum(cached_tokens), 0) {_CALLS})),
  CASE WHEN ended IS NULL THEN (SELECT sum(cost) {_CALLS}) ELSE cost END, estimated_cost, {{memory}}
FROM runs
"""  # nosec B608 (constants)
RUNS = _RUNS.format(memory="NULL, NULL")
RUNS_WITH_MEMORY = _RUNS.format(
    memory=", ".join(
        f"(SELECT {column} FROM run_memory WHERE run_memory.id = (runs.id << 32) + 1)"  # nosec B608 (constants)
        for column in ("peak_memory_mib", "out_of_memory")
    )
)

_ITEMS = """
SELECT run, place, item_json, outcome, started, ended, ended - started, stage, attempts, error_type, error,
  coalesce(spent.calls, 0), coalesce(spent.prompt_tokens, 0), coalesce(spent.completion_tokens, 0), spent.cost,
  coalesce(spent.waited, 0.0)
FROM items LEFT JOIN (
  SELECT item, count(*) AS calls, sum(prompt_tokens) AS prompt_tokens, sum(completion_tokens) AS completion_tokens,
    sum(cost) AS cost, sum(slot_seconds + rate_seconds + retry_seconds) AS waited
  FROM calls WHERE id >= ?1 << 32 AND id < (?1 + 1) << 32 AND attempt > 0 {one} GROUP BY item
) AS spent ON spent.item = items.id
WHERE items.id >= ?1 << 32 AND items.id < (?1 + 1) << 32
"""
ITEMS = _ITEMS.format(one="")
ITEM = f"{_ITEMS.format(one='AND item = ?2')} AND items.id = ?2"

_CALLS_OF_RUN = """
SELECT calls.run, items.item_json, prompt & 0xFFFFFFFF, attempt, calls.stage, label, model, queued, calls.started,
  calls.ended, calls.ended - calls.started, slot_seconds, rate_seconds, retry_seconds, slots, calls.outcome,
  prompt_tokens, completion_tokens, cached_tokens, cost, finish_reason, calls.error_type, status, calls.error, store_key
, {endpoint}, {batched}
FROM calls LEFT JOIN items ON items.id = calls.item {joins}
WHERE calls.id >= ?1 << 32 AND calls.id < (?1 + 1) << 32
"""
_JOIN = "LEFT JOIN {table} ON {table}.id = calls.id "

LIMITS = """
SELECT run, limiter, seconds, calls_in_flight, reason FROM limits WHERE id >= ?1 << 32 AND id < (?1 + 1) << 32
ORDER BY seconds, id
"""

LIMITERS = """
SELECT run, limiter, seconds, most, in_use, waiting, retrying, peak FROM limiters
WHERE id >= ?1 << 32 AND id < (?1 + 1) << 32 ORDER BY id
"""

SERVER_LOADS = """
SELECT run, server, seconds, running, waiting, kv_usage, kv_tokens, preemptions, rejections, error FROM server_loads
WHERE id >= ?1 << 32 AND id < (?1 + 1) << 32 ORDER BY id
"""


def runs_statement(connection: sqlite3.Connection) -> str:
    """Return the statement that reads the runs of the file."""
    return RUNS_WITH_MEMORY if has_table(connection, "run_memory") else RUNS


def calls_of_run(connection: sqlite3.Connection) -> str:
    """Return the query of the calls of a run; an older record may lack some of its tables."""
    found = {table for table in ("call_endpoints", "batched_calls") if has_table(connection, table)}
    return _CALLS_OF_RUN.format(
        endpoint="endpoint" if "call_endpoints" in found else "NULL",
        batched="batched_calls.id IS NOT NULL" if "batched_calls" in found else "0",
        joins="".join(_JOIN.format(table=table) for table in sorted(found)),
    )


def read_id(written: str | None) -> ItemId | None:
    """Return an id as it was, from its JSON; None if it cannot be one."""
    found = read_json(written)
    return found if isinstance(found, int | str) and not isinstance(found, bool) else None


def read_json(written: str | None) -> Any:
    """Return what a JSON text says; None if Python cannot read it."""
    try:
        return None if written is None else json.loads(written)
    except (ValueError, RecursionError):  # a number of thousands of digits, or lists in lists without end
        return None


def run_of(row: tuple[Any, ...]) -> RecordedRun:
    """Return the run of a row of `RUNS`."""
    given = dict(zip(_RUN_COLUMNS, row, strict=True))
    began, latest = given.pop("began_unix"), given.pop("latest")
    has_ended = given.pop("has_ended")
    given["settings"] = json.loads(given["settings"])
    given["simulated"], given["texts"] = bool(given["simulated"]), bool(given["texts"])
    run = RecordedRun(
        state="no end" if not has_ended else "done" if given["stopped"] is None else "stopped",
        began=datetime.fromtimestamp(began, UTC),
        ended=datetime.fromtimestamp(began + latest, UTC) if has_ended else None,
        **given,
    )
    for field in fields(run):
        check_kind(f"{field.name} of run {run.run}", getattr(run, field.name), str(field.type))
    return run


def item_of(row: tuple[Any, ...]) -> RecordedItem:
    """Return the item of a row of `ITEMS`."""
    return RecordedItem(row[0], row[1], read_id(row[2]), *row[3:])


def call_of(row: tuple[Any, ...]) -> RecordedCall:
    """Return the call of a row of `CALLS`."""
    return RecordedCall(row[0], read_id(row[1]), *(*row[2:-1], bool(row[-1])))
