"""
The gate for what a service counts by the minute: calls, and their tokens.

Slots become free when a call ends; here it is the time that lets calls in, so somebody has to look when it has
come. Whoever drives a run *watches* the gate: it is told that calls begin to wait, asks when the first is due, and
looks then. What a call takes is never given back by its end; what the service says of it is heard.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from .._llm_response import RateReport
from .aimd import Outcome
from .concurrency import Queue, Shared, Ticket
from .pacing import Pace


class Turns(Queue):
    """
    The state machine: tickets wait for their time, and weigh their tokens.

    Args:
        pace: Says when it has come.
        now: The time.

    Attributes:
        now: The time, to be set before anything else is done.
        watchers: Whoever is to be told that calls begin to wait.
        before: Number of the last call that began before there was anything to hold; 0 for none.
    """

    __slots__ = ("before", "now", "pace", "watchers")

    def __init__(self, pace: Pace, now: float) -> None:
        super().__init__()
        self.pace = pace
        self.now = now
        self.before = 0
        self.watchers: list[Callable[[], object]] = []

    def ask(self, ticket: Ticket) -> bool:
        """Queue a new ticket and return whether it is admitted at once; those who wait are left to `look`."""
        if not self.waiting and self._fits(ticket):
            self._enter(ticket)
            return True
        self._wait(ticket)
        return False

    def due(self) -> float | None:
        """Return when the first who waits may be let in; None when nobody waits."""
        first = self.first()
        return None if first is None else self.pace.ready_at(first.weight, self.now)

    def look(self) -> list[Ticket]:
        """Let in those whose time has come."""
        return self._admit()

    def _left(self, ticket: Ticket, outcome: Outcome, now: float) -> None:
        """Take back nothing: that is for the pace to do."""

    def _fits(self, ticket: Ticket) -> bool:
        return self.pace.ready_at(ticket.weight, self.now) <= self.now

    def _enter(self, ticket: Ticket) -> None:
        super()._enter(ticket)
        ticket.epoch = self.pace.take(ticket.weight, self.now)


class RateGate(Shared[Turns]):
    """
    Limits per minute, given or learned from what the service says.

    Args:
        requests: Calls per minute; None for what the service says.
        tokens: Their tokens per minute; likewise.

    Attributes:
        active: Whether there is anything to hold: numbers were given, or a service said some.
    """

    def __init__(self, requests: int | None, tokens: int | None) -> None:
        self._given = requests, tokens
        self.active = (requests, tokens) != (None, None)
        super().__init__()

    def _begin(self, parents: Turns | None) -> Turns:
        now = monotonic()
        return Turns(Pace(*self._given, now), now)

    @property
    def counts_tokens(self) -> bool:
        """Whether tickets have to weigh their tokens."""
        return self._here()[1].pace.counts_tokens

    def watch(self, watcher: Callable[[], object]) -> Callable[[], None]:
        """Have something called, from any thread, when the first call begins to wait; return what ends that."""
        watchers = self._here()[1].watchers
        watchers.append(watcher)
        return lambda: watchers.remove(watcher)

    def ask(self, ticket: Ticket) -> bool:
        """Queue a new ticket and return whether it is admitted at once; if not, it is woken later."""
        lock, state = self._here()
        with lock:
            state.now = monotonic()
            alone = not state.waiting
            admitted = state.ask(ticket)
        if alone and not admitted:
            self._tell()
        return admitted

    def done(self, ticket: Ticket, outcome: object = "other") -> None:
        """Forget a ticket."""
        self._let_in(lambda state: state.done(ticket))

    def withdraw(self, ticket: Ticket) -> None:
        """Give up a ticket, whether it waits or was just admitted."""
        self._let_in(lambda state: state.withdraw(ticket))

    def lift(self, ticket: Ticket, priority: int, arrival: float) -> None:
        """Move a waiting ticket forward, to where one of this priority and arrival would be."""
        self._let_in(lambda state: state.lift(ticket, priority, arrival))

    def due(self) -> float | None:
        """Return in how many seconds the first who waits may be let in; None when nobody waits."""
        lock, state = self._here()
        with lock:
            now = state.now = monotonic()
            at = state.due()
        return None if at is None else max(0.0, at - now)

    def look(self) -> None:
        """Let in those whose time has come."""
        self._let_in(Turns.look)

    def _let_in(self, change: Callable[[Turns], list[Ticket]]) -> None:
        """Make a change, wake those who are let in by it, and tell of another who may be the first now."""
        lock, state = self._here()
        with lock:
            state.now = monotonic()
            admitted = change(state)
            waiting = state.waiting
        self._wake(admitted)
        if waiting:
            self._tell()

    def _wake(self, admitted: list[Ticket]) -> None:
        for ticket in admitted:
            if ticket.wake() is False:
                self.done(ticket)

    def heard(self, ticket: Ticket | None, used: int | None, report: RateReport | None, out: int) -> None:
        """
        Learn what became of a call, from the first report on.

        Args:
            ticket: Its ticket; None when it began before there was anything to hold.
            used: The tokens it took; None when that is not known.
            report: What the service said is left, or None.
            out: Calls that are out at the service.
        """
        lock, state = self._here()
        with lock:
            now = state.now = monotonic()
            number = 0
            if ticket is not None:
                number = ticket.epoch
                state.pace.ended(ticket.weight, used, now)
            elif not self.active:
                # The first report. What began before it is taken to begin now, this call first.
                number = state.pace.take(0, now)
                state.before = number
                for _ in range(out):
                    state.before = state.pace.take(0, now)
            else:
                number = state.before
            if report is not None and number:
                state.pace.told(number, report, now)
            admitted = state.look()
            self.active = self.active or report is not None
        self._wake(admitted)
        self._tell()

    def _tell(self) -> None:
        for watcher in tuple(self._here()[1].watchers):
            watcher()
