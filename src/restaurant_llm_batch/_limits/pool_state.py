"""
State of a pool: one queue of calls for several endpoints, each with a limit of its own.

Theory of operation. A call that finds room goes to the endpoint that suits it best (`choose`). If there is none, it
waits in one queue for all endpoints, in order of priority and arrival, and the first slot that becomes free anywhere
goes to the first call that may use it. So no call waits while a slot is free, and none is overtaken.

The slots are those of the endpoints' own limiters, which others may share. At each endpoint that calls wait for, the
pool holds a *claim*: a ticket that waits in the endpoint's limiter for no call in particular. When it is admitted, the
first call of the queue takes it over (`use`).

If there is one endpoint only, with a limiter that no others pass, and nothing is wrong with it, each call waits in that
limiter by itself, as it would without a pool, and the limiter alone counts it: this state has none of its numbers. A
call whose slot becomes free after the endpoint was left out goes into the queue then (`use`).

A call may not be meant for every endpoint: not for one that has just failed or refused it while another is in service,
and only for the one that has its job, if there is one. Calls with equal *masks* of endpoints wait in one heap; there
are few different masks. A mask is dropped when none of its endpoints is in service.

An endpoint that fails is left out by its circuit breaker (`breaker`); one whose service says that its minute is used up
rests until the next. If no endpoint is in service for `BreakerPolicy.pool_timeout` seconds, or each rejects every call,
calls go through as if there were no breakers, and fail as they would without a pool.

`PoolState` has no lock and no clock; `EndpointLimiter` puts one lock around it, and calls nothing back under it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, TypeAlias

from ..errors import SubmissionUnknown
from .breaker import CLOSED, OPEN, BreakerPolicy
from .clients import Lanes
from .endpoints import (
    Endpoint,
    EndpointQueue,
    EndpointSpec,
    EndpointTicket,
    ErrorKind,
    Route,
    Slot,
)
from .wait_queue import _ADMITTED, _GONE, _WAITING

Admitted: TypeAlias = list[EndpointTicket]


class PoolState:
    """
    The endpoints of a pool in one process, and the calls that wait for them.

    Methods append the calls that they admit to `admitted`, and slots that no call wants to `surplus`; both are dealt
    with when the lock is free.

    Args:
        specs: The endpoints.
        policy: When an endpoint is left out.
        on_slot: Called with a claim that is admitted.

    Attributes:
        endpoints: The endpoints.
        alone: The only endpoint, if its limiter is the pool's own; otherwise None.
        waiting: Number of calls in the queue.
        in_service: Mask of the endpoints that are not left out.
        now: The time; set it before each use.
        surplus: Slots that no call wants.
        may_rest: Whether an endpoint has ever rested.
        is_changed: Whether an endpoint is in service, or left out, since `fill` was last called.
        watchers: Called when time alone may admit calls.
        lanes: The lanes of clients, over all endpoints.
        set_watchers: Never called: a user sets the limits of the endpoints, and each tells it by itself.
    """

    def __init__(
        self, specs: Sequence[EndpointSpec], policy: BreakerPolicy, on_slot: Callable[[Slot], bool]
    ) -> None:
        self.endpoints: list[Endpoint] = [
            Endpoint(index, spec, policy, on_slot) for index, spec in enumerate(specs)
        ]
        self.waiting = 0
        self.in_service: int = (1 << len(self.endpoints)) - 1
        self.now = 0.0
        self.surplus: list[Slot] = []
        self.is_changed = False
        self.watchers: list[Callable[[], object]] = []
        self.set_watchers: list[Callable[[], object]] = []
        self.lanes: Lanes = Lanes()
        self._has_clients = False
        self.alone: Endpoint | None = (
            self.endpoints[0] if len(specs) == 1 and not specs[0].is_shared else None
        )
        self.may_rest = False
        self._everyone = self.in_service
        self._by_rank = sorted(self.endpoints, key=attrgetter("rank"))
        self._queues: dict[tuple[int, bool], EndpointQueue] = {}
        self._all_out_since: float | None = None
        self._all_are_dead = False
        self._pool_timeout = policy.pool_timeout

    # Admission

    def enqueue(self, ticket: EndpointTicket) -> bool:
        """Admit a call at the endpoint that suits it best, or queue it; return whether it is admitted."""
        self._join(ticket)
        route = ticket.route
        mask = self._mask(route) if route.tried or route.only else self._everyone
        # While calls wait, an endpoint has room only because its time has just come: `fill` lets them go first.
        while not (self.waiting and self.has_timers):
            endpoint = self.choose(mask, route.affinity.home)
            if endpoint is None:
                break
            slot = ticket.slot = Slot(endpoint, ticket.priority, ticket.sequence)
            if endpoint.limiter.enqueue(slot):
                ticket.endpoint = endpoint
                ticket.state, endpoint.in_flight = _ADMITTED, endpoint.in_flight + 1
                self._start(ticket, endpoint)
                return True
            ticket.slot = None
            endpoint.claims[slot] = None  # others were faster: the slot is a claim now
        self._queue(mask, mask == route.only).add(ticket)
        self.waiting += 1
        return False

    def _join(self, ticket: EndpointTicket) -> None:
        """Give a ticket the lane of its client."""
        if ticket.client is not None:
            self._has_clients = True
            busy = (lane for queue in self._queues.values() for lane in queue.busy_lanes)
            ticket.lane = self.lanes.lane(ticket.client, busy)

    def choose(self, mask: int, home: int) -> Endpoint | None:
        """
        Return the endpoint for a call, among those of a mask that have room; None if there is none.

        First the lowest rank; there an endpoint that waits for a probe, then the home of the call's item, then the
        endpoint with the least load.
        """
        found: Endpoint | None = None
        best: tuple[Any, ...] = ()
        for endpoint in self.endpoints:
            if mask >> endpoint.index & 1 and endpoint.limiter.has_room and self._takes_calls(endpoint):
                is_closed = endpoint.breaker.state == CLOSED
                key = (endpoint.rank, is_closed, endpoint.index != home, endpoint.load)
                if found is None or key < best:
                    found, best = endpoint, key
        return found

    def _takes_calls(self, endpoint: Endpoint) -> bool:
        if endpoint.breaker.state == CLOSED:
            return endpoint.rests_until <= self.now
        return self.lets_all_through or endpoint.breaker.is_due(self.now)

    @property
    def lets_all_through(self) -> bool:
        """Whether calls go to endpoints that are left out, because all of them are, and have been for long."""
        since = self._all_out_since
        return since is not None and (self._all_are_dead or self.now >= since + self._pool_timeout)

    def _mask(self, route: Route) -> int:
        """Return the endpoints that a call should go to."""
        if route.only and not self._is_dead(route.only):
            return route.only
        mask = self._everyone & ~route.tried
        return mask if mask & self.in_service else self._everyone

    def _is_dead(self, mask: int) -> bool:
        return all(endpoint.breaker.is_fatal for endpoint in self.endpoints if mask >> endpoint.index & 1)

    def _queue(self, mask: int, is_pinned: bool) -> EndpointQueue:
        key = mask, is_pinned
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = EndpointQueue(*key, self.lanes)
        return queue

    def _start(self, ticket: EndpointTicket, endpoint: Endpoint) -> None:
        """Count a call that was just admitted."""
        if self._has_clients:
            lane = ticket.lane = ticket.lane or self.lanes.of_nobody
            self.lanes.serve(lane, ticket)
            lane.enter(ticket)
        breaker = endpoint.breaker
        ticket.epoch = breaker.epoch
        if breaker.state != CLOSED:
            ticket.is_probe = breaker.start(ticket)
        endpoint.served += 1
        if endpoint.in_flight > endpoint.peak:
            endpoint.peak = endpoint.in_flight
        ticket.route.affinity.home = endpoint.index

    def use(self, slot: Slot, admitted: Admitted) -> bool:
        """Give a slot to the first call that may use it, and claim more; return whether it is used."""
        endpoint = slot.endpoint
        endpoint.claims.pop(slot, None)
        if slot.state is not _ADMITTED:
            return False  # it was cancelled meanwhile
        if slot.ticket is not None:
            return self._use_own(slot.ticket, slot, admitted)
        free: Slot | None = slot
        while free is not None:
            ticket = self._first(endpoint) if self._takes_calls(endpoint) else None
            queue = None if ticket is None else ticket.queue
            if queue is None or ticket is None:
                if free is not slot:
                    self.surplus.append(free)
                break
            ticket.slot, ticket.endpoint = free, endpoint
            # In one statement, as all admissions; see `PriorityWaitQueue`.
            ticket.state, queue.waiting, self.waiting, endpoint.in_flight = (
                _ADMITTED,
                queue.waiting - 1,
                self.waiting - 1,
                endpoint.in_flight + 1,
            )
            admitted.append(ticket)
            queue.peek()  # which drops it from the queue
            self._start(ticket, endpoint)
            free = self._claim(endpoint)
        return free is not slot

    def _use_own(self, ticket: EndpointTicket, slot: Slot, admitted: Admitted) -> bool:
        """Give a slot to the call that waited with it; if the endpoint is left out by now, let the call wait on."""
        endpoint, slot.ticket = slot.endpoint, None
        self._join(ticket)
        if not self._takes_calls(endpoint):
            ticket.slot = ticket.endpoint = None
            ticket.priority, ticket.sequence = slot.priority, slot.sequence  # it may have been moved forward
            self._queue(self._everyone, is_pinned=False).add(ticket)
            self.waiting += 1
            return False
        ticket.state, endpoint.in_flight = _ADMITTED, endpoint.in_flight + 1
        admitted.append(ticket)
        self._start(ticket, endpoint)
        return True

    def _first(self, endpoint: Endpoint) -> EndpointTicket | None:
        """Return the call that goes next of those that may go to an endpoint."""
        if self._has_clients:
            return self._first_by_lanes(endpoint)
        best: EndpointTicket | None = None
        for queue in self._queues.values():
            if queue.waiting and queue.mask >> endpoint.index & 1:
                first: Any = queue.peek()
                if best is None or (first.priority, first.sequence) < (best.priority, best.sequence):
                    best = first
        return best

    def _first_by_lanes(self, endpoint: Endpoint) -> EndpointTicket | None:
        heads = [
            head
            for queue in self._queues.values()
            if queue.mask >> endpoint.index & 1
            for head in queue.heads()
        ]
        if not heads:
            return None
        first: Any = self.lanes.first(heads, self.limit)
        return first  # type: ignore[no-any-return]

    @property
    def limit(self) -> int:
        """Slots of the endpoints that are in service."""
        return sum(each.limiter.limit for each in self.endpoints if self.in_service >> each.index & 1)

    def _claim(self, endpoint: Endpoint) -> Slot | None:
        """Claim slots of an endpoint for the calls that wait for it; return one that is free now."""
        claims = endpoint.claims
        while (
            len(claims) < endpoint.max_claims and len(claims) < self.waiting and self._takes_calls(endpoint)
        ):
            first = self._first(endpoint)
            if first is None:
                break
            slot = Slot(endpoint, first.priority, first.sequence)
            claims[slot] = None
            if endpoint.limiter.enqueue(slot):
                del claims[slot]
                return slot
        return None

    def fill(self, admitted: Admitted) -> None:
        """Claim slots of the endpoints that calls wait for, and use those that are free now."""
        self.is_changed = False
        for endpoint in self._by_rank:
            if not self.waiting:
                break
            if len(endpoint.claims) >= endpoint.max_claims:
                continue
            slot = self._claim(endpoint)
            if slot is not None and not self.use(slot, admitted):
                self.surplus.append(slot)

    def claims_behind(self, ticket: EndpointTicket) -> list[Slot]:
        """
        Return the claims that have to move forward for a call of the queue, one at each endpoint that it may go to.

        Only where other calls wait for the same limiter: there, a claim must not wait behind a call that comes later.
        """
        behind: list[Slot] = []
        if ticket.queue is None or ticket.state is not _WAITING:
            return behind
        for endpoint in self.endpoints:
            has_others = endpoint is self.alone or endpoint.max_claims > 1
            if has_others and endpoint.claims and ticket.queue.mask >> endpoint.index & 1:
                last = max(endpoint.claims, key=attrgetter("priority", "sequence"))
                if (ticket.priority, ticket.sequence) < (last.priority, last.sequence):
                    behind.append(last)
        return behind

    def cancel(self, ticket: EndpointTicket) -> None:
        """Remove a ticket that waits in the queue."""
        if ticket.state is _WAITING and ticket.queue is not None:
            self.waiting -= 1
            ticket.queue.cancel(ticket)

    # The health of the endpoints

    def record_error(self, ticket: EndpointTicket, kind: ErrorKind, error: BaseException) -> bool:
        """Record that a call has failed; return whether its endpoint is left out by that."""
        endpoint, now = ticket.endpoint, self.now
        if endpoint is None:
            return False
        breaker = endpoint.breaker
        if kind == "refused":
            endpoint.rate_limited += 1
            wait = getattr(error, "retry_after", None) or 0.0
            opened = breaker.record_refusal(
                ticket, ticket.epoch, error, now, limit=endpoint.limiter.limit, retry_after=wait
            )
        else:
            endpoint.failed += 1
            ticket.is_proof = kind == "request"
            if kind in ("request", "neutral"):
                return False
            opened = breaker.record_error(ticket, ticket.epoch, error, now, fatal=kind == "fatal")
        if breaker.state != CLOSED:
            self._update_service(endpoint)
        return opened

    def rest(self, endpoint: Endpoint, seconds: float) -> None:
        """Send an endpoint no call for some seconds: its service said that nothing is left of its limits."""
        self.may_rest = True
        endpoint.rests_until = max(endpoint.rests_until, self.now + seconds)

    def record_end(self, ticket: EndpointTicket, *, answered: bool) -> bool:
        """Record that a call has left its endpoint; return whether that is back in service by it."""
        endpoint = ticket.endpoint
        if endpoint is None:
            return False
        if ticket.lane is not None:
            ticket.lane.leave(ticket)
        if ticket.state is _ADMITTED:  # otherwise the limiter alone counts it
            ticket.state, endpoint.in_flight = _GONE, endpoint.in_flight - 1
        endpoint.answered += answered
        if not (answered or ticket.is_proof):
            self.is_changed |= endpoint.breaker.record_nothing(ticket)
            return False
        if not endpoint.breaker.record_answer(ticket.epoch):
            return False
        endpoint.catch_up(self.endpoints)
        self._update_service(endpoint)
        return True

    def moves(self, ticket: EndpointTicket, kind: ErrorKind, error: BaseException) -> bool:
        """
        Return whether a call that failed goes to another endpoint at once, which does not count as an attempt.

        It does while there is another one in service at which it has not been since its last wait: a failure is that of
        the endpoint until another one has failed too. Of each endpoint, a call is spared one failure. Those of a probe
        it is spared for `BreakerPolicy.pool_timeout` seconds: the endpoint was known to have failed.
        """
        endpoint, route = ticket.endpoint, ticket.route
        if endpoint is None or kind in ("request", "neutral") or isinstance(error, SubmissionUnknown):
            return False
        bit = 1 << endpoint.index
        is_first = not route.spared & bit
        route.tried |= bit
        if kind == "fatal":
            route.spared |= bit
            return is_first and not self._is_dead(self._everyone)
        if ticket.is_probe:
            route.probing_since = min(route.probing_since, self.now)
            if self.now < route.probing_since + self._pool_timeout:
                return True
        others = 0 if route.only else self.in_service & ~route.tried
        if others and kind == "refused":
            return True
        if others and is_first:
            route.spared |= bit
            return True
        route.tried = bit  # after its wait, another one first
        return False

    def _update_service(self, endpoint: Endpoint) -> None:
        bit = 1 << endpoint.index
        self.is_changed = True
        if endpoint.breaker.state == CLOSED:
            self.in_service |= bit
            self._all_out_since, self._all_are_dead = None, False
            return
        self.in_service &= ~bit
        if not self.in_service:
            if self._all_out_since is None:
                self._all_out_since = self.now
            self._all_are_dead = self._is_dead(self._everyone)
        self._drop_masks()

    def _drop_masks(self) -> None:
        """Let calls go anywhere whose endpoints are all left out."""
        for key, queue in list(self._queues.items()):
            has_hope = queue.is_pinned and not self._is_dead(queue.mask)
            if queue.mask == self._everyone or queue.mask & self.in_service or has_hope:
                continue
            del self._queues[key]
            for ticket in queue.in_order(queue.waiting):
                assert isinstance(ticket, EndpointTicket)
                self._queue(self._everyone, is_pinned=False).add(ticket)

    # Time

    def next_moment(self) -> float | None:
        """Return when calls that wait may be admitted though none ends; None if that does not happen."""
        if not self.waiting or self.lets_all_through:
            return None
        moments = [] if self._all_out_since is None else [self._all_out_since + self._pool_timeout]
        for endpoint in self.endpoints:
            is_open = endpoint.breaker.state == OPEN
            moments.append(endpoint.breaker.probe_at if is_open else endpoint.rests_until)
        # Where the time has come, calls wait for a slot, and no longer for the time.
        return min((moment for moment in moments if moment > self.now), default=None)

    @property
    def has_timers(self) -> bool:
        """Whether an endpoint is left out or may rest, so that time alone may admit calls."""
        return self.in_service != self._everyone or self.may_rest
