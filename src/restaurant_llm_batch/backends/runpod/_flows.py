"""
RunPod job flows: submit, poll (watch) and cancel a job, and check the endpoint's health.

Theory of operation
-------------------
A RunPod endpoint has no request-response API: ``POST /run`` queues a job, ``GET /status/<id>`` polls it, and
``POST /cancel/<id>`` cancels it (https://docs.runpod.io/serverless/endpoints/send-requests). A job costs money
until it ends, whether or not a caller waits. Three rules follow.

1. *Never submit twice.* `JobFlows.submit` sends one request. If its response is lost, a job may exist whose id is
   unknown: `SubmissionUnknown` is raised, which no layer retries. Only errors that prove that no job was made
   are transient.
2. *Polling is free.* `JobFlows.watch` polls with exponential backoff (`PollingPolicy`), and polls again after any
   transient error, until the job ends or its `timeout` is over.
3. *No job outlives its call.* If a flow ends while `Job.alive`, for any reason including an interruption, the
   driver runs `JobFlows.cancel` as a flow of its own. So no flow has to survive its own interruption. `LiveJobs`
   covers the end of the interpreter, and the job's time to live (``ttl``) the death of the process.

The flows are generators that yield `Send`, `Sleep` and `GetTime` steps and do no I/O; `SyncJobRunner` and
`AsyncJobRunner` perform the steps.

    state of a job            known by                        next
    submission sent           Job.id is empty                 response -> queued; lost -> SubmissionUnknown
    IN_QUEUE, IN_PROGRESS     status; any status not TERMINAL poll; call ends -> cancel
    COMPLETED                 status                          output -> reply
    FAILED, TIMED_OUT         status                          error
    CANCELLED, or 404         status; HTTP status             Job.lost; error, or a resumed job is replaced
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias
from urllib.parse import quote

from ..._foreign import describe
from ..._http.exchange import HTTPRequest
from ..._http.secrets import Secret
from ..._http.status import decode, raise_no_response
from ..._http.types import HTTPResponse, Timeout, TransportError
from ..._llm_response import LLMResponse
from ...errors import BackendError, PermanentBackendError, TransientBackendError
from ...steps import Sleep
from ._codec import (
    BACKEND,
    error_for_terminal_status,
    read_output,
    read_state,
    read_submission,
    response_error,
    submission_unknown,
)
from ._health import RunPodHealth, read_health
from ._job import GetTime, Job, JobFlow, Operation, PollingPolicy, QueueMonitor, Send

ReadOutput: TypeAlias = Callable[[Mapping[str, Any], str, int, Secret], LLMResponse]
"""Returns the reply in a job's state, given the model's name, the request's limit of tokens, and the key."""

TERMINAL = frozenset({"COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"})
"""Final statuses of a job; a job with any other status is polled again, as RunPod's own CLI does."""
CANCEL_WAITS = (0.1, 0.3, 0.9, 2.7)
"""Seconds between attempts to cancel a job."""


