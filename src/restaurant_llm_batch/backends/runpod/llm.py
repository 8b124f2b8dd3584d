"""RunPod serverless LLM backend: each request is a job that is submitted, polled and, if need be, cancelled."""

from __future__ import annotations

import atexit
import os
import re
import threading
import weakref
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

from ... import _fork
from ..._http.border import SafeLog, leaving, reply_without
from ..._http.exchange import HTTPClient
from ..._http.fields import LearnedFields
from ..._http.fingerprint import backend_fingerprint
from ..._http.openai_api import chat_body
from ..._http.recipe import PickledAsRecipe, arguments_of
from ..._http.secrets import HiddenHeaders, KeyLike, Secret, as_secret
from ..._http.status import encode, normalize_base_url
from ..._http.types import Timeout, Transport, as_timeout
from ..._llm_response import LLMResponse
from ..._store.journal import current_job_journal
from ..._validation import is_number
from ...errors import ConfigurationError, PermanentBackendError, PromptTooLong
from ...models import LLMRequest
from ..vllm.server import NEUTRAL_SAMPLING
from ._async_driver import AsyncJobRunner
from ._codec import BACKEND, MAX_BODY_BYTES, chat_input, read_output
from ._flows import JobFlows
from ._health import JobCounts, RunPodHealth, WorkerCounts
from ._job import JobRecord, PollingPolicy, job_fingerprint
from ._live_jobs import LiveJobs
from ._prompt_form import prompt_input, read_prompt_output, without_echo
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
"""Seconds; as long as worker-vllm lets vLLM take to start (VLLM_STARTUP_TIMEOUT)."""
DEFAULT_REQUEST_TIMEOUT = Timeout(total=30.0)
TTL_MARGIN = 60.0
"""Seconds by which the default `ttl` exceeds `timeout`: the longest that a job can outlive a dead process."""
_WEEK = 7 * 24 * 3600.0
_ENDPOINT_ID = re.compile(r"[A-Za-z0-9_-]+")


