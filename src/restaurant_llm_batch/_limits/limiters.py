"""Limiter set: the concurrency and rate limiters that each type of call passes, in order."""

from __future__ import annotations

from ..errors import ConfigurationError
from ..outcomes import LimitChange
from ..steps import LimiterName
from .concurrency import ConcurrencyLimiter
from .rate import RateLimiter


class LimiterSet:
    """
    The limiters of a runner.

    Attributes:
        search: The limiters of a search.
        llm: The limiters of an LLM call.
        batches: The limiters of an LLM call that carries a packed batch.
        tokens: The limiter among them that counts tokens instead of calls, or None.
        rate: The rate limiter. It comes last, because a call that it admits has to start at once.
    """

    def __init__(
        self,
        search: ConcurrencyLimiter,
        llm: ConcurrencyLimiter,
        batches: ConcurrencyLimiter,
        total: ConcurrencyLimiter | None,
        tokens: ConcurrencyLimiter | None,
        rate: RateLimiter,
    ) -> None:
        self.search: tuple[ConcurrencyLimiter] = (search,)
        self.tokens = tokens
        self.rate = rate
        self._total = total
        self.llm: tuple[ConcurrencyLimiter, ...] = self._with_shared(llm)
        self.batches: tuple[ConcurrencyLimiter, ...] = self._with_shared(batches)

    def _with_shared(self, limiter: ConcurrencyLimiter) -> tuple[ConcurrencyLimiter, ...]:
        limiters = [limiter] if self._total is None or self._total is limiter else [limiter, self._total]
        return tuple(limiters if self.tokens is None else [*limiters, self.tokens])

    def unused(self, twins: dict[int, tuple[ConcurrencyLimiter, ConcurrencyLimiter]]) -> LimiterSet:
        """
        Return a set with the same limits, through which no call has passed.

        Args:
            twins: Each limiter that was met before, and its unused twin, by the limiter's `id`: what sets share here,
                their unused sets share too.
        """

        def unused(limiter: ConcurrencyLimiter) -> ConcurrencyLimiter:
            return twins.setdefault(id(limiter), (limiter, limiter.unused()))[1]

        return LimiterSet(
            unused(self.search[0]),
            unused(self.llm[0]),
            unused(self.batches[0]),
            None if self._total is None else unused(self._total),
            None if self.tokens is None else unused(self.tokens),
            self.rate.unused(),
        )

    @property
    def count_tokens(self) -> bool:
        """Whether a limiter counts tokens."""
        return self.tokens is not None or (self.rate.active and self.rate.counts_tokens)

    def for_pool(self, name: LimiterName) -> tuple[ConcurrencyLimiter, ...]:
        """Return the limiters of an LLM call."""
        if name == "llm":
            return self.llm
        if name == "batches":
            return self.batches
        raise ConfigurationError(
            f'limiter must be "llm" or "batches", got {name!r}; for example complete(request, limiter="llm")'
        )

    def history(self, since: float) -> tuple[LimitChange, ...]:
        """Return the changes of the adaptive limits since a moment, beginning with their limits at that moment."""
        named = {"search": self.search[0], "llm": self.llm[0], "batches": self.batches[0]}
        if self._total is not None:
            named["llm_total"] = self._total
        changes: list[LimitChange] = []
        for name, limiter in named.items():
            history = limiter.limit_history
            before = [change for change in history if change.time <= since]
            if before:
                changes.append(LimitChange(name, 0.0, before[-1].limit, "start"))
            later = (change for change in history if change.time > since)
            changes += (
                LimitChange(name, change.time - since, change.limit, change.reason) for change in later
            )
        return tuple(sorted(changes, key=lambda change: change.seconds))
