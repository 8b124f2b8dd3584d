"""Rows as reviews: a review a row, or a restaurant with its reviews; names, categories and polarity of both."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from ..errors import ConfigurationError
from ..models import ItemId, Review
from .cells import as_text, cell_id, plain, text_content
from .columns import TableForm, missing_columns, renamed
from .polarity import POLARITY_FIELDS, Polarity, lenient_polarity
from .table import FileError, ItemTable, RowSource, Table

SHAPES = (
    'each line must be one whole object, for example {"restaurant_id": 1, "review_id": 7, "content": "..."} '
    'or {"restaurant_id": 1, "name": "...", "reviews": [{"review_id": 7, "content": "..."}]}'
)
_TABLE_SHAPE = "a table needs the columns restaurant_id and content, and may have review_id, name, category"
CATEGORY_FIELDS = ("category", "food_category_id", "cuisine")
"""Names of the field for a restaurant's kind of food, in order of precedence; the last is that of open data."""
_NAME_FIELDS = ("restaurant_name", "name")
_POLARITY_LISTS = ("positive_reviews", "negative_reviews")
_LISTS = ("reviews", *_POLARITY_LISTS)
FIELDS = frozenset(
    (
        "restaurant_id",
        "review_id",
        "id",
        "content",
        *_NAME_FIELDS,
        *CATEGORY_FIELDS,
        *_LISTS,
        *POLARITY_FIELDS,
    )
)
"""Columns that are read."""


