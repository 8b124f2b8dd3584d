"""Limits of a runner, shared with other processes: each number becomes a `SharedLimiter` at one broker."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from .._config.limits import DefaultLimit, Limits
from .._limits.concurrency import ConcurrencyLimiter
from ._broker import Broker
from .limiter import SharedLimiter

log = logging.getLogger("restaurant_llm_batch")

_CALLS = ("llm", "batches", "llm_total")
_RATES = ("requests_per_minute", "tokens_per_minute")
_MAX_NAME = 200


def share_limits(
    limits: Limits,
    broker: Broker,
    *,
    model: bool = True,
    search: bool,
    pool: bool = False,
    scope: str | None = None,
) -> Limits:
    """
    Return limits of which each holds for all processes that call this with an equal broker.

    Args:
        limits: The limits of one process. Limiters that the user has made are left as they are.
        broker: Where the limits are kept, each under its name in `Limits`.
        model: Whether calls of the model go to a service; if not, there are limits for them if they have rates.
        search: Whether that is so for searches: not if each process has an engine of its own.
        pool: Whether the LLM backend has several endpoints, with limits of their own in place of those that the user
            has not set.
        scope: What the limits are for, if others use the broker too: their names begin with it, and end with the
            number, since members of one limit declare the same.
    """
    shared: dict[str, Any] = {}
    rates = {name: getattr(limits, name) for name in _RATES if getattr(limits, name) is not None}
    calls = (*_CALLS, "tokens_in_flight") if model or rates else ()
    for name in (*calls, *(("search",) if search else ())):
        limit = getattr(limits, name)
        if limit is None or isinstance(limit, ConcurrencyLimiter):
            continue
        if pool and isinstance(limit, DefaultLimit):
            continue
        carried = rates if name in _CALLS else {}
        rates = {} if carried else rates
        number = int(limit) if isinstance(limit, int) else limit  # a DefaultLimit says that nobody has set it
        told = number if isinstance(number, int) else "adaptive"
        shared_name = name if scope is None else f"{scope}: {name}={told}"[:_MAX_NAME]
        shared[name] = SharedLimiter(shared_name, number, broker=broker, **carried)
    if rates:
        log.warning(
            "%s in each process: no limit on calls in flight is shared that could carry it",
            " and ".join(f"{name}={number} holds" for name, number in rates.items()),
        )
        return replace(limits, **shared)
    shared |= dict.fromkeys(_RATES)
    return replace(limits, **shared)
