"""Queues of the limiters after every event: nobody overtaken, nobody forgotten, and every slot with a call."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from restaurant_llm_batch._engine.call import QUEUED, RUNNING, Call
from restaurant_llm_batch._engine.scheduler import Scheduler
from restaurant_llm_batch._engine.sequential import SequentialDriver
from restaurant_llm_batch._engine.virtual import VirtualDriver
from restaurant_llm_batch._limits.breaker import CLOSED
from restaurant_llm_batch._limits.concurrency import ConcurrencyLimiter, ConcurrencyState
from restaurant_llm_batch._limits.endpoints import EndpointTicket
from restaurant_llm_batch._limits.pool import EndpointLimiter
from restaurant_llm_batch._limits.pool_state import PoolState
from restaurant_llm_batch._limits.rate import RateLimiter, RateQueue
from restaurant_llm_batch._limits.wait_queue import _ADMITTED, _WAITING, Ticket
from restaurant_llm_batch.steps import Sleep

from .broken import EPSILON, keep
from .record import RunRecord
from .service import Service, weights_of

Limiter = ConcurrencyLimiter | RateLimiter | EndpointLimiter
Seen = dict[Ticket, tuple[Limiter, int, tuple[int, float]]]
"""The tickets of the calls that are queued: their limiter, their state and their position."""


class Queues:
    """
    The limiters of all runs, and the calls that wait at them.

    Args:
        service: The server.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._seen: Seen = {}
        self._counting: dict[ConcurrencyLimiter, ConcurrencyState] = {}
        self._rates: dict[RateLimiter, RateQueue] = {}
        self._pools: dict[EndpointLimiter, PoolState] = {}

    def watch(self, record: RunRecord) -> None:
        """Watch the limiters of a run too."""
        limiters = record.limiters
        for limiter in (*limiters.search, *limiters.llm, *limiters.batches):
            self._counting[limiter] = state = limiter._state_for_process()[1]
            self._service.note_limit(limiter, state.limit)
        self._rates[limiters.rate] = limiters.rate._state_for_process()[1]
        if limiters.endpoints is not None:
            self._pools[limiters.endpoints] = pool = limiters.endpoints._state_for_process()[1]
            for endpoint in pool.endpoints:
                limiter = endpoint.limiter
                self._counting[limiter] = state = limiter._state_for_process()[1]
                self._service.note_limit(limiter, state.limit)

    def check(self, records: Iterable[RunRecord], now: float) -> None:
        """Check the queues after an event."""
        begun, self._service.begun = self._service.begun, []
        held = defaultdict(int, self._service.at_server)
        waiting: defaultdict[Limiter, int] = defaultdict(int)
        seen: Seen = {}
        for record in records:
            driver = record.player.driver
            if record.run.stopped is not None and isinstance(driver, VirtualDriver):
                _check_drained(driver.scheduler)
            for call in _queued(driver):
                for limiter, ticket in _tickets(call):
                    seen[ticket] = limiter, ticket.state, (ticket.priority, ticket.sequence)
                    if ticket.state == _WAITING:
                        waiting[limiter] += 1
                    elif isinstance(limiter, ConcurrencyLimiter):
                        held[limiter] += ticket.weight
                    elif isinstance(ticket, EndpointTicket) and ticket.endpoint is not None:
                        held[ticket.endpoint.limiter] += 1
            if record.way == "1" or record.plan.counter == "service":
                for call in _returning(driver):
                    if call not in self._service.working:
                        for counted, weight in weights_of(call):
                            held[counted] += weight
        for pool_limiter, pool in self._pools.items():
            self._check_pool(pool, waiting[pool_limiter], held)
            moment = pool.next_moment()
            in_time = moment is None or moment >= now - EPSILON
            keep("an endpoint is tried again when its time has come", in_time, moment, now)
            for endpoint in pool.endpoints:
                waiting[endpoint.limiter] += len(endpoint.claims)
        self._check_slots(held, waiting)
        for rate, queue in self._rates.items():
            if queue.waiting or waiting[rate]:
                self._check_rate(queue, waiting[rate], now)
        if self._seen:
            self._check_order(seen, begun)
        self._seen = seen

    def _check_slots(self, held: Mapping[ConcurrencyLimiter, int], waiting: Mapping[Limiter, int]) -> None:
        for limiter, state in self._counting.items():
            if state.in_flight != held[limiter]:
                keep("a slot is taken by a call, and free without one", False, limiter, held[limiter])
            self._service.note_limit(limiter, state.limit)
            if not state.waiting and not waiting[limiter]:
                continue
            if state.waiting != waiting[limiter]:
                keep("a limiter's queue has the calls that wait", False, limiter, waiting[limiter])
            first = state._queue[0][3]
            if first.state == _WAITING and state._fits(first):
                keep("no call waits for a slot that is free", False, limiter)

    @staticmethod
    def _check_pool(pool: PoolState, waiting: int, held: Mapping[ConcurrencyLimiter, int]) -> None:
        """Check the queue of a pool, and its endpoints."""
        keep("a pool's queue has the calls that wait", pool.waiting == waiting, pool.waiting, waiting)
        queued = sum(queue.waiting for queue in pool._queues.values())
        keep("a pool's queue has the calls that wait", pool.waiting == queued, pool.waiting, queued)
        since = pool._all_out_since
        is_due = since is not None and pool.now > since + pool._pool_timeout + EPSILON
        lets_all_through = pool.lets_all_through and (is_due or pool._all_are_dead)
        for endpoint in pool.endpoints:
            counts = endpoint.in_flight, held[endpoint.limiter]
            keep(
                "a slot of an endpoint is taken by a call, and free without one",
                counts[0] <= counts[1] if endpoint is pool.alone else counts[0] == counts[1],
                counts,
            )
            # What is due at this moment may still come.
            earlier = pool.now - EPSILON
            is_closed = endpoint.breaker.state == CLOSED
            takes_calls = endpoint.rests_until < earlier if is_closed else endpoint.breaker.is_due(earlier)
            if (takes_calls or lets_all_through) and endpoint.limiter.has_room:
                for queue in pool._queues.values():
                    could = queue.waiting and queue.mask >> endpoint.index & 1
                    keep("no call waits while an endpoint has room", not could, endpoint.name, queue.waiting)

    def check_pool_is_empty(self, limiter: EndpointLimiter) -> None:
        """Check that no call of a pool is left."""
        pool = self._pools[limiter]
        left = [endpoint.in_flight for endpoint in pool.endpoints]
        keep("all slots of endpoints are returned", not any(left) and not pool.waiting, left, pool.waiting)

    @staticmethod
    def _check_rate(queue: RateQueue, waiting: int, now: float) -> None:
        keep("a limiter's queue has the calls that wait", queue.waiting == waiting, queue.waiting, waiting)
        first = queue._queue[0][3]
        if first.state == _WAITING:
            ready = queue.pacer.ready_at(first.weight, queue.now)
            keep("a call starts as soon as its rate allows", ready >= now - EPSILON, ready, now)

    def _check_order(self, seen: Seen, begun: list[Call]) -> None:
        """Check that no ticket was admitted while a more urgent one waited, at the same limiter."""
        admitted: list[tuple[Limiter, Ticket, tuple[int, float]]] = [
            (limiter, ticket, position)
            for ticket, (limiter, state, position) in seen.items()
            if state == _ADMITTED
        ]
        for call in begun:
            for limiter, ticket in _tickets(call):
                admitted.append((limiter, ticket, (ticket.priority, ticket.sequence)))
        for limiter, ticket, position in admitted:
            before = self._seen.get(ticket)
            if before is not None and before[1] == _ADMITTED:
                continue
            for other, (at, state, first) in self._seen.items():
                if isinstance(other, EndpointTicket) and not _may_go_where(other, ticket):
                    continue
                if at is limiter and state == _WAITING and first < position:
                    keep("priorities", other.state != _WAITING, first, "waits, but admitted is", position)


