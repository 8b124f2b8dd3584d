"""Rules by which a run stops itself: the bookkeeping alone, and in every mode."""

from __future__ import annotations

import logging
from time import monotonic
from typing import Any

import pytest
from tests.support.run_methods import each_strategy

from restaurant_llm_batch import (
    BatchRunner,
    Limits,
    LLMRequest,
    LLMResponse,
    Price,
    RetryPolicy,
    StopConditions,
    Strategy,
    errors,
)
from restaurant_llm_batch._config.stopping import StopMonitor
from restaurant_llm_batch.steps import complete
from restaurant_llm_batch.testing import FakeLLM

REPLY = LLMResponse("yes", prompt_tokens=900, completion_tokens=100, model="m", cached_tokens=400)


def ask(item: int) -> Any:
    """Ask once."""
    return (yield from complete(LLMRequest("t", (), inputs={"item": item}))).text


class Answers:
    """A model that answers, with tokens."""

    def complete(self, request: LLMRequest) -> LLMResponse:
        return REPLY

    async def acomplete(self, request: LLMRequest) -> LLMResponse:
        return REPLY


def test_a_price_counts_read_written_and_cached_tokens() -> None:
    assert Price(2.0, 10.0).of(REPLY) == pytest.approx((900 * 2 + 100 * 10) / 1e6)
    assert Price(2.0, 10.0, 0.5).of(REPLY) == pytest.approx((500 * 2 + 400 * 0.5 + 100 * 10) / 1e6)


@each_strategy
def test_a_token_budget_ends_the_run_and_keeps_what_is_done(strategy: Strategy) -> None:
    runner = BatchRunner(
        llm=Answers(), strategy=strategy, limits=Limits(llm=4), stop=StopConditions(max_tokens=10_000)
    )
    report = runner.run(ask, range(2000))

    # Those in flight end, and on a busy machine calls in threads end before the run handles their events.
    assert 10 <= len(report.results) < 1000
    assert report.stats.stopped_because is not None
    assert "max_tokens=10000 is used up" in report.stats.stopped_because
    assert {failure.stage for failure in report.failures} <= {"run"}
    assert report.stats.prompt_tokens + report.stats.completion_tokens == 1000 * len(report.results)


@each_strategy
def test_a_cost_budget_ends_the_run_and_the_cost_is_reported(strategy: Strategy) -> None:
    runner = BatchRunner(
        llm=Answers(),
        strategy=strategy,
        limits=Limits(llm=4),
        stop=StopConditions(max_cost=0.1),
        prices={"m": Price(10.0, 10.0)},
    )
    report = runner.run(ask, range(2000))

    assert 10 <= len(report.results) < 1000
    assert report.stats.cost == pytest.approx(0.01 * len(report.results))
    assert "max_cost=0.1 is spent" in str(report.stats.stopped_because)


def test_tokens_of_answers_that_cannot_be_used_count() -> None:
    def spoil(item: int) -> Any:
        yield from complete(LLMRequest("t", ()))
        raise errors.OutputInvalid("useless", reply=REPLY)

    report = BatchRunner(llm=Answers(), prices={"": Price(1.0, 1.0)}).run(spoil, [1, 2])

    assert report.stats.cost == pytest.approx(0.002)
    assert report.stats.prompt_tokens == 1800


def test_a_model_without_a_price_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        report = BatchRunner(llm=Answers(), prices={"other": Price(1.0, 1.0)}).run(ask, range(5))

    assert report.stats.cost == 0.0
    (record,) = caplog.records
    assert "no price for the model 'm'" in record.message


def test_a_model_is_priced_by_its_name_without_a_date() -> None:
    watch = StopMonitor(StopConditions(), {"gpt-5": Price(9.0, 9.0), "gpt-5-mini": Price(1.0, 1.0)})
    watch.record_reply(LLMResponse("", prompt_tokens=10**6, model="gpt-5-mini-2025-08-07"))
    assert watch.cost == pytest.approx(1.0)
    watch.record_reply(LLMResponse("", prompt_tokens=10**6, model="gpt-5-2025-08-07"))
    assert watch.cost == pytest.approx(10.0)
    watch.record_reply(LLMResponse("", prompt_tokens=10**6, model="gpt-5-nano"))
    assert watch.cost == pytest.approx(10.0)


