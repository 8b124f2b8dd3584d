"""The preview of a task's prompts is what the model gets."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from pydantic import BaseModel, Field

from restaurant_llm_batch import (
    AnalyzeSentiment,
    BatchRunner,
    ExtractStrengths,
    ExtractVocabulary,
    Limits,
    LLMRequest,
    Strategy,
    SummarizeAspects,
    SummarizeReviews,
    errors,
)
from restaurant_llm_batch._engine.items import as_task
from restaurant_llm_batch.steps import Flow, ask, complete
from restaurant_llm_batch.tasks._preview import ANSWER, preview
from restaurant_llm_batch.testing import FakeLLM, FakeSearch

REVIEWS = [f"The soup of day {day} was great, but the wait was long." for day in range(60)]
SEARCH = FakeSearch({1: REVIEWS[:3], 2: ["Fine <b>dining</b>"]})
LIMITS = Limits(max_tokens_per_batch=1500)

JOBS: list[tuple[Any, Any]] = [
    (SummarizeAspects(), 1),
    (SummarizeAspects(mode="split", instructions="Be brief."), {"restaurant_id": 1, "query": "soup"}),
    (SummarizeAspects(aspects=["food"], language="fr"), 3),  # no reviews: no call
    (
        SummarizeReviews(instructions="짧게.", replace_instructions=True),
        {"restaurant_id": 1, "positive_reviews": REVIEWS},
    ),
    (AnalyzeSentiment(), {"restaurant_id": 1, "reviews": REVIEWS}),
    (AnalyzeSentiment(batch_size=7), {"restaurant_id": 1, "reviews": [*REVIEWS, " "]}),
    (ExtractStrengths(), {"target_restaurant_id": 1}),
    (ExtractStrengths(language="ja"), {"target_restaurant_id": 1, "target_reviews": REVIEWS, "comparison_reviews": []}),
    (ExtractVocabulary(plan="A"), {"document_id": 1, "chunks": REVIEWS[:3]}),
]  # fmt: skip


JOB_NAMES = [f"{type(task).__name__}-{number}" for number, (task, _) in enumerate(JOBS)]


def by_prompt(requests: Any) -> list[Any]:
    return sorted((request.task, str(request.messages), str(request.schema)) for request in requests)


@pytest.mark.parametrize(("task", "item"), JOBS, ids=JOB_NAMES)
def test_it_shows_what_is_sent(task: Any, item: Any) -> None:
    sent: list[LLMRequest] = []
    runner = BatchRunner(
        llm=FakeLLM(requests=sent), search=SEARCH, limits=LIMITS, strategy=Strategy(llm_async=True)
    )
    runner.run(task, [item]).raise_for_failures()
    preview = task.preview(item, search=SEARCH, limits=LIMITS)

    # A prompt that quotes an answer has a placeholder in its place; the others are equal.
    first = [
        request
        for request in preview.requests
        if not any(ANSWER in message["content"] for message in request.messages)
    ]
    quoting = [request for request in sent if request.task not in {one.task for one in first}]
    assert by_prompt(first) == by_prompt(request for request in sent if request not in quoting)
    assert len(preview.requests) == len(sent)
    assert "repair" not in {request.task for request in preview.requests}


@pytest.mark.parametrize(("task", "item"), JOBS, ids=JOB_NAMES)
def test_its_text_has_every_message(task: Any, item: Any) -> None:
    preview = task.preview(item, search=SEARCH)
    messages = [message["content"] for request in preview.requests for message in request.messages]

    assert all(content in preview for content in messages)
    assert repr(preview) == str(preview)


def test_without_a_search_placeholders_stand_for_the_reviews() -> None:
    preview = SummarizeAspects(language="en").preview({"restaurant_id": 9, "query": "hidden garden"})

    assert "hidden garden" in preview
    assert [request.task for request in preview.requests] == ["aspect_summaries"]


def test_a_prompt_written_from_an_answer_shows_where_the_answer_goes() -> None:
    preview = SummarizeAspects(mode="split", aspects=["food"]).preview(1, search=SEARCH)

    assert ANSWER in preview.requests[-1].messages[1]["content"]


@pytest.mark.parametrize(
    ("task", "item"), [(AnalyzeSentiment(), {"reviews": []}), (SummarizeAspects(), None)]
)
def test_a_bad_item_is_refused_as_in_a_run(task: Any, item: Any) -> None:
    with pytest.raises(errors.ConfigurationError, match="restaurant_id"):
        task.preview(item)


def test_a_budget_without_room_is_refused_as_in_a_run() -> None:
    with pytest.raises(errors.ConfigurationError, match="leaves no room"):
        AnalyzeSentiment(max_tokens_per_batch=50).preview({"restaurant_id": 1, "reviews": ["Fine."]})


def test_a_preview_can_be_kept() -> None:
    preview = AnalyzeSentiment().preview({"restaurant_id": 1, "reviews": ["Fine."]})
    again = pickle.loads(pickle.dumps(preview))

    assert (again, again.requests) == (preview, preview.requests)


def test_the_questions_of_an_own_task_are_shown_too() -> None:
    class Dish(BaseModel):
        name: str
        price: int | None = None
        evidence: list[int]

    class Strict(BaseModel):
        word: str = Field(pattern="^[a-z]+$")

    def own(item: dict[str, Any]) -> Flow[str]:
        dish = yield from ask(Dish, "Which dish?", reviews=item["reviews"])
        strict = yield from ask(Strict, f"What goes with {dish.name}?")
        reply = yield from complete(LLMRequest("own", ({"role": "user", "content": strict.word},)))
        return reply.text

    shown = preview(as_task(own), {"id": 1, "reviews": REVIEWS[:2]}, search=None, limits=LIMITS)

    assert [request.task for request in shown.requests] == ["Dish", "Strict", "own"]
    assert REVIEWS[1] in shown
    assert f"What goes with {ANSWER}?" in shown


def test_it_packs_with_the_token_counter_that_it_is_given() -> None:
    reviews = [f"국물이 진하고 면이 쫄깃해요 {number}" for number in range(90)]

    def quarter(text: str) -> int:
        return len(text) // 4

    item = {"restaurant_id": 1, "reviews": reviews}
    sent: list[LLMRequest] = []
    runner = BatchRunner(llm=FakeLLM(requests=sent), limits=LIMITS, count_tokens=quarter)
    runner.run(AnalyzeSentiment(), [item]).raise_for_failures()
    counted = AnalyzeSentiment().preview(item, limits=LIMITS, count_tokens=quarter)
    estimated = AnalyzeSentiment().preview(item, limits=LIMITS)
    assert len(counted.requests) == len(sent) < len(estimated.requests)
    assert by_prompt(counted.requests) == by_prompt(sent)