def _check_drained(scheduler: Scheduler) -> None:
    """Check that a run which was stopped waits for its calls in flight, and for nothing else."""
    sleeps = any(isinstance(step, Sleep) for step, _ in scheduler._suspended.values())
    keep("a run that was stopped queues no call, and sleeps no more", not scheduler._queued and not sleeps)


def _queued(driver: VirtualDriver | SequentialDriver) -> Iterable[Call]:
    if isinstance(driver, VirtualDriver):
        return driver.scheduler._queued
    return (driver._call,) if driver._call is not None and driver._call.progress is QUEUED else ()


def _returning(driver: VirtualDriver | SequentialDriver) -> Iterator[Call]:
    """Yield the calls that hold slots though no server may work on them: they count tokens, or are about to return."""
    if isinstance(driver, VirtualDriver):
        for call in driver._in_flight:
            if call.spec.stage == "tokens":
                yield call
    elif driver._call is not None and driver._call.progress is RUNNING:
        yield driver._call


def _may_go_where(other: EndpointTicket, ticket: Ticket) -> bool:
    """Return whether a call that waits at a pool may go to the endpoint that has admitted another one."""
    if other.queue is None or not isinstance(ticket, EndpointTicket) or ticket.endpoint is None:
        return False
    return bool(other.queue.mask >> ticket.endpoint.index & 1)


def _tickets(call: Call) -> Iterator[tuple[Limiter, Ticket]]:
    yield from zip(call._limiters, (call, *call._later_tickets), strict=False)
    endpoints = None if call._pool is None else call._pool.endpoints
    at = call.endpoint_ticket
    if at is not None and at.slot is not None and at.slot.ticket is at:
        yield at.slot.endpoint.limiter, at.slot  # it passes the limiter of the only endpoint by itself
    elif at is not None and endpoints is not None:
        yield endpoints, at
    if call.rate_ticket is not None and call._pool is not None:
        yield call._pool.rate, call.rate_ticket
