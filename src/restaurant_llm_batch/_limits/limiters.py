"""Limiter set: the concurrency and rate limiters that each type of call passes, in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import takewhile
from operator import is_not

from ..errors import ConfigurationError
from ..outcomes import LimitChange
from ..steps import LimiterName
from .aimd import LimitHistoryEntry
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

    def unused(self, twin: Callable[[ConcurrencyLimiter], ConcurrencyLimiter]) -> LimiterSet:
        """
        Return a set with the same limits, through which no call has passed.

        Args:
            twin: Returns the unused twin of a limiter, the same each time: what sets share here, their unused sets
                share too.
        """
        total = None if self._total is None else twin(self._total)
        llm, batches = twin(self.llm[0]), twin(self.batches[0])
        rates = (each.rate for each in (llm, batches, total) if each is not None)
        shared = next((rate for rate in rates if isinstance(rate, RateLimiter)), None)
        return LimiterSet(
            twin(self.search[0]),
            llm,
            batches,
            total,
            None if self.tokens is None else twin(self.tokens),
            self.rate.unused() if shared is None else shared,
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

    def named(self) -> dict[str, ConcurrencyLimiter]:
        """Return the limiters of calls in flight by the names of their limits."""
        named = {"search": self.search[0], "llm": self.llm[0], "batches": self.batches[0]}
        return named if self._total is None else {**named, "llm_total": self._total}

    def each(self) -> tuple[ConcurrencyLimiter, ...]:
        """Return every limiter of calls or tokens in flight once."""
        limiters = [*self.named().values(), *([] if self.tokens is None else [self.tokens])]
        return tuple({id(limiter): limiter for limiter in limiters}.values())

    def history(self, since: float) -> tuple[LimitChange, ...]:
        """Return the changes of adaptive and shared limits since a moment, beginning with the limits at that moment."""
        changes: list[LimitChange] = []
        for name, limiter in self.named().items():
            history = limiter.limit_history
            before = [change for change in history if change.time <= since]
            if before:
                changes.append(LimitChange(name, 0.0, before[-1].limit, "start"))
            later = (change for change in history if change.time > since)
            changes += (
                LimitChange(name, change.time - since, change.limit, change.reason) for change in later
            )
        return tuple(sorted(changes, key=lambda change: change.seconds))


class LimitWatch:
    """
    Watches how the adaptive and shared limits of a set change.

    Args:
        limiters: The set.
    """

    __slots__ = ("_seen", "_watched")

    def __init__(self, limiters: LimiterSet) -> None:
        self._watched = [
            (name, limiter) for name, limiter in limiters.named().items() if limiter.latest_change is not None
        ]
        self._seen: dict[str, LimitHistoryEntry] = {}

    def changes(self) -> Sequence[tuple[str, LimitHistoryEntry]]:
        """
        Return the changes since the last call, oldest first, each with the name of its limit.

        At the first call, this is the limit of each, with the reason "start".
        """
        seen = self._seen
        if not self._watched or all(
            limiter.latest_change is seen.get(name) for name, limiter in self._watched
        ):
            return ()
        found: list[tuple[str, LimitHistoryEntry]] = []
        for name, limiter in self._watched:
            before, history = seen.get(name), limiter.limit_history
            if before is None:
                found.append((name, replace(history[-1], reason="start")))
            else:
                later = takewhile(partial(is_not, before), reversed(history))
                found += ((name, entry) for entry in reversed(list(later)))
            seen[name] = history[-1]
        return sorted(found, key=lambda change: change[1].time)
