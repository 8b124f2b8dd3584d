"""Requests to the offline model, its answers, and reviews to ask about."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from restaurant_llm_batch.backends.offline.llm import OfflineLLM
from restaurant_llm_batch.models import LLMRequest

ASPECTS = ("service", "price", "food")
LLM = OfflineLLM()


def shown(contents: Sequence[str]) -> list[dict[str, Any]]:
    return [{"id": number, "content": content} for number, content in enumerate(contents, 1)]


def about(aspect: str, *contents: str, language: str = "en") -> LLMRequest:
    inputs = {"restaurant_id": 1, "language": language, "aspect": aspect, "reviews": shown(contents)}
    return LLMRequest("aspect_summary", (), inputs=inputs)


def about_all(reviews: Mapping[str, Sequence[str]], language: str = "en") -> LLMRequest:
    named = {aspect: shown(contents) for aspect, contents in reviews.items()}
    inputs = {"restaurant_id": 1, "language": language, "reviews": named}
    return LLMRequest("aspect_summaries", (), inputs=inputs)


def overall(summaries: Mapping[str, str]) -> LLMRequest:
    inputs = {"restaurant_id": 1, "language": "en", "summaries": summaries}
    return LLMRequest("overall_summary", (), inputs=inputs)


def answer(request: LLMRequest) -> Any:
    return json.loads(LLM.complete(request).text)


def sample() -> list[tuple[str, list[str]]]:
    """The shipped restaurants: language and reviews."""
    text = files("restaurant_llm_batch").joinpath("data/sample_reviews.jsonl").read_text("utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    return [
        (
            "ko" if str(row["restaurant_id"]).startswith("ko") else "en",
            [review["content"] for review in row["reviews"]],
        )
        for row in rows
    ]


def plain(text: str) -> str:
    return "".join(c for c in text if c.isalnum())


def holds(content: str, summary: str) -> bool:
    return plain(summary) in plain(content)


SEQUOIA = (
    "Great outdoor patio. Service was terrible. The tables are sticky.",
    "The food was average, but the service was terrible and slow.",
    "Overpriced, bad service, substandard food, and the view is really not that great.",
    "The waiter was friendly and attentive.",
    "What a great place for brunch on a beautiful day!",
)
KOREAN = (
    "국물 진짜 진하고 잡내 하나도 없어요. 근데 사장님 인사 좀 받아주세요 ㅠㅠ",
    "가게는 좁고 오래됐고 테이블도 좀 끈적거림",
    "특순대국 12,000원인데 고기 양 생각하면 가성비 괜찮아요.",
    "직원분들이 친절하고 응대가 빨라요!",
    "국밥은 정말 맛있었어요. 국물도 진해요",
)
