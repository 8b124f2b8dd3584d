"""
Recording: writes what happens in the runs of a runner into an SQLite file, while they go on.

Theory of operation. A recording is an observer. It adds each event to the rows of its run and returns; the first event
of a group queues the run for the file's writing thread. That thread is the store's (`_store/writer.py`): it lets rows
gather for `GATHER_SECONDS`, takes them, and commits them together. So a reader sees all but the latest moment, also
after a ``kill -9``.

A record never fails a run. What cannot be written, on a full disk for example, is left out and counted in
`runs.missing`, and the first time is logged.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import time
from typing import Self

from .. import _fork
from .._config.limits import Limits
from .._config.strategy import Strategy
from .._engine.run import RunConfig
from .._limits.concurrency import ConcurrencyLimiter
from .._store.connections import Connections
from .._store.database import StoreFile
from .._store.writer import GroupCommitWriter, Prepared, Request, in_transaction
from ..errors import ConfigurationError
from ..events import Event, RunEnded, RunStarted
from ._rows import Group, RunRows
from ._run_row import RunnerFacts
from ._schema import RECORD
from ._statements import LIMITER, PROGRESS, PUT_RUN, RUN_MEMORY, Row, RowKind
from ._values import sql_name, to_json
from ._wishes import RunControl, Wishes, forget, refuse_rest

log = logging.getLogger("restaurant_llm_batch")

GATHER_SECONDS = 0.25
"""How long rows gather until they are written: a commit for each would take more time than all the rest."""


_OF_VALUES = (
    *(TypeError, ValueError, OverflowError),
    *(sqlite3.InterfaceError, sqlite3.ProgrammingError, sqlite3.IntegrityError, sqlite3.DataError),
)
"""What is raised for values that SQLite does not take."""


class Recording:
    """
    A file in which runs are recorded: pass it, or its path, to `BatchRunner(record=...)`.

    The file may be the runner's store. Several runs, runners and processes may write into one file; a forked child
    opens it for itself. It is an SQLite file that only its owner may read; see `open_record`.

    Args:
        path: The file. It is created if it does not exist; its folder is not.
        texts: Whether prompts, answers, the reviews that the model was shown, and results are recorded too. The file
            then holds whatever guests and models wrote.
        lock_timeout: Seconds to wait for a lock that another process holds, before events are left out.

    Raises:
        ConfigurationError: If `path` is not a path, or another argument has the wrong type.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, texts: bool = False, lock_timeout: float = 10.0
    ) -> None:
        given: object = texts
        if not isinstance(given, bool):
            raise ConfigurationError(f"texts must be True or False, got {texts!r}; for example texts=True")
        file = StoreFile(path, lock_timeout, RECORD)
        self.texts = texts
        self.path: Path = file.path
        self._format = RecordFormat(file)
        self._connections = Connections(file, self._format, GATHER_SECONDS, self._format.wishes)

    def open(self) -> None:
        """
        Open the file now, to find any problem with it early.

        Raises:
            ConfigurationError: If the file is not a record or store, is damaged, of another format, locked or
                read-only, or if its folder is missing. The file is left as it is.
        """
        with self._connections.reading:
            pass
        self._connections.reading.close()

    def observer(self, facts: RunnerFacts, control: RunControl | None = None) -> RecordObserver:
        """
        Return an observer that records the runs of a runner.

        Args:
            facts: What is known of the runner.
            control: Sets its limits as the file asks for; None for limits that are not to be set.
        """
        return RecordObserver(self._connections, self._format, facts, control, self.texts)

    def flush(self) -> None:
        """Wait until everything that has happened so far is written, or cannot be written."""
        self._connections.flush()

    def close(self) -> None:
        """
        Write what has happened so far, and close the file. Blocks until it is done; closing again does nothing.

        What happens later opens it again.
        """
        self._connections.close()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Recording {str(self.path)!r}{' with texts' if self.texts else ''}>"


def as_recording(record: str | os.PathLike[str] | Recording | None) -> Recording | None:
    """
    Return what a `record` argument names, opened.

    Raises:
        ConfigurationError: If it is not a path, or the file cannot be opened as a record.
    """
    if record is None:
        return None
    recording = record if isinstance(record, Recording) else Recording(record)
    recording.open()
    return recording


def describe_runner(llm: object, strategy: Strategy, limits: Limits, config: RunConfig) -> RunnerFacts:
    """Return what a record says of a runner; no secret is among it."""
    named = {field.name: getattr(limits, field.name) for field in fields(limits) if field.repr}
    settings = {
        "limits": {name: _number(limit) for name, limit in named.items()},
        "retries": {stage: config.retries[stage] for stage in ("search", "llm")},
        "time_limits": config.time_limits,
        "stop": config.stop,
    }
    model = getattr(llm, "model", "")
    return RunnerFacts(
        model=model if isinstance(model, str) else "",
        strategy=sql_name(strategy),
        settings=to_json(settings),
        prices=config.prices,
        version=_version(),
    )


def _number(limit: object) -> object:
    return limit.configured if isinstance(limit, ConcurrencyLimiter) else limit


def _version() -> str:
    try:
        return version("restaurant-llm-batch")
    except PackageNotFoundError:  # run from a source tree
        return ""


