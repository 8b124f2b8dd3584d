"""
Admission: one call's way through its limiters, in order, until the last one admits it.

A call holds a ticket at each `ConcurrencyLimiter` that it has reached. The first limiter that does not admit at once
keeps the ticket; when it admits later, from whichever thread frees the slot, the ticket posts the next attempt to the
run's mailbox. With a pool, the `EndpointLimiter` comes after these, and says which endpoint the call goes to. The
`RateLimiter` comes last, because a call that it admits has to start at once. The scheduler is notified once: when all
limiters have admitted the call, `on_admitted` is called where the run lives, perhaps before `acquire` returns.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from .._limits.aimd import CallResult, Timing
from .._limits.clients import NOBODY, Client
from .._limits.concurrency import ConcurrencyLimiter
from .._limits.limiters import LimiterSet
from .._limits.wait_queue import Ticket
from .._llm_response import RateLimitInfo
from .mailbox import Clock, Mailbox
from .plan import CallSpec
from .stats import RunCounters

if TYPE_CHECKING:
    from .._limits.endpoints import EndpointTicket, Route


class CallContext(NamedTuple):
    """
    What the calls of a run have in common.

    Attributes:
        now: The run's clock.
        counters: Counts a call while it is at the backend.
        client: Whom the run is made for, or None.
        pool: The limiters for tokens and rates of an LLM call, and for the endpoints of a pool; None without any.
        count_tokens: Counts the tokens of a request.
        is_timed: Whether a limit is learned from how long calls take.
    """

    now: Clock
    counters: RunCounters
    client: Client | None = None
    pool: LimiterSet | None = None
    count_tokens: Callable[[Any], int] | None = None
    is_timed: bool = False


class Admission:
    """
    The part of a call that passes limiters; `Call` is the rest.

    One object, since one is made for each call, and the two refer to each other. `Call.__init__` sets the attributes.

    Attributes:
        priority: Lower goes first.
        sequence: Among equal priorities, lower goes first: when the call's item entered the window.
        queued_at: When the call was queued at the first limiter; infinity before.
        rate_queued_at: When it began to wait for a limit per minute; None if it did not.
        tokens: Tokens that the call takes of the limiters that count tokens; 0 while none does.
        rate_ticket: The call's ticket at the rate limiter; None while there is no rate to keep to.
        endpoint_ticket: The call's ticket at the endpoints of a pool, also when it was released; None without a pool.
        route: Where a call to a pool should go; None without a pool.
        mailbox: Where its run lives; None until it is queued.
        outcome: Its result, which is reported to the limiters with its slots.
        timing: How long it took, which is reported too if a limit is learned from it.
    """

    __slots__ = (
        "_client",
        "_context",
        "_limiters",
        "_now",
        "_on_admitted",
        "_others",
        "_pending",
        "_pool",
        "_tickets",
        "endpoint_ticket",
        "mailbox",
        "outcome",
        "priority",
        "queued_at",
        "rate_queued_at",
        "rate_ticket",
        "route",
        "sequence",
        "spec",
        "timing",
        "tokens",
    )

    priority: int
    sequence: float
    queued_at: float
    rate_queued_at: float | None
    tokens: int
    rate_ticket: Ticket | None
    endpoint_ticket: EndpointTicket | None
    route: Route | None
    mailbox: Mailbox | None
    outcome: CallResult
    timing: Timing | None
    spec: CallSpec
    _limiters: tuple[ConcurrencyLimiter, ...]
    _pool: LimiterSet | None
    _context: CallContext
    _now: Clock
    _client: Client | None
    _tickets: list[Ticket]
    _others: tuple[tuple[int, float, Client], ...]  # where other clients wait for it too
    _on_admitted: Callable[[Any], object]
    _pending: bool  # whether it is to pass more limiters: it is queued, and neither admitted nor cancelled

    def _acquire_next(self) -> None:
        """Pass the limiters that have not admitted the call yet, up to one that does not admit it at once."""
        if not self._pending:
            return  # cancelled since a limiter posted this
        tickets, pool = self._tickets, self._pool
        token_limiter = None if pool is None else pool.tokens
        for limiter in self._limiters[len(tickets) :]:
            weight = self.spec.permits
            if pool is not None and limiter is token_limiter:
                weight = pool.in_blocks(self.tokens)
            ticket = Ticket(self._admitted, self.priority, self.sequence, weight, self._client)
            tickets.append(ticket)
            if not limiter.enqueue(ticket):
                for other in self._others:
                    limiter.reprioritise(ticket, *other)
                return
        if self.route is not None and self.endpoint_ticket is None and not self._reaches_endpoint(self.route):
            return
        if pool is not None and pool.rate.active and self.rate_ticket is None:
            if pool.rate.counts_tokens and not self.tokens:
                self._count_tokens()  # the service reported a token limit while this call waited for a slot
            self.rate_ticket = Ticket(self._admitted, self.priority, self.sequence, self.tokens, self._client)
            now = self._now()
            if not pool.rate.enqueue(self.rate_ticket, now):
                self.rate_queued_at = now
                for priority, sequence, client in self._others:
                    pool.rate.reprioritise(self.rate_ticket, priority, sequence, now, client)
                return
        self._pending = False
        self._on_admitted(self)

    def _reaches_endpoint(self, route: Route) -> bool:
        """Queue at the endpoints of the pool; return whether one admits at once."""
        endpoints = None if self._pool is None else self._pool.endpoints
        if endpoints is None:
            return True
        ticket = self.endpoint_ticket = endpoints.new_ticket(
            self._admitted, self.priority, self.sequence, route, self._client
        )
        if endpoints.enqueue(ticket, self._now):
            return True
        for other in self._others:
            endpoints.reprioritise(ticket, *other)
        return False

    def _count_tokens(self) -> None:
        count = self._context.count_tokens
        if count is not None:
            # A user's counter may fail. Where its failure belongs to an item, it is called again and raises.
            with suppress(Exception):
                self.tokens = count(self.spec.argument)

    def _admitted(self) -> bool:
        return self.mailbox is not None and self.mailbox.post(self._acquire_next)

    def _raise_queued(self, priority: int, sequence: float, client: Client | None) -> None:
        """Admit the call no later than one of this priority and sequence, of this client. Thread-safe."""
        if self._is_own(client) and (priority, sequence) >= (self.priority, self.sequence):
            return
        if self.mailbox is None:
            self._raise_priority(priority, sequence, client)  # it is not queued at a limiter yet
        else:
            self.mailbox.post(lambda: self._raise_priority(priority, sequence, client))

    def _is_own(self, client: Client | None) -> bool:
        return client is self._client or (client or NOBODY).name == (self._client or NOBODY).name

    def _raise_priority(self, priority: int, sequence: float, client: Client | None) -> None:
        # What is noted here holds at the limiters still ahead.
        if not self._is_own(client):
            client = client or NOBODY
            if any(other.name == client.name for _, _, other in self._others):
                return  # its first call that waits goes first
            self._others = (*self._others, (priority, sequence, client))
        elif (priority, sequence) < (self.priority, self.sequence):
            self.priority, self.sequence = priority, sequence
        else:
            return
        for limiter, ticket in zip(self._limiters, self._tickets, strict=False):
            limiter.reprioritise(ticket, priority, sequence, client)
        pool = self._pool
        if pool is not None and pool.endpoints is not None and self.endpoint_ticket is not None:
            pool.endpoints.reprioritise(self.endpoint_ticket, priority, sequence, client)
        if pool is not None and self.rate_ticket is not None:
            pool.rate.reprioritise(self.rate_ticket, priority, sequence, self._now(), client)

    def withdraw(self) -> None:
        """Pass no more limiters, but keep the tickets: they must not go to calls that are about to be cancelled too."""
        self._pending = False

    def _cancel_tickets(self) -> None:
        """Cancel a call that has not started: its tickets go to the next waiters."""
        self._pending = False
        for limiter, ticket in zip(self._limiters, self._tickets, strict=False):
            limiter.cancel(ticket)
        self._tickets.clear()
        pool = self._pool
        if pool is not None and pool.endpoints is not None and self.endpoint_ticket is not None:
            pool.endpoints.cancel(self.endpoint_ticket, self._now())
            self.endpoint_ticket.on_admitted = _nothing
        if pool is not None and self.rate_ticket is not None:
            pool.rate.cancel(self.rate_ticket, self._now())

    def _release_tickets(self) -> None:
        """Free the slots of a call that was admitted, and report its outcome and its timing to the limiters."""
        now, at, outcome, timing = self._now, self.endpoint_ticket, self.outcome, self.timing
        if timing is not None:
            for ticket in self._tickets:
                ticket.timing = timing
            if at is not None and at.slot is not None:
                at.slot.timing = timing
        if at is not None and self._pool is not None and self._pool.endpoints is not None:
            # First: a call that another limiter admits now has to find the endpoint's slot free.
            self._pool.endpoints.release(at, outcome, now)
            at.on_admitted = _nothing  # the ticket is kept for its endpoint's name, but not the cycle
        # Not zip(): it takes three times as long, for every call.
        for place, ticket in enumerate(self._tickets):
            self._limiters[place].release(ticket, outcome, now)
        self._tickets.clear()  # they refer to their call, a cycle that would be left to the garbage collector

    def _record_error(self, error: BaseException) -> None:
        """Report an error to the endpoint's breaker, before the flow of the call goes on."""
        at = self.endpoint_ticket
        if at is not None and self._pool is not None and self._pool.endpoints is not None:
            self._pool.endpoints.record_error(at, error, self._now())

    def record_report(self, report: RateLimitInfo) -> None:
        """Report the rate limits of its service to the endpoint."""
        at = self.endpoint_ticket
        if at is not None and self._pool is not None and self._pool.endpoints is not None:
            self._pool.endpoints.record_report(at, report, self._now())


def _nothing() -> None:
    """Do nothing: the ticket waits no more."""
