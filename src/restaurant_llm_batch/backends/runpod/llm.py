"""RunPod serverless: every request is a job that is submitted, watched and, if need be, cancelled."""

from __future__ import annotations

import atexit
import os
import re
import threading
import weakref
from collections.abc import Mapping
from functools import partial
from math import isfinite
from typing import Any

from ..._http.exchange import HTTPClient
from ..._http.fingerprint import backend_fingerprint
from ..._http.openai_api import chat_body
from ..._http.secrets import KeyLike, Secret, as_secret
from ..._http.status import encode
from ..._http.status import normalize_base_url as cleaned
from ..._http.types import Timeout, Transport, as_timeout
from ..._llm_response import LLMResponse
from ..._store.journal import current_job_journal
from ...errors import ConfigurationError, PromptTooLong
from ...models import LLMRequest
from ..vllm.server import NEUTRAL_SAMPLING
from ._async_driver import AsyncJobRunner
from ._codec import BACKEND, MAX_BODY_BYTES, job_body
from ._flows import JobFlows
from ._health import JobCounts, RunPodHealth, WorkerCounts
from ._job import JobRecord, PollingPolicy, job_fingerprint
from ._live_jobs import LiveJobs
from ._rate_limits import OperationLimit, RunPodLimits, make_operation_limiters
from ._sync_driver import SyncJobRunner

__all__ = [
    "JobCounts",
    "OperationLimit",
    "PollingPolicy",
    "RunPodHealth",
    "RunPodLLM",
    "RunPodLimits",
    "WorkerCounts",
]

DEFAULT_BASE_URL = "https://api.runpod.ai/v2"
DEFAULT_TIMEOUT = 1200.0
"""Seconds; as long as worker-vllm gives vLLM to start (VLLM_STARTUP_TIMEOUT)."""
DEFAULT_REQUEST_TIMEOUT = Timeout(total=30.0)
ORPHANS_LIVE = 60.0
"""Seconds that a job may outlive its `timeout`, where no `ttl` is given."""
_WEEK = 7 * 24 * 3600.0
_ENDPOINT_ID = re.compile(r"[A-Za-z0-9_-]+")


