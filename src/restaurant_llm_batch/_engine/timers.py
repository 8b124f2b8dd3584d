"""What will be too late at some time: a queue by time that wakes the conductor once for the next of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush
from itertools import count
from math import inf
from time import monotonic
from typing import TypeAlias

from .._limits.rate import RateGate
from .call import Call
from .mailbox import Home
from .memo import Await

Waiting: TypeAlias = Call | Await

_MOST_SPENT = 1000
"""Calls that may have come back and still be in the queue; they keep their answers alive."""


class Due:
    """
    The queue.

    Args:
        after: Calls something after so many seconds.
        look: What it calls when the time of one is up; `take` then yields it.
    """

    def __init__(
        self, after: Callable[[float, Callable[[], object]], object], look: Callable[[], object]
    ) -> None:
        self._after = after
        self._look = look
        self._queue: list[tuple[float, int, Waiting]] = []
        self._numbers = count()
        self._next = inf
        self._prune_at = _MOST_SPENT

    def watch(self, at: float, call: Waiting) -> None:
        """Have a call, or a wait, looked at when its time is up."""
        heappush(self._queue, (at, next(self._numbers), call))
        if len(self._queue) > self._prune_at:
            self._queue = [entry for entry in self._queue if not entry[2].over]
            heapify(self._queue)
            self._prune_at = 2 * len(self._queue) + _MOST_SPENT
        self._wake(at)

    def take(self) -> Iterator[Waiting]:
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
            self._after(max(0.0, at - monotonic()), self._look)


class Pacing:
    """
    Looks at the gate when it is time, for one run.

    Args:
        gate: The gate.
        home: Where the run lives.
        after: Calls something at home after so many seconds.
    """

    def __init__(
        self, gate: RateGate, home: Home, after: Callable[[float, Callable[[], object]], object]
    ) -> None:
        self._gate = gate
        self._home = home
        self._after = after
        self._unwatch: Callable[[], None] | None = None
        self._next = inf

    def begin(self) -> None:
        """Look from now on."""
        self._unwatch = self._gate.watch(lambda: self._home.post_later(self._arm))
        self._arm()

    def end(self) -> None:
        """Look no more."""
        unwatch, self._unwatch = self._unwatch, None
        if unwatch is not None:
            unwatch()

    def _arm(self) -> None:
        """Have a look when the first who waits is due."""
        seconds = self._gate.due() if self._unwatch is not None else None
        if seconds is None:
            return
        at = monotonic() + seconds
        if at < self._next:
            self._next = at
            self._after(seconds, self._look)

    def _look(self) -> None:
        self._next = inf
        if self._unwatch is not None:
            self._gate.look()
            self._arm()
