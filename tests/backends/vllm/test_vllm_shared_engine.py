"""Many callers, one engine, and never two of them driving it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.support.examples import examples
from tests.support.patience import PATIENCE, wait_until

from restaurant_llm_batch.backends.vllm._shared_engine import PendingRequest, SharedEngine, _State

Job = tuple[int, int]  # what to answer, and the steps it takes


class StepEngine:
    """Finishes each job after its number of steps; 0 is refused, and a negative number breaks the engine."""

    def __init__(self) -> None:
        self.left: dict[str, list[int]] = {}
        self.aborted: list[str] = []
        self.peak = 0
        self.steps = 0
        self.drivers: set[int] = set()
        self.before_step: list[threading.Event] = []
        self.stepping = threading.Event()
        self._driven = threading.Lock()

    def add(self, name: str, job: Job, /) -> None:
        with self._alone():
            if job[1] == 0:
                raise ValueError(job[0])
            self.left[name] = list(job)
            self.peak = max(self.peak, len(self.left))

    def step(self) -> Sequence[tuple[str, int]]:
        with self._alone():
            assert self.left, "an engine with nothing to do would block for ever"
            self.steps += 1
            self.drivers.add(threading.get_ident())
            self.stepping.set()
            if self.before_step:
                assert self.before_step.pop().wait(PATIENCE)
            if any(steps < 0 for _, steps in self.left.values()):
                self.left.clear()
                raise RuntimeError("broken")
            for job in self.left.values():
                job[1] -= 1
            finished = {name: answer for name, (answer, steps) in self.left.items() if steps == 0}
            for name in finished:
                del self.left[name]
            return list(finished.items())

    def abort(self, names: list[str], /) -> None:
        with self._alone():
            self.aborted += names
            for name in names:
                self.left.pop(name, None)

    def _alone(self) -> _Alone:
        return _Alone(self._driven)


class _Alone:
    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        assert self._lock.acquire(blocking=False), "two threads drive the engine at once"

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def test_one_caller_alone_is_answered_in_its_own_thread() -> None:
    engine = StepEngine()

    assert SharedEngine(engine).run((7, 3)) == 7
    assert engine.steps == 3
    assert engine.drivers == {threading.get_ident()}


@settings(deadline=None, max_examples=examples(50))
@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=40),
    st.integers(1, 8),
)
def test_everyone_gets_their_own_answer_or_their_own_error(steps: list[int], threads: int) -> None:
    engine = StepEngine()
    helm = SharedEngine(engine)

    def ask(number: int) -> object:
        try:
            return helm.run((number, steps[number]))
        except ValueError as error:
            return error.args

    with ThreadPoolExecutor(threads) as pool:
        answers = list(pool.map(ask, range(len(steps))))

    assert answers == [number if steps[number] else (number,) for number in range(len(steps))]
    assert engine.left == {}
    assert engine.aborted == []


def test_who_comes_while_the_engine_works_joins_at_the_next_step() -> None:
    engine = StepEngine()
    helm = SharedEngine(engine)
    go = threading.Event()
    engine.before_step.append(go)
    with ThreadPoolExecutor(5) as pool:
        first = pool.submit(helm.run, (0, 4))
        assert engine.stepping.wait(PATIENCE)
        others = [pool.submit(helm.run, (number, 3)) for number in range(1, 5)]
        wait_until(lambda: len(helm._state.waiting) == 4)
        go.set()
        answers = [first.result(PATIENCE), *(other.result(PATIENCE) for other in others)]

    assert answers == [0, 1, 2, 3, 4]
    assert engine.peak == 5
    assert engine.steps == 4  # one by one it would have been 16


def test_when_the_engine_breaks_those_aboard_fail_and_those_who_wait_are_served() -> None:
    engine = StepEngine()
    helm = SharedEngine(engine)
    go = threading.Event()
    engine.before_step.append(go)
    with ThreadPoolExecutor(2) as pool:
        broken = pool.submit(helm.run, (0, -1))
        assert engine.stepping.wait(PATIENCE)
        later = pool.submit(helm.run, (1, 2))
        wait_until(lambda: bool(helm._state.waiting))
        go.set()

        with pytest.raises(RuntimeError, match="broken"):
            broken.result(PATIENCE)
        assert later.result(PATIENCE) == 1


class InterruptedEngine(StepEngine):
    """Raises what Ctrl-C raises, once, in the middle of a step."""

    interrupted = False

    def step(self) -> Sequence[tuple[str, int]]:
        finished = super().step()
        if not self.interrupted:
            self.interrupted = True
            raise KeyboardInterrupt
        return finished


def test_a_helmsman_who_is_interrupted_takes_its_job_along_and_the_others_sail_on() -> None:
    engine = InterruptedEngine()
    helm = SharedEngine(engine)
    go = threading.Event()
    engine.before_step.append(go)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(helm.run, (0, 5))
        assert engine.stepping.wait(PATIENCE)
        second = pool.submit(helm.run, (1, 5))
        wait_until(lambda: bool(helm._state.waiting))
        go.set()

        with pytest.raises(KeyboardInterrupt):
            first.result(PATIENCE)
        assert second.result(PATIENCE) == 1
    assert engine.left == {}
    assert len(set(engine.aborted)) == 1


def test_one_who_is_interrupted_alone_leaves_nothing_running() -> None:
    engine = InterruptedEngine()
    helm = SharedEngine(engine)

    with pytest.raises(KeyboardInterrupt):
        helm.run((0, 5))

    assert engine.left == {}
    assert helm.run((1, 1)) == 1


class CrewMachine(RuleBasedStateMachine):
    """Seats come, board, are settled and leave, in any order that threads could bring about."""

    def __init__(self) -> None:
        super().__init__()
        self.crew: _State[int, int] = _State()
        self.present: list[PendingRequest[int, int]] = []

    @rule()
    def enter(self) -> None:
        seat: PendingRequest[int, int] = PendingRequest(0)
        had_none = self.crew.leader is None
        assert self.crew.enqueue(seat) == had_none
        self.present.append(seat)

    @precondition(lambda self: self.crew.waiting)
    @rule()
    def board(self) -> None:
        self.crew.mark_running(self.crew.waiting[0])

    @precondition(lambda self: self.present)
    @rule(data=st.data())
    def board_one_who_may_have_left(self, data: st.DataObject) -> None:
        seat = data.draw(st.sampled_from(self.present))
        self.crew.detach(seat)
        self.present.remove(seat)
        self.crew.mark_running(seat)
        assert seat.name in self.crew.cancelled

    @precondition(lambda self: self.present)
    @rule(data=st.data())
    def settle_and_leave(self, data: st.DataObject) -> None:
        seat = data.draw(st.sampled_from(self.present))
        self.crew.remove(seat)
        self.crew.detach(seat)
        self.present.remove(seat)
        assert seat.name not in self.crew.cancelled

    @precondition(lambda self: self.present)
    @rule(data=st.data())
    def leave_unanswered(self, data: st.DataObject) -> None:
        seat = data.draw(st.sampled_from(self.present))
        steered, aboard = self.crew.leader is seat, seat.name in self.crew.running
        successor = self.crew.detach(seat)
        self.present.remove(seat)
        assert (seat.name in self.crew.cancelled) == aboard
        assert successor is (self.crew.leader if steered else None)

    @invariant()
    def somebody_steers_while_anybody_is_there(self) -> None:
        there = [*self.crew.waiting, *self.crew.running.values()]
        assert (self.crew.leader is None) == (not there)
        assert self.crew.leader is None or self.crew.leader in there
        assert len(there) == len(set(map(id, there)))
        assert {id(seat) for seat in there} == {id(seat) for seat in self.present}


TestCrew = CrewMachine.TestCase
TestCrew.settings = settings(deadline=None, max_examples=examples(60), stateful_step_count=30)
