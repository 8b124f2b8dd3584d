"""Every task, with the same items meeting the same faults, has the same outcomes in every mode."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.support.run_methods import (
    STRATEGIES,
    RunMethod,
    by_run,
    comparable,
    each_run_method,
    strategy_name,
)

from restaurant_llm_batch import (
    AnalyzeSentiment,
    AspectComparison,
    BatchRunner,
    CompareAspects,
    ExtractStrengths,
    ExtractVocabulary,
    Limits,
    LLMRequest,
    RetryPolicy,
    Strategy,
    SummarizeReviews,
    errors,
)
from restaurant_llm_batch.testing import FakeLLM, FakeSearch

PATIENT = RetryPolicy(attempts=3, wait_initial=0.001, wait_max=0.002)
LIMITS = Limits(search=5, llm=3, batches=4, llm_total=5, open_items=7, max_tokens_per_batch=900)
REVIEWS = ["맛있어요", "The soup was <cold>.", "", "가격이 비싸지만 친절해요", "별로", "또 갈래요 ㅎㅎ"]


def reviews_of(restaurant: int) -> list[str]:
    """Give every restaurant its own reviews, from none to enough for several batches."""
    return [
        f"{REVIEWS[n % 6]} {restaurant}-{n}" if REVIEWS[n % 6] else "" for n in range(restaurant * 5 % 70)
    ]


def sentiments() -> list[Any]:
    given = [{"restaurant_id": n, "reviews": reviews_of(n), "priority": n % 3} for n in range(20)]
    return [*given, 21, {"restaurant_id": 48}, 60]


def sorted_reviews() -> list[Any]:
    return [
        {"restaurant_id": n, "positive_reviews": reviews_of(n), "negative_reviews": reviews_of(n // 2)}
        for n in range(20)
    ]


def comparisons() -> list[Any]:
    given = [
        {
            "target_restaurant_id": n,
            "target_reviews": reviews_of(n),
            "comparison_reviews": reviews_of(30 + n % 4),
        }
        for n in range(18)
    ]
    return [*given, {"target_restaurant_id": 19, "category": "국수"}, {"target_restaurant_id": 21}]


def compared() -> list[Any]:
    """Compare restaurants with and without reviews in the shared sample, of two categories and of none."""
    return [
        {"restaurant_id": n, "category": (None, "국수", "카페")[n % 3], "priority": n % 2}
        for n in range(3, 24)
    ]


def documents() -> list[Any]:
    return [{"document_id": f"d{n}", "chunks": reviews_of(n)[:7]} for n in range(20)]


TASKS: dict[str, tuple[Any, list[Any]]] = {
    "sentiment": (AnalyzeSentiment(batch_size=9), sentiments()),
    "comparison": (CompareAspects(limit=20), compared()),
    "reviews": (SummarizeReviews(max_tokens=200), sorted_reviews()),
    "strengths": (ExtractStrengths(max_tokens=200, max_tokens_per_batch=600), comparisons()),
    "vocabulary": (ExtractVocabulary(parallel=True, max_safe_chunks=3), documents()),
}


SEARCHED: dict[int, list[str]] = {
    **{n: [f"{REVIEWS[n % 6]} {n}-0"] for n in range(40, 50)},
    21: ["우리 집"],
    **{n: [f"좋아요 {n}-{i}" for i in range(n * 5 % 24)] for n in range(3, 20)},
}


def content(request: LLMRequest) -> str:
    return str(request.messages[1]["content"])


def fault(request: LLMRequest, attempt: int) -> Exception | None:
    """Fail by what is asked and how often it was tried."""
    text = content(request)
    if " 7-" in text and attempt == 1:
        return errors.TransientBackendError("lost")
    if " 9-" in text:
        return errors.PermanentBackendError("400")
    if " 11-3" in text:
        return errors.TransientBackendError("down")
    if " 13-" in text and attempt < 4:
        return errors.RateLimited("429")
    if " 12-1" in text and len(text) > 150:
        return errors.PromptTooLong("too long")
    if " 5-2" in text:
        return ZeroDivisionError("a bug in the backend")
    if " 8-" in text and request.inputs.get("aspect") == "price":
        return errors.PermanentBackendError("no price")
    return errors.PermanentBackendError("no comparison") if " 33-" in text else None


def answer(request: LLMRequest) -> str:
    """Answer by what is asked; some answers lack something, and some are none."""
    inputs, text = request.inputs, content(request)
    if " 17-1" in text and request.task != "merge_summaries":
        return "I would rather not."
    if request.task in ("sentiment", "aspect_sentiment"):
        kept = [review["id"] for review in inputs["reviews"] if (review["id"] + len(inputs["reviews"])) % 4]
        labels = [{"id": number, "label": ("positive", "negative")[number % 2]} for number in kept]
        labels += [{"id": 1000, "label": "neutral"}] if " 15-" in text else []  # not believed, so halved
        return f"Sure: {json.dumps({'labels': labels})}"
    if request.task == "words":
        return json.dumps(
            {"words": [{"word": w, "pos": "n", "meanings": ["m"]} for w in inputs["chunk"].split()]}
        )
    if request.task == "phrases":
        return json.dumps({"phrases": [{"phrase": inputs["chunk"], "meaning": "m"}]})
    if request.task == "merge_summaries":
        parts = inputs["summaries"]
        return json.dumps({key: "|".join(part[key] for part in parts)[:300] for key in parts[0]})
    assert request.schema is not None
    return json.dumps(dict.fromkeys(request.schema["properties"], f"{len(inputs['reviews'])} {text[-40:]}"))


def outcomes(strategy: Strategy, way: RunMethod, name: str) -> list[object]:
    """Run all items of a task once, on fresh doubles."""
    llm = FakeLLM(fault=fault, answer=answer)
    search = FakeSearch(SEARCHED, categories={n: ("국수", "카페")[n % 2] for n in SEARCHED})
    runner = BatchRunner(llm=llm, search=search, strategy=strategy, limits=LIMITS, llm_retry=PATIENT)
    task, items = TASKS[name]
    result = comparable(way(runner, task, items))
    assert llm.peak <= 5
    assert llm.in_flight == 0
    return result


@pytest.fixture(scope="module", params=TASKS)
def expected(request: pytest.FixtureRequest) -> tuple[str, list[object]]:
    """What stage 1 comes to."""
    return request.param, outcomes(Strategy.stage(1), by_run, request.param)


@each_run_method
@pytest.mark.parametrize("strategy", STRATEGIES, ids=strategy_name)
@pytest.mark.sample(1)
def test_outcomes_are_equal_in_every_mode(
    strategy: Strategy, way: RunMethod, expected: tuple[str, list[object]]
) -> None:
    name, in_stage_one = expected

    assert in_stage_one == outcomes(strategy, way, name)


def failed_parts(value: Any) -> int:
    """Count the parts of a result that failed."""
    if isinstance(value, AspectComparison):
        return sum(lift.failed + (lift.error is not None) for lift in value.aspects.values())
    return getattr(value, "failed_count", 0) or len(getattr(value, "failed_chunks", ()))


@pytest.mark.sample(2)
def test_the_faults_of_this_file_do_happen(expected: tuple[str, list[object]]) -> None:
    name, rows = expected
    values = [row[2] for row in rows if len(row) == 3]  # type: ignore[arg-type, index]
    failures = [row for row in rows if len(row) == 5]  # type: ignore[arg-type]

    assert len(values) > 10
    assert failures
    partial = [value for value in values if failed_parts(value)]
    assert partial, name