class ReviewTable(Table[Review]):
    """
    The reviews of a table, read one by one.

    A row is a review, or a restaurant with its ``reviews`` (or ``positive_reviews`` and ``negative_reviews``). It may
    name the restaurant's kind of food as ``category``, ``food_category_id`` or ``cuisine``; a review in it may override
    that. A review whose text is missing has the content "".

    Attributes:
        line: Number of the row read last: its line in a file of text, from 1.
        skipped: Number of rows, and of reviews in them, left out so far.
        skipped_rows: The first 20 of them.
        restaurants: Ids of the restaurants read so far, by id as a string, in order of appearance.
        names: Names of the restaurants read so far, by id as a string.
        categories: The first category of each restaurant, by id as a string.
    """

    def __init__(self, source: RowSource, form: TableForm, polarity: Polarity | None = None) -> None:
        super().__init__(source, form)
        self.names: dict[str, str] = {}
        self.restaurants: dict[str, ItemId] = {}
        self.categories: dict[str, ItemId] = {}
        self._polarity = polarity
        self._has_polarity = False
        self._first_unknown: FileError | None = None
        source.wanted = self._wanted

    def _wanted(self, names: Any) -> list[str]:
        given = self.form.columns or {}
        found = [name for name in names if name in FIELDS or name in given.values()]
        # All of them if one is missing: the first row tells which it may be.
        is_complete = {"restaurant_id", "content"} <= {*found, *given} or not {*_LISTS}.isdisjoint(found)
        return found if is_complete else names

    def _check(self, row: Any) -> None:
        super()._check(row)
        if self._polarity is not None:
            self._polarity = replace(self._polarity, advice=self.form.advice, of_texts=self.source.of_texts)
        columns = self.source.columns
        if not self.source.is_table or columns is None or not isinstance(row, dict):
            return
        row = renamed(row, self.form.columns)
        names = [*dict.fromkeys([*(self.form.columns or {}), *columns])]
        needed = ["restaurant_id", *(["content"] if row.keys().isdisjoint(_LISTS) else [])]
        if not row.keys() >= {*needed}:
            raise FileError(f"{self.label}: {missing_columns(needed, names, row, self.form.advice)}")
        self.say_ignored(FIELDS if self._polarity else FIELDS - {*POLARITY_FIELDS})

    def _end(self) -> None:
        super()._end()
        if not self.restaurants and self.skipped:
            first = self.skipped_rows[0]
            raise FileError(
                f"{self.label}: none of its {self.skipped:,} rows can be used; the first, "
                f"{self.source.unit} {first.line}: {first.reason}"
            )
        if not self.restaurants and not self.form.may_be_empty:
            raise FileError(f"{self.label} is empty; {_TABLE_SHAPE if self.source.is_table else SHAPES}")
        # Only known at the end of the table; the error names the first row without a polarity.
        if self._first_unknown is not None and not self._has_polarity:
            raise self._first_unknown

    def _converted(self, row: Any) -> Iterator[Review | ConfigurationError]:
        if not isinstance(row, dict):
            yield ConfigurationError(f"{type_name(row)}, not an object; {SHAPES}")
            return
        try:
            yield from self._reviews(renamed(row, self.form.columns))
        except ConfigurationError as error:
            yield error

    def _reviews(self, record: dict[str, Any]) -> Iterator[Review | ConfigurationError]:
        restaurant_id = self._restaurant(record)
        lists = [(name, self._listed(record, name)) for name in _LISTS if self._is_given(record, name)]
        category = self._category(record, "")
        if not lists:
            yield self._review(record, restaurant_id, "", category)
            return
        for name, reviews in lists:
            for position, review in enumerate(reviews):
                try:
                    yield self._listed_review(name, position, review, restaurant_id, category)
                except ConfigurationError as error:
                    yield error

    def _restaurant(self, record: dict[str, Any]) -> ItemId:
        restaurant_id = self._id(record, "restaurant_id", "")
        if restaurant_id is None:
            raise ConfigurationError(f"restaurant_id is missing{self._shape(record, 'restaurant_id')}")
        key = str(restaurant_id)
        self.restaurants.setdefault(key, restaurant_id)
        if key not in self.names:
            for field in _NAME_FIELDS:
                name = record.get(field)
                if isinstance(name, str) and name.strip():
                    self.names[key] = name.strip()
                    break
        return restaurant_id

    def _shape(self, record: Mapping[str, Any], field: str) -> str:
        if field in record:
            return ""
        columns = self.form.columns or {}
        if field in columns:
            return f": there is no {columns[field]!r} in it"
        guess = missing_columns([field], [*record], record, self.form.advice).partition("; did you mean ")[2]
        return f"; did you mean {guess}" if guess else f"; {SHAPES}"

    def _is_given(self, record: Mapping[str, Any], name: str) -> bool:
        value = record.get(name)
        if name in _POLARITY_LISTS:
            return name in record and plain(value) is not None
        return name in record and not ("content" in record and (value is None or value == ""))

    def _listed(self, record: Mapping[str, Any], name: str) -> list[Any]:
        value = record[name]
        if self.source.of_texts and isinstance(value, str):
            value = of_json(value)
        elif self.source.is_foreign or self.source.is_table:
            value = plain(value)
        if isinstance(value, list):
            return value
        if value is None and self.source.is_table:
            return []
        if isinstance(value, str) and self.source.is_table:
            advice = self.form.advice.columns({"content": name})
            raise ConfigurationError(f"{name} must be a list, got text; for a review a row: {advice}")
        raise ConfigurationError(f"{name} must be a list, got {type_name(value)}")

    def _listed_review(
        self, name: str, position: int, review: Any, restaurant_id: ItemId, category: ItemId | None
    ) -> Review:
        where = f"{name}[{position}]"
        is_sorted = name in _POLARITY_LISTS
        if isinstance(review, str) and (is_sorted or self.source.is_table):
            review = {"content": review}
        if not isinstance(review, dict):
            raise ConfigurationError(
                f'{where} must be an object, got {type_name(review)}; for example {{"content": "..."}}'
            )
        if not is_sorted:
            return self._review(renamed(review, self.form.columns), restaurant_id, f"{where}.", category)
        found = self._text_and_id(renamed(review, self.form.columns), restaurant_id, f"{where}.", category)
        self._has_polarity = True
        return replace(found, is_recommended=name == _POLARITY_LISTS[0])

    def _review(
        self, record: dict[str, Any], restaurant_id: ItemId, prefix: str, category: ItemId | None
    ) -> Review:
        """Convert a record; `prefix` is the path of the record in its row, for error messages."""
        review = self._text_and_id(record, restaurant_id, prefix, category)
        if self._polarity is None:
            if record.keys().isdisjoint(POLARITY_FIELDS):
                return review
            return replace(review, is_recommended=lenient_polarity(record, of_texts=self.source.of_texts))
        is_known, recommended = self._polarity.read(record, prefix)
        self._has_polarity = self._has_polarity or is_known
        if not is_known and self._first_unknown is None:
            self._first_unknown = self.file_error(
                f"nothing says which reviews are positive; for example {self._polarity.example}"
            )
        return replace(review, is_recommended=recommended)

    def _text_and_id(
        self, record: dict[str, Any], restaurant_id: ItemId, prefix: str, category: ItemId | None
    ) -> Review:
        content = self._content(record, prefix)
        review_id = self._id(record, "review_id", prefix)
        if review_id is None:
            review_id = self._id(record, "id", prefix)
        own = self._category(record, prefix) if prefix else None
        category = category if own is None else own
        if category is not None:
            self.categories.setdefault(str(restaurant_id), category)
        return Review(content, review_id, restaurant_id, category=category)

    def _content(self, record: Mapping[str, Any], prefix: str) -> str:
        content = record.get("content")
        if type(content) is str:
            return text_content(content) if self.source.of_texts else content
        if "content" not in record:
            shape = self._shape(record, "content")
            example = shape if "did you mean" in shape or "there is no" in shape else ""
            raise ConfigurationError(
                f"{prefix}content is missing"
                + (example or '; for example "content": "the text of the review"')
            )
        content = as_text(plain(content))
        if content is None:
            return ""
        if isinstance(content, (int, float)) and not isinstance(content, bool) and self.source.is_table:
            return f"{content:.15g}"  # a workbook holds the review "10" as a number
        if not isinstance(content, str):
            raise ConfigurationError(f"{prefix}content must be text, got {type_name(content)}")
        return content

    def _category(self, record: Mapping[str, Any], prefix: str) -> ItemId | None:
        for field in CATEGORY_FIELDS:
            value = record.get(field)
            if value is None or (isinstance(value, str) and not value.strip()):
                continue
            # "cuisine" comes from files that were not written for this program: ignore values of other types there.
            if field != "cuisine" or type(value) in (int, str):
                found = self._id(record, field, prefix)
                if found is not None:
                    return found
        return None

    def _id(self, record: Mapping[str, Any], field: str, prefix: str) -> ItemId | None:
        value = record.get(field)
        if value is None:
            return None
        return cell_id(value, f"{prefix}{field}", of_texts=self.source.of_texts)


def reviews_of(table: ItemTable, polarity: Polarity | None = None, **columns: str) -> ReviewTable:
    """
    Return the reviews of a table of which nothing was read, or only its first row.

    Args:
        table: The table.
        polarity: How to read whether they are positive; None not to.
        columns: Names that columns may have besides.
    """
    first = table.first() if columns else None
    if isinstance(first, dict):
        missing = {field: name for field, name in columns.items() if name in first and field not in first}
        form = replace(table.form, columns={**missing, **(table.form.columns or {})})
        return ReviewTable(table.source, form, polarity)
    return ReviewTable(table.source, table.form, polarity)


def type_name(value: object) -> str:
    """Return the name of a JSON value's type."""
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    names |= {int: "a number", float: "a number"}
    return names.get(type(value), type(value).__name__)


def of_json(text: Any) -> Any:
    """Return the list in a cell of a table of texts that holds one as JSON, or the cell."""
    if not isinstance(text, str):
        return text
    try:
        return json.loads(text) if text.lstrip().startswith("[") else text
    except (ValueError, RecursionError):
        return text
