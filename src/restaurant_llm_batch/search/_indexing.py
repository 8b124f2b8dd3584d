"""Review indexing: validate reviews, normalize, compare and order their ids, derive point keys, and make batches."""

from __future__ import annotations

import logging
import operator
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b, sha1
from itertools import islice
from typing import Any, Literal, TypeAlias
from unicodedata import normalize

from .._validation import is_whole
from .._values import composed
from ..errors import BackendError, ConfigurationError
from ..models import ItemId, Review

log = logging.getLogger("restaurant_llm_batch.search")

BadRows: TypeAlias = Literal["refuse", "skip"]
"""What becomes of a row that is not a valid review: an error, or a `IndexFailure` in the report."""

_MAX_FAILURES = 1_000
_NAMESPACE = uuid.UUID("6f1c2f0e-6a55-5d3a-9a53-0c3f4f5f8b11")
_NAMESPACE_BYTES = _NAMESPACE.bytes


@dataclass(
    slots=True
)  # not frozen: a frozen one takes three times as long to make, and an indexing makes millions
class IndexEntry:
    """
    A validated review to index.

    Attributes:
        point: Its key in the engine, a UUID derived from the restaurant's and the review's id.
        restaurant: The restaurant's id as text, to filter by; see `id_text`.
        restaurant_id: The restaurant's id in its original type.
        review_id: The review's id in its original type, or one derived from its text.
        content: The text; may be blank.
        category: The restaurant's category as text, to filter by; None if unknown.
        position: Its position among the reviews to index, from 0.
    """

    point: str
    restaurant: str
    restaurant_id: ItemId
    review_id: ItemId
    content: str
    category: str | None = None
    position: int = 0


@dataclass(frozen=True, slots=True)
class IndexFailure:
    """
    A review that could not be indexed.

    Attributes:
        restaurant_id: The restaurant's id; None if the row has no valid one.
        review_id: The review's id, or the one derived from its text; None if the row is invalid.
        position: Its position among the reviews, from 0.
        reason: Why it was left out.
    """

    restaurant_id: ItemId | None
    review_id: ItemId | None
    position: int
    reason: str


@dataclass(frozen=True, slots=True)
class IndexReport:
    """
    The result of `index_reviews`.

    Attributes:
        reviews: Number of reviews written, including those that replaced an indexed review.
        blank: Number of reviews skipped because they have no text.
        failed: Number of reviews left out because they could not be embedded, or were invalid and skipped.
        failures: The first 1,000 of these, by name.
        replaced: Number of reviews whose place another one took at once, with the same restaurant and id but another
            text. Counted within each batch; such an id is hardly one of reviews.
    """

    reviews: int
    blank: int
    failed: int = 0
    failures: tuple[IndexFailure, ...] = ()
    replaced: int = 0


class IndexTally:
    """Totals of an indexing that goes on."""

    def __init__(self) -> None:
        self._reviews = self._blank = self._failed = self._replaced = 0
        self._failures: list[IndexFailure] = []

    @property
    def reviews(self) -> int:
        """Number of reviews written so far."""
        return self._reviews

    def add(self, batch: IndexBatch, failures: Sequence[IndexFailure]) -> None:
        """Count a batch that was written, except for the entries that failed."""
        self._reviews += batch.useful - len(failures)
        self._blank += batch.blank
        if batch.replaced and not self._replaced:
            log.warning(
                "%d of the first %d reviews have the restaurant and id of another one with another text, which "
                "replaces them: are these the ids of the reviews? The report counts the rest",
                batch.replaced,
                self._reviews,
            )
        self._replaced += batch.replaced
        self._failed += len(batch.invalid) + len(failures)
        for failure in (*batch.invalid, *failures):
            log.warning(
                "reviews[%d] was not indexed: review %r of restaurant %r: %s",
                failure.position,
                failure.review_id,
                failure.restaurant_id,
                failure.reason,
            )
            if len(self._failures) < _MAX_FAILURES:
                self._failures.append(failure)

    def report(self) -> IndexReport:
        """Return the totals."""
        return IndexReport(self._reviews, self._blank, self._failed, tuple(self._failures), self._replaced)

    def annotate(self, error: Exception) -> None:
        """Add to the message of a backend's error how many reviews are indexed already."""
        if self._reviews and isinstance(error, BackendError):
            kept = f"{self._reviews:,} reviews were indexed before, and are kept: indexing again continues safely"
            error.args = (f"{error} ({kept})",)


