"""
Job store: the jobs of a service in its record's file, so that any worker answers for any job, also after a restart.

Theory of operation. A job is in one of these states:

| state | it is left |
|---|---|
| waiting | to "running", when a worker claims it; to "cancelled" |
| running | to "done" or "failed", by its owner; to "cancelled"; back to "waiting", when its owner shuts down |
| done, failed, cancelled | never; it is removed days later |

The owner of a running job says now and then that it lives (`beat`). A job whose owner has not for `SILENT_SECONDS` is
claimed by another worker, which goes on where the rows end; after `MOST_CLAIMS` owners in a row that have died without
a row, the job fails. Whatever an owner writes names it: one that was paused, and has lost the job meanwhile, changes
nothing and learns so.

Clients take turns: the next job is that of a client with the fewest jobs that run, and of these the one that has waited
longest.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import time
from typing import Any, Literal, TypeAlias, TypeVar

from ..._store.database import FileKind
from ..._store.file_user import FileUser
from ...sharing.limiter import loan_clock

LOCK_SECONDS = 10.0
SILENT_SECONDS = 10.0
"""Seconds after which an owner that says nothing has lost its job."""
MOST_CLAIMS = 5
"""Workers that may take a job one after the other without doing anything of it: it may be what they die of."""
DIED = f"{MOST_CLAIMS} processes have ended while they ran it"
PAGE_BYTES = 2**18
"""Bytes of the rows that are read at once, or one row."""

JobState: TypeAlias = Literal["waiting", "running", "done", "failed", "cancelled"]
RowKind: TypeAlias = Literal["result", "failure"]
T = TypeVar("T")

KIND = FileKind(
    "record",
    "night.db",
    "the jobs",
    tables={
        "queued_jobs": """CREATE TABLE queued_jobs (
  number INTEGER PRIMARY KEY,
  id TEXT NOT NULL UNIQUE,
  client TEXT NOT NULL,
  task TEXT NOT NULL,
  body TEXT,
  debug INTEGER NOT NULL,
  warnings TEXT NOT NULL,
  state TEXT NOT NULL,
  made REAL NOT NULL,
  began REAL,
  ended REAL,
  total INTEGER NOT NULL,
  succeeded INTEGER NOT NULL,
  failed INTEGER NOT NULL,
  error TEXT,
  owner TEXT,
  beat REAL
) STRICT""",
        "queued_job_rows": """CREATE TABLE queued_job_rows (
  job INTEGER NOT NULL REFERENCES queued_jobs (number),
  place INTEGER NOT NULL,
  kind TEXT NOT NULL,
  entry TEXT NOT NULL,
  PRIMARY KEY (job, place)
) STRICT, WITHOUT ROWID""",
        # Not in the table of jobs, or each look at their states would read past all bodies.
        "queued_job_bodies": """CREATE TABLE queued_job_bodies (
  job INTEGER PRIMARY KEY REFERENCES queued_jobs (number),
  body TEXT NOT NULL,
  claims INTEGER NOT NULL
) STRICT""",
        "queued_jobs_open": "CREATE INDEX queued_jobs_open ON queued_jobs (client, state) WHERE ended IS NULL",
    },
)

_COLUMNS = (
    "number, id, client, task, debug, warnings, state, made, began, ended, total, succeeded, failed, error"
)
_NEXT = """
WITH busy AS (
  SELECT client, count(*) AS jobs FROM queued_jobs WHERE ended IS NULL AND state = 'running' GROUP BY client
)
SELECT number FROM queued_jobs LEFT JOIN busy USING (client) WHERE ended IS NULL
AND (state = 'waiting' OR (state = 'running' AND owner != ?3 AND (beat > ?1 OR beat < ?1 - ?2)))
ORDER BY coalesce(jobs, 0), number LIMIT 1
"""
"""The job that may be claimed next. A beat of the future is one of before the computer was started again."""
_MINE = "number = ? AND owner = ? AND state = 'running'"


@dataclass(frozen=True, slots=True)
class QueuedJob:
    """
    A job.

    Attributes:
        number: Its number in the file.
        id: Its id for clients.
        client: Name of the client that has made it; "" for none.
        task: Name of its task.
        debug: Whether the fuller response is asked for.
        warnings: The warnings about its request, as JSON.
        state: Its state.
        made: When it was made, in seconds since 1970; likewise `began` and `ended`, which are None before.
        total: Number of its restaurants.
        succeeded: Number of results so far.
        failed: Number of failures so far.
        error: Why it failed as a whole, or None.
    """

    number: int
    id: str
    client: str
    task: str
    debug: bool
    warnings: str
    state: JobState
    made: float
    began: float | None
    ended: float | None
    total: int
    succeeded: int
    failed: int
    error: str | None

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state not in ("waiting", "running")


@dataclass(frozen=True, slots=True)
class JobRow:
    """A result or a failure of a job: the restaurant's place in the request, the kind, and the entry as JSON."""

    place: int
    kind: RowKind
    entry: str


