"""What will be too late at some time: a queue by time that wakes the conductor once for the next of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush
from itertools import count
from math import inf
from time import monotonic
from typing import TypeAlias

from .._limits.rate import RateLimiter
from .call import Call
from .mailbox import Mailbox
from .memo import WaitForCallback

Expirable: TypeAlias = Call | WaitForCallback

_MOST_SPENT = 1000
"""Calls that may have come back and still be in the queue; they keep their answers alive."""


class DeadlineQueue:
    """
    The queue.

    Args:
        call_later: Calls something after so many seconds.
        on_expired: What it calls when the time of one is up; `pop_expired` then yields it.
    """

    def __init__(
        self, call_later: Callable[[float, Callable[[], object]], object], on_expired: Callable[[], object]
    ) -> None:
        self._call_later = call_later
        self._on_expired = on_expired
        self._queue: list[tuple[float, int, Expirable]] = []
        self._numbers = count()
        self._next = inf
        self._prune_at = _MOST_SPENT

    def add(self, at: float, call: Expirable) -> None:
        """Have a call, or a wait, looked at when its time is up."""
        heappush(self._queue, (at, next(self._numbers), call))
        if len(self._queue) > self._prune_at:
            self._queue = [entry for entry in self._queue if not entry[2].done]
            heapify(self._queue)
            self._prune_at = 2 * len(self._queue) + _MOST_SPENT
        self._wake(at)

    def pop_expired(self) -> Iterator[Expirable]:
        """Yield those whose time is up, and be woken again for the others."""
        self._next = inf
        now = monotonic()
        while self._queue and self._queue[0][0] <= now:
            yield heappop(self._queue)[2]
        if self._queue:
            self._wake(self._queue[0][0])

    def _wake(self, at: float) -> None:
        if at < self._next:
            self._next = at
            self._call_later(max(0.0, at - monotonic()), self._on_expired)


class RateLimitTimer:
    """
    Looks at the gate when it is time, for one run.

    Args:
        limiter: The gate.
        mailbox: Where the run lives.
        call_later: Calls something at home after so many seconds.
    """

    def __init__(
        self,
        limiter: RateLimiter,
        mailbox: Mailbox,
        call_later: Callable[[float, Callable[[], object]], object],
    ) -> None:
        self._limiter = limiter
        self._mailbox = mailbox
        self._call_later = call_later
        self._unwatch: Callable[[], None] | None = None
        self._next = inf

    def start(self) -> None:
        """Look from now on."""
        self._unwatch = self._limiter.watch(lambda: self._mailbox.post_deferred(self._arm))
        self._arm()

    def stop(self) -> None:
        """Look no more."""
        unwatch, self._unwatch = self._unwatch, None
        if unwatch is not None:
            unwatch()

    def _arm(self) -> None:
        """Have a look when the first who waits is due."""
        seconds = self._limiter.seconds_until_ready() if self._unwatch is not None else None
        if seconds is None:
            return
        at = monotonic() + seconds
        if at < self._next:
            self._next = at
            self._call_later(seconds, self._admit_ready)

    def _admit_ready(self) -> None:
        self._next = inf
        if self._unwatch is not None:
            self._limiter.admit_ready()
            self._arm()
