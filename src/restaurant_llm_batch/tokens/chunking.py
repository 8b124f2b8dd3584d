"""Text chunking by token budget: split long texts at sentence ends, else between words, else between characters."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence

from .._patterns import lazy_pattern
from ..errors import ConfigurationError
from .packing import estimate_tokens, whole_number
from .sentences import boundary, sentence_ends

_WORD = lazy_pattern(r"\S+")
_START_OF_WORD = lazy_pattern(r"\S")  # not _WORD: a long word would be scanned again for each of its chunks
# Characters. No prose has longer tokens on average. Counting longer candidates for each chunk of a text without full
# stops would take quadratic time.
_MAX_TOKEN_LENGTH = 32
# Characters. `_NEAR` is the first distance from the middle within which `split_in_two` looks for a sentence end.
# An end less than `_EDGE` after the start of the searched part may be false, since its context before is cut off.
_NEAR, _EDGE = 2000, 32


def split_text(
    text: str, max_tokens: int = 2000, *, count_tokens: Callable[[str], int] = estimate_tokens
) -> list[str]:
    """
    Split a text into chunks of at most `max_tokens`, at sentence ends.

    Each chunk takes as many sentences as fit. A sentence that is too long is split between words, and a word that
    is too long between characters. The chunks hold the unchanged text in order, without the white space between
    chunks. Join a list of reviews by newlines to split it.

    Args:
        text: The text; one without words has no chunks.
        max_tokens: Maximum tokens per chunk, as `count_tokens` counts them. A chunk also has at most 32 characters per
            token.
        count_tokens: Token counter; called some four times per chunk.

    Raises:
        ConfigurationError: If `text` is not a string, or a single character exceeds `max_tokens`.
    """
    value: object = text
    if not isinstance(value, str):
        raise ConfigurationError(
            f"text must be a string, got {type(value).__name__}; for example '\\n'.join(reviews) for a list"
        )
    cutter = _Cutter(text, whole_number("max_tokens", max_tokens, 2000), count_tokens)
    chunks: list[str] = []
    first = _START_OF_WORD.search(text)
    while first is not None:
        start = first.start()
        end = cutter.end_of_chunk(start)
        chunks.append(text[start:end])
        first = _START_OF_WORD.search(text, end)
    return chunks


def split_in_two(text: str) -> tuple[str, str] | None:
    """
    Split a text into two parts of about equal length; None if it is too short.

    Splits at a sentence end in the middle half of the text, else between words, else between characters.
    """
    text = text.strip()
    if not text:
        return None
    for ends_of in (sentence_ends, _word_ends):
        middle = _nearest_to_middle(text, ends_of)
        if middle is not None:
            return text[:middle], text[middle:].lstrip()
    middle = boundary(text, len(text) // 2)
    return (text[:middle].rstrip(), text[middle:].lstrip()) if middle else None


def _word_ends(text: str) -> list[int]:
    return [match.end() for match in _WORD.finditer(text)]


def _nearest_to_middle(text: str, ends_of: Callable[[str], list[int]]) -> int | None:
    """Return the end nearest to the middle of a text; None if its middle half has none. Searches outwards."""
    length = len(text)
    half, max_reach = length // 2, length // 4 + _EDGE
    reach = min(_NEAR, max_reach)
    while True:
        first, last = max(half - reach, 0), min(half + reach, length)
        ends = [first + end for end in ends_of(text[first:last])]
        if last < length:
            ends = ends[:-1]  # the end of the searched part, not of a sentence
        if first:
            ends = [end for end in ends if end >= first + _EDGE]
        if near := [end for end in ends if length <= 4 * end <= 3 * length]:
            return min(near, key=lambda end: abs(end - half))
        if reach == max_reach:
            return None
        reach = min(8 * reach, max_reach)


class _Cutter:
    """Finds the ends of chunks; starts each search from the length of the previous chunk."""

    def __init__(self, text: str, max_tokens: int, count: Callable[[str], int]) -> None:
        self._text = text
        self._max_tokens = max_tokens
        self._count = count
        self._reach = max_tokens  # characters of the previous chunk; before the first, assume one per token
        self._sentences = sentence_ends(text)
        self._words: list[int] = []

    def end_of_chunk(self, start: int) -> int:
        """Return the end of the longest chunk that starts at `start`."""
        sentence = self._sentences[bisect_right(self._sentences, start)]
        end = self._farthest_end(start, self._sentences) or self._farthest_end(
            start, self._words_of(start, sentence)
        )
        return end or self._within_word(start, self._words[bisect_right(self._words, start)])

    def _within_word(self, start: int, word: int) -> int:
        end = self._farthest_end(start, range(start + 1, word + 1))
        if end is None:
            raise ConfigurationError(
                f"max_tokens={self._max_tokens} is too few for the character {self._text[start]!r}; "
                "for example max_tokens=2000"
            )
        whole = boundary(self._text, end)
        return whole if start < whole < end and self._fits(start, whole) else end

    def _words_of(self, start: int, end: int) -> list[int]:
        # Cached: a sentence of a megabyte has many chunks, but its words are found once.
        if not self._words or self._words[-1] != end:
            self._words = [start + word_end for word_end in _word_ends(self._text[start:end])]
        return self._words

    def _farthest_end(self, start: int, ends: Sequence[int]) -> int | None:
        """Return the last of `ends` up to which the text fits; exponential, then binary search from the last reach."""
        first = bisect_right(ends, start)
        low, high = first - 1, len(ends)  # invariant: ends[low] fits, ends[high] does not
        probe, step = bisect_right(ends, start + self._reach), 1
        while high - low > 1:
            probe = min(max(probe, low + 1), high - 1)
            if self._fits(start, ends[probe]):
                low = probe
            else:
                high = probe
            if low >= first and high < len(ends):
                probe = (low + high) // 2
            else:
                probe += step if low >= first else -step
                step *= 2
        if low < first:
            return None
        self._reach = ends[low] - start
        return ends[low]

    def _fits(self, start: int, end: int) -> bool:
        if end - start > self._max_tokens * _MAX_TOKEN_LENGTH:
            return False
        return self._count(self._text[start:end]) <= self._max_tokens
