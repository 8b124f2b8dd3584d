"""
Async driver of RunPod's job flows: submits, polls and cancels jobs on asyncio or trio.

Theory of operation
-------------------
A cancelled call must still receive the response to its submission, which holds the job's id, and then cancel the
job. So each call runs in a task of its own (`_Call._work`) inside a shielded scope, and the caller's task only waits
for it. When the caller is cancelled, `_Call._wait`

1. cancels `_wait_scope`, which ends slot waits and polling,
2. gives a submission in flight `SUBMIT_GRACE` seconds to be answered (`_submission`, shielded from the former),

and the task group then waits until the task has cancelled the job, for `CANCEL_GRACE` seconds at most.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from time import monotonic
from typing import Any

import anyio
from anyio import CancelScope, CapacityLimiter, create_task_group, current_time, get_cancelled_exc_class

from ..._http.client_lifetime import EventLoopLocal, UsageCounter
from ..._http.exchange import HTTPClient
from ..._http.types import HTTPResponse
from ..._llm_response import LLMResponse
from ...errors import PermanentBackendError, RunStopped
from ...steps import Sleep, adrive
from ._flows import JobFlows
from ._health import RunPodHealth
from ._job import RESUMING, GetTime, Job, JobRecord, Operation, Send
from ._live_jobs import LiveJobs, Phase
from ._rate_limits import OperationLimiter
from ._sync_driver import CANCEL_GRACE, warn_if_alive

SUBMIT_GRACE = 10.0
"""Seconds to wait for the response to a submission after the call was cancelled."""
_SUBMISSION_CUT_OFF = "a submission to RunPod was cut off: a job may have been made, and only its ttl ends it"


class _Loop:
    """One event loop's concurrency slots by operation, and its number of calls."""

    def __init__(self, limiters: Mapping[str, OperationLimiter]) -> None:
        self.in_use = UsageCounter()
        self.slots = {name: CapacityLimiter(limiter.max_concurrent) for name, limiter in limiters.items()}


class AsyncJobRunner:
    """Runs jobs on the running event loop; takes the arguments of `SyncJobRunner`."""

    def __init__(
        self,
        flows: JobFlows,
        client: HTTPClient,
        headers: Mapping[str, str],
        limiters: Mapping[str, OperationLimiter],
        live_jobs: LiveJobs,
    ) -> None:
        self.flows = flows
        self.live_jobs = live_jobs
        self._client = client
        self._headers = headers
        self._limiters = limiters
        self._loops = EventLoopLocal(lambda: _Loop(limiters), lambda loop: None)

    async def complete(self, body: bytes, max_tokens: int, record: JobRecord | None = None) -> LLMResponse:
        """Run a job, or resume the one in `record`; cancel it if this call is cancelled."""
        async with self._using():
            found = None if record is None else record.find()
            if found is not None:
                self.flows.log.info(RESUMING, found.id)
                try:
                    return await _Call(self, found, body, max_tokens).run()
                except PermanentBackendError:
                    if not found.may_be_replaced:
                        raise
            return await _Call(self, Job(record=record), body, max_tokens).run()

    async def health(self) -> RunPodHealth:
        """Return the endpoint's jobs and workers."""
        async with self._using():
            return await adrive(self.flows.health(), self.perform)

    async def aclose(self) -> None:
        """Close the running event loop's connections, after the last call that uses them."""
        if self._loops.get().in_use.close():
            await self._client.aclose()

    async def perform(self, step: Any) -> Any:
        """Perform a step of a flow."""
        if isinstance(step, Sleep):
            return await anyio.sleep(step.seconds)
        if isinstance(step, GetTime):
            return monotonic()
        async with self.slot(step.operation):
            return await self.send(step)

    async def send(self, step: Send) -> HTTPResponse:
        """Send a request without applying its operation's limits."""
        return await self._client.asend(step.request._replace(headers=self._headers))

    @asynccontextmanager
    async def slot(self, operation: Operation) -> AsyncIterator[None]:
        """Hold a slot of an operation, within its limits."""
        async with AsyncExitStack() as stack:
            limiter = self._limiters.get(operation)
            if limiter is not None:
                await stack.enter_async_context(self._loops.get().slots[operation])
                seconds = limiter.reserve()
                if seconds:
                    await anyio.sleep(seconds)
            yield

    @asynccontextmanager
    async def _using(self) -> AsyncIterator[None]:
        in_use = self._loops.get().in_use
        in_use.enter()
        try:
            yield
        finally:
            if in_use.exit():
                with CancelScope(shield=True):
                    await self._client.aclose()


