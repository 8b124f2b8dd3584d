"""
The life of a RunPod job as flows: submit, watch, cancel.

A flow yields `Send`, `Sleep` and `Now`; the drivers in `blocking` and `awaited` perform them.
They keep one rule: a job that is still alive when its flow has ended, for whatever reason, is cancelled by a
flow of its own. So no flow has to survive its own interruption.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from ..._http.exchange import HTTPRequest
from ..._http.secrets import Secret
from ..._http.status import decode, no_response_error
from ..._http.types import HTTPResponse, Timeout, TransportError
from ..._llm_response import LLMResponse
from ...errors import BackendError, PermanentBackendError, TransientBackendError
from ...steps import Flow, Sleep
from ._codec import (
    BACKEND,
    answer_error,
    error_for_terminal_status,
    read_output,
    read_state,
    read_submission,
    submission_unknown,
)
from ._health import RunPodHealth, read_health
from ._job import GetTime, Job, Operation, PollingPolicy, QueueMonitor, Send

TERMINAL = frozenset({"COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"})
"""The last states of a job; any other is one to go on polling in, as RunPod's own CLI does."""
CANCEL_WAITS = (0.1, 0.3, 0.9, 2.7)
"""Seconds between attempts to cancel a job."""


class JobFlows:
    """
    The flows of one endpoint.

    Args:
        url: The endpoint's URL.
        endpoint: Its id.
        secret: The key, to be kept out of messages.
        model: The model's name, or "".
        timeout: Seconds that a job may take, queue included.
        request_timeout: Of one request.
        polling: How often a job is looked at.
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
    ) -> None:
        self.queue_monitor = QueueMonitor()
        self._url = url
        self._endpoint = endpoint
        self._secret = secret
        self._model = model
        self._timeout = timeout
        self._request_timeout = request_timeout
        self._polling = polling

    def submit(self, job: Job, body: bytes) -> Flow[None]:
        """
        Submit a job, once.

        Raises:
            TransientBackendError: When it was surely not made.
            SubmissionUnknown: When nobody knows.
        """
        try:
            answer: HTTPResponse = yield self._send("run", "POST", "run", body)
        except TransportError as error:
            if not error.request_may_have_been_sent:
                raise no_response_error(error, BACKEND) from error
            raise submission_unknown(f"no answer came to the submission: {error}") from error
        job.made(read_submission(answer, self._secret))

    def watch(self, job: Job, max_tokens: int) -> Flow[LLMResponse]:
        """
        Watch a job until it has ended, and return the reply.

        What may pass is asked again until the job's time is over. The job is alive when that, or what will
        not pass, is raised.

        Raises:
            BackendError: When it ended otherwise, or cannot be watched.
        """
        began: float = yield GetTime()
        now = began
        wait = 0.0 if job.found else self._polling.wait_initial
        status = "IN_QUEUE"
        while now - began < self._timeout:
            yield Sleep(min(wait, began + self._timeout - now))
            wait = self._polling.after(wait)
            try:
                status, told = yield from self._poll(job)
            except TransientBackendError as error:
                wait = max(wait, error.retry_after or 0.0)
                told = {}
            except PermanentBackendError as error:
                job.lost = error.status == 404
                raise
            else:
                if status == "COMPLETED":
                    return read_output(told, self._model, max_tokens, self._secret)
                if status in TERMINAL:
                    job.lost = status == "CANCELLED"
                    raise error_for_terminal_status(status, told, self._secret)
            now = yield GetTime()
            if status == "IN_QUEUE" and self.queue_monitor.is_due(began, now):
                yield from self._check_queue()
        raise PermanentBackendError(
            f"runpod: the job took longer than timeout={self._timeout:g} seconds (its last state: {status}), "
            "so it is given up",
            backend=BACKEND,
        )

    def cancel(self, job: Job) -> Flow[None]:
        """Cancel a job, trying a few times; `job.over` tells whether it worked."""
        for wait in (*CANCEL_WAITS, 0.0):
            floor = 0.0
            try:
                answer: HTTPResponse = yield self._send(
                    "cancel", "POST", f"cancel/{quote(job.id, safe='')}", b""
                )
            except TransportError:
                pass
            else:
                if _is_settled(answer):
                    job.finished = True
                    return
                error = answer_error(answer, self._secret)
                if isinstance(error, TransientBackendError):
                    floor = error.retry_after or 0.0
                elif answer.status >= 400:
                    yield from self._poll_after_failed_cancel(job)
            if job.finished or not wait:
                return
            yield Sleep(max(wait, min(floor, CANCEL_WAITS[-1])))

    def health(self) -> Flow[RunPodHealth]:
        """Look at the endpoint."""
        try:
            answer: HTTPResponse = yield self._send("health", "GET", "health")
        except TransportError as error:
            raise no_response_error(error, BACKEND) from error
        if answer.status != 200:
            raise answer_error(answer, self._secret)
        return read_health(decode(answer, BACKEND, self._secret))

    def _poll(self, job: Job) -> Flow[tuple[str, Mapping[str, Any]]]:
        try:
            answer: HTTPResponse = yield self._send("status", "GET", f"status/{quote(job.id, safe='')}")
        except TransportError as error:
            raise no_response_error(error, BACKEND) from error
        if answer.status == 404:
            raise PermanentBackendError(
                f"runpod does not know job {job.id} any more; its time to live (ttl) may be over",
                backend=BACKEND,
                status=404,
            )
        if answer.status != 200:
            raise answer_error(answer, self._secret)
        status, told = read_state(answer, self._secret)
        job.finished = job.finished or status in TERMINAL
        return status, told

    def _poll_after_failed_cancel(self, job: Job) -> Flow[None]:
        """Look whether a job that cannot be cancelled is one that has ended."""
        try:
            yield from self._poll(job)
        except BackendError as error:
            job.finished = job.finished or error.status == 404

    def _check_queue(self) -> Flow[None]:
        try:
            health = yield from self.health()
        except BackendError:
            return  # the job is what matters
        self.queue_monitor.warn(self._endpoint, health.problem)

    def _send(self, operation: Operation, method: str, path: str, body: bytes | None = None) -> Send:
        exchange = HTTPRequest(method, f"{self._url}/{path}", {}, body, self._request_timeout)
        return Send(operation, exchange)


def _is_settled(answer: HTTPResponse) -> bool:
    """Tell whether an answer to a cancellation says that the job is, or will be, no more."""
    if answer.status == 404:
        return True
    if not 200 <= answer.status < 300:
        return False
    try:
        body = decode(answer, BACKEND)
    except TransientBackendError:
        return False
    # An API error may come with status 200; it names no state.
    return isinstance(body, dict) and bool(body.get("status"))
