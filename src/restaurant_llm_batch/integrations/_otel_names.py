"""What things are called in OpenTelemetry: the GenAI conventions' names, and ours where they have none."""

from __future__ import annotations

from ..errors import RateLimited
from ..outcomes import Stage

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