@dataclass(frozen=True, slots=True)
class IndexBatch:
    """
    Reviews to embed and write together.

    Attributes:
        entries: The reviews with text, each key once.
        useful: Number of reviews with text, equal keys included.
        blank: Number of reviews without text.
        invalid: The rows that are no reviews, if these are skipped.
        replaced: Number of reviews with text whose key another one has, with another text.
    """

    entries: tuple[IndexEntry, ...]
    useful: int
    blank: int
    invalid: tuple[IndexFailure, ...] = ()
    replaced: int = 0


def read_batches(
    reviews: Iterable[Review | Mapping[str, Any]], size: int, bad_rows: BadRows = "refuse"
) -> Iterator[IndexBatch]:
    """
    Validate reviews, a batch at a time.

    Args:
        reviews: Reviews as for `read_reviews`.
        size: Reviews per batch.
        bad_rows: What becomes of a row that is not a valid review.

    Raises:
        ConfigurationError: At once if the size or `bad_rows` is invalid; from the iterator if a review is.
    """
    if not is_whole(size, 1):
        raise ConfigurationError(f"batch_size must be 1 or more, got {size!r}; for example batch_size=256")
    if bad_rows not in ("refuse", "skip"):
        raise ConfigurationError(f'bad_rows must be "refuse" or "skip", got {bad_rows!r}')
    rows = _rows_of(reviews)
    return _batches(read_reviews(rows) if bad_rows == "refuse" else _valid_reviews(rows), size)


def _rows_of(reviews: Iterable[Any]) -> Iterable[Any]:
    """Return reviews row by row: those of a data frame too, where bad rows are the errors that say why."""
    if type(reviews) is list or type(reviews) is tuple:
        return reviews
    from .._rows.review_rows import reviews_of
    from .._rows.table import as_table

    table = as_table(reviews)
    return reviews if table is None else reviews_of(table).rows_and_errors()


def _batches(rows: Iterator[IndexEntry | IndexFailure], size: int) -> Iterator[IndexBatch]:
    while batch := list(islice(rows, size)):
        entries = [row for row in batch if isinstance(row, IndexEntry)]
        useful = [entry for entry in entries if entry.content.strip()]
        # The last of equal keys wins, as it does across batches.
        unique = {entry.point: entry for entry in useful}
        invalid = tuple(row for row in batch if isinstance(row, IndexFailure))
        replaced = 0
        if len(unique) < len(useful):
            replaced = sum(unique[entry.point].content != entry.content for entry in useful)
        yield IndexBatch(tuple(unique.values()), len(useful), len(entries) - len(useful), invalid, replaced)


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
        yield _read_review(review, position)


def _valid_reviews(reviews: Iterable[Review | Mapping[str, Any]]) -> Iterator[IndexEntry | IndexFailure]:
    for position, review in enumerate(reviews):
        try:
            yield _read_review(review, position)
        except ConfigurationError as error:
            yield IndexFailure(None, None, position, str(error))


