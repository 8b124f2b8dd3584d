"""Rows of a table as items of the built-in tasks: known columns only, and single reviews together by restaurant."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

from .._rows.columns import missing_columns
from .._rows.polarity import Polarity
from .._rows.review_rows import ReviewTable, of_json, reviews_of
from .._rows.table import FileError, ItemTable
from ..errors import ConfigurationError
from ..models import ItemId, RestaurantRef, Review

_LISTS = ("reviews", "positive_reviews", "negative_reviews")
_LIST_FIELDS = frozenset(("chunks", "target_reviews", "comparison_reviews"))


def has_reviews(table: ItemTable, *more: str) -> bool:
    """Return whether the rows of a table are reviews, or restaurants with their reviews, by the first row's columns."""
    row = table.first()
    return isinstance(row, dict) and not row.keys().isdisjoint(("content", *_LISTS, *more))


def grouped(
    table: ItemTable, polarity: Polarity | None = None, **columns: str
) -> Iterator[tuple[ItemId, Sequence[Review]]]:
    """
    Yield each restaurant of a table of reviews with all its reviews, in the order of first appearance.

    Args:
        table: The table, of which all is read before the first restaurant.
        polarity: How to read whether reviews are positive; None not to.
        columns: Names that columns may have besides.
    """
    reviews = reviews_of(table, polarity, **columns)
    found: dict[str, list[Review]] = {}
    for review in _counted(reviews, table):
        found.setdefault(str(review.restaurant_id), []).append(review)
    for key, restaurant_id in reviews.restaurants.items():
        yield restaurant_id, found.get(key, [])


def _counted(reviews: ReviewTable, table: ItemTable) -> Iterator[Review]:
    """Yield the reviews; the table that the user has counts what was left out."""
    yield from reviews
    table.skipped, table.skipped_rows = reviews.skipped, reviews.skipped_rows


def restaurants(table: ItemTable, id_field: str = "restaurant_id") -> Iterator[dict[str, Any]]:
    """Yield the restaurants of a table of reviews, each once, for a task that searches."""
    reviews = reviews_of(table)
    for _ in _counted(reviews, table):
        pass
    # Without their categories: what is searched may not have them.
    yield from ({id_field: restaurant_id} for restaurant_id in reviews.restaurants.values())


def rows_as_items(
    table: ItemTable,
    item: type,
    parse: Callable[[Any], Any],
    key: Callable[[Any], tuple[ItemId, int]],
    **others: str,
) -> Iterator[Any]:
    """
    Yield the rows of a table as items, each id once; other columns are left out.

    Args:
        table: The table.
        item: The class of the items, whose fields are the columns.
        parse: Validates an item.
        key: Returns its id.
        others: Columns that stand for a field if that is not there.
    """
    known = [field.name for field in fields(item)]
    lines: dict[ItemId, int] = {}
    for row in table.rows_and_errors():
        try:
            if isinstance(row, ConfigurationError):
                raise row
            if not lines and isinstance(row, dict):
                _check(table, row, known, others)
            parsed = parse(_known(row, known, others, of_texts=table.source.of_texts))
            item_id, _ = key(parsed)
            if item_id in lines:
                raise ConfigurationError(
                    f"duplicate id {item_id!r}, already {table.source.unit} {lines[item_id]}; give each item once, "
                    f"or leave the others out with {table.form.advice.skip}"
                )
        except FileError:
            raise
        except ConfigurationError as error:
            table.bad_row(error)
            continue
        lines[item_id] = table.line
        yield parsed


def restaurants_or_items(
    table: ItemTable, parse: Callable[[Any], Any], key: Callable[[Any], tuple[ItemId, int]]
) -> Iterator[Any]:
    """Return the restaurants of a table of reviews, or the rows of any other as `RestaurantRef` items."""
    return restaurants(table) if has_reviews(table) else rows_as_items(table, RestaurantRef, parse, key)


def _check(table: ItemTable, row: dict[str, Any], known: Sequence[str], others: Mapping[str, str]) -> None:
    """Check that a table has a column for the id, and say which of its columns are not read."""
    id_field = known[0]
    if table.source.is_table and row.keys().isdisjoint(
        (id_field, *(name for name in others if others[name] == id_field))
    ):
        raise FileError(f"{table.label}: {missing_columns([id_field], [*row], row, table.form.advice)}")
    table.say_ignored([*known, *others])


def _known(row: Any, known: Sequence[str], others: Mapping[str, str], *, of_texts: bool) -> Any:
    if not isinstance(row, dict):
        return row
    found = {name: value for name, value in row.items() if name in known and value is not None}
    for name, field in others.items():
        if row.get(name) is not None:
            found.setdefault(field, row[name])
    if of_texts:
        for name in _LIST_FIELDS & found.keys():
            found[name] = of_json(found[name])
    return found
