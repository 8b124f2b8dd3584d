"""Limits of all actors together: each number becomes a limit that a broker of the cluster shares among them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..._config.limits import Limits
from ..._limits.concurrency import ConcurrencyLimiter
from ...errors import ConfigurationError
from ...sharing import Broker, SharedLimiter

_SHARED = ("search", "llm", "batches", "llm_total", "tokens_in_flight")
_RATES = ("requests_per_minute", "tokens_per_minute")


def check_shareable(limits: object) -> Limits | None:
    """
    Return limits that actors can share.

    Raises:
        ConfigurationError: They are no `Limits`, or one of them belongs to this process.
    """
    if limits is None:
        return None
    if not isinstance(limits, Limits):
        raise ConfigurationError(f"limits must be Limits, got {limits!r}; for example limits=Limits(llm=8)")
    for name in _SHARED:
        limit = getattr(limits, name)
        if isinstance(limit, ConcurrencyLimiter) and not isinstance(limit, SharedLimiter):
            raise ConfigurationError(
                f"Limits.{name} is a ConcurrencyLimiter, which belongs to this process; give a number, which all "
                f'actors share then, or SharedLimiter("gpu", 8, broker=RayBroker())'
            )
    if _has_rates(limits) and isinstance(limits.llm, SharedLimiter):
        raise ConfigurationError(
            "give the limits per minute to the SharedLimiter for llm; those of Limits would hold in each actor"
        )
    return limits


def shared_limits(limits: Limits, scope: str, broker: Broker) -> Limits:
    """
    Return limits in which numbers are shared by all who name the scope at a broker.

    Args:
        limits: The limits. A `SharedLimiter` among them stays as it is.
        scope: What the limits are for.
        broker: Where they are kept.
    """
    changed: dict[str, Any] = dict.fromkeys(_RATES)
    for name in _SHARED:
        limit = getattr(limits, name)
        if limit is None or isinstance(limit, ConcurrencyLimiter):
            continue
        number = int(limit) if isinstance(limit, int) else limit  # the defaults are of a class of their own
        rates = {rate: getattr(limits, rate) for rate in _RATES} if name == "llm" else {}
        # Members of one limit declare the same: with another number it is another limit.
        told = "adaptive" if number is limit and not isinstance(number, int) else number
        changed[name] = SharedLimiter(f"{scope}: {name}={told}"[:200], number, broker=broker, **rates)
    return replace(limits, **changed)


def _has_rates(limits: Limits) -> bool:
    return any(getattr(limits, rate) is not None for rate in _RATES)
