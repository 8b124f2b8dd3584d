"""Sentence segmentation for Korean and English reviews, and grapheme cluster boundaries."""

from __future__ import annotations

import re
from collections.abc import Iterator
from unicodedata import category

from .._patterns import lazy_pattern

# Characters; no abbreviation is longer. An unlimited look back would take quadratic time in a text full of them.
_LOOK_BACK = 8
_ABBREVIATION = lazy_pattern(
    r"(?:^|[\s(])(?:mr|mrs|ms|dr|st|vs|etc|no|e\.g|i\.e|a\.m|p\.m|[a-z])\.$", re.IGNORECASE
)
# Runs of stops match from their first character only, with possessive quantifiers; backtracking would take
# quadratic time.
_BOUNDARY = lazy_pattern(
    r"[\r\n]+"
    r"|(?:[ㅋㅎ]{2,}|[ㅠㅜ]+|\^\^+|[♥♡★☆\u2600-\u27bf\U0001f300-\U0001faff]"
    r"[\ufe0f\u200d\u2600-\u27bf\U0001f300-\U0001faff]*)[.!?。!?…~\s]*"
    r"|(?<![.!?。!?…])[.!?。!?…]++[\"'”’)\]]*+(?=\s|$|[가-힣\u3040-\u30ff\u4e00-\u9fff])"
    r"|(?<=[가-힣])~+(?=\s)"
    r"|(?:(?<=니다)|(?<=[어아해네세에예워려져싸커나봐돼까][요여]))\s+(?=[가-힣A-Z])"
)
_JOINERS = frozenset("\u200d\ufe0f\ufe0e\u20e3")
_MAX_CLUSTER = 16


def sentences(text: str) -> list[str]:
    """
    Split a review into sentences.

    Sentences end at full stops and line breaks; at laughter (ㅋㅋ), tears (ㅠㅠ) and emoji, which end Korean
    sentences; and at polite verb endings without a full stop.

    Args:
        text: The review.

    Returns:
        The sentences without surrounding white space; together they hold all words of the text.
    """
    return [" ".join(text[start:end] for start, end in pieces) for pieces in _sentences(text)]


def sentence_ends(text: str) -> list[int]:
    """Return the index after the last character of each of the `sentences`."""
    return [pieces[-1][1] for pieces in _sentences(text)]


def boundary(text: str, end: int) -> int:
    """
    Return the last grapheme cluster boundary at or before `end`.

    Args:
        text: The text.
        end: An index in it, returned as it is inside a run of joined code points that is too long to be a cluster.
    """
    if end >= len(text):
        return len(text)
    for index in range(end, max(end - _MAX_CLUSTER, 0), -1):
        if not _same_cluster(text[index - 1], text[index]):
            return index
    return end if end > _MAX_CLUSTER else 0


def _sentences(text: str) -> list[list[tuple[int, int]]]:
    found: list[list[tuple[int, int]]] = []
    for start, end in _pieces(text):
        # Punctuation or emoji without words belong to the sentence before.
        if found and not any(c.isalnum() and not "ㄱ" <= c <= "ㆎ" for c in text[start:end]):
            found[-1].append((start, end))
        else:
            found.append([(start, end)])
    return found


def _pieces(text: str) -> Iterator[tuple[int, int]]:
    start = 0
    for match in _BOUNDARY.finditer(text):
        end = match.end()
        if match[0] == "." and _ABBREVIATION.search(text[max(start, end - _LOOK_BACK) : end]):
            continue
        yield from _stripped(text, start, end)
        start = end
    yield from _stripped(text, start, len(text))


def _stripped(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    piece = text[start:end].lstrip()
    start = end - len(piece)
    if piece := piece.rstrip():
        yield start, start + len(piece)


def _same_cluster(before: str, after: str) -> bool:
    """Return whether two adjacent code points belong to one grapheme cluster (a subset of Unicode UAX #29)."""
    return (
        after in _JOINERS
        or before == "\u200d"
        or category(after) in ("Mn", "Mc", "Me")
        or "\U0001f3fb" <= after <= "\U0001f3ff"  # skin tones
        or "\U000e0020" <= after <= "\U000e007f"  # tags, as in the flag of England
        or ("\U0001f1e6" <= before <= "\U0001f1ff" and "\U0001f1e6" <= after <= "\U0001f1ff")  # flags
        or ("\u1100" <= before <= "\u11ff" and "\u1160" <= after <= "\u11ff")  # conjoining Hangul jamo
        or ("\ud800" <= before <= "\udbff" and "\udc00" <= after <= "\udfff")
    )
