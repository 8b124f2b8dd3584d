"""What a runner watches of its model's servers: `BatchRunner(watch_server=...)`."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from .._config.limits import Limits
from .._config.strategy import Strategy
from .._engine.plan import load_method
from .._limits.limiters import LimiterSet
from .._validation import is_number
from ..errors import ConfigurationError

if TYPE_CHECKING:
    from .._engine.server_watch import WatchedServer, WatchPlan
    from .._limits.pool import Pool

log = logging.getLogger("restaurant_llm_batch")


def watched_servers(llm: object, pool: Pool | None, strategy: Strategy) -> list[WatchedServer]:
    """
    Return the servers behind an LLM backend whose load can be read.

    Args:
        llm: The backend.
        pool: The backend, if it has several endpoints.
        strategy: Says whether calls are awaited.
    """
    from .._engine.server_watch import WatchedServer

    backends = {"llm": llm}
    if pool is not None:
        names = pool.endpoint_limiter.names
        backends = {f"llm:{name}": one for name, one in zip(names, pool.endpoint_backends, strict=True)}
    is_awaited = strategy.is_concurrent and not strategy.threads and strategy.llm_async
    methods = {name: load_method(one, is_awaited=is_awaited) for name, one in backends.items()}
    return [WatchedServer(name, method) for name, method in methods.items() if method is not None]


def check_watch(seconds: object) -> None:
    """
    Check the seconds between two readings.

    Raises:
        ConfigurationError: They are no number above 0.
    """
    if seconds is not None and not (is_number(seconds) and seconds > 0):
        raise ConfigurationError(
            f"watch_server must be a number of seconds above 0, or None, got {seconds!r}; "
            "for example watch_server=2.0"
        )


def make_watch(
    seconds: float | None,
    llm: object,
    pool: Pool | None,
    strategy: Strategy,
    limits: Limits,
    limiters: LimiterSet,
) -> WatchPlan | None:
    """Return what is watched, every so many seconds; None for nothing. Log if no server says how it does."""
    if seconds is None:
        return None
    from .._engine.server_watch import WatchPlan
    from .._engine.token_budget import TokenBudget

    servers = watched_servers(llm, pool, strategy)
    if not servers:
        log.warning(
            "watch_server=%g reads nothing: %s has neither metrics() nor health()",
            seconds,
            type(llm).__name__,
        )
    learned = limits.tokens_in_flight is None and limiters.tokens is not None
    budget = TokenBudget(limiters.tokens, len(servers)) if learned and limiters.tokens is not None else None
    return WatchPlan(float(seconds), tuple(servers), budget)


def learns_tokens(seconds: float | None, llm: object, pool: Pool | None) -> bool:
    """Return whether the tokens in flight are limited by what the servers say of their KV caches."""
    backends = [llm] if pool is None else pool.endpoint_backends
    return seconds is not None and all(
        callable(getattr(one, "metrics", None)) or callable(getattr(one, "ametrics", None))
        for one in backends
    )