class _Call:
    """
    One call, run by a task of its own that the caller's cancellation cannot reach.

    A shielded scope in the caller's task would not do: asyncio's `Task.cancel` ignores anyio's shields, and would
    cut off the response to a submission, which holds the job's id.
    """

    def __init__(self, jobs: AsyncJobRunner, job: Job, body: bytes, max_tokens: int) -> None:
        self._jobs = jobs
        self._job = job
        self._body = body
        self._max_tokens = max_tokens
        self._reply: LLMResponse | None = None
        self._error: Exception | None = None
        self._cancelled = False
        self._done = anyio.Event()
        self._wait_scope = CancelScope()
        self._submission = CancelScope(shield=True)

    async def run(self) -> LLMResponse:
        """Run the call's task, and return its reply or raise its error."""
        async with create_task_group() as tasks:
            tasks.start_soon(self._work)
            await self._wait()
        if self._error is not None:
            raise self._error
        if self._reply is None:
            raise RunStopped("the task of this call was cancelled")
        return self._reply

    async def _wait(self) -> None:
        """Wait for the task; on cancellation, ask it to stop. The task group then waits until it has."""
        try:
            await self._done.wait()
        except get_cancelled_exc_class():
            self._cancelled = True
            self._submission.deadline = current_time() + SUBMIT_GRACE
            self._wait_scope.cancel()
            raise

    async def _work(self) -> None:
        """Run the job, and cancel it if it does not produce a reply."""
        if self._cancelled:
            return
        try:
            with CancelScope(shield=True), self._jobs.live_jobs.track(self._job):
                try:
                    with self._wait_scope:
                        self._reply = await self._submit_and_watch()
                finally:
                    if self._reply is None:
                        await self._abandon_job()
        except Exception as error:
            self._error = error
        finally:
            self._done.set()

    async def _submit_and_watch(self) -> LLMResponse:
        jobs, job = self._jobs, self._job
        if not job.found:
            await self._submit()
        jobs.live_jobs.set_phase(job, Phase.WATCHED)
        return await adrive(jobs.flows.watch(job, self._max_tokens), jobs.perform)

    async def _submit(self) -> None:
        jobs = self._jobs
        async with jobs.slot("run"):
            try:
                with self._submission:
                    await adrive(jobs.flows.submit(self._job, self._body), jobs.send)
            except get_cancelled_exc_class():
                self._jobs.flows.log.warning(
                    _SUBMISSION_CUT_OFF
                )  # an event loop that closes cancels all of its tasks
                raise
        if self._submission.cancelled_caught:
            self._jobs.flows.log.warning(_SUBMISSION_CUT_OFF)

    async def _abandon_job(self) -> None:
        """Cancel the job if it is alive and no other call watches it; release its journal entry."""
        job = self._job
        try:
            if job.alive and self._jobs.live_jobs.may_cancel(job):
                await self._cancel()
                warn_if_alive(job, self._jobs.flows.log)
        finally:
            job.release_record()

    async def _cancel(self) -> None:
        job = self._job
        with CancelScope(shield=True, deadline=current_time() + CANCEL_GRACE) as grace:
            while True:
                try:
                    await adrive(self._jobs.flows.cancel(job), self._jobs.perform)
                except get_cancelled_exc_class():
                    if grace.cancel_called:
                        raise
                    continue  # the closing loop's own cancellation, which comes only once: try again
                except Exception as error:
                    self._jobs.flows.log.warning("cancelling RunPod job %s failed: %s", job.id, error)
                break
