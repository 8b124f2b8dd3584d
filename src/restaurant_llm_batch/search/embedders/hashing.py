"""
Feature-hashing embedder (the hashing trick) with BM25 sparse weights: the offline default of the search backends.

`HashingEmbedder` needs no model, download or network. `FastEmbedder` and `APIEmbedder` compute dense vectors with a
model, and leave the sparse half to a `SparseEmbedder`.

Sources: feature hashing, Weinberger et al. 2009, https://arxiv.org/abs/0902.2206; Okapi BM25, Robertson and Zaragoza
2009, https://doi.org/10.1561/1500000019.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING, Protocol

from ..._http.recipe import PickledAsRecipe, arguments_of
from ..._nlp.concepts import ConceptLookup
from ..._nlp.terms import terms
from ..._validation import is_whole
from ...errors import ConfigurationError
from ...protocols import Embedding, SparseVector

if TYPE_CHECKING:
    from collections.abc import Iterable

_VERSION = 1
_MIN_SIZE, _MAX_SIZE = 16, 65_536
_CACHED_STEMS = _CACHED_FEATURES = 65_536
_MAX_CACHED_LENGTH = 100  # characters; do not cache "words" of thousands of characters

# Weights of a stem's features, tuned on the tuning split; see docs/search-quality.md.
_STEM, _GRAM, _CONCEPT, _ASPECT = 1.0, 0.6, 1.0, 0.75
# BM25's k1 (saturation of term frequency), b (length normalization) and avgdl (average stems of a review).
_K1, _B, _AVERAGE_LENGTH = 1.2, 0.75, 16.0


class SparseEmbedder(Protocol):
    """Embeds texts as sparse term weights, without IDF, which the search engine applies."""

    @property
    def name(self) -> str:
        """Name of the method and its version; vectors of different names are not comparable."""
        ...

    def embed_documents(self, texts: Sequence[str], /) -> list[SparseVector]:
        """Embed documents; returns one vector per text, in order."""
        ...

    def embed_query(self, text: str, /) -> SparseVector:
        """Embed a query."""
        ...


class HashingSparseEmbedder(PickledAsRecipe):
    """Sparse embedder of `HashingEmbedder`: BM25 weights of Korean and English stems."""

    def __init__(self) -> None:
        self._made_with = arguments_of(locals())
        # Word frequencies follow Zipf's law, so caching the ids makes indexing several times faster.
        self._term_id = lru_cache(_CACHED_STEMS)(_hash32)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    @property
    def name(self) -> str:
        """Name of these vectors; a change of the method changes the name."""
        return f"hashing-sparse-v{_VERSION}"

    def embed_documents(self, texts: Sequence[str], /) -> list[SparseVector]:
        """Embed documents; returns one vector per text, in order."""
        return [self.weigh_all(*_counts(terms(text)), bm25=True) for text in texts]

    def embed_query(self, text: str, /) -> SparseVector:
        """Embed a query; each distinct word counts once."""
        return self.weigh_all(*_counts(terms(text)), bm25=False)

    def weigh(self, counts: Counter[str], *, bm25: bool) -> SparseVector:
        """
        Return a sparse vector of stem counts.

        Args:
            counts: Occurrences of each stem.
            bm25: Whether to weight by BM25's term frequency; otherwise each stem weighs 1.
        """
        return self.weigh_all(counts, counts.total(), bm25=bm25)

    def weigh_all(self, counts: Mapping[str, int], total: int, *, bm25: bool) -> SparseVector:
        """Return a sparse vector as `weigh` does, for counts whose sum is known."""
        saturation = _K1 * (1 - _B + _B * total / _AVERAGE_LENGTH)
        # Hash collisions are rare; colliding terms share the larger weight.
        weights: dict[int, float]
        if not bm25 or len(counts) == total:
            weight = 1 * (_K1 + 1) / (1 + saturation) if bm25 else 1.0
            weights = dict.fromkeys(map(self._term_id, counts), weight)
        else:
            weights = {}
            for stem, count in counts.items():
                weight = count * (_K1 + 1) / (count + saturation)
                index = self._term_id(stem)
                weights[index] = max(weight, weights.get(index, 0.0))
        return SparseVector(list(weights), list(weights.values()))


class HashingEmbedder(PickledAsRecipe):
    """
    Feature-hashing embedder: deterministic, with equal vectors on every machine.

    The dense vector is a signed sum over the stems of a text, their character n-grams (which keep misspelt words near)
    and the restaurant concepts of the stems (which bring 직원 near "waiter"). The sparse vector holds BM25 weights of
    the stems, without IDF, which the search engine applies.

    It does not understand sentences; for paraphrases use an embedding model.
    """

    def __init__(self, size: int = 384) -> None:
        """
        Create an embedder.

        Args:
            size: Dimension of the dense vectors; larger vectors have fewer hash collisions.

        Raises:
            ConfigurationError: If the size is not an integer from 16 to 65,536.
        """
        self._made_with = arguments_of(locals())
        if not is_whole(size, _MIN_SIZE) or size > _MAX_SIZE:
            raise ConfigurationError(
                f"size must be an integer from {_MIN_SIZE} to {_MAX_SIZE}, got {size!r}; for example size=384"
            )
        self._size = size
        self._concepts = ConceptLookup()
        # Character n-grams and concepts recur in other words.
        self._known_slot = lru_cache(_CACHED_FEATURES)(self._slot)
        # Word frequencies follow Zipf's law, so caching each stem's vector makes indexing several times faster.
        self._stem_vector = lru_cache(_CACHED_STEMS)(self._compute_stem_vector)
        self._sparse = HashingSparseEmbedder()

    @property
    def name(self) -> str:
        """Name of these vectors; a change of the method changes the name."""
        return f"hashing-v{_VERSION}-{self._size}"

    @property
    def size(self) -> int:
        """Dimension of the dense vectors."""
        return self._size

    def __repr__(self) -> str:
        return f"{type(self).__name__}(size={self._size})"

    def embed_documents(self, texts: Sequence[str], /) -> list[Embedding]:
        """
        Embed documents.

        Args:
            texts: The texts; one without words gets a zero dense vector and an empty sparse vector.

        Returns:
            One embedding per text, in order.
        """
        return [self._embed(terms(text), bm25=True) for text in texts]

    def embed_query(self, text: str, /) -> Embedding:
        """
        Embed a query.

        Args:
            text: The query; in the sparse vector, each distinct word counts once.
        """
        return self._embed(terms(text), bm25=False)

    def _embed(self, stems: list[str], *, bm25: bool) -> Embedding:
        counts, total = _counts(stems)
        return Embedding(self._dense(counts), self._sparse.weigh_all(counts, total, bm25=bm25))

    def _dense(self, counts: Mapping[str, int]) -> list[float]:
        vector = [0.0] * self._size
        touched: list[int] = []
        known = self._stem_vector
        for stem, count in counts.items():
            indices, values = (
                known(stem) if len(stem) <= _MAX_CACHED_LENGTH else self._compute_stem_vector(stem)
            )
            touched += indices
            if count == 1:
                for index, value in zip(indices, values, strict=True):
                    vector[index] += value
            else:
                weight = 1.0 + math.log(count)
                for index, value in zip(indices, values, strict=True):
                    vector[index] += weight * value
        # Most numbers of a vector are zero. The order of the sum is that of the whole vector, to the last bit.
        order = sorted(set(touched))
        found = [vector[index] for index in order]
        length = math.sqrt(sum([value * value for value in found]))
        if length:
            for index, value in zip(order, found, strict=True):
                vector[index] = value / length
        return vector

    def _compute_stem_vector(self, stem: str) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """Return a stem's contribution to a dense vector: the indices, and a value for each."""
        grams = _grams(stem)
        slots = [self._slot("w:" + stem), *map(self._known_slot, ["g:" + gram for gram in grams])]
        weights = [_STEM] + [_GRAM / math.sqrt(len(grams))] * len(grams)
        concept = self._concepts.concept(stem)
        if concept:
            slots += self._known_slot("c:" + concept.name), self._known_slot("a:" + concept.aspect)
            weights += _CONCEPT, _ASPECT
        # Flat tuples of numbers are no work for the garbage collector.
        return (
            tuple([slot if slot >= 0 else ~slot for slot in slots]),
            tuple([w if slot >= 0 else -w for w, slot in zip(weights, slots, strict=True)]),
        )

    def _slot(self, feature: str) -> int:
        """Return a feature's index if it counts, or the index's bitwise complement if it counts negatively."""
        number = int.from_bytes(blake2b(feature.encode(), digest_size=8).digest(), "little")
        # One bit of the hash is the sign, so that collisions cancel on average.
        index = (number >> 1) % self._size
        return index if number & 1 else ~index


