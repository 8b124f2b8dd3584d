"""Stems of word lists."""

from __future__ import annotations

from .terms import terms


def stems_of(words: str) -> list[str]:
    """Return the stems of a space-separated list of words."""
    return [stem for word in words.split() for stem in terms(word) or [word]]
