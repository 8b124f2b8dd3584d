"""
The call path's body: one attempt at one backend call, the same for every driver.

A `Call` passes its gates one after the other, is begun when the last one lets it in, and frees its slots when
the backend has really returned: for a blocking call whose run was given up, that is when its thread does.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any

from ..adaptive import Outcome
from ..errors import RateLimited, TransientBackendError
from ..gate import Gate, Ticket
from ..report import Stage
from .meter import Meter
from .plan import Line
from .wake import Home


class Call:
    """
    One attempt at one backend call; also the step by which a policy flow asks a driver for it.

    Attributes:
        line: The backend's method, and whether it is awaited.
        argument: What it is called with.
        stage: "search" or "llm".
        what: The aspect, or the request's task name.
        weight: Slots it needs.
        tokens: Tokens it needs of the gate that counts tokens, and that gate; or None.
        attempt: 1 for the first try.
        asked_at: When it began to wait for its gates; 0.0 before.
        began_at: When the backend was called; 0.0 before.
        outcome: What became of it, as its gates are told.
        until: When its time is up; None for never.
        late: What is raised then.
        over: Whether its flow has gone on; a late blocking call comes back afterwards.
        owner: Whatever the driver needs to find its way back.
    """

    __slots__ = (
        "_home",
        "_start",
        "_tickets",
        "argument",
        "arrival",
        "asked_at",
        "attempt",
        "began_at",
        "gates",
        "late",
        "line",
        "meter",
        "outcome",
        "over",
        "owner",
        "priority",
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
        self.tokens: tuple[int, Gate] | None = None
        self.owner: Any = None
        self.withdrawn = False
        self._tickets: list[Ticket] = []

    def seek(self, home: Home, start: Callable[[Call], object]) -> None:
        """Pass the gates; `start` is then called with this call, at home, perhaps before this returns."""
        self._home = home
        self._start = start
        self.asked_at = monotonic()
        self._ask_next()

    def _ask_next(self) -> None:
        if self.withdrawn:
            return
        tickets = self._tickets
        for gate in self.gates[len(tickets) :]:
            weight = self.weight
            if self.tokens is not None and self.tokens[1] is gate:
                weight = self.tokens[0]
            ticket = Ticket(self._admitted, self.priority, self.arrival, weight)
            tickets.append(ticket)
            if not gate.ask(ticket):
                return
        self._start(self)

    def _admitted(self) -> bool:
        return self._home.post(self._ask_next)

    def withdraw(self) -> None:
        """Give up before the call has begun."""
        self.withdrawn = True
        for gate, ticket in zip(self.gates, self._tickets, strict=False):
            gate.withdraw(ticket)
        self._tickets.clear()

    def came_back(self, error: BaseException | None) -> None:
        """Note what the backend did, for the gates to learn from."""
        if error is None:
            self.outcome = "answered"
        elif isinstance(error, RateLimited):
            self.outcome = "refused"
        elif isinstance(error, TransientBackendError):
            self.outcome = "troubled"

    def leave(self) -> None:
        """Free the slots; the backend has returned. To be called once, by whoever called the backend."""
        self.meter.leave(self.stage, self.weight)
        for gate, ticket in zip(self.gates, self._tickets, strict=False):
            gate.done(ticket, self.outcome)
        self._tickets.clear()  # they know their call: without this, only the garbage collector could free it

    def run_blocking(self) -> tuple[Any, BaseException | None]:
        """Call a blocking backend in this thread and return its answer, or what it raised."""
        try:
            return self.line.method(self.argument), None
        except BaseException as error:
            return None, throwable(error)


def throwable(error: BaseException) -> BaseException:
    """Return what stands for `error` in a flow."""
    # Thrown into a generator, a StopIteration would read as the flow's end.
    if isinstance(error, StopIteration):
        replacement = RuntimeError("the backend raised StopIteration")
        replacement.__cause__ = error
        return replacement
    return error
