"""An explanation leads from each sentence of a result to the call, the prompt, the answer and the reviews behind it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from tests.support.records import ask as ask_once
from tests.support.records import runner

from restaurant_llm_batch import (
    AnalyzeSentiment,
    BatchRunner,
    CompareAspects,
    ExtractStrengths,
    ExtractVocabulary,
    LLMRequest,
    LLMResponse,
    Strategy,
    SummarizeAspects,
    SummarizeReviews,
    errors,
)
from restaurant_llm_batch.backends import OfflineLLM
from restaurant_llm_batch.errors import ConfigurationError
from restaurant_llm_batch.models import SearchQuery
from restaurant_llm_batch.records import Explanation, Recording, open_record
from restaurant_llm_batch.search import EmbeddedSearch
from restaurant_llm_batch.steps import Flow, ask, search
from restaurant_llm_batch.testing import FakeLLM, FakeSearch

REVIEWS = [
    (1, "a", "직원분들이 정말 친절하고 주문도 빨라요."),
    (1, "b", "국물이 진하고 고기도 넉넉해서 맛있어요. 또 갈게요."),
    (1, "c", "가격이 조금 비싸지만 만족해요."),
    (2, "d", "파스타는 맛있는데 가격이 너무 비싸요."),
    (2, "e", "직원이 불친절해서 실망했어요."),
    (3, "f", "양이 많고 가격이 저렴해요."),
]
TEXTS = [content for _, _, content in REVIEWS]


@pytest.fixture(scope="module")
def found() -> EmbeddedSearch:
    search = EmbeddedSearch()
    search.index_reviews(
        [{"restaurant_id": of, "review_id": name, "content": content} for of, name, content in REVIEWS]
    )
    return search


class Dish(BaseModel):
    """What guests praise."""

    name: str
    reason: str
    evidence: list[int]


def own_task(item: int) -> Flow[Dish]:
    """Ask about a restaurant's reviews."""
    hits = yield from search(SearchQuery(item, "맛있어요"))
    return (yield from ask(Dish, "Which dish do guests praise?", reviews=hits))


TASKS: dict[str, tuple[Any, Any]] = {
    "single": (SummarizeAspects(language="ko"), 1),
    "split": (SummarizeAspects(mode="split", language="ko"), 1),
    "reviews": (
        SummarizeReviews(),
        {"restaurant_id": 1, "positive_reviews": TEXTS[:3], "negative_reviews": TEXTS[3:5]},
    ),
    "sentiment": (AnalyzeSentiment(), {"restaurant_id": 1, "reviews": TEXTS}),
    "strengths": (ExtractStrengths(), {"target_restaurant_id": 1}),
    "comparison": (CompareAspects(), {"restaurant_id": 1}),
    "vocabulary": (
        ExtractVocabulary(),
        {"document_id": 1, "chunks": ["the soup was rich and the staff was kind"]},
    ),
    "own": (own_task, 1),
}


def explained(
    task: Any, item: Any, path: Path, search: Any, llm: Any = None, *, texts: bool = True
) -> Explanation:
    with BatchRunner(
        llm=llm or OfflineLLM(),
        search=search,
        strategy=Strategy.stage(4),
        record=Recording(path, texts=texts),
    ) as used:
        used.run(task, [item]).raise_for_failures()
    return open_record(path).explain(1)


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", TASKS)
def test_every_task_is_explained(name: str, path: Path, found: EmbeddedSearch) -> None:
    task, item = TASKS[name]
    llm = (
        FakeLLM(answer=lambda _: '{"name": "국수", "reason": "맛있다", "evidence": [1]}')
        if name == "own"
        else None
    )
    explanation = explained(task, item, path, found, llm)
    spoken = [call for call in explanation.calls if call.attempts[0].stage == "llm"]

    assert spoken
    assert explanation.missing == ""
    assert explanation.result is not None
    for call in spoken:
        assert call.messages[0]["role"] == "system"
        assert call.answer
        assert call.reviews or call.label in ("merge_summaries", "overall_summary")
        assert (call.tries, bool(call.attempts)) == (1, True)
    if name != "comparison":  # it is made of labels, and its sentences are the library's
        assert any(sentence.calls for sentence in explanation.sentences)
    for sentence in explanation.sentences:
        for index in sentence.calls:
            assert explanation.calls[index].answer
    words = str(explanation)
    for sentence in explanation.sentences:
        assert sentence.path in words
    assert "<pre" in explanation._repr_html_()


