"""
Sync driver of RunPod's job flows: submits, polls and cancels jobs in the calling thread.

Theory of operation
-------------------
`SyncJobRunner._run` takes a job through three stages, each with its own rule for interruptions:

1. *Submit*: under `DeferredSignals` and `shielded`, so that neither Ctrl-C nor a cancelled run can cut the request
   off. Losing its response would leave a job whose id is unknown. The wait for a slot *before* the request can be
   cancelled.
2. *Watch*: interruptible at any point. Whatever is raised, the ``except BaseException`` cancels the job.
3. *Cancel*: again deferred and shielded, and limited to `CANCEL_GRACE` seconds.

Limits of an operation (`OperationLimiter`) apply in `_slot`: first a concurrency slot, then the time reserved in the
sliding window. Waits check for cancellation every `POLL_INTERVAL` seconds.
"""

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
from ..._http.border import SafeLog
from ..._http.client_lifetime import UsageCounter
from ..._http.exchange import HTTPClient
from ..._http.types import HTTPResponse
from ..._llm_response import LLMResponse
from ...cancellation import cancel_requested, cancelled_error, shielded
from ...errors import PermanentBackendError
from ...steps import Sleep, drive
from ._flows import JobFlows
from ._health import RunPodHealth
from ._job import RESUMING, GetTime, Job, JobRecord, Operation, Send
from ._live_jobs import LiveJobs, Phase
from ._rate_limits import OperationLimiter

CANCEL_GRACE = 30.0
"""
Seconds after which no further attempt to cancel a job starts.

A cancellation usually takes one request, but RunPod accepts only 100 of them per 10 seconds.
"""
POLL_INTERVAL = 0.2
"""Seconds between checks for cancellation while all slots of an operation are taken."""


class SyncJobRunner:
    """
    Runs jobs in the calling thread. Thread-safe.

    Args:
        flows: The endpoint's job flows.
        client: Sends HTTP requests.
        headers: Headers of each request, including the key.
        limiters: Limiters by operation; an operation without one is not limited.
        live_jobs: Registry of jobs that may be alive.
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
        """Run a job, or resume the one in `record`; cancel it if this call ends first."""
        with self._using():
            found = None if record is None else record.find()
            if found is not None:
                self._flows.log.info(RESUMING, found.id)
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
                    # Cutting this request off could leave a job whose id is unknown.
                    with self._slot("run", raise_if_cancelled), DeferredSignals(), shielded():
                        drive(self._flows.submit(job, body), self._send)
                self._live_jobs.set_phase(job, Phase.WATCHED)
                return drive(self._flows.watch(job, max_tokens), self._perform)
            except BaseException:  # KeyboardInterrupt and SystemExit too
                self.cancel(job)
                raise

    def health(self) -> RunPodHealth:
        """Return the endpoint's jobs and workers."""
        with self._using():
            return drive(self._flows.health(), self._perform)

    def cancel(self, job: Job) -> None:
        """Cancel a job if it is alive, and release its journal entry; a first Ctrl-C is deferred until then."""
        if job.alive:
            with DeferredSignals(), shielded():
                if self._live_jobs.may_cancel(job):
                    self._cancel(job)
            warn_if_alive(job, self._flows.log)
        job.release_record()

    def _cancel(self, job: Job) -> None:
        deadline = monotonic() + CANCEL_GRACE

        def perform(step: Any) -> Any:
            if monotonic() > deadline:
                raise TimeoutError(f"not confirmed within {CANCEL_GRACE:g} seconds")
            if isinstance(step, Sleep):
                return time.sleep(step.seconds)  # not cancellation.sleep: the call is cancelled already
            with self._slot(step.operation, _noop):
                return self._send(step)

        try:
            drive(self._flows.cancel(job), perform)
        except Exception as error:
            self._flows.log.warning("cancelling RunPod job %s failed: %s", job.id, error)

    def close(self) -> None:
        """Close the connections, after the last call that uses them."""
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
    def _slot(self, operation: Operation, check: Callable[[], object]) -> Iterator[None]:
        """Hold a slot of an operation; `check` is called while waiting, and raises to stop waiting."""
        limiter = self._limiters.get(operation)
        if limiter is None:
            yield
            return
        slot = limiter.slots.slot()
        try:
            while not slot.acquire(POLL_INTERVAL):
                check()
            seconds = limiter.reserve()
            if seconds and check is raise_if_cancelled:
                cancellation.sleep(seconds)
            elif seconds:
                time.sleep(seconds)
            check()
            yield
        finally:
            slot.release()

    def _perform(self, step: Any) -> Any:
        if isinstance(step, Sleep):
            return cancellation.sleep(step.seconds)
        if isinstance(step, GetTime):
            return monotonic()
        with self._slot(step.operation, raise_if_cancelled):
            return self._send(step)

    def _send(self, step: Send) -> HTTPResponse:
        return self._client.send(step.request._replace(headers=self._headers))


def warn_if_alive(job: Job, log: SafeLog) -> None:
    """Log a job that could not be cancelled."""
    if job.alive:
        log.warning("RunPod job %s could not be cancelled; if it is alive, its ttl ends it", job.id)


def raise_if_cancelled() -> None:
    """Raise `RunStopped` if the call was cancelled."""
    if cancel_requested():
        raise cancelled_error()


def _noop() -> None:
    pass


class DeferredSignals:
    """
    Defers the main thread's first SIGINT (Ctrl-C), or SIGTERM that has a handler, to the end of the block.

    A second signal is handled at once. Does nothing in other threads, since Python handles signals in the main
    thread only.
    """

    def __init__(self) -> None:
        self._handlers: dict[int, Any] = {}
        self._pending: tuple[int, FrameType | None] | None = None

    def __enter__(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.getsignal(number)
            if callable(handler):
                try:
                    signal.signal(number, self._defer)
                except ValueError:  # a subinterpreter cannot set signal handlers
                    return
                self._handlers[number] = handler

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if self._pending is not None:
            number, frame = self._pending
            self._handlers[number](number, frame)

    def _defer(self, number: int, frame: FrameType | None) -> None:
        first = self._pending is None
        self._pending = (number, frame)
        if not first:
            self._pending = None
            self._handlers[number](number, frame)
