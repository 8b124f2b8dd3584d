"""Price words: every word of the list is found in both Unicode forms, and none inside another word."""

from __future__ import annotations

import random
import re
from unicodedata import normalize

import pytest

from restaurant_llm_batch._nlp import price_words
from restaurant_llm_batch._nlp.price_words import mentions_price

SPEAKS = """
    가격이 좋아요|가성비 최고|좀 비싸요|비싼 편|비쌌어요|비쌉니다|저렴해요|값이 싸다|싼 맛에 가요
    고기가 싸고 맛있어요|싸네요|정말 싸요|싸서 자주 가요|싸.|할인 받았어요|음료 무료|공짜로 줘요|리필 가능
    무한리필|8000원|15,000 원이에요|15000원입니다|만원에 이 정도면|만 원대|5만원|1만5천원|2만 5천원|3만 원짜리
    천원 추가|삼만원|만오천원|５０００원|돈이 아깝다|돈 아까워요|밥값 해요|값 대비|바가지|₩9000|￦ 9000
    prices are high|Cheap eats|EXPENSIVE!|inexpensive|great value|good values|worth it|worth every penny
    $12 for a bowl|12 dollars|€8|£ 5|9000 won|good deal|free refills|overpriced|over-priced|We paid too much
    reasonably priced|affordable|it costs 30|on a budget|what a bargain|charged twice|a 20% tip|pricey
    돈낭비였어요|돈아까워요|돈아깝네|12€|only 9 £|ＰＲＩＣＥ가 높아요|price가 좋음|할인coupon있음|ｃｈｅａｐ
"""
SILENT = """
    직원이 친절해요|직원 3명|병원 옆|원장님|원두가 신선|3원두 블렌드|2원주점|공원 앞|원조 맛집|수원 왕갈비
    회원 가입|응원해요|노원점|십원도|상추에 싸서 먹으면|쌈 싸 먹어요|싸우는 소리|싸늘한|싸인 받았어요|싸가지
    불쾌한 싸움|돈까스가 맛있어요|돈카츠|돈가스|돈부리|돈코츠 라멘|값진 시간|100% 메밀|2인 세트|5분 거리|만원경
    천원주택|돈아리 식당|맛있어요|…|We felt valued|valuable time|devalued|costume|worth the wait|worth a visit if lost
    pay attention|a great deal of noise|in charge of the floor|gluten-free|free seating|wonderful
    they won an award|wonton soup|steakhouse|stealing glances|priceless|the centre|taxi|delicious
"""


def each(texts: str) -> list[str]:
    return [text.strip() for line in texts.strip().splitlines() for text in line.split("|")]


@pytest.mark.sample(24)
@pytest.mark.parametrize("text", each(SPEAKS))
def test_a_text_with_a_price_word_speaks_of_the_price(text: str) -> None:
    assert mentions_price(text)
    assert mentions_price(normalize("NFD", text))
    assert mentions_price(f"맛있어요. {text} Nice.")


@pytest.mark.parametrize("text", each(SILENT))
def test_no_price_word_is_found_inside_another_word(text: str) -> None:
    assert not mentions_price(text)
    assert not mentions_price(normalize("NFD", text))


def test_no_word_begins_with_a_character_that_is_passed_over() -> None:
    words = f"{price_words._KOREAN}|(?a:{price_words._ENGLISH})"
    everywhere = re.compile(words, re.IGNORECASE)
    pieces = sorted(
        {*re.findall(r"[가-힣]+|[a-z]+|[^\w\s]", words), *words, " ", "7", "3만", "1,000", "₩", "$"}
    )
    chosen = random.Random(1)
    found = set()
    for _ in range(20_000):
        text = "".join(chosen.choices(pieces, k=3))
        is_price = everywhere.search(text) is not None
        assert (price_words._PRICE.search(text) is not None) == is_price, text
        found.add(is_price)
    assert found == {True, False}
