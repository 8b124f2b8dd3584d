"""
Embedders: text to vectors, for the search backends.

`HashingEmbedder` is the default. It needs no model, no download and no network. `FastEmbedder` and
`APIEmbedder`, in files of their own, make dense vectors with a model, and leave the sparse half to a
`SparseEmbedder`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING, Protocol

from ..._nlp.concepts import ConceptLookup
from ..._nlp.terms import terms
from ...errors import ConfigurationError
from ...protocols import Embedding, SparseVector

if TYPE_CHECKING:
    from collections.abc import Iterable

_VERSION = 1
_SMALLEST, _LARGEST = 16, 65_536
_KNOWN_STEMS = 65_536
_LONGEST_KNOWN = 100  # a "word" of thousands of letters is not worth remembering

# Found on the tuning part of the data; see docs/search-quality.md.
_STEM, _GRAM, _CONCEPT, _ASPECT = 1.0, 0.6, 1.0, 0.75
_K1, _B, _AVERAGE_LENGTH = 1.2, 0.75, 16.0


class SparseEmbedder(Protocol):
    """Makes the sparse half of an embedding: weights of words, whose rarity the search engine weighs."""

    @property
    def name(self) -> str:
        """Name the method and its version; vectors of different names are not comparable."""
        ...

    def embed_documents(self, texts: Sequence[str], /) -> list[SparseVector]:
        """Embed texts to be found, one vector each, in their order."""
        ...

    def embed_query(self, text: str, /) -> SparseVector:
        """Embed a text to search with."""
        ...


class HashingSparseEmbedder:
    """The sparse half of `HashingEmbedder`: BM25 weights of Korean and English stems."""

    def __init__(self) -> None:
        # Words repeat (Zipf), so remembering their numbers makes indexing several times faster.
        self._term_id = lru_cache(_KNOWN_STEMS)(_hash32)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    @property
    def name(self) -> str:
        """The name of these vectors; it changes whenever they would."""
        return f"hashing-sparse-v{_VERSION}"

    def embed_documents(self, texts: Sequence[str], /) -> list[SparseVector]:
        """Embed texts to be found, one vector each, in their order."""
        return [self.weigh(Counter(terms(text)), bm25=True) for text in texts]

    def embed_query(self, text: str, /) -> SparseVector:
        """Embed a text to search with; each distinct word counts once."""
        return self.weigh(Counter(terms(text)), bm25=False)

    def weigh(self, counts: Counter[str], *, bm25: bool) -> SparseVector:
        """Return the weights of stems that were counted: BM25's, or 1 each."""
        saturation = _K1 * (1 - _B + _B * counts.total() / _AVERAGE_LENGTH)
        # Two terms with one hash are rare enough to share the larger weight.
        weights: dict[int, float] = {}
        for stem, count in counts.items():
            weight = count * (_K1 + 1) / (count + saturation) if bm25 else 1.0
            index = self._term_id(stem)
            weights[index] = max(weight, weights.get(index, 0.0))
        return SparseVector(list(weights), list(weights.values()))


