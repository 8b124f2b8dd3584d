"""Weights of aspect words: no word is weighed down by another that shares its stem."""

from __future__ import annotations

import pytest

from restaurant_llm_batch._nlp import aspect_words
from restaurant_llm_batch._nlp.aspect_words import FAIR, STRONG, WEAK, stems_of, weights
from restaurant_llm_batch._nlp.lexicon import WordAnalyzer


def test_no_stem_has_two_weights() -> None:
    fair, weak = (set(stems_of(words)) for words in (aspect_words._FAIR_WORDS, aspect_words._WEAK_WORDS))
    assert not fair & weak


@pytest.mark.parametrize(
    "word",
    ["서비스", "서비스가", "서비스도", "직원", "가격이", "맛이", "분위기는", "service", "staff", "food"],
)
def test_the_name_of_an_aspect_weighs_in_full(word: str) -> None:
    assert max(weight for _, _, weight in WordAnalyzer().read(word).marks) == STRONG


@pytest.mark.parametrize(
    ("word", "weight"), [("서비스로", WEAK), ("beautifully", WEAK), ("seated", FAIR), ("주문했어요", WEAK)]
)
def test_a_form_that_means_something_else_weighs_less(word: str, weight: float) -> None:
    assert [mark[2] for mark in WordAnalyzer().read(word).marks] == [weight]


def test_all_weights_are_those_of_the_three_grades() -> None:
    assert set(weights().values()) == {FAIR, WEAK}


def aspects_of(text: str) -> set[str]:
    words = WordAnalyzer().read_clause(text)
    return {aspect for word in words for aspect, _, weight in word.marks if weight >= FAIR}


@pytest.mark.parametrize(
    ("text", "aspects"),
    [
        ("음식이 너무 늦게 나와요", {"service"}),
        ("음식 나오는 데 오래 걸려요", {"service"}),
        ("물 좀 달라고 했는데", {"service"}),
        ("자리가 없다고 했어요", {"service"}),
        ("맛에 비해 비싸요", {"price"}),
        ("값에 비해 양이 적어요", {"food"}),
        ("뷰 맛집", {"ambience"}),
        ("계란찜을 서비스로 주셨어요", {"service", "food"}),
        ("The food came out very slowly.", {"food", "service"}),
        ("They forgot our drinks.", {"service"}),
        ("We were seated right away.", {"service"}),
        ("Our table was dirty.", {"ambience"}),
        ("happy hour prices", {"price"}),
        ("fortune cookie", {"food"}),
        ("a small fortune", {"price"}),
    ],
)
def test_the_words_of_a_phrase_have_the_aspect_of_the_phrase(text: str, aspects: set[str]) -> None:
    assert aspects_of(text) == aspects


@pytest.mark.parametrize("text", ["a bit late", "the top of it", "We went downtown.", "오래된 느낌"])
def test_a_word_that_shares_letters_with_an_aspect_word_has_no_aspect(text: str) -> None:
    assert aspects_of(text) == set()
