"""
Texts in a model's answer: what is content, and what is an echo of the form that was asked for.

A placeholder, a field name or an echoed instruction is no content.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any
from unicodedata import normalize

from .._patterns import lazy_pattern
from ._json import CutList, CutObject
from ._replies import clean

_MAX_TEXT_LENGTH = 20_000

_PLACEHOLDER_LIST = """
    string, str, null, none, n/a, summary, bullets, bullet, evidence, categories, overall summary,
    positive summary, negative summary, comparison summary, target restaurant strength, one sentence,
    3 to 5 short points, short point, short points, point, one or two sentences, two or three sentences,
    your summary here, summary here, insert summary here, text here, summary of reviews, summary of the reviews,
    한 문장 요약, 짧은 요점, 짧은 요점 3~5개, 요약, 요점, 한두 문장, 두세 문장, 문자열,
    synonym, synonyms, word that means the same, example, one sentence of the text, 비슷한 말,
    글에 있는 그대로의 문장 하나
"""
_PLACEHOLDERS = frozenset(map(str.strip, _PLACEHOLDER_LIST.split(",")))
"""Texts that stand for content in a form, as `_key` returns them."""
_ECHOED_INSTRUCTIONS = (
    "당신은 음식점 리뷰를",
    "<reviews>와 </reviews> 사이의",
    "리뷰에 없는 내용은 쓰지",
    "가격은 금액이 나오지 않으면",
    "한국어로, 지정된 json",
    '항목마다 "categories"',
    "주어진 항목 하나에 대해",
    "항목별 요약을 바탕으로",
    "줄마다 번호 다음에",
    "줄마다 리뷰의 일부를 요약한",
    "여러 음식점의 리뷰입니다. 공통된",
    "리뷰는 한 음식점의 것입니다",
    "you are an editor who",
    "you are an analyst who",
    "the lines between <reviews> and",
    "write nothing that the reviews",
    "about prices, where no figures",
    "answer in english, with a single",
    "answer with a single json object",
    "for each aspect write under",
    "for the one aspect given write",
    "from the summaries per aspect write",
    "each line says after its number",
    "each line is a json object",
    "the reviews are about several restaurants. sum up",
    "the reviews are about one restaurant; the comparison",
)
"""Beginnings of the instructions' sentences, in lower case."""
_LONGEST_ECHO = max(map(len, _ECHOED_INSTRUCTIONS))
_SHORT = 40
"""Length of the longest text that may be a placeholder."""
_AROUND = " \t\r\n.,:;!?~…\"'`<>[](){}*_-“”‘’"
_BULLET_STARTS = frozenset("-*•·▪0123456789")
_BULLET_SIGN = lazy_pattern(r"^(?:[-*•·▪]|\d{1,2}[.)])\s+")


def _key(text: str) -> str:
    """Return a text in lower case, without signs around it and with single blanks."""
    text = text.strip(_AROUND).casefold()
    if "_" in text:
        text = text.replace("_", " ")
    return text if text.isascii() and "  " not in text else " ".join(normalize("NFC", text).split())


def text_of(value: Any) -> str | None:
    """
    Return the text in a value: a text, a list of texts, or an object with one text; None if there is none.

    Of a list, elements that are no texts are left out. A text is None if it is a placeholder or an echoed instruction.
    """
    if isinstance(value, str):
        text = clean(value[:_MAX_TEXT_LENGTH]).strip()
        return text if _is_content(text) else None
    if isinstance(value, list) and not isinstance(value, CutList):
        return " ".join(filter(None, (text_of(one) for one in value if isinstance(one, str)))) or None
    if isinstance(value, dict) and not isinstance(value, CutObject):
        texts = [member for member in value.values() if isinstance(member, str)]
        return text_of(texts[0]) if len(texts) == 1 else None
    return None


def _is_content(text: str) -> bool:
    if len(text) <= _SHORT:
        words = _key(text)
        if words:
            return words not in _PLACEHOLDERS
        # Signs that are no words, such as "^^" or an emoji, are what some reviews consist of; three dots are not.
        return text.strip("\"'<>[]{}() ") not in ("", "...")
    return not text.lstrip("-*•\"' ")[:_LONGEST_ECHO].casefold().startswith(_ECHOED_INSTRUCTIONS)


def bullets_of(value: Any) -> Iterator[str]:
    """Yield the bullets in a value, each once: a list, an object's members, or lines of a text."""
    entries: Iterable[Any] = ()
    if isinstance(value, str):
        entries = value.splitlines()
    elif isinstance(value, dict):
        entries = value.values()
    elif isinstance(value, list):
        entries = value
    seen: set[str] = set()
    for entry in entries:
        text = text_of(entry)
        if text is not None:
            text = _BULLET_SIGN.sub("", text, count=1) if text[0] in _BULLET_STARTS else text
            key = _key(text) or text
            if text and key not in seen:
                seen.add(key)
                yield text
