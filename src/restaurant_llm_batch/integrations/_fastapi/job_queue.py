"""Job queue: runs the jobs of a `JobStore` in this process, a few at once, after the calls of requests."""

from __future__ import annotations

import json
import logging
import os
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from time import monotonic
from typing import Any, TypeVar

from anyio import CancelScope, Event, create_task_group, move_on_after, sleep, to_thread
from anyio.abc import TaskGroup
from pydantic import TypeAdapter
from starlette.exceptions import HTTPException

from ..._limits.clients import Client
from ..._runner import BatchRunner
from ..._text import error_text
from ...errors import RunStopped
from ...models import ItemId
from ...outcomes import Failure, Outcome, RunStats
from .access import Clients
from .error_responses import describe_error
from .job_store import JobRow, JobState, JobStore, QueuedJob
from .jobs import BatchJob
from .respond import Faults, ResponseBuilder
from .serialize import as_line
from .wrapped_task import WrappedTask

log = logging.getLogger("restaurant_llm_batch")

T = TypeVar("T")

AT_ONCE = 2
"""Jobs that a process runs at once."""
BEAT_SECONDS = 0.5
"""Seconds between two writes of what a job has done, which also say that its process lives."""
RETRY_SECONDS = 1.0
"""Seconds between two tries to write the end of a job, for example while the disk is full."""
LOOK_SECONDS = 1.0
"""Seconds between two looks for jobs of other processes and of before a restart."""
PURGE_SECONDS = 600.0
JOB_PRIORITY = 1_000_000
"""Added to the priority of a job's items: the calls of requests come first."""


@dataclass(frozen=True)
class JobKind:
    """
    What jobs of one task are made of.

    Attributes:
        model: Validates the body of a request about many restaurants.
        make_job: Returns what is to be done for a validated body.
    """

    model: TypeAdapter[Any]
    make_job: Callable[[Any], BatchJob]


class LaterTask(WrappedTask):
    """A task whose items come after those of requests."""

    def item_key(self, item: Any, /) -> tuple[ItemId, int]:
        """Return the key of an item, with a later priority."""
        item_id, priority = self.task.item_key(item)
        return item_id, priority + JOB_PRIORITY


@dataclass(frozen=True)
class JobAsker:
    """What a job is done for, as `ResponseBuilder` asks for it."""

    job: QueuedJob

    @property
    def request_id(self) -> str:
        """The job's id."""
        return self.job.id

    @property
    def wants_debug(self) -> bool:
        """Whether the request for the job has asked for the fuller response."""
        return self.job.debug

    @property
    def log_id(self) -> str:
        """The job's name in the log."""
        return f"job {self.job.id}" + (f" of {self.job.client}" if self.job.client else "")


