"""Aspects and the words that find their reviews."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from ..errors import ConfigurationError
from .seeds import SEEDS

Words: TypeAlias = Sequence[str]
Aspects: TypeAlias = Sequence[str] | Mapping[str, Words | Mapping[str, Words]]
"""Names of aspects; or their seed words, for every language alike or by language."""

WORDS_IN_A_QUERY = 10
"""Seed words that make up the text of a search: the first ten, as in the source service."""


def query_texts(aspects: Aspects, language: str) -> dict[str, str]:
    """
    Return the text to search with for each aspect.

    Args:
        aspects: The aspects; a bare name uses its default seed words, or itself where there are none.
        language: "ko", "en", or "auto" for the words of both.

    Raises:
        ConfigurationError: When there is no aspect, or one has no usable words.
    """
    given: object = aspects
    if isinstance(given, (str, set, frozenset)) or not aspects:  # a set has another order in every process
        raise ConfigurationError(
            f'aspects must name at least one aspect, got {aspects!r}; write ("service", "price", "food")'
        )
    texts: dict[str, str] = {}
    for aspect in aspects:
        if not aspect.strip():
            raise ConfigurationError(f"aspects must have names, got {aspect!r}")
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
                f'write {{"{aspect}": ["word", "another word"]}}'
            )
    chosen = [word for seeds in lists for word in list(seeds)[:WORDS_IN_A_QUERY]]
    return " ".join(chosen) or aspect
