"""The price rule: a summary of the price without a basis is replaced, visibly, and nothing else is."""

from __future__ import annotations

import json
from typing import Any
from unicodedata import normalize

import pytest
from tests.support.run_methods import each_strategy

from restaurant_llm_batch import (
    AspectSummary,
    BatchRunner,
    LLMRequest,
    RestaurantSummary,
    Strategy,
    SummarizeAspects,
)
from restaurant_llm_batch.backends import OfflineLLM
from restaurant_llm_batch.testing import FakeLLM, FakeSearch

KOREAN, ENGLISH = "가격을 언급한 리뷰가 거의 없습니다.", "The reviews hardly mention the price."
SILENT = ["국물이 진해요", "직원이 친절해요", "면이 쫄깃해요"]
INVENTED = {"summary": "가격이 합리적이다.", "bullets": ["저렴하다", "할인이 있다"], "evidence": [1, 2]}
OTHER = {"summary": "좋다.", "bullets": ["좋다!"], "evidence": [1]}


def summarized(
    reviews: list[str],
    price: Any = None,
    overall: str = "두루 좋다.",
    strategy: Strategy = Strategy.stage(1),
    **fields: Any,
) -> RestaurantSummary:
    """Summarise one restaurant; the model answers with `price` about the price, whatever the reviews say."""
    given = INVENTED if price is None else price

    def answer(request: LLMRequest) -> str:
        if request.task == "overall_summary":
            return json.dumps({"overall_summary": overall})
        if request.task == "aspect_summary":
            return json.dumps(given if request.inputs["aspect"] == "price" else OTHER)
        parts = {aspect: given if aspect == "price" else OTHER for aspect in request.inputs["reviews"]}
        return json.dumps({"categories": parts, "overall_summary": overall})

    runner = BatchRunner(llm=FakeLLM(answer=answer), search=FakeSearch({1: reviews}), strategy=strategy)
    (result,) = runner.run(SummarizeAspects(**fields), [1]).results
    return result


@each_strategy
@pytest.mark.parametrize("mode", ["single", "split"])
def test_a_summary_that_cites_no_price_word_is_replaced_and_named(mode: Any, strategy: Strategy) -> None:
    result = summarized(SILENT, mode=mode, strategy=strategy)
    price = result.categories["price"]

    assert price == AspectSummary("ok", KOREAN, replaced=True)
    assert price.dropped == (
        'summary: "가격이 합리적이다." (no review that it cites mentions the price)',
        'bullets: "저렴하다" (no review that it cites mentions the price)',
        'bullets: "할인이 있다" (no review that it cites mentions the price)',
    )
    assert result.categories["food"].summary == "좋다."
    assert (result.overall_summary, result.overall_status) == ("두루 좋다.", "ok")
    assert result.without_evidence == 0


@pytest.mark.parametrize(
    "word", ["8,000원이면 괜찮아요", "가성비 좋아요", normalize("NFD", "저렴해요"), "Great value"]
)
@pytest.mark.parametrize("mode", ["single", "split"])
def test_a_summary_that_cites_a_price_word_stands(word: str, mode: Any) -> None:
    result = summarized(["국물이 진해요", word], mode=mode)
    price = result.categories["price"]

    assert (price.summary, price.bullets, price.replaced, price.dropped) == (
        "가격이 합리적이다.",
        ("저렴하다", "할인이 있다"),
        False,
        (),
    )
    assert len(price.evidence) == 2


def test_a_word_inside_another_is_no_price_word() -> None:
    assert summarized(["직원 3명", "We felt valued", "돈까스"]).categories["price"].replaced


def test_only_what_is_cited_counts() -> None:
    reviews = ["국물이 진해요", "직원이 친절해요", "가격이 비싸요"]

    assert summarized(reviews).categories["price"].replaced
    assert not summarized(reviews, {**INVENTED, "evidence": [3]}).categories["price"].replaced


def test_a_summary_that_cites_nothing_is_judged_by_all_reviews() -> None:
    silent = {**INVENTED, "evidence": []}

    assert not summarized([*SILENT, "가격이 비싸요"], silent).categories["price"].replaced
    replaced = summarized(SILENT, silent).categories["price"]
    assert replaced.dropped[0] == 'summary: "가격이 합리적이다." (no review mentions the price)'
    invalid = summarized(SILENT, {**INVENTED, "evidence": [7, 8]}).categories["price"]
    assert (invalid.replaced, invalid.invalid_citations) == (True, 2)


@pytest.mark.parametrize(
    ("language", "sentence"), [("auto", KOREAN), ("ko", KOREAN), ("en", ENGLISH), ("ja", ENGLISH)]
)
def test_the_sentence_is_in_the_language_of_the_answer(language: str, sentence: str) -> None:
    assert summarized(SILENT, language=language).categories["price"].summary == sentence


def test_an_english_restaurant_gets_the_english_sentence() -> None:
    assert summarized(["The soup was rich and hot."] * 3).categories["price"].summary == ENGLISH


@pytest.mark.parametrize(
    ("overall", "expected"),
    [
        ("맛이 좋다. 가격도 저렴하다.", "맛이 좋다."),
        ("서비스와 가격이 만족스럽다.", "좋다. 좋다."),
        ("맛이 좋다. 직원이 친절하다.", "맛이 좋다. 직원이 친절하다."),
    ],
)
def test_the_overall_summary_does_not_speak_of_a_price_that_no_review_mentions(
    overall: str, expected: str
) -> None:
    assert summarized(SILENT, overall=overall).overall_summary == expected
    assert summarized(SILENT, overall=overall, mode="split").overall_summary == expected
    assert summarized([*SILENT, "무료 주차"], overall=overall).overall_summary == overall


def test_the_price_alone_leaves_no_invented_overall_summary() -> None:
    assert summarized(SILENT, overall="가격이 좋다.", aspects=["price"]).overall_summary == KOREAN


@pytest.mark.parametrize("aspects", [["cost"], ["food", "가격"], {"Price": ["값"]}])
def test_other_aspects_are_left_alone(aspects: Any) -> None:
    result = summarized(SILENT, aspects=aspects)

    assert not any(part.replaced for part in result.categories.values())


def test_the_rule_can_be_switched_off() -> None:
    result = summarized(SILENT, price_rule=False, overall="가격이 좋다.")

    assert result.categories["price"].summary == "가격이 합리적이다."
    assert result.overall_summary == "가격이 좋다."


def test_the_prompts_do_not_depend_on_the_rule() -> None:
    def asked(**fields: Any) -> list[Any]:
        requests: list[LLMRequest] = []
        search = FakeSearch({1: SILENT})
        BatchRunner(llm=FakeLLM(requests=requests), search=search).run(
            SummarizeAspects(mode="split", **fields), [1]
        )
        return [request.messages for request in requests]

    assert asked() == asked(price_rule=False)


def test_what_says_so_itself_is_not_replaced() -> None:
    runner = BatchRunner(llm=OfflineLLM(), search=FakeSearch({1: SILENT}))
    (result,) = runner.run(SummarizeAspects(), [1]).results

    assert result.categories["price"] == AspectSummary("ok", KOREAN)
    assert result.categories["price"].dropped == ()


def test_a_failed_or_empty_aspect_stays_what_it_is() -> None:
    assert summarized([]).categories["price"].status == "no_reviews"
    assert summarized(SILENT, {"summary": 7}).categories["price"].status == "failed"
