"""The gate for limits per minute, alone: nobody is let in too early, twice, out of turn, or without being told."""

from __future__ import annotations

from functools import partial

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from restaurant_llm_batch._limits.pacing import RatePacer
from restaurant_llm_batch._limits.rate import RateLimiter, RateQueue
from restaurant_llm_batch._limits.wait_queue import _ADMITTED, _WAITING, CallbackTicket, Ticket


class TurnsMachine(RuleBasedStateMachine):
    """Ask, withdraw, lift, end and let time pass at random; what must always hold is checked after every step."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.turns = RateQueue(RatePacer(60, None, 0.0), 0.0)
        self.tickets: list[Ticket] = []
        self.told: set[int] = set()
        self.began: list[float] = []

    def hear(self, admitted: list[Ticket]) -> None:
        for one in admitted:
            assert id(one) not in self.told
            self.told.add(id(one))
            self.began.append(self.now)

    @rule(priority=st.integers(-1, 1), sequence=st.integers(0, 3))
    def ask(self, priority: int, sequence: int) -> None:
        one = CallbackTicket(bool, priority, sequence, 0)
        self.tickets.append(one)
        self.turns.now = self.now
        if self.turns.enqueue(one):
            self.hear([one])

    @rule(seconds=st.floats(0, 3))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def look(self) -> None:
        self.turns.now = self.now
        self.hear(self.turns.admit_ready())

    @precondition(lambda self: self.turns.waiting)
    @rule()
    def look_when_the_first_is_due(self) -> None:
        self.turns.now = self.now
        due = self.turns.ready_at()
        assert due is not None
        self.turns.now = self.now = max(self.now, due)
        admitted = self.turns.admit_ready()
        assert admitted
        self.hear(admitted)

    @precondition(lambda self: self.tickets)
    @rule(data=st.data(), how=st.sampled_from(["withdraw", "done", "lift"]))
    def change(self, data: st.DataObject, how: str) -> None:
        one = data.draw(st.sampled_from(self.tickets))
        self.turns.now = self.now
        if how == "lift":
            self.hear(self.turns.reprioritise(one, one.priority - 1, one.sequence))
        elif how == "withdraw":
            self.hear(self.turns.cancel(one))
        else:
            self.hear(self.turns.release(one))

    @invariant()
    def whoever_is_in_was_told(self) -> None:
        assert all(id(one) in self.told for one in self.tickets if one.state == _ADMITTED)
        assert self.turns.waiting == sum(one.state == _WAITING for one in self.tickets)

    @invariant()
    def no_more_begin_in_a_minute_than_given(self) -> None:
        for start in self.began:
            assert sum(start <= one < start + 60 for one in self.began) <= 60

    @invariant()
    def somebody_is_due_when_somebody_waits(self) -> None:
        self.turns.now = self.now
        assert (self.turns.ready_at() is None) == (self.turns.waiting == 0)


TestTurns = TurnsMachine.TestCase


def test_watchers_are_notified_when_the_first_begins_to_wait() -> None:
    gate = RateLimiter(60, None)
    told: list[str] = []
    unwatch = gate.watch(partial(told.append, "waiting"))
    tickets = [CallbackTicket(bool) for _ in range(3)]

    assert [gate.enqueue(one, now=7.0) for one in tickets] == [True, False, False]
    assert told == ["waiting"]
    for one in tickets:
        gate.cancel(one, now=7.0)
    assert gate.seconds_until_ready(now=7.0) is None
    unwatch()
    told.clear()
    assert not gate.enqueue(CallbackTicket(bool), now=7.0)
    assert told == []
