"""
Concurrency limiter: a semaphore with priorities and weights; the most urgent waiter is admitted first.

`ConcurrencyState` is the state machine, a `PriorityWaitQueue`: each method returns the tickets it admits. It uses no
thread, no loop and no clock. `ConcurrencyLimiter` puts one lock around it, so that one limit holds across threads,
event loops and runners.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Generic, Protocol, TypeVar

from .. import _fork
from ..errors import ConfigurationError
from .aimd import HISTORY_LIMIT, AdaptiveLimit, AIMDController, CallResult, LimitHistoryEntry
from .clients import Client, Lanes
from .server_signal import ServerWord
from .wait_queue import _ADMITTED, _GONE, _WAITING, PriorityWaitQueue, Ticket

UNKNOWN_LIMIT = 1 << 40
"""The limit of a limiter whose limit the server has not said yet."""


class ConcurrencyState(PriorityWaitQueue):
    """
    The state machine of a concurrency limiter.

    A ticket heavier than the whole limit is admitted alone.

    Args:
        limit: Most slots taken at once; a number, or an adaptive limit.
        now: The time, in seconds, on the clock of every later `now`.

    Attributes:
        history: The changes of the limit; empty while it is the number that it was made with.
        latest: The latest time of a release, if the limit is adaptive.
    """

    __slots__ = ("controller", "history", "in_flight", "latest", "limit", "peak")

    def __init__(self, limit: int | AdaptiveLimit, now: float = 0.0) -> None:
        super().__init__()
        self.controller = None if isinstance(limit, int) else _controller(limit, now)
        # A plain one: subclasses of int take longer to compare.
        self.limit = int(limit) if isinstance(limit, int) else limit.start
        self.history: deque[LimitHistoryEntry] = (
            deque(maxlen=HISTORY_LIMIT) if self.controller is None else self.controller.history
        )
        self.in_flight = 0
        self.peak = 0
        self.latest = now

    def resize(self, limit: int, now: float = 0.0) -> list[Ticket]:
        """Change the limit. If fewer calls may be in flight than are, the surplus ones are allowed to finish."""
        if self.controller is not None:
            self.controller.set(limit, max(self.latest, now))
        elif limit != self.limit:
            record_set(self.history, self.limit, limit, now)
        self.limit = limit
        return self._admit()

    def follow_server(self, word: ServerWord, now: float) -> list[Ticket]:
        """Adapt an adaptive limit to what the server says of its load."""
        if self.controller is None:
            return []
        self.controller.follow_server(word, self.in_flight, max(self.latest, now))
        self.limit = self.controller.limit
        return self._admit()

    def set_by_server(self, limit: int, now: float) -> list[Ticket]:
        """Change a limit that is a number to what the server says."""
        if limit != self.limit:
            self.history.append(LimitHistoryEntry(now, limit, "server"))
            self.limit = limit
        return self._admit()

    def _fits(self, ticket: Ticket) -> bool:
        return not self.in_flight or self.in_flight + ticket.weight <= self.limit

    def _slots(self) -> int:
        return self.limit

    def _count(self, ticket: Ticket, lanes: Lanes) -> None:
        super()._count(ticket, lanes)
        if ticket.lane is not None:
            ticket.lane.enter(ticket)

    def _enter(self, ticket: Ticket) -> None:
        in_flight = self.in_flight + ticket.weight
        waiting = self.waiting - 1 if ticket.state is _WAITING else self.waiting
        # First: after an interrupt, a ticket that is admitted is released, which reads them.
        ticket.in_flight_at_admission = in_flight
        if self.controller is not None:
            ticket.epoch = self.controller.epoch
        ticket.state, self.in_flight, self.waiting = _ADMITTED, in_flight, waiting
        if self.lanes is not None:
            self._count(ticket, self.lanes)
        if in_flight > self.peak:
            self.peak = in_flight

    def _left(self, ticket: Ticket, outcome: CallResult, now: float) -> None:
        ticket.state, self.in_flight = _GONE, self.in_flight - ticket.weight
        if self.controller is not None:
            self.latest = max(self.latest, now)
            self.controller.record(outcome, ticket.in_flight_at_admission, ticket.epoch, now, ticket.timing)
            self.limit = self.controller.limit


def record_set(history: deque[LimitHistoryEntry], before: int | None, limit: int, now: float) -> None:
    """Record that a user has set a limit that is not adaptive; the first entry says what it was before, if it was."""
    if not history and before is not None:
        history.append(LimitHistoryEntry(-inf, before, "start"))
    history.append(LimitHistoryEntry(now, limit, "manual"))


@dataclass(frozen=True, slots=True)
class LimiterStatistics:
    """
    A concurrency limiter at one moment.

    Attributes:
        limit: Most calls in flight.
        in_flight: Calls in flight.
        waiting: Calls that wait.
        peak: The highest number of calls in flight so far.
    """

    limit: int
    in_flight: int
    waiting: int
    peak: int


class HasWaiters(Protocol):
    """The state of something that calls wait for."""

    waiting: int
    set_watchers: list[Callable[[], object]]


State = TypeVar("State", bound=HasWaiters)


class LockedState(ABC, Generic[State]):
    """
    A state and its lock, so that threads, event loops and runners can share it; a forked child gets its own.

    Attributes:
        clock: The clock of the latest run that uses it, by which a limit set by the user is dated; None before.
    """

    def __init__(self) -> None:
        self.clock: Callable[[], float] | None = None
        # By process: the parent's calls are not in flight in a forked child, where the parent's lock may be held for
        # ever.
        self._states = {_fork.count: (threading.RLock(), self._initial_state(None))}

    @abstractmethod
    def _initial_state(self, parents: State | None) -> State:
        """Return a new state; in a forked child, `parents` is the state that it inherited."""

    @property
    def waiting(self) -> int:
        """Number of calls that wait."""
        return self._state_for_process()[1].waiting

    def watch_set(self, watcher: Callable[[], object]) -> Callable[[], None]:
        """Call `watcher`, in any thread, when a user has set the limit; return a function that ends this."""
        watchers = self._state_for_process()[1].set_watchers
        watchers.append(watcher)

        def unwatch() -> None:
            if watcher in watchers:
                watchers.remove(watcher)

        return unwatch

    def _notify_set(self) -> None:
        for watcher in tuple(self._state_for_process()[1].set_watchers):
            watcher()

    def _state_for_process(self) -> tuple[threading.RLock, State]:
        state = self._states.get(_fork.count)
        if state is None:
            (_, parents), *_ = self._states.values()
            state = self._states.setdefault(_fork.count, (threading.RLock(), self._initial_state(parents)))
        return state


class ConcurrencyLimiter(LockedState[ConcurrencyState]):
    """
    A limit on calls in flight that threads, event loops and runners can share.

    Pass one to several runners' `Limits` to make them share a limit, for example two runners on one GPU:

        gpu = ConcurrencyLimiter(8)
        BatchRunner(llm=llm, limits=Limits(llm=gpu))

    Args:
        limit: Most calls in flight, at least 1; or an `AdaptiveLimit`, which learns the number.

    Attributes:
        rate: The `RateLimiter` that is shared with it; None if each runner has its own.

    Raises:
        ConfigurationError: If the limit is not a whole number of at least 1.
    """

    rate: object | None = None

    def __init__(self, limit: int | AdaptiveLimit) -> None:
        if not isinstance(limit, AdaptiveLimit):
            _checked(limit)
        self._configured = limit
        super().__init__()

    def _initial_state(self, parents: ConcurrencyState | None) -> ConcurrencyState:
        # A forked child inherits a limit set by the user; an adaptive limit starts afresh in each process.
        set_by_user = parents is not None and isinstance(self._configured, int)
        return ConcurrencyState(parents.limit if parents is not None and set_by_user else self._configured)

    def enqueue(self, ticket: Ticket) -> bool:
        """Queue a new ticket and return whether it is admitted at once; if not, `on_admitted` is called later."""
        lock, state = self._states.get(_fork.count) or self._state_for_process()
        with lock:
            return state.enqueue(ticket)

    def cancel(self, ticket: Ticket) -> None:
        """Remove a ticket that waits, or release one that was just admitted."""
        lock, state = self._state_for_process()
        with lock:
            admitted = state.cancel(ticket)
        notify_admitted(admitted, lock, state)

    def reprioritise(
        self, ticket: Ticket, priority: int, sequence: float, client: Client | None = None
    ) -> None:
        """Move a waiting ticket forward; see `PriorityWaitQueue.reprioritise`."""
        lock, state = self._state_for_process()
        with lock:
            admitted = state.reprioritise(ticket, priority, sequence, client)
        notify_admitted(admitted, lock, state)

    def release(
        self, ticket: Ticket, outcome: CallResult = "other", now: Callable[[], float] | None = None
    ) -> None:
        """
        Free an admitted ticket's slots. Releasing a ticket again does nothing.

        Args:
            ticket: The ticket.
            outcome: The result of its call, for an adaptive limit to learn from.
            now: The clock of the runs that share the limiter; only an adaptive limit reads it.
        """
        lock, state = self._states.get(_fork.count) or self._state_for_process()
        time = 0.0 if now is None or state.controller is None else now()
        with lock:
            admitted = state.release(ticket, outcome, time)
        if admitted:
            notify_admitted(admitted, lock, state)

    @property
    def limit(self) -> int:
        """
        Most calls in flight. May be set at any time, in any thread; a lower limit takes effect as calls finish.

        An adaptive limit continues from the number that is set, which is its `max` from then on, and its `min` too if
        that was larger.

        Raises:
            ConfigurationError: When it is set to anything but a whole number of at least 1.
        """
        return self._state_for_process()[1].limit

    @limit.setter
    def limit(self, limit: int) -> None:
        _checked(limit)
        lock, state = self._state_for_process()
        now = state.latest if self.clock is None else self.clock()
        with lock:
            admitted = state.resize(limit, now)
        notify_admitted(admitted, lock, state)
        self._notify_set()

    def follow_server(self, word: ServerWord, now: float) -> None:
        """Adapt an adaptive limit to what the server says of its load; do nothing if it is a number."""
        lock, state = self._state_for_process()
        with lock:
            admitted = state.follow_server(word, now)
        notify_admitted(admitted, lock, state)

    def set_by_server(self, limit: int, now: float) -> None:
        """Set the limit to what the server says that it bears."""
        lock, state = self._state_for_process()
        with lock:
            admitted = state.set_by_server(limit, now)
        notify_admitted(admitted, lock, state)
        self._notify_set()

    @property
    def is_adaptive(self) -> bool:
        """Whether it learns its limit."""
        return self._state_for_process()[1].controller is not None

    @property
    def follows_latency(self) -> bool:
        """Whether it learns its limit from how long calls take, too."""
        limit = self._configured
        return isinstance(limit, AdaptiveLimit) and limit.latency_factor is not None

    @property
    def has_room(self) -> bool:
        """Whether a ticket would be admitted at once, unless another thread is faster."""
        state = self._state_for_process()[1]
        return not state.waiting and state.in_flight < state.limit

    @property
    def latest_change(self) -> LimitHistoryEntry | None:
        """The latest change of the limit, or of a share; None if it is a number that nobody has changed."""
        history = self._state_for_process()[1].history
        return history[-1] if history else None

    @property
    def limit_history(self) -> tuple[LimitHistoryEntry, ...]:
        """The changes of the limit, oldest first; empty if it is a number that nobody has changed."""
        lock, state = self._state_for_process()
        with lock:
            return tuple(state.history)

    @property
    def configured(self) -> int | AdaptiveLimit:
        """The limit as it was given; a number as it was set last."""
        return self.limit if isinstance(self._configured, int) else self._configured

    def unused(self) -> ConcurrencyLimiter:
        """Return a limiter of its own with the same limit, through which no call has passed."""
        return ConcurrencyLimiter(self.configured)

    def statistics(self) -> LimiterStatistics:
        """Return the limit, and how many calls are in flight and wait now."""
        lock, state = self._state_for_process()
        with lock:
            return LimiterStatistics(state.limit, state.in_flight, state.waiting, state.peak)

    def __repr__(self) -> str:
        state = self.statistics()
        return f"<ConcurrencyLimiter {state.in_flight}/{state.limit} in flight, {state.waiting} waiting>"


def notify_admitted(admitted: list[Ticket], lock: threading.RLock, state: ConcurrencyState) -> None:
    """Notify the callers of tickets that were admitted after a wait; the slot of one who has gone passes on."""
    for ticket in admitted:
        if ticket.on_admitted() is False:
            with lock:
                admitted += state.release(ticket)


def _checked(limit: object) -> int:
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        raise ConfigurationError(
            f"a ConcurrencyLimiter needs a limit of at least 1, got {limit!r}; for example ConcurrencyLimiter(8)"
        )
    return limit


def _controller(limit: AdaptiveLimit, now: float) -> AIMDController:
    from .latency_signal import make_controller  # loads more than a limit that is a number needs

    return make_controller(limit, now)
