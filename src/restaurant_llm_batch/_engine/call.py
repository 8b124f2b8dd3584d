"""
The call path's body: one attempt at one backend call, the same for every driver.

A `Call` passes its gates one after the other, is begun when the last one lets it in, and frees its slots when
the backend has really returned: for a blocking call whose run was given up, that is when its thread does.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any

from .._limits.aimd import Outcome
from .._limits.concurrency import Gate, Ticket
from .._limits.rate import RateGate
from ..cancellation import GivenUp
from ..errors import RateLimited, TransientBackendError
from ..outcomes import Stage
from .mailbox import Home
from .plan import Line
from .stats import Meter

if TYPE_CHECKING:
    from .._store.inflight import Question


class Call:
    """
    One attempt at one backend call; also the step by which a policy flow asks a driver for it.

    Attributes:
        line: The backend's method, and whether it is awaited.
        argument: What it is called with.
        stage: "search" or "llm".
        what: The aspect, or the request's task name.
        weight: Slots it needs.
        by_tokens: That one of its gates that counts tokens instead of calls, or None.
        tokens: Tokens it needs of the gates that count them; 0 while none does.
        count: Counts them, from its argument.
        rate: The gate for limits per minute, after all the others; None for a call that is not counted there.
        rate_ticket: Its ticket there; None while there is nothing to hold.
        attempt: 1 for the first try.
        asked_at: When it began to wait for its gates; 0.0 before.
        began_at: When the backend was called; 0.0 before.
        outcome: What became of it, as its gates are told.
        until: When its time is up; None for never.
        late: What is raised then.
        over: Whether its flow has gone on, or is about to; a late blocking call comes back afterwards.
        landed: Whether the backend has returned.
        home: Where its run lives, once it seeks admission.
        question: The question in flight that it asks, or None.
        given_up: What tells a blocking backend that nobody waits any more; None before it is called.
        scope: What the cancellation of an awaited call comes through; None while it is not being made.
        owner: Whatever the driver needs to find its way back.
    """

    __slots__ = (
        "_start",
        "_tickets",
        "argument",
        "arrival",
        "asked_at",
        "attempt",
        "began_at",
        "by_tokens",
        "count",
        "gates",
        "given_up",
        "home",
        "landed",
        "late",
        "line",
        "meter",
        "outcome",
        "over",
        "owner",
        "priority",
        "question",
        "rate",
        "rate_ticket",
        "scope",
        "stage",
        "tokens",
        "until",
        "weight",
        "what",
        "withdrawn",
    )

    def __init__(
        self,
        line: Line,
        argument: Any,
        stage: Stage,
        what: str,
        attempt: int,
        gates: tuple[Gate, ...],
        priority: int,
        arrival: float,
        meter: Meter,
        weight: int = 1,
    ) -> None:
        self.line = line
        self.argument = argument
        self.stage = stage
        self.what = what
        self.attempt = attempt
        self.gates = gates
        self.priority = priority
        self.arrival = arrival
        self.meter = meter
        self.weight = weight
        self.asked_at = 0.0
        self.began_at = 0.0
        self.outcome: Outcome = "other"
        self.until: float | None = None
        self.late: Exception | None = None
        self.over = False
        self.landed = False
        self.home: Home | None = None
        self.question: Question | None = None
        self.given_up: GivenUp | None = None
        self.scope: Any = None
        self.tokens = 0
        self.count: Callable[[Any], int] | None = None
        self.by_tokens: Gate | None = None
        self.rate: RateGate | None = None
        self.rate_ticket: Ticket | None = None
        self.owner: Any = None
        self.withdrawn = False
        self._tickets: list[Ticket] = []

    def seek(self, home: Home, start: Callable[[Call], object]) -> None:
        """Pass the gates; `start` is then called with this call, at home, perhaps before this returns."""
        self.home = home
        self._start = start
        self.asked_at = monotonic()
        self._ask_next()

    def _ask_next(self) -> None:
        if self.withdrawn:
            return
        tickets = self._tickets
        for gate in self.gates[len(tickets) :]:
            weight = self.tokens if gate is self.by_tokens else self.weight
            ticket = Ticket(self._admitted, self.priority, self.arrival, weight)
            tickets.append(ticket)
            if not gate.ask(ticket):
                return
        if self.rate is not None and self.rate.active and self.rate_ticket is None:
            if self.rate.counts_tokens and not self.tokens:
                self._weigh()  # that was learned while it waited for a slot
            self.rate_ticket = Ticket(self._admitted, self.priority, self.arrival, self.tokens)
            if not self.rate.ask(self.rate_ticket):
                return
        self._start(self)

    def _weigh(self) -> None:
        if self.count is not None:
            with suppress(
                Exception
            ):  # a user's counter; where its failure belongs to an item, it is asked again
                self.tokens = self.count(self.argument)

    def _admitted(self) -> bool:
        return self.home is not None and self.home.post(self._ask_next)

    @property
    def is_out(self) -> bool:
        """Whether it is at the backend."""
        return self.began_at > 0.0 and not self.landed

    def lift(self, priority: int, arrival: float) -> None:
        """Have it admitted no later than one of this priority and arrival; from any thread."""
        if self.began_at or (priority, arrival) >= (self.priority, self.arrival):
            return
        if self.home is None:
            self._lift(priority, arrival)  # it has not asked any gate yet
        else:
            self.home.post(lambda: self._lift(priority, arrival))

    def _lift(self, priority: int, arrival: float) -> None:
        if (priority, arrival) < (self.priority, self.arrival):
            self.priority, self.arrival = priority, arrival  # at the gates that it has yet to come to
            for gate, ticket in zip(self.gates, self._tickets, strict=False):
                gate.lift(ticket, priority, arrival)
            if self.rate is not None and self.rate_ticket is not None:
                self.rate.lift(self.rate_ticket, priority, arrival)

    def land(self, answer: Any) -> None:
        """Note that the backend has returned, before the call's flow hears of it; in whichever thread it did."""
        if self.question is None:
            self.landed = True
        else:
            self.question.came_back(self, answer)

    def give_up(self) -> None:
        """Tell a blocking backend that nobody waits any more; from any thread."""
        if self.given_up is not None:
            self.given_up.set()

    def give_up_unless_wanted(self) -> None:
        """Give up, unless another run waits for the answer."""
        if self.question is None or not self.question.wanted:
            self.give_up()

    def shelter(self) -> bool:
        """
        Have a cancellation of its run pass an awaited call by while another run waits; from any thread.

        Returns:
            False when its loop is gone, and it with it.
        """
        return not self.line.native or self.home is None or self.home.post_bare(self._shelter)

    def _shelter(self) -> None:
        if self.scope is not None and self.question is not None:
            self.scope.shield = self.question.wanted

    def withdraw(self) -> None:
        """Give up before the call has begun."""
        self.withdrawn = self.over = True
        for gate, ticket in zip(self.gates, self._tickets, strict=False):
            gate.withdraw(ticket)
        self._tickets.clear()
        if self.rate is not None and self.rate_ticket is not None:
            self.rate.withdraw(self.rate_ticket)

    def came_back(self, error: BaseException | None) -> None:
        """Note what the backend did, for the gates to learn from."""
        if error is None:
            self.outcome = "answered"
        elif isinstance(error, RateLimited):
            # Refused because its minute is used up, it says nothing about how many may be in flight.
            spent = error.rate is not None and error.rate.lacks(self.tokens)
            self.outcome = "other" if spent else "refused"
        elif isinstance(error, TransientBackendError):
            self.outcome = "troubled"

    def leave(self) -> None:
        """Free the slots: the backend has returned, or was never called. For whoever began the call, once."""
        if not self.landed:
            self.land(None)
        self.meter.leave(self.stage, self.weight)
        for gate, ticket in zip(self.gates, self._tickets, strict=False):
            gate.done(ticket, self.outcome)
        self._tickets.clear()  # they know their call: without this, only the garbage collector could free it

    def run_blocking(self) -> tuple[Any, BaseException | None]:
        """Call a blocking backend in this thread and return its answer, or what it raised."""
        answer: Any = None
        error: BaseException | None = None
        try:
            answer = self.line.method(self.argument)
        except BaseException as raised:
            error = throwable(raised)
        self.land(answer)
        return answer, error


def throwable(error: BaseException) -> BaseException:
    """Return what stands for `error` in a flow."""
    # Thrown into a generator, a StopIteration would read as the flow's end.
    if isinstance(error, StopIteration):
        replacement = RuntimeError("the backend raised StopIteration")
        replacement.__cause__ = error
        return replacement
    return error
