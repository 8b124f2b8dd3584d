"""The labels of the task `sentiment`: the classifier's, put right by what the lexicon reads of negation and turns."""

from __future__ import annotations

import pytest
from tests.support.offline_requests import LLM, answer

from restaurant_llm_batch._nlp.lexicon import WordAnalyzer
from restaurant_llm_batch._nlp.sentiment_model import SentimentReader
from restaurant_llm_batch.backends.offline._labels import ReviewLabeller
from restaurant_llm_batch.models import LLMRequest


def label(text: str) -> str:
    reviews = [{"id": 1, "content": text}]
    return str(answer(LLMRequest("sentiment", (), inputs={"reviews": reviews}))["labels"][0]["label"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("매장이 깨끗하지는 못했어요", "negative"),
        ("직원이 친절하다고 소문났길래 갔더니 불친절했어요", "negative"),
        ("국물에서 잡내가 하나도 안 나요", "positive"),
        ("음식이 짜지도 않고 좋았어요", "positive"),
        ("값이 부담스럽지 않아요", "positive"),
        ("We did not have to wait for a table.", "positive"),
        ("The fries weren't greasy at all.", "positive"),
        ("I thought the soup would be bland, but I was wrong.", "positive"),
    ],
)
def test_negations_and_turns_are_read(text: str, expected: str) -> None:
    assert label(text) == expected


@pytest.mark.parametrize(
    "text", ["이 영화 배우들 연기가 아깝지 않은 음식 영화", "조용한 감독의 반전이 없는 드라마", "재밌는 만화"]
)
def test_a_review_of_a_film_has_the_label_of_the_classifier(text: str) -> None:
    assert label(text) == SentimentReader().judge(text)[0]


@pytest.mark.parametrize("text", ["", " ", "😋", "1234", "ああ漢字"])
def test_what_nobody_can_read_is_neutral(text: str) -> None:
    assert label(text) == "neutral"


def test_a_repeated_opinion_counts_no_more_than_its_limit() -> None:
    labeller = ReviewLabeller(WordAnalyzer())
    assert labeller.label("음식이 맛있어요. " * 300) == "positive"
    assert labeller.label("not " * 2000) in ("positive", "negative", "neutral")


def test_labels_load_no_weights_for_other_tasks() -> None:
    fresh = type(LLM)()
    fresh.complete(LLMRequest("strength", (), inputs={"reviews": [{"id": 1, "content": "맛있어요"}]}))
    assert "_labeller" not in vars(fresh)
