"""Limits on calls in flight, tokens, rates and batch sizes of a runner: the numbers, and what enforces them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from .._limits.aimd import AdaptiveLimit
from .._limits.batch_budget import AdaptiveBatch, BatchBudget
from .._limits.concurrency import UNKNOWN_LIMIT, ConcurrencyLimiter
from .._limits.limiters import LimiterSet
from .._limits.rate import RateLimiter
from ..errors import ConfigurationError
from ..tokens.counting import TokenCount, estimate_tokens
from ..tokens.packing import calculate_dynamic_batch_size

if TYPE_CHECKING:
    from .._limits.pool import Pool

_CONCURRENCY_LIMITS = ("search", "llm", "batches", "llm_total")
_EXAMPLES = {
    "llm_total": 8,
    "tokens_in_flight": 100_000,
    "requests_per_minute": 500,
    "tokens_per_minute": 200_000,
}


class DefaultLimit(int):
    """A limit that the user has not set, which suits calls that one server answers one by one."""


_LLM, _BATCHES, _OPEN_ITEMS = DefaultLimit(8), DefaultLimit(20), DefaultLimit(200)


@dataclass(frozen=True, slots=True)
class Limits:
    """
    Upper limits of a runner, across all of its runs, threads and event loops.

    `search`, `llm`, `batches` and `llm_total` limit calls in flight to a backend. Each is a number, an `AdaptiveLimit`
    that learns the number from the service, a `ConcurrencyLimiter` shared with other runners, or a `SharedLimiter`
    shared with other processes.

    Attributes:
        search: Searches in flight.
        llm: LLM calls in flight, other than packed batches. With an `LLMPool`, whose endpoints have limits of their
            own, there is no further limit if this is not set.
        batches: LLM calls in flight that carry a packed batch of reviews; with an `LLMPool` as `llm`.
        llm_total: LLM calls in flight, packed batches included; None for no limit beyond `llm` and `batches`.
        open_items: Items (restaurants) open at once in one run: the size of its sliding window. With an
            `OpenAIBatchLLM`, as many as a batch has lines if this is not set.
        max_tokens_per_batch: Token budget of a packed batch: a number; or "auto", which is `AdaptiveBatch()`, or an
            `AdaptiveBatch` with other bounds, for one that grows and shrinks by what the server bears.
        min_batch_size: Least result of `batch_size`. It has no effect on packed batches: a budget that holds more
            reviews is filled, and one that holds fewer is kept.
        max_batch_size: Most reviews in a packed batch.
        default_batch_size: Result of `batch_size` for no reviews. It has no effect on packed batches.
        tokens_in_flight: Tokens of LLM calls in flight, prompts and longest replies: the capacity of a GPU's KV cache
            (`kv_cache_tokens`, or `VLLMServerLLM.metrics().kv_tokens`). A number, a `ConcurrencyLimiter` or a
            `SharedLimiter`; None for no limit, or, with `BatchRunner(watch_server=...)`, for one that follows the size
            of the server's KV cache. The first call in the queue is never overtaken; a call larger than the
            limit runs alone.
        requests_per_minute: LLM calls that start in any 60 seconds, every attempt included; starts are spread over the
            minute. None for the limit in the service's ``x-ratelimit-*`` headers, if it sends them. A
            `SharedLimiter` may have limits per minute for all processes in their place.
        tokens_per_minute: Tokens of the LLM calls of a minute; None as for `requests_per_minute`. When a call starts,
            it counts with its prompt and its longest reply; when it ends, with the tokens it used.

    Raises:
        ConfigurationError: If a number is not a whole number of at least 1, or if limits per minute are given twice.
    """

    search: int | AdaptiveLimit | ConcurrencyLimiter = 50
    llm: int | AdaptiveLimit | ConcurrencyLimiter = _LLM
    batches: int | AdaptiveLimit | ConcurrencyLimiter = _BATCHES
    llm_total: int | AdaptiveLimit | ConcurrencyLimiter | None = None
    open_items: int = _OPEN_ITEMS
    max_tokens_per_batch: int | Literal["auto"] | AdaptiveBatch = 4000
    min_batch_size: int = 10
    max_batch_size: int = 100
    default_batch_size: int = 50
    tokens_in_flight: int | ConcurrencyLimiter | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, (AdaptiveLimit, ConcurrencyLimiter)) and field.name in _CONCURRENCY_LIMITS:
                continue
            if field.name == "tokens_in_flight" and isinstance(value, ConcurrencyLimiter):
                continue
            if field.name == "max_tokens_per_batch" and (value == "auto" or isinstance(value, AdaptiveBatch)):
                continue
            if value is None and field.default is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                counts_calls = field.name in _CONCURRENCY_LIMITS
                kinds = ", an AdaptiveLimit(...) or a ConcurrencyLimiter(...)" if counts_calls else ""
                kinds = ', "auto" or an AdaptiveBatch(...)' if field.name == "max_tokens_per_batch" else kinds
                example = field.default or _EXAMPLES[field.name]
                raise ConfigurationError(
                    f"Limits.{field.name} must be a whole number of at least 1{kinds}, got {value!r}; "
                    f"for example Limits({field.name}={example})"
                )
        self._check_rates()

    def _check_rates(self) -> None:
        """Check that limits per minute, which hold for all LLM calls, are given once, and to a limit of LLM calls."""
        for name in ("search", "tokens_in_flight"):
            value = getattr(self, name)
            if isinstance(value, ConcurrencyLimiter) and value.rate is not None:
                raise ConfigurationError(
                    f"Limits.{name} has limits per minute, which are those of LLM calls; "
                    "give them to the SharedLimiter for llm"
                )
        own = self.requests_per_minute is not None or self.tokens_per_minute is not None
        if len(self._shared_rates()) + own > 1:
            raise ConfigurationError(
                "limits per minute are given more than once, and hold for all LLM calls; give them either to Limits, "
                "for this runner alone, or to one SharedLimiter"
            )

    def _shared_rates(self) -> list[RateLimiter]:
        limits = (self.llm, self.batches, self.llm_total)
        rates = (limit.rate for limit in limits if isinstance(limit, ConcurrencyLimiter))
        return list(dict.fromkeys(rate for rate in rates if isinstance(rate, RateLimiter)))

    def rate_limiter(self) -> RateLimiter:
        """Return the limiter of LLM calls per minute: a shared one, or a new one."""
        own = RateLimiter(self.requests_per_minute, self.tokens_per_minute)
        return next(iter(self._shared_rates()), own)

    @property
    def adaptive_batch(self) -> AdaptiveBatch | None:
        """The bounds of the token budget of packed batches, if it adapts; None if it is a number."""
        given = self.max_tokens_per_batch
        if isinstance(given, AdaptiveBatch):
            return given
        return AdaptiveBatch() if given == "auto" else None

    @property
    def tokens_per_batch(self) -> int:
        """The token budget of packed batches as a number: the one with which it begins, if it adapts."""
        given = self.max_tokens_per_batch
        return given if isinstance(given, int) else (self.adaptive_batch or AdaptiveBatch()).start

    def batch_size(self, reviews: Sequence[str], count_tokens: TokenCount = estimate_tokens) -> int:
        """
        Return how many of the reviews make a batch of `max_tokens_per_batch`; see `calculate_dynamic_batch_size`.

        Args:
            reviews: The reviews.
            count_tokens: Counts the tokens of a text.
        """
        return calculate_dynamic_batch_size(
            reviews,
            self.tokens_per_batch,
            min_batch_size=min(self.min_batch_size, self.max_batch_size),
            max_batch_size=self.max_batch_size,
            default_batch_size=self.default_batch_size,
            count_tokens=count_tokens,
        )

    @classmethod
    def preset(cls, name: Literal["24gb", "40gb", "80gb"], **others: Any) -> Limits:
        """
        Return limits for a GPU with this much memory.

        Those for 24 and 40 GB are of the service that this library comes from. Those for 80 GB are computed: the KV
        cache of an 8B model holds about 110 sequences of 3,000 tokens there, which is 55 of 6,000.

        Args:
            name: Memory of the GPU: "24gb", "40gb" or "80gb".
            others: Limits that replace those of the preset.

        Raises:
            ConfigurationError: For any other name.
        """
        presets: dict[str, dict[str, Any]] = {
            "24gb": {"batches": 15, "max_tokens_per_batch": 3000, "max_batch_size": 80},
            "40gb": {"batches": 30, "max_tokens_per_batch": 6000, "max_batch_size": 150},
            "80gb": {"batches": 50, "max_tokens_per_batch": 6000, "max_batch_size": 150},
        }
        try:
            chosen = presets[name]
        except KeyError:
            raise ConfigurationError(
                f"preset must be {' or '.join(map(repr, presets))}, got {name!r}; for example Limits.preset('24gb')"
            ) from None
        return cls(**{**chosen, **others})


def make_limiters(limits: Limits, pool: Pool | None = None, *, learns_tokens: bool = False) -> LimiterSet:
    """
    Return the limiters that enforce limits; those that the user has made are among them.

    Args:
        limits: The limits.
        pool: The LLM backend, if it has several endpoints.
        learns_tokens: Whether the server says how many tokens may be in flight, unless the user does.

    Raises:
        ConfigurationError: If a call would pass one limiter twice.
    """
    llm, batches = (
        None if pool is not None and isinstance(limit, DefaultLimit) else as_limiter(limit)
        for limit in (limits.llm, limits.batches)
    )
    total = None if limits.llm_total is None else as_limiter(limits.llm_total)
    tokens = ConcurrencyLimiter(UNKNOWN_LIMIT) if learns_tokens else None
    if limits.tokens_in_flight is not None:
        tokens = as_limiter(limits.tokens_in_flight)
    of_calls = {"llm": llm, "batches": batches, "llm_total": total}
    _check_passed_once(of_calls, {"Limits.tokens_in_flight": tokens})
    if pool is not None:
        at = pool.endpoint_limiter.limiters
        _check_passed_once(
            {**of_calls, "tokens_in_flight": tokens},
            {f"the endpoint {name!r} of the pool": limiter for name, limiter in at.items()},
        )
    return LimiterSet(
        as_limiter(limits.search),
        llm,
        batches,
        total,
        tokens,
        limits.rate_limiter(),
        None if pool is None else pool.endpoint_limiter,
        None if limits.adaptive_batch is None else BatchBudget(limits.adaptive_batch),
    )


def _check_passed_once(
    first: Mapping[str, ConcurrencyLimiter | None], then: Mapping[str, ConcurrencyLimiter | None]
) -> None:
    """Check that calls do not pass a limiter a second time: they would wait for the slots that they hold."""
    for name, limiter in first.items():
        for other, its in then.items():
            if limiter is not None and limiter is its:
                raise ConfigurationError(
                    f"Limits.{name} and {other} are the same limiter, so that calls would wait for the slots that they "
                    f"hold; for example Limits({name}=ConcurrencyLimiter(8)), with a limiter of its own"
                )


def as_limiter(limit: int | AdaptiveLimit | ConcurrencyLimiter) -> ConcurrencyLimiter:
    """Return the limiter of a limit on calls in flight: a new one, unless the user has made it."""
    return limit if isinstance(limit, ConcurrencyLimiter) else ConcurrencyLimiter(limit)
