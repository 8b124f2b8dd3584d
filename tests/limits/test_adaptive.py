"""An adaptive limit: the controller alone, against simulated services, and in a gate."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from random import Random
from statistics import median
from typing import Any, Protocol

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.run_methods import each_strategy

from restaurant_llm_batch import (
    AdaptiveLimit,
    BatchRunner,
    ConcurrencyLimiter,
    Limits,
    LLMRequest,
    LLMResponse,
    RetryPolicy,
    Strategy,
    errors,
)
from restaurant_llm_batch._limits.aimd import AIMDController, CallResult
from restaurant_llm_batch._limits.wait_queue import CallbackTicket
from restaurant_llm_batch.steps import complete

OUTCOMES: list[CallResult] = ["success", "rate_limited", "transient_error", "other"]


def controller(**bounds: int) -> AIMDController:
    return AIMDController(AdaptiveLimit(**bounds), 0.0)


@given(st.lists(st.tuples(st.sampled_from(OUTCOMES), st.integers(1, 300), st.booleans()), max_size=400))
def test_it_keeps_within_its_bounds_whatever_happens(events: list[tuple[CallResult, int, bool]]) -> None:
    control = controller(min=3, start=8, max=40)
    for outcome, depth, late in events:
        control.record(outcome, depth, control.epoch - late, 0.0)
        assert 3 <= control.limit <= 40
        assert control.history[-1].limit == control.limit


def test_it_doubles_in_a_round_until_the_first_refusal() -> None:
    control = controller()
    for _ in range(8):
        control.record("success", control.limit, 0, 0.0)
    assert control.limit == 16
    control.record("rate_limited", 13, 0, 0.0)
    assert control.limit == 12
    assert [change.reason for change in (control.history[0], control.history[1], control.history[-1])] == [
        "start",
        "slow_start",
        "rate_limited",
    ]


def test_answers_say_nothing_while_the_limit_is_not_used() -> None:
    control = controller(start=10)
    for _ in range(50):
        control.record("success", 7, 0, 0.0)
    assert control.limit == 10


def test_refusals_of_calls_that_were_on_their_way_do_not_cut_again() -> None:
    control = controller(start=20)
    for depth in range(20, 10, -1):
        control.record("rate_limited", depth, 0, 0.0)
    assert control.limit == 19


def test_cuts_that_do_not_help_grow() -> None:
    control = controller(start=100)
    limits = []
    for epoch in range(4):
        control.record("rate_limited", control.limit, epoch, 0.0)
        limits.append(control.limit)
    assert limits == [99, 79, 63, 50]


def test_other_transient_errors_stop_growth_for_a_round_and_do_not_cut() -> None:
    control = controller(start=10)
    control.record("transient_error", 10, 0, 0.0)
    for _ in range(10):
        control.record("success", 10, 0, 0.0)
    assert control.limit == 10
    control.record("success", 10, 0, 0.0)
    assert control.limit == 11


def test_a_limit_set_by_hand_is_where_it_goes_on_from_and_what_it_stays_below() -> None:
    control = controller(min=4, max=50)
    control.set(500, 1.0)
    assert (control.limit, control.history[-1].reason) == (500, "manual")
    control.set(3, 2.0)
    for _ in range(40):
        control.record("success", 3, 0, 3.0)
    assert (control.limit, control.history[-1].reason) == (3, "manual")
    control.record("rate_limited", 3, 0, 4.0)
    assert control.limit == 3  # its least one too, because that was larger


def test_setting_the_limit_that_there_is_ends_its_growth_and_is_recorded_once() -> None:
    control = controller(start=8, max=50)
    control.set(8, 1.0)
    control.set(8, 2.0)
    assert [change.reason for change in control.history] == ["start", "manual"]
    for _ in range(40):
        control.record("success", 8, 0, 3.0)
    assert control.limit == 8


class Service(Protocol):
    def takes(self, now: float) -> bool: ...

    def frees(self) -> None: ...


class Cap:
    """Refuses above so many calls in flight; after a thousand that it took, above another number."""

    def __init__(self, cap: int, later: int | None = None) -> None:
        self._cap, self._later = cap, later
        self._in_flight = self._taken = 0

    def takes(self, now: float) -> bool:
        if self._later is not None and self._taken >= 1000:
            self._cap = self._later
        taken = self._in_flight < self._cap
        self._taken += taken
        self._in_flight += taken
        return taken

    def frees(self) -> None:
        self._in_flight -= 1


class Bucket:
    """Refuses above so many calls a second, after a burst."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = self._tokens = burst
        self._at = 0.0

    def takes(self, now: float) -> bool:
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def frees(self) -> None:
        pass


