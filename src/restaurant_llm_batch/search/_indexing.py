"""Reviews at the door of a search backend: checked, named, and given a lasting key."""

from __future__ import annotations

import operator
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from typing import Any

from ..errors import ConfigurationError
from ..models import ItemId, Review

_NAMESPACE = uuid.UUID("6f1c2f0e-6a55-5d3a-9a53-0c3f4f5f8b11")


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """
    A review ready to be indexed.

    Attributes:
        point: Its key: the same restaurant and review id always give the same one.
        restaurant: The restaurant as a search filters by it; ids 1 and "1" are the same.
        restaurant_id: The restaurant as it was given.
        review_id: The review's id as it was given, or one derived from its text.
        content: The text; blank for a review that has none.
        category: The restaurant's kind of food, as a search filters by it; None where it is not known.
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
    What `index_reviews` did.

    Attributes:
        reviews: Reviews written; one of an id that was there before replaced it.
        blank: Reviews left out because there is no text in them.
    """

    reviews: int
    blank: int


@dataclass(frozen=True, slots=True)
class IndexBatch:
    """
    Reviews to be embedded and written together.

    Attributes:
        entries: Those to write, each key once.
        done: What is done so far once they are written.
    """

    entries: tuple[IndexEntry, ...]
    done: IndexReport


def read_batches(reviews: Iterable[Review | Mapping[str, Any]], size: int) -> Iterator[IndexBatch]:
    """
    Check reviews, a batch at a time.

    Args:
        reviews: As `read_reviews` takes them.
        size: Reviews read for one batch.

    Raises:
        ConfigurationError: The size, at once; a review, when its batch is asked for.
    """
    if type(size) is not int or size < 1:
        raise ConfigurationError(f"batch_size must be 1 or more, not {size!r}")
    return _batches(read_reviews(reviews), size)


def _batches(entries: Iterator[IndexEntry], size: int) -> Iterator[IndexBatch]:
    written = blank = 0
    while batch := list(islice(entries, size)):
        useful = [entry for entry in batch if entry.content.strip()]
        blank += len(batch) - len(useful)
        written += len(useful)
        # The last of equal keys counts, here as between batches.
        unique = {entry.point: entry for entry in useful}
        yield IndexBatch(tuple(unique.values()), IndexReport(written, blank))


def read_reviews(reviews: Iterable[Review | Mapping[str, Any]]) -> Iterator[IndexEntry]:
    """
    Check reviews one by one.

    Args:
        reviews: Reviews, or mappings with ``restaurant_id``, ``content``, ``review_id`` or ``id``, and
            ``category`` or ``food_category_id``.

    Raises:
        ConfigurationError: A review cannot be used; names its position and field.
    """
    for position, review in enumerate(reviews):
        yield _read(review, f"reviews[{position}]")


def _read(review: Review | Mapping[str, Any], where: str) -> IndexEntry:
    restaurant: Any
    content: Any
    kind: Any
    if isinstance(review, Review):
        restaurant, content, given, kind = review.restaurant_id, review.content, review.id, review.category
    elif isinstance(review, Mapping):
        restaurant, content, given, kind = _fields(review)
    else:
        raise ConfigurationError(
            f"{where} must be a Review or a mapping such as "
            f'{{"restaurant_id": 1, "id": 7, "content": "..."}}, got {type(review).__name__}'
        )
    if restaurant is None:
        raise ConfigurationError(f"{where}.restaurant_id is missing: name the restaurant")
    if not isinstance(content, str):
        raise ConfigurationError(f"{where}.content must be text, got {type(content).__name__}")
    restaurant_id = read_id(restaurant, f"{where}.restaurant_id")
    text = _whole(content)
    review_id = _derived_id(text) if given is None else read_id(given, f"{where}.id")
    category = _category(kind, f"{where}.category")
    point = _point(restaurant_id, review_id)
    return IndexEntry(point, str(restaurant_id), restaurant_id, review_id, text, category)


def _fields(review: Mapping[str, Any]) -> tuple[Any, Any, Any, Any]:
    # An explicit None means the same as a missing key, and 0 is an id.
    name = review.get("review_id")
    category = review.get("category")
    return (
        review.get("restaurant_id"),
        review.get("content"),
        review.get("id") if name is None else name,
        review.get("food_category_id") if category is None else category,
    )


def _category(value: object, where: str) -> str | None:
    # Tables write what is not known as an empty text.
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    return str(read_id(value, where))


def _whole(content: str) -> str:
    # Reviews cut at a fixed length may end in half an emoji, which no engine stores.
    if content.isascii():
        return content
    return content.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _derived_id(content: str) -> str:
    return "content-" + blake2b(content.encode(), digest_size=8).hexdigest()


def _point(restaurant_id: ItemId, review_id: ItemId) -> str:
    restaurant = str(restaurant_id)
    # The length keeps ("a:b", "c") apart from ("a", "b:c").
    return str(uuid.uuid5(_NAMESPACE, f"{len(restaurant)}:{restaurant}:{review_id}"))


# The engines turn larger integers into floats, which would make different ids one.
_INT64 = range(-(2**63), 2**63)


def read_id(value: object, where: str) -> ItemId:
    """
    Return an id as a plain integer or string.

    Args:
        value: What was given; integers of any kind count, numpy's too, but no truth values.
        where: How to call it in an error.

    Raises:
        ConfigurationError: It is neither, or does not fit.
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
        raise ConfigurationError(f"{where} does not fit 64 bits: write it as a string, {str(number)!r}")
    return number


def as_number(value: ItemId) -> int | None:
    """Return an id as an integer if it is one, or a string that is written exactly like one."""
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
