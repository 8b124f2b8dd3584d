"""Sentences joined to a short text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..._nlp.terms import terms
from ._extract import LONGEST_SENTENCE, trim

_MOST_SENTENCES, _LEAST_SENTENCES = 3, 2


def joined(texts: Sequence[str], more: Sequence[str]) -> str:
    """
    Join two or three sentences that differ, each with a capital and an end.

    Args:
        texts: What should be said, the most important first.
        more: What may be added where `texts` hold too little.

    Returns:
        The text; empty where all texts are.
    """
    chosen = distinct(texts, _MOST_SENTENCES)
    if len(chosen) < _LEAST_SENTENCES:
        # Better two sentences that are much alike than one alone.
        found = dict.fromkeys([*distinct([*chosen, *more], _LEAST_SENTENCES), *texts, *more])
        chosen = list(filter(None, found))[:_LEAST_SENTENCES]
    tidy = (trim(text[:1].upper() + text[1:].rstrip(" ,;-"), LONGEST_SENTENCE) for text in chosen)
    return " ".join(text + "." if _is_open(text[-1]) else text for text in tidy)


def distinct(texts: Iterable[str], most: int) -> list[str]:
    """Return the first ones that are not empty and do not mostly repeat an earlier one."""
    kept: list[str] = []
    said: list[frozenset[str]] = []
    for text in texts:
        if len(kept) == most:
            break
        stems = frozenset(terms(text))
        if text and text not in kept and not any(_overlap(stems, other) for other in said):
            kept.append(text)
            said.append(stems)
    return kept


def repeats(text: str, others: Iterable[str]) -> bool:
    """Tell whether a sentence says mostly what one of the others says."""
    stems = frozenset(terms(text))
    return any(_overlap(stems, frozenset(terms(other))) for other in others)


def _overlap(some: frozenset[str], other: frozenset[str]) -> bool:
    return 2 * len(some & other) > min(len(some), len(other))


def _is_open(last: str) -> bool:
    # Korean laughter (ㅋㅋ, ㅎㅎ) and tears end a sentence as well as a full stop does.
    return last.isalnum() and not "ㄱ" <= last <= "ㆎ"
