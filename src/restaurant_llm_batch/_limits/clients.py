"""
Clients with shares: whose call goes next where calls of several clients wait (weighted fair queueing).

Theory of operation. In a queue, each client has a *lane*: its own calls, in their usual order. A free slot goes to the
first call of a lane. Its *part* is the limit divided among the clients that have calls here, in proportion to their
shares. Lanes that wait are chosen in this order:

| the lane has | chosen among these |
|---|---|
| fewer slots than its part, rounded down | the lane that was served least for its share |
| fewer slots than its part | the lane that was served least for its share |
| more, since others do not use theirs | the lane with the fewest slots for its share |

So a client whose calls wait has its part, rounded down, as soon as calls of others end, however many calls these have
and however long they take. What the rounding leaves goes round, and slots that a client does not use work for others.

"Served least" is start-time fair queueing (https://doi.org/10.1109/90.649569): each admission moves the *virtual time*
of its lane on by its slots, divided by the share. A lane that was empty begins at that of the latest admission: no
client saves up what it did not use.

Under limits per minute no call holds a slot, so there it is the second line of the table alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from math import floor
from types import MappingProxyType
from typing import Protocol, TypeVar

from .._validation import is_number
from ..errors import ConfigurationError

MOST_SHARE = 1000
MOST_IDLE = 256
"""Lanes above which those without calls are forgotten, and with them how often they were served."""
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Client:
    """
    Whom a run is made for, with a share of the runner's limits.

        await runner.arun(SummarizeAspects(), restaurants, client=Client("shop", share=3))

    While calls of several clients wait, each client gets its share of every limit, whatever the others do; a share that
    a client does not use works for the others. The order of priorities and arrival holds among the calls of one client.
    Runs without a client are one client more, with a share of 1.

    Args:
        name: Its name. Clients of equal names are one.
        share: Its share, relative to those of the other clients.

    Raises:
        ConfigurationError: If the name is no text, or the share no number from 0.001 to 1,000.
    """

    name: str
    share: float = 1.0

    def __post_init__(self) -> None:
        name: object = self.name
        if not isinstance(name, str):
            raise ConfigurationError(f'the name of a Client must be a text, got {name!r}; for example "shop"')
        share: object = self.share
        if not is_number(share) or not 1 / MOST_SHARE <= share <= MOST_SHARE:
            raise ConfigurationError(
                f"the share of a Client must be a number from {1 / MOST_SHARE:g} to {MOST_SHARE:,}, got {share!r}; for "
                'example Client("shop", share=3)'
            )


class Counted(Protocol):
    """A ticket: its position, its slots, and whether these are counted as those of its lane."""

    priority: int
    sequence: float
    weight: int
    is_counted: bool


CountedT = TypeVar("CountedT", bound=Counted)

NOBODY = Client("")
"""The client of runs that have none, where others have one."""


class Lane:
    """
    What a client has at a limiter.

    Attributes:
        client: The client.
        in_use: Slots that its calls have.
        served: Its virtual time: how often it was served, by its share.
    """

    __slots__ = ("client", "in_use", "served")

    def __init__(self, client: Client, served: float = 0.0) -> None:
        self.client: Client = client
        self.in_use: int = 0
        self.served: float = served

    def enter(self, ticket: Counted) -> None:
        """Count the slots of a ticket that is admitted. Doing it again does nothing."""
        if not ticket.is_counted:
            # In one statement, which no interrupt splits; likewise below.
            ticket.is_counted, self.in_use = True, self.in_use + ticket.weight

    def leave(self, ticket: Counted) -> None:
        """Count them no more. Doing it again does nothing."""
        if ticket.is_counted:
            ticket.is_counted, self.in_use = False, self.in_use - ticket.weight


class Lanes:
    """The lanes at a limiter, and which of them goes next."""

    __slots__ = ("_lanes", "_unit", "_virtual_time", "_weights")

    def __init__(self) -> None:
        self._weights: Mapping[str, float] = MappingProxyType({})
        self._unit = 1.0
        self._lanes: dict[str, Lane] = {}
        self._virtual_time = 0.0

    def lane(self, client: Client, busy: Iterable[Lane] = ()) -> Lane:
        """
        Return the lane of a client.

        Args:
            client: The client. If its share has changed, the new one holds from now on.
            busy: The lanes that have calls that wait.
        """
        lane = self._lanes.get(client.name)
        if lane is None:
            if len(self._lanes) >= MOST_IDLE:
                kept = {*busy, *self.in_use()}
                self._lanes = {name: one for name, one in self._lanes.items() if one in kept}
            lane = self._lanes[client.name] = Lane(client, self._virtual_time)
        elif lane.client is not client:
            lane.client = client
        return lane

    @property
    def of_nobody(self) -> Lane:
        """The lane of tickets without a client."""
        return self._lanes.get(NOBODY.name) or self.lane(NOBODY)

    def begin_waiting(self, lane: Lane) -> None:
        """Note that a lane that was empty has a call that waits."""
        lane.served = max(lane.served, self._virtual_time)

    def serve(self, lane: Lane, ticket: Counted) -> None:
        """Move the virtual time of a lane on: a ticket of it is admitted."""
        self._virtual_time = max(lane.served, self._virtual_time)
        lane.served = self._virtual_time + self.cost(lane, ticket)

    def cost(self, lane: Lane, ticket: Counted) -> float:
        """Return by how much an admission moves the virtual time of a lane on."""
        return max(1, ticket.weight) / self._share(lane)

    def _share(self, lane: Lane) -> float:
        client = lane.client
        return self._weights.get(client.name) or client.share * self._unit

    def weigh(self, weights: Mapping[str, float]) -> None:
        """
        Use other numbers than the shares, so that these hold over several processes.

        Args:
            weights: The numbers by client, in any unit. Those of clients that are not in it follow from their shares.
        """
        self._weights = weights
        known = [(weights[name], lane.client.share) for name, lane in self._lanes.items() if name in weights]
        self._unit = max((weight / share for weight, share in known), default=1.0)

    def in_use(self) -> Iterable[Lane]:
        """Return the lanes that have slots."""
        return [lane for lane in self._lanes.values() if lane.in_use]

    def first(self, heads: Collection[tuple[Lane, CountedT]], limit: int | None) -> CountedT:
        """
        Return the ticket that goes next.

        Args:
            heads: The first tickets of the lanes, at least one.
            limit: The slots that there are; None if calls hold none.
        """
        if len(heads) == 1:
            return next(iter(heads))[1]
        active = dict.fromkeys([*self.in_use(), *(lane for lane, _ in heads)])
        total = sum(map(self._share, active))

        def order(head: tuple[Lane, CountedT]) -> tuple[int, float, float, str, int, float]:
            lane, ticket = head
            share, excess, slots = self._share(lane), 0, 0.0
            if limit is not None:
                part = limit * share / total
                excess = (lane.in_use >= floor(part + _ROUNDING)) + (lane.in_use >= part - _ROUNDING)
                slots = lane.in_use / share if excess == 2 else 0.0
            # By name, so that the tickets of one lane are together; a client's priorities are for its own calls.
            return excess, slots, lane.served, lane.client.name, ticket.priority, ticket.sequence

        return min(heads, key=order)[1]
