"""Aspects and their seed words: the query texts of `SummarizeAspects` and `ExtractStrengths`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias

from .._values import composed
from ..errors import ConfigurationError
from ._prompts.wording import as_language

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
        language: "ko", "en", or "auto" for the words of both; those of any other language, or of both without any.

    Raises:
        ConfigurationError: `aspects` is empty, a string or a set, or an aspect has invalid seed words.
    """
    value: object = aspects
    # A set is refused because its order, and with it the prompt and the store's key, differs in every process.
    if isinstance(value, (set, frozenset)) or not isinstance(value, (Sequence, Mapping)) or not value:
        raise ConfigurationError(
            f"aspects must be a list that names at least one aspect, got {aspects!r}; "
            'for example aspects=["service", "price", "food"]'
        )
    if isinstance(value, (str, bytes)):
        raise ConfigurationError(
            f"aspects must be a list that names at least one aspect, got a text; for example aspects=[{aspects!r}]"
        )
    texts: dict[str, str] = {}
    for aspect in aspects:
        name: object = aspect
        if not isinstance(name, str) or not name.strip():
            raise ConfigurationError(
                f'aspects must be names, got {aspect!r}; for example aspects=["service", "price", "food"]'
            )
        words = aspects[aspect] if isinstance(aspects, Mapping) else _default_words(aspect)
        texts[aspect] = _text(aspect, words, language)
    return texts


def seed_query(language: str) -> str:
    """Return the query text of a search for reviews in general: the seed words of service, price and food."""
    return " ".join(query_texts(("service", "price", "food"), language).values())


def _default_words(aspect: str) -> Mapping[str, Words]:
    return {language: by_aspect.get(aspect, ()) for language, by_aspect in SEEDS.items()}


def _text(aspect: str, words: Words | Mapping[str, Words], language: str) -> str:
    lists: list[Any] = [words]
    if isinstance(words, Mapping):
        try:
            by_language = {as_language(name): seeds for name, seeds in words.items()}
        except ConfigurationError as error:
            raise ConfigurationError(f"the seed words of {aspect!r} are keyed by language: {error}") from None
        if language in ("ko", "en") or by_language.get(language):
            lists = [by_language.get(language) or ()]
        else:
            both = [by_language[name] for name in ("ko", "en") if name in by_language]
            lists = both or list(by_language.values())
    for seeds in lists:
        valid = isinstance(seeds, Sequence) and not isinstance(seeds, (str, bytes))
        if not valid or not all(isinstance(word, str) for word in seeds):
            raise ConfigurationError(
                f"the seed words of {aspect!r} must be a list of strings, got {seeds!r}; "
                f'for example {{"{aspect}": ["word", "another word"]}}'
            )
    query_words = [word for seeds in lists for word in list(seeds)[:MAX_QUERY_WORDS]]
    return composed(" ".join(query_words) or aspect)


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
