"""A run that stops before the overall summary is written keeps the aspects, which are whole and paid for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.run_methods import each_strategy

from restaurant_llm_batch import (
    BatchRunner,
    Failure,
    LLMRequest,
    RestaurantSummary,
    RetryPolicy,
    Store,
    Strategy,
    Success,
    SummarizeAspects,
    errors,
)
from restaurant_llm_batch.outcomes import Outcome
from restaurant_llm_batch.testing import FakeLLM, FakeSearch

ASPECTS = ("service", "food")
PART = {"summary": "좋다.", "bullets": [], "evidence": [1]}
REVIEWS = FakeSearch({n: ["국물이 진해요", "직원이 친절해요"] for n in range(9)})


class Model:
    """Answers about aspects, without an overall summary, and calls a function when it has been asked for the last."""

    def __init__(self, at_last: Callable[[], object] = lambda: None) -> None:
        self.asked: list[str] = []
        self.at_last = at_last
        self.llm = FakeLLM(answer=self.answer, fault=self.fault)
        self.error: Exception | None = None

    def answer(self, request: LLMRequest) -> str:
        self.asked.append(request.task)
        if request.task == "overall_summary":
            return json.dumps({"overall_summary": "두루 좋다."})
        if request.task == "aspect_summaries":
            self.at_last()
            return json.dumps({"categories": dict.fromkeys(ASPECTS, PART)})
        if self.asked.count("aspect_summary") == len(ASPECTS):
            self.at_last()
        return json.dumps(PART)

    def fault(self, request: LLMRequest, attempt: int) -> Exception | None:
        return self.error if request.task == "overall_summary" else None


def outcomes_of(
    model: Model, strategy: Strategy, mode: Any, items: Any = (1,), **options: Any
) -> list[Outcome[Any]]:
    """Stream the outcomes; the model may stop the run."""
    runner = BatchRunner(
        llm=model.llm, search=REVIEWS, strategy=strategy, llm_retry=RetryPolicy(attempts=1), **options
    )
    with runner, runner.stream(SummarizeAspects(mode=mode, aspects=ASPECTS), items) as stream:
        model.at_last = stream.stop
        return list(stream)


def check_aspects_only(outcome: Outcome[Any], error: str) -> None:
    assert isinstance(outcome, Success)
    result: RestaurantSummary = outcome.value
    assert [part.status for part in result.categories.values()] == ["ok", "ok"]
    assert (result.overall_summary, result.overall_status) == ("", "failed")
    assert (result.overall_error or "").startswith(error)


@each_strategy
@pytest.mark.parametrize("mode", ["single", "split"])
def test_a_stop_before_the_overall_summary_keeps_the_aspects(mode: Any, strategy: Strategy) -> None:
    model = Model()
    (outcome,) = outcomes_of(model, strategy, mode)

    check_aspects_only(outcome, "RunStopped: not run to its end")
    assert "overall_summary" not in model.asked


@each_strategy
@pytest.mark.parametrize("mode", ["single", "split"])
@pytest.mark.parametrize("error", [errors.QuotaExhausted("spent"), errors.AuthenticationFailed("401")])
def test_an_overall_summary_that_stops_the_run_keeps_the_aspects_and_stops(
    error: Exception, mode: Any, strategy: Strategy
) -> None:
    model = Model()
    model.error = error
    model.at_last = lambda: None
    runner = BatchRunner(llm=model.llm, search=REVIEWS, strategy=strategy)
    report = runner.run(SummarizeAspects(mode=mode, aspects=ASPECTS), [1])

    check_aspects_only(report.outcomes[0], f"{type(error).__name__}: ")
    assert report.stats.stopped_because is not None


@each_strategy
def test_items_that_the_stop_cuts_short_before_are_failures(strategy: Strategy) -> None:
    model = Model()
    outcomes = outcomes_of(model, strategy, "single", range(9))
    kept = [outcome for outcome in outcomes if isinstance(outcome, Success)]

    assert kept
    for one in kept:
        check_aspects_only(one, "RunStopped: ")
    for outcome in outcomes:
        if isinstance(outcome, Failure):
            assert isinstance(outcome.error, errors.RunStopped)


def test_an_aspect_that_the_stop_cuts_short_is_no_partial_result() -> None:
    model = Model()
    model.at_last = lambda: None
    stop = errors.QuotaExhausted("spent")
    llm = FakeLLM(
        answer=model.answer,
        fault=lambda request, attempt: stop if request.inputs.get("aspect") == "food" else None,
    )
    report = BatchRunner(llm=llm, search=REVIEWS).run(SummarizeAspects(mode="split", aspects=ASPECTS), [1])

    assert isinstance(report.outcomes[0], Failure)


@pytest.mark.sample(3)
@each_strategy
@pytest.mark.parametrize("mode", ["single", "split"])
def test_with_a_store_the_next_run_pays_for_the_overall_summary_only(
    mode: Any, strategy: Strategy, tmp_path: Path
) -> None:
    store = Store(tmp_path / "answers.db")
    first = Model()
    check_aspects_only(outcomes_of(first, strategy, mode, store=store)[0], "RunStopped: ")
    second = Model()
    runner = BatchRunner(
        llm=second.llm, search=REVIEWS, strategy=strategy, store=Store(tmp_path / "answers.db")
    )
    (result,) = runner.run(SummarizeAspects(mode=mode, aspects=ASPECTS), [1]).results

    assert second.asked == ["overall_summary"]
    assert (result.overall_summary, result.overall_status) == ("두루 좋다.", "ok")
