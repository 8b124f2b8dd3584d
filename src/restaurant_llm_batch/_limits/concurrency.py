"""
Concurrency limiter: a semaphore with priorities and weights; the most urgent waiter is admitted first.

`ConcurrencyState` is the state machine, a `PriorityWaitQueue`: each method returns the tickets it admits. It uses no
thread, no loop and no clock. `ConcurrencyLimiter` puts one lock around it, so that one limit holds across threads,
event loops and runners.
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

from ..errors import ConfigurationError
from .aimd import AdaptiveLimit, AIMDController, CallResult, LimitHistoryEntry

# Plain integers: members of an Enum take longer to look up than the rest of an admission takes.
_NEW, _WAITING, _ADMITTED, _GONE = range(4)


class Ticket:
    """
    One call's claim to a slot.

    Args:
        on_admitted: Called once when the ticket is admitted after having waited, from whichever thread freed the
            slot; it must not block. It returns False when nobody is left to use the slot, which is then
            handed on.
        priority: Lower goes first.
        sequence: Among equal priorities, lower goes first: when the item that calls entered the window.
        weight: Slots it takes.

    Attributes:
        in_flight_at_admission: Slots taken when it was admitted, its own included.
        epoch: How often an adaptive limit had been cut by then.
    """

    __slots__ = ("epoch", "in_flight_at_admission", "on_admitted", "priority", "sequence", "state", "weight")

    def __init__(
        self,
        on_admitted: Callable[[], object],
        priority: int = 0,
        sequence: float = 0,
        weight: int = 1,
    ) -> None:
        self.on_admitted = on_admitted
        self.priority = priority
        self.sequence = sequence
        self.weight = weight
        self.in_flight_at_admission = 0
        self.epoch = 0
        self.state = _NEW


class PriorityWaitQueue(ABC):
    """
    Tickets in line; the base of what says who is let in. Its methods return the tickets that are admitted now.

    Tickets are admitted by (priority, arrival of the item, order of asking). The first in the queue is never
    overtaken, not even by a lighter one.

    Attributes:
        waiting: How many wait.
    """

    __slots__ = ("_enqueued", "_queue", "waiting")

    def __init__(self) -> None:
        self.waiting = 0
        self._enqueued = 0
        self._queue: list[tuple[int, float, int, Ticket]] = []

    def enqueue(self, ticket: Ticket) -> bool:
        """Queue a new ticket and return whether it is admitted at once; no other can be by its coming."""
        if not self.waiting and self._fits(ticket):
            self._enter(ticket)
            return True
        self._wait(ticket)
        return bool(self._admit())

    def _wait(self, ticket: Ticket) -> None:
        ticket.state = _WAITING
        self.waiting += 1
        self._enqueued += 1
        heappush(self._queue, (ticket.priority, ticket.sequence, self._enqueued, ticket))

    def cancel(self, ticket: Ticket) -> list[Ticket]:
        """Forget a ticket, whether it waits or was just admitted."""
        if ticket.state is _WAITING:
            ticket.state = _GONE  # stays in the heap until it surfaces, or most of the heap is such
            self.waiting -= 1
            if len(self._queue) > 2 * self.waiting + 64:
                self._queue = [entry for entry in self._queue if entry[3].state == _WAITING]
                heapify(self._queue)
            return self._admit()
        return self.release(ticket)

    def reprioritise(self, ticket: Ticket, priority: int, arrival: float) -> list[Ticket]:
        """Move a waiting ticket forward, to where one of this priority and arrival would be."""
        if ticket.state is not _WAITING or (priority, arrival) >= (ticket.priority, ticket.sequence):
            return []
        ticket.priority, ticket.sequence = priority, arrival
        self._enqueued += 1
        heappush(self._queue, (priority, arrival, self._enqueued, ticket))  # its old place is passed over
        return self._admit()  # it may be lighter than the one that was first

    def release(self, ticket: Ticket, outcome: CallResult = "other", now: float = 0.0) -> list[Ticket]:
        """Take back what an admitted ticket holds; anything but an admitted ticket is left alone."""
        if ticket.state is not _ADMITTED:
            return []
        ticket.state = _GONE
        self._left(ticket, outcome, now)
        return self._admit()

    def peek(self) -> Ticket | None:
        """Return the first who waits."""
        while self._queue and self._queue[0][3].state is not _WAITING:
            heappop(self._queue)
        return self._queue[0][3] if self._queue else None

    @abstractmethod
    def _fits(self, ticket: Ticket) -> bool:
        """Tell whether a ticket may be admitted now."""

    def _enter(self, ticket: Ticket) -> None:
        """Admit a ticket."""
        ticket.state = _ADMITTED

    @abstractmethod
    def _left(self, ticket: Ticket, outcome: CallResult, now: float) -> None:
        """Take back what a ticket held."""

    def _admit(self) -> list[Ticket]:
        admitted: list[Ticket] = []
        queue = self._queue
        while queue:
            ticket = queue[0][3]
            if ticket.state is _WAITING:  # or it is gone, or was admitted from a better place
                if not self._fits(ticket):
                    break
                self.waiting -= 1
                self._enter(ticket)
                admitted.append(ticket)
            heappop(queue)
        return admitted


class ConcurrencyState(PriorityWaitQueue):
    """
    The state machine of a gate.

    Args:
        limit: The most slots taken at once, or how it is found.
        now: The time, in seconds, on the clock of every later `now`.

    Attributes:
        latest: The latest time of a release; a limit set by hand is dated with it.

    A ticket heavier than the whole limit is admitted alone.
    """

    __slots__ = ("controller", "in_flight", "latest", "limit", "peak")

    def __init__(self, limit: int | AdaptiveLimit, now: float = 0.0) -> None:
        super().__init__()
        self.controller = None if isinstance(limit, int) else AIMDController(limit, now)
        self.limit = limit if isinstance(limit, int) else limit.start
        self.in_flight = 0
        self.peak = 0
        self.latest = now

    def resize(self, limit: int) -> list[Ticket]:
        """Change the limit; calls in flight above a smaller one are left to end."""
        if self.controller is not None:
            self.controller.set(limit, self.latest)
            limit = self.controller.limit
        self.limit = limit
        return self._admit()

    def _fits(self, ticket: Ticket) -> bool:
        return not self.in_flight or self.in_flight + ticket.weight <= self.limit

    def _enter(self, ticket: Ticket) -> None:
        ticket.state = _ADMITTED
        ticket.in_flight_at_admission = self.in_flight = self.in_flight + ticket.weight
        if self.controller is not None:
            ticket.epoch = self.controller.epoch
        if self.in_flight > self.peak:
            self.peak = self.in_flight

    def _left(self, ticket: Ticket, outcome: CallResult, now: float) -> None:
        self.in_flight -= ticket.weight
        self.latest = max(self.latest, now)
        if self.controller is not None:
            self.controller.record(outcome, ticket.in_flight_at_admission, ticket.epoch, now)
            self.limit = self.controller.limit


@dataclass(frozen=True, slots=True)
class LimiterStatistics:
    """A gate at one moment: its limit, calls in flight, calls waiting, and the most ever in flight."""

    limit: int
    in_flight: int
    waiting: int
    peak: int


State = TypeVar("State", bound=PriorityWaitQueue)


class LockedState(ABC, Generic[State]):
    """One lock around a queue, so that it holds across threads, event loops and runners."""

    def __init__(self) -> None:
        # By process: after a fork the parent's calls are in flight in the parent only, its lock may be held.
        self._states = {os.getpid(): (threading.Lock(), self._initial_state(None))}

    @abstractmethod
    def _initial_state(self, parents: State | None) -> State:
        """Return a new state, in a forked child with its parent's to go by."""

    @property
    def waiting(self) -> int:
        """How many calls wait for it."""
        return self._state_for_process()[1].waiting

    def _state_for_process(self) -> tuple[threading.Lock, State]:
        pid = os.getpid()
        state = self._states.get(pid)
        if state is None:
            (_, parents), *_ = self._states.values()
            state = self._states.setdefault(pid, (threading.Lock(), self._initial_state(parents)))
        return state