def test_a_cost_budget_does_not_take_an_unknown_model_for_free() -> None:
    runner = BatchRunner(llm=Answers(), stop=StopConditions(max_cost=1.0), prices={"other": Price(1.0, 1.0)})
    report = runner.run(ask, range(5))

    assert len(report.results) == 1
    assert "no price for the model 'm'" in str(report.stats.stopped_because)


@pytest.mark.parametrize(
    "given", [{"prompt": "0.25"}, {"prompt": -1}, {"completion": float("nan")}, {"cached": True}]
)
def test_a_price_that_is_none_is_reported(given: Any) -> None:
    with pytest.raises(
        errors.ConfigurationError, match=f"Price.{next(iter(given))} must be a number of at least 0"
    ):
        Price(**{"prompt": 1.0, "completion": 1.0, **given})


@pytest.mark.parametrize("prices", [{"": 0.25}, Price(1.0, 1.0), [1]])
def test_prices_of_another_kind_are_reported(prices: Any) -> None:
    with pytest.raises(errors.ConfigurationError, match="prices must map names of models to a Price"):
        BatchRunner(llm=Answers(), prices=prices)


@each_strategy
def test_too_many_failures_in_a_row_of_calls_end_the_run(strategy: Strategy) -> None:
    def fault(request: LLMRequest, attempt: int) -> Exception | None:
        broken = request.inputs["item"] >= 20 and request.inputs["item"] % 4
        return errors.PermanentBackendError("broken") if broken else None

    llm = FakeLLM(fault=fault)
    runner = BatchRunner(
        llm=llm,
        strategy=strategy,
        limits=Limits(llm=2),
        stop=StopConditions(error_rate=0.5, error_rate_window=20),
    )
    report = runner.run(ask, range(1000))

    assert 20 + 10 <= llm.calls < 500
    assert "of the latest 20 tries failed" in str(report.stats.stopped_because)


def test_refusals_are_no_errors_and_an_error_rate_needs_its_window() -> None:
    watch = StopMonitor(StopConditions(error_rate=0.5, error_rate_window=4), {})
    assert [watch.record_failure() for _ in range(3)] == [None] * 3
    assert watch.record_rate_limited(0.0) is None
    assert watch.record_failure() is not None


@each_strategy
def test_total_refusal_ends_within_the_set_time_with_what_is_finished(strategy: Strategy) -> None:
    def fault(request: LLMRequest, attempt: int) -> Exception | None:
        return errors.RateLimited("no", retry_after=60) if request.inputs["item"] >= 3 else None

    runner = BatchRunner(
        llm=FakeLLM(fault=fault),
        strategy=strategy,
        stop=StopConditions(max_rate_limited_seconds=0.3),
        llm_retry=RetryPolicy(max_rate_limit_attempts=1000),
    )
    began = monotonic()
    report = runner.run(ask, range(30))

    assert monotonic() - began >= 0.3
    assert len(report.results) == 3
    assert report.stats.stopped_because == "the model refused everything for 0.3 s"


def test_an_answer_between_refusals_restarts_the_window() -> None:
    watch = StopMonitor(StopConditions(max_rate_limited_seconds=10), {})
    assert watch.record_rate_limited(0.0) is None
    assert watch.next_check_in(4.0) == 6.0
    assert watch.record_reply(REPLY) is None
    assert watch.record_rate_limited(9.0) is None
    assert watch.record_rate_limited(18.0) is None
    assert watch.rate_limit_stop(19.0) is not None


@pytest.mark.parametrize(
    "rules",
    [
        {"error_rate": 1.5},
        {"error_rate": 0},
        {"error_rate_window": 0},
        {"error_rate_window": None},
        {"max_rate_limited_seconds": -1},
        {"max_tokens": 1.5},
    ],
)
def test_a_rule_out_of_bounds_is_named(rules: Any) -> None:
    with pytest.raises(errors.ConfigurationError, match=f"StopConditions.{next(iter(rules))} must be"):
        StopConditions(**rules)


def test_a_cost_budget_without_prices_says_what_to_write() -> None:
    with pytest.raises(errors.ConfigurationError, match="prices="):
        BatchRunner(llm=Answers(), stop=StopConditions(max_cost=1.0))
