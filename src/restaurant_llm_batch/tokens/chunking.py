"""Long texts in chunks that keep to a token budget, cut where a reader would pause."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence

from ..errors import ConfigurationError
from .packing import estimate_tokens, whole_number
from .sentences import boundary, sentence_ends

_WORD = re.compile(r"\S+")
_START_OF_WORD = re.compile(r"\S")  # the whole word would be read again for each of its chunks
# In characters. No prose has tokens as long on average, and to count what is longer, again for every chunk
# of a text without a full stop, would cost the square of its length.
_LONGEST_TOKEN = 32
# In characters. A text is halved at an end that is found this near to its middle, if there is one; what is nearer
# than the second to where looking begins may look like an end for want of what stands before it.
_NEAR, _EDGE = 2000, 32


def split_text(
    text: str, max_tokens: int = 2000, *, count_tokens: Callable[[str], int] = estimate_tokens
) -> list[str]:
    """
    Split a text into chunks of at most `max_tokens`, at the ends of its sentences.

    Each chunk takes as many sentences as fit. A sentence that is too long by itself is cut between words, and
    a word that is too long between characters. The chunks are the text as it stands, in its order, without
    the white space between them: nothing else is lost. A list of reviews, joined by newlines, is such a text.

    Args:
        text: Any text; one without a word has no chunks.
        max_tokens: Most tokens of a chunk, as `count_tokens` counts them; every chunk has been counted. Nor
            has a chunk more than 32 characters for each of them.
        count_tokens: Says how many tokens a text has; asked some four times for every chunk.

    Raises:
        ConfigurationError: When the text is no text, or `max_tokens` is too few for a single character.
    """
    given: object = text
    if not isinstance(given, str):
        raise ConfigurationError(f"text must be a text, got {type(given).__name__}; join a list by newlines")
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
    Return a text as two of about equal length, or None where it is too short for that.

    It is cut at the end of a sentence if one ends in its middle half, else between words, else anywhere.
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
    """Return the end that is nearest to the middle of a text, or None where its middle half has none."""
    length = len(text)
    half, widest = length // 2, length // 4 + _EDGE
    reach = min(_NEAR, widest)
    while True:
        first, last = max(half - reach, 0), min(half + reach, length)
        ends = [first + end for end in ends_of(text[first:last])]
        if last < length:
            ends = ends[:-1]  # where looking ended, not the sentence
        if first:
            ends = [end for end in ends if end >= first + _EDGE]
        if near := [end for end in ends if length <= 4 * end <= 3 * length]:
            return min(near, key=lambda end: abs(end - half))
        if reach == widest:
            return None
        reach = min(8 * reach, widest)


class _Cutter:
    """Finds where chunks end; what it learns about one, it uses for the next."""

    def __init__(self, text: str, most: int, count: Callable[[str], int]) -> None:
        self._text = text
        self._most = most
        self._count = count
        self._reach = most  # in characters: a token is about one, until the first chunk tells
        self._sentences = sentence_ends(text)
        self._words: list[int] = []

    def end_of_chunk(self, start: int) -> int:
        """Return the end of the longest chunk that begins at `start`."""
        sentence = self._sentences[bisect_right(self._sentences, start)]
        end = self._longest(start, self._sentences) or self._longest(start, self._words_of(start, sentence))
        return end or self._within_word(start, self._words[bisect_right(self._words, start)])

    def _within_word(self, start: int, word: int) -> int:
        end = self._longest(start, range(start + 1, word + 1))
        if end is None:
            raise ConfigurationError(
                f"max_tokens={self._most} is too few for the character {self._text[start]!r}; "
                "for example max_tokens=2000"
            )
        whole = boundary(self._text, end)
        return whole if start < whole < end and self._fits(start, whole) else end

    def _words_of(self, start: int, end: int) -> list[int]:
        # A sentence of a megabyte has many chunks, and its words are found once.
        if not self._words or self._words[-1] != end:
            self._words = [start + place for place in _word_ends(self._text[start:end])]
        return self._words

    def _longest(self, start: int, ends: Sequence[int]) -> int | None:
        """Return the last of the ends that `start` reaches, looking first as far as the last chunk went."""
        first = bisect_right(ends, start)
        low, high = first - 1, len(ends)  # what fits (nothing does, as yet), and what does not
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
        if end - start > self._most * _LONGEST_TOKEN:
            return False
        return self._count(self._text[start:end]) <= self._most
