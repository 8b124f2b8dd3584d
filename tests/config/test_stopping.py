"""Rules by which a run stops itself: the bookkeeping alone, and in every mode."""

from __future__ import annotations

import logging
from time import monotonic
from typing import Any

import anyio
import pytest
from tests.support.run_methods import each_strategy

from restaurant_llm_batch import (
    AnalyzeSentiment,
    BatchRunner,
    Limits,
    LLMRequest,
    LLMResponse,
    Price,
    RetryPolicy,
    StopConditions,
    Strategy,
    TimeLimits,
    errors,
)
from restaurant_llm_batch._config.stopping import StopMonitor
from restaurant_llm_batch.backends import OfflineLLM
from restaurant_llm_batch.steps import complete
from restaurant_llm_batch.testing import FakeLLM

REPLY = LLMResponse("yes", prompt_tokens=900, completion_tokens=100, model="m", cached_tokens=400)


def no_estimate() -> tuple[int, int]:
    """Fail: the reply reports its tokens."""
    raise AssertionError("the tokens are known")


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

    assert report.stats.cost is None  # not 0: it is not known
    assert report.stats.estimated_cost is None
    (record,) = caplog.records
    assert "no price for the model 'm'" in record.message


def test_a_model_is_priced_by_its_name_without_a_date() -> None:
    watch = StopMonitor(StopConditions(), {"gpt-5": Price(9.0, 9.0), "gpt-5-mini": Price(1.0, 1.0)})
    watch.record_reply(LLMResponse("", prompt_tokens=10**6, model="gpt-5-mini-2025-08-07"), no_estimate)
    assert watch.cost == pytest.approx(1.0)
    watch.record_reply(LLMResponse("", prompt_tokens=10**6, model="gpt-5-2025-08-07"), no_estimate)
    assert watch.cost == pytest.approx(10.0)
    watch.record_reply(LLMResponse("", prompt_tokens=10**6, model="gpt-5-nano"), no_estimate)
    assert watch.cost is None


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
@pytest.mark.sample(1)
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
    assert watch.record_reply(REPLY, no_estimate) is None
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


class Quiet:
    """A model that answers, and reports its tokens in its own way, or not at all."""

    def __init__(self, *usage: Any) -> None:
        self.usage = usage
        self.calls = 0

    def complete(self, request: LLMRequest) -> LLMResponse:
        self.calls += 1
        prompt, completion = self.usage
        return LLMResponse("yes " * 500, prompt_tokens=prompt, completion_tokens=completion, model="m")


def long_question(item: int) -> Any:
    messages = ({"role": "user", "content": "맛있어요 " * 1000},)
    return (yield from complete(LLMRequest("t", messages, inputs={"item": item}))).text


@pytest.mark.parametrize(
    "usage",
    [(None, None), (0, 0), (float("nan"), 5), (-1, -1), (3000, 0), (0, 900), (True, False), ("?", "")],
)
@pytest.mark.parametrize("stop", [StopConditions(max_cost=0.02), StopConditions(max_tokens=20_000)])
def test_a_budget_holds_by_estimate_where_the_service_reports_no_tokens(
    usage: Any, stop: StopConditions, caplog: pytest.LogCaptureFixture
) -> None:
    model = Quiet(*usage)
    report = BatchRunner(llm=model, prices={"": Price(1.0, 2.0)}, stop=stop).run(long_question, range(100))

    assert 2 <= model.calls < 20
    assert "(about " in str(report.stats.stopped_because)
    assert report.stats.cost is None
    assert report.stats.estimated_cost is not None
    assert report.stats.estimated_cost > 0.002 * model.calls
    assert len([record for record in caplog.records if "estimated" in record.message]) == 1


@pytest.mark.parametrize("usage", [(3000, 1000), (3000.0, 1000.0), ("3000", "1000"), ("3e3", 1000.9)])
def test_tokens_are_counted_however_the_service_spells_them(usage: Any) -> None:
    report = BatchRunner(llm=Quiet(*usage), prices={"m": Price(1.0, 2.0)}).run(long_question, range(3))

    assert (report.stats.prompt_tokens, report.stats.completion_tokens) == (9000, 3000)
    assert report.stats.cost == report.stats.estimated_cost == pytest.approx(3 * 0.005)


