"""`OfflineLLM` labels what a review says of one aspect, whatever it says of the others."""

from __future__ import annotations

import pytest
from tests.support.offline_requests import answer, shown

from restaurant_llm_batch.models import LLMRequest


def labels(aspect: str, *texts: str) -> list[str]:
    inputs = {"restaurant_id": 1, "language": "ko", "aspect": aspect, "reviews": shown(texts)}
    found = answer(LLMRequest("aspect_sentiment", (), inputs=inputs))["labels"]
    assert [one["id"] for one in found] == list(range(1, len(texts) + 1))
    return [one["label"] for one in found]


@pytest.mark.parametrize(
    ("text", "service", "price"),
    [
        ("직원이 정말 친절해요. 가격은 조금 비싸요", "positive", "negative"),
        ("불친절하고 비쌌어요", "negative", "negative"),
        ("사장님이 최고예요. 음식은 별로", "positive", "neutral"),
        ("서비스는 나쁘지 않았어요", "positive", "neutral"),
        ("가격 대비 양이 많고 만족스러워요", "neutral", "positive"),
        ("국물이 진하고 맛있어요", "neutral", "neutral"),
        ("The waiter was rude but the pasta was cheap.", "negative", "positive"),
        ("Great value for money", "neutral", "positive"),
        ("", "neutral", "neutral"),
        ("…", "neutral", "neutral"),
        ("\ud83d", "neutral", "neutral"),
    ],
)
def test_a_label_is_about_its_aspect_only(text: str, service: str, price: str) -> None:
    assert labels("service", text) == [service]
    assert labels("서비스", text) == [service]
    assert labels("price", text) == [price]


def test_an_unknown_aspect_is_found_by_its_name() -> None:
    assert labels("주차", "주차가 편해요", "맛있어요") == ["positive", "neutral"]


def test_no_reviews_are_no_labels() -> None:
    assert labels("price") == []


def test_only_the_beginning_of_a_very_long_review_is_read() -> None:
    assert labels("price", "가격이 좋아요. " * 9_000 + "가격이 비싸요. " * 99_000) == ["positive"]
