"""
Endpoints of a pool: what is known of each in one process, and the tickets by which calls wait for one.

`pool_state` has the theory of operation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Literal, Protocol, TypeAlias

from .._shortage import is_local_shortage
from ..errors import (
    STOPS_THE_RUN,
    BackendError,
    ConfigurationError,
    ContentRefused,
    OutputError,
    PermanentBackendError,
    RateLimited,
    SubmissionUnknown,
    TransientBackendError,
)
from .aimd import Timing
from .breaker import CLOSED, OPEN, BreakerPolicy, CircuitBreaker
from .clients import Client, Lane, Lanes
from .concurrency import ConcurrencyLimiter
from .wait_queue import _NEW, CallbackTicket, PriorityWaitQueue, Ticket

MAX_CLAIMS = 64
"""Most claims at an endpoint whose limiter others share: they say how many calls of the pool wait there."""


@dataclass(frozen=True, slots=True)
class EndpointSpec:
    """
    An endpoint of a pool.

    Attributes:
        name: Its name.
        limiter: The limit on its calls in flight.
        is_shared: Whether calls outside of the pool may pass the limiter too.
        weight: Its share of the calls, relative to the others; None for its limit.
        rank: Endpoints of a higher rank are used only if those of lower ranks have no room, or are left out.
    """

    name: str
    limiter: ConcurrencyLimiter
    is_shared: bool = False
    weight: float | None = None
    rank: int = 0


EndpointStatus: TypeAlias = Literal["in service", "left out", "probing", "resting"]


@dataclass(frozen=True, slots=True)
class EndpointStatistics:
    """
    An endpoint of a pool at one moment, and its calls of all runs of this process.

    Attributes:
        status: "in service"; "left out" after errors; "probing" while one call finds out whether it is back; "resting"
            until its service lets calls start again.
        limit: Most calls in flight.
        in_flight: Calls in flight.
        peak: The highest number of calls in flight so far.
        calls: Calls that have ended there, those that were cancelled aside.
        answered: Calls that it answered.
        rate_limited: Calls that it refused.
        failed: Calls that failed.
        times_out: How often it was left out.
        error: The error for which it was left out last, or None.
    """

    status: EndpointStatus
    limit: int
    in_flight: int
    peak: int
    calls: int
    answered: int
    rate_limited: int
    failed: int
    times_out: int
    error: BaseException | None


class Affinity(Protocol):
    """
    An item, whose prompts have a prefix in common.

    Attributes:
        home: The endpoint that has the prefix in its cache: that of its latest call; -1 for none.
    """

    home: int


class Route:
    """
    Which endpoints a call has been at, and where it should go next.

    Attributes:
        affinity: That of its item.
        tried: Mask of the endpoints that it was at since its last wait; another one is preferred.
        spared: Mask of the endpoints whose failure was not counted as an attempt of the call.
        probing_since: When it first failed as a probe; infinity before.
        only: Mask of the one endpoint that it may go to; 0 for all.
    """

    __slots__ = ("affinity", "only", "probing_since", "spared", "tried")

    def __init__(self, affinity: Affinity) -> None:
        self.affinity: Affinity = affinity
        self.tried: int = 0
        self.spared: int = 0
        self.only: int = 0
        self.probing_since: float = inf


class EndpointTicket(CallbackTicket):
    """
    A call's place in the queue of a pool, and then at one of its endpoints.

    Attributes:
        route: Where the call should go.
        endpoint: The endpoint that has admitted it, or at whose limiter it waits by itself; None before.
        slot: Its ticket there.
        queue: The queue in which it waits, or has waited.
        is_probe: Whether it finds out whether an endpoint that was left out is back.
        is_proof: Whether its error shows that the endpoint works: the service has read the request.
    """

    __slots__ = ("endpoint", "is_probe", "is_proof", "queue", "route", "slot")

    def __init__(
        self,
        callback: Callable[[], object],
        priority: int,
        sequence: float,
        route: Route,
        client: Client | None = None,
    ) -> None:
        # Spelled out, as in `Slot`: every call has both, and `super().__init__` takes as long as all the rest.
        self.callback = callback
        self.priority = priority
        self.sequence = sequence
        self.weight = 1
        self.client = client
        self.in_flight_at_admission = self.epoch = 0
        self.timing: Timing | None = None
        self.state = _NEW
        self.lane: Lane | None = None
        self.is_counted = False
        self.route: Route = route
        self.endpoint: Endpoint | None = None
        self.slot: Slot | None = None
        self.queue: EndpointQueue | None = None
        self.is_probe: bool = False
        self.is_proof: bool = False


class Slot(Ticket):
    """
    A ticket at an endpoint's own limiter; while it waits, a claim for whichever call is the first by then.

    Attributes:
        endpoint: The endpoint.
        ticket: The one call that has it, from when it is queued until it is released, if the pool has no other endpoint
            and the call has not waited in the pool's queue; None for a claim.
    """

    __slots__ = ("endpoint", "ticket")

    def __init__(
        self, endpoint: Endpoint, priority: int, sequence: float, client: Client | None = None
    ) -> None:
        self.priority = priority
        self.sequence = sequence
        self.weight = 1
        self.client = client
        self.in_flight_at_admission = self.epoch = 0
        self.timing: Timing | None = None
        self.state = _NEW
        self.lane: Lane | None = None
        self.is_counted = False
        self.endpoint: Endpoint = endpoint
        self.ticket: EndpointTicket | None = None

    def on_admitted(self) -> bool:  # a method: one bound to each slot would be an object more, and a cycle
        """Start the call that waits with it, or the first that waits for the endpoint."""
        ticket, endpoint = self.ticket, self.endpoint
        if ticket is None or endpoint.breaker.state != CLOSED or endpoint.rests_until != -inf:
            return endpoint.on_slot(self)
        ticket.epoch = endpoint.breaker.epoch
        return ticket.callback() is not False


class EndpointQueue(PriorityWaitQueue):
    """
    The calls that wait with one mask of endpoints. The pool takes them out; the queue admits none.

    Attributes:
        mask: The endpoints.
        is_pinned: Whether they may go to no other endpoint, even if this one is left out.
        lanes: The lanes of the pool.
    """

    __slots__ = ("is_pinned", "mask")

    def __init__(self, mask: int, is_pinned: bool, lanes: Lanes) -> None:
        super().__init__()
        self.lanes: Lanes = lanes
        self.mask: int = mask
        self.is_pinned: bool = is_pinned

    def _fits(self, ticket: Ticket) -> bool:
        return False

    def add(self, ticket: EndpointTicket) -> None:
        """Add a ticket."""
        ticket.queue = self
        self._wait(ticket)


class Endpoint:
    """
    An endpoint of a pool in one process.

    Attributes:
        index: Its place in the pool.
        name: Its name.
        limiter: Its limiter.
        rank: Its rank.
        breaker: Leaves it out if it fails.
        rests_until: When its service lets calls start again, by its own word.
        in_flight: Calls of the pool that are there, but those that its limiter alone counts.
        answered: Calls that it answered.
        rate_limited: Calls that it refused.
        failed: Calls that failed there.
        peak: Most of these calls that were there at once.
        served: Calls that have gone there, those included that it would have had while it was left out.
        claims: The claims that wait at its limiter.
        max_claims: How many of them there may be.
        on_slot: Called with a claim that is admitted; returns whether a call uses it.
    """

    __slots__ = (
        "_weight",
        "answered",
        "breaker",
        "claims",
        "failed",
        "in_flight",
        "index",
        "limiter",
        "max_claims",
        "name",
        "on_slot",
        "peak",
        "rank",
        "rate_limited",
        "rests_until",
        "served",
    )

    def __init__(
        self, index: int, spec: EndpointSpec, policy: BreakerPolicy, on_slot: Callable[[Slot], bool]
    ) -> None:
        self.index: int = index
        self.name: str = spec.name
        self.limiter: ConcurrencyLimiter = spec.limiter
        self.rank: int = spec.rank
        self.breaker: CircuitBreaker = CircuitBreaker(policy)
        self.rests_until: float = -inf
        self.in_flight: int = 0
        self.peak: int = 0
        self.answered: int = 0
        self.rate_limited: int = 0
        self.failed: int = 0
        self.served: float = 0.0
        self.claims: dict[Slot, None] = {}
        self.on_slot: Callable[[Slot], bool] = on_slot
        self.max_claims: int = MAX_CLAIMS if spec.is_shared else 1
        self._weight = spec.weight

    @property
    def weight(self) -> float:
        """Its share of the calls, relative to the others."""
        return (self.limiter.limit or 1) if self._weight is None else self._weight

    @property
    def load(self) -> tuple[float, float]:
        """What decides between endpoints that have room: calls in flight, then calls so far, both by weight."""
        weight = self.weight
        return self.in_flight / weight, self.served / weight

    def catch_up(self, others: Sequence[Endpoint]) -> None:
        """Do not make up for the calls that went to the others while this one was left out."""
        self.served = self.weight * max(other.served / other.weight for other in others)

    def statistics(self, now: float, *, is_alone: bool) -> EndpointStatistics:
        """
        Return its state, and its calls so far.

        Args:
            now: The time, on the clock of the calls.
            is_alone: Whether all calls that pass its limiter are those of the pool.
        """
        breaker = self.breaker
        status: EndpointStatus = "in service" if self.rests_until <= now else "resting"
        if breaker.state != CLOSED:
            status = "left out" if breaker.state == OPEN else "probing"
        counts = self.limiter.statistics() if is_alone else self
        return EndpointStatistics(
            status,
            self.limiter.limit,
            counts.in_flight,
            counts.peak,
            self.answered + self.rate_limited + self.failed,
            self.answered,
            self.rate_limited,
            self.failed,
            breaker.times_out,
            breaker.error,
        )


ErrorKind: TypeAlias = Literal["fatal", "error", "refused", "request", "neutral"]
"""
What an error says of an endpoint: "fatal", each further call would meet it; "error", it failed; "refused", it has no
room; "request", it has read the request and cannot take it; "neutral", nothing.
"""


def error_kind(error: BaseException) -> ErrorKind:
    """Return what an error says of the endpoint that raised it."""
    if isinstance(error, ConfigurationError):
        return "neutral" if error.of_one_item else "fatal"
    if isinstance(error, OutputError):
        return "request"
    if not isinstance(error, BackendError):
        return "neutral"
    if isinstance(error, STOPS_THE_RUN):
        return "fatal"
    if isinstance(error, RateLimited):
        return "refused"
    if isinstance(error, TransientBackendError):
        return "neutral" if is_local_shortage(error) else "error"
    if isinstance(error, SubmissionUnknown) or is_refusal_of_all(error):
        return "error"
    return "request"


def is_refusal_of_all(error: BaseException) -> bool:
    """Return whether an endpoint may refuse any request like this: a model that is not there, a region, an address."""
    if not isinstance(error, PermanentBackendError) or isinstance(error, ContentRefused):
        return False
    return error.status in (403, 404)
