"""Limiter set: the concurrency and rate limiters that each type of call passes, in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import takewhile
from operator import is_not
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

from ..errors import ConfigurationError
from ..outcomes import LimitChange
from ..steps import LimiterName
from .aimd import LimitHistoryEntry
from .concurrency import UNKNOWN_LIMIT, ConcurrencyLimiter
from .rate import ConfiguredRate, RateLimiter

if TYPE_CHECKING:
    from .batch_budget import BatchBudget
    from .pool import EndpointLimiter, Pool, Twin

Limit: TypeAlias = "ConcurrencyLimiter | ConfiguredRate | BatchBudget"
"""A limit that a user may set while it is in use: assign to its `limit`."""


class LimiterStanding(NamedTuple):
    """
    How a limiter stands at one moment.

    Attributes:
        name: Field of `Limits`.
        limit: The limit; None for a limit per minute that only the service reports.
        in_use: Slots, or tokens, that are taken; None for a limit per minute.
        waiting: Number of calls that wait at it. Those that wait for either limit per minute stand with the first.
        peak: Most slots, or tokens, that were taken at once; None for a limit per minute.
    """

    name: str
    limit: int | None
    in_use: int | None
    waiting: int
    peak: int | None


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
        token_block: Tokens of a block of the servers' KV caches, whole ones of which a call counts as; 1 if unknown.
        endpoints: The limiter of the endpoints of a pool, which comes after these; None without a pool.
        batch_tokens: The token budget of packed batches, if it adapts; None if it is a number.
        rate: The rate limiter. It comes last, because a call that it admits has to start at once.
        follows_latency: Whether a limit is learned from how long calls take.
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
        batch_tokens: BatchBudget | None = None,
    ) -> None:
        self.search: tuple[ConcurrencyLimiter] = (search,)
        self.tokens = tokens
        self.token_block: int = 1
        self.rate = rate
        self.endpoints = endpoints
        self.batch_tokens = batch_tokens
        self._llm, self._batches, self._total = llm, batches, total
        self.llm: tuple[ConcurrencyLimiter, ...] = self._with_shared(llm)
        self.batches: tuple[ConcurrencyLimiter, ...] = self._with_shared(batches)
        self.counting: tuple[ConcurrencyLimiter, ...] = self.llm or (ConcurrencyLimiter(_COUNTING),)
        self.follows_latency: bool = any(limiter.follows_latency for limiter in self.each())

    def _with_shared(self, limiter: ConcurrencyLimiter | None) -> tuple[ConcurrencyLimiter, ...]:
        limiters = [limiter] if self._total is limiter else [limiter, self._total]
        return tuple(one for one in (*limiters, self.tokens) if one is not None)

    def unused(self, twin: Twin) -> LimiterSet:
        """
        Return a set with the same limits, through which no call has passed.

        Args:
            twin: Returns the unused twin of a limiter, the same each time: what sets share here, their unused sets
                share too.
        """
        llm, batches, total, tokens = (
            None if limiter is None else twin(limiter)
            for limiter in (self._llm, self._batches, self._total, self.tokens)
        )
        endpoints = None if self.endpoints is None else twin(self.endpoints)
        rates = (each.rate for each in (llm, batches, total) if each is not None)
        shared = next((rate for rate in rates if isinstance(rate, RateLimiter)), None)
        rate = self.rate.unused() if shared is None else shared
        batch = None if self.batch_tokens is None else twin(self.batch_tokens)
        return LimiterSet(twin(self.search[0]), llm, batches, total, tokens, rate, endpoints, batch)

    @property
    def timed(self) -> tuple[TimedLimiter, ...]:
        """The limiters that admit calls when time has passed."""
        return (self.rate,) if self.endpoints is None else (self.rate, self.endpoints)

    @property
    def count_tokens(self) -> bool:
        """Whether a limiter counts tokens."""
        return self.tokens is not None or (self.rate.active and self.rate.counts_tokens)

    def in_blocks(self, tokens: int) -> int:
        """Return the tokens of the blocks of a KV cache that so many tokens take."""
        return -(-tokens // self.token_block) * self.token_block

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
        """
        Return the limiters of calls, or tokens, in flight by the names of their limits; see `LimitChange`.

        One whose limit the server has not said yet is not among them.
        """
        return {name: one for name, one in self._all().items() if one.limit < UNKNOWN_LIMIT}

    def _all(self) -> dict[str, ConcurrencyLimiter]:
        own = {
            "search": self.search[0],
            "llm": self._llm,
            "batches": self._batches,
            "llm_total": self._total,
            "tokens_in_flight": self.tokens,
        }
        at = {} if self.endpoints is None else self.endpoints.limiters
        named = {name: limiter for name, limiter in own.items() if limiter is not None}
        return named | {f"llm:{name}": limiter for name, limiter in at.items()}

    def limits(self) -> Mapping[str, Limit]:
        """Return the limits by their names: those per minute too, and the budget of batches that adapts."""
        batch = self.batch_tokens
        return {
            **self.named(),
            **({} if batch is None else {"max_tokens_per_batch": batch}),
            "requests_per_minute": self.rate.requests,
            "tokens_per_minute": self.rate.tokens,
        }

    def use_clock(self, now: Callable[[], float]) -> None:
        """Date limits that are set by a user with the clock of a run."""
        for limiter in self._limiters():
            limiter.clock = now

    def watch_set(self, watcher: Callable[[], object]) -> Callable[[], None]:
        """Call `watcher`, in any thread, when a user has set a limit; return a function that ends this."""
        unwatch = [limiter.watch_set(watcher) for limiter in self._limiters()]

        def end() -> None:
            for each in unwatch:
                each()

        return end

    def _limiters(self) -> list[ConcurrencyLimiter | RateLimiter | BatchBudget]:
        batch = self.batch_tokens
        return [*self.each(), self.rate, *(() if batch is None else (batch,))]

    def standings(self) -> list[LimiterStanding]:
        """Return how the limiters stand now."""
        standings: list[LimiterStanding] = []
        for name, limiter in self.named().items():
            now = limiter.statistics()
            standings.append(LimiterStanding(name, now.limit, now.in_flight, now.waiting, now.peak))
        if self.rate.active:
            waiting = self.rate.waiting
            standings.append(
                LimiterStanding("requests_per_minute", self.rate.requests.limit, None, waiting, None)
            )
            standings.append(LimiterStanding("tokens_per_minute", self.rate.tokens.limit, None, 0, None))
        return standings

    def each(self) -> tuple[ConcurrencyLimiter, ...]:
        """Return every limiter of calls or tokens in flight once."""
        return tuple(dict.fromkeys(self._all().values()))

    def history(self, since: float) -> tuple[LimitChange, ...]:
        """Return the changes of the limits since a moment, beginning with the limits at that moment."""
        changes: list[LimitChange] = []
        for name, limit in self.limits().items():
            history = limit.limit_history
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
    Watches how the limits of a set change: those that are adaptive or shared, or have been set by a user.

    Args:
        limiters: The set.
    """

    __slots__ = ("_begun", "_limiters", "_seen", "_watched")

    def __init__(self, limiters: LimiterSet) -> None:
        self._limiters = limiters
        self._seen: dict[str, LimitHistoryEntry] = {}
        self._begun = False
        self.look_again()

    def look_again(self) -> None:
        """Watch the limits too that a user has set since. Safe in any thread."""
        limits = self._limiters.limits()
        self._watched = [(name, limit) for name, limit in limits.items() if limit.latest_change is not None]

    def changes(self) -> Sequence[tuple[str, LimitHistoryEntry]]:
        """
        Return the changes since the last call, oldest first, each with the name of its limit.

        At the first call, this is the limit of each, with the reason "start".
        """
        seen, watched = self._seen, self._watched
        if not watched or all(limit.latest_change is seen.get(name) for name, limit in watched):
            self._begun = True
            return ()
        found: list[tuple[str, LimitHistoryEntry]] = []
        for name, limit in watched:
            before, history = seen.get(name), limit.limit_history
            if before is None and not self._begun:
                found.append((name, replace(history[-1], reason="start")))
            elif before is None:  # a number, which a user has set since
                found += ((name, entry) for entry in history if entry.reason != "start")
            else:
                later = takewhile(partial(is_not, before), reversed(history))
                found += ((name, entry) for entry in reversed(list(later)))
            seen[name] = history[-1]
        self._begun = True
        return sorted(found, key=lambda change: change[1].time)


def as_pool(llm: Any) -> Pool | None:
    """
    Return a backend as a pool; None if it is not one.

    Its class decides: a backend that wraps a pool, and passes on its attributes, makes the pool's calls by itself.
    """
    pool: Pool | None = llm if hasattr(type(llm), "endpoint_limiter") else None
    return pool
