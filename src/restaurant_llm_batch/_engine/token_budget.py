"""
Token budget: the tokens in flight that the KV caches of a run's servers bear, as they say it.

Theory of operation. A call counts with its longest reply, but few replies are that long, prompts share beginnings, and
most replies are only half written. So the limit is the size of the caches at first, and is raised while calls wait
for it and the caches have room. What they have room for shows only when the calls that were admitted under one limit
are far apart, some at their beginning and some at their end. So the limit is raised once in a *round*: when as many
calls have ended as are in flight, and the fullest reading since the latest change is what counts.

A preemption lowers the limit by a tenth of what is in flight, down to the size of the caches. Then it is known what is
too much: only after `PATIENCE` rounds without a preemption, and twice as many each time, is that tried again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from .._limits.concurrency import ConcurrencyLimiter
from .._limits.server_signal import AFTER_PREEMPTION, WANTED_CACHE
from ..models import ServerLoad

MOST_BEYOND = 8
"""How many times the KV cache the tokens in flight may be: calls count with their longest reply."""
GROWTH = 1.125
"""Factor by which a round raises the limit at most."""
READINGS = 2
"""Fewest readings of a round."""
PATIENCE, MOST_PATIENCE = 8, 128
"""Rounds after which a limit at which calls were preempted is tried again; and most of them."""
BELOW_CEILING = 0.95
"""Share of such a limit up to which it is raised before."""
SIZES = 8
"""Readings of which the smallest cache counts: there may be several servers behind one address."""


class TokenBudget:
    """
    Sets a limit on tokens in flight to what the KV caches bear.

    Args:
        limiter: The limiter; its limit is `UNKNOWN_LIMIT` at first.
        servers: Number of the servers.
    """

    def __init__(self, limiter: ConcurrencyLimiter, servers: int = 1) -> None:
        self._limiter = limiter
        self._sizes: list[deque[int]] = [deque(maxlen=SIZES) for _ in range(servers)]
        self._size = 0
        self._ceiling = 0  # the limit at which calls were preempted; 0 while unknown
        self._patience = PATIENCE // 2
        self._rounds = 0  # without a preemption
        self._ended = 0  # calls that have ended in this round
        self._readings = 0
        self._fullest = 0.0

    def follow(
        self, loads: Sequence[ServerLoad | None], preempted: int, ended: int, in_flight: int, now: float
    ) -> None:
        """
        Adapt the limit to a reading.

        Args:
            loads: The latest load of each server; None for one that has not been read.
            preempted: Preemptions since the reading before.
            ended: Calls that have ended since then.
            in_flight: Calls in flight.
            now: The time, in seconds.
        """
        latest = self._limiter.latest_change
        if latest is not None and latest.reason == "manual":
            return  # a user has set it
        for sizes, load in zip(self._sizes, loads, strict=True):
            if load is not None and load.kv_tokens:
                sizes.append(load.kv_tokens)
        if not all(self._sizes):
            return
        self._ended += ended
        self._readings += 1
        self._fullest = max(self._fullest, *(1.0 if one is None else _fullness(one) for one in loads))
        size = sum(min(sizes) for sizes in self._sizes)
        if size != self._size:
            self._size, self._ceiling, self._patience = size, 0, PATIENCE // 2
            self._set(size, now)
        elif preempted:
            self._lower(now)
        elif self._readings >= READINGS and self._ended >= in_flight:
            self._raise(now)

    def _lower(self, now: float) -> None:
        limit, statistics = self._limiter.limit, self._limiter.statistics()
        if self._rounds or not self._ceiling:  # the first reading of an episode
            self._patience = min(2 * self._patience, MOST_PATIENCE)
            self._ceiling = limit if not self._ceiling else min(limit, self._ceiling)
        self._rounds = 0
        lower = max(self._size, int(min(limit, statistics.in_flight) * AFTER_PREEMPTION))
        if lower < limit:
            self._set(lower, now)
        self._begin_round()

    def _raise(self, now: float) -> None:
        """End a round: raise the limit if calls wait for it, and the caches have room."""
        fullest, limit = self._fullest, self._limiter.limit
        self._begin_round()
        self._rounds += 1
        if not self._limiter.waiting or fullest >= WANTED_CACHE:
            return
        factor = min(GROWTH, WANTED_CACHE / fullest if fullest else GROWTH)
        raised = min(MOST_BEYOND * self._size, int(limit * factor))
        if self._ceiling and raised > BELOW_CEILING * self._ceiling:
            if self._rounds < self._patience:
                raised = int(BELOW_CEILING * self._ceiling)
            else:
                self._ceiling = 0
        if raised > limit:
            self._set(raised, now)

    def _set(self, limit: int, now: float) -> None:
        self._limiter.set_by_server(limit, now)
        self._begin_round()

    def _begin_round(self) -> None:
        self._ended = self._readings = 0
        self._fullest = 0.0


def _fullness(load: ServerLoad) -> float:
    """Return how full a cache is; 1.0 if it is not known, or calls wait there."""
    return 1.0 if load.waiting or load.kv_usage is None else load.kv_usage
