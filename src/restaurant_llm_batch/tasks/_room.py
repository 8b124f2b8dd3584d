"""Reviews that a prompt of `SummarizeAspects` has room for: the best of each aspect in turn, up to a token bound."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..models import Hit
from ..tokens.counting import estimate_tokens
from ..tokens.packing import TRUNCATION_MARK
from ..tokens.sentences import boundary
from ._parsing import Shown

_TOKENS_PER_CHARACTER = 4
"""More than any character has by `estimate_tokens`."""
_LINE_TOKENS = 8
"""Tokens of the number before a review and of the signs around it."""
_LONGEST_SHARE = 8
"""A review takes at most this part of the room, so that a long one leaves room for others."""


def with_room(shown: Mapping[str, Shown], max_tokens: int) -> Mapping[str, Shown]:
    """
    Return the reviews that a prompt has room for.

    They are taken in turn: the best review of each aspect, then the second of each. A long review is truncated; the
    first review of an aspect is always among them.

    Args:
        shown: The reviews of each aspect, best first.
        max_tokens: Maximum number of tokens of all reviews, by `estimate_tokens`.
    """
    lengths = [len(hit.content) for hits in shown.values() for _, hit in hits]
    most = _TOKENS_PER_CHARACTER * sum(lengths) + _LINE_TOKENS * len(lengths)
    if most <= max_tokens:  # the usual case, without an estimate
        return shown
    longest = max(max_tokens // _LONGEST_SHARE, 1)
    kept: dict[str, list[tuple[int, Hit]]] = {aspect: [] for aspect in shown}
    left = max_tokens
    for position in range(max(map(len, shown.values()))):
        for aspect, hits in shown.items():
            if position >= len(hits):
                continue
            rank, hit = hits[position]
            hit, tokens = _truncated(hit, longest)
            if tokens > left and kept[aspect]:
                return kept
            kept[aspect].append((rank, hit))
            left -= tokens
    return kept


def _truncated(hit: Hit, max_tokens: int) -> tuple[Hit, int]:
    """Return a review of at most about `max_tokens`, and its tokens. Takes time in proportion to `max_tokens`."""
    text = hit.content
    # No tokenizer in use needs less than a token for 12 characters of running text.
    cut = text[: boundary(text, 12 * max_tokens)] if len(text) > 12 * max_tokens else text
    tokens = estimate_tokens(cut) + _LINE_TOKENS
    while tokens > max_tokens and len(cut) > 1:
        cut = cut[: boundary(cut, max(len(cut) * max_tokens // (tokens + tokens // 16), 1))]
        tokens = estimate_tokens(cut) + _LINE_TOKENS
    if cut == text:
        return hit, tokens
    return replace(hit, content=cut.rstrip() + TRUNCATION_MARK), tokens
