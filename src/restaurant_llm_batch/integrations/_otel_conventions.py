"""
Names of the OpenTelemetry semantic conventions for generative AI, by version.

v1.41 is the last version within the general conventions, v0.1 the first of their own. What differs between them is in
one `Conventions` each; the other names are below. Where a span can have one of two values only, "both" keeps that of
v1.41.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias
from urllib.parse import urlsplit

from opentelemetry.trace import SpanKind

from ..errors import ConfigurationError, RateLimited
from ..outcomes import Stage

Version: TypeAlias = Literal["v0.1", "v1.41", "both"]

SCOPE = "restaurant_llm_batch"
ENDPOINT = f"{SCOPE}.endpoint"
"""Name of the endpoint of an `LLMPool`."""

OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
AGENT = "gen_ai.agent.name"
OUTPUT_TYPE = "gen_ai.output.type"
PROMPT_NAME = "gen_ai.prompt.name"
REQUEST_MODEL = "gen_ai.request.model"
MAX_TOKENS = "gen_ai.request.max_tokens"
TEMPERATURE = "gen_ai.request.temperature"
RESPONSE_MODEL = "gen_ai.response.model"
FINISH_REASONS = "gen_ai.response.finish_reasons"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
CACHED_TOKENS = "gen_ai.usage.cache_read.input_tokens"
TOP_K = "gen_ai.retrieval.top_k"
TOKEN_TYPE = "gen_ai.token.type"
MODALITY = "gen_ai.token.modality"
SERVER_ADDRESS = "server.address"
SERVER_PORT = "server.port"
ERROR_TYPE = "error.type"

CANCELLED = "cancelled"
"""The `error.type` of a call in flight when its run was cancelled."""
INVOKE = "invoke_workflow"
"""The operation of an item."""

_OPERATION_DURATION = "gen_ai.client.operation.duration"
_OPERATIONS = {"llm": "chat", "search": "retrieval", "tokens": "count_tokens"}
_OPT_IN = "OTEL_SEMCONV_STABILITY_OPT_IN"
_LATEST = "gen_ai_latest_experimental"
STAGES: tuple[Stage, ...] = ("search", "llm", "tokens")


@dataclass(frozen=True, slots=True)
class Conventions:
    """
    What differs between the versions.

    Attributes:
        schema_url: Names the version, for whoever reads the telemetry.
        has_calls: Whether there is a span for each call, with its attempts below it, and metrics of calls, as in v0.1.
        has_attempts: Whether there are metrics of attempts, as in v1.41; and a span for each, unless there are calls.
        kinds: Kind of the span of a call, by stage.
        item: Name of the span of an item, before the name of its task; "" for a name of this library's own.
        durations: Metric of the duration of a call, by stage, if there are metrics of calls.
    """

    schema_url: str
    has_calls: bool
    has_attempts: bool
    kinds: Mapping[str, SpanKind]
    item: str
    durations: Mapping[str, str]


_CLIENT: dict[str, SpanKind] = {stage: SpanKind.CLIENT for stage in STAGES}  # noqa: C420  # its keys are texts
_CALL_DURATIONS = {"llm": "gen_ai.client.inference.duration", "search": "gen_ai.retrieval.duration"}

_OWN_SCHEMA = "https://opentelemetry.io/schemas/gen-ai/0.1.0"
"""In the form that their README has; what is not released has ``gen-ai-dev`` and a version that ends in ``-dev``."""

VERSIONS: Mapping[Version, Conventions] = {
    "v1.41": Conventions(
        schema_url="https://opentelemetry.io/schemas/1.41.0",
        has_calls=False,
        has_attempts=True,
        kinds=_CLIENT,
        item="",
        durations={},
    ),
    "v0.1": Conventions(
        schema_url=_OWN_SCHEMA,
        has_calls=True,
        has_attempts=False,
        kinds={**_CLIENT, "search": SpanKind.INTERNAL},
        item=INVOKE,
        durations={**_CALL_DURATIONS, "tokens": _OPERATION_DURATION},
    ),
    "both": Conventions(
        schema_url=_OWN_SCHEMA,
        has_calls=True,
        has_attempts=True,
        kinds=_CLIENT,
        item="",
        durations=_CALL_DURATIONS,  # token counts are among the attempts already
    ),
}

ATTEMPT_DURATION = _OPERATION_DURATION
"""Metric of the duration of an attempt, in v1.41."""


def conventions_of(version: Version | None) -> Conventions:
    """
    Return the conventions of a version; of None, those that the environment asks for.

    As the conventions say, ``gen_ai_latest_experimental`` in ``OTEL_SEMCONV_STABILITY_OPT_IN`` asks for the latest
    version alone. Without it, this release emits both.

    Raises:
        ConfigurationError: There is no such version.
    """
    if version is None:
        asked = {word.strip() for word in os.environ.get(_OPT_IN, "").split(",")}
        version = "v0.1" if _LATEST in asked else "both"
    try:
        return VERSIONS[version]
    except (KeyError, TypeError):
        raise ConfigurationError(
            f"conventions must be {', '.join(map(repr, VERSIONS))} or None, got {version!r}; "
            "for example conventions='v0.1'"
        ) from None


def operation(stage: Stage) -> str:
    """Return the GenAI operation name of a stage's calls."""
    return _OPERATIONS.get(stage, stage)


def base_labels(stage: Stage, model: str | None, provider: str) -> dict[str, str | int]:
    """Return the attributes common to all calls of a stage."""
    labels: dict[str, str | int] = {OPERATION: operation(stage)}
    if stage != "search":
        labels[PROVIDER] = provider
        if model is not None:
            labels[REQUEST_MODEL] = model
    return labels


def server_labels(url: str | None) -> dict[str, str | int]:
    """
    Return the attributes of a server.

    Raises:
        ConfigurationError: `url` is not the URL of one.
    """
    if url is None:
        return {}
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except (ValueError, AttributeError, TypeError):
        host, port = None, None
    if not host or port is None:
        raise ConfigurationError(
            f"server must be the URL of the service, got {url!r}; for example server='http://localhost:8000'"
        )
    return {SERVER_ADDRESS: host, SERVER_PORT: port}


def error_type(error: BaseException) -> str:
    """Return the HTTP status of an error, or its class name; never its message, which may contain reviews or keys."""
    status = getattr(error, "status", None)
    if isinstance(status, int):
        return str(status)
    return "429" if isinstance(error, RateLimited) else type(error).__qualname__