class JobStore(FileUser):
    """
    The jobs in a record's file. Its methods block; threads and processes may call them at once.

    Args:
        path: The file. It is created if it does not exist.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, LOCK_SECONDS, KIND)
        self._now = loan_clock()

    def add(
        self, id_: str, client: str, task: str, body: str, debug: bool, warnings: str, total: int, most: int
    ) -> QueuedJob | None:
        """Add a job that waits, and return it; None if `most` jobs of the client wait already."""
        values = (id_, client, task, debug, warnings, time(), total)

        def step(connection: sqlite3.Connection) -> QueuedJob | None:
            (waiting,) = connection.execute(
                "SELECT count(*) FROM queued_jobs WHERE ended IS NULL AND client = ? AND state = 'waiting'",
                (client,),
            ).fetchone()
            if waiting >= most:
                return None
            number = connection.execute(
                "INSERT INTO queued_jobs (id, client, task, debug, warnings, state, made, total, succeeded, failed) "
                "VALUES (?, ?, ?, ?, ?, 'waiting', ?, ?, 0, 0)",
                values,
            ).lastrowid
            connection.execute("INSERT INTO queued_job_bodies VALUES (?, ?, 0)", (number, body))
            return _find(connection, id_, client)

        return self._in_transaction(step)

    def find(self, id_: str, client: str) -> QueuedJob | None:
        """Return a job of a client; None if it has no such job."""
        return self._reading(lambda connection: _find(connection, id_, client))

    def claim(self, owner: str) -> tuple[QueuedJob, str] | None:
        """Make an owner run the job whose turn it is; return it and its body, or None if there is none."""
        now = self._now()
        values = now, SILENT_SECONDS, owner

        def step(connection: sqlite3.Connection) -> tuple[QueuedJob, str] | None:
            while (row := connection.execute(_NEXT, values).fetchone()) is not None:
                (number,) = row
                body = _claimed(connection, number)
                if body is None:
                    _end(connection, "failed", DIED, "number = ?", (number,))
                    continue
                connection.execute(
                    "UPDATE queued_jobs SET state = 'running', owner = ?, beat = ?, began = coalesce(began, ?) "
                    "WHERE number = ?",
                    (owner, now, time(), number),
                )
                found = connection.execute(
                    f"SELECT {_COLUMNS} FROM queued_jobs WHERE number = ?",  # nosec B608 (constants)
                    row,
                ).fetchone()
                return _job(found), body
            return None

        # Looked up without a lock first: there is a job to claim once in a while only.
        found = self._reading(lambda connection: connection.execute(_NEXT, values).fetchone())
        return None if found is None else self._in_transaction(step)

    def places(self, job: QueuedJob) -> set[int]:
        """Return the places of the restaurants that have a row."""
        return self._reading(
            lambda connection: {
                place
                for (place,) in connection.execute(
                    "SELECT place FROM queued_job_rows WHERE job = ?", (job.number,)
                )
            }
        )

    def save(self, job: QueuedJob, owner: str, rows: Sequence[JobRow]) -> bool:
        """Say that the owner lives, and add rows; return False if the job is not the owner's any more."""
        succeeded = sum(row.kind == "result" for row in rows)

        def step(connection: sqlite3.Connection) -> bool:
            changed = connection.execute(
                "UPDATE queued_jobs SET beat = ?, succeeded = succeeded + ?, failed = failed + ? "  # nosec B608
                f"WHERE {_MINE}",
                (self._now(), succeeded, len(rows) - succeeded, job.number, owner),
            ).rowcount
            if changed and rows:
                connection.execute("UPDATE queued_job_bodies SET claims = 0 WHERE job = ?", (job.number,))
                connection.executemany(
                    "INSERT INTO queued_job_rows VALUES (?, ?, ?, ?)",
                    [(job.number, row.place, row.kind, row.entry) for row in rows],
                )
            return changed == 1

        return self._in_transaction(step)

    def end(self, job: QueuedJob, owner: str, state: JobState, error: str | None = None) -> None:
        """End a job of an owner, or give it back if the state is "waiting"."""
        self._in_transaction(lambda connection: _end(connection, state, error, _MINE, (job.number, owner)))

    def cancel(self, id_: str, client: str) -> QueuedJob | None:
        """Cancel a job of a client unless it has ended, and return it; None if there is no such job."""

        def step(connection: sqlite3.Connection) -> QueuedJob | None:
            _end(connection, "cancelled", None, "id = ? AND client = ? AND ended IS NULL", (id_, client))
            return _find(connection, id_, client)

        return self._in_transaction(step)

    def rows(self, job: QueuedJob, kind: RowKind | None = None, after: int = -1) -> list[JobRow]:
        """
        Return the next rows of a job, in the order of its request, as many as have `PAGE_BYTES`.

        Args:
            job: The job.
            kind: Only rows of this kind; None for all.
            after: The place after which they are.
        """

        def step(connection: sqlite3.Connection) -> list[JobRow]:
            found: list[JobRow] = []
            size = 0
            for place, its_kind, entry in connection.execute(
                "SELECT place, kind, entry FROM queued_job_rows WHERE job = ? AND place > ? "
                "AND kind = coalesce(?, kind) ORDER BY place",
                (job.number, after, kind),
            ):
                found.append(JobRow(place, its_kind.decode(), entry.decode()))
                size += len(entry)
                if size >= PAGE_BYTES:
                    break
            return found

        return self._reading(step)

    def purge(self, seconds: float) -> None:
        """Remove the jobs that have ended longer ago than this."""
        before = time() - seconds
        old = "SELECT number FROM queued_jobs WHERE ended < ?"

        def step(connection: sqlite3.Connection) -> None:
            for table in ("queued_job_rows", "queued_job_bodies"):
                connection.execute(f"DELETE FROM {table} WHERE job IN ({old})", (before,))  # nosec B608
            connection.execute("DELETE FROM queued_jobs WHERE ended < ?", (before,))

        if self._reading(lambda connection: connection.execute(old, (before,)).fetchone()) is not None:
            self._in_transaction(step)

    def _reading(self, step: Callable[[sqlite3.Connection], T]) -> T:
        self._connection.leave_replaced_file()
        with self._connection as connection:
            return step(connection)

    def _in_transaction(self, step: Callable[[sqlite3.Connection], T]) -> T:
        self._connection.leave_replaced_file()
        with self._connection as connection, _transaction(connection):
            return step(connection)


