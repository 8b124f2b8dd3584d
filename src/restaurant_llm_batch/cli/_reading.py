"""Reading reviews from a JSON Lines file, with the line number in every complaint."""

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
    'write one whole object per line, such as {"restaurant_id": 1, "review_id": 7, "content": "..."} '
    'or {"restaurant_id": 1, "name": "...", "reviews": [{"review_id": 7, "content": "..."}]}'
)
_CATEGORIES = ("category", "food_category_id", "cuisine")
"""What files call a restaurant's kind of food; the last is open data's word for it."""


class FileError(ConfigurationError):
    """A file cannot be used; says where in it."""


class ReviewLines:
    """
    The reviews of a file, read once and line by line.

    A line may name the restaurant's kind of food as ``category``, ``food_category_id`` or ``cuisine``; so may a
    review in it, which then counts.

    Attributes:
        names: Names of restaurants, as far as they were read, by id as a string.
        restaurants: Ids of restaurants as far as they were read, by id as a string, in order of appearance.
        line: Number of the line that was read last, from 1.
        bytes_read: How much of the file that is.
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
                raise self.complaint(f"not UTF-8 text ({error.reason}); save the file as UTF-8") from error
            except ConfigurationError as error:
                raise self.complaint(str(error)) from error

    def complaint(self, text: str) -> FileError:
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
            raise ConfigurationError(f"reviews must be a list, got {_kind(reviews)}")
        category = _category(record, "")
        for position, review in enumerate(reviews):
            if not isinstance(review, dict):
                raise ConfigurationError(f"reviews[{position}] must be an object, got {_kind(review)}")
            yield _review(review, restaurant_id, f"reviews[{position}].", category)


def _parse(text: str) -> dict[str, Any]:
    try:
        record = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigurationError(f"not JSON ({error.msg} at column {error.colno}); {_SHAPES}") from error
    except RecursionError as error:
        raise ConfigurationError(f"nested too deeply; {_SHAPES}") from error
    if not isinstance(record, dict):
        raise ConfigurationError(f"{_kind(record)}, not an object; {_SHAPES}")
    return record


def _review(record: dict[str, Any], restaurant_id: ItemId, where: str, category: ItemId | None) -> Review:
    content = record.get("content")
    if "content" not in record:
        raise ConfigurationError(f'{where}content is missing; write "content": "the text of the review"')
    if not isinstance(content, str):
        raise ConfigurationError(f"{where}content must be text, got {_kind(content)}")
    field = "review_id" if record.get("review_id") is not None else "id"
    review_id = _id(record, field, where) if record.get(field) is not None else None
    own = _category(record, where)
    return Review(content, review_id, restaurant_id, category=category if own is None else own)


def _category(record: dict[str, Any], where: str) -> ItemId | None:
    for field in _CATEGORIES:
        value = record.get(field)
        if value is None or (isinstance(value, str) and not value.strip()):
            continue
        # Who writes "cuisine" did not write it for us, so other kinds of values are no mistake there.
        if field != "cuisine" or type(value) in (int, str):
            return _id(record, field, where)
    return None


def _id(record: dict[str, Any], field: str, where: str) -> ItemId:
    if field not in record:
        raise ConfigurationError(f"{where}{field} is missing; {_SHAPES}")
    item_id = as_item_id(record[field], f"{where}{field}")
    if isinstance(item_id, int) and not -(2**63) <= item_id < 2**63:
        raise ConfigurationError(f'{where}{field} is too large; write it as a string, "{item_id}"')
    return item_id


def _kind(value: object) -> str:
    kinds = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")


_SORTED = ("positive_reviews", "negative_reviews")
_LABELS = {"positive": True, "negative": False, "neutral": None}
_LOWEST, _HIGHEST = 1, 5
_WAYS = (
    '"is_recommended": true or false, "label": "positive" or "negative", or '
    f'"rating": {_LOWEST} to {_HIGHEST} (4 and 5 are positive, 1 and 2 negative, 3 is left out)'
)


class PolarityLines(ReviewLines):
    """
    The reviews of a file, each with `is_recommended`; None where the file says that it is neither, or nothing.

    A review says it by its ``is_recommended``, ``label`` or ``rating``, the first of them that is not null; a
    line by having ``positive_reviews`` and ``negative_reviews``, as the items of `SummarizeReviews` have. Some
    reviews may say nothing, as long as others do.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._told = False
        self._first_silence: FileError | None = None

    def __iter__(self) -> Iterator[Review]:
        yield from super().__iter__()
        if self._first_silence is not None and not self._told:
            raise self._first_silence

    def _reviews(self, record: dict[str, Any]) -> Iterator[Review]:
        if not record.keys().isdisjoint(_SORTED):
            yield from self._sorted(record)
            return
        listed = record.get("reviews")
        records = listed if isinstance(listed, list) else [record]
        found = super()._reviews(record)  # complains of what is no review before its opinion is looked for
        for position, review in enumerate(found):
            where = "" if listed is None else f"reviews[{position}]."
            yield replace(review, is_recommended=self._opinion(records[position], where))

    def _opinion(self, record: Mapping[str, Any], where: str) -> bool | None:
        for field, read in _FIELDS.items():
            value = record.get(field)
            if value is not None:
                self._told = True
                try:
                    return read(value)
                except ValueError as error:
                    raise ConfigurationError(f"{where}{field} must be {error}, got {value!r}") from None
        if self._first_silence is None:
            self._first_silence = self.complaint(f"nothing says which reviews are positive; write {_WAYS}")
        return None

    def _sorted(self, record: dict[str, Any]) -> Iterator[Review]:
        # The part without reviews checks the id, and takes note of the restaurant and its name.
        yield from super()._reviews({**record, "reviews": []})
        given = {name: record[name] for name in ("restaurant_id", *_SORTED) if name in record}
        item = SummarizeReviews().parse_item(given)
        self._told = True
        for reviews, recommended in ((item.positive_reviews, True), (item.negative_reviews, False)):
            for review in reviews:
                yield replace(review, restaurant_id=item.restaurant_id, is_recommended=recommended)


def _recommended(value: Any) -> bool:
    if value in (True, False):  # 1 and 0 too, which databases have for them
        return bool(value)
    raise ValueError("true or false")


def _labelled(value: Any) -> bool | None:
    if isinstance(value, str) and value in _LABELS:
        return _LABELS[value]
    raise ValueError('"positive", "negative" or "neutral"')


def _rated(value: Any) -> bool | None:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not _LOWEST <= value <= _HIGHEST:
        raise ValueError(f"a number from {_LOWEST} to {_HIGHEST}")
    return True if value >= 4 else False if value <= 2 else None


_FIELDS: Mapping[str, Callable[[Any], bool | None]] = {
    "is_recommended": _recommended,
    "label": _labelled,
    "rating": _rated,
}
