"""
Admission: at most so many calls at once, the most urgent first.

`Admission` is the state machine: told what happened, it says who is let in; it knows no thread, loop or
clock. `Gate` puts one lock around it, so that one limit holds across threads, event loops and runners.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from time import monotonic

from .adaptive import AdaptiveLimit, Controller, LimitChange, Outcome
from .errors import ConfigurationError

# Plain integers: members of an Enum take longer to look up than the rest of an admission takes.
_NEW, _WAITING, _ADMITTED, _GONE = range(4)


class Ticket:
    """
    One call's claim to a slot.

    Args:
        wake: Called once when the ticket is admitted after having waited, from whichever thread freed the
            slot; it must not block. It returns False when nobody is left to use the slot, which is then
            handed on.
        priority: Lower goes first.
        arrival: Among equal priorities, lower goes first: when the item that calls entered the window.
        weight: Slots it takes.

    Attributes:
        depth: Slots taken when it was admitted, its own included.
        epoch: How often an adaptive limit had been cut by then.
    """

    __slots__ = ("arrival", "depth", "epoch", "priority", "state", "wake", "weight")

    def __init__(
        self,
        wake: Callable[[], object],
        priority: int = 0,
        arrival: float = 0,
        weight: int = 1,
    ) -> None:
        self.wake = wake
        self.priority = priority
        self.arrival = arrival
        self.weight = weight
        self.depth = 0
        self.epoch = 0
        self.state = _NEW


class Admission:
    """
    The state machine of a gate; its methods return the tickets that are admitted now.

    Args:
        limit: The most slots taken at once, or how it is found.
        now: The time, on the clock of every later `now`.

    Tickets are admitted by (priority, arrival of the item, order of asking). The first in the queue is
    never overtaken, not even by a lighter one. A ticket heavier than the whole limit is admitted alone.
    """

    __slots__ = ("_asked", "_queue", "control", "in_flight", "limit", "peak", "waiting")

    def __init__(self, limit: int | AdaptiveLimit, now: float = 0.0) -> None:
        self.control = None if isinstance(limit, int) else Controller(limit, now)
        self.limit = limit if isinstance(limit, int) else limit.start
        self.in_flight = 0
        self.peak = 0
        self.waiting = 0
        self._asked = 0
        self._queue: list[tuple[int, float, int, Ticket]] = []

    def ask(self, ticket: Ticket) -> bool:
        """Queue a new ticket and return whether it is admitted at once; no other can be by its coming."""
        if not self.waiting and self._fits(ticket):
            self._enter(ticket)
            return True
        ticket.state = _WAITING
        self.waiting += 1
        self._asked += 1
        heappush(self._queue, (ticket.priority, ticket.arrival, self._asked, ticket))
        return bool(self._admit())

    def done(self, ticket: Ticket, outcome: Outcome = "other", now: float = 0.0) -> list[Ticket]:
        """Take back an admitted ticket's slots; anything but an admitted ticket is left alone."""
        if ticket.state is not _ADMITTED:
            return []
        ticket.state = _GONE
        self.in_flight -= ticket.weight
        if self.control is not None:
            self.control.told(outcome, ticket.depth, ticket.epoch, now)
            self.limit = self.control.limit
        return self._admit()

    def withdraw(self, ticket: Ticket) -> list[Ticket]:
        """Forget a ticket, whether it waits or was just admitted."""
        if ticket.state is _WAITING:
            ticket.state = _GONE  # stays in the heap until it surfaces, or most of the heap is such
            self.waiting -= 1
            if len(self._queue) > 2 * self.waiting + 64:
                self._queue = [entry for entry in self._queue if entry[3].state == _WAITING]
                heapify(self._queue)
            return self._admit()
        return self.done(ticket)

    def resize(self, limit: int, now: float = 0.0) -> list[Ticket]:
        """Change the limit; calls in flight above a smaller one are left to end."""
        if self.control is not None:
            self.control.set(limit, now)
            limit = self.control.limit
        self.limit = limit
        return self._admit()

    def _fits(self, ticket: Ticket) -> bool:
        return not self.in_flight or self.in_flight + ticket.weight <= self.limit

    def _enter(self, ticket: Ticket) -> None:
        ticket.state = _ADMITTED
        ticket.depth = self.in_flight = self.in_flight + ticket.weight
        if self.control is not None:
            ticket.epoch = self.control.epoch
        if self.in_flight > self.peak:
            self.peak = self.in_flight

    def _admit(self) -> list[Ticket]:
        admitted: list[Ticket] = []
        queue = self._queue
        while queue:
            ticket = queue[0][3]
            if ticket.state is _WAITING:
                if not self._fits(ticket):
                    break
                self.waiting -= 1
                self._enter(ticket)
                admitted.append(ticket)
            heappop(queue)
        return admitted


