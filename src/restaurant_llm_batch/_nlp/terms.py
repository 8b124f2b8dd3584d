"""
Text analyzer: normalization, tokenization, stop words and stemming for Korean and English.

Shared by the hashing embedder and the offline LLM. Han and kana are split into character bigrams; words of other
scripts are not stemmed.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from itertools import chain

from ..tokens.sentences import sentences
from . import korean_stems as korean

__all__ = ["normalise", "sentences", "stem_english", "terms"]

# Runs of more than 32 combining marks are cut: Unicode normalization orders them in quadratic time.
_MAX_MARKS = 32
_MARK_RUN = re.compile(rf"([^\w\s]{{{_MAX_MARKS}}})[^\w\s]++")
_TOKEN = re.compile(
    r"(?P<hangul>[가-힣]+)"
    r"|(?P<number>\d+(?:[.,]\d+)*)"
    r"|(?P<cjk>[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]+)"
    r"|(?P<latin>[a-z\u00df-\u024f]+(?:['\u2019][a-z]+)?)"
    r"|(?P<other>[^\W\d_ᄀ-ᇿㄱ-ㆎ]+)"
)
# The same without groups: the first character of a token determines its script.
_TOKENS = re.compile(re.sub(r"\?P<\w+>", "?:", _TOKEN.pattern))
# Word frequencies follow Zipf's law: half of the words of real reviews are among the last 16,384.
_CACHED_TOKENS = 65_536
_MAX_CACHED_LENGTH = (
    32  # characters; bounds the memory of the cache, about 25 MB if it is full of Korean words
)

_KOREAN = (
    "정말 진짜 너무 아주 매우 완전 그냥 역시 조금 약간 다소 많이 제일 가장 특히 항상 다시 또 "
    "더 좀 잘 꼭 다 그리고 그런데 근데 하지만 그래서 그래도 그러나 그런 이런 저런 어떤 그렇게 "
    "이렇게 우리 저희 제가 저는 나는 내가 것 거 게 수 때 등 및 이 그 저 안 못 곳 점 듯 만 중 "
    "후 전 하는 하고 해서 했 하 한 할 있 없 되 같 있었 싶 보 가 오 주 여기 거기 이거 그거 "
    "때문 정도 대한 위한 갔 왔 먹 사람 생각"
)
_KOREAN_STOPS = frozenset(_KOREAN.split())
_ENGLISH = (
    "a an and are as at be been but by can could d did do does doesn don didn for from get "
    "got had has have he her here him his how i if in into is isn it its just ll m me more "
    "most much my no not of on one or our out over re s she so some t than that the their "
    "them then there these they this those to too up us ve very was wasn we went were what "
    "when where which who will with would you your all also about after again am any because "
    "before being both down even ever every only other own same such through under until "
    "while why"
)
_ENGLISH_STOPS = frozenset(_ENGLISH.split())
_LY_WORDS = frozenset(
    ("family", "only", "early", "daily", "reply", "supply", "friendly", "lovely", "ugly", "jelly")
)
_VOWEL = re.compile(r"[aeiouy]")


def normalise(text: str) -> str:
    """Normalize a text for tokenization: NFKC, lower case."""
    if len(text) > _MAX_MARKS:
        text = _MARK_RUN.sub(r"\1", text)
    return unicodedata.normalize("NFKC", text).lower()


def terms(text: str) -> list[str]:
    """
    Return the stems of all words except stop words, in order and with repetitions.

    Args:
        text: Any text.
    """
    tokens = _TOKENS.findall(normalise(text))
    if max(map(len, tokens), default=0) > _MAX_CACHED_LENGTH:
        return [stem for token in tokens for stem in _stems(token)]
    return list(chain.from_iterable(map(_known_stems, tokens)))


def _stems(token: str) -> tuple[str, ...]:
    if "가" <= token[0] <= "힣":
        if token in _KOREAN_STOPS:
            return ()
        stem = korean.stem(token)
        return () if stem in _KOREAN_STOPS else (stem,)
    match = _TOKEN.match(token)
    script = match.lastgroup if match else None
    if script == "latin":
        word = re.split("['\u2019]", _without_accents(token))[0]
        return () if word in _ENGLISH_STOPS or len(word) < 2 else (stem_english(word),)
    if script == "cjk":
        return tuple(token[i : i + 2] for i in range(max(1, len(token) - 1)))
    return (token.replace(",", ""),)


# A pure function of short words, so that all embedders can share its cache; thread-safe, as lru_cache is.
_known_stems = lru_cache(_CACHED_TOKENS)(_stems)


def _without_accents(word: str) -> str:
    if word.isascii():
        return word
    plain = (c for c in unicodedata.normalize("NFD", word) if not unicodedata.combining(c))
    return "".join(plain)


def stem_english(word: str) -> str:
    """
    Return the stem of an English word, without plural, tense, adverb and comparative endings.

    Args:
        word: The word, in lower case.
    """
    # Plural first: the singular may have another ending (servings, offerings).
    word = _singular(word)
    for suffix, replacement in (("iness", "y"), ("ness", ""), ("iest", "y"), ("ier", "y"), ("ily", "y")):
        if word.endswith(suffix) and len(word) - len(suffix) >= 3:
            word = word[: -len(suffix)] + replacement
            break
    if word.endswith("ly") and len(word) >= 6 and word not in _LY_WORDS:
        word = word[:-1] + "e" if word[-3] == "b" else word[:-2]
    for suffix in ("ing", "ed"):
        left = word[: -len(suffix)]
        if word.endswith(suffix) and len(left) >= 3 and _VOWEL.search(left):
            word = _undouble(left)
            break
    if len(word) > 3 and word.endswith("e"):
        word = word[:-1]
    return word[:-1] + "i" if len(word) > 3 and word.endswith("y") else word


def _singular(word: str) -> str:
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and word.endswith(("sses", "shes", "ches", "xes", "zes")):
        return word[:-2]
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


def _undouble(word: str) -> str:
    # "chopped" doubles the p of "chop"; "grilled" and "missed" have double letters in the base form.
    return word[:-1] if word[-1] == word[-2] and word[-1] not in "lsz" else word
