"""OpenTelemetry metrics of `OpenTelemetryObserver`, and attribute names from the GenAI semantic conventions."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from importlib.metadata import version

from opentelemetry import metrics
from opentelemetry.metrics import MeterProvider

from ..errors import RateLimited
from ..events import CallEnded, CallStarted, ItemEnded, RetryScheduled
from ..outcomes import Failure, Stage

# Bucket bounds from the GenAI semantic conventions.
_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_TOKENS = tuple(4**power for power in range(14))
_LABEL_CACHE_SIZE = 256


class Instruments:
    """The OpenTelemetry instruments, shared by all runs."""

    def __init__(self, provider: MeterProvider | None, model: str | None, service: str) -> None:
        meter = metrics.get_meter(SCOPE, version("restaurant-llm-batch"), provider)
        self.duration = meter.create_histogram(
            "gen_ai.client.operation.duration",
            "s",
            "GenAI operation duration.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self.tokens = meter.create_histogram(
            "gen_ai.client.token.usage",
            "{token}",
            "Number of input and output tokens used.",
            explicit_bucket_boundaries_advisory=_TOKENS,
        )
        self.retries = meter.create_counter(f"{SCOPE}.retries", "{call}", "Retries made or scheduled.")
        self.items = meter.create_counter(f"{SCOPE}.items", "{item}", "Items that succeeded or failed.")

        # Cached, because label sets are built for every call; bounded, because model names come from the service.
        @lru_cache(_LABEL_CACHE_SIZE)
        def labels(
            stage: Stage, response_model: str, error: str, endpoint: str | None = None
        ) -> dict[str, str]:
            call_labels = base_labels(stage, model, service)
            if endpoint is not None:
                call_labels[ENDPOINT] = endpoint
            if response_model:
                call_labels[RESPONSE_MODEL] = response_model
            if error:
                call_labels[ERROR_TYPE] = error
            return call_labels

        @lru_cache(_LABEL_CACHE_SIZE)
        def token_labels(response_model: str) -> tuple[dict[str, str], dict[str, str]]:
            call_labels = labels("llm", response_model, "")
            return {**call_labels, TOKEN_TYPE: "input"}, {**call_labels, TOKEN_TYPE: "output"}

        self.labels = labels
        self.token_labels = token_labels

    def begin(self) -> RunInstruments:
        """Return the recorder of one run."""
        return RunInstruments(self)


class RunInstruments:
    """Records the metrics of one run."""

    __slots__ = ("_instruments",)

    def __init__(self, instruments: Instruments) -> None:
        self._instruments = instruments

    def call_ended(self, event: CallEnded) -> None:
        """Record the duration of a call, and its tokens."""
        instruments, reply, error = self._instruments, event.reply, event.error
        response_model = "" if reply is None else reply.model
        failed = "" if error is None else error_type(error)
        labels = instruments.labels(event.stage, response_model, failed, event.endpoint)
        instruments.duration.record(event.seconds, labels)
        if reply is not None and (reply.prompt_tokens or reply.completion_tokens):
            input_labels, output_labels = instruments.token_labels(response_model)
            instruments.tokens.record(reply.prompt_tokens, input_labels)
            instruments.tokens.record(reply.completion_tokens, output_labels)

    def call_cancelled(self, call: CallStarted, time: float) -> None:
        """Record the duration of a call that was cancelled at `time`, in seconds on the run's clock."""
        labels = self._instruments.labels(call.stage, "", CANCELLED, call.endpoint)
        self._instruments.duration.record(max(0.0, time - call.time), labels)

    def retry_scheduled(self, event: RetryScheduled) -> None:
        """Count a retry."""
        self._instruments.retries.add(1, {**_STAGES[event.stage], ERROR_TYPE: error_type(event.error)})

    def item_ended(self, event: ItemEnded) -> None:
        """Count an item that succeeded or failed."""
        outcome = event.outcome
        if isinstance(outcome, Failure):
            labels = {"outcome": "failed", "stage": outcome.stage, ERROR_TYPE: error_type(outcome.error)}
            self._instruments.items.add(1, labels)
        else:
            self._instruments.items.add(1, _SUCCEEDED)


def no_op_check(provider: MeterProvider | None) -> Callable[[], bool]:
    """
    Return a function that says whether measurements are dropped.

    A function and not a value, because an SDK may be set up after the observer is created.
    """
    if provider is not None:
        return lambda: isinstance(provider, metrics.NoOpMeterProvider)
    # The API's own providers drop everything; the proxy that stands in until an SDK is set up has no public name.
    return lambda: type(metrics.get_meter_provider()).__module__.startswith("opentelemetry.metrics")


SCOPE = "restaurant_llm_batch"
ENDPOINT = f"{SCOPE}.endpoint"
"""Name of the endpoint of an `LLMPool`."""

OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
REQUEST_MODEL = "gen_ai.request.model"
RESPONSE_MODEL = "gen_ai.response.model"
FINISH_REASONS = "gen_ai.response.finish_reasons"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
CACHED_TOKENS = "gen_ai.usage.cache_read.input_tokens"
TOKEN_TYPE = "gen_ai.token.type"
ERROR_TYPE = "error.type"

CANCELLED = "cancelled"
"""The `error.type` of a call in flight when its run was cancelled."""

_OPERATIONS = {"llm": "chat", "search": "retrieval", "tokens": "count_tokens"}


def operation(stage: Stage) -> str:
    """Return the GenAI operation name of a stage's calls."""
    return _OPERATIONS.get(stage, stage)


def base_labels(stage: Stage, model: str | None, provider: str) -> dict[str, str]:
    """Return the attributes common to all calls of a stage."""
    labels = {OPERATION: operation(stage)}
    if stage != "search":
        labels[PROVIDER] = provider
        if model is not None:
            labels[REQUEST_MODEL] = model
    return labels


def error_type(error: BaseException) -> str:
    """Return the HTTP status of an error, or its class name; never its message, which may contain reviews or keys."""
    status = getattr(error, "status", None)
    if isinstance(status, int):
        return str(status)
    return "429" if isinstance(error, RateLimited) else type(error).__qualname__


_STAGES = {stage: {OPERATION: operation(stage)} for stage in ("search", "llm", "tokens")}
_SUCCEEDED = {"outcome": "ok"}
