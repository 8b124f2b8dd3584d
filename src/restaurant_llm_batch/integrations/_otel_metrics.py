"""OpenTelemetry metrics of `OpenTelemetryObserver`, under the names of one or two versions of the conventions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from importlib.metadata import version
from typing import Any, TypeAlias

from opentelemetry import metrics
from opentelemetry.metrics import Histogram, MeterProvider

from .._llm_response import LLMResponse
from .._shortage import out_of_memory
from ..events import (
    CallEnded,
    CallStarted,
    ItemEnded,
    ItemStarted,
    LimitChanged,
    RetryScheduled,
    RunStarted,
    ServerRead,
)
from ..models import ItemId
from ..outcomes import Failure, Stage
from ._otel_calls import LogicalCall
from ._otel_conventions import (
    AGENT,
    ATTEMPT_DURATION,
    CANCELLED,
    ENDPOINT,
    ERROR_TYPE,
    INVOKE,
    MODALITY,
    OPERATION,
    RESPONSE_MODEL,
    SCOPE,
    STAGES,
    TOKEN_TYPE,
    Conventions,
    base_labels,
    error_type,
    operation,
)

Labels: TypeAlias = dict[str, str | int]

# Bucket bounds from the GenAI semantic conventions.
_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_ITEM_SECONDS = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 102.4, 204.8, 409.6)
_TOKENS = tuple(4**power for power in range(14))
_LABEL_CACHE_SIZE = 256


class Instruments:
    """
    The OpenTelemetry instruments, shared by all runs.

    Args:
        provider: Receives the metrics.
        conventions: Their names.
        model: Name of the requested model.
        service: Name of the service.
        server: Attributes of the server.
    """

    def __init__(
        self,
        provider: MeterProvider | None,
        conventions: Conventions,
        model: str | None,
        service: str,
        server: Mapping[str, str | int],
    ) -> None:
        meter = metrics.get_meter(SCOPE, version("restaurant-llm-batch"), provider, conventions.schema_url)
        self.retries = meter.create_counter(f"{SCOPE}.retries", "{call}", "Retries made or scheduled.")
        self.items = meter.create_counter(f"{SCOPE}.items", "{item}", "Items that succeeded or failed.")
        self.servers = ServerInstruments(meter)

        # Cached, because label sets are built for every call; bounded, because model names come from the service.
        @lru_cache(_LABEL_CACHE_SIZE)
        def labels(stage: Stage, response_model: str, error: str, endpoint: str | None = None) -> Labels:
            call_labels: Labels = {**base_labels(stage, model, service), **(server if stage == "llm" else {})}
            if endpoint is not None:
                call_labels[ENDPOINT] = endpoint
            if response_model:
                call_labels[RESPONSE_MODEL] = response_model
            if error:
                call_labels[ERROR_TYPE] = error
            return call_labels

        self.attempts = AttemptInstruments(meter, labels) if conventions.has_attempts else None
        self.calls = CallInstruments(meter, conventions, labels) if conventions.has_calls else None

    def begin(self, event: RunStarted) -> RunInstruments:
        """Return the recorder of one run."""
        return RunInstruments(self, event.task)


def _duration(meter: Any, name: str, text: str, bounds: tuple[float, ...] = _SECONDS) -> Histogram:
    made: Histogram = meter.create_histogram(name, "s", text, explicit_bucket_boundaries_advisory=bounds)
    return made


class AttemptInstruments:
    """The metrics of v1.41, of attempts."""

    def __init__(self, meter: Any, labels: Callable[..., Labels]) -> None:
        self.labels = labels
        self.duration = _duration(meter, ATTEMPT_DURATION, "GenAI operation duration.")
        self.tokens: Histogram = meter.create_histogram(
            "gen_ai.client.token.usage",
            "{token}",
            "Number of input and output tokens used.",
            explicit_bucket_boundaries_advisory=_TOKENS,
        )

        @lru_cache(_LABEL_CACHE_SIZE)
        def token_labels(response_model: str) -> tuple[Labels, Labels]:
            call_labels = labels("llm", response_model, "")
            return {**call_labels, TOKEN_TYPE: "input"}, {**call_labels, TOKEN_TYPE: "output"}

        self._token_labels = token_labels

    def ended(self, event: CallEnded) -> None:
        """Record the duration of an attempt, and its tokens."""
        reply, error = event.reply, event.error
        response_model = "" if reply is None else reply.model
        failed = "" if error is None else error_type(error)
        self.duration.record(event.seconds, self.labels(event.stage, response_model, failed, event.endpoint))
        if reply is not None and (reply.prompt_tokens or reply.completion_tokens):
            input_labels, output_labels = self._token_labels(response_model)
            self.tokens.record(reply.prompt_tokens, input_labels)
            self.tokens.record(reply.completion_tokens, output_labels)


class CallInstruments:
    """The metrics of v0.1, of calls with all of their attempts."""

    def __init__(self, meter: Any, conventions: Conventions, labels: Callable[..., Labels]) -> None:
        self.labels = labels
        names = dict.fromkeys(conventions.durations.values())
        made = {name: _duration(meter, name, "Duration of a call, retries included.") for name in names}
        self._durations = {stage: made[name] for stage, name in conventions.durations.items()}
        self.items = _duration(meter, "gen_ai.invoke_agent.duration", "Duration of an item.", _ITEM_SECONDS)
        counter = partial(meter.create_counter, unit="{token}")
        usage = "gen_ai.client.inference.usage"
        self._input = counter(f"{usage}.input_tokens", description="Tokens read.")
        self._output = counter(f"{usage}.output_tokens", description="Tokens written.")
        self._cached = counter(f"{usage}.cache_read.input_tokens", description="Tokens read from a cache.")
        histogram = partial(
            meter.create_histogram, unit="{token}", explicit_bucket_boundaries_advisory=_TOKENS
        )
        call = "gen_ai.client.inference.operation"
        self._input_of_call = histogram(f"{call}.input_tokens", description="Tokens that a call read.")
        self._output_of_call = histogram(f"{call}.output_tokens", description="Tokens that a call wrote.")

    def attempt_failed(self, error: BaseException) -> None:
        """Count the tokens of an attempt that failed, if the error says what it used."""
        paid = getattr(error, "reply", None)
        if isinstance(paid, LLMResponse):
            self._use(paid, self.labels("llm", paid.model, ""))

    def ended(self, call: LogicalCall, time: float, event: CallEnded | None) -> None:
        """Record the duration of a call, and its tokens."""
        first, failed = call.first, call.error_type
        reply = None if event is None else event.reply
        model = "" if reply is None else reply.model
        endpoint = first.endpoint if event is None else event.endpoint
        duration = self._durations.get(first.stage)
        if duration is not None:
            seconds = max(0.0, time - first.time)
            duration.record(seconds, self.labels(first.stage, model, failed or "", endpoint))
        if first.stage != "llm":
            return
        labels = self.labels("llm", model, "")
        if reply is not None:
            self._use(reply, labels)
            if reply.prompt_tokens or reply.completion_tokens:
                self._input_of_call.record(reply.prompt_tokens, labels)
                self._output_of_call.record(reply.completion_tokens, labels)
        elif failed is not None:
            for counter in (self._input, self._output):
                counter.add(0, {**labels, MODALITY: "unknown"})

    def _use(self, reply: LLMResponse, labels: Labels) -> None:
        if reply.prompt_tokens or reply.completion_tokens:  # both are 0 if the service does not report tokens
            labels = {**labels, MODALITY: "text"}
            self._input.add(reply.prompt_tokens, labels)
            self._output.add(reply.completion_tokens, labels)
            if reply.cached_tokens:
                self._cached.add(reply.cached_tokens, labels)


class ServerInstruments:
    """The metrics of servers and limits: what the server says of its load is that of its latest reading."""

    def __init__(self, meter: Any) -> None:
        gauge, counter = meter.create_gauge, meter.create_counter
        server = f"{SCOPE}.server"
        self._running = gauge(f"{server}.requests.running", "{request}", "Requests that the server works on.")
        self._waiting = gauge(f"{server}.requests.waiting", "{request}", "Requests that wait there.")
        self._kv_usage = gauge(f"{server}.kv_cache.usage", "1", "Share of its KV cache in use.")
        self._kv_tokens = gauge(f"{server}.kv_cache.size", "{token}", "Capacity of its KV cache.")
        self._preemptions = counter(f"{server}.preemptions", "{request}", "Requests that it stopped.")
        self._rejections = counter(f"{server}.rejections", "{request}", "Requests that it refused.")
        self._readings = counter(f"{server}.readings", "{reading}", "Readings of its load.")
        self._out_of_memory = counter(f"{SCOPE}.out_of_memory", "{call}", "Calls that lacked memory there.")
        self._limit = gauge(f"{SCOPE}.limit", "1", "Limits that change.")
        self._changes = counter(f"{SCOPE}.limit.changes", "{change}", "Changes of limits.")

    def read(self, event: ServerRead) -> None:
        """Record a reading."""
        labels, load = {SERVER: event.server}, event.load
        self._readings.add(1, {**labels, "outcome": "failed" if load is None else "read"})
        if load is None:
            return
        self._running.set(load.running, labels)
        self._waiting.set(load.waiting, labels)
        if load.kv_usage is not None:
            self._kv_usage.set(load.kv_usage, labels)
        if load.kv_tokens is not None:
            self._kv_tokens.set(load.kv_tokens, labels)
        self._preemptions.add(event.preemptions, labels)
        self._rejections.add(event.rejections, labels)

    def limit_changed(self, event: LimitChanged) -> None:
        """Record a change of a limit."""
        self._limit.set(event.limit, {LIMITER: event.limiter})
        if event.reason != "start":
            self._changes.add(1, {LIMITER: event.limiter, "reason": event.reason})

    def call_failed(self, error: BaseException) -> None:
        """Count a call that failed, if the memory of its server was full."""
        full = out_of_memory(error)
        if full is not None:
            self._out_of_memory.add(1, {"kind": full})


SERVER, LIMITER = f"{SCOPE}.server", f"{SCOPE}.limiter"
"""Labels: the server, and the name of the limit."""


class RunInstruments:
    """Records the metrics of one run."""

    __slots__ = ("_instruments", "_started", "_task")

    def __init__(self, instruments: Instruments, task: str) -> None:
        self._instruments = instruments
        self._task = task
        self._started: dict[ItemId, float] = {}

    def attempt_ended(self, event: CallEnded) -> None:
        """Record an attempt."""
        attempts, calls = self._instruments.attempts, self._instruments.calls
        if event.error is not None:
            self._instruments.servers.call_failed(event.error)
        if attempts is not None:
            attempts.ended(event)
        if calls is not None and event.error is not None and event.stage == "llm":
            calls.attempt_failed(event.error)

    def attempt_cancelled(self, attempt: CallStarted, time: float) -> None:
        """Record the duration of an attempt that was cancelled at `time`, in seconds on the run's clock."""
        attempts = self._instruments.attempts
        if attempts is not None:
            labels = attempts.labels(attempt.stage, "", CANCELLED, attempt.endpoint)
            attempts.duration.record(max(0.0, time - attempt.time), labels)

    def call_ended(self, call: LogicalCall, time: float, event: CallEnded | None) -> None:
        """Record a call that is over; `event` is the end of its last attempt, or None if it was cut off."""
        if self._instruments.calls is not None:
            self._instruments.calls.ended(call, time, event)

    def server_read(self, event: ServerRead) -> None:
        """Record a reading of a server's load."""
        self._instruments.servers.read(event)

    def limit_changed(self, event: LimitChanged) -> None:
        """Record a change of a limit."""
        self._instruments.servers.limit_changed(event)

    def retry_scheduled(self, event: RetryScheduled) -> None:
        """Count a retry."""
        self._instruments.retries.add(1, {**_STAGES[event.stage], ERROR_TYPE: error_type(event.error)})

    def item_started(self, event: ItemStarted) -> None:
        """Note when an item starts."""
        if self._instruments.calls is not None:
            self._started[event.item_id] = event.time

    def item_ended(self, event: ItemEnded) -> None:
        """Count an item that succeeded or failed, and record its duration."""
        outcome = event.outcome
        labels: Labels = {OPERATION: INVOKE, AGENT: self._task}
        if isinstance(outcome, Failure):
            labels[ERROR_TYPE] = error_type(outcome.error)
            failed = {"outcome": "failed", "stage": outcome.stage, ERROR_TYPE: error_type(outcome.error)}
            self._instruments.items.add(1, failed)
        else:
            self._instruments.items.add(1, _SUCCEEDED)
        calls = self._instruments.calls
        if calls is None or outcome.item_id is None or (not outcome.ok and outcome.stage == "input"):
            return
        started = self._started.pop(outcome.item_id, None)
        if started is not None:
            calls.items.record(max(0.0, event.time - started), labels)


def no_op_check(provider: MeterProvider | None) -> Callable[[], bool]:
    """
    Return a function that says whether measurements are dropped.

    A function and not a value, because an SDK may be set up after the observer is created.
    """
    if provider is not None:
        return lambda: isinstance(provider, metrics.NoOpMeterProvider)
    # The API's own providers drop everything; the proxy that stands in until an SDK is set up has no public name.
    return lambda: type(metrics.get_meter_provider()).__module__.startswith("opentelemetry.metrics")


_STAGES = {stage: {OPERATION: operation(stage)} for stage in STAGES}
_SUCCEEDED = {"outcome": "ok"}
