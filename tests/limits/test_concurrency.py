"""The gate, alone: bounds, order, and no slot lost, whatever happens in whatever order."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from restaurant_llm_batch import BatchRunner, ConcurrencyLimiter, Limits, errors
from restaurant_llm_batch._limits.concurrency import ConcurrencyState
from restaurant_llm_batch._limits.wait_queue import _ADMITTED, _WAITING, CallbackTicket, Ticket
from restaurant_llm_batch.backends import LLMPool
from restaurant_llm_batch.testing import FakeLLM


def ticket(priority: int = 0, arrival: int = 0, weight: int = 1) -> Ticket:
    return CallbackTicket(lambda: None, priority, arrival, weight)


class AdmissionMachine(RuleBasedStateMachine):
    """Ask, end, withdraw and resize at random; what must always hold is checked after every step."""

    @initialize(limit=st.integers(1, 5))
    def start(self, limit: int) -> None:
        self.admission = ConcurrencyState(limit)
        self.tickets: list[Ticket] = []
        self.resized = False

    def check(self, admitted: list[Ticket]) -> None:
        for one in admitted:
            assert one.state == _ADMITTED
            assert one in self.tickets

    @rule(priority=st.integers(-2, 2), sequence=st.integers(0, 5), weight=st.integers(1, 7))
    def ask(self, priority: int, sequence: int, weight: int) -> None:
        new = ticket(priority, sequence, weight)
        self.tickets.append(new)
        assert self.admission.enqueue(new) == (new.state == _ADMITTED)

    @precondition(lambda self: self.tickets)
    @rule(data=st.data())
    def done(self, data: st.DataObject) -> None:
        self.check(self.admission.release(data.draw(st.sampled_from(self.tickets))))

    @precondition(lambda self: self.tickets)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        self.check(self.admission.cancel(data.draw(st.sampled_from(self.tickets))))

    @rule(limit=st.integers(1, 5))
    def resize(self, limit: int) -> None:
        self.resized |= limit < self.admission.limit
        self.check(self.admission.resize(limit))

    @invariant()
    def in_flight_is_what_was_admitted(self) -> None:
        if hasattr(self, "admission"):
            held = [one for one in self.tickets if one.state == _ADMITTED]
            assert self.admission.in_flight == sum(one.weight for one in held)
            if not self.resized:
                assert self.admission.in_flight <= self.admission.limit or len(held) == 1

    @invariant()
    def nobody_waits_while_the_first_in_line_fits(self) -> None:
        if hasattr(self, "admission"):
            waiting = [one for one in self.tickets if one.state == _WAITING]
            assert self.admission.waiting == len(waiting)
            if waiting:
                first = min(waiting, key=lambda one: (one.priority, one.sequence))
                lightest = min(
                    one.weight
                    for one in waiting
                    if (one.priority, one.sequence) == (first.priority, first.sequence)
                )
                assert self.admission.in_flight
                assert self.admission.in_flight + max(lightest, 1) > self.admission.limit or len(waiting) > 1


TestAdmission = AdmissionMachine.TestCase


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 9)), min_size=1, max_size=40))
def test_waiting_tickets_are_admitted_by_priority_then_arrival_then_order_of_asking(
    asked: list[tuple[int, int]],
) -> None:
    admission = ConcurrencyState(1)
    holder = ticket()
    admission.enqueue(holder)
    tickets = [ticket(*order) for order in asked]
    for one in tickets:
        assert not admission.enqueue(one)
    admitted: list[Ticket] = []
    current = holder
    while woken := admission.release(current):
        (current,) = woken
        admitted.append(current)

    assert admitted == sorted(tickets, key=lambda one: (one.priority, one.sequence))


def test_the_first_in_line_is_not_overtaken_by_a_lighter_one() -> None:
    admission = ConcurrencyState(3)
    holder, heavy, light = ticket(weight=2), ticket(weight=3), ticket(weight=1)

    assert admission.enqueue(holder)
    assert not admission.enqueue(heavy)
    assert not admission.enqueue(light)
    assert admission.release(holder) == [heavy]
    assert admission.release(heavy) == [light]


def test_a_ticket_heavier_than_the_limit_is_admitted_alone() -> None:
    admission = ConcurrencyState(2)
    heavy, other = ticket(weight=5), ticket()

    assert admission.enqueue(heavy)
    assert not admission.enqueue(other)
    assert admission.release(heavy) == [other]


def test_ending_twice_frees_one_slot() -> None:
    gate = ConcurrencyLimiter(2)
    one, two = ticket(), ticket()
    gate.enqueue(one)
    gate.enqueue(two)
    gate.release(one)
    gate.release(one)
    gate.cancel(one)

    assert gate.statistics().in_flight == 1


def test_a_slot_whose_taker_is_gone_is_handed_on() -> None:
    gate = ConcurrencyLimiter(1)
    woken: list[str] = []

    def live(name: str) -> Callable[[], None]:
        return lambda: woken.append(name)

    holder, dead, alive = ticket(), CallbackTicket(lambda: False), CallbackTicket(live("alive"))
    for one in (holder, dead, alive):
        gate.enqueue(one)
    gate.release(holder)

    assert woken == ["alive"]


def test_raising_the_limit_admits_and_lowering_it_waits() -> None:
    gate = ConcurrencyLimiter(1)
    tickets = [ticket() for _ in range(4)]
    for one in tickets:
        gate.enqueue(one)
    gate.limit = 3
    assert gate.statistics().in_flight == 3
    gate.limit = 1
    gate.release(tickets[0])

    assert gate.statistics().in_flight == 2
    assert gate.statistics().waiting == 1


@pytest.mark.parametrize("limit", [0, -1, True, 2.5, "8", None])
def test_a_useless_limit_is_refused_with_what_to_write(limit: object) -> None:
    with pytest.raises(errors.ConfigurationError, match=r"for example ConcurrencyLimiter\(8\)"):
        ConcurrencyLimiter(limit)  # type: ignore[arg-type]


def test_many_threads_never_exceed_the_limit() -> None:
    gate, lock = ConcurrencyLimiter(3), threading.Lock()
    inside = peak = 0

    def work() -> None:
        nonlocal inside, peak
        for _ in range(50):
            admitted = threading.Event()
            mine = CallbackTicket(admitted.set)
            if not gate.enqueue(mine):
                admitted.wait()
            with lock:
                inside += 1
                peak = max(peak, inside)
            with lock:
                inside -= 1
            gate.release(mine)

    threads = [threading.Thread(target=work) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert peak <= 3
    assert gate.statistics().in_flight == 0


def test_a_forked_child_does_not_wait_for_its_parents_calls() -> None:
    gate = ConcurrencyLimiter(1)
    gate.enqueue(ticket())
    lock, _ = gate._state_for_process()
    lock.acquire()  # as if another thread of the parent held it at the fork
    child = os.fork()
    if child == 0:
        os._exit(0 if gate.enqueue(ticket()) else 1)
    lock.release()

    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("name", ["llm", "batches", "llm_total"])
def test_a_limiter_that_a_call_would_pass_twice_is_refused(name: str) -> None:
    gpu = ConcurrencyLimiter(2)
    with pytest.raises(errors.ConfigurationError, match=rf"Limits\.{name} and Limits\.tokens_in_flight"):
        BatchRunner(llm=FakeLLM(), limits=Limits(**{name: gpu}, tokens_in_flight=gpu))  # type: ignore[arg-type]

    pool = LLMPool([FakeLLM(), FakeLLM()], limits=[3, gpu])
    with pytest.raises(errors.ConfigurationError, match=rf"Limits\.{name} and the endpoint .* of the pool"):
        BatchRunner(llm=pool, limits=Limits(**{name: gpu}))  # type: ignore[arg-type]


def test_one_limiter_may_limit_all_calls() -> None:
    gpu = ConcurrencyLimiter(1)
    limits = Limits(llm=gpu, batches=gpu, llm_total=gpu, search=gpu)

    assert BatchRunner(llm=FakeLLM(), limits=limits).parts.config.limiters.batches == (gpu,)
