"""What the offline model says of an aspect that no review speaks of."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from restaurant_llm_batch.backends.offline.llm import OfflineLLM
from restaurant_llm_batch.models import LLMRequest

LLM = OfflineLLM()
ELSEWHERE = {
    "service": "The soup was bland.",
    "price": "The waiter was rude.",
    "food": "Romantic atmosphere and nice music.",
    "ambience": "We paid 80 dollars.",
}


def ask(task: str, language: str, **inputs: Any) -> Any:
    request = LLMRequest(task, (), inputs={"restaurant_id": 1, "language": language, **inputs})
    return json.loads(LLM.complete(request).text)


def shown(contents: Sequence[str]) -> list[dict[str, Any]]:
    return [{"id": number, "content": content} for number, content in enumerate(contents)]


def about(aspect: str, *contents: str, language: str = "en") -> Any:
    return ask("aspect_summary", language, aspect=aspect, reviews=shown(contents))


def about_all(reviews: Mapping[str, Sequence[str]], language: str = "en") -> Any:
    named = {aspect: shown(contents) for aspect, contents in reviews.items()}
    return ask("aspect_summaries", language, reviews=named)


@pytest.mark.parametrize(
    ("aspect", "korean", "english"),
    [
        ("service", "서비스를 언급한 리뷰가 거의 없습니다.", "The reviews hardly mention service."),
        ("price", "가격을 언급한 리뷰가 거의 없습니다.", "The reviews hardly mention the price."),
        ("food", "음식을 언급한 리뷰가 거의 없습니다.", "The reviews hardly mention the food."),
        ("ambience", "분위기를 언급한 리뷰가 거의 없습니다.", "The reviews hardly mention the ambience."),
    ],
)
def test_an_unrelated_sentence_is_not_passed_off_as_a_summary(aspect: str, korean: str, english: str) -> None:
    for language, line in (("ko", korean), ("en", english), ("", english)):
        got = about(aspect, ELSEWHERE[aspect], language=language)
        assert got == {"summary": line, "bullets": [], "evidence": []}


@pytest.mark.parametrize(
    ("aspect", "line"),
    [
        ("가격", "가격을 언급한 리뷰가 거의 없습니다."),
        ("맛", "음식을 언급한 리뷰가 거의 없습니다."),
        ("분위기", "분위기를 언급한 리뷰가 거의 없습니다."),
        ("drinks", "이 항목을 언급한 리뷰가 거의 없습니다."),
        ("가격과 분위기", "이 항목을 언급한 리뷰가 거의 없습니다."),
    ],
)
def test_other_names_of_known_aspects_are_told_apart(aspect: str, line: str) -> None:
    assert about(aspect, "직원이 친절해요", language="ko")["summary"] == line


def test_one_sentence_stands_for_all_where_only_the_name_of_the_aspect_is_known() -> None:
    got = about("kids", "The tables are sticky.", "The waiter was rude.")

    assert got["summary"] in {"The tables are sticky.", "The waiter was rude."}
    assert got["evidence"]


def test_without_text_even_an_unknown_aspect_is_not_mentioned() -> None:
    nothing = {"summary": "The reviews hardly mention this aspect.", "bullets": [], "evidence": []}

    assert about("kids") == about("kids", "", "\u200d") == nothing


def test_the_overall_summary_leaves_out_what_is_not_mentioned() -> None:
    waiter, soup = ("The waiter was rude.",), ("The soup was bland.",)
    got = about_all({"price": waiter, "service": waiter, "ambience": soup, "kids": soup})

    assert got["categories"]["price"]["summary"] == "The reviews hardly mention the price."
    assert got["overall_summary"] == "The waiter was rude."


def test_a_sentence_that_stands_for_all_goes_before_what_is_not_mentioned() -> None:
    got = about_all({"price": ("The waiter was rude.",), "kids": ("The waiter was rude.",)})

    assert got["overall_summary"] == "The waiter was rude."


def test_the_overall_summary_says_what_is_not_mentioned_when_there_is_nothing_else() -> None:
    got = about_all({"price": (), "food": ()}, "ko")

    lines = [part["summary"] for part in got["categories"].values()]
    assert lines == ["가격을 언급한 리뷰가 거의 없습니다.", "음식을 언급한 리뷰가 거의 없습니다."]
    assert got["overall_summary"] == " ".join(lines)


@pytest.mark.parametrize("language", ["ko", "en"])
def test_an_overall_summary_of_summaries_leaves_the_lines_out_too(language: str) -> None:
    silent = {aspect: about(aspect, text, language=language)["summary"] for aspect, text in ELSEWHERE.items()}
    mixed = ask("overall_summary", language, summaries={**silent, "food": "국물이 진해요."})
    nothing_else = ask("overall_summary", language, summaries=silent)

    assert mixed == {"overall_summary": "국물이 진해요."}
    assert nothing_else["overall_summary"].startswith(silent["service"])