def test_the_reviews_that_a_sentence_cites_have_their_own_ids(path: Path, found: EmbeddedSearch) -> None:
    explanation = explained(SummarizeAspects(language="ko"), 1, path, found)
    food = [sentence for sentence in explanation.sentences if sentence.path == "categories.food.summary"]
    cited = {review.review_id: review.content for sentence in food for review in sentence.reviews}

    assert cited
    assert cited.items() <= {name: content for of, name, content in REVIEWS if of == 1}.items()
    assert {review.review_id for review in explanation.reviews} == {"a", "b", "c"}
    assert {review.part for review in explanation.reviews} == {"service", "price", "food"}


def test_a_call_for_one_aspect_names_it_for_its_reviews(path: Path, found: EmbeddedSearch) -> None:
    explanation = explained(SummarizeAspects(mode="split", language="ko"), 1, path, found)
    parts = [{review.part for review in call.reviews} for call in explanation.calls if call.reviews]

    assert sorted(parts, key=str) == sorted(({"service"}, {"price"}, {"food"}), key=str)


def test_a_sentence_of_the_library_is_said_to_be_its_own(path: Path) -> None:
    search = FakeSearch({1: ["맛있어요"]})
    explanation = explained(SummarizeAspects(language="ko"), 1, path, search, FakeLLM())
    (price,) = [sentence for sentence in explanation.sentences if sentence.path == "categories.price.summary"]

    assert price.calls == ()
    assert "the library wrote it" in str(explanation)


def test_a_call_that_is_made_once_for_several_items_explains_each_of_them(path: Path) -> None:
    target = ["국물이 진해요"]
    other = ["가격이 비싸요", "양이 적어요"]
    items = [
        {"target_restaurant_id": n, "target_reviews": [f"{target[0]} {n}"], "comparison_reviews": other}
        for n in (1, 2)
    ]

    def answer(request: LLMRequest) -> str:
        if request.task == "comparison_summary":
            return json.dumps({"comparison_summary": "다른 곳은 비싸다"}, ensure_ascii=True)
        return json.dumps({"target_restaurant_strength": "국물이 진하다"})

    with runner(Recording(path, texts=True), llm=FakeLLM(answer=answer), strategy=Strategy.stage(4)) as used:
        used.run(ExtractStrengths(), items)
    record = open_record(path)
    tasks = [call.label for call in record.calls() if call.label == "comparison_summary"]
    for item in (1, 2):
        explanation = record.explain(item)
        assert explanation.sentences
        (sentence,) = [one for one in explanation.sentences if one.path == "comparison_summary"]
        assert [explanation.calls[index].answer for index in sentence.calls]
    if len(tasks) == 1:
        shared = [call for item in (1, 2) for call in record.explain(item).calls if call.made_for is not None]
        assert shared


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ('{"dish": "Noodles \\ud0c0\\ub791 & \\"more\\"."}', 'Noodles 타랑 & "more".'),
        ('```json\n{"dish": "Two\\n lines"}\n```', "Two lines"),
        ("plain text, no JSON", "plain text, no JSON"),
        ('{"a": {"b": [1, null, "deep down"]}}', "deep down"),
        ("[" * 50_000, "[" * 10),
    ],
)
def test_a_sentence_is_found_in_an_answer_of_any_form(answer: str, sentence: str, path: Path) -> None:
    def flow(item: int) -> Flow[str]:
        yield from ask_once(item)
        return sentence

    with runner(Recording(path, texts=True), llm=FakeLLM(answer=lambda _: answer)) as used:
        used.run(flow, [1])
    (found,) = open_record(path).explain(1).sentences
    assert found.calls == (0,)


