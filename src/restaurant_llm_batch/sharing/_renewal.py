"""Renewal: what sends a member's messages when they are due, in a thread, or on virtual time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol, TypeAlias

from .._threads import SignalSafeThread

LINGER_SECONDS = 5.0
"""Seconds for which the thread waits for more to do, before it ends."""

Exchange: TypeAlias = Callable[[], float | None]
"""Sends a message if one is due, and returns the seconds until the next one; None for no next one."""


class Renewal(Protocol):
    """Calls an `Exchange` when a message is due."""

    def nudge(self) -> None:
        """Call it soon. Does not block; to be called under the limiter's lock."""
        ...

    def join(self) -> None:
        """Wait until an exchange that goes on has ended."""
        ...


class RenewalThread:
    """
    A daemon thread that exchanges messages; it starts when it is nudged, and ends when there is nothing more to do.

    Args:
        exchange: Sends messages.
        lock: The limiter's lock.
    """

    def __init__(self, exchange: Exchange, lock: threading.RLock) -> None:
        self._exchange = exchange
        self._lock = lock
        self._thread: SignalSafeThread | None = None
        self._nudged = threading.Lock()  # as a binary semaphore: free if there is something new
        self._nudged.acquire()

    def nudge(self) -> None:
        """Wake the thread, or start one."""
        if self._nudged.locked():
            with suppress(RuntimeError):  # another thread has done so since
                self._nudged.release()
        thread = self._thread
        if thread is None or not thread.is_alive():
            thread = self._thread = SignalSafeThread(self._run, "restaurant-llm-batch-share")
            thread.start()

    def join(self) -> None:
        """Do nothing: an exchange that goes on takes a second at most, and what it answers is not used."""

    def _run(self) -> None:
        while True:
            seconds = self._exchange()
            if self._nudged.acquire(timeout=LINGER_SECONDS if seconds is None else max(0.0, seconds)):
                continue
            if seconds is None:
                with self._lock:  # a nudge either comes before, or starts another thread
                    if self._nudged.locked():
                        self._thread = None
                        return


class Timers(Protocol):
    """Virtual time: a clock, and what is to be done later."""

    def now(self) -> float:
        """Return the time in seconds."""
        ...

    def call_later(self, seconds: float, action: Callable[[], object], /) -> object:
        """Plan an action for `seconds` from now."""
        ...


class VirtualRenewal:
    """
    Exchanges messages on virtual time.

    Args:
        exchange: Sends messages.
        time: The virtual time.
    """

    def __init__(self, exchange: Exchange, time: Timers) -> None:
        self._exchange = exchange
        self._time = time
        self._planned = 0

    def nudge(self) -> None:
        """Exchange in an action of this moment."""
        self._plan(0.0)

    def join(self) -> None:
        """Do nothing: there is one thread."""

    def _plan(self, seconds: float) -> None:
        self._planned += 1
        number = self._planned

        def run() -> None:
            if number == self._planned:  # no other moment was planned since
                following = self._exchange()
                if following is not None and number == self._planned:
                    self._plan(following)

        self._time.call_later(seconds, run)