@dataclass(frozen=True, slots=True)
class GateStatistics:
    """A gate at one moment: its limit, calls in flight, calls waiting, and the most ever in flight."""

    limit: int
    in_flight: int
    waiting: int
    peak: int


class Gate:
    """
    A limit on calls in flight that threads, event loops and runners can share.

    Pass one to several runners' `Limits` to make them share a limit, for example two runners on one GPU:

        gpu = Gate(8)
        BatchRunner(llm=llm, limits=Limits(llm=gpu))

    Args:
        limit: The most calls in flight, at least 1; or an `AdaptiveLimit`, which finds it.
    """

    def __init__(self, limit: int | AdaptiveLimit) -> None:
        if not isinstance(limit, AdaptiveLimit):
            _checked(limit)
        self._given = limit
        # By process: after a fork the parent's calls are in flight in the parent only, its lock may be held.
        self._states = {os.getpid(): (threading.Lock(), Admission(limit, monotonic()))}

    @property
    def limit(self) -> int:
        """
        The most calls in flight. May be set at any time; a smaller one waits for calls to end.

        An adaptive limit goes on from what was set, within its bounds.
        """
        return self._here()[1].limit

    @limit.setter
    def limit(self, limit: int) -> None:
        _checked(limit)
        lock, state = self._here()
        with lock:
            admitted = state.resize(limit, monotonic())
        self._wake(admitted)

    @property
    def waiting(self) -> int:
        """How many calls wait for it."""
        return self._here()[1].waiting

    @property
    def history(self) -> tuple[LimitChange, ...]:
        """What an adaptive limit has been, and since when; empty for one that is a number."""
        lock, state = self._here()
        with lock:
            return () if state.control is None else tuple(state.control.history)

    def statistics(self) -> GateStatistics:
        """Return how full the gate is now."""
        lock, state = self._here()
        with lock:
            return GateStatistics(state.limit, state.in_flight, state.waiting, state.peak)

    def ask(self, ticket: Ticket) -> bool:
        """Queue a new ticket and return whether it is admitted at once; if not, it is woken later."""
        lock, state = self._here()
        with lock:
            return state.ask(ticket)

    def done(self, ticket: Ticket, outcome: Outcome = "other") -> None:
        """Free an admitted ticket's slots, and say what became of its call. Doing it twice does nothing."""
        lock, state = self._here()
        now = 0.0 if state.control is None else monotonic()
        with lock:
            admitted = state.done(ticket, outcome, now)
        if admitted:
            self._wake(admitted)

    def withdraw(self, ticket: Ticket) -> None:
        """Give up a ticket, whether it waits or was just admitted."""
        lock, state = self._here()
        with lock:
            admitted = state.withdraw(ticket)
        self._wake(admitted)

    def _here(self) -> tuple[threading.Lock, Admission]:
        pid = os.getpid()
        state = self._states.get(pid)
        if state is None:
            (_, parents), *_ = self._states.values()
            # A limit that was set by hand goes along; an adaptive one begins anew, with what this process sees.
            limit = parents.limit if isinstance(self._given, int) else self._given
            state = self._states.setdefault(pid, (threading.Lock(), Admission(limit, monotonic())))
        return state

    def _wake(self, admitted: list[Ticket]) -> None:
        lock, state = self._here()
        while admitted:
            ticket = admitted.pop(0)
            if ticket.wake() is False:
                with lock:
                    admitted += state.done(ticket)

    def __repr__(self) -> str:
        state = self.statistics()
        return f"<Gate {state.in_flight}/{state.limit} in flight, {state.waiting} waiting>"


def _checked(limit: object) -> int:
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        raise ConfigurationError(
            f"a Gate needs a limit of at least 1, got {limit!r}; write for example Gate(8)"
        )
    return limit
