"""
Wording of a task's instructions: the language of the replies, and instructions of the user's own.

Our instructions exist in Korean and in English. For a reply in any other language, the English ones name it. A user's
own instructions follow ours, or stand in place of them. In their place, two things of ours remain, without which no
reply could be used: that the reviews are data, and the form of the reply.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from types import MappingProxyType
from typing import Literal, NamedTuple, TypeAlias

from ..._patterns import lazy_pattern
from ..._values import composed
from ...errors import ConfigurationError

Language: TypeAlias = Literal["ko", "en"]
"""A language that our instructions are written in."""

ENGLISH = "in English"
"""What the English instructions call the language of the replies, wherever they name it."""


class Wording(NamedTuple):
    """
    The wording of the instructions of one task.

    Attributes:
        language: Language of the replies: "ko", "en", or the name of another one in English.
        instructions: The user's own instructions, or "".
        replaces: Whether these stand in place of ours.
    """

    language: str
    instructions: str = ""
    replaces: bool = False

    @property
    def base(self) -> Language:
        """The language that the instructions are written in."""
        return "ko" if self.language == "ko" else "en"

    def compose(self, ours: str, frame: str) -> str:
        """
        Return the instructions.

        Args:
            ours: Our instructions, in the language `base`.
            frame: What remains of them if the user's stand in their place.
        """
        if not self.instructions:
            return self._in_language(ours)
        own = composed(self.instructions.strip())
        if self.replaces:
            return f"{own}\n{self._in_language(frame)}"
        return f"{self._in_language(ours)}{_HEADING[self.base]}\n{own}\n"

    def _in_language(self, text: str) -> str:
        return text if self.language in ("ko", "en") else text.replace(ENGLISH, f"in {self.language}")


_HEADING: Mapping[Language, str] = {
    "ko": "다음 지시도 따르세요. 위와 다르면 다음 지시가 우선하지만, 답의 형식은 그대로 지키세요.",
    "en": (
        "Follow these instructions too. Where they differ from those above, they come first; "
        "but keep to the form of the answer."
    ),
}

_NAMES = """
    ar Arabic, bg Bulgarian, bn Bengali, ca Catalan, cs Czech, da Danish, de German, el Greek, es Spanish, et Estonian,
    eu Basque, fa Persian, fi Finnish, fil Filipino, fr French, gl Galician, gu Gujarati, he Hebrew, hi Hindi,
    hr Croatian, hu Hungarian, hy Armenian, id Indonesian, is Icelandic, it Italian, ja Japanese, ka Georgian,
    kk Kazakh, km Khmer, kn Kannada, lo Lao, lt Lithuanian, lv Latvian, mk Macedonian, ml Malayalam, mn Mongolian,
    mr Marathi, ms Malay, my Burmese, nb Norwegian, ne Nepali, nl Dutch, no Norwegian, pa Punjabi, pl Polish,
    pt Portuguese, ro Romanian, ru Russian, sk Slovak, sl Slovenian, sq Albanian, sr Serbian, sv Swedish, sw Swahili,
    ta Tamil, te Telugu, th Thai, tl Tagalog, tr Turkish, uk Ukrainian, ur Urdu, uz Uzbek, vi Vietnamese, zh Chinese
"""
_BY_CODE: Mapping[str, str] = MappingProxyType(dict(one.split() for one in _NAMES.split(",")))
_ALIASES: Mapping[str, str] = MappingProxyType(
    {
        "ko": "ko",
        "kor": "ko",
        "korean": "ko",
        "한국어": "ko",
        "en": "en",
        "eng": "en",
        "english": "en",
        "영어": "en",
    }
)
_REGIONS: Mapping[str, str] = MappingProxyType(
    {
        "zh-cn": "Simplified Chinese",
        "zh-hans": "Simplified Chinese",
        "zh-tw": "Traditional Chinese",
        "zh-hk": "Traditional Chinese",
        "zh-hant": "Traditional Chinese",
        "pt-br": "Brazilian Portuguese",
    }
)
_TAG = lazy_pattern(r"([a-z]{2,3})(?:[-_][a-z0-9]{2,8})*", re.IGNORECASE)
_NAME = lazy_pattern(r"[^\W\d_][\w ()'’,-]{1,49}")


def as_language(value: object) -> str:
    """
    Return a language as a `Wording` has it: "ko", "en", or a name; or "auto".

    Args:
        value: A tag such as "ja" or "pt-BR", a name such as "Japanese", or "auto".

    Raises:
        ConfigurationError: It is none of these; the message says what to write.
    """
    text = value.strip() if isinstance(value, str) else ""
    key = text.casefold().replace("_", "-")
    if key == "auto":
        return "auto"
    if key in _REGIONS:
        return _REGIONS[key]
    tag = _TAG.fullmatch(key)
    code = tag[1] if tag else key
    if key in _ALIASES or code in _ALIASES:
        return _ALIASES.get(key) or _ALIASES[code]
    if code in _BY_CODE:
        return _BY_CODE[code]
    if key.title() in _BY_CODE.values():
        return key.title()
    is_code = tag is not None and len(code) <= 3 and ("-" in key or len(key) <= 3)
    if is_code or not _NAME.fullmatch(text) or get_close_matches(key, ["auto"], cutoff=0.7):
        raise ConfigurationError(
            f'language must be "auto", a language\'s code such as "ko", "en" or "ja", or its name, got {value!r}; '
            'for example language="Japanese"'
        )
    return text
