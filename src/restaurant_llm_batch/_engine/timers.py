"""Timers of a run: a deadline queue for calls and waits, and the next admission of a limiter by time alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush
from itertools import count
from math import inf
from typing import TypeAlias

from .._limits.limiters import TimedLimiter
from .call import Call
from .mailbox import Clock, Mailbox
from .memo import WaitForCallback, WaitForCell

Expirable: TypeAlias = Call | WaitForCallback | WaitForCell

_MAX_FINISHED = 1000
"""Finished calls that the queue may hold before they are removed; they keep their replies alive."""


class DeadlineQueue:
    """
    Calls and waits by deadline, with one timer for the earliest.

    Args:
        now: The run's clock.
        call_later: Calls a function after some seconds.
        on_expired: Called when a deadline has passed; `pop_expired` then yields the overdue calls and waits.
    """

    def __init__(
        self,
        now: Clock,
        call_later: Callable[[float, Callable[[], object]], object],
        on_expired: Callable[[], object],
    ) -> None:
        self._now = now
        self._call_later = call_later
        self._on_expired = on_expired
        self._queue: list[tuple[float, int, Expirable]] = []
        self._numbers = count()
        self._next = inf
        self._prune_at = _MAX_FINISHED

    def add(self, deadline: float, call: Expirable) -> None:
        """Watch a call, or a wait, until its deadline."""
        heappush(self._queue, (deadline, next(self._numbers), call))
        if len(self._queue) > self._prune_at:
            self._queue = [queued for queued in self._queue if not queued[2].done]
            heapify(self._queue)
            self._prune_at = 2 * len(self._queue) + _MAX_FINISHED
        self._set_timer(deadline)

    def pop_expired(self) -> Iterator[Expirable]:
        """Yield overdue calls and waits, and set the timer for the rest."""
        self._next = inf
        now = self._now()
        while self._queue and self._queue[0][0] <= now:
            yield heappop(self._queue)[2]
        if self._queue:
            self._set_timer(self._queue[0][0])

    def _set_timer(self, deadline: float) -> None:
        if deadline < self._next:
            self._next = deadline
            self._call_later(max(0.0, deadline - self._now()), self._on_expired)


class LimiterTimer:
    """
    A run's timer for the next admission of a limiter that admits when time has passed.

    A concurrency limiter admits when a call ends. For the limiters of `LimiterSet.timed`, every run that uses one keeps
    a timer; which run's timer admits a call does not matter.

    Args:
        limiter: The limiter.
        now: The run's clock.
        mailbox: Where the run lives.
        call_later: Calls a function there after some seconds.
    """

    def __init__(
        self,
        limiter: TimedLimiter,
        now: Clock,
        mailbox: Mailbox,
        call_later: Callable[[float, Callable[[], object]], object],
    ) -> None:
        self._limiter = limiter
        self._now = now
        self._mailbox = mailbox
        self._call_later = call_later
        self._unwatch: Callable[[], None] | None = None
        self._next = inf

    def start(self) -> None:
        """Start watching the limiter."""
        self._unwatch = self._limiter.watch(lambda: self._mailbox.post_deferred(self._arm))
        self._arm()

    def stop(self) -> None:
        """Stop the timer."""
        unwatch, self._unwatch = self._unwatch, None
        if unwatch is not None:
            unwatch()

    def _arm(self) -> None:
        """Set the timer for the first queued call."""
        now = self._now()
        seconds = self._limiter.seconds_until_ready(now) if self._unwatch is not None else None
        if seconds is None:
            return
        at = now + seconds
        if at < self._next:
            self._next = at
            self._call_later(seconds, self._admit_ready)

    def _admit_ready(self) -> None:
        self._next = inf
        if self._unwatch is not None:
            self._limiter.admit_ready(self._now())
            self._arm()
