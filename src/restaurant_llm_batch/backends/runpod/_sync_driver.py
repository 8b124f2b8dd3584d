"""The blocking driver of RunPod's flows: in the calling thread, which may be a worker thread."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from time import monotonic
from types import FrameType, TracebackType
from typing import Any

from ... import cancellation
from ..._http.client_lifetime import UsageCounter
from ..._http.exchange import HTTPClient
from ..._http.types import HTTPResponse
from ..._llm_response import LLMResponse
from ...cancellation import cancel_requested, shielded
from ...errors import PermanentBackendError, RunStopped
from ...steps import Sleep, drive
from ._flows import JobFlows
from ._health import RunPodHealth
from ._job import GetTime, Job, JobRecord, Operation, Send, log
from ._live_jobs import LiveJobs, Phase
from ._rate_limits import OperationLimiter

CANCEL_GRACE = 30.0
"""
Seconds after which no further attempt to cancel a job is begun.

Most are cancelled in a moment, but RunPod takes only 100 cancellations in ten seconds.
"""
POLL_INTERVAL = 0.2
"""Seconds between looks whether a run was given up, while all slots of an operation are taken."""


class SyncJobRunner:
    """
    Runs jobs in the calling thread.

    Args:
        flows: The endpoint's flows.
        client: Sends exchanges.
        headers: The headers of each, the key among them.
        limiters: The limits of each operation.
        live_jobs: Where jobs are kept while they may be alive.
    """

    def __init__(
        self,
        flows: JobFlows,
        client: HTTPClient,
        headers: Mapping[str, str],
        limiters: Mapping[str, OperationLimiter],
        live_jobs: LiveJobs,
    ) -> None:
        self._flows = flows
        self._client = client
        self._headers = headers
        self._limiters = limiters
        self._live_jobs = live_jobs
        self._usage = UsageCounter()

    def complete(self, body: bytes, max_tokens: int, record: JobRecord | None = None) -> LLMResponse:
        """Run a job, or go on with one that is noted; it is cancelled if this ends before it does."""
        with self._using():
            found = None if record is None else record.find()
            if found is not None:
                try:
                    return self._run(found, body, max_tokens)
                except PermanentBackendError:
                    if not found.may_be_replaced:
                        raise
            return self._run(Job(record=record), body, max_tokens)

    def _run(self, job: Job, body: bytes, max_tokens: int) -> LLMResponse:
        with self._live_jobs.track(job):
            try:
                if not job.found:
                    # An exchange that is cut off here may leave a job whose number nobody knows.
                    with self._slot("run", raise_if_cancelled), DeferredSignals(), shielded():
                        drive(self._flows.submit(job, body), self._send)
                self._live_jobs.record(job, Phase.WATCHED)
                return drive(self._flows.watch(job, max_tokens), self._perform)
            except BaseException:
                self.cancel(job)
                raise

    def health(self) -> RunPodHealth:
        """Look at the endpoint."""
        with self._using():
            return drive(self._flows.health(), self._perform)

    def cancel(self, job: Job) -> None:
        """Cancel a job if it is alive, whatever has happened; a first Ctrl-C waits for that."""
        if job.alive:
            with DeferredSignals(), shielded():
                if self._live_jobs.may_cancel(job):
                    self._cancel(job)
            warn_if_alive(job)
        job.unanswered()

    def _cancel(self, job: Job) -> None:
        until = monotonic() + CANCEL_GRACE

        def perform(step: Any) -> Any:
            if monotonic() > until:
                raise TimeoutError(f"{CANCEL_GRACE:g} seconds were not enough")
            if isinstance(step, Sleep):
                return time.sleep(step.seconds)  # not to be cut short by what has ended the call
            with self._slot(step.operation, _nothing):
                return self._send(step)

        try:
            drive(self._flows.cancel(job), perform)
        except Exception as error:
            log.warning("cancelling RunPod job %s failed: %s", job.id, error)

    def close(self) -> None:
        """Close the connections, once no call uses them."""
        if self._usage.close():
            self._client.close()

    @contextmanager
    def _using(self) -> Iterator[None]:
        self._usage.enter()
        try:
            yield
        finally:
            if self._usage.exit():
                self._client.close()

    @contextmanager
    def _slot(self, operation: Operation, look_around: Callable[[], object]) -> Iterator[None]:
        lane = self._limiters.get(operation)
        if lane is None:
            yield
            return
        while not lane.slots.acquire(timeout=POLL_INTERVAL):
            look_around()
        try:
            seconds = lane.reserve()
            if seconds and look_around is raise_if_cancelled:
                cancellation.sleep(seconds)
            elif seconds:
                time.sleep(seconds)
            look_around()
            yield
        finally:
            lane.slots.release()

    def _perform(self, step: Any) -> Any:
        if isinstance(step, Sleep):
            return cancellation.sleep(step.seconds)
        if isinstance(step, GetTime):
            return monotonic()
        with self._slot(step.operation, raise_if_cancelled):
            return self._send(step)

    def _send(self, step: Send) -> HTTPResponse:
        return self._client.send(step.request._replace(headers=self._headers))


def warn_if_alive(job: Job) -> None:
    """Say so when a job could not be cancelled."""
    if job.alive:
        log.warning("RunPod job %s could not be cancelled; if it is alive, its ttl ends it", job.id)


def raise_if_cancelled() -> None:
    if cancel_requested():
        raise RunStopped("the run gave this call up")


def _nothing() -> None:
    pass


class DeferredSignals:
    """
    In this block the main thread's first Ctrl-C, or SIGTERM with a handler, waits for the block's end.

    A second one goes through. In other threads, which Python interrupts with no signal, it does nothing.
    """

    def __init__(self) -> None:
        self._handlers: dict[int, Any] = {}
        self._came: tuple[int, FrameType | None] | None = None

    def __enter__(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.getsignal(number)
            if callable(handler):
                try:
                    signal.signal(number, self._note)
                except ValueError:  # an interpreter within another one gets no signals
                    return
                self._handlers[number] = handler

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if self._came is not None:
            number, frame = self._came
            self._handlers[number](number, frame)

    def _note(self, number: int, frame: FrameType | None) -> None:
        first = self._came is None
        self._came = (number, frame)
        if not first:
            self._came = None
            self._handlers[number](number, frame)
