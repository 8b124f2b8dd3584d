"""The analyzer: the forms of a word meet, strangers do not, and no text is lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restaurant_llm_batch._nlp import korean_stems as korean
from restaurant_llm_batch._nlp.terms import sentences, stem_english, terms


@pytest.mark.parametrize(
    "forms",
    [
        "음식이 음식은 음식을 음식도 음식들이 음식에서 음식과 음식이에요 음식입니다",
        "친절하다 친절해요 친절하고 친절한 친절했어요 친절합니다 친절하네요 친절하게 친절히 친절하셨어요",
        "맛있어요 맛있다 맛있는 맛있고 맛있었어요 맛있네요 맛있습니다 맛있었는데 맛있음 맛있더라구요",
        "비싸요 비싸다 비싼 비쌌어요 비쌉니다 비싸고 비싸지만 비싸서 비싼데",
        "좋아요 좋다 좋은 좋고 좋았어요 좋네요 좋습니다 좋음",
        "느려요 느리다 느린 느렸어요 느립니다",
        "빨라요 빠르다 빠른 빨랐어요",
        "매워요 매운 맵고 매웠어요",
        "직원 직원이 직원들이 직원분들이 직원분께서",
        "최고예요 최고입니다 최고네요 최고임 최고였어요",
        "맛이 맛은 맛도 맛을 맛",
    ],
)
def test_the_forms_of_a_korean_word_meet(forms: str) -> None:
    assert len({korean.stem(word) for word in forms.split()}) == 1


@pytest.mark.parametrize("word", ["종이", "오이", "피자", "바다", "가게", "동네", "기분", "이", "가"])
def test_a_short_korean_word_is_not_taken_for_an_ending(word: str) -> None:
    assert korean.stem(word) == word


def test_different_korean_words_stay_apart() -> None:
    words = [
        "맛있어요",
        "맛없어요",
        "비싸요",
        "친절해요",
        "불친절해요",
        "음식이",
        "직원이",
        "가격이",
    ]

    assert len({korean.stem(word) for word in words}) == len(words)


@pytest.mark.parametrize("times", [1, 2, 5000])
def test_a_past_of_any_depth_is_undone(times: int) -> None:
    assert korean.stem("먹" + "었" * times + "다") == "먹"
    assert korean.stem("먹" + "었겠" * times + "다") == "먹"


@given(st.text(st.characters(min_codepoint=0xAC00, max_codepoint=0xD7A3), min_size=1, max_size=12))
def test_a_korean_stem_is_never_empty(word: str) -> None:
    assert korean.stem(word)


@pytest.mark.parametrize(
    "forms",
    [
        "waiter waiters",
        "price prices pricing priced",
        "friendly friendlier friendliness friendliest",
        "dish dishes",
        "reasonable reasonably",
        "chop chopped chopping",
        "tasty tastier",
        "berry berries",
    ],
)
def test_the_forms_of_an_english_word_meet(forms: str) -> None:
    assert len({stem_english(word) for word in forms.split()}) == 1


@pytest.mark.parametrize("word", ["bus", "glass", "this", "red", "king", "bed"])
def test_an_english_word_that_only_looks_inflected_is_kept(word: str) -> None:
    assert stem_english(word) == word


def test_every_script_has_terms() -> None:
    expected = ["caf", "4.5", "10000", "寿司", "司屋", "вкусно"]

    assert terms("Café 4.5점 10,000 寿司屋 Вкусно") == expected


@pytest.mark.parametrize("text", ["", "   ", "ㅋㅋㅋ ㅠㅠ", "!!! ...", "👍👍", "the and of", "\ud83d"])
def test_a_text_without_words_has_no_terms(text: str) -> None:
    assert terms(text) == []


def test_composed_and_decomposed_hangul_meet() -> None:
    assert terms("\u1106\u1161\u11ba\u110b\u1175\u11bb\u110b\u1165\u110b\u116d") == terms("맛있어요")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("맛있어요! 서비스도 친절해요.", ["맛있어요!", "서비스도 친절해요."]),
        ("맛있어요.친절해요", ["맛있어요.", "친절해요"]),
        ("맛있어요ㅋㅋㅋ 또 올게요ㅠㅠ 비싸요", ["맛있어요ㅋㅋㅋ", "또 올게요ㅠㅠ", "비싸요"]),
        ("최고예요🔥🔥 가격은 비쌉니다", ["최고예요🔥🔥", "가격은 비쌉니다"]),
        ("친절합니다 음식도 맛있어요 강추", ["친절합니다", "음식도 맛있어요", "강추"]),
        ("평점 4.5점", ["평점 4.5점"]),
        ("Good food.\nBad service", ["Good food.", "Bad service"]),
        ("Mr. Kim paid $4.50. Never again!", ["Mr. Kim paid $4.50.", "Never again!"]),
        ("Great!! 😊", ["Great!! 😊"]),
        ("맛있어요ㅋㅋ.… 또 올게요", ["맛있어요ㅋㅋ.…", "또 올게요"]),
        ("Open 9 a.m. to 10 p.m. daily, e.g. today", ["Open 9 a.m. to 10 p.m. daily, e.g. today"]),
        ("중요 메뉴", ["중요 메뉴"]),
        ("", []),
    ],
)
def test_sentences_end_where_a_reader_would_end_them(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


@given(st.text(max_size=200))
def test_sentences_lose_no_character_but_white_space(text: str) -> None:
    assert "".join("".join(sentences(text)).split()) == "".join(text.split())