class HashingEmbedder:
    """
    Vectors by feature hashing: the same text gives the same vectors, on every machine.

    The dense vector adds up, with signs, the stems of a text, their character pieces (so that
    misspelt words stay near), and the restaurant concepts they belong to (so that 직원 comes near
    waiter). The sparse one holds BM25 weights of the stems; the rarity of a word is left to the
    search engine.

    It does not understand sentences. For paraphrases use an embedding model.
    """

    def __init__(self, size: int = 384) -> None:
        """
        Make an embedder.

        Args:
            size: Length of the dense vectors; longer ones collide less.

        Raises:
            ConfigurationError: The size is no integer from 16 to 65,536.
        """
        if type(size) is not int or not _SMALLEST <= size <= _LARGEST:
            raise ConfigurationError(
                f"size must be an integer from {_SMALLEST} to {_LARGEST}, such as 384; got {size!r}"
            )
        self._size = size
        self._lexicon = ConceptLookup()
        # Words repeat (Zipf), so remembering each stem's share makes indexing several times faster.
        self._share = lru_cache(_KNOWN_STEMS)(self._make_share)
        self._sparse = HashingSparseEmbedder()

    @property
    def name(self) -> str:
        """The name of these vectors; it changes whenever they would."""
        return f"hashing-v{_VERSION}-{self._size}"

    @property
    def size(self) -> int:
        """The length of the dense vectors."""
        return self._size

    def __repr__(self) -> str:
        return f"{type(self).__name__}(size={self._size})"

    def embed_documents(self, texts: Sequence[str], /) -> list[Embedding]:
        """
        Embed texts to be found.

        Args:
            texts: The texts; one without any word gets a zero dense vector and no sparse entries.

        Returns:
            One embedding each, in their order.
        """
        return [self._embed(terms(text), bm25=True) for text in texts]

    def embed_query(self, text: str, /) -> Embedding:
        """
        Embed a text to search with.

        Args:
            text: The words to look for; each distinct one counts once.
        """
        return self._embed(terms(text), bm25=False)

    def _embed(self, stems: list[str], *, bm25: bool) -> Embedding:
        counts = Counter(stems)
        return Embedding(self._dense(counts), self._sparse.weigh(counts, bm25=bm25))

    def _dense(self, counts: Counter[str]) -> list[float]:
        vector = [0.0] * self._size
        for stem, count in counts.items():
            weight = 1.0 + math.log(count)
            share = self._share if len(stem) <= _LONGEST_KNOWN else self._make_share
            for index, value in share(stem):
                vector[index] += weight * value
        length = math.sqrt(sum(value * value for value in vector))
        return [value / length for value in vector] if length else vector

    def _make_share(self, stem: str) -> tuple[tuple[int, float], ...]:
        """Return what a stem adds to a dense vector, by index."""
        features = [("w:" + stem, _STEM)]
        grams = _grams(stem)
        features += [("g:" + gram, _GRAM / math.sqrt(len(grams))) for gram in grams]
        concept = self._lexicon.concept(stem)
        if concept:
            features += [("c:" + concept.name, _CONCEPT), ("a:" + concept.aspect, _ASPECT)]
        return tuple(self._place(features))

    def _place(self, features: Iterable[tuple[str, float]]) -> Iterable[tuple[int, float]]:
        for feature, value in features:
            number = int.from_bytes(blake2b(feature.encode(), digest_size=8).digest(), "little")
            # One bit gives the sign, so that collisions cancel on average instead of adding up.
            yield (number >> 1) % self._size, value if number & 1 else -value


def _grams(stem: str) -> list[str]:
    # A Hangul syllable holds as much as two or three Latin letters.
    width = 2 if stem[0] > "\u2fff" else 4
    padded = f"<{stem}>"
    return [padded[i : i + width] for i in range(len(padded) - width + 1)] or [padded]


def named(model: str, prefixes: tuple[str, str], sparse: SparseEmbedder) -> str:
    """Return the name of embeddings whose halves are made by a model, with its prefixes, and by `sparse`."""
    return f"{model}{list(prefixes) if any(prefixes) else ''}+{sparse.name}"


def joined(dense: Iterable[Sequence[float]], sparse: Iterable[SparseVector]) -> list[Embedding]:
    """Return embeddings of two halves, the dense one at unit length; there are as many of either."""
    return [Embedding(unit(vector), weights) for vector, weights in zip(dense, sparse, strict=True)]


def unit(vector: Sequence[float]) -> list[float]:
    """Return a vector at length 1; one without any length as it is."""
    length = math.sqrt(math.fsum(value * value for value in vector))
    return [value / length for value in vector] if length else list(vector)


def _hash32(term: str) -> int:
    return int.from_bytes(blake2b(term.encode(), digest_size=4).digest(), "little")