class JobFlows:
    """
    The job flows of one endpoint.

    Args:
        url: The endpoint's URL.
        endpoint: The endpoint's id.
        secret: The key, to redact it in messages.
        model: The model's name, or "".
        timeout: Seconds that a job may take, including its time in the queue.
        request_timeout: Timeouts of one HTTP request.
        polling: Backoff between polls.
        read: Reads the reply in the body of a completed job; see `read_output`.
    """

    def __init__(
        self,
        url: str,
        endpoint: str,
        secret: Secret,
        model: str,
        timeout: float,
        request_timeout: Timeout,
        polling: PollingPolicy,
        read: ReadOutput = read_output,
    ) -> None:
        self.queue_monitor = QueueMonitor()
        self._url = url
        self._endpoint = endpoint
        self._secret = secret
        self._model = model
        self._timeout = timeout
        self._request_timeout = request_timeout
        self._polling = polling
        self._read = read

    def submit(self, job: Job, body: bytes) -> JobFlow[None]:
        """
        Submit a job, once, and set its id.

        Raises:
            TransientBackendError: If certainly no job was made.
            SubmissionUnknown: If a job may have been made.
            BackendError: If RunPod refused the job for good.
        """
        try:
            response: HTTPResponse = yield self._send("run", "POST", "run", body)
        except TransportError as error:
            if not error.request_may_have_been_sent:
                raise_no_response(error, BACKEND, self._secret)
            what = "the response is not read" if error.unreadable else "no response to the submission"
            raise submission_unknown(f"{what}: {error}") from error
        job.on_submitted(read_submission(response, self._secret))

    def watch(self, job: Job, max_tokens: int) -> JobFlow[LLMResponse]:
        """
        Poll a job until it has ended, and return its reply.

        Polls again after transient errors, until the job's timeout. The job may still be alive when an error is
        raised.

        Raises:
            BackendError: If the job ended without a reply, took too long, or can no longer be polled.
        """
        started_at: float = yield GetTime()
        now = started_at
        wait = 0.0 if job.found else self._polling.wait_initial
        status = "IN_QUEUE"
        while now - started_at < self._timeout:
            yield Sleep(min(wait, started_at + self._timeout - now))
            wait = self._polling.after(wait)
            try:
                status, state = yield from self._poll(job)
            except TransientBackendError as error:
                wait = max(wait, error.retry_after or 0.0)
            except PermanentBackendError as error:
                job.lost = error.status == 404
                raise
            else:
                if status == "COMPLETED":
                    return self._read_output(state, max_tokens)
                if status in TERMINAL:
                    job.lost = status == "CANCELLED"
                    raise error_for_terminal_status(status, state, self._secret)
            now = yield GetTime()
            if status == "IN_QUEUE" and self.queue_monitor.is_due(started_at, now):
                yield from self._check_queue()
        raise PermanentBackendError(
            f"runpod: the job took longer than timeout={self._timeout:g} seconds (last status: {status}) and "
            "is cancelled",
            backend=BACKEND,
        )

    def cancel(self, job: Job) -> JobFlow[None]:
        """
        Cancel a job, in up to ``len(CANCEL_WAITS) + 1`` attempts; sets `job.finished` on success.

        Never raises a backend error.
        """
        for wait in (*CANCEL_WAITS, 0.0):
            retry_after = 0.0
            try:
                response: HTTPResponse = yield self._send(
                    "cancel", "POST", f"cancel/{quote(job.id, safe='')}", b""
                )
            except TransportError:
                pass
            else:
                if _confirms_cancellation(response):
                    job.finished = True
                    return
                error = response_error(response, self._secret)
                if isinstance(error, TransientBackendError):
                    retry_after = error.retry_after or 0.0
                elif response.status >= 400:
                    yield from self._poll_after_failed_cancel(job)
            if job.finished or not wait:
                return
            yield Sleep(max(wait, min(retry_after, CANCEL_WAITS[-1])))

    def health(self) -> JobFlow[RunPodHealth]:
        """Return the endpoint's jobs and workers."""
        try:
            response: HTTPResponse = yield self._send("health", "GET", "health")
        except TransportError as error:
            raise_no_response(error, BACKEND, self._secret)
        if response.status != 200:
            raise response_error(response, self._secret)
        return read_health(decode(response, BACKEND, self._secret))

    def _poll(self, job: Job) -> JobFlow[tuple[str, Mapping[str, Any]]]:
        try:
            response: HTTPResponse = yield self._send("status", "GET", f"status/{quote(job.id, safe='')}")
        except TransportError as error:
            raise_no_response(error, BACKEND, self._secret)
        if response.status == 404:
            raise PermanentBackendError(
                f"runpod no longer knows job {job.id}; its time to live (ttl) may be over",
                backend=BACKEND,
                status=404,
            )
        if response.status != 200:
            refusal = response_error(response, self._secret)
            if isinstance(refusal, PermanentBackendError):
                refusal.refused_fields = ()  # the job may be alive: it must not be submitted again in another form
            raise refusal
        status, state = read_state(response, self._secret)
        job.finished = job.finished or status in TERMINAL
        return status, state

    def _read_output(self, state: Mapping[str, Any], max_tokens: int) -> LLMResponse:
        try:
            return self._read(state, self._model, max_tokens, self._secret)
        except BackendError:
            raise
        except Exception as error:
            what = describe(error)
        # No cause, which might read as a passing one, such as a lack of memory: another job would be paid for again.
        raise PermanentBackendError(
            f"runpod completed the job, but its output cannot be read: {what}", backend=BACKEND
        )

    def _poll_after_failed_cancel(self, job: Job) -> JobFlow[None]:
        """Poll a job that RunPod refused to cancel, since it may have ended already."""
        try:
            yield from self._poll(job)
        except BackendError as error:
            job.finished = job.finished or error.status == 404

    def _check_queue(self) -> JobFlow[None]:
        try:
            health = yield from self.health()
        except BackendError:
            return  # health is informative only; keep polling the job
        self.queue_monitor.warn(self._endpoint, health.problem)

    def _send(self, operation: Operation, method: str, path: str, body: bytes | None = None) -> Send:
        request = HTTPRequest(method, f"{self._url}/{path}", {}, body, self._request_timeout)
        return Send(operation, request)


def _confirms_cancellation(response: HTTPResponse) -> bool:
    """Return whether the response to a cancellation says that the job has ended or will end."""
    if response.status == 404:
        return True
    if not 200 <= response.status < 300:
        return False
    try:
        body = decode(response, BACKEND)
    except TransientBackendError:
        return False
    # RunPod may send an API error with HTTP status 200; it has no job status.
    return isinstance(body, dict) and bool(body.get("status"))
