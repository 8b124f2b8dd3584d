"""Dense vectors of unit length as signed sums of features, for one text or, with NumPy, for many at once."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias

_MANY = 128
"""Texts from which on NumPy is worth its import: less than a batch of an index, more than most other uses have."""

_SLOT: Final = "i"
_WEIGHT: Final = "d"
_SLOT_BYTES = array(_SLOT).itemsize


StemFeatures: TypeAlias = tuple[int, bytes, bytes]
"""
What a stem adds to the vectors of a text.

1. Its id in the sparse vector.
2. Where its features are in the dense vector, as C integers; the bitwise complement if they are subtracted.
3. What is added or subtracted there, as C doubles.

An embedder keeps tens of thousands. The garbage collector leaves a plain tuple of numbers and bytes alone, but would
look at each object of a class again and again; and many bytes make an array in one step.
"""


class TextFeatures(NamedTuple):
    """
    The features of a text.

    Attributes:
        stems: Those of each of its stems.
        counts: Occurrences of each stem, in the same order.
        total: Sum of the counts.
    """

    stems: Sequence[StemFeatures]
    counts: Mapping[str, int]
    total: int


def packed_slots(slots: Sequence[int]) -> bytes:
    """Return slots as `StemFeatures` holds them."""
    return array(_SLOT, slots).tobytes()


def packed_weights(weights: Sequence[float]) -> bytes:
    """Return weights as `StemFeatures` holds them."""
    return array(_WEIGHT, weights).tobytes()


def dense_vectors(texts: Sequence[TextFeatures], size: int) -> list[list[float]]:
    """
    Return the dense vector of each text; that of a text without stems is zero.

    Args:
        texts: The features of the texts.
        size: Dimension of the vectors.
    """
    return [_vector(text, size) for text in texts] if len(texts) < _MANY else _vectors(texts, size)


def _vector(text: TextFeatures, size: int) -> list[float]:
    vector = [0.0] * size
    for (_, slots, weights), count in zip(text.stems, text.counts.values(), strict=True):
        factor = _factor(count)
        for slot, weight in zip(
            memoryview(slots).cast(_SLOT), memoryview(weights).cast(_WEIGHT), strict=True
        ):
            if slot >= 0:
                vector[slot] += factor * weight
            else:
                vector[~slot] -= factor * weight
    squares = 0.0
    for value in vector:  # not `sum`, which rounds in another way since Python 3.12
        squares += value * value
    length = math.sqrt(squares)
    return [value / length for value in vector] if length else vector


def _vectors(texts: Sequence[TextFeatures], size: int) -> list[list[float]]:
    """Return what `_vector` does, to the last bit: NumPy adds in the same order here."""
    import numpy as np

    all_slots: list[bytes] = []
    all_weights: list[bytes] = []
    sizes: list[int] = []
    for stems, counts, total in texts:
        if not stems:
            sizes.append(0)
            continue
        _, slots, weights = zip(*stems, strict=True)
        all_slots += slots
        all_weights += weights if len(counts) == total else _scaled(weights, counts)
        sizes.append(sum(map(len, slots)) // _SLOT_BYTES)
    places = np.frombuffer(b"".join(all_slots), np.dtype(_SLOT))
    values = np.frombuffer(b"".join(all_weights), np.dtype(_WEIGHT))
    subtracted = places < 0
    rows = np.repeat(np.arange(len(texts)) * size, sizes)
    sums = np.bincount(
        rows + np.where(subtracted, ~places, places),
        np.where(subtracted, -values, values),
        len(texts) * size,
    )
    # Nine of ten are zero, so from here on only of the others: a number of a list takes an object.
    (found,) = sums.nonzero()
    row, slot = np.divmod(found, size)
    filled = np.bincount(row, minlength=len(texts))
    ends = filled.cumsum()
    vectors = sums[found]
    squares = np.zeros((len(texts), int(filled.max()) + 1))
    squares[row, np.arange(len(found)) - (ends - filled)[row]] = vectors * vectors
    lengths = np.sqrt(np.add.accumulate(squares, axis=1)[:, -1])
    return _unpacked(slot.tolist(), (vectors / lengths[row]).tolist(), ends.tolist(), size)


def _unpacked(
    slots: Sequence[int], values: Sequence[float], ends: Sequence[int], size: int
) -> list[list[float]]:
    """Return vectors, given the slots and values of all of them, and where those of each end."""
    vectors = []
    start = 0
    for end in ends:
        vector = [0.0] * size
        for slot, value in zip(slots[start:end], values[start:end], strict=True):
            vector[slot] = value
        vectors.append(vector)
        start = end
    return vectors


def _scaled(weights: Sequence[bytes], counts: Mapping[str, int]) -> list[bytes]:
    return [
        packed_weights([_factor(count) * one for one in memoryview(packed).cast(_WEIGHT)])
        if count > 1
        else packed
        for packed, count in zip(weights, counts.values(), strict=True)
    ]


def _factor(count: int) -> float:
    return 1.0 + math.log(count) if count > 1 else 1.0