def _find(connection: sqlite3.Connection, id_: str, client: str) -> QueuedJob | None:
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM queued_jobs WHERE id = ? AND client = ?",  # nosec B608 (constants)
        (id_, client),
    ).fetchone()
    return None if row is None else _job(row)


def _claimed(connection: sqlite3.Connection, number: int) -> str | None:
    """Count a claim of a job, and return its body; None if it was claimed too often, or has no body any more."""
    row = connection.execute(
        "UPDATE queued_job_bodies SET claims = claims + 1 WHERE job = ? AND claims < ? RETURNING body",
        (number, MOST_CLAIMS),
    ).fetchone()
    return None if row is None else row[0].decode()


def _end(
    connection: sqlite3.Connection, state: JobState, error: str | None, which: str, values: tuple[object, ...]
) -> None:
    """End the job that a condition names, or give it back if the state is "waiting"."""
    ended = None if state == "waiting" else time()
    row = connection.execute(
        "UPDATE queued_jobs SET state = ?, error = ?, ended = ?, owner = NULL, beat = NULL "  # nosec B608 (constants)
        f"WHERE {which} RETURNING number",
        (state, error, ended, *values),
    ).fetchone()
    if row is not None and ended is None:
        connection.execute("UPDATE queued_job_bodies SET claims = 0 WHERE job = ?", row)
    elif row is not None:
        connection.execute("DELETE FROM queued_job_bodies WHERE job = ?", row)


def _job(row: Sequence[Any]) -> QueuedJob:
    values: list[Any] = [value.decode() if isinstance(value, bytes) else value for value in row]
    number, id_, client, task, debug, *rest = values
    return QueuedJob(number, id_, client, task, bool(debug), *rest)


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
