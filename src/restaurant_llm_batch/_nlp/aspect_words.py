"""
Aspect words of the offline model: weights, and the words and phrases that the concepts of the embedder lack.

The embedder's concepts (`concepts`) decide what is near in a search, so they change only with its version. What is here
decides under which aspect a sentence may be quoted, which needs more certainty.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from .terms import terms

STRONG, FAIR, WEAK = 1.0, 0.5, 0.25
"""Weights of words, all exact in binary. A sentence mentions an aspect from FAIR on."""

# By stem, so that all forms of a word have the weight; a word that shares its stem with another one of another weight
# belongs in FORMS.
_FAIR_WORDS = (
    "wait slow quick prompt minutes hour reservation seated greeted manager owner welcome paid spent cost bill free "
    "tip discount portion menu dessert wine drink view noise 예약 웨이팅 기다리 대기 리필 무한리필 부담 할인 "
    "자리 메뉴 양 늦게 늦 느리 빠르 빨리"
)
_WEAK_WORDS = (
    "order ask took worth charge bus host check rate low lower fair spend tab complimentary fixe steep serving "
    "attended rush flag customer refill meal dinner lunch brunch breakfast plate course dry side special tough raw "
    "starter room space wall upstairs fun casual live hear location booth window beautiful warm late "
    "주문 계산 공짜 무료 쿠폰 착하 점심 저녁 런치 식사 간 회 차 달 죽 면 룸 홀 태도 고객 느낌 카페 메뉴판"
)
FORMS: Mapping[str, float] = MappingProxyType(
    dict.fromkeys(("서비스로", "beautifully", "warmly", "coolly", "lately"), WEAK)
)
"""Weights of single forms, which mean something else than their stem: 서비스로 is "for free"."""


def weights() -> dict[str, float]:
    """Return the weight of each stem that does not have `STRONG`."""
    return dict.fromkeys(stems_of(_FAIR_WORDS), FAIR) | dict.fromkeys(stems_of(_WEAK_WORDS), WEAK)


def stems_of(words: str) -> list[str]:
    """Return the stems of a space-separated list of words."""
    return [stem for word in words.split() for stem in terms(word) or [word]]