class RunPodLLM:
    """
    A model on a RunPod serverless endpoint whose worker is worker-vllm, of either generation.

        llm = RunPodLLM("abc123xyz", model="Qwen/Qwen2.5-14B-Instruct-AWQ")

    A request is submitted once and then watched. Looks at the job that fail are made again until `timeout`;
    a job that is given up is cancelled: after `timeout`, when its call is cancelled, on Ctrl-C, and at the
    interpreter's end. A submission is made again only when the first surely made no job.

    One object may be used by many threads and event loops.

    Args:
        endpoint_id: The endpoint's id, as in the console.
        api_key: The RunPod key, as text or as pydantic's ``SecretStr``; without one, ``RUNPOD_API_KEY``.
        base_url: RunPod's API; without one, ``RUNPOD_ENDPOINT_BASE_URL``, or the public one.
        model: The model's name; without one the worker takes the one that it serves.
        timeout: Seconds that a job may take, its time in the queue and a cold start included.
        execution_timeout: Seconds that a worker may work on a job, 5 to a week; without one, the endpoint's
            own setting (600 unless changed).
        ttl: Seconds after which RunPod drops a job, alive or not, 10 to a week; without one, a minute more
            than `timeout`. So it is the longest that a job can live which could not be cancelled.
        low_priority: Whether jobs may wait for workers that run anyway, rather than start more.
        request_timeout: Seconds to wait for the answer to one request, or a `Timeout` that says more.
        polling: How often a job is looked at.
        limits: How often RunPod may be asked.
        sampling: Sampling parameters of every request beside its temperature.
        extra_body: Further fields of every chat completion, which go before all others.
        transport: What carries the requests; see `restaurant_llm_batch._http.transport`.

    Raises:
        ConfigurationError: When an argument cannot be used, or there is no key.
    """

    def __init__(
        self,
        endpoint_id: str,
        *,
        api_key: KeyLike | None = None,
        base_url: str | None = None,
        model: str | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        execution_timeout: float | None = None,
        ttl: float | None = None,
        low_priority: bool = False,
        request_timeout: float | Timeout = DEFAULT_REQUEST_TIMEOUT,
        polling: PollingPolicy = PollingPolicy(),
        limits: RunPodLimits = RunPodLimits(),
        sampling: Mapping[str, Any] = NEUTRAL_SAMPLING,
        extra_body: Mapping[str, Any] | None = None,
        transport: Transport | None = None,
    ) -> None:
        self._endpoint = _endpoint_id(endpoint_id)
        self._model = _model(model)
        _check(polling, PollingPolicy, "polling")
        _check(limits, RunPodLimits, "limits")
        secret = as_secret(api_key) or as_secret(os.environ.get("RUNPOD_API_KEY"), "RUNPOD_API_KEY")
        if secret is None:
            raise ConfigurationError(
                "RunPodLLM needs a key; for example api_key=... or set the environment variable RUNPOD_API_KEY"
            )
        base = cleaned(base_url or os.environ.get("RUNPOD_ENDPOINT_BASE_URL") or DEFAULT_BASE_URL)
        self._url = f"{base}/{self._endpoint}"
        self._policy = _policy(timeout, execution_timeout, ttl, low_priority)
        self._extra_body = {**sampling, **(extra_body or {})}
        self._limits = limits
        self._client = HTTPClient(transport)
        self._secret = secret
        self._flow_settings = (self._model or "", timeout, as_timeout(request_timeout), polling)
        self._lock = threading.Lock()
        self._begin()

    def _begin(self) -> None:
        """Begin afresh: a forked child shares neither its parent's jobs nor the locks of its threads."""
        self._pid = os.getpid()
        ledger, lanes = LiveJobs(), make_operation_limiters(self._limits)
        flows = JobFlows(self._url, self._endpoint, self._secret, *self._flow_settings)
        headers = _headers(self._secret)
        self._sync_runner = SyncJobRunner(flows, self._client, headers, lanes, ledger)
        self._async_runner = AsyncJobRunner(flows, self._client, headers, lanes, ledger)
        # Not a finalizer that cancels: it would also ask RunPod wherever this happens to be collected.
        at_the_end = partial(ledger.end, self._sync_runner.cancel)
        atexit.register(at_the_end)
        weakref.finalize(self, atexit.unregister, at_the_end).atexit = False

    @property
    def fingerprint(self) -> str:
        """Name what answers, in the keys of a store: equal identities give each other's answers."""
        return backend_fingerprint("runpod", self._endpoint, self._model, self._extra_body)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._endpoint!r}, model={self._model!r})"

    def complete(self, request: LLMRequest, /) -> LLMResponse:
        """
        Answer a request.

        Raises:
            PromptTooLong: When the prompt does not fit the model's context.
            TransientBackendError: When no job was made, or one failed for a reason that may pass.
            SubmissionUnknown: When a job may have been made, but its id is not known.
            AuthenticationFailed: When RunPod does not accept the key.
            PermanentBackendError: When the job failed, took too long, or was cancelled by somebody else.
            RunStopped: When the run gave this call up; the job is cancelled.
        """
        self._runner_here()
        return self._sync_runner.complete(self._body(request), request.max_tokens, self._job_record(request))

    async def acomplete(self, request: LLMRequest, /) -> LLMResponse:
        """Answer a request as `complete` does; being cancelled cancels the job, and waits for that."""
        self._runner_here()
        return await self._async_runner.complete(
            self._body(request), request.max_tokens, self._job_record(request)
        )

    def health(self) -> RunPodHealth:
        """
        Look at the endpoint's jobs and workers.

        Raises:
            BackendError: When RunPod does not tell.
        """
        self._runner_here()
        return self._sync_runner.health()

    async def ahealth(self) -> RunPodHealth:
        """Look at the endpoint's jobs and workers, as `health` does."""
        self._runner_here()
        return await self._async_runner.health()

    def close(self) -> None:
        """Close the connections of blocking calls, once none is in flight; they are made again if needed."""
        self._runner_here()
        self._sync_runner.close()

    async def aclose(self) -> None:
        """Close the running loop's connections, likewise."""
        self._runner_here()
        await self._async_runner.aclose()

    def _runner_here(self) -> None:
        if os.getpid() != self._pid:
            with self._lock:
                if os.getpid() != self._pid:
                    self._begin()

    def _job_record(self, request: LLMRequest) -> JobRecord | None:
        journal = current_job_journal()
        return None if journal is None else JobRecord(journal, job_fingerprint(self.fingerprint, request))

    def _body(self, request: LLMRequest) -> bytes:
        chat = chat_body(request, self._model or "", extra_body=self._extra_body)
        if not chat["model"]:
            del chat["model"]  # both generations then take the model that they serve
        if request.priority:
            chat["priority"] = request.priority
        body = encode(job_body(chat, self._policy))
        if len(body) > MAX_BODY_BYTES:
            raise PromptTooLong(
                f"runpod takes {MAX_BODY_BYTES:,} bytes per job, and this one has {len(body):,}",
                backend=BACKEND,
            )
        return body


