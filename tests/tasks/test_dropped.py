"""Cells of a model's answer that are dropped are counted, and named as what they were."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.support.flow_runner import apply

from restaurant_llm_batch import AnalyzeSentiment, ExtractVocabulary, Hit, SummarizeAspects, Word
from restaurant_llm_batch.integrations._fastapi.serialize import summary_warnings
from restaurant_llm_batch.results import AspectSummary, RestaurantSummary, Vocabulary

REVIEWS = [Hit(f"r{number}", text, 1.0, 1) for number, text in enumerate(["맛있다", "짜다", "친절하다"])]


def summary(**part: Any) -> AspectSummary:
    answer = {"categories": {"food": {"summary": "좋다", **part}}, "overall_summary": "전체"}
    result: RestaurantSummary = apply(
        SummarizeAspects(aspects=["food"]),
        1,
        lambda request: json.dumps(answer),
        search=lambda query: REVIEWS,
    )
    return result.categories["food"]


@pytest.mark.parametrize(
    ("cited", "named"),
    [
        (["0", 2.0], ['evidence: "0" (numbered from 0)', "evidence: 2.0 (numbered from 0)"]),
        ([1, 9], ["evidence: 9 (never shown, only 1 to 3)"]),
        ([-1, 2], ["evidence: -1 (never shown, only 1 to 3)"]),
        (["great", 1], ['evidence: "great" (no number)']),
        ([None, 1.5, True], ["evidence: null (no number)", "evidence: 1.5 (no number)", "evidence: true (no number)"]),
        ([{"text": "맛"}], ['evidence: "맛" (no number)']),
        ([3, 3, "[1]"], []),
    ],
    ids=str,
)  # fmt: skip
def test_a_citation_is_named_as_it_was_given_with_the_reason(cited: Any, named: list[str]) -> None:
    part = summary(evidence=cited)

    assert list(part.dropped) == named
    assert part.invalid_citations == len(named)


def test_bullets_without_a_text_and_beyond_the_limit_are_named_too() -> None:
    part = summary(bullets=["a", "b", 7, "string", "c", "d", "e", "f"], evidence=[])

    assert part.bullets == ("a", "b", "c", "d", "e")
    assert part.dropped == (
        'bullets: "f" (more than 5)',
        "bullets: 7 (no text of its own)",
        'bullets: "string" (no text of its own)',
    )
    assert part.invalid_citations == 0


def test_what_is_named_is_bounded_and_what_is_counted_is_not() -> None:
    part = summary(evidence=["x" * 5000] * 300)

    assert part.invalid_citations == 300
    assert len(part.dropped) == 20
    assert max(map(len, part.dropped)) < 100


def test_the_warning_of_the_service_says_what_was_dropped() -> None:
    part = summary(evidence=["0", 2.0])
    (warning,) = summary_warnings(RestaurantSummary(1, "", "", {"food": part}))

    assert warning == (
        'food: citations dropped, evidence: "0" (numbered from 0); evidence: 2.0 (numbered from 0): 2'
    )


def test_the_warnings_of_the_service_name_an_overall_summary_that_failed() -> None:
    part = AspectSummary("ok", "좋다")
    result = RestaurantSummary(1, "", "m", {"food": part}, "failed", "OutputInvalid: no")

    assert summary_warnings(result) == ["overall_summary: could not be summarised"]


def vocabulary(words: Any, phrases: Any = ()) -> Vocabulary:
    answers = {"words": words, "phrases": list(phrases)}
    result: Vocabulary = apply(
        ExtractVocabulary(),
        {"document_id": 1, "chunks": ["국물이 시원하다"]},
        lambda request: json.dumps({request.task: answers[request.task]}),
    )
    return result


def test_entries_without_a_name_are_counted_and_named() -> None:
    words = [{"word": "국물", "pos": "n", "meanings": ["soup"]}, {"word": 7}, {"pos": "n"}, "시원하다", None]
    found = vocabulary(words, [{"phrase": ""}, {"phrase": "국물이 시원하다", "meaning": "good"}])

    assert found.words == {"국물": Word("n", ("soup",))}
    assert list(found.phrases) == ["국물이 시원하다"]
    assert found.dropped_entries == 5
    assert 'words: {"word": 7} (no name that can be used)' in found.dropped
    assert 'phrases: {"phrase": ""} (no name that can be used)' in found.dropped


def test_entries_that_are_joined_or_too_long_and_whole_lists_count_truly() -> None:
    twice = [{"word": "맛", "pos": "n", "meanings": []}] * 2
    assert vocabulary(twice).dropped_entries == 0
    assert vocabulary([*twice, {"word": "x" * 300}]).dropped_entries == 1
    assert vocabulary([]).dropped_entries == 0


def test_the_entry_that_a_reply_was_cut_off_in_is_asked_for_again_and_not_dropped() -> None:
    cut = '{"words": [{"word": "국물", "pos": "n", "meanings": []}, {"word": 7, "pos"'
    asked: list[str] = []

    def answer(request: Any) -> Any:
        asked.append(request.task)
        return '{"phrases": []}' if request.task == "phrases" else cut

    found = apply(ExtractVocabulary(), {"document_id": 1, "chunks": ["국물이 시원하다"]}, answer)

    assert list(found.words) == ["국물"]
    assert found.dropped_entries == 0


def test_a_label_of_an_unknown_word_is_not_said_to_be_missing() -> None:
    result = apply(
        AnalyzeSentiment(max_rounds=1),
        {"restaurant_id": 1, "reviews": ["a", "b"]},
        lambda request: '{"labels": [{"id": 1, "label": "positive"}, {"id": 2, "label": "so-so"}]}',
    )

    assert result.labels[1].error == (
        "OutputInvalid: the model gave it no label that can be read, or two different ones"
    )
