"""
Sentiment classifier for Korean and English reviews: a linear model over hashed character n-grams.

The weights are in `data/sentiment_ko.bin` and `data/sentiment_en.bin`, their metadata in `data/sentiment.json`;
`scripts/train_sentiment.py` creates all three. `docs/offline-sentiment.md` has its accuracy and limits.
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

# Characters that are read; enough to judge any review, and a bound on the cost of endless texts.
READABLE = 4000
# Sizes of the n-grams. Korean is read by syllables, and by jamo (the two or three letters of a syllable), in which the
# forms of a word (맛있어요, 맛있네, 마싯따) differ less.
_SYLLABLES, _JAMO, _LETTERS = (2, 3), (4, 6), (3, 4, 5, 6)
# Scores nearer to 0 than this are no better than chance (measured; see the docs).
NEUTRAL = 0.02

_WHITE = re.compile(r"\s+")
# That a character is repeated carries sentiment; how often it is repeated does not.
_REPEATED = re.compile(r"(.)\1\1+", re.DOTALL)
_HANGUL = re.compile(r"[가-힣ㄱ-ㆎ]+")
_LATIN = re.compile(r"[a-z\u00df-\u00f6\u00f8-\u024f]+")
# A Hangul syllable counts as two letters. A script below the minimum share is ignored.
_WIDTH = 2
_MIN_SHARE = 0.2


Language = Literal["ko", "en"]


class _Weights(NamedTuple):
    buckets: array[int]
    factor: float


class SentimentReader:
    """
    Classifies Korean and English reviews as positive, negative or neutral, without a download or network.

    The script selects the weights: Korean for Hangul, English for Latin. A text with both scripts gets the
    average score, weighted by length. Reads the first `READABLE` characters only.

    Loads the weights (1.3 MB) on first use, and keeps them for the life of the process. Thread-safe.
    """

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def judge(self, text: str) -> tuple[Literal["positive", "negative", "neutral"], float]:
        """
        Classify a review.

        Args:
            text: Any text; may contain lone surrogates and control characters.

        Returns:
            The label and its score, from -1 (negative) to 1 (positive): twice the probability of "positive",
            minus 1. If the score is within `NEUTRAL` of 0, the label is "neutral"; a text without Hangul or Latin
            letters scores 0.
        """
        score = math.tanh(self.log_odds(text) / 2)
        if abs(score) < NEUTRAL:
            return "neutral", score
        return ("positive" if score > 0 else "negative"), score

    def log_odds(self, text: str) -> float:
        """Return the log odds of praise, above 0 if it is more probable than blame."""
        return _log_odds(normal_form(text))


def normal_form(text: str) -> str:
    """Normalize a text: its beginning in NFC and lower case, with repeated characters reduced to two."""
    composed = unicodedata.normalize("NFC", text[:READABLE]).lower()
    return _REPEATED.sub(r"\1\1", _WHITE.sub(" ", composed)).strip()


def hashes(text: str, language: Language) -> set[int]:
    """
    Return the hashes of a text's character n-grams; the lowest bits of a hash are its bucket.

    Args:
        text: The text in normal form.
        language: Which n-grams to use.
    """
    if language == "en":
        return _hash_ngrams(text, _LETTERS)
    # Spacing varies freely in Korean, so ignore spaces.
    jamo = unicodedata.normalize("NFD", text.replace(" ", ""))
    return _hash_ngrams(text, _SYLLABLES) | _hash_ngrams(jamo, _JAMO)


def _hash_ngrams(text: str, sizes: tuple[int, ...]) -> set[int]:
    # UTF-16: two bytes per character. Emoji count as two characters, which does no harm.
    raw = f" {text} ".encode("utf-16-le", "surrogatepass")
    return {crc32(raw[at : at + 2 * size]) for size in sizes for at in range(0, len(raw) - 2 * size + 1, 2)}


def _log_odds(text: str) -> float:
    korean = _WIDTH * sum(map(len, _HANGUL.findall(text)))
    english = sum(map(len, _LATIN.findall(text)))
    if not korean and not english:
        return 0.0
    share = korean / (korean + english)
    if share >= 1 - _MIN_SHARE:
        return _score(text, "ko")
    if share <= _MIN_SHARE:
        return _score(text, "en")
    parts = _score(_LATIN.sub(" ", text), "ko"), _score(_HANGUL.sub(" ", text), "en")
    return share * parts[0] + (1 - share) * parts[1]


def _score(text: str, language: Language) -> float:
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
