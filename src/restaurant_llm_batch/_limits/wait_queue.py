"""
Wait queue: tickets in order of priority and arrival, the base of the limiters' state machines.

Tickets of runs with a `Client` wait in lanes, one for each client; see `clients`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from heapq import heapify, heappop, heappush, heapreplace, nsmallest
from typing import TypeAlias

from .aimd import CallResult, Timing
from .clients import NOBODY, Client, Lane, Lanes

# Plain integers: members of an Enum take longer to look up than the rest of an admission takes.
_NEW, _WAITING, _ADMITTED, _GONE = range(4)


class Ticket(ABC):
    """
    One call's place in the queue of a limiter (as in a ticket lock).

    Attributes:
        priority: Lower goes first.
        sequence: Among equal priorities, lower goes first: when the item that calls entered the window.
        weight: Slots that the ticket takes.
        client: Whose call it is; None for none.
        in_flight_at_admission: Slots taken when it was admitted, its own included.
        epoch: For an adaptive limit, its epoch at admission; for a rate limit, the number of the call.
        timing: How long its call took, for an adaptive limit that follows latency; None otherwise.
        lane: Where the tickets of its client wait, from when it is queued; None without a client.
        is_counted: Whether its slots are counted as those of the lane.
    """

    __slots__ = (
        "client",
        "epoch",
        "in_flight_at_admission",
        "is_counted",
        "lane",
        "priority",
        "sequence",
        "state",
        "timing",
        "weight",
    )

    priority: int
    sequence: float
    weight: int
    client: Client | None
    in_flight_at_admission: int
    epoch: int
    timing: Timing | None
    state: int
    lane: Lane | None
    is_counted: bool

    @abstractmethod
    def on_admitted(self) -> object:
        """
        Go on: the ticket is admitted after having waited. Called once, in the thread that freed the slot.

        It must not block.

        Returns:
            False if the caller has gone: then the slot passes to the next waiter.
        """


class CallbackTicket(Ticket):
    """
    A ticket that calls a function when it is admitted.

    Args:
        callback: Does what `on_admitted` is to do.
        priority: Lower goes first.
        sequence: Among equal priorities, lower goes first.
        weight: Slots that the ticket takes.
        client: Whose call it is; None for none.
    """

    __slots__ = ("callback",)

    def __init__(
        self,
        callback: Callable[[], object],
        priority: int = 0,
        sequence: float = 0,
        weight: int = 1,
        client: Client | None = None,
    ) -> None:
        self.callback: Callable[[], object] = callback
        self.priority = priority
        self.sequence = sequence
        self.weight = weight
        self.client = client
        self.in_flight_at_admission = 0
        self.epoch = 0
        self.timing: Timing | None = None
        self.state = _NEW
        self.lane: Lane | None = None
        self.is_counted = False

    def on_admitted(self) -> object:
        """Call the function."""
        callback = self.callback
        return callback()


Queued: TypeAlias = tuple[int, float, int, Ticket]
"""A ticket in a heap, at a position: its priority, its sequence, and the order of enqueueing."""


class PriorityWaitQueue(ABC):
    """
    A priority queue of tickets; the base of the limiters' states. Its methods return the tickets they admit.

    A ticket and the numbers of those that wait and are in flight change in one statement without a call, which no
    interrupt splits: whatever an interrupt leaves undone, cancelling or releasing the ticket undoes.

    Tickets are admitted by (priority, sequence, order of enqueueing), those of a client among themselves. The ticket
    that goes next is never overtaken, not even by a lighter one.

    Attributes:
        waiting: Number of tickets that wait.
        set_watchers: Called when a user has set the limit.
        lanes: The lanes of clients; None while there are none.
    """

    __slots__ = ("_enqueued", "_heaps", "_queue", "lanes", "set_watchers", "waiting")

    def __init__(self) -> None:
        self.waiting: int = 0
        self.set_watchers: list[Callable[[], object]] = []
        self.lanes: Lanes | None = None
        self._enqueued = 0
        self._queue: list[Queued] = []  # tickets without a client
        self._heaps: dict[Lane, list[Queued]] = {}

    def enqueue(self, ticket: Ticket) -> bool:
        """Queue a new ticket and return whether it is admitted at once; enqueueing admits no other ticket."""
        if ticket.client is not None:
            self._join(ticket, ticket.client)
        if not self.waiting:
            if self._fits(ticket):
                self._enter(ticket)
                return True
            self._wait(ticket)
            return False
        self._wait(ticket)
        # None of the others fits, so it is admitted only if it goes before all of them.
        first = self.peek() if self._heaps else self._queue[0][3]
        if first is not ticket or not self._fits(ticket):
            return False
        self._enter(ticket)
        if not self._heaps:
            heappop(self._queue)
        return True

    def _join(self, ticket: Ticket, client: Client) -> None:
        """Give a new ticket the lane of its client."""
        if self.lanes is None:
            self.lanes = Lanes()
        ticket.lane = self.lanes.lane(client, self._heaps)

    def _wait(self, ticket: Ticket) -> None:
        ticket.state, self.waiting = _WAITING, self.waiting + 1
        self._enqueued += 1
        heap = self._queue if ticket.lane is None else self._heap(ticket.lane)
        heappush(heap, (ticket.priority, ticket.sequence, self._enqueued, ticket))

    def _heap(self, lane: Lane) -> list[Queued]:
        heap = self._heaps.get(lane)
        if heap is None:
            heap = self._heaps[lane] = []
        if not heap and self.lanes is not None:
            self.lanes.begin_waiting(lane)
        return heap

    def cancel(self, ticket: Ticket) -> list[Ticket]:
        """Remove a ticket that waits, or release one that was just admitted."""
        if ticket.state is _WAITING:
            # It stays in the heap until it surfaces, or until most of the heap is cancelled.
            ticket.state, self.waiting = _GONE, self.waiting - 1
            heap = self._queue if ticket.lane is None else self._heaps.get(ticket.lane, [])
            if len(heap) > 2 * self.waiting + 64:
                heap[:] = [queued for queued in heap if queued[3].state == _WAITING]
                heapify(heap)
            return self._admit()
        return self.release(ticket)

    def reprioritise(
        self, ticket: Ticket, priority: int, sequence: float, client: Client | None = None
    ) -> list[Ticket]:
        """
        Move a waiting ticket forward, to the position of one with this priority and sequence.

        Args:
            ticket: The ticket.
            priority: The priority.
            sequence: The sequence.
            client: Whose call has that position. If it is another client, the ticket waits there besides.
        """
        if ticket.state is not _WAITING:
            return []
        self._enqueued += 1
        own = NOBODY if ticket.lane is None else ticket.lane.client
        if client is not None and client.name != own.name:
            self.lanes = self.lanes or Lanes()
            heap = self._heap(self.lanes.lane(client, self._heaps))
        elif (priority, sequence) >= (ticket.priority, ticket.sequence):
            return []
        else:
            ticket.priority, ticket.sequence = priority, sequence
            heap = self._queue if ticket.lane is None else self._heap(ticket.lane)
        heappush(heap, (priority, sequence, self._enqueued, ticket))  # its old position is skipped
        return self._admit()  # it may be lighter than the one that was first

    def release(self, ticket: Ticket, outcome: CallResult = "other", now: float = 0.0) -> list[Ticket]:
        """Free the slots of an admitted ticket; any other ticket is ignored."""
        if ticket.state is not _ADMITTED:
            return []
        if ticket.lane is not None:
            ticket.lane.leave(ticket)
        self._left(ticket, outcome, now)
        return self._admit()

    def peek(self) -> Ticket | None:
        """Return the waiting ticket that goes next, or None."""
        if not self._heaps:
            return _first(self._queue)
        lanes = self.lanes
        assert lanes is not None  # heaps of lanes are made for these
        heads = self.heads()
        return lanes.first(heads, self._slots()) if heads else None

    def heads(self) -> list[tuple[Lane, Ticket]]:
        """Return the first waiting ticket of each client, with its lane."""
        found: list[tuple[Lane, Ticket]] = []
        for lane, heap in list(self._heaps.items()):
            first = _first(heap)
            if first is None:
                del self._heaps[lane]
            else:
                found.append((lane, first))
        first = _first(self._queue)
        if first is not None and self.lanes is not None:
            found.append((self.lanes.of_nobody, first))
        return found

    def in_order(self, most: int) -> list[Ticket]:
        """Return the first `most` waiting tickets, in order."""
        if self._heaps:
            return self._in_order_of_lanes(most)
        return [queued[3] for queued in nsmallest(most, filter(_is_current, self._queue))]

    def _in_order_of_lanes(self, most: int) -> list[Ticket]:
        """Return the first tickets as they go if calls hold no slots: by what the lanes were served."""
        lanes, next_one = self.lanes, self.peek()
        assert lanes is not None  # heaps of lanes are made for these
        waiting = [(lane, sorted(filter(_is_current, heap))) for lane, heap in self._heaps.items()]
        waiting.append((lanes.of_nobody, sorted(filter(_is_current, self._queue))))
        turns = [(lane.served, number, 0) for number, (lane, own) in enumerate(waiting) if own]
        heapify(turns)
        found: dict[Ticket, None] = {} if next_one is None else {next_one: None}
        while turns and len(found) < most:
            served, number, place = turns[0]
            lane, own = waiting[number]
            ticket = own[place][3]
            found[ticket] = None
            if place + 1 < len(own):
                heapreplace(turns, (served + lanes.cost(lane, ticket), number, place + 1))
            else:
                heappop(turns)
        return list(found)

    def waiting_weights(self) -> dict[Lane | None, int]:
        """Return the slots that the waiting tickets of each lane take together; None is for those without a client."""
        heaps = [(None, self._queue), *self._heaps.items()]
        return {lane: sum(queued[3].weight for queued in heap if _is_current(queued)) for lane, heap in heaps}

    @property
    def busy_lanes(self) -> Iterable[Lane]:
        """The lanes in which tickets may wait."""
        return self._heaps

    @property
    def waiting_weight(self) -> int:
        """Slots that the waiting tickets take together."""
        return sum(self.waiting_weights().values())

    @abstractmethod
    def _fits(self, ticket: Ticket) -> bool:
        """Return whether a ticket may be admitted now."""

    def _slots(self) -> int | None:
        """Return how many slots there are; None if tickets hold none."""
        return None

    def _enter(self, ticket: Ticket) -> None:
        """Admit a ticket, which may have waited."""
        ticket.state, self.waiting = _ADMITTED, self.waiting - (ticket.state is _WAITING)
        if self.lanes is not None:
            self._count(ticket, self.lanes)

    def _count(self, ticket: Ticket, lanes: Lanes) -> None:
        """Count the admission of a ticket, where tickets have clients."""
        if ticket.lane is None:
            ticket.lane = lanes.of_nobody
        lanes.serve(ticket.lane, ticket)

    def _left(self, ticket: Ticket, outcome: CallResult, now: float) -> None:
        """Free the slots that a ticket held."""
        ticket.state = _GONE

    def _admit(self) -> list[Ticket]:
        if self._heaps:
            return self._admit_by_lanes()
        queue = self._queue
        if not queue:
            return []
        admitted: list[Ticket] = []
        while queue:
            ticket = queue[0][3]
            if ticket.state is _WAITING:  # otherwise it was cancelled, or admitted from a better position
                if not self._fits(ticket):
                    break
                self._enter(ticket)
                admitted.append(ticket)
            heappop(queue)
        return admitted

    def _admit_by_lanes(self) -> list[Ticket]:
        admitted: list[Ticket] = []
        while (ticket := self.peek()) is not None and self._fits(ticket):
            self._enter(ticket)
            admitted.append(ticket)
        return admitted


def _first(heap: list[Queued]) -> Ticket | None:
    """Return the first ticket in a heap that waits, and drop those before it; None if none does."""
    while heap and heap[0][3].state is not _WAITING:
        heappop(heap)
    return heap[0][3] if heap else None


def _is_current(queued: Queued) -> bool:
    """Return whether a ticket waits, and at this position: it keeps those from which it was moved forward."""
    priority, sequence, _, ticket = queued
    return ticket.state is _WAITING and (ticket.priority, ticket.sequence) == (priority, sequence)
