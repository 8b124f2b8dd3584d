"""
Admission: one call's way through its limiters, in order, until the last one admits it.

A call is its own ticket at the first `ConcurrencyLimiter`, where most calls wait; at each further one it holds
another. The first limiter that does not admit at once keeps the ticket; when it admits later, from whichever thread
frees the slot, the ticket posts the next attempt to the run's mailbox. With a pool, the `EndpointLimiter` comes after
these, and says which endpoint the call goes to. The `RateLimiter` comes last, because a call that it admits has to
start at once. The run is notified once: when all limiters have admitted the call, `on_admitted` of its context is
called where the run lives, perhaps before `acquire` returns.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .._limits.aimd import CallResult
from .._limits.clients import NOBODY, Client
from .._limits.concurrency import ConcurrencyLimiter
from .._limits.limiters import LimiterSet
from .._limits.wait_queue import _NEW, CallbackTicket, Ticket
from .._llm_response import RateLimitInfo
from .mailbox import Clock, Mailbox
from .plan import CallSpec
from .stats import RunCounters

if TYPE_CHECKING:
    from .._limits.endpoints import EndpointTicket, Route


@dataclass(slots=True, eq=False)
class CallContext:
    """
    What the calls of a run have in common.

    Attributes:
        now: The run's clock.
        counters: Counts a call while it is at the backend.
        client: Whom the run is made for, or None.
        pool: The limiters for tokens and rates of an LLM call, and for the endpoints of a pool; None without any.
        count_tokens: Counts the tokens of a request.
        is_timed: Whether a limit is learned from how long calls take.
        mailbox: Where the run lives; None before its driver is there.
        on_admitted: Called there with each call that all limiters have admitted.
    """

    now: Clock
    counters: RunCounters
    client: Client | None = None
    pool: LimiterSet | None = None
    count_tokens: Callable[[Any], int] | None = None
    is_timed: bool = False
    mailbox: Mailbox | None = None
    on_admitted: Callable[[Any], object] | None = None


class Admission(Ticket):
    """
    The part of a call that passes limiters; `Call` is the rest.

    One object, since one is made for each call, and the parts refer to each other. `Call.__init__` sets the attributes.

    Attributes:
        spec: What is called.
        argument: Its argument.
        queued_at: When the call was queued at the first limiter; infinity before.
        rate_queued_at: When it began to wait for a limit per minute; None if it did not.
        tokens: Tokens that the call takes of the limiters that count tokens; 0 while none does.
        rate_ticket: The call's ticket at the rate limiter; None while there is no rate to keep to.
        endpoint_ticket: The call's ticket at the endpoints of a pool, also when it was released; None without a pool.
        route: Where a call to a pool should go; None without a pool.
        outcome: The result of the call, for an adaptive limit; "other" until it has ended.
    """

    __slots__ = (
        "_context",
        "_later_tickets",
        "_limiters",
        "_others",
        "_pending",
        "_pool",
        "argument",
        "endpoint_ticket",
        "outcome",
        "queued_at",
        "rate_queued_at",
        "rate_ticket",
        "route",
        "spec",
        "tokens",
    )

    priority: int
    sequence: float
    weight: int
    queued_at: float
    rate_queued_at: float | None
    tokens: int
    rate_ticket: CallbackTicket | None
    endpoint_ticket: EndpointTicket | None
    route: Route | None
    outcome: CallResult
    spec: CallSpec
    argument: Any
    _limiters: tuple[ConcurrencyLimiter, ...]
    _pool: LimiterSet | None
    _context: CallContext
    _later_tickets: list[Ticket] | tuple[()]  # those at the limiters after the first
    _others: tuple[tuple[int, float, Client], ...]  # where other clients wait for it too
    _pending: bool  # whether it is to pass more limiters: it is queued, and neither admitted nor cancelled

    def _acquire_next(self) -> None:
        """Pass the limiters that have not admitted the call yet, up to one that does not admit it at once."""
        if not self._pending:
            return  # cancelled since a limiter posted this
        limiters, pool = self._limiters, self._pool
        if self.state is _NEW and limiters and not limiters[0].enqueue(self):
            for other in self._others:
                limiters[0].reprioritise(self, *other)
            return
        if len(limiters) > 1 and not self._passes_later(limiters):
            return
        if self.route is not None and self.endpoint_ticket is None and not self._reaches_endpoint(self.route):
            return
        if pool is not None and pool.rate.active and self.rate_ticket is None and not self._passes_rate(pool):
            return
        self._pending = False
        on_admitted = self._context.on_admitted
        if on_admitted is not None:
            on_admitted(self)

    def _passes_later(self, limiters: tuple[ConcurrencyLimiter, ...]) -> bool:
        """Queue at the limiters after the first; return whether all of them have admitted the call."""
        tickets = self._later_tickets
        if isinstance(tickets, tuple):
            tickets = self._later_tickets = []
        for limiter in limiters[1 + len(tickets) :]:
            weight = self._weight_at(limiter)
            ticket = CallbackTicket(self.on_admitted, self.priority, self.sequence, weight, self.client)
            tickets.append(ticket)
            if not limiter.enqueue(ticket):
                for other in self._others:
                    limiter.reprioritise(ticket, *other)
                return False
        return True

    def _weight_at(self, limiter: ConcurrencyLimiter) -> int:
        """Return how many slots, or tokens, of a limiter the call takes."""
        pool = self._pool
        return (
            self.spec.permits if pool is None or limiter is not pool.tokens else pool.in_blocks(self.tokens)
        )

    def _passes_rate(self, pool: LimiterSet) -> bool:
        """Queue at the rate limiter; return whether it admits at once."""
        if pool.rate.counts_tokens and not self.tokens:
            self._count_tokens()  # the service reported a token limit while this call waited for a slot
        ticket = self.rate_ticket = CallbackTicket(
            self.on_admitted, self.priority, self.sequence, self.tokens, self.client
        )
        now = self._context.now()
        if pool.rate.enqueue(ticket, now):
            return True
        self.rate_queued_at = now
        for priority, sequence, client in self._others:
            pool.rate.reprioritise(ticket, priority, sequence, now, client)
        return False

    def _reaches_endpoint(self, route: Route) -> bool:
        """Queue at the endpoints of the pool; return whether one admits at once."""
        endpoints = None if self._pool is None else self._pool.endpoints
        if endpoints is None:
            return True
        ticket = self.endpoint_ticket = endpoints.new_ticket(
            self.on_admitted, self.priority, self.sequence, route, self.client
        )
        if endpoints.enqueue(ticket, self._context.now):
            return True
        for other in self._others:
            endpoints.reprioritise(ticket, *other)
        return False

    def _count_own_tokens(self, pool: LimiterSet) -> None:
        """Count the tokens of a new call, if a limiter does."""
        count = self._context.count_tokens
        if count is not None and pool.count_tokens:
            self.tokens = count(self.argument)
        if self._limiters:
            self.weight = self._weight_at(self._limiters[0])

    def _count_tokens(self) -> None:
        count = self._context.count_tokens
        if count is not None:
            # A user's counter may fail. Where its failure belongs to an item, it is called again and raises.
            with suppress(Exception):
                self.tokens = count(self.argument)

    def on_admitted(self) -> bool:  # a method: one bound to each call would be an object more, and a cycle
        """Go on where the run lives, after a wait at a limiter; in any thread. Return False if the run is gone."""
        mailbox = self._context.mailbox
        return mailbox is not None and mailbox.post(self._acquire_next)

    def _raise_queued(self, priority: int, sequence: float, client: Client | None) -> None:
        """Admit the call no later than one of this priority and sequence, of this client. Thread-safe."""
        if self._is_own(client) and (priority, sequence) >= (self.priority, self.sequence):
            return
        mailbox = self._context.mailbox
        if mailbox is None:
            self._raise_priority(priority, sequence, client)  # it is not queued at a limiter yet
        else:
            # Also before it is queued: another thread must not move it while its own does that.
            mailbox.post(lambda: self._raise_priority(priority, sequence, client))

    def _is_own(self, client: Client | None) -> bool:
        return client is self.client or (client or NOBODY).name == (self.client or NOBODY).name

    def _raise_priority(self, priority: int, sequence: float, client: Client | None) -> None:
        # What is noted here holds at the limiters still ahead.
        is_own = self._is_own(client)
        if not is_own:
            client = client or NOBODY
            if any(other.name == client.name for _, _, other in self._others):
                return  # its first call that waits goes first
            self._others = (*self._others, (priority, sequence, client))
        elif (priority, sequence) >= (self.priority, self.sequence):
            return
        limiters = self._limiters
        if limiters and self.state is not _NEW:
            # Which compares with the call's own position.
            limiters[0].reprioritise(self, priority, sequence, client)
        if is_own:
            self.priority, self.sequence = priority, sequence
        for limiter, ticket in zip(limiters[1:], self._later_tickets, strict=False):
            limiter.reprioritise(ticket, priority, sequence, client)
        pool = self._pool
        if pool is not None and pool.endpoints is not None and self.endpoint_ticket is not None:
            pool.endpoints.reprioritise(self.endpoint_ticket, priority, sequence, client)
        if pool is not None and self.rate_ticket is not None:
            pool.rate.reprioritise(self.rate_ticket, priority, sequence, self._context.now(), client)

    def withdraw(self) -> None:
        """Pass no more limiters, but keep the tickets: they must not go to calls that are about to be cancelled too."""
        self._pending = False

    def _cancel_tickets(self) -> None:
        """Cancel a call that has not started: its tickets go to the next waiters."""
        self._pending = False
        for limiter, ticket in zip(self._limiters, (self, *self._later_tickets), strict=False):
            limiter.cancel(ticket)
        self._later_tickets = ()
        pool = self._pool
        if pool is not None and pool.endpoints is not None and self.endpoint_ticket is not None:
            pool.endpoints.cancel(self.endpoint_ticket, self._context.now())
            self.endpoint_ticket.callback = _nothing
        if pool is not None and self.rate_ticket is not None:
            pool.rate.cancel(self.rate_ticket, self._context.now())
            self.rate_ticket.callback = _nothing

    def _release_tickets(self) -> None:
        """Free the slots of a call that was admitted, and report its outcome and its timing to the limiters."""
        now, at, outcome, limiters = self._context.now, self.endpoint_ticket, self.outcome, self._limiters
        if at is not None and self._pool is not None and self._pool.endpoints is not None:
            if at.slot is not None:
                at.slot.timing = self.timing
            # First: a call that another limiter admits now has to find the endpoint's slot free.
            self._pool.endpoints.release(at, outcome, now)
            at.callback = _nothing  # the ticket is kept for its endpoint's name, but not the cycle
        if limiters:
            limiters[0].release(self, outcome, now)
            for limiter, ticket in zip(limiters[1:], self._later_tickets, strict=False):
                ticket.timing = self.timing
                limiter.release(ticket, outcome, now)
            self._later_tickets = ()  # they refer to their call, a cycle that is left to the garbage collector
        if self.rate_ticket is not None:
            self.rate_ticket.callback = _nothing  # it is kept for the report of the tokens

    def _record_error(self, error: BaseException) -> None:
        """Report an error to the endpoint's breaker, before the flow of the call goes on."""
        at = self.endpoint_ticket
        if at is not None and self._pool is not None and self._pool.endpoints is not None:
            self._pool.endpoints.record_error(at, error, self._context.now())

    def record_report(self, report: RateLimitInfo) -> None:
        """Report the rate limits of its service to the endpoint."""
        at = self.endpoint_ticket
        if at is not None and self._pool is not None and self._pool.endpoints is not None:
            self._pool.endpoints.record_report(at, report, self._context.now())


def _nothing() -> None:
    """Do nothing: the ticket waits no more."""
