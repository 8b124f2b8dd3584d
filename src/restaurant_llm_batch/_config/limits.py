"""Limits: calls in flight, tokens, rates and batch sizes of a runner. Numbers only; `_limits` enforces them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from .._limits.aimd import AdaptiveLimit
from .._limits.concurrency import ConcurrencyLimiter
from ..errors import ConfigurationError

_GATED = ("search", "llm", "batches", "llm_total")
_EXAMPLES = {
    "llm_total": 8,
    "tokens_in_flight": 100_000,
    "requests_per_minute": 500,
    "tokens_per_minute": 200_000,
}


@dataclass(frozen=True, slots=True)
class Limits:
    """
    The most that a runner does at once, across all of its runs, threads and loops.

    `search`, `llm`, `batches` and `llm_total` count calls to a backend. Each may be a number, an `AdaptiveLimit`
    that finds the number, or a `ConcurrencyLimiter` that is shared with other runners.

    Attributes:
        search: Searches in flight.
        llm: LLM calls in flight, other than packed batches.
        batches: LLM calls in flight that carry a packed batch of reviews.
        llm_total: Both kinds together; None for no bound of its own.
        open_items: Restaurants open at once in one run (the sliding window).
        max_tokens_per_batch: Token budget of a packed batch.
        min_batch_size: Fewest reviews in a packed batch, where the budget allows it.
        max_batch_size: Most reviews in a packed batch.
        default_batch_size: Batch size when there is nothing to judge it by.
        tokens_in_flight: Tokens of LLM calls in flight, prompts and longest answers: what a GPU's KV cache holds
            (`kv_cache_tokens`, or `VLLMServerLLM.metrics().kv_tokens`). A number or a `ConcurrencyLimiter`; None for no
            limit. The first call in the queue waits and is not overtaken; a call larger than the limit runs alone.
        requests_per_minute: LLM calls that begin in any 60 seconds, tries counted each; spread over the minute. None
            for what the service says in its ``x-ratelimit-*`` headers, if it does.
        tokens_per_minute: Tokens that they take, likewise. A call is counted with its prompt and its longest answer
            when it begins, and with what it really took when it has ended.

    Raises:
        ConfigurationError: When a number is not a positive integer, or the batch sizes are out of order.
    """

    search: int | AdaptiveLimit | ConcurrencyLimiter = 50
    llm: int | AdaptiveLimit | ConcurrencyLimiter = 8
    batches: int | AdaptiveLimit | ConcurrencyLimiter = 20
    llm_total: int | AdaptiveLimit | ConcurrencyLimiter | None = None
    open_items: int = 200
    max_tokens_per_batch: int = 4000
    min_batch_size: int = 10
    max_batch_size: int = 100
    default_batch_size: int = 50
    tokens_in_flight: int | ConcurrencyLimiter | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, (AdaptiveLimit, ConcurrencyLimiter)) and field.name in _GATED:
                continue
            if field.name == "tokens_in_flight" and isinstance(value, ConcurrencyLimiter):
                continue
            if value is None and field.default is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                kinds = ", an AdaptiveLimit(...) or a ConcurrencyLimiter(...)" if field.name in _GATED else ""
                example = field.default or _EXAMPLES[field.name]
                raise ConfigurationError(
                    f"Limits.{field.name} must be a whole number of at least 1{kinds}, got {value!r}; "
                    f"write for example Limits({field.name}={example})"
                )
        if not self.min_batch_size <= self.default_batch_size <= self.max_batch_size:
            raise ConfigurationError(
                "Limits needs min_batch_size <= default_batch_size <= max_batch_size, got "
                f"{self.min_batch_size}, {self.default_batch_size}, {self.max_batch_size}"
            )

    @classmethod
    def preset(cls, name: Literal["24gb", "40gb"]) -> Limits:
        """
        Return the source service's settings for a GPU of that memory.

        Raises:
            ConfigurationError: For any other name.
        """
        presets = {
            "24gb": cls(batches=15, max_tokens_per_batch=3000, max_batch_size=80),
            "40gb": cls(batches=30, max_tokens_per_batch=6000, max_batch_size=150),
        }
        try:
            return presets[name]
        except KeyError:
            raise ConfigurationError(
                f"there is no preset {name!r}; write one of {', '.join(map(repr, presets))}"
            ) from None