def _counts(stems: list[str]) -> tuple[Mapping[str, int], int]:
    """Return the occurrences of each stem, and their sum."""
    # Most reviews repeat no stem, and a Counter costs more than the rest of the sparse vector.
    counts: Mapping[str, int] = dict.fromkeys(stems, 1)
    return (counts if len(counts) == len(stems) else Counter(stems)), len(stems)


def _grams(stem: str) -> list[str]:
    # Bigrams for CJK, 4-grams for Latin: a Hangul syllable carries as much as two or three Latin letters.
    width = 2 if stem[0] > "\u2fff" else 4
    padded = f"<{stem}>"
    return [padded[i : i + width] for i in range(len(padded) - width + 1)] or [padded]


def embedding_name(model: str, prefixes: tuple[str, str], sparse: SparseEmbedder) -> str:
    """Return the name of embeddings with a model's dense half, given its prefixes, and the sparse half of `sparse`."""
    return f"{model}{list(prefixes) if any(prefixes) else ''}+{sparse.name}"


def combine_halves(dense: Iterable[Sequence[float]], sparse: Iterable[SparseVector]) -> list[Embedding]:
    """Combine dense vectors, scaled to unit length, with as many sparse vectors."""
    return [Embedding(normalize(vector), weights) for vector, weights in zip(dense, sparse, strict=True)]


def normalize(vector: Sequence[float]) -> list[float]:
    """Scale a vector to unit length; a zero vector is returned as it is."""
    length = math.sqrt(math.fsum(value * value for value in vector))
    if length == math.inf:
        length = math.hypot(*vector)
    return [value / length for value in vector] if length else list(vector)


def _hash32(term: str) -> int:
    return int.from_bytes(blake2b(term.encode(), digest_size=4).digest(), "little")