class RunPodLLM(PickledAsRecipe):
    """
    A model on a RunPod serverless endpoint that runs worker-vllm, old (up to 2.23) or new, or a worker of one's own.

        llm = RunPodLLM("abc123xyz", model="Qwen/Qwen2.5-14B-Instruct-AWQ")

    Submits a job for each request and polls it. Failed polls are repeated until `timeout`. A job is cancelled after
    `timeout`, when its call is cancelled, on Ctrl-C, and when the interpreter exits. While a job may be alive,
    its request is never submitted again: see `SubmissionUnknown`. A job that has failed for a passing reason is made
    again by the runner's retry policy.

    If the worker refuses a field, such as one of `sampling`, another job is submitted without it, and later jobs are
    submitted like that at once; a warning is logged.

    Any number of threads and event loops may share one object.

    Args:
        endpoint_id: The endpoint's id, as shown in the console.
        api_key: The RunPod key, as text or as pydantic's ``SecretStr``; None for ``RUNPOD_API_KEY``.
        base_url: Base URL of RunPod's API; None for ``RUNPOD_ENDPOINT_BASE_URL`` or the public API.
        model: The model's name; None for the model that the worker serves.
        input_form: Form of a job's input: "chat" for worker-vllm; "prompt" for a worker of your own that takes
            ``{"prompt": text, "temperature": ..., "max_tokens": ...}``. The messages are then rendered as one text,
            which says the JSON form of the answer too, and the model's name is not sent.
        timeout: Seconds that a job may take, including its time in the queue and a cold start.
        execution_timeout: Seconds that a worker may spend on a job, 5 to a week; None for the endpoint's own
            setting (600 unless changed).
        ttl: Seconds after which RunPod drops a job in any state, 10 to a week; None for `timeout` plus a minute.
            It bounds the life of a job that could not be cancelled.
        low_priority: Whether jobs wait for running workers instead of starting more.
        request_timeout: Seconds for one HTTP request, or a `Timeout` with separate limits.
        polling: Backoff between polls of a job.
        limits: Request limits of the account.
        sampling: Sampling parameters of every request besides its temperature; None for values that change nothing
            with "chat", and for none with "prompt".
        extra_body: Further fields of every chat completion, or of the input with "prompt", which override all others.
        transport: HTTP transport to use instead of an own `HTTPTransport`, for example
            ``HTTPTransport(proxy=...)``.

    Raises:
        ConfigurationError: If an argument has the wrong type or value, or there is no key.
    """

    _key_variable = "RUNPOD_API_KEY"

    def __init__(
        self,
        endpoint_id: str,
        *,
        api_key: KeyLike | None = None,
        base_url: str | None = None,
        model: str | None = None,
        input_form: Literal["chat", "prompt"] = "chat",
        timeout: float = DEFAULT_TIMEOUT,
        execution_timeout: float | None = None,
        ttl: float | None = None,
        low_priority: bool = False,
        request_timeout: float | Timeout = DEFAULT_REQUEST_TIMEOUT,
        polling: PollingPolicy = PollingPolicy(),
        limits: RunPodLimits = RunPodLimits(),
        sampling: Mapping[str, Any] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        transport: Transport | None = None,
    ) -> None:
        self._made_with = arguments_of(locals())
        secret = as_secret(api_key) or as_secret(os.environ.get("RUNPOD_API_KEY"), "RUNPOD_API_KEY")
        del api_key  # error trackers show the local variables of an error that is raised below
        self._endpoint = _checked_endpoint_id(endpoint_id)
        self._model = _checked_model(model)
        self._takes_prompt = _checked_form(input_form) == "prompt"
        _check_type(polling, PollingPolicy, "polling")
        _check_type(limits, RunPodLimits, "limits")
        if secret is None:
            raise ConfigurationError(
                "RunPodLLM needs a key: pass api_key=... or set the environment variable RUNPOD_API_KEY"
            )
        base = normalize_base_url(base_url or os.environ.get("RUNPOD_ENDPOINT_BASE_URL") or DEFAULT_BASE_URL)
        self._url = f"{base}/{self._endpoint}"
        self._made_with["base_url"] = base
        self._policy = _policy(timeout, execution_timeout, ttl, low_priority)
        if sampling is None:
            sampling = {} if self._takes_prompt else NEUTRAL_SAMPLING
        self._extra_body = {**sampling, **(extra_body or {})}
        self._limits = limits
        self._learned = LearnedFields(BACKEND)
        self._client = HTTPClient(transport)
        self._secret = secret
        read = read_prompt_output if self._takes_prompt else read_output
        self._read = read
        self._flow_settings = (self._model or "", timeout, as_timeout(request_timeout), polling)
        self._lock = threading.Lock()
        self._make_runners()

    def _make_runners(self) -> None:
        """Create the runners; again in a forked child, which must use neither its parent's jobs nor its locks."""
        self._forks = _fork.count
        live_jobs, limiters = LiveJobs(), make_operation_limiters(self._limits)
        log = SafeLog(self._secret, self._client)
        flows = JobFlows(self._url, self._endpoint, self._secret, *self._flow_settings, log, self._read)
        headers = _headers(self._secret)
        self._sync_runner = SyncJobRunner(flows, self._client, headers, limiters, live_jobs)
        self._async_runner = AsyncJobRunner(flows, self._client, headers, limiters, live_jobs)
        # A finalizer that cancels would send requests from any thread that happens to collect this object. So
        # cancel at exit only, and let the finalizer remove the hook.
        cancel_at_exit = partial(live_jobs.cancel_remaining, self._sync_runner.cancel)
        atexit.register(cancel_at_exit)
        weakref.finalize(self, atexit.unregister, cancel_at_exit).atexit = False

    @property
    def model(self) -> str | None:
        """Name of the model; None if it is not known."""
        return self._model

    @property
    def fingerprint(self) -> str:
        """Cache key of this backend in a store: backends with equal fingerprints share their replies."""
        return self._fingerprint(self._endpoint)

    @property
    def model_fingerprint(self) -> str:
        """What its replies have in common with those of the same model at another endpoint; see `LLMPool`."""
        return self._fingerprint(None if self._model else self._endpoint)

    def _fingerprint(self, endpoint: str | None) -> str:
        form = {"input_form": "prompt"} if self._takes_prompt else {}
        return backend_fingerprint("runpod", endpoint, self._model, {**self._extra_body, **form})

    def job_fingerprint(self, request: LLMRequest) -> str:
        """Return the fingerprint under which a job for a request is recorded in a store."""
        return job_fingerprint(self.fingerprint, request)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._endpoint!r}, model={self._model!r})"

    def complete(self, request: LLMRequest, /) -> LLMResponse:
        """
        Complete a request, blocking the thread.

        Raises:
            PromptTooLong: If the prompt exceeds the model's context, or the job's body RunPod's 10 MB.
            RateLimited: If RunPod or vLLM refuses the call for now.
            TransientBackendError: If no job was made, or the job failed for a transient reason.
            SubmissionUnknown: If a job may have been made, but its id is unknown.
            AuthenticationFailed: If RunPod rejects the key.
            ContentRefused: If a content filter rejects the prompt, or cuts the reply off.
            PermanentBackendError: If the job failed, took too long, or was cancelled by another client.
            RunStopped: If the call was cancelled; its job is cancelled too.
        """
        try:
            return self._safe(self._complete(request))
        except Exception as error:
            failure = leaving(error, BACKEND, self._secret, self._client.proxy_secrets)
        raise failure

    def _safe(self, reply: LLMResponse) -> LLMResponse:
        return reply_without((self._secret, *self._client.proxy_secrets), reply)

    def _complete(self, request: LLMRequest) -> LLMResponse:
        self._check_fork()
        sending = self._learned.request(self._input(request))
        while True:
            body, record = self._encode(sending.body), self._job_record(request)
            try:
                reply = self._sync_runner.complete(body, request.max_tokens, record)
                return sending.accepted(without_echo(reply, sending.body.get("prompt")))
            except PermanentBackendError as error:  # that job has ended, so another one may be submitted
                if not sending.is_repeated_after(error):
                    raise

    async def acomplete(self, request: LLMRequest, /) -> LLMResponse:
        """
        Complete a request on the running event loop; raises as `complete`.

        Cancellation cancels the job, and waits until RunPod has confirmed it or 30 seconds have passed.
        """
        try:
            return self._safe(await self._acomplete(request))
        except Exception as error:
            failure = leaving(error, BACKEND, self._secret, self._client.proxy_secrets)
        raise failure

    async def _acomplete(self, request: LLMRequest) -> LLMResponse:
        self._check_fork()
        sending = self._learned.request(self._input(request))
        while True:
            body, record = self._encode(sending.body), self._job_record(request)
            try:
                reply = await self._async_runner.complete(body, request.max_tokens, record)
                return sending.accepted(without_echo(reply, sending.body.get("prompt")))
            except PermanentBackendError as error:  # that job has ended, so another one may be submitted
                if not sending.is_repeated_after(error):
                    raise

    def health(self) -> RunPodHealth:
        """
        Return the numbers of the endpoint's jobs and workers.

        Raises:
            BackendError: If RunPod does not return them.
        """
        self._check_fork()
        try:
            return self._sync_runner.health()
        except Exception as error:
            failure = leaving(error, BACKEND, self._secret, self._client.proxy_secrets)
        raise failure

    async def ahealth(self) -> RunPodHealth:
        """Return the numbers of the endpoint's jobs and workers; raises as `health`."""
        self._check_fork()
        try:
            return await self._async_runner.health()
        except Exception as error:
            failure = leaving(error, BACKEND, self._secret, self._client.proxy_secrets)
        raise failure

    def close(self) -> None:
        """Close the connections of blocking calls after the last call in flight; the next call opens new ones."""
        self._check_fork()
        self._sync_runner.close()

    async def aclose(self) -> None:
        """Close the running event loop's connections after the last call in flight."""
        self._check_fork()
        await self._async_runner.aclose()

    def _check_fork(self) -> None:
        if _fork.count != self._forks:
            with self._lock:
                if _fork.count != self._forks:
                    self._make_runners()

    def _job_record(self, request: LLMRequest) -> JobRecord | None:
        journal = current_job_journal()
        return None if journal is None else JobRecord(journal, self.job_fingerprint(request))

    def _body(self, request: LLMRequest) -> bytes:
        return self._encode(self._input(request))

    def _input(self, request: LLMRequest) -> dict[str, Any]:
        """Return what the worker is asked: a prompt with its parameters, or the body of a chat completion."""
        if self._takes_prompt:
            return prompt_input(request, self._extra_body)
        chat = chat_body(request, self._model or "", extra_body=self._extra_body)
        if not chat["model"]:
            del chat["model"]  # both generations of worker-vllm then use the model that they serve
        if request.priority:
            chat["priority"] = request.priority
        return chat

    def _encode(self, asked: Mapping[str, Any]) -> bytes:
        job = dict(asked) if self._takes_prompt else chat_input(asked)
        body = encode({"input": job, "policy": self._policy})
        if len(body) > MAX_BODY_BYTES:
            raise PromptTooLong(
                f"runpod accepts {MAX_BODY_BYTES:,} bytes per job, and this one has {len(body):,}",
                backend=BACKEND,
            )
        return body