class JobQueue:
    """
    Runs jobs in this process, and those that other processes have left.

    Args:
        runner: Runs them.
        store: Keeps them.
        kinds: The kinds of jobs by the names of their tasks.
        days: Days for which jobs that have ended are kept.
        clients: The clients.
    """

    def __init__(
        self,
        runner: BatchRunner,
        store: JobStore,
        kinds: Mapping[str, JobKind],
        days: float,
        clients: Clients,
    ) -> None:
        self.store = store
        self.kinds = kinds
        self._runner = runner
        self._days = days
        self._clients = clients
        self._faults = Faults()
        self._wake: Event | None = None
        self._running = 0
        self._is_troubled = False

    @property
    def is_open(self) -> bool:
        """Whether jobs are run in this process now."""
        return self._wake is not None

    def wake(self) -> None:
        """Look for jobs at once."""
        if self._wake is not None:
            self._wake.set()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Run jobs during the block. Those that are running at its end are given back, to be gone on with later."""
        owner = f"{os.getpid()}-{secrets.token_hex(8)}"
        self._wake, self._running = Event(), 0
        try:
            async with create_task_group() as tasks:
                tasks.start_soon(self._look, tasks, owner)
                yield
                tasks.cancel_scope.cancel()
        finally:
            self._wake = None
            await to_thread.run_sync(self.store.close)

    async def _look(self, tasks: TaskGroup, owner: str) -> None:
        purge_at = 0.0
        while True:
            claimed = None
            if self._running < AT_ONCE:
                claimed = await self._tried(partial(self.store.claim, owner))
            if claimed is not None:
                self._running += 1
                tasks.start_soon(self._run, *claimed, owner)
                continue
            if monotonic() >= purge_at:
                purge_at = monotonic() + PURGE_SECONDS
                await self._tried(partial(self.store.purge, self._days * 86_400))
            assert self._wake is not None
            with move_on_after(LOOK_SECONDS):
                await self._wake.wait()
            self._wake = Event()

    async def _tried(self, step: Callable[[], T]) -> T | None:
        """Do something with the store; None if that is not possible now, which is logged once."""
        try:
            found = await to_thread.run_sync(step)
        except Exception as error:
            if not self._is_troubled:
                self._is_troubled = True
                log.error("jobs are not run until this is mended (said once): %s", error_text(error))  # noqa: TRY400
            return None
        self._is_troubled = False
        return found

    async def _run(self, job: QueuedJob, body: str, owner: str) -> None:
        client = self._clients.named(job.client)
        work = JobRun(self._runner, self.store, job, owner, self._faults, client)
        try:
            await work.run(self.kinds.get(job.task), body)
        finally:
            self._running -= 1
            self.wake()


class JobRun:
    """
    One job while it runs in this process.

    Args:
        runner: Runs it.
        store: Keeps it.
        job: The job.
        owner: This process's name in the store.
        faults: Logs errors of the service's setup once.
        client: Whom it is run for, or None.
    """

    def __init__(
        self,
        runner: BatchRunner,
        store: JobStore,
        job: QueuedJob,
        owner: str,
        faults: Faults,
        client: Client | None,
    ) -> None:
        self._runner = runner
        self._store = store
        self._job = job
        self._owner = owner
        self._faults = faults
        self._client = client
        self._rows: list[JobRow] = []
        self._is_lost = False
        self._is_troubled = False

    async def run(self, kind: JobKind | None, body: str) -> None:
        """Run the job to its end, until it is cancelled or another process has it, or until this task is cancelled."""
        state: JobState = "waiting"  # given back if this task is cancelled
        error: str | None = None
        try:
            async with create_task_group() as tasks:
                tasks.start_soon(self._beat, tasks.cancel_scope)
                state, error = await self._work(kind, body)
                tasks.cancel_scope.cancel()
        except Exception as failure:
            state, error = "failed", "internal error"
            log.exception("job %s failed", self._job.id, exc_info=failure)
        finally:
            # If this task is cancelled, it is tried once, and another process will claim the job.
            while not await self._end(state, error):  # noqa: ASYNC110  # there is no event to wait for
                await sleep(RETRY_SECONDS)

    async def _end(self, state: JobState, error: str | None) -> bool:
        """Write the rest of the rows and the end of the job; return whether that was possible, or is not wanted."""
        try:
            with CancelScope(shield=True):
                await self._save()
                if not self._is_lost:
                    await to_thread.run_sync(self._store.end, self._job, self._owner, state, error)
        except Exception as failure:
            self._note_trouble(failure)
            return False
        return True

    def _note_trouble(self, error: Exception) -> None:
        if not self._is_troubled:
            self._is_troubled = True
            log.warning(
                "what job %s has done cannot be written now, and is kept until it can (said once): %s",
                self._job.id,
                error_text(error),
            )

    async def _work(self, kind: JobKind | None, body: str) -> tuple[JobState, str | None]:
        if kind is None:
            return "failed", f"this service has no task {self._job.task!r}"
        try:
            batch = await to_thread.run_sync(_made, kind, body)
        except HTTPException as error:  # the service's limits or tasks are others than when the job was made
            return "failed", str(error.detail)
        done = await to_thread.run_sync(self._store.places, self._job)
        places = [place for place in range(len(batch.items)) if place not in done]
        builder = ResponseBuilder(JobAsker(self._job), batch, self._faults)
        stop: RunStopped | None = None
        async with self._runner as runner:
            items = [batch.items[place] for place in places]
            stream = runner.astream(LaterTask(batch.task), items, client=self._client)
            async for outcome in stream:
                if isinstance(outcome, Failure) and isinstance(outcome.error, RunStopped):
                    stop = outcome.error  # it was not run
                else:
                    self._add(builder, outcome, places[outcome.index], stream.stats)
        cause = builder.stop or stop
        return ("done", None) if cause is None else ("failed", describe_error(cause))

    def _add(self, builder: ResponseBuilder, outcome: Outcome[Any], place: int, stats: RunStats) -> None:
        entry = builder.add(replace(outcome, index=place), stats)
        for kind in ("result", "failure"):
            if kind in entry:
                self._rows.append(JobRow(place, kind, as_line(entry[kind]).decode().rstrip("\n")))

    async def _beat(self, scope: CancelScope) -> None:
        while True:
            await sleep(BEAT_SECONDS)
            try:
                await self._save()
            except Exception as error:  # rows stay for the next time
                self._note_trouble(error)
            if self._is_lost:
                scope.cancel()
                return

    async def _save(self) -> None:
        rows = list(self._rows)
        # Shielded, so that rows that are being written are not written again.
        with CancelScope(shield=True):
            kept = await to_thread.run_sync(self._store.save, self._job, self._owner, rows)
        del self._rows[: len(rows)]
        self._is_lost = not kept


def _made(kind: JobKind, body: str) -> BatchJob:
    return kind.make_job(kind.model.validate_python(json.loads(body)))
