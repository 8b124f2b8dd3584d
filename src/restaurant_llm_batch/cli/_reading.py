"""JSON Lines reader for reviews, with the line number in every error message."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from ..errors import ConfigurationError
from ..models import ItemId, Review, as_item_id
from ..tasks.reviews import SummarizeReviews

_SHAPES = (
    'each line must be one whole object, for example {"restaurant_id": 1, "review_id": 7, "content": "..."} '
    'or {"restaurant_id": 1, "name": "...", "reviews": [{"review_id": 7, "content": "..."}]}'
)
_CATEGORY_FIELDS = ("category", "food_category_id", "cuisine")
"""Names of the field for a restaurant's kind of food, in order of precedence; the last is that of open data."""


class FileError(ConfigurationError):
    """A file is invalid; the message names the file and the line."""


class ReviewLines:
    """
    Iterates over the reviews of a file, line by line.

    A line may name the restaurant's kind of food as ``category``, ``food_category_id`` or ``cuisine``; a review
    in it may override that.

    Attributes:
        names: Names of the restaurants read so far, by id as a string.
        restaurants: Ids of the restaurants read so far, by id as a string, in order of appearance.
        line: Number of the line read last, from 1.
        bytes_read: Number of bytes read so far.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.names: dict[str, str] = {}
        self.restaurants: dict[str, ItemId] = {}
        self.line = 0
        self.bytes_read = 0

    def __iter__(self) -> Iterator[Review]:
        try:
            with self._path.open("rb") as file:
                yield from self._read(file)
        except OSError as error:
            raise FileError(f"cannot read {str(self._path)!r}: {error.strerror}") from error
        if not self.restaurants:
            raise FileError(f"{str(self._path)!r} is empty; {_SHAPES}")

    def _read(self, file: IO[bytes]) -> Iterator[Review]:
        for number, raw in enumerate(file, 1):
            self.bytes_read += len(raw)
            self.line = number
            try:
                text = raw.decode("utf-8-sig")
                if text.strip():
                    yield from self._reviews(_parse(text))
            except UnicodeDecodeError as error:
                raise self.file_error(f"not UTF-8 text ({error.reason}); save the file as UTF-8") from error
            except ConfigurationError as error:
                raise self.file_error(str(error)) from error

    def file_error(self, text: str) -> FileError:
        """Return an error about the current line."""
        return FileError(f"{str(self._path)!r}, line {self.line}: {text}")

    def _reviews(self, record: dict[str, Any]) -> Iterator[Review]:
        restaurant_id = _id(record, "restaurant_id", "")
        self.restaurants.setdefault(str(restaurant_id), restaurant_id)
        if "reviews" not in record:
            yield _review(record, restaurant_id, "", None)
            return
        name, reviews = record.get("name"), record["reviews"]
        if isinstance(name, str) and name.strip():
            self.names.setdefault(str(restaurant_id), name.strip())
        if not isinstance(reviews, list):
            raise ConfigurationError(f"reviews must be a list, got {_json_type(reviews)}")
        category = _category(record, "")
        for position, review in enumerate(reviews):
            if not isinstance(review, dict):
                raise ConfigurationError(f"reviews[{position}] must be an object, got {_json_type(review)}")
            yield _review(review, restaurant_id, f"reviews[{position}].", category)


def _parse(text: str) -> dict[str, Any]:
    try:
        record = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigurationError(f"not JSON ({error.msg} at column {error.colno}); {_SHAPES}") from error
    except RecursionError as error:
        raise ConfigurationError(f"nested too deeply; {_SHAPES}") from error
    except ValueError as error:  # Python reads no number of more than 4,300 digits
        raise ConfigurationError(f"a number with thousands of digits; {_SHAPES}") from error
    if not isinstance(record, dict):
        raise ConfigurationError(f"{_json_type(record)}, not an object; {_SHAPES}")
    return record


def _review(record: dict[str, Any], restaurant_id: ItemId, prefix: str, category: ItemId | None) -> Review:
    """Convert a record; `prefix` is the path of the record in its line, for error messages."""
    content = record.get("content")
    if "content" not in record:
        raise ConfigurationError(
            f'{prefix}content is missing; for example "content": "the text of the review"'
        )
    if not isinstance(content, str):
        raise ConfigurationError(f"{prefix}content must be text, got {_json_type(content)}")
    field = "review_id" if record.get("review_id") is not None else "id"
    review_id = _id(record, field, prefix) if record.get(field) is not None else None
    own = _category(record, prefix)
    return Review(content, review_id, restaurant_id, category=category if own is None else own)


def _category(record: dict[str, Any], prefix: str) -> ItemId | None:
    for field in _CATEGORY_FIELDS:
        value = record.get(field)
        if value is None or (isinstance(value, str) and not value.strip()):
            continue
        # "cuisine" comes from files that were not written for this program: ignore values of other types there.
        if field != "cuisine" or type(value) in (int, str):
            return _id(record, field, prefix)
    return None


def _id(record: dict[str, Any], field: str, prefix: str) -> ItemId:
    if field not in record:
        raise ConfigurationError(f"{prefix}{field} is missing; {_SHAPES}")
    item_id = as_item_id(record[field], f"{prefix}{field}")
    if isinstance(item_id, int) and not -(2**63) <= item_id < 2**63:
        raise ConfigurationError(f'{prefix}{field} is too large for an integer; use a string, "{item_id}"')
    return item_id


def _json_type(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


_POLARITY_LISTS = ("positive_reviews", "negative_reviews")
_LABELS = {"positive": True, "negative": False, "neutral": None}
_MIN_RATING, _MAX_RATING = 1, 5
_POLARITY_EXAMPLES = (
    '"is_recommended": true or false, "label": "positive" or "negative", or '
    f'"rating": {_MIN_RATING} to {_MAX_RATING} (4 and 5 are positive, 1 and 2 negative, 3 is left out)'
)


class PolarityLines(ReviewLines):
    """
    Iterates over the reviews of a file, with the polarity as `is_recommended`; None for neutral or unknown.

    The polarity of a review is its ``is_recommended``, ``label`` or ``rating``, the first that is not null. A line may
    also have ``positive_reviews`` and ``negative_reviews``, like the items of `SummarizeReviews`. Reviews without a
    polarity are allowed if any review of the file has one.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._has_polarity = False
        self._first_unknown: FileError | None = None

    def __iter__(self) -> Iterator[Review]:
        yield from super().__iter__()
        # Only known at the end of the file; the error names the first line without a polarity.
        if self._first_unknown is not None and not self._has_polarity:
            raise self._first_unknown

    def _reviews(self, record: dict[str, Any]) -> Iterator[Review]:
        if not record.keys().isdisjoint(_POLARITY_LISTS):
            yield from self._from_polarity_lists(record)
            return
        listed = record.get("reviews")
        records = listed if isinstance(listed, list) else [record]
        reviews = super()._reviews(record)  # validates each record before its polarity is read below
        for position, review in enumerate(reviews):
            prefix = "" if listed is None else f"reviews[{position}]."
            yield replace(review, is_recommended=self._polarity(records[position], prefix))

    def _polarity(self, record: Mapping[str, Any], prefix: str) -> bool | None:
        for field, parse in _POLARITY_FIELDS.items():
            value = record.get(field)
            if value is not None:
                self._has_polarity = True
                try:
                    return parse(value)
                except ValueError as error:
                    raise ConfigurationError(f"{prefix}{field} must be {error}, got {value!r}") from None
        if self._first_unknown is None:
            self._first_unknown = self.file_error(
                f"nothing says which reviews are positive; for example {_POLARITY_EXAMPLES}"
            )
        return None

    def _from_polarity_lists(self, record: dict[str, Any]) -> Iterator[Review]:
        # Without its reviews, so that the base class validates the id and records the restaurant and its name.
        yield from super()._reviews({**record, "reviews": []})
        fields = {name: record[name] for name in ("restaurant_id", *_POLARITY_LISTS) if name in record}
        item = SummarizeReviews().parse_item(fields)
        self._has_polarity = True
        for reviews, recommended in ((item.positive_reviews, True), (item.negative_reviews, False)):
            for review in reviews:
                yield replace(review, restaurant_id=item.restaurant_id, is_recommended=recommended)


def _parse_recommended(value: Any) -> bool:
    if value in (True, False):  # also 1 and 0, as databases export booleans
        return bool(value)
    raise ValueError("true or false")


def _parse_label(value: Any) -> bool | None:
    if isinstance(value, str) and value in _LABELS:
        return _LABELS[value]
    raise ValueError('"positive", "negative" or "neutral"')


def _parse_rating(value: Any) -> bool | None:
    if (
        not isinstance(value, (int, float))
        or isinstance(value, bool)
        or not _MIN_RATING <= value <= _MAX_RATING
    ):
        raise ValueError(f"a number from {_MIN_RATING} to {_MAX_RATING}")
    return True if value >= 4 else False if value <= 2 else None


_POLARITY_FIELDS: Mapping[str, Callable[[Any], bool | None]] = {
    "is_recommended": _parse_recommended,
    "label": _parse_label,
    "rating": _parse_rating,
}
"""Parsers of the polarity's fields, in order of precedence; the text of their `ValueError` says what is expected."""