def _read_review(review: Review | Mapping[str, Any], position: int) -> IndexEntry:
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
    elif type(review) is dict or isinstance(review, Mapping):
        restaurant, content, own_id, category = _fields(review)
    elif isinstance(review, ConfigurationError):
        raise ConfigurationError(f"{_where(position)}: {review}")
    else:
        raise ConfigurationError(
            f"{_where(position)} must be a Review or a mapping such as "
            f'{{"restaurant_id": 1, "id": 7, "content": "..."}}, got {type(review).__name__}'
        )
    if restaurant is None:
        raise ConfigurationError(f'{_where(position)}.restaurant_id is missing; for example 1 or "mapo-3"')
    if not isinstance(content, str):
        raise ConfigurationError(f"{_where(position)}.content must be text, got {type(content).__name__}")
    restaurant_id = _read_id_at(restaurant, position, "restaurant_id")
    text = _replace_surrogates(content)
    review_id = _derived_id(text) if own_id is None else _read_id_at(own_id, position, "id")
    known = id_text(restaurant_id)
    key = _key_of(known, id_text(review_id))
    return IndexEntry(
        key, known, restaurant_id, review_id, text, _read_category(category, position), position
    )


def _where(position: int) -> str:
    return f"reviews[{position}]"


def _read_id_at(value: object, position: int, field: str) -> ItemId:
    """Return an id as `read_id` does; nearly all are plain ones, of which no message is needed."""
    if (type(value) is int and _MIN_INT64 <= value <= _MAX_INT64) or (type(value) is str and value.isascii()):
        return value
    return read_id(value, f"{_where(position)}.{field}")


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


def _read_category(value: object, position: int) -> str | None:
    # In tables, an unknown category is an empty cell.
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    return id_text(_read_id_at(value, position, "category"))


def _replace_surrogates(content: str) -> str:
    # A review that was truncated in UTF-16 may end in half an emoji, which engines cannot store.
    try:
        content.encode()
    except UnicodeEncodeError:
        return content.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return content


def _derived_id(content: str) -> str:
    return "content-" + blake2b(content.encode(), digest_size=8).hexdigest()


def id_text(value: ItemId) -> str:
    """Return an id as the text by which ids are compared: 7 and "7" are one, and a text in all Unicode forms is one."""
    return str(value) if isinstance(value, int) else composed(value)


def id_texts(value: ItemId) -> list[str]:
    """Return the texts under which an index may have an id: `id_text`, and what earlier versions stored as it came."""
    text = id_text(value)
    if text.isascii():
        return [text]
    return list(dict.fromkeys([text, normalize("NFD", text), str(value)]))


def point_key(restaurant_id: ItemId, review_id: ItemId) -> str:
    """Return a review's key in the engine, a UUID; ids of the same `id_text` have the same key."""
    return _key_of(id_text(restaurant_id), id_text(review_id))


def former_keys(restaurant_id: ItemId, review_id: ItemId) -> list[str]:
    """Return the other keys under which an earlier version may have stored a review: by ids in decomposed form."""
    restaurants, reviews = id_texts(restaurant_id), id_texts(review_id)
    if len(restaurants) == len(reviews) == 1:  # as nearly always
        return []
    return [_key_of(one, other) for one in restaurants for other in reviews][1:]


def _key_of(restaurant: str, review_id: str) -> str:
    # The length prefix distinguishes ("a:b", "c") from ("a", "b:c"). As str(uuid5(...)), without its object.
    name = f"{len(restaurant)}:{restaurant}:{review_id}".encode()
    digits = sha1(_NAMESPACE_BYTES + name, usedforsecurity=False).hexdigest()
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-5{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:32]}"


# Engines convert larger integers to floats, which would merge different ids.
_MIN_INT64, _MAX_INT64 = -(2**63), 2**63 - 1
_INT64 = range(_MIN_INT64, _MAX_INT64 + 1)


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


def read_ids(values: object, where: str) -> list[ItemId]:
    """
    Return ids as plain ints or strs, each once.

    Args:
        values: The ids.
        where: The argument's name in messages.

    Raises:
        ConfigurationError: If it is no collection, or as `read_id`.
    """
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise ConfigurationError(f"{where} must be a list of ids, got {values!r}; for example [{values!r}]")
    ids = [read_id(value, f"{where}[{i}]") for i, value in enumerate(values)]
    return list({id_text(one): one for one in ids}.values())


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
