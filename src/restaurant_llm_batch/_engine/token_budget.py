"""
Token budget: the tokens in flight that the KV caches of a run's servers bear, as they say it.

Theory of operation. A call counts with its longest reply, but few replies are that long, prompts share beginnings, and
most replies are only half written. So the limit is the size of the caches at first, and is raised while calls wait for
it and the caches have room, as far as two shares say. Where calls took less than what they counted with when they
ended, more of them fit; where replies are as long as they may be, none do. And what a call takes of a cache grows until
it ends: so the largest share of the tokens in flight that was in the caches at any reading says how many tokens in
flight they have room for. Both fade slowly. The limit is raised once in a *round*: when as many calls have ended as are
in flight. Where the size of the caches' blocks is known, a call counts as whole ones, and one of each cache is left
out, which vLLM keeps for itself.

A preemption lowers the limit by a tenth of what is in flight, down to the size of the caches. Then it is known what is
too much: only after `PATIENCE` rounds without a preemption, and four times as many each time, is that tried again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from math import inf

from .._limits.concurrency import ConcurrencyLimiter
from .._limits.server_signal import AFTER_PREEMPTION, FADING, WANTED_CACHE
from ..models import ServerLoad

MOST_BEYOND = 8
"""How many times the KV cache the tokens in flight may be: calls count with their longest reply."""
GROWTH = 1.5
"""Factor by which a round raises the limit at most."""
PATIENCE, MOST_PATIENCE = 8, 512
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

    Attributes:
        block: Tokens of a block of the caches, the largest of them; 1 if unknown.
    """

    def __init__(self, limiter: ConcurrencyLimiter, servers: int = 1) -> None:
        self.block: int = 1
        self._limiter = limiter
        self._sizes: list[deque[int]] = [deque(maxlen=SIZES) for _ in range(servers)]
        self._size = 0
        self._ceiling = 0  # the limit at which calls were preempted; 0 while unknown
        self._patience = PATIENCE // 2
        self._rounds = 0  # without a preemption
        self._ended = 0  # calls that have ended in this round
        self._fullness = 0.0  # the most that calls took of what they counted with, in the mean of a reading
        self._share = 0.0  # the largest share of the tokens in flight that was in the caches

    def follow(
        self,
        loads: Sequence[ServerLoad | None],
        preempted: int,
        ended: int,
        in_flight: int,
        now: float,
        fullness: float = 0.0,
    ) -> None:
        """
        Adapt the limit to a reading.

        Args:
            loads: The latest load of each server; None for one that has not been read.
            preempted: Preemptions since the reading before.
            ended: Calls that have ended since then.
            in_flight: Calls in flight.
            now: The time, in seconds.
            fullness: Tokens that the calls took which have ended since then, as a share of those that they counted
                with; 0.0 if unknown.
        """
        latest = self._limiter.latest_change
        if latest is not None and latest.reason == "manual":
            return  # a user has set it
        for sizes, load in zip(self._sizes, loads, strict=True):
            if load is not None and load.kv_tokens:
                block = load.kv_block or 0
                self.block = max(self.block, block)
                sizes.append(max(1, load.kv_tokens - block))
        if not all(self._sizes):
            return
        self._ended += ended
        size = sum(min(sizes) for sizes in self._sizes)
        self._learn_share(loads)
        self._fullness = max(FADING * self._fullness, fullness)
        if size != self._size:
            self._size, self._ceiling, self._patience = size, 0, PATIENCE // 2
            self._set(size, now)
        elif preempted:
            self._lower(now)
        elif self._ended >= in_flight:
            self._raise(loads, now)

    @property
    def is_in_force(self) -> bool:
        """Whether tokens in flight are limited to what the caches bear: they say it, and no user has set the limit."""
        latest = self._limiter.latest_change
        return self._size > 0 and (latest is None or latest.reason != "manual")

    def _learn_share(self, loads: Sequence[ServerLoad | None]) -> None:
        """Learn how much of the tokens in flight is in the caches, if there are about as many as may be."""
        in_flight = self._limiter.statistics().in_flight
        if 2 * in_flight >= self._limiter.limit:
            used = sum((load.kv_usage or 0.0) * (load.kv_tokens or 0) for load in loads if load is not None)
            self._share = max(FADING * self._share, used / in_flight)

    def _lower(self, now: float) -> None:
        limit, in_flight = self._limiter.limit, self._limiter.statistics().in_flight
        if self._rounds or not self._ceiling:  # the first reading of an episode
            self._patience = min(4 * self._patience, MOST_PATIENCE)
            self._ceiling = min(limit, self._ceiling or limit)
        self._rounds = self._ended = 0
        lower = max(self._size, int(min(limit, in_flight) * AFTER_PREEMPTION))
        if lower < limit:
            self._set(lower, now)

    def _raise(self, loads: Sequence[ServerLoad | None], now: float) -> None:
        """End a round: raise the limit if calls wait for it, and the caches have room."""
        self._ended = 0
        self._rounds += 1
        has_room = all(load is not None and load.kv_usage is not None and not load.waiting for load in loads)
        if not self._limiter.waiting or not has_room:
            return
        limit = self._limiter.limit
        room = WANTED_CACHE * self._size / self._share if self._share else inf
        if self._fullness:
            room = min(room, self._size / self._fullness)
        raised = int(min(MOST_BEYOND * self._size, GROWTH * limit, room))
        if self._ceiling and raised > BELOW_CEILING * self._ceiling:
            if self._rounds < self._patience:
                raised = int(BELOW_CEILING * self._ceiling)
            else:
                self._ceiling = 0
        if raised > limit:
            self._set(raised, now)

    def _set(self, limit: int, now: float) -> None:
        self._limiter.set_by_server(limit, now)
        self._ended = 0
