"""Texts in Unicode's decomposed form (NFD) are sent and counted in the composed form (NFC)."""

from __future__ import annotations

import json
from typing import Any
from unicodedata import is_normalized, normalize

import pytest
from pydantic import BaseModel
from tests.support.flow_runner import apply

from restaurant_llm_batch import (
    AnalyzeSentiment,
    BatchRunner,
    ExtractStrengths,
    ExtractVocabulary,
    Hit,
    LLMRequest,
    Strategy,
    SummarizeAspects,
    SummarizeReviews,
    calculate_dynamic_batch_size,
    errors,
    pack_reviews,
)
from restaurant_llm_batch.steps import Flow, ask
from restaurant_llm_batch.testing import FakeLLM, FakeSearch

TEXTS = ["국물이 진하고 면발이 쫄깃해요", "Crème brûlée 좋아요", "ế à ü"]
DECOMPOSED = [normalize("NFD", text) for text in TEXTS]


def hits(texts: list[str]) -> list[Hit]:
    return [Hit(f"r{number}", text, 1.0, 1) for number, text in enumerate(texts)]


TASKS: list[tuple[Any, Any]] = [
    (SummarizeAspects(), lambda texts: {"restaurant_id": 1, "query": texts[0]}),
    (SummarizeReviews(), lambda texts: {"restaurant_id": 1, "positive_reviews": texts, "negative_reviews": texts[:1]}),
    (AnalyzeSentiment(), lambda texts: {"restaurant_id": 1, "reviews": texts}),
    (
        ExtractStrengths(),
        lambda texts: {"target_restaurant_id": 1, "target_reviews": texts, "comparison_reviews": texts[1:]},
    ),
    (ExtractStrengths(), lambda texts: {"target_restaurant_id": 1}),
    (ExtractVocabulary(), lambda texts: {"document_id": 1, "chunks": texts}),
]  # fmt: skip
NAMES = [f"{type(task).__name__}-{number}" for number, (task, _) in enumerate(TASKS)]


@pytest.mark.parametrize(("task", "item"), TASKS, ids=NAMES)
def test_both_forms_are_the_same_question(task: Any, item: Any) -> None:
    sent: list[list[LLMRequest]] = []
    for texts in (TEXTS, DECOMPOSED):
        asked: list[LLMRequest] = []
        apply(
            task, item(texts), FakeLLM(requests=asked).complete, search=lambda query, texts=texts: hits(texts)
        )
        sent.append(asked)

    composed, decomposed = sent
    assert composed == decomposed
    assert all(is_normalized("NFC", message["content"]) for one in decomposed for message in one.messages)


def test_the_query_and_the_evidence_are_composed() -> None:
    asked: list[Any] = []

    def search(query: Any) -> list[Hit]:
        asked.append(query)
        return hits(DECOMPOSED)

    result = apply(
        SummarizeAspects(), {"restaurant_id": 1, "query": DECOMPOSED[0]}, FakeLLM().complete, search=search
    )

    assert all(query.text.endswith(TEXTS[0]) for query in asked)
    assert result.categories["food"].evidence[0].snippet == TEXTS[0]


def test_ask_sends_composed_texts() -> None:
    class Form(BaseModel):
        name: str

    def task(item: int) -> Flow[Form]:
        return (yield from ask(Form, "Which?", reviews=DECOMPOSED))

    asked: list[LLMRequest] = []
    BatchRunner(llm=FakeLLM(requests=asked)).run(task, [1]).raise_for_failures()

    assert [review["content"] for review in asked[0].inputs["reviews"]] == TEXTS


def test_they_are_counted_as_they_are_sent() -> None:
    reviews = [TEXTS[0] * 5] * 40
    decomposed = [normalize("NFD", review) for review in reviews]

    assert calculate_dynamic_batch_size(decomposed, 1000) == calculate_dynamic_batch_size(reviews, 1000)
    assert [len(batch) for batch in pack_reviews(decomposed, 1000)] == [
        len(batch) for batch in pack_reviews(reviews, 1000)
    ]
    assert pack_reviews(decomposed, 1000)[0][0] == decomposed[0]  # as given


@pytest.mark.parametrize("strategy", [Strategy.stage(1), Strategy.stage(4)])
def test_ids_of_both_forms_are_one(strategy: Strategy) -> None:
    name = "카페-é"
    ids = [name, normalize("NFD", name)]
    runner = BatchRunner(llm=FakeLLM(), search=FakeSearch(lambda name: ["좋아요"]), strategy=strategy)

    assert ids[0] != ids[1]
    with pytest.raises(errors.ConfigurationError, match=r"item 1: duplicate id .*, already item 0"):
        runner.run(SummarizeAspects(), ids)


def test_a_result_names_the_id_as_it_was_given() -> None:
    name = normalize("NFD", "카페-é")
    runner = BatchRunner(llm=FakeLLM(), search=FakeSearch({name: ["좋아요"]}))
    (outcome,) = runner.run(SummarizeAspects(), [name])

    assert outcome.ok
    assert (outcome.item_id, outcome.value.restaurant_id) == (name, name)
    assert outcome.value.categories["food"].status == "ok"


def test_a_searchs_own_spelling_of_the_restaurant_is_no_other_restaurant() -> None:
    found = [Hit("a", "좋아요", 1.0, normalize("NFD", "카페-é"))]
    result = apply(
        ExtractStrengths(),
        {"target_restaurant_id": "카페-é", "comparison_reviews": ["보통이에요"]},
        FakeLLM().complete,
        search=lambda query: found,
    )

    assert [review.id for review in result.target_reviews] == ["a"]


def test_names_of_aspects_and_fields_match_in_both_forms() -> None:
    name = normalize("NFD", "분위기")
    answer = {
        "categories": {"분위기": {"summary": "조용해요", "bullets": [], "evidence": [1]}},
        "overall_summary": "네",
    }
    asked: list[LLMRequest] = []

    def model(request: LLMRequest) -> str:
        asked.append(request)
        return json.dumps(answer)

    result = apply(
        SummarizeAspects(aspects={name: [normalize("NFD", "조용한 음악")]}),
        1,
        model,
        search=lambda query: hits(TEXTS),
    )

    assert result.categories[name].summary == "조용해요"
    assert len(asked) == 1


def test_seed_words_and_own_instructions_are_composed() -> None:
    task = SummarizeAspects(aspects={"food": [DECOMPOSED[0]]}, instructions=DECOMPOSED[1])
    preview = task.preview(1)

    assert TEXTS[0] in preview
    assert TEXTS[1] in preview