class RecordObserver:
    """
    Records the runs of one runner.

    Args:
        connections: The file.
        file_format: Prepares what is written.
        facts: What is known of the runner.
        control: Its limits, or None.
        texts: Whether texts are recorded.

    Attributes:
        wants_requests: Whether it records prompts.
    """

    def __init__(
        self,
        connections: Connections,
        file_format: RecordFormat,
        facts: RunnerFacts,
        control: RunControl | None,
        texts: bool,
    ) -> None:
        self.wants_requests: bool = texts
        self._format = file_format
        self._connections = connections
        self._submit = connections.submit
        self._facts = facts
        self._control = control
        self._runs: dict[int, RunRows] = {}

    def __call__(self, event: Event, /) -> None:
        """Add an event to the rows of its run."""
        kind = type(event)
        if kind is RunStarted:
            assert isinstance(event, RunStarted)
            started = RunRows(self._facts, event, time(), self.wants_requests, self._control)
            self._runs[event.run] = started
            self._submit(RunInsert(started, self._format))
            return
        run = self._runs.get(event.run)
        if run is None or run.forks != _fork.count:
            return  # a forked child goes on with a copy of its parent's run, which the parent records
        try:
            run.add(event)
        except Exception as error:  # of a user's own value, for example
            self._format.left_out(run, 1, error)
        if kind is RunEnded:
            self._submit(run)  # in any case: an interrupt may have come between the next two statements
            del self._runs[event.run]
            self._connections.hurry()
        elif not run.queued:
            run.queued = True
            self._submit(run)


class RunInsert(Request):
    """
    A request to write the row of a run that starts.

    It has a transaction of its own, so that the run's id is known, and final, before its events are turned into rows.
    """

    def __init__(self, run: RunRows, file_format: RecordFormat) -> None:
        super().__init__(self._written)
        self._run = run
        self._format = file_format

    def perform(self, writer: GroupCommitWriter, connection: sqlite3.Connection) -> None:
        """Write the row, and give the run its id."""
        in_transaction(connection, partial(insert, self._run))
        self._format.wishes.begin(self._run)

    def _written(self, error: Exception | None) -> None:
        if error is not None:
            self._run.id = 0  # its rows are left out until it can be written
            self._format.left_out(self._run, 1, error)


def insert(run: RunRows, connection: sqlite3.Connection) -> None:
    """Write the row of a run that is not in the file yet, and give the run its id."""
    run.id = connection.execute(PUT_RUN, (None, *run.row.values())).lastrowid or 0
    forget(run.id, connection)
    for row in run.standings(0.0):
        LIMITER.put(connection, run.id, [row])


class RecordFormat:
    """
    Prepares the rows of runs for the writing thread of a record: a `Prepare` function.

    Args:
        file: The file, to name it.

    Attributes:
        wishes: The wishes for its runs.
    """

    def __init__(self, file: StoreFile) -> None:
        self.wishes: Wishes = Wishes()
        self._name = str(file.path)
        self._logged = False

    def __call__(self, queued: list[RunRows]) -> Prepared:
        """Return what is written for runs."""
        taken = {run: group for run in dict.fromkeys(queued) if (group := run.take()).events}
        for run, group in taken.items():
            if run.id:
                self._add_texts(run, group)
            else:
                run.row.missing += group.events - group.ended
                taken[run] = group._replace(rows={})
            if group.ended:
                self.wishes.end(run)
        late = [run for run in taken if not run.id]
        write = partial(in_transaction, write=partial(self._write, taken, late))
        return Prepared(write if taken else None, partial(self._written, late, taken))

    def _add_texts(self, run: RunRows, group: Group) -> None:
        for add in group.texts:
            try:
                add(group.rows)
            except Exception as error:  # of a user's own value, for example
                self.left_out(run, 1, error)

    def _write(
        self, taken: Mapping[RunRows, Group], late: Sequence[RunRows], connection: sqlite3.Connection
    ) -> None:
        """Write rows; runs that are `late` could not be written when they started."""
        for run, group in taken.items():
            if run in late:
                insert(run, connection)
            elif group.ended:
                connection.execute(PUT_RUN, (run.id, *run.row.values()))
                refuse_rest(run.id, connection)
            else:
                connection.execute(PROGRESS, (run.row.latest, run.row.missing, run.id))
            if group.ended:
                RUN_MEMORY.put(connection, run.id, [run.row.memory()])
            for kind, rows in group.rows.items():
                for part in kind.parts(rows):
                    self._put(connection, run.id, kind, part)

    def _put(self, connection: sqlite3.Connection, run: int, kind: RowKind, part: Sequence[Row]) -> None:
        try:
            kind.put(connection, run, part)
        except _OF_VALUES:
            if len(part) > 1:
                for row in part:
                    self._put(connection, run, kind, [row])
            else:  # every value is one that SQLite takes, so this is a fault of this library
                log.warning("a row of table %s cannot be recorded", kind.table, exc_info=True)

    def _written(
        self, late: Sequence[RunRows], taken: Mapping[RunRows, Group], error: Exception | None
    ) -> None:
        if error is not None:
            for run in late:
                run.id = 0
            for run, group in taken.items():
                if run not in late:
                    self.left_out(run, group.events, error)

    def left_out(self, run: RunRows, events: int, error: Exception) -> None:
        """Count events of a run that could not be written, and log the first error."""
        run.row.missing += events
        if not self._logged:
            self._logged = True
            log.warning(
                "the run goes on, but its record %s is incomplete: %s (said once; runs.missing counts what is lost)",
                self._name,
                error,
            )