def _headers(secret: Secret) -> dict[str, str]:
    return {
        "content-type": "application/json",
        "accept": "application/json",
        "authorization": f"Bearer {secret.reveal()}",
    }


def _endpoint_id(value: object) -> str:
    if not isinstance(value, str) or not _ENDPOINT_ID.fullmatch(value):
        raise ConfigurationError(
            f'endpoint_id must be the id alone, got {value!r}; for example RunPodLLM("abc123xyz")'
        )
    return value


def _model(value: object) -> str | None:
    if value is not None and not (isinstance(value, str) and value):
        raise ConfigurationError(
            f'model must be a name, got {value!r}; for example model="Qwen/Qwen2.5-14B-Instruct-AWQ"'
        )
    return value


def _check(value: object, kind: type, field: str) -> None:
    if not isinstance(value, kind):
        raise ConfigurationError(
            f"{field} must be a {kind.__name__}, got {value!r}; write {field}={kind.__name__}(...)"
        )


def _policy(
    timeout: float, execution_timeout: float | None, ttl: float | None, low_priority: bool
) -> dict[str, Any]:
    """Return the job's policy as RunPod wants it, in milliseconds."""
    _check_seconds("timeout", timeout, 0.0, _WEEK)
    if ttl is None:
        ttl = min(max(10.0, timeout + ORPHANS_LIVE), _WEEK)
    _check_seconds("ttl", ttl, 10.0, _WEEK)
    if ttl < timeout:
        raise ConfigurationError(
            f"ttl={ttl!r} is shorter than timeout={timeout!r}: the job would vanish while it is waited for; "
            "write a ttl of at least the timeout, or leave it out"
        )
    policy: dict[str, Any] = {"ttl": round(ttl * 1000)}
    if execution_timeout is not None:
        _check_seconds("execution_timeout", execution_timeout, 5.0, _WEEK)
        policy["executionTimeout"] = round(execution_timeout * 1000)
    if not isinstance(low_priority, bool):
        raise ConfigurationError(f"low_priority must be True or False, got {low_priority!r}")
    if low_priority:
        policy["lowPriority"] = True
    return policy


def _check_seconds(field: str, value: object, least: float, most: float) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)
    if not number or not least <= value <= most or not value:  # type: ignore[operator]
        raise ConfigurationError(
            f"{field} must be a number of seconds {f'from {least:g}' if least else 'above 0'} to {most:g} (a "
            f"week), got {value!r}"
        )
