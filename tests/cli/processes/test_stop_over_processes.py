"""Stop conditions over several processes: what one of them counts alone, all count together."""

from __future__ import annotations

from typing import Any

import pytest

from restaurant_llm_batch import LLMResponse, Price, StopConditions
from restaurant_llm_batch._config.stopping import StopMonitor
from restaurant_llm_batch.cli._processes.stopping import WholeConditions, WholeMonitor, noted
from restaurant_llm_batch.errors import PermanentBackendError

REPLY = LLMResponse("yes", prompt_tokens=60, completion_tokens=40, model="m")
UNKNOWN = LLMResponse("yes", model="m")
REFUSED = PermanentBackendError("no such model 'm'", status=404)


def processes(
    conditions: StopConditions, number: int = 2, prices: dict[str, Price] | None = None
) -> tuple[list[StopMonitor], WholeMonitor, list[Any]]:
    """Return monitors of processes, that of the whole run, and what the processes note."""
    notes: list[Any] = []
    priced = prices or {}
    monitors = [noted(notes.append, all_calls=True).monitor(priced, estimates=True) for _ in range(number)]
    whole = WholeConditions.of(conditions).monitor(priced, estimates=True)
    assert isinstance(whole, WholeMonitor)
    return monitors, whole, notes


def applied(whole: WholeMonitor, notes: list[Any], replies: int = 0) -> list[str]:
    reasons = [whole.apply(note, replies) for note in notes]
    notes.clear()
    return [reason for reason in reasons if reason]


def test_a_process_alone_is_never_stopped() -> None:
    monitor = noted(lambda note: None, all_calls=True).monitor({}, estimates=True)
    for _ in range(100):
        assert monitor.record_reply(REPLY, lambda: (1, 1)) is None
        assert monitor.record_failure() is None
        assert monitor.record_rate_limited(5.0) is None
        assert monitor.record_failed_item(REFUSED, "llm", 0) is None
    assert monitor.needed


def test_tokens_of_all_processes_count() -> None:
    (first, second), whole, notes = processes(StopConditions(max_tokens=250))
    for monitor in (first, second):
        monitor.record_reply(REPLY, lambda: (0, 0))
    assert applied(whole, notes) == []
    first.record_reply(REPLY, lambda: (0, 0))
    assert applied(whole, notes) == ["max_tokens=250 is used up (300 tokens)"]


def test_cost_of_all_processes_counts_and_estimates_are_said_to_be() -> None:
    prices = {"m": Price(1_000_000, 1_000_000)}
    (first, second), whole, notes = processes(StopConditions(max_cost=150.0), prices=prices)
    first.record_reply(REPLY, lambda: (0, 0))
    second.record_reply(UNKNOWN, lambda: (30, 30))
    assert applied(whole, notes) == ["max_cost=150.0 is spent (about 160.0000)"]
    assert (whole.cost, whole.estimated_cost) == (None, 160.0)


def test_a_model_without_a_price_stops_a_run_that_may_cost_only_so_much() -> None:
    prices = {"other": Price(1, 1)}
    (first, _), whole, notes = processes(StopConditions(max_cost=1.0), prices=prices)
    first.record_reply(REPLY, lambda: (0, 0))
    (reason,) = applied(whole, notes)
    assert "there is no price for the model 'm'" in reason


def test_the_error_rate_is_that_of_the_latest_attempts_of_all() -> None:
    (first, second), whole, notes = processes(StopConditions(error_rate=0.5, error_rate_window=4))
    first.record_failure()
    second.record_reply(REPLY, lambda: (0, 0))
    first.record_reply(REPLY, lambda: (0, 0))
    assert applied(whole, notes) == []
    second.record_failure()
    assert applied(whole, notes) == ["2 of the latest 4 tries failed (error_rate=0.5)"]


def test_refusals_count_until_any_process_is_answered() -> None:
    (first, second), whole, notes = processes(StopConditions(max_rate_limited_seconds=10.0))
    first.record_rate_limited(100.0)
    second.record_reply(REPLY, lambda: (0, 0))
    first.record_rate_limited(109.0)
    second.record_rate_limited(115.0)
    assert applied(whole, notes) == []
    second.record_rate_limited(119.0)
    assert applied(whole, notes) == ["the model refused everything for 10 s"]
    assert whole.rate_limit_stop(120.0)


@pytest.mark.parametrize(("replies", "stops"), [([5, 5, 5], True), ([5, 6, 6], False)])
def test_equal_errors_in_a_row_count_over_all_while_nothing_is_answered(
    replies: list[int], stops: bool
) -> None:
    monitors, whole, notes = processes(StopConditions(same_error_in_a_row=3), 3)
    reasons: list[str] = []
    for monitor, number in zip(monitors, replies, strict=True):
        monitor.record_failed_item(REFUSED, "llm", 0)
        reasons += applied(whole, notes, number)
    assert bool(reasons) is stops


def test_without_a_condition_only_failed_items_are_noted() -> None:
    notes: list[Any] = []
    monitor = noted(notes.append, all_calls=False).monitor({}, estimates=True)
    assert not monitor.needed
    monitor.record_failed_item(REFUSED, "llm", 0)
    assert [note[0] for note in notes] == ["item"]