class ConcurrencyLimiter(LockedState[ConcurrencyState]):
    """
    A limit on calls in flight that threads, event loops and runners can share.

    Pass one to several runners' `Limits` to make them share a limit, for example two runners on one GPU:

        gpu = ConcurrencyLimiter(8)
        BatchRunner(llm=llm, limits=Limits(llm=gpu))

    Args:
        limit: The most calls in flight, at least 1; or an `AdaptiveLimit`, which finds it.
    """

    def __init__(self, limit: int | AdaptiveLimit) -> None:
        if not isinstance(limit, AdaptiveLimit):
            _checked(limit)
        self._configured = limit
        super().__init__()

    def _initial_state(self, parents: ConcurrencyState | None) -> ConcurrencyState:
        # A limit that was set by hand goes along; an adaptive one begins anew, with what this process sees.
        set_by_hand = parents is not None and isinstance(self._configured, int)
        return ConcurrencyState(parents.limit if parents is not None and set_by_hand else self._configured)

    def enqueue(self, ticket: Ticket) -> bool:
        """Queue a new ticket and return whether it is admitted at once; if not, `on_admitted` is called later."""
        lock, state = self._state_for_process()
        with lock:
            return state.enqueue(ticket)

    def cancel(self, ticket: Ticket) -> None:
        """Give up a ticket, whether it waits or was just admitted."""
        lock, state = self._state_for_process()
        with lock:
            admitted = state.cancel(ticket)
        self._notify_admitted(admitted)

    def reprioritise(self, ticket: Ticket, priority: int, sequence: float) -> None:
        """Move a waiting ticket forward, to where one of this priority and sequence would be."""
        lock, state = self._state_for_process()
        with lock:
            admitted = state.reprioritise(ticket, priority, sequence)
        self._notify_admitted(admitted)

    def release(
        self, ticket: Ticket, outcome: CallResult = "other", now: Callable[[], float] | None = None
    ) -> None:
        """
        Free an admitted ticket's slots. Doing it twice does nothing.

        Args:
            ticket: The ticket.
            outcome: The result of its call, for an adaptive limit to learn from.
            now: The clock of the runs that share the limiter; only an adaptive limit reads it.
        """
        lock, state = self._state_for_process()
        time = 0.0 if now is None or state.controller is None else now()
        with lock:
            admitted = state.release(ticket, outcome, time)
        if admitted:
            self._notify_admitted(admitted)

    def _notify_admitted(self, admitted: list[Ticket]) -> None:
        lock, state = self._state_for_process()
        while admitted:
            ticket = admitted.pop(0)
            if ticket.on_admitted() is False:
                with lock:
                    admitted += state.release(ticket)

    @property
    def limit(self) -> int:
        """
        The most calls in flight. May be set at any time; a smaller one waits for calls to end.

        An adaptive limit goes on from what was set, within its bounds.
        """
        return self._state_for_process()[1].limit

    @limit.setter
    def limit(self, limit: int) -> None:
        _checked(limit)
        lock, state = self._state_for_process()
        with lock:
            admitted = state.resize(limit)
        self._notify_admitted(admitted)

    @property
    def limit_history(self) -> tuple[LimitHistoryEntry, ...]:
        """What an adaptive limit has been, and since when; empty for one that is a number."""
        lock, state = self._state_for_process()
        with lock:
            return () if state.controller is None else tuple(state.controller.history)

    def statistics(self) -> LimiterStatistics:
        """Return how full the gate is now."""
        lock, state = self._state_for_process()
        with lock:
            return LimiterStatistics(state.limit, state.in_flight, state.waiting, state.peak)

    def __repr__(self) -> str:
        state = self.statistics()
        return f"<ConcurrencyLimiter {state.in_flight}/{state.limit} in flight, {state.waiting} waiting>"


def _checked(limit: object) -> int:
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        raise ConfigurationError(
            f"a ConcurrencyLimiter needs a limit of at least 1, got {limit!r}; write for example ConcurrencyLimiter(8)"
        )
    return limit