def simulate(
    service: Service, limit: int | AdaptiveLimit, seed: int, calls: int = 2000
) -> tuple[float, float]:
    """Make calls of about 100 ms through a gate's state machine; return the time and the share refused."""
    random = Random(seed)
    control = AIMDController(limit, 0.0) if isinstance(limit, AdaptiveLimit) else None
    events: list[tuple[float, int, str, tuple[int, int, int, int]]] = []
    number = count()
    waiting = [(call, 0) for call in reversed(range(calls))]
    now, in_flight, done, refused = 0.0, 0, 0, 0

    def admit() -> None:
        nonlocal in_flight
        while waiting and in_flight < (control.limit if control else limit):  # type: ignore[operator]
            call, tries = waiting.pop()
            in_flight += 1
            epoch = control.epoch if control else 0
            arrival = now + 0.0025 * random.uniform(0.5, 1.5)
            heappush(events, (arrival, next(number), "arrives", (call, tries, in_flight, epoch)))

    admit()
    while done < calls:
        now, _, kind, told = heappop(events)
        call, tries, depth, epoch = told
        if kind == "arrives":
            taken = service.takes(now)
            after = 0.1 * random.lognormvariate(0, 0.2) if taken else 0.0025
            heappush(events, (now + after, next(number), "success" if taken else "rate_limited", told))
        elif kind == "again":
            waiting.append((call, tries))
        else:
            in_flight -= 1
            if kind == "success":
                service.frees()
                done += 1
            else:
                refused += 1
                wait = 0.5 * 2 ** min(tries, 6) * (1 - random.random() / 2)
                heappush(events, (now + wait, next(number), "again", (call, tries + 1, 0, 0)))
            if control:
                control.record("success" if kind == "success" else "rate_limited", depth, epoch, now)
        admit()
    return now, refused / (calls + refused)


@pytest.mark.parametrize(
    ("make", "best", "most_refused"),
    [
        (lambda: Cap(24), [24], 0.05),
        (lambda: Cap(24, 12), [12, 16, 24], 0.05),
        (lambda: Cap(24, 48), [24, 48], 0.05),
        (lambda: Bucket(200, 40), [18, 20, 22], 0.10),
    ],
    ids=["cap", "cap that halves", "cap that doubles", "bucket"],
)
@pytest.mark.sample(1)
def test_it_is_nearly_as_fast_as_the_best_limit_known_beforehand(
    make: Callable[[], Service], best: list[int], most_refused: float
) -> None:
    seeds = range(5)
    ideal = min(median(simulate(make(), fixed, seed)[0] for seed in seeds) for fixed in best)
    ours = [simulate(make(), AdaptiveLimit(), seed) for seed in seeds]

    assert median(seconds for seconds, _ in ours) <= 1.15 * ideal
    assert median(share for _, share in ours) <= most_refused


def test_a_limiter_learns_from_what_its_calls_came_to() -> None:
    gate = ConcurrencyLimiter(AdaptiveLimit(start=4))
    tickets = [CallbackTicket(lambda: True) for _ in range(5)]
    assert [gate.enqueue(ticket) for ticket in tickets] == [True] * 4 + [False]
    gate.release(tickets[3], "rate_limited")

    assert gate.limit == 3
    assert [change.reason for change in gate.limit_history] == ["start", "rate_limited"]
    gate.limit = 9
    assert gate.limit == 9
    assert ConcurrencyLimiter(4).limit_history == ()


class Refusing:
    """A model that refuses above so many calls in flight."""

    def __init__(self, cap: int) -> None:
        self._cap = cap
        self._in_flight = self.peak = 0

    async def acomplete(self, request: LLMRequest) -> LLMResponse:
        import anyio

        self._in_flight += 1
        try:
            if self._in_flight > self._cap:
                raise errors.RateLimited("too many")
            self.peak = max(self.peak, self._in_flight)
            await anyio.sleep(0.005)
            return LLMResponse("yes")
        finally:
            self._in_flight -= 1

    def complete(self, request: LLMRequest) -> LLMResponse:
        return LLMResponse("yes")


def ask(item: int) -> Any:
    """Ask once."""
    return (yield from complete(LLMRequest("t", ()))).text


def test_a_runner_finds_the_limit_loses_nothing_and_tells_how() -> None:
    model = Refusing(12)
    limits = Limits(llm=AdaptiveLimit(start=2))
    retry = RetryPolicy(wait_initial=0.01)
    report = BatchRunner(llm=model, strategy=Strategy.stage(4), limits=limits, llm_retry=retry).run(
        ask, range(400)
    )

    assert report.results == ["yes"] * 400
    assert model.peak == 12
    assert 0 < report.stats.rate_limited < 40
    history = report.stats.limit_history
    assert (history[0].limiter, history[0].seconds, history[0].limit, history[0].reason) == (
        "llm",
        0.0,
        2,
        "start",
    )
    assert {step.reason for step in history} >= {"start", "slow_start", "rate_limited"}
    assert 6 <= history[-1].limit <= 24  # near 12: the run may end at a probe, or at what followed a refusal


@each_strategy
def test_it_grows_in_every_mode_that_uses_it(strategy: Strategy) -> None:
    runner = BatchRunner(
        llm=Refusing(1000), strategy=strategy, limits=Limits(llm=AdaptiveLimit(start=1, max=4))
    )
    report = runner.run(ask, range(50))

    assert len(report.results) == 50
    assert report.stats.limit_history[-1].limit >= (4 if strategy.restaurant_async else 2)


@pytest.mark.parametrize("bounds", [{"min": 0}, {"start": 300}, {"min": 9}, {"max": 2.5}, {"start": True}])
def test_bounds_out_of_order_are_reported(bounds: Any) -> None:
    with pytest.raises(errors.ConfigurationError, match="1 <= min <= start <= max"):
        AdaptiveLimit(**bounds)
