"""One bad text among many: halved down to it, left out, counted and named; an outage is no poison."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from tests.support.flow_runner import apply

from restaurant_llm_batch import (
    AnalyzeSentiment,
    ExtractStrengths,
    FailedReview,
    Hit,
    LLMRequest,
    LLMResponse,
    SummarizeAspects,
    SummarizeReviews,
    errors,
)

REFUSED = errors.ContentRefused("the content filter was triggered", status=400)
DOWN = errors.TransientBackendError("500", status=500)
LONG = "정말 맛있고 친절해서 또 가고 싶은 집이에요. "


class Model:
    """Answers by the schema; `fault` may fail a call by the text of its prompt."""

    def __init__(self, fault: Callable[[str], Exception | str | None]) -> None:
        self.requests: list[LLMRequest] = []
        self._fault = fault

    def __call__(self, request: LLMRequest) -> LLMResponse:
        self.requests.append(request)
        text = request.messages[1]["content"]
        fault = self._fault(text)
        if isinstance(fault, Exception):
            raise fault
        if fault:
            return LLMResponse("", finish_reason=fault, model="m")
        return LLMResponse(json.dumps(self.answer(request)), model="m")

    def answer(self, request: LLMRequest) -> Any:
        if request.task == "sentiment":
            return {"labels": [{"id": row["id"], "label": "positive"} for row in request.inputs["reviews"]]}
        assert request.schema is not None
        part = {"summary": "s", "bullets": ["b"], "evidence": [1]}
        if request.task == "aspect_summary":
            return part
        if request.task == "merge_summaries":
            return {
                name: "+".join(one[name] for one in request.inputs["summaries"])
                for name in request.schema["properties"]
            }
        if request.task == "aspect_summaries":
            return {"categories": dict.fromkeys(request.inputs["reviews"], part), "overall_summary": "o"}
        said = " ".join(row["content"][:12] for row in request.inputs.get("reviews", ()))
        return dict.fromkeys(request.schema["properties"], said or "o")


def poisoned(fault: Exception | str) -> Callable[[str], Exception | str | None]:
    return lambda text: fault if "독" in text else None


FAULTS = pytest.mark.parametrize("fault", [REFUSED, "content_filter", DOWN], ids=["400", "200", "5xx"])


@FAULTS
@pytest.mark.parametrize("place", [0, 7, 15])
def test_a_review_that_fails_a_batch_is_found_and_the_others_are_labelled(
    fault: Exception | str, place: int
) -> None:
    reviews = [f"리뷰 {n}" + (" 독" if n == place else "") for n in range(16)]
    model = Model(poisoned(fault))
    result = apply(AnalyzeSentiment(), {"restaurant_id": 1, "reviews": reviews}, model)

    assert (result.positive_count, result.failed_count) == (15, 1)
    (bad,) = [label for label in result.labels if label.label is None]
    assert bad.review_id == place
    assert bad.error
    assert "refus" in bad.error or "declined" in bad.error or "500" in bad.error or "filter" in bad.error
    assert len(model.requests) == 9  # the batch, and both halves of four


def test_two_failing_halves_in_a_row_are_an_outage() -> None:
    model = Model(lambda text: DOWN)
    with pytest.raises(errors.TransientBackendError, match="500"):
        apply(AnalyzeSentiment(), {"restaurant_id": 1, "reviews": [str(n) for n in range(64)]}, model)

    assert len(model.requests) == 3


@pytest.mark.parametrize(
    "error",
    [
        errors.TransientBackendError("connection lost"),
        errors.RateLimited("429", status=429),
        errors.PermanentBackendError("no such model", status=404),
    ],
)
def test_what_is_no_texts_fault_is_not_halved(error: Exception) -> None:
    model = Model(lambda text: error)
    with pytest.raises(type(error)):
        apply(AnalyzeSentiment(), {"restaurant_id": 1, "reviews": ["a", "b", "c", "d"]}, model)

    assert len(model.requests) == 1


@FAULTS
def test_a_review_that_fails_a_summary_is_left_out_counted_and_named(fault: Exception | str) -> None:
    reviews = [{"id": f"r{n}", "content": f"리뷰 {n}" + (" 독" if n == 5 else "")} for n in range(8)]
    item = {"restaurant_id": 1, "positive_reviews": reviews, "negative_reviews": ["별로"]}
    result = apply(SummarizeReviews(), item, Model(poisoned(fault)))

    assert (result.positive_count, result.negative_count, result.failed_count) == (7, 1, 1)
    assert [failed.review_id for failed in result.failed_reviews] == ["r5"]
    assert "독" not in result.overall_summary


def test_a_comparison_review_that_is_refused_is_named_by_its_own_id() -> None:
    others = [{"id": n, "content": f"남의 집 {n}" + (" 독" if n == 3 else "")} for n in range(6)]
    item = {"target_restaurant_id": 1, "target_reviews": ["좋아요"], "comparison_reviews": others}
    result = apply(ExtractStrengths(), item, Model(poisoned(REFUSED)))

    assert (result.target_count, result.comparison_count, result.failed_count) == (1, 5, 1)
    assert result.failed_reviews == (FailedReview(3, "ContentRefused: the content filter was triggered"),)


@pytest.mark.sample(3)
@FAULTS
@pytest.mark.parametrize("bad", [0, 24, 49])
def test_a_summary_that_cannot_be_merged_with_49_others_is_left_out(fault: Exception | str, bad: int) -> None:
    texts = [f"{LONG * 6} #{n}" + (" 짝" if n == bad else "") for n in range(50)]

    def fail(text: str) -> Exception | str | None:
        return fault if "독" in text else None

    class Poisoning(Model):
        def answer(self, request: LLMRequest) -> Any:
            answer = super().answer(request)
            reviews = request.inputs.get("reviews", ())
            if any(row["content"].endswith("짝") for row in reviews):
                return dict.fromkeys(answer, "독")
            return {name: text[-200:] for name, text in answer.items()}

    model = Poisoning(fail)
    item = {"restaurant_id": 1, "positive_reviews": texts, "negative_reviews": []}
    result = apply(SummarizeReviews(max_tokens_per_batch=600, max_tokens=100), item, model)
    batches = [request for request in model.requests if request.task == "review_summary"]
    left_out = next(
        len(request.inputs["reviews"]) for request in batches if "짝" in request.messages[1]["content"]
    )

    assert len(batches) > 10
    assert result.failed_count == left_out
    assert result.positive_count == 50 - left_out
    assert bad in [failed.review_id for failed in result.failed_reviews]
    assert "독" not in result.overall_summary


def test_when_no_two_halves_can_be_merged_the_item_fails_after_few_calls() -> None:
    model = Model(lambda text: DOWN if '"overall_summary"' in text else None)
    item = {"restaurant_id": 1, "positive_reviews": [LONG * 6] * 30, "negative_reviews": []}
    with pytest.raises(errors.TransientBackendError):
        apply(SummarizeReviews(max_tokens_per_batch=600, max_tokens=100), item, model)

    merges = [request for request in model.requests if request.task == "merge_summaries"]
    assert len(merges) <= 3 * 15


def search(query: Any) -> list[Hit]:
    texts = [f"{query.aspect} {n}" + (" 독" if query.aspect == "food" and n == 2 else "") for n in range(5)]
    return [Hit(f"{query.aspect}-{n}", text, 1.0, 1) for n, text in enumerate(texts)]


@pytest.mark.sample(2)
@FAULTS
@pytest.mark.parametrize("mode", ["single", "split"])
def test_a_review_that_fails_an_aspect_leaves_the_aspects_and_its_other_reviews(
    mode: Any, fault: Exception | str
) -> None:
    result = apply(SummarizeAspects(mode=mode), 1, Model(poisoned(fault)), search=search)
    food = result.categories["food"]

    assert {part.status for part in result.categories.values()} == {"ok"}
    assert (food.failed_count, bool(food.error)) == (1, True)
    assert result.categories["price"].failed_count == 0
    ranks = [evidence.rank for evidence in food.evidence]
    assert 2 not in ranks
    assert all(evidence.review_id == f"food-{evidence.rank}" for evidence in food.evidence)


@pytest.mark.parametrize("aspects", [("food",), ("service", "price", "food")])
def test_a_review_that_fails_every_aspect_is_found_too(aspects: tuple[str, ...]) -> None:
    def everywhere(query: Any) -> list[Hit]:
        return [Hit(n, "독" if n == 2 else f"맛 {n}", 1.0, 1) for n in range(5)]

    result = apply(SummarizeAspects(aspects=aspects), 1, Model(poisoned(DOWN)), search=everywhere)

    assert {part.status for part in result.categories.values()} == {"ok"}
    assert {part.failed_count for part in result.categories.values()} == {1}


def test_an_outage_for_aspects_of_the_same_reviews_ends_with_the_first_two_halves() -> None:
    model = Model(lambda text: DOWN)
    with pytest.raises(errors.TransientBackendError):
        apply(SummarizeAspects(), 1, model, search=lambda query: [Hit(n, "맛", 1.0, 1) for n in range(8)])

    assert len(model.requests) == 5


def test_an_outage_is_not_taken_for_poison_in_aspects() -> None:
    model = Model(lambda text: DOWN)
    with pytest.raises(errors.TransientBackendError):
        apply(SummarizeAspects(aspects=("a", "b", "c", "d")), 1, model, search=search)

    assert len(model.requests) == 3
