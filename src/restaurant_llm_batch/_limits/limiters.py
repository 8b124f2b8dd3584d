"""The gates of a runner: which ones a call must pass, in order."""

from __future__ import annotations

from ..errors import ConfigurationError
from ..outcomes import LimitChange
from ..steps import LimiterName
from .concurrency import ConcurrencyLimiter
from .rate import RateLimiter


class LimiterSet:
    """
    The gates of a runner.

    Attributes:
        search: Those of a search.
        llm: Those of an LLM call.
        batches: Those of an LLM call that carries a packed batch.
        tokens: The one of them that counts tokens instead of calls, or None.
        rate: The one for limits per minute. It comes after all others: whoever has passed it begins at once.
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
        self.search = (search,)
        self.tokens = tokens
        self.rate = rate
        self._total = total
        self.llm = self._with_both(llm)
        self.batches = self._with_both(batches)

    def _with_both(self, gate: ConcurrencyLimiter) -> tuple[ConcurrencyLimiter, ...]:
        gates = [gate] if self._total is None or self._total is gate else [gate, self._total]
        return tuple(gates if self.tokens is None else [*gates, self.tokens])

    @property
    def count_tokens(self) -> bool:
        """Whether some gate counts tokens."""
        return self.tokens is not None or (self.rate.active and self.rate.counts_tokens)

    def for_pool(self, name: LimiterName) -> tuple[ConcurrencyLimiter, ...]:
        """Return the gates of an LLM call."""
        if name == "llm":
            return self.llm
        if name == "batches":
            return self.batches
        raise ConfigurationError(f'there is no gate {name!r} for the model; write "llm" or "batches"')

    def history(self, since: float) -> tuple[LimitChange, ...]:
        """Return what adaptive limits were since a moment, and what they were then."""
        named = {"search": self.search[0], "llm": self.llm[0], "batches": self.batches[0]}
        if self._total is not None:
            named["llm_total"] = self._total
        steps: list[LimitChange] = []
        for name, gate in named.items():
            history = gate.limit_history
            before = [change for change in history if change.time <= since]
            if before:
                steps.append(LimitChange(name, 0.0, before[-1].limit, "start"))
            later = (change for change in history if change.time > since)
            steps += (LimitChange(name, change.time - since, change.limit, change.reason) for change in later)
        return tuple(sorted(steps, key=lambda step: step.seconds))
