"""Limits of all actors together: each number becomes a limit that a broker of the cluster shares among them."""

from __future__ import annotations

from ..._config.limits import Limits
from ..._limits.concurrency import ConcurrencyLimiter
from ...errors import ConfigurationError
from ...sharing import Broker, SharedLimiter
from ...sharing._limits import share_limits

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
    return share_limits(limits, broker, search=True, scope=scope)


def _has_rates(limits: Limits) -> bool:
    return any(getattr(limits, rate) is not None for rate in _RATES)
