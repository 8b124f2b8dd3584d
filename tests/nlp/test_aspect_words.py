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
