"""
Words that find the reviews of an aspect, by language.

The text of a search is the first ten of an aspect's seeds, joined by spaces.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

SEEDS: Mapping[str, Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "en": MappingProxyType(
            {
                "service": (
                    "staff", "waiter", "waitress", "server", "waitstaff",
                    "hostess", "manager", "service", "friendly", "attentive",
                ),
                "price": (
                    "price", "prices", "bill", "cost", "money",
                    "dollars", "higher prices", "inexpensive", "reasonable price", "cheap",
                ),
                "food": (
                    "food", "delicious", "fresh", "dish", "pasta",
                    "chicken", "salad", "steak", "seafood", "drinks",
                ),
                "ambience": (
                    "atmosphere", "ambience", "ambiance", "decor", "music",
                    "romantic", "environment", "outdoor", "vibe", "elegant",
                ),
            }
        ),
        "ko": MappingProxyType(
            {
                "service": (
                    "직원 친절", "사장 친절", "친절 기분", "서비스 친절", "사장 직원",
                    "직원 서비스", "아주머니 친절",
                ),
                "price": (
                    "가격 대비", "무한 리필", "가격 생각", "음식 가격", "합리 가격", "메뉴 가격",
                    "가격 만족", "가격 퀄리티", "리필 가능", "커피 가격", "가격 사악", "런치 가격",
                ),
                "food": (
                    "가락 국수", "평양 냉면", "수제 버거", "크림 치즈", "치즈 케이크",
                    "크림 파스타", "당근 케이크", "오일 파스타", "카페 커피", "비빔 냉면",
                    "커피 원두",
                ),
            }
        ),
    }
)  # fmt: skip
"""By language and aspect. The Korean ones are those of the service this library was made for."""
