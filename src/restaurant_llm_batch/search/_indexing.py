"""Review indexing: validate reviews, normalize, compare and order their ids, derive point keys, and make batches."""

from __future__ import annotations

import operator
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b, sha1
from itertools import islice
from typing import Any

from .._validation import is_whole
from ..errors import ConfigurationError
from ..models import ItemId, Review

_NAMESPACE = uuid.UUID("6f1c2f0e-6a55-5d3a-9a53-0c3f4f5f8b11")


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """
    A validated review to index.

    Attributes:
        point: Its key in the engine, a UUID derived from the restaurant's and the review's id.
        restaurant: The restaurant's id as text, to filter by; ids 1 and "1" are the same.
        restaurant_id: The restaurant's id in its original type.
        review_id: The review's id in its original type, or one derived from its text.
        content: The text; may be blank.
        category: The restaurant's category as text, to filter by; None if unknown.
    """

    point: str
    restaurant: str
    restaurant_id: ItemId
    review_id: ItemId
    content: str
    category: str | None = None


@dataclass(frozen=True, slots=True)
class IndexReport:
    """
    The result of `index_reviews`.

    Attributes:
        reviews: Number of reviews written, including those that replaced an indexed review.
        blank: Number of reviews skipped because they have no text.
    """

    reviews: int
    blank: int


@dataclass(frozen=True, slots=True)
class IndexBatch:
    """
    Reviews to embed and write together.

    Attributes:
        entries: The reviews, each key once.
        done: Totals including this batch.
    """

    entries: tuple[IndexEntry, ...]
    done: IndexReport


def read_batches(reviews: Iterable[Review | Mapping[str, Any]], size: int) -> Iterator[IndexBatch]:
    """
    Validate reviews, a batch at a time.

    Args:
        reviews: Reviews as for `read_reviews`.
        size: Reviews per batch.

    Raises:
        ConfigurationError: At once if the size is invalid; from the iterator if a review is.
    """
    if not is_whole(size, 1):
        raise ConfigurationError(f"batch_size must be 1 or more, got {size!r}; for example batch_size=256")
    return _batches(read_reviews(reviews), size)


def _batches(entries: Iterator[IndexEntry], size: int) -> Iterator[IndexBatch]:
    written = blank = 0
    while batch := list(islice(entries, size)):
        useful = [entry for entry in batch if entry.content.strip()]
        blank += len(batch) - len(useful)
        written += len(useful)
        # The last of equal keys wins, as it does across batches.
        unique = {entry.point: entry for entry in useful}
        yield IndexBatch(tuple(unique.values()), IndexReport(written, blank))


def read_reviews(reviews: Iterable[Review | Mapping[str, Any]]) -> Iterator[IndexEntry]:
    """
    Validate reviews one by one.

    Args:
        reviews: Reviews, or mappings with ``restaurant_id``, ``content``, ``review_id`` or ``id``, and
            ``category`` or ``food_category_id``.

    Raises:
        ConfigurationError: If a review is invalid; the message names its position and field.
    """
    for position, review in enumerate(reviews):
        yield _read_review(review, f"reviews[{position}]")


def _read_review(review: Review | Mapping[str, Any], where: str) -> IndexEntry:
    restaurant: Any
    content: Any
    category: Any
    if isinstance(review, Review):
        restaurant, content, own_id, category = (
            review.restaurant_id,
            review.content,
            review.id,
            review.category,
        )
    elif isinstance(review, Mapping):
        restaurant, content, own_id, category = _fields(review)
    else:
        raise ConfigurationError(
            f"{where} must be a Review or a mapping such as "
            f'{{"restaurant_id": 1, "id": 7, "content": "..."}}, got {type(review).__name__}'
        )
    if restaurant is None:
        raise ConfigurationError(f'{where}.restaurant_id is missing; for example 1 or "mapo-3"')
    if not isinstance(content, str):
        raise ConfigurationError(f"{where}.content must be text, got {type(content).__name__}")
    restaurant_id = read_id(restaurant, f"{where}.restaurant_id")
    text = _replace_surrogates(content)
    review_id = _derived_id(text) if own_id is None else read_id(own_id, f"{where}.id")
    point = _point_key(restaurant_id, review_id)
    return IndexEntry(
        point,
        str(restaurant_id),
        restaurant_id,
        review_id,
        text,
        _read_category(category, f"{where}.category"),
    )


def _fields(review: Mapping[str, Any]) -> tuple[Any, Any, Any, Any]:
    # None is the same as a missing key; 0 is a valid id.
    review_id = review.get("review_id")
    category = review.get("category")
    return (
        review.get("restaurant_id"),
        review.get("content"),
        review.get("id") if review_id is None else review_id,
        review.get("food_category_id") if category is None else category,
    )


def _read_category(value: object, where: str) -> str | None:
    # In tables, an unknown category is an empty cell.
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    return str(read_id(value, where))


def _replace_surrogates(content: str) -> str:
    # A review that was truncated in UTF-16 may end in half an emoji, which engines cannot store.
    try:
        content.encode()
    except UnicodeEncodeError:
        return content.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return content


def _derived_id(content: str) -> str:
    return "content-" + blake2b(content.encode(), digest_size=8).hexdigest()


def _point_key(restaurant_id: ItemId, review_id: ItemId) -> str:
    restaurant = str(restaurant_id)
    # The length prefix distinguishes ("a:b", "c") from ("a", "b:c"). As str(uuid5(...)), without its object.
    name = f"{len(restaurant)}:{restaurant}:{review_id}".encode()
    digits = sha1(_NAMESPACE.bytes + name, usedforsecurity=False).hexdigest()
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-5{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:32]}"


# Engines convert larger integers to floats, which would merge different ids.
_INT64 = range(-(2**63), 2**63)


def read_id(value: object, where: str) -> ItemId:
    """
    Return an id as a plain int or str.

    Args:
        value: The id; integers of any type are accepted, such as numpy's, but not True and False.
        where: The field's name in messages.

    Raises:
        ConfigurationError: If it is neither an integer nor valid text, or does not fit 64 bits.
    """
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ConfigurationError(f"{where} is not valid text: {value!r}") from None
        return str(value)
    try:
        number = None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None:
        raise ConfigurationError(f"{where} must be an integer or a string, got {value!r}")
    if number not in _INT64:
        raise ConfigurationError(f"{where} does not fit 64 bits; use a string, for example {str(number)!r}")
    return number


def as_number(value: ItemId) -> int | None:
    """Return an id as an int if it is one, or is its canonical decimal form; otherwise None."""
    if isinstance(value, int):
        return value
    digits = value.removeprefix("-")
    if not digits.isascii() or not digits.isdigit() or len(value) > 20:
        return None
    number = int(value)
    return number if str(number) == value and number in _INT64 else None


def id_order(item: ItemId) -> tuple[int, int, str]:
    """Return a sort key for ids of either type: integers by value, then strings."""
    return (0, item, "") if isinstance(item, int) else (1, 0, item)
