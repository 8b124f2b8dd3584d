"""Aspects and their seed words: the query texts of `SummarizeAspects` and `ExtractStrengths`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias

from ..errors import ConfigurationError

Words: TypeAlias = Sequence[str]
Aspects: TypeAlias = Sequence[str] | Mapping[str, Words | Mapping[str, Words]]
"""Names of aspects, or a mapping of aspect to seed words, either for every language or by language."""

MAX_QUERY_WORDS = 10
"""Maximum number of seed words per language in a query text, as in the service that this library was made for."""


def query_texts(aspects: Aspects, language: str) -> dict[str, str]:
    """
    Return the query text of each aspect.

    Args:
        aspects: The aspects; an aspect without seed words uses the default ones of `SEEDS`, or else its own name.
        language: "ko", "en", or "auto" for the words of both.

    Raises:
        ConfigurationError: `aspects` is empty, a string or a set, or an aspect has invalid seed words.
    """
    value: object = aspects
    # A set is refused because its order, and with it the prompt and the store's key, differs in every process.
    if isinstance(value, (str, set, frozenset)) or not aspects:
        raise ConfigurationError(
            f'aspects must name at least one aspect, got {aspects!r}; for example ("service", "price", "food")'
        )
    texts: dict[str, str] = {}
    for aspect in aspects:
        if not aspect.strip():
            raise ConfigurationError(f'aspects must have names, got {aspect!r}; for example "service"')
        words = aspects[aspect] if isinstance(aspects, Mapping) else _default_words(aspect)
        texts[aspect] = _text(aspect, words, language)
    return texts


def _default_words(aspect: str) -> Mapping[str, Words]:
    return {language: by_aspect.get(aspect, ()) for language, by_aspect in SEEDS.items()}


def _text(aspect: str, words: Words | Mapping[str, Words], language: str) -> str:
    if isinstance(words, Mapping):
        languages = ("ko", "en") if language == "auto" else (language,)
        lists: list[Any] = [words.get(name) or () for name in languages]
    else:
        lists = [words]
    for seeds in lists:
        if isinstance(seeds, str) or not all(isinstance(word, str) for word in seeds):
            raise ConfigurationError(
                f"the seed words of {aspect!r} must be a list of strings, got {seeds!r}; "
                f'for example {{"{aspect}": ["word", "another word"]}}'
            )
    query_words = [word for seeds in lists for word in list(seeds)[:MAX_QUERY_WORDS]]
    return " ".join(query_words) or aspect


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
"""Default seed words by language and aspect. The Korean ones are those of the service this library was made for."""
