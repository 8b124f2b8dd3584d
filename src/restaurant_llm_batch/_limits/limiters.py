"""Limiter set: the concurrency and rate limiters that each type of call passes, in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import takewhile
from operator import is_not
from typing import Protocol

from ..errors import ConfigurationError
from ..outcomes import LimitChange
from ..steps import LimiterName
from .aimd import LimitHistoryEntry
from .concurrency import ConcurrencyLimiter
from .pool import EndpointLimiter, Twins, unused
from .rate import RateLimiter

_COUNTING = 8
"""Calls at once that count tokens, if no limit is set that they share with other calls."""


class TimedLimiter(Protocol):
    """A limiter that admits calls when time has passed."""

    def watch(self, watcher: Callable[[], object], /) -> Callable[[], None]:
        """Call `watcher`, in any thread, when there may be a new moment; return a function that ends this."""
        ...

    def seconds_until_ready(self, now: float, /) -> float | None:
        """Return the seconds until that moment; None if there is none."""
        ...

    def admit_ready(self, now: float, /) -> None:
        """Admit the calls whose time has come."""
        ...


class LimiterSet:
    """
    The limiters of a runner.

    Attributes:
        search: The limiters of a search.
        llm: The limiters of an LLM call.
        batches: The limiters of an LLM call that carries a packed batch.
        counting: The limiters of a call that counts tokens at the model's server.
        tokens: The limiter among them that counts tokens instead of calls, or None.
        endpoints: The limiter of the endpoints of a pool, which comes after these; None without a pool.
        rate: The rate limiter. It comes last, because a call that it admits has to start at once.
    """

    def __init__(
        self,
        search: ConcurrencyLimiter,
        llm: ConcurrencyLimiter | None,
        batches: ConcurrencyLimiter | None,
        total: ConcurrencyLimiter | None,
        tokens: ConcurrencyLimiter | None,
        rate: RateLimiter,
        endpoints: EndpointLimiter | None = None,
    ) -> None:
        self.search: tuple[ConcurrencyLimiter] = (search,)
        self.tokens = tokens
        self.rate = rate
        self.endpoints = endpoints
        self._llm, self._batches, self._total = llm, batches, total
        self.llm: tuple[ConcurrencyLimiter, ...] = self._with_shared(llm)
        self.batches: tuple[ConcurrencyLimiter, ...] = self._with_shared(batches)
        self.counting: tuple[ConcurrencyLimiter, ...] = self.llm or (ConcurrencyLimiter(_COUNTING),)

    def _with_shared(self, limiter: ConcurrencyLimiter | None) -> tuple[ConcurrencyLimiter, ...]:
        limiters = [limiter] if self._total is limiter else [limiter, self._total]
        return tuple(one for one in (*limiters, self.tokens) if one is not None)

    def unused(self, twins: Twins) -> LimiterSet:
        """
        Return a set with the same limits, through which no call has passed.

        Args:
            twins: Each limiter that was met before, and its unused twin, by the limiter's `id`: what sets share here,
                their unused sets share too.
        """
        llm, batches, total, tokens = (
            None if limiter is None else unused(limiter, twins)
            for limiter in (self._llm, self._batches, self._total, self.tokens)
        )
        endpoints = None if self.endpoints is None else self.endpoints.unused(twins)
        rate = self.rate.unused()
        return LimiterSet(unused(self.search[0], twins), llm, batches, total, tokens, rate, endpoints)

    @property
    def timed(self) -> tuple[TimedLimiter, ...]:
        """The limiters that admit calls when time has passed."""
        return (self.rate,) if self.endpoints is None else (self.rate, self.endpoints)

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
        """Return the limiters of calls in flight by the names of their limits; an endpoint's is "llm:" and its name."""
        own = {"llm": self._llm, "batches": self._batches, "llm_total": self._total}
        named = {"search": self.search[0]}
        named |= {name: limiter for name, limiter in own.items() if limiter is not None}
        if self.endpoints is not None:
            named |= {f"llm:{name}": limiter for name, limiter in self.endpoints.limiters.items()}
        return named

    def history(self, since: float) -> tuple[LimitChange, ...]:
        """Return the changes of the adaptive limits since a moment, beginning with their limits at that moment."""
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
    Watches how the adaptive limits of a set change.

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
