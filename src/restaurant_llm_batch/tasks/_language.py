"""The language that a task asks and answers in."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypeAlias, get_args

from ._prompts.aspects import Language

Choice: TypeAlias = Literal["ko", "en", "auto"]
"""What the field `language` of a task may be; "auto" is that of the texts."""

CHOICES: tuple[str, ...] = get_args(Choice)


def choose(choice: Choice, texts: Iterable[str]) -> Language:
    """Return the language that was chosen, or for "auto" that of the texts."""
    return language_of(texts) if choice == "auto" else choice


def language_of(texts: Iterable[str]) -> Language:
    """Return the language that more of the texts is written in, by script; "ko" where there is neither."""
    hangul = latin = 0
    for text in texts:
        hangul += sum("가" <= character <= "힣" for character in text)
        latin += sum(character.isascii() and character.isalpha() for character in text)
    # A Hangul syllable carries about as much as two and a half Latin letters.
    return "ko" if hangul * 2.5 >= latin else "en"
