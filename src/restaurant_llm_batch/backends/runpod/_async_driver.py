"""The awaited driver of RunPod's flows: on the running loop, asyncio's or trio's."""

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
from ._job import GetTime, Job, JobRecord, Operation, Send, log
from ._live_jobs import LiveJobs, Phase
from ._rate_limits import OperationLimiter
from ._sync_driver import CANCEL_GRACE, warn_if_alive

SUBMIT_GRACE = 10.0
"""Seconds that the answer to a submission is waited for after the call was cancelled."""
_TORN = "a submission to RunPod was cut off: a job may have been made, and only its ttl ends it"


class _Loop:
    """What belongs to one event loop: its slots, and how many calls it has."""

    def __init__(self, lanes: Mapping[str, OperationLimiter]) -> None:
        self.in_use = UsageCounter()
        self.slots = {name: CapacityLimiter(lane.concurrent) for name, lane in lanes.items()}


class AsyncJobRunner:
    """Runs jobs on the running loop; arguments as for `SyncJobRunner`."""

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
        """Run a job, or go on with one that is noted; it is cancelled if this is."""
        async with self._using():
            found = None if record is None else record.find()
            if found is not None:
                try:
                    return await _Call(self, found, body, max_tokens).run()
                except PermanentBackendError:
                    if not found.may_be_replaced:
                        raise
            return await _Call(self, Job(record=record), body, max_tokens).run()

    async def health(self) -> RunPodHealth:
        """Look at the endpoint."""
        async with self._using():
            return await adrive(self.flows.health(), self.perform)

    async def aclose(self) -> None:
        """Close the running loop's connections, once no call of it uses them."""
        if self._loops.get().in_use.close():
            await self._client.aclose()

    async def perform(self, step: Any) -> Any:
        """Do what a step asks for."""
        if isinstance(step, Sleep):
            return await anyio.sleep(step.seconds)
        if isinstance(step, GetTime):
            return monotonic()
        async with self.slot(step.operation):
            return await self.send(step)

    async def send(self, step: Send) -> HTTPResponse:
        """Make an exchange, whatever its operation's limits are."""
        return await self._client.asend(step.request._replace(headers=self._headers))

    @asynccontextmanager
    async def slot(self, operation: Operation) -> AsyncIterator[None]:
        """Wait until an operation may be asked for."""
        async with AsyncExitStack() as stack:
            lane = self._limiters.get(operation)
            if lane is not None:
                await stack.enter_async_context(self._loops.get().slots[operation])
                seconds = lane.reserve()
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
    One call: a task of its own does the work, so that no cancellation of the caller can reach it.

    A shield alone would not do. asyncio's own `Task.cancel` goes through it, and would tear the answer to a
    submission off, with the id of the job in it.
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
        """Do the work in its task, and return what it has come to."""
        async with create_task_group() as tasks:
            tasks.start_soon(self._work)
            await self._wait()
        if self._error is not None:
            raise self._error
        if self._reply is None:
            raise RunStopped("the task of this call was cancelled")
        return self._reply

    async def _wait(self) -> None:
        """Wait for the work; being cancelled gives it up. The task group then waits until it has ended."""
        try:
            await self._done.wait()
        except get_cancelled_exc_class():
            self._cancelled = True
            self._submission.deadline = current_time() + SUBMIT_GRACE
            self._wait_scope.cancel()
            raise

    async def _work(self) -> None:
        """Run the job, and cancel it if it is not run to its end."""
        if self._cancelled:
            return
        try:
            with CancelScope(shield=True), self._jobs.live_jobs.track(self._job):
                try:
                    with self._wait_scope:
                        self._reply = await self._answer()
                finally:
                    if self._reply is None:
                        await self._on_cancelled()
        except Exception as error:
            self._error = error
        finally:
            self._done.set()

    async def _answer(self) -> LLMResponse:
        jobs, job = self._jobs, self._job
        if not job.found:
            await self._submit()
        jobs.live_jobs.record(job, Phase.WATCHED)
        return await adrive(jobs.flows.watch(job, self._max_tokens), jobs.perform)

    async def _submit(self) -> None:
        jobs = self._jobs
        async with jobs.slot("run"):
            try:
                with self._submission:
                    await adrive(jobs.flows.submit(self._job, self._body), jobs.send)
            except get_cancelled_exc_class():
                log.warning(_TORN)  # a loop that is being closed cancels every task that it has
                raise
        if self._submission.cancelled_caught:
            log.warning(_TORN)

    async def _on_cancelled(self) -> None:
        """Cancel the job if it is alive and nobody else waits for it."""
        job = self._job
        try:
            if job.alive and self._jobs.live_jobs.may_cancel(job):
                await self._cancel()
                warn_if_alive(job)
        finally:
            job.unanswered()

    async def _cancel(self) -> None:
        job = self._job
        with CancelScope(shield=True, deadline=current_time() + CANCEL_GRACE) as grace:
            while True:
                try:
                    await adrive(self._jobs.flows.cancel(job), self._jobs.perform)
                except get_cancelled_exc_class():
                    if grace.cancel_called:
                        raise
                    continue  # the loop's own cancellation, which comes once
                except Exception as error:
                    log.warning("cancelling RunPod job %s failed: %s", job.id, error)
                break
