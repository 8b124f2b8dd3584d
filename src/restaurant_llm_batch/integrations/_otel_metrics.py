"""The metrics of the OpenTelemetry observer."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from importlib.metadata import version

from opentelemetry import metrics
from opentelemetry.metrics import MeterProvider

from ..errors import RateLimited
from ..events import CallEnded, CallStarted, ItemEnded, RetryScheduled
from ..outcomes import Failure, Stage

# The buckets that the GenAI conventions ask for.
_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_TOKENS = tuple(4**power for power in range(14))
_LABELS_KEPT = 256


class Instruments:
    """What is measured with; shared by all runs."""

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
        self.retries = meter.create_counter(
            f"{SCOPE}.retries", "{call}", "Calls made again, or to be made again."
        )
        self.items = meter.create_counter(f"{SCOPE}.items", "{item}", "Items that are over.")

        # Names of models come from the service, so there could be any number of them.
        @lru_cache(_LABELS_KEPT)
        def labels(stage: Stage, answered_by: str, error: str) -> dict[str, str]:
            of_call = base_labels(stage, model, service)
            if answered_by:
                of_call[RESPONSE_MODEL] = answered_by
            if error:
                of_call[ERROR_TYPE] = error
            return of_call

        @lru_cache(_LABELS_KEPT)
        def token_labels(answered_by: str) -> tuple[dict[str, str], dict[str, str]]:
            of_call = labels("llm", answered_by, "")
            return {**of_call, TOKEN_TYPE: "input"}, {**of_call, TOKEN_TYPE: "output"}

        self.labels = labels
        self.token_labels = token_labels

    def begin(self) -> RunInstruments:
        """Return what measures one run."""
        return RunInstruments(self)


class RunInstruments:
    """Measures one run."""

    __slots__ = ("_with",)

    def __init__(self, instruments: Instruments) -> None:
        self._with = instruments

    def call_ended(self, event: CallEnded) -> None:
        """Measure a call that came back."""
        tools, reply, error = self._with, event.reply, event.error
        answered_by = "" if reply is None else reply.model
        labels = tools.labels(event.stage, answered_by, "" if error is None else error_type(error))
        tools.duration.record(event.seconds, labels)
        if reply is not None and (reply.prompt_tokens or reply.completion_tokens):
            read, written = tools.token_labels(answered_by)
            tools.tokens.record(reply.prompt_tokens, read)
            tools.tokens.record(reply.completion_tokens, written)

    def call_lost(self, call: CallStarted, at: float) -> None:
        """Measure a call whose answer nobody will hear."""
        self._with.duration.record(max(0.0, at - call.time), self._with.labels(call.stage, "", LOST))

    def retry_planned(self, event: RetryScheduled) -> None:
        """Count a call that will be made again."""
        self._with.retries.add(1, {**_STAGES[event.stage], ERROR_TYPE: error_type(event.error)})

    def item_ended(self, event: ItemEnded) -> None:
        """Count an item that is over."""
        outcome = event.outcome
        if isinstance(outcome, Failure):
            labels = {"outcome": "failed", "stage": outcome.stage, ERROR_TYPE: error_type(outcome.error)}
            self._with.items.add(1, labels)
        else:
            self._with.items.add(1, _DONE)


def does_nothing(given: MeterProvider | None) -> Callable[[], bool]:
    """Return what tells whether measuring leads nowhere, at the moment when it is asked."""
    if given is not None:
        return lambda: isinstance(given, metrics.NoOpMeterProvider)
    # The API's own providers measure nothing; the one that stands in until an SDK is set up has no public name.
    return lambda: type(metrics.get_meter_provider()).__module__.startswith("opentelemetry.metrics")


SCOPE = "restaurant_llm_batch"

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

LOST = "cancelled"
"""The `error.type` of a call whose answer nobody heard, because its run was cancelled."""

_OPERATIONS = {"llm": "chat", "search": "retrieval", "tokens": "count_tokens"}


def operation(stage: Stage) -> str:
    """Return what the conventions call a call of a stage."""
    return _OPERATIONS.get(stage, stage)


def base_labels(stage: Stage, model: str | None, provider: str) -> dict[str, str]:
    """Return the attributes that all calls of a stage share."""
    labels = {OPERATION: operation(stage)}
    if stage != "search":
        labels[PROVIDER] = provider
        if model is not None:
            labels[REQUEST_MODEL] = model
    return labels


def error_type(error: BaseException) -> str:
    """Return the HTTP status of an error where it has one, else its class; never its words."""
    status = getattr(error, "status", None)
    if isinstance(status, int):
        return str(status)
    return "429" if isinstance(error, RateLimited) else type(error).__qualname__


_STAGES = {stage: {OPERATION: operation(stage)} for stage in ("search", "llm", "tokens")}
_DONE = {"outcome": "ok"}