def _headers(secret: Secret) -> HiddenHeaders:
    return HiddenHeaders(
        {
            "content-type": "application/json",
            "accept": "application/json",
            "authorization": f"Bearer {secret.reveal()}",
        }
    )


def _checked_endpoint_id(value: object) -> str:
    if not isinstance(value, str) or not _ENDPOINT_ID.fullmatch(value):
        raise ConfigurationError(
            f'endpoint_id must be the id alone, got {value!r}; for example RunPodLLM("abc123xyz")'
        )
    return value


def _checked_model(value: object) -> str | None:
    if value is not None and not (isinstance(value, str) and value):
        raise ConfigurationError(
            f'model must be a name, got {value!r}; for example model="Qwen/Qwen2.5-14B-Instruct-AWQ"'
        )
    return value


def _checked_form(value: object) -> object:
    if value not in ("chat", "prompt"):
        raise ConfigurationError(
            f'input_form must be "chat" (worker-vllm) or "prompt" (a worker of your own), got {value!r}; '
            'for example RunPodLLM("abc123xyz", input_form="prompt")'
        )
    return value


def _check_type(value: object, expected: type, field: str) -> None:
    if not isinstance(value, expected):
        raise ConfigurationError(
            f"{field} must be a {expected.__name__}, got {value!r}; for example {field}={expected.__name__}(...)"
        )


def _policy(
    timeout: float, execution_timeout: float | None, ttl: float | None, low_priority: bool
) -> dict[str, Any]:
    """Return the job's execution policy in RunPod's form, with times in milliseconds."""
    _check_seconds("timeout", timeout, 0.0, _WEEK)
    if ttl is None:
        ttl = min(max(10.0, timeout + TTL_MARGIN), _WEEK)
    _check_seconds("ttl", ttl, 10.0, _WEEK)
    if ttl < timeout:
        raise ConfigurationError(
            f"ttl={ttl!r} is shorter than timeout={timeout!r}: RunPod would drop a job that is still polled; "
            "set ttl to at least the timeout, or leave it out"
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


def _check_seconds(field: str, value: object, minimum: float, maximum: float) -> None:
    if not is_number(value) or not minimum <= value <= maximum or not value:
        lower = f"from {minimum:g}" if minimum else "above 0"
        raise ConfigurationError(
            f"{field} must be a number of seconds {lower} to {maximum:g} (a week), got {value!r}"
        )