def test_the_offline_model_costs_nothing_and_says_so() -> None:
    runner = BatchRunner(llm=OfflineLLM(), prices={"": Price(1.0, 2.0)}, stop=StopConditions(max_cost=0.0001))
    report = runner.run(AnalyzeSentiment(), [{"restaurant_id": 1, "reviews": ["맛있어요"] * 50}])

    assert report.results
    assert report.stats.cost == report.stats.estimated_cost == 0.0


def test_tokens_that_come_with_an_error_count() -> None:
    class Failing:
        def complete(self, request: LLMRequest) -> LLMResponse:
            raise errors.OutputTruncated("cut off", reply=REPLY)

    report = BatchRunner(llm=Failing(), prices={"": Price(1.0, 1.0)}).run(ask, [1, 2])

    assert report.stats.prompt_tokens == 1800
    assert report.stats.cost == pytest.approx(0.002)


def test_a_call_cancelled_at_its_time_limit_has_read_its_prompt() -> None:
    class Slow:
        async def acomplete(self, request: LLMRequest) -> LLMResponse:
            await anyio.sleep(60)
            raise AssertionError("not reached")

    runner = BatchRunner(
        llm=Slow(),
        strategy=Strategy.stage(4),
        prices={"": Price(1.0, 1.0)},
        time_limits=TimeLimits(call=0.05),
        llm_retry=RetryPolicy(attempts=2, wait_initial=0.0),
    )
    report = runner.run(long_question, [1])

    assert report.failures
    assert report.stats.cost is None
    assert report.stats.estimated_cost is not None
    assert report.stats.estimated_cost > 2 * 0.001


def refuse(*broken: Exception) -> FakeLLM:
    """A model that answers the items whose error is None, and raises for the others, by the item's number."""
    return FakeLLM(fault=lambda request, attempt: broken[request.inputs["item"] % len(broken)])


@pytest.mark.sample(3)
@each_strategy
@pytest.mark.parametrize(
    "error",
    [
        errors.PermanentBackendError("HTTP 403: forbidden (request 7f3a21)", backend="vllm", status=403),
        errors.PermanentBackendError("The model `x` does not exist", backend="openai", status=404),
        errors.ContentRefused("flagged")
        if hasattr(errors, "ContentRefused")
        else errors.SubmissionUnknown("lost"),
    ],
)
def test_the_same_permanent_error_in_a_row_stops_the_run_with_the_reason(
    error: errors.BackendError, strategy: Strategy
) -> None:
    llm = refuse(error)
    report = BatchRunner(llm=llm, strategy=strategy).run(ask, range(500))

    assert not report.results
    assert 20 <= llm.calls < 60
    assert "20 items in a row ended with the same error" in str(report.stats.stopped_because)
    assert str(error) in str(report.stats.stopped_because)


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param([errors.PermanentBackendError("no")] * 19 + [None], id="one of twenty is answered"),
        pytest.param(
            [errors.PermanentBackendError("no", status=400), errors.PermanentBackendError("no", status=404)],
            id="two errors in turn",
        ),
        pytest.param([errors.TransientBackendError("down")], id="an error that may pass"),
        pytest.param([ValueError("not ours")], id="an error of the caller's own"),
    ],
)
def test_other_errors_in_a_row_do_not_stop_the_run(broken: list[Exception]) -> None:
    runner = BatchRunner(llm=refuse(*broken), llm_retry=RetryPolicy(attempts=1))
    report = runner.run(ask, range(100))

    assert report.stats.stopped_because is None
    assert len(report.outcomes) == 100


def test_how_many_of_the_same_error_stop_a_run_can_be_set() -> None:
    error = errors.PermanentBackendError("no")
    for limit, calls in ((3, 3), (None, 100)):
        llm = refuse(error)
        BatchRunner(llm=llm, stop=StopConditions(same_error_in_a_row=limit)).run(ask, range(100))
        assert llm.calls == calls

    with pytest.raises(errors.ConfigurationError, match=r"same_error_in_a_row must be a whole number"):
        StopConditions(same_error_in_a_row=0)


def test_numbers_and_ids_in_a_message_do_not_make_another_error_of_it() -> None:
    class Forbidden:
        calls = 0

        def complete(self, request: LLMRequest) -> LLMResponse:
            self.calls += 1
            raise errors.PermanentBackendError(
                f"Access denied, reference 0.{self.calls}ab at 12:00:{self.calls}"
            )

    llm = Forbidden()
    report = BatchRunner(llm=llm).run(ask, range(100))

    assert llm.calls == 20
    assert report.stats.stopped_because is not None
