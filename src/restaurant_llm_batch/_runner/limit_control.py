"""Changes of a runner's limits while its runs go on: `BatchRunner.set_limit`, and wishes in a record."""

from __future__ import annotations

from abc import ABC
from dataclasses import fields

from .._config.limits import Limits
from .._config.strategy import Strategy
from .._limits.batch_budget import BatchBudget
from .._limits.concurrency import ConcurrencyLimiter
from .._limits.limiters import Limit, LimiterSet, LimiterStanding
from .._values import short
from ..errors import ConfigurationError

MOST = 10**12
"""Largest limit that can be set."""
_OPTIONAL = ("llm_total", "tokens_in_flight")


class LimitControl:
    """
    Sets the limits of a runner, in any thread.

    Args:
        limiters: Its limiters.
        strategy: Its strategy.
    """

    def __init__(self, limiters: LimiterSet, strategy: Strategy) -> None:
        self._limiters = limiters
        self._strategy = strategy

    def standings(self) -> list[LimiterStanding]:
        """Return how the limiters stand now."""
        return self._limiters.standings()

    def set(self, name: object, limit: object) -> str:
        """
        Set a limit, and return a sentence that says so; see `BatchRunner.set_limit`.

        Raises:
            ConfigurationError: There is no such limit, it cannot be set here, or `limit` is not a whole number of at
                least 1.
        """
        found = self._find(name)
        if not isinstance(limit, int) or isinstance(limit, bool) or not 1 <= limit <= MOST:
            huge = isinstance(limit, int) and abs(limit) > MOST  # Python prints no number of 4,300 digits
            got = "one beyond that" if huge else short(limit)
            raise ConfigurationError(
                f"{name} must be a whole number from 1 to {MOST:,}, got {got}; for example 16"
            )
        if isinstance(found, ConcurrencyLimiter) and not self._strategy.is_concurrent:
            raise ConfigurationError(
                f"{name} cannot be {limit:,}: stage 1 makes one call at a time, whatever its limits; "
                "run with stage 4 to make calls at the same time"
            )
        before = found.limit
        found.limit = limit
        adapts = isinstance(found, BatchBudget) or (
            isinstance(found, ConcurrencyLimiter) and found.is_adaptive
        )
        below = ", and adapts below it" if adapts else ""
        if before == limit:
            return f"{name} is {limit:,}, as it was{below}"
        was = "was not configured" if before is None else f"was {before:,}"
        return f"{name} is {limit:,} now{below}; it {was}"

    def _find(self, name: object) -> Limit:
        limits = self._limiters.limits()
        if isinstance(name, str) and name in limits:
            return limits[name]
        if name in _OPTIONAL:
            raise ConfigurationError(
                f"{name} is not limited in this runner, so it cannot be changed; "
                f"create the runner with a number, for example Limits({name}=100)"
            )
        known = ", ".join(limits)
        if isinstance(name, str) and name in {field.name for field in fields(Limits)}:
            raise ConfigurationError(
                f"{name} cannot be changed while a runner is in use; what can be changed: {known}"
            )
        from difflib import get_close_matches  # only this message needs it

        close = get_close_matches(name, limits, 1) if isinstance(name, str) else []
        meant = f" (did you mean {close[0]}?)" if close else ""
        raise ConfigurationError(f"there is no limit {short(name)}{meant}; what can be changed: {known}")


class Adjustable(ABC):
    """The method of `BatchRunner` that changes a limit."""

    _limit_control: LimitControl

    def set_limit(self, name: str, limit: int) -> None:
        """
        Change a limit of the runner, also while its runs go on. May be called in any thread, and does not block.

        A higher limit lets waiting calls start at once. A lower one cancels no call: none is admitted until fewer are
        in flight. An `AdaptiveLimit` goes on from the number, and adapts below it from then on: it is its new `max`.
        All runs of the runner emit `LimitChanged` with the reason "manual", and it is in their `limit_history`. If the
        limit is a `ConcurrencyLimiter` that other runners share, it changes for them too.

        `limits` keeps the numbers that the runner was created with.

        Args:
            name: Field of `Limits`: "search", "llm", "batches", "requests_per_minute" or "tokens_per_minute"; or
                "llm_total" or "tokens_in_flight", if the runner was created with one; "max_tokens_per_batch", if it
                adapts.
            limit: The new limit: calls in flight, tokens in flight, calls or tokens per minute, or tokens of a batch.

        Raises:
            ConfigurationError: There is no such limit, `limit` is not a whole number of at least 1, or the runner makes
                one call at a time (stage 1), so that a limit on calls in flight has no effect.
        """
        self._limit_control.set(name, limit)
