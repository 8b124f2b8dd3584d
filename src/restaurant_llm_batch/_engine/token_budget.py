"""Token budget: the tokens in flight that the KV caches of a run's servers bear, as they say it."""

from __future__ import annotations

from collections.abc import Sequence

from .._limits.concurrency import ConcurrencyLimiter
from .._limits.server_signal import AFTER_PREEMPTION, FULL_CACHE
from ..protocols import ServerLoad

MOST_BEYOND = 8
"""How many times the KV cache the tokens in flight may be: calls count with their longest reply."""


class TokenBudget:
    """
    Sets a limit on tokens in flight to the size of the KV caches.

    A call counts with its longest reply, but few replies are that long, and prompts share their beginnings. So the
    limit is raised by an eighth whenever calls wait for it while the caches have room, and lowered by a tenth, down to
    their size, when a server has preempted a call.

    Args:
        limiter: The limiter; its limit is `UNKNOWN_LIMIT` at first.
    """

    def __init__(self, limiter: ConcurrencyLimiter) -> None:
        self._limiter = limiter
        self._size = 0
        self._preemptions = 0

    def follow(self, loads: Sequence[ServerLoad | None], now: float) -> None:
        """Adapt the limit to the latest load of each server; None for one that has not been read."""
        known = [load for load in loads if load is not None and load.kv_tokens]
        if len(known) < len(loads):
            return
        size = sum(load.kv_tokens or 0 for load in known)
        preemptions = sum(load.preemptions for load in known)
        limit, before = self._limiter.limit, self._preemptions
        self._preemptions = preemptions
        if size != self._size:
            self._size = size
            self._limiter.set_by_server(size, now)
        elif preemptions > before:
            self._limiter.set_by_server(max(size, int(limit * AFTER_PREEMPTION)), now)
        elif self._limiter.waiting and all(_has_room(load) for load in known):
            self._limiter.set_by_server(min(MOST_BEYOND * size, limit * 9 // 8), now)


def _has_room(load: ServerLoad) -> bool:
    return not load.waiting and load.kv_usage is not None and load.kv_usage < FULL_CACHE - 0.1
