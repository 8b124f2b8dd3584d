"""
Borrower: one process's share of a limit, a `ConcurrencyState` whose limit is what the broker lends.

Theory of operation. The share may be used until `_loan_end`, on this process's own clock, counted from before it was
asked for. The clock is read at each admission, so a process that was paused admits nothing after its loan has ended.
Only an answer raises the share. It is lowered before the message that says so is sent: a message says what may be in
use until its answer is there (`held`), and no admission afterwards makes that untrue.

| when | the share | next message |
|---|---|---|
| the first call waits | 0 | at once |
| calls wait, here or at another member | what was lent | after `interval` |
| no call waits, slots are held | what was lent | after `CALM_SECONDS` |
| others wait, and a slot has become free that is asked for | lower | at once |
| nothing was in use since the last message | 0 | with this change, then none |
| the broker does not answer | what was lent, until the loan ends; then `without_broker` | after `interval` |

"At once" keeps to the message budget: at most `BURST` at once, and one for each `interval` on average.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from math import inf

from .._limits.aimd import HISTORY_LIMIT, CallResult, LimitHistoryEntry
from .._limits.concurrency import ConcurrencyState
from .._limits.wait_queue import _ADMITTED, _GONE, _WAITING, Ticket
from ..outcomes import Reason
from ._messages import TRUSTED_SECONDS, Answer, Ask, ClientAsk, Result, Terms

CALM_SECONDS = 0.5
"""Seconds between two messages of a member that holds slots, while no call waits anywhere."""
SOON_SECONDS = 0.1
"""Seconds after which a member whose last call has just ended says whether it has made another."""
BURST = 3
"""Messages that may be sent at once."""


class BorrowedState(ConcurrencyState):
    """
    The state of a `SharedLimiter` in one process.

    Args:
        terms: The limit that is declared.
        member: The member's random name.
        label: Host and process, for people.
        interval: Least seconds between two messages, on average.
        without_broker: Slots to use while the broker cannot be reached and the loan has ended.
        clock: The clock of loans, in seconds; it goes on while the computer sleeps.
        run_clock: The clock of the runs.
        nudge: Called when the next message is due earlier than planned; it must not block.
        starts_wait: Returns whether calls wait for the limits per minute.

    Attributes:
        lent: Slots that the broker counts as lent to this process.
        total: The whole limit, as the broker last said; 0 before.
        turn: Number of the latest message; 0 before the first.
        due: When the next message is due, on the clock of loans; None for none.
        error: Why the broker did not answer the latest message; "" if it did.
        refused: Why the broker lends nothing; "" if it does not refuse.
        history: The latest changes of the share.
    """

    __slots__ = (
        "_active",
        "_asked",
        "_budget_full_at",
        "_interval",
        "_label",
        "_loan_end",
        "_member",
        "_nudge",
        "_others_wait",
        "_reason",
        "_results",
        "_run_clock",
        "_satisfied",
        "_starts_wait",
        "_terms",
        "_to_set",
        "_without_broker",
        "clock",
        "due",
        "epoch",
        "error",
        "learns",
        "lent",
        "refused",
        "total",
        "turn",
    )

    def __init__(
        self,
        terms: Terms,
        member: str,
        label: str,
        interval: float,
        without_broker: int,
        clock: Callable[[], float],
        run_clock: Callable[[], float],
        nudge: Callable[[], object],
        starts_wait: Callable[[], object],
    ) -> None:
        super().__init__(1)
        self.limit = 0
        self.lent = 0
        self.total = 0
        self.epoch = 0
        self.due: float | None = None
        self.error = ""
        self.refused = ""
        self.clock = clock
        self.learns = not isinstance(terms.limit, int)
        self.history = deque([LimitHistoryEntry(run_clock(), 0, "share")], HISTORY_LIMIT)
        self._terms = terms
        self._member = member
        self._label = label
        self._interval = interval
        self._without_broker = without_broker
        self._run_clock = run_clock
        self._nudge = nudge
        self._starts_wait = starts_wait
        self._loan_end = -inf
        self.turn = 0
        self._asked: tuple[float, int] = (0.0, 0)  # when, and for how many slots
        self._active = False
        self._others_wait = False
        self._satisfied = False
        self._reason: Reason = "share"
        self._results: Counter[tuple[CallResult, int, int]] = Counter()
        self._to_set: int | None = None
        self._budget_full_at = -inf

    # Admission

    def enqueue(self, ticket: Ticket) -> bool:
        """Queue a new ticket and return whether it is admitted at once; enqueueing admits no other ticket."""
        admitted = super().enqueue(ticket)
        if not admitted and (self.due is None or self._satisfied):
            self.ask_soon()
        return admitted

    def resize(self, limit: int, now: float = 0.0) -> list[Ticket]:
        """Set the whole limit, for all members, with the next message."""
        self._to_set = limit
        self.ask_soon()
        return []

    def _fits(self, ticket: Ticket) -> bool:
        if self.in_flight + ticket.weight > self.limit and (
            self.in_flight or self.limit < self.total or not self.limit
        ):
            return False
        if self.clock() < self._loan_end:
            return True
        return self._expire() and self.in_flight + ticket.weight <= self.limit

    def _enter(self, ticket: Ticket) -> None:
        in_flight, waiting = self.in_flight + ticket.weight, self.waiting - (ticket.state is _WAITING)
        # First: after an interrupt, a ticket that is admitted is released, which reads them.
        ticket.in_flight_at_admission, ticket.epoch = in_flight, self.epoch
        ticket.state, self.in_flight, self.waiting = _ADMITTED, in_flight, waiting
        if self.lanes is not None:
            self._count(ticket, self.lanes)
        self._active = True
        if in_flight > self.peak:
            self.peak = in_flight

    def _left(self, ticket: Ticket, outcome: CallResult, now: float) -> None:
        ticket.state, self.in_flight = _GONE, self.in_flight - ticket.weight
        if self.learns and outcome != "other":
            self._results[outcome, ticket.in_flight_at_admission, ticket.epoch] += 1
            if outcome == "rate_limited" and ticket.epoch == self.epoch:
                self.ask_soon()
        if self.lent > self.limit and self.lent > self.in_flight:
            self.ask_soon()  # a slot is free that others wait for

    def _expire(self) -> bool:
        """End the loan, whose time is up; return whether calls may go on without one."""
        self._expire_now()
        self.ask_soon()
        return self.limit > 0

    def _expire_now(self) -> None:
        alone = self._without_broker if self.error else 0
        self._change(alone, "no_broker" if self.error else "share")

    def _change(self, limit: int, reason: Reason) -> None:
        if limit != self.limit:
            self.limit = limit
            self.history.append(LimitHistoryEntry(self._run_clock(), limit, reason))

    # Messages

    def ask_soon(self) -> None:
        """Plan the next message for now, or for when the budget allows it."""
        now = self.clock()
        self._plan(now, now)

    def _plan(self, at: float | None, now: float, *, anew: bool = False) -> None:
        if at is not None:
            at = max(at, self._budget_full_at - (BURST - 1) * self._interval, now)
        if anew or self.due is None or (at is not None and at < self.due):
            self.due = at
            if not anew:
                self._satisfied = False
                self._nudge()

    @property
    def demand(self) -> int:
        """Slots in use, and those for which calls wait."""
        return self.in_flight + self.waiting_weight

    def prepare(self, now: float, *, leaves: bool = False) -> Ask:
        """Return what to say to the broker; from now on this process uses no more slots than it says."""
        waiting = self.waiting_weight
        expired = now >= self._loan_end
        if expired and self.limit:
            self._expire_now()
        elif leaves or not (self.in_flight or waiting or self._active or self._starts_wait()):
            self._change(0, "share")
        elif self._others_wait and self.limit > max(1, self.in_flight + waiting):
            self._change(max(1, self.in_flight + waiting), "share")
        first = self.peek()
        self.turn += 1
        self._asked = now, self.in_flight + waiting
        self._budget_full_at = max(self._budget_full_at, now) + self._interval
        results = tuple(Result(*key, number) for key, number in self._results.items())
        self._results.clear()
        ask = Ask(
            self._member,
            self.turn,
            self._terms,
            self._label,
            max(self.limit, self.in_flight),
            self.in_flight,
            waiting,
            0 if first is None else first.weight,
            self._active and not leaves,
            leaves,
            results,
            None,
            self._to_set,
            self._clients(),
        )
        self._active = False
        self.due = None
        return ask

    def _clients(self) -> tuple[ClientAsk, ...]:
        """Return what clients have and wait for; those without a client are in what the process says as a whole."""
        if self.lanes is None:
            return ()
        demands = {lane: lane.in_use for lane in self.lanes.in_use()}
        for lane, waiting in self.waiting_weights().items():
            if lane is not None and waiting:
                demands[lane] = demands.get(lane, 0) + waiting
        return tuple(
            ClientAsk(lane.client.name, lane.client.share, demand) for lane, demand in demands.items()
        )

    def answered(self, ask: Ask, answer: Answer, now: float) -> list[Ticket]:
        """Take the broker's answer, and return the tickets that are admitted by it."""
        if answer.turn != self.turn:
            return []  # a later message was sent meanwhile
        asked_at, demand = self._asked
        self.error, self.refused = "", answer.refused
        if self._to_set == ask.set_limit:
            self._to_set = None
        if answer.refused or (ask.leaves and not self.in_flight):
            self.lent = 0
            self._change(0, "share")
            self._plan(now + CALM_SECONDS if answer.refused and self.waiting else None, now, anew=True)
            return []
        reason = answer.reason if answer.total != self.total else "share"
        self.lent, self.total, self.epoch = answer.lent, answer.total, answer.epoch
        self._others_wait = answer.others_wait
        if self.lanes is not None:
            self.lanes.weigh(answer.weights)
        self._loan_end = asked_at + TRUSTED_SECONDS
        self._change(0 if ask.leaves else answer.keep, reason)
        admitted = self._admit()
        self._plan(self._next_message(now), now, anew=True)
        # A call that comes later need not wait for the regular message if this one got all that it asked for.
        self._satisfied = self.lent >= demand and self.lent < self.total
        return admitted

    def _next_message(self, now: float) -> float | None:
        if self.lent > max(self.limit, self.in_flight):
            return now  # others wait for slots that are free
        if self.waiting and self.lent >= self._asked[1] and self.lent < self.total:
            return now  # more has come to wait meanwhile, and there was enough
        if self._starts_wait():
            return now + self._interval
        if not self.in_flight and not self.waiting and (self._others_wait or not self.lent):
            return now + SOON_SECONDS if self.lent else None
        if self.waiting or self._others_wait:
            return now + self._interval
        return now + max(CALM_SECONDS, self._interval)

    def unanswered(self, ask: Ask, error: str, now: float) -> list[Ticket]:
        """Note that the broker did not answer a message, and return the tickets that are admitted without it."""
        if ask.turn != self.turn:
            return []
        self.error = error
        for result in ask.results:
            if result.outcome == "rate_limited":  # hearing of a refusal twice changes nothing
                self._results[result.outcome, result.depth, result.epoch] += result.number
        self._active = self._active or ask.active
        if now >= self._loan_end:
            self._change(self._without_broker, "no_broker")
        needed = self.in_flight or self.waiting or self.limit or self._starts_wait()
        wait = max(self._interval, 0.25)
        self._plan(now + wait if needed and not ask.leaves else None, now, anew=True)
        if self.due is not None and now < self._loan_end:
            self.due = min(self.due, self._loan_end)
        return self._admit() if self._without_broker else []

    def describe(self, now: float) -> str:
        """Return a sentence on the loan."""
        left = self._loan_end - now
        if self.refused:
            return f"refused: {self.refused}"
        if self.error:
            if left > 0 and self.lent:
                return f"no answer from the broker ({self.error}): keeps {self.limit} for {left:.1f} s"
            what = f"uses {self._without_broker} without it" if self._without_broker else "starts nothing"
            return f"no answer from the broker ({self.error}): {what}"
        if not self.lent or left <= 0:
            return "nothing lent"
        return f"{self.limit} of {self.total} lent for {left:.1f} s"
