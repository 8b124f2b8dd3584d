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
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from operator import add
from typing import Protocol

from ..._http.recipe import PickledAsRecipe, arguments_of
from ..._nlp.concepts import ConceptLookup
from ..._nlp.terms import terms
from ..._validation import is_whole
from ...errors import ConfigurationError
from ...protocols import Embedding, SparseVector
from ._signed_sums import StemFeatures, TextFeatures, dense_vectors, packed_slots, packed_weights

_VERSION = 1
_MIN_SIZE, _MAX_SIZE = 16, 65_536
_MAX_NUMBERS = 2**17  # of vectors that are computed together
_CACHED_STEMS = _CACHED_FEATURES = 65_536
_CACHED_WEIGHTS = _CACHED_CONCEPTS = 256
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
        return [self._weigh(terms(text), bm25=True) for text in texts]

    def embed_query(self, text: str, /) -> SparseVector:
        """Embed a query; each distinct word counts once."""
        return self._weigh(terms(text), bm25=False)

    def weigh(self, counts: Counter[str], *, bm25: bool) -> SparseVector:
        """
        Return a sparse vector of stem counts.

        Args:
            counts: Occurrences of each stem.
            bm25: Whether to weight by BM25's term frequency; otherwise each stem weighs 1.
        """
        return _weigh_terms(map(self._term_id, counts), counts, counts.total(), bm25=bm25)

    def _weigh(self, stems: list[str], *, bm25: bool) -> SparseVector:
        counts = _count_stems(stems)
        return _weigh_terms(map(self._term_id, counts), counts, len(stems), bm25=bm25)


def _weigh_terms(ids: Iterable[int], counts: Mapping[str, int], total: int, *, bm25: bool) -> SparseVector:
    """
    Return a sparse vector of stem counts.

    Args:
        ids: The id of each stem.
        counts: Occurrences of each stem.
        total: Their sum.
        bm25: Whether to weight by BM25's term frequency; otherwise each stem weighs 1.
    """
    saturation = _K1 * (1 - _B + _B * total / _AVERAGE_LENGTH)
    # Hash collisions are rare; colliding terms share the larger weight.
    weights: dict[int, float]
    if not bm25 or len(counts) == total:
        weights = dict.fromkeys(ids, 1 * (_K1 + 1) / (1 + saturation) if bm25 else 1.0)
    else:
        weights = {}
        for index, count in zip(ids, counts.values(), strict=True):
            weight = count * (_K1 + 1) / (count + saturation)
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
        self._known_gram = lru_cache(_CACHED_FEATURES)(self._gram)
        self._known_slot = lru_cache(_CACHED_CONCEPTS)(self._slot)
        # Word frequencies follow Zipf's law, so caching each stem's features makes indexing several times faster.
        self._known_features = lru_cache(_CACHED_STEMS)(self._features)
        self._known_weights = lru_cache(_CACHED_WEIGHTS)(_weights)

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
        found: list[Embedding] = []
        step = max(1, _MAX_NUMBERS // self._size)
        for start in range(0, len(texts), step):
            found += self._embed(texts[start : start + step], bm25=True)
        return found

    def embed_query(self, text: str, /) -> Embedding:
        """
        Embed a query.

        Args:
            text: The query; in the sparse vector, each distinct word counts once.
        """
        return self._embed([text], bm25=False)[0]

    def _embed(self, texts: Sequence[str], *, bm25: bool) -> list[Embedding]:
        read = [self._text_features(text) for text in texts]
        sparse = [
            _weigh_terms([term for term, _, _ in stems], counts, total, bm25=bm25)
            for stems, counts, total in read
        ]
        return list(map(Embedding, dense_vectors(read, self._size), sparse))

    def _text_features(self, text: str) -> TextFeatures:
        stems = terms(text)
        counts = _count_stems(stems)
        known: Callable[[str], StemFeatures] = self._known_features
        if max(map(len, stems), default=0) > _MAX_CACHED_LENGTH:
            known = self._features
        return TextFeatures(list(map(known, counts)), counts, len(stems))

    def _features(self, stem: str) -> StemFeatures:
        slots = [_slot("w:" + stem, self._size), *map(self._known_gram, _grams(stem))]
        grams = len(slots) - 1
        concept = self._concepts.concept(stem)
        if concept:
            slots += self._known_slot("c:" + concept.name), self._known_slot("a:" + concept.aspect)
        weights = _weights if grams > _MAX_CACHED_LENGTH else self._known_weights
        return _hash32(stem), packed_slots(slots), weights(grams, concept is not None)

    def _slot(self, feature: str) -> int:
        return _slot(feature, self._size)

    def _gram(self, gram: str) -> int:
        return _slot("g:" + gram, self._size)


def _slot(feature: str, size: int) -> int:
    """Return a feature's index if it counts, or the index's bitwise complement if it counts negatively."""
    number = int.from_bytes(blake2b(feature.encode(), digest_size=8).digest(), "little")
    # One bit of the hash is the sign, so that collisions cancel on average.
    index = (number >> 1) % size
    return index if number & 1 else ~index


def _count_stems(stems: list[str]) -> Mapping[str, int]:
    """Return the occurrences of each stem."""
    # Most reviews repeat no stem, and a Counter costs more than the rest of the sparse vector.
    counts: Mapping[str, int] = dict.fromkeys(stems, 1)
    return counts if len(counts) == len(stems) else Counter(stems)


def _weights(grams: int, has_concept: bool) -> bytes:
    """Return the weights of a stem's features: of itself, its n-grams, and its concept and aspect."""
    of_concept = [_CONCEPT, _ASPECT] if has_concept else []
    return packed_weights([_STEM, *[_GRAM / math.sqrt(grams)] * grams, *of_concept])


def _grams(stem: str) -> Iterable[str]:
    # Bigrams for CJK, 4-grams for Latin: a Hangul syllable carries as much as two or three Latin letters.
    padded = f"<{stem}>"
    if stem[0] > "\u2fff":
        return map(add, padded, padded[1:])
    return [padded[i : i + 4] for i in range(len(padded) - 3)] or [padded]


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
