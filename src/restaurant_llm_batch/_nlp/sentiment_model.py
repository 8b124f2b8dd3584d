"""
Whether a review praises or complains: a linear model over the runs of characters in it.

The weights are in `data/sentiment_ko.bin` and `data/sentiment_en.bin`, what belongs to them in
`data/sentiment.json`; `scripts/train_sentiment.py` makes all three. `docs/offline-sentiment.md` says
how good it is and where it ends.
"""

from __future__ import annotations

import functools
import json
import math
import re
import unicodedata
from array import array
from importlib.resources import files
from typing import Literal, NamedTuple
from zlib import crc32

# A longer text has said what it thinks by then, and an endless one must cost no more.
READABLE = 4000
# How long the runs of characters are. Korean is read by its syllables, and by the two or three letters
# of each, in which the forms of a word (맛있어요, 맛있네, 마싯따) differ less.
_SYLLABLES, _JAMO, _LETTERS = (2, 3), (4, 6), (3, 4, 5, 6)
# Scores this near to 0 are no better than a coin (measured; see the docs).
NEUTRAL = 0.02

_WHITE = re.compile(r"\s+")
# How often a sign or letter is repeated says little; that it is repeated says much.
_REPEATED = re.compile(r"(.)\1\1+", re.DOTALL)
_HANGUL = re.compile(r"[가-힣ㄱ-ㆎ]+")
_LATIN = re.compile(r"[a-z\u00df-\u00f6\u00f8-\u024f]+")
# A Hangul syllable says as much as two letters; a few letters of another script decide nothing.
_WIDTH = 2
_LEAST_SHARE = 0.2


Language = Literal["ko", "en"]


class _Weights(NamedTuple):
    buckets: array[int]
    factor: float


class SentimentReader:
    """
    Tells praise from complaint in Korean and English reviews; needs no model and no network.

    The script of a text chooses the weights, Hangul the Korean and Latin letters the English ones. A
    text in both is judged by both, each by its part. Only the first `READABLE` characters are read.
    The weights, 1.3 MB, are read on first use and kept for the life of the process.

    One instance may be used from several threads at once.
    """

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def judge(self, text: str) -> tuple[Literal["positive", "negative", "neutral"], float]:
        """
        Judge a review.

        Args:
            text: Any text, lone surrogates and control characters included.

        Returns:
            The label, and the score behind it from -1 (surely a complaint) to 1 (surely praise): twice
            the probability of praise, less one. Within `NEUTRAL` of 0 the label is "neutral", as it is
            for a text without a Korean or Latin letter, whose score is 0.
        """
        score = math.tanh(_log_odds(normal_form(text)) / 2)
        if abs(score) < NEUTRAL:
            return "neutral", score
        return ("positive" if score > 0 else "negative"), score


def normal_form(text: str) -> str:
    """Return what is read of a text: its beginning, composed, in lower case, repetition cut to two."""
    composed = unicodedata.normalize("NFC", text[:READABLE]).lower()
    return _REPEATED.sub(r"\1\1", _WHITE.sub(" ", composed)).strip()


def hashes(text: str, language: Language) -> set[int]:
    """
    Return the hashes of the runs of characters in a text; the lowest bits of each name its bucket.

    Args:
        text: In normal form.
        language: Which runs are taken.
    """
    if language == "en":
        return _runs(text, _LETTERS)
    # Korean writers leave spaces out and put them in as they please.
    jamo = unicodedata.normalize("NFD", text.replace(" ", ""))
    return _runs(text, _SYLLABLES) | _runs(jamo, _JAMO)


def _runs(text: str, sizes: tuple[int, ...]) -> set[int]:
    # Two bytes a character; that an emoji counts as two does no harm.
    raw = f" {text} ".encode("utf-16-le", "surrogatepass")
    return {crc32(raw[at : at + 2 * size]) for size in sizes for at in range(0, len(raw) - 2 * size + 1, 2)}


def _log_odds(text: str) -> float:
    korean = _WIDTH * sum(map(len, _HANGUL.findall(text)))
    english = sum(map(len, _LATIN.findall(text)))
    if not korean and not english:
        return 0.0
    share = korean / (korean + english)
    if share >= 1 - _LEAST_SHARE:
        return _read(text, "ko")
    if share <= _LEAST_SHARE:
        return _read(text, "en")
    parts = _read(_LATIN.sub(" ", text), "ko"), _read(_HANGUL.sub(" ", text), "en")
    return share * parts[0] + (1 - share) * parts[1]


def _read(text: str, language: Language) -> float:
    weights = _weights(language)
    found = hashes(text, language)
    mask = len(weights.buckets) - 1
    total = sum([weights.buckets[code & mask] for code in found])
    return weights.factor * total / math.sqrt(len(found))


@functools.cache
def _weights(language: Language) -> _Weights:
    folder = files("restaurant_llm_batch") / "data"
    about = json.loads((folder / "sentiment.json").read_text(encoding="utf-8"))["models"][language]
    buckets = array("b", (folder / about["file"]).read_bytes())
    return _Weights(buckets, about["factor"])