def test_all_tries_of_a_call_are_shown_with_their_errors(path: Path) -> None:
    tries: list[int] = []

    def flaky(request: LLMRequest) -> str:
        tries.append(1)
        if len(tries) < 3:
            raise errors.TransientBackendError(f"down {len(tries)}")
        return "국수"

    llm = FakeLLM(answer=flaky)
    runner(Recording(path, texts=True), llm=llm).run(ask_once, [1])
    (call,) = open_record(path).explain(1).calls

    assert call.tries == 3
    assert [attempt.error for attempt in call.attempts] == [
        "TransientBackendError: down 1",
        "TransientBackendError: down 2",
        None,
    ]
    words = str(open_record(path).explain(1))
    assert "3 tries" in words
    assert "down 2" in words


def test_a_failed_item_is_explained_by_its_error(path: Path) -> None:
    paid = errors.OutputInvalid("no JSON", reply=LLMResponse("I cannot say.", "stop", 9, 4, "m"))

    class Broken:
        def complete(self, request: LLMRequest, /) -> LLMResponse:
            raise paid

    runner(Recording(path, texts=True), llm=Broken()).run(ask_once, [1])
    explanation = open_record(path).explain(1)

    assert explanation.item.outcome == "failed"
    assert explanation.result is None
    assert explanation.calls[0].answer == "I cannot say."
    assert explanation.item.completion_tokens == 4
    assert "no JSON" in str(explanation)


def test_without_texts_it_says_what_is_missing_and_shows_the_rest(path: Path, found: EmbeddedSearch) -> None:
    explanation = explained(SummarizeAspects(), 1, path, found, texts=False)

    assert "texts=True" in explanation.missing
    assert explanation.missing in str(explanation)
    assert explanation.sentences == ()
    assert explanation.result is None
    assert sum(call.prompt_tokens for call in explanation.calls) == explanation.item.prompt_tokens
    assert all(
        call.messages == () and call.answer is None and call.reviews == () for call in explanation.calls
    )


def test_a_reply_from_the_store_explains_as_a_call_does(path: Path, found: EmbeddedSearch) -> None:
    for _ in range(2):
        with runner(Recording(path, texts=True), llm=OfflineLLM(), search=found, store=path) as used:
            used.run(SummarizeAspects(language="ko"), [1])
    explanation = open_record(path).explain(1)
    stored = [call for call in explanation.calls if call.attempts[0].outcome == "stored"]

    assert explanation.run.run == 2
    assert stored
    assert all(call.answer and call.reviews and call.tries == 0 for call in stored)
    assert "found in the store" in str(explanation)
    assert explanation.sentences == open_record(path).explain(1, run=1).sentences


def test_markup_and_controls_in_reviews_are_text_wherever_an_explanation_is_shown(path: Path) -> None:
    nasty = "</pre><script>alert(1)</script>\x1b[31m\u202e 맛있어요"
    search = FakeSearch({1: [nasty]})
    llm = FakeLLM(answer=lambda _: json.dumps({"name": nasty, "reason": nasty, "evidence": [1]}))
    explanation = explained(own_task, 1, path, search, llm)

    assert "<script>" not in explanation._repr_html_()
    assert "\x1b" not in str(explanation)
    assert "\u202e" not in str(explanation)
    assert explanation.reviews[0].content == nasty


def test_an_item_or_a_run_that_is_not_there_is_named(path: Path) -> None:
    runner(path).run(ask_once, [1])
    record = open_record(path)
    with pytest.raises(ConfigurationError, match="has no item 2"):
        record.explain(2)
    with pytest.raises(ConfigurationError, match=r"has no run 9; its latest runs are 1"):
        record.explain(1, run=9)
    with pytest.raises(ConfigurationError, match="has no item None"):
        record.explain(None)  # type: ignore[arg-type]


def test_the_latest_run_that_has_the_item_is_explained(path: Path) -> None:
    with runner(path) as used:
        used.run(ask_once, [1, 2])
        used.run(ask_once, [2])
    record = open_record(path)
    assert record.explain(1).run.run == 1
    assert record.explain(2).run.run == 2
    assert record.explain(2, run=record.runs()[0]).run.run == 1
