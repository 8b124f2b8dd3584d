"""The token budget of packed batches that adapts: its controller, given what became of calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restaurant_llm_batch import AdaptiveBatch, Limits, errors
from restaurant_llm_batch._limits.batch_budget import (
    HOLD,
    MAX_KINDS,
    WINDOW,
    BatchBudget,
    BatchBudgetState,
    BatchCall,
)

BOUNDS = AdaptiveBatch(min=1000, start=4000, max=16_000)
SecondsEach = Callable[[int], float]


class Server:
    """Answers full batches, each of whose tokens takes the seconds that a function of its size says."""

    def __init__(self, each: SecondsEach, bounds: AdaptiveBatch = BOUNDS) -> None:
        self.budget = BatchBudgetState(bounds, 0.0)
        self.each = each
        self.now = 0.0

    def answer(
        self, calls: int = 1, *, in_flight: int = 8, others_wait: bool = True, kind: str = "a"
    ) -> None:
        """Answer some calls, each begun and packed under the budget of its time."""
        for _ in range(calls):
            tokens = int(0.9 * self.budget.limit)
            began, self.now = self.now, self.now + 1.0
            call = BatchCall(kind, tokens, began, in_flight, others_wait)
            self.budget.answered(call, tokens * self.each(self.budget.limit), self.now)

    def reasons(self) -> list[str]:
        return [change.reason for change in self.budget.history]


def slower_beyond(size: int) -> SecondsEach:
    """Return the seconds of a token at a server that is overwhelmed by batches beyond a size."""
    return lambda tokens: 0.001 if tokens <= size else 0.002


def test_batches_grow_to_the_largest_while_larger_ones_are_no_slower() -> None:
    server = Server(lambda tokens: 0.001 + 0.5 / tokens)
    server.answer(20 * WINDOW)

    assert server.budget.limit == 16_000
    assert set(server.reasons()) == {"start", "probe"}


def test_batches_that_take_longer_for_each_token_go_back_and_are_tried_ever_more_rarely() -> None:
    server = Server(slower_beyond(6500))
    server.answer(100 * WINDOW)
    early = server.reasons().count("latency")
    server.answer(100 * WINDOW)

    assert 6000 <= server.budget.limit <= 6500
    assert 1 <= server.reasons().count("latency") - early <= early


def test_nothing_grows_while_no_call_waits() -> None:
    server = Server(lambda _: 0.001)
    server.answer(50 * WINDOW, others_wait=False)

    assert server.budget.limit == 4000


def test_small_batches_say_nothing() -> None:
    server = Server(lambda _: 0.001)
    for _ in range(20 * WINDOW):
        server.now += 1.0
        server.budget.answered(BatchCall("a", 500, server.now - 1), 0.5, server.now)

    assert server.budget.limit == 4000


def test_calls_that_were_packed_before_the_latest_change_say_nothing_of_it() -> None:
    server = Server(lambda _: 0.001)
    server.answer(WINDOW)
    assert server.budget.limit == 5000
    for _ in range(5 * WINDOW):  # begun before
        server.budget.answered(BatchCall("a", 4000, 1.0, 8), 100.0, server.now)
    server.budget.too_much(BatchCall("a", 4000, 1.0), "prompt_too_long", server.now)

    assert server.budget.limit == 5000


def test_windows_with_other_numbers_of_calls_in_flight_are_not_compared() -> None:
    server = Server(lambda _: 0.001)
    server.answer(WINDOW, in_flight=8)
    server.each = lambda _: 0.004  # four times as many calls share the server
    server.answer(3 * WINDOW, in_flight=32)

    assert "latency" not in server.reasons()


def test_a_server_that_becomes_slower_by_itself_does_not_make_batches_small() -> None:
    server = Server(lambda _: 0.001, AdaptiveBatch(1000, 4000, 4000))
    server.answer(3 * WINDOW)
    server.each = lambda _: 0.003
    server.answer(20 * WINDOW)

    assert server.reasons().count("latency") in (1, 2)
    assert server.budget.limit >= 2000


def test_batches_shrink_where_only_that_helps() -> None:
    server = Server(lambda _: 0.001, AdaptiveBatch(1000, 8000, 8000))
    server.answer(3 * WINDOW)
    server.each = slower_beyond(4600)
    server.answer(6 * WINDOW)

    assert server.budget.limit <= 4600
    assert "latency" in server.reasons()


@pytest.mark.parametrize("reason", ["prompt_too_long", "out_of_memory"])
def test_a_call_that_was_too_much_makes_batches_smaller_than_it(reason: Any) -> None:
    server = Server(lambda _: 0.001)
    server.budget.too_much(BatchCall("a", 3500, 1.0), reason, 2.0)

    assert server.budget.limit == 2800
    assert server.budget.history[-1].reason == reason
    server.now = 2.0
    server.answer((HOLD - 1) * WINDOW)
    assert server.budget.limit == 2800  # not near that size again
    server.answer(3 * WINDOW)
    assert server.budget.limit > 2800


def test_a_call_that_was_larger_than_the_budget_lowers_it_too() -> None:
    server = Server(lambda _: 0.001)
    server.budget.too_much(BatchCall("a", 9000, 1.0), "prompt_too_long", 2.0)

    assert server.budget.limit == 3200


def test_preemptions_in_two_readings_shrink_batches() -> None:
    server = Server(lambda _: 0.001)
    server.budget.follow_server(True, False, 1.0)
    server.budget.follow_server(False, False, 2.0)
    assert server.budget.limit == 4000
    server.budget.follow_server(True, False, 3.0)

    assert server.budget.limit == 3000
    assert server.budget.history[-1].reason == "server"


def test_a_full_cache_ends_growth() -> None:
    server = Server(lambda _: 0.001)
    server.budget.follow_server(False, True, 0.0)
    server.answer(5 * WINDOW)
    assert server.budget.limit == 4000
    server.budget.follow_server(False, False, server.now)
    server.answer(WINDOW)
    assert server.budget.limit == 5000


def test_kinds_of_calls_are_measured_by_themselves() -> None:
    server = Server(lambda _: 0.001)
    for number in range(40 * WINDOW):
        server.each = (lambda _: 0.001) if number % 2 else (lambda _: 0.01)
        server.answer(kind="short" if number % 2 else "long")

    assert server.budget.limit == 16_000


def test_kinds_of_calls_that_are_remembered_are_bounded() -> None:
    server = Server(lambda _: 0.001)
    for number in range(1000):
        server.answer(kind=f"kind {number}")

    assert len(server.budget._samples) <= MAX_KINDS


OUTCOMES = st.tuples(
    st.sampled_from(["answered", "prompt_too_long", "out_of_memory", "preempted", "full", "set"]),
    st.integers(1, 30_000),
    st.floats(0.0, 100.0),
    st.integers(0, 3),
)


@given(st.lists(OUTCOMES, max_size=300))
def test_it_keeps_within_its_bounds_whatever_happens(events: list[tuple[Any, int, float, int]]) -> None:
    budget, least, most = BatchBudgetState(AdaptiveBatch(800, 2000, 9000), 0.0), 800, 9000
    for number, (what, tokens, seconds, ago) in enumerate(events):
        now = float(number)
        call = BatchCall("a", tokens, now - ago, 1 + ago)
        if what == "answered":
            for _ in range(WINDOW):
                budget.answered(call, seconds, now)
        elif what in ("preempted", "full"):
            budget.follow_server(what == "preempted", what == "full", now)
        elif what == "set":
            least, most = min(least, tokens), tokens
            budget.set(tokens, now)
        else:
            budget.too_much(call, what, now)
        assert least <= budget.limit <= most
        assert budget.history[-1].limit == budget.limit


def test_a_budget_that_a_user_sets_is_the_largest_from_then_on() -> None:
    budget = BatchBudget(BOUNDS)
    budget.limit = 6000
    assert budget.latest_change is not None
    assert (budget.limit, budget.latest_change.reason) == (6000, "manual")
    for number in range(20 * WINDOW):
        budget.answered(BatchCall("a", 6000, float(number)), 6.0, number + 1.0)

    assert budget.limit == 6000
    with pytest.raises(errors.ConfigurationError, match="max_tokens_per_batch must be"):
        budget.limit = 0


@pytest.mark.parametrize("bounds", [(0, 1, 2), (5, 4, 6), (1, 7, 6), (1, True, 6), (1.5, 2, 3), ("1", 2, 3)])
def test_bounds_in_the_wrong_order_are_reported(bounds: Any) -> None:
    with pytest.raises(errors.ConfigurationError, match="1 <= min <= start <= max"):
        AdaptiveBatch(*bounds)


@pytest.mark.parametrize("given", ["Auto", "", 0, -1, True, 4000.5, None])
def test_a_budget_of_another_kind_is_reported(given: Any) -> None:
    with pytest.raises(errors.ConfigurationError, match='at least 1, "auto" or an AdaptiveBatch'):
        Limits(max_tokens_per_batch=given)


def test_auto_is_the_usual_budget_at_first() -> None:
    auto, own = (
        Limits(max_tokens_per_batch="auto"),
        Limits(max_tokens_per_batch=AdaptiveBatch(500, 900, 2000)),
    )

    assert (auto.adaptive_batch, auto.tokens_per_batch) == (AdaptiveBatch(), 4000)
    assert (own.tokens_per_batch, Limits().tokens_per_batch, Limits().adaptive_batch) == (900, 4000, None)
    assert auto.batch_size(["맛있어요"] * 10) == Limits().batch_size(["맛있어요"] * 10)
