"""
Rows of tables: outcomes as flat dicts, a row for each result, aspect, label, word or failure.

A cell holds None, true or false, a number, a text, or a list of these; in the result of a user's own task it may hold
what JSON can. A nested field has a dotted name: no field of a result has a dot, and an aspect may have any name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import fields
from typing import Any, TypeAlias

from .._spent import Spent
from .._text import error_text
from .._values import short
from ..errors import ConfigurationError
from ..results import (
    AspectComparison,
    AspectLift,
    AspectSummary,
    RestaurantSentiment,
    RestaurantStrength,
    RestaurantSummary,
    ReviewSummary,
    Vocabulary,
)
from .columns import Kind
from .levels import Level, check_level
from .plain import plain, plain_error

Row: TypeAlias = dict[str, Any]
Names: TypeAlias = Mapping[Any, str] | None

_FAILURE = ("index", "stage", "error", "message", "attempts")
"""Columns of a failure, after its item."""


def rows_of(outcomes: Iterable[Any], level: object, names: Names = None) -> Iterator[Row]:
    """
    Return the rows of a level.

    Raises:
        ConfigurationError: The level is unknown, is "calls", or the results have none of it; or `names` is no mapping.
    """
    known = check_level(level)
    given: object = names
    if given is not None and not isinstance(given, Mapping):
        raise ConfigurationError(
            f"names must be the names of the items by id, got {short(given)}; for example "
            'names={12: "Corner Bistro"}, or names=dict(zip(frame["restaurant_id"], frame["name"]))'
        )
    if known == "failures":
        return (failure_row(one, names) for one in outcomes if not one.ok)
    return (row for one in outcomes if one.ok for row in success_rows(one, known, names))


def success_rows(success: Any, level: Level, names: Names = None) -> list[Row]:
    """
    Return the rows of a success.

    Raises:
        ConfigurationError: The result has nothing of the level.
    """
    value, item_id = success.value, success.item_id
    if level == "results":
        made = _RESULTS.get(_kind(value))
        own = _own_row(success) if made is None else made(value)
        return [_named(own, item_id, names) | _spent(success)]
    make = _PARTS[level].get(_kind(value))
    if make is None:
        found = [one for one, kinds in _PARTS.items() if _kind(value) in kinds]
        raise ConfigurationError(
            f"a result of the type {type(value).__name__} has no {level}; for example "
            f"level={next(iter(found), 'results')!r}"
        )
    first = "document_id" if isinstance(value, Vocabulary) else "restaurant_id"
    return [_named({first: item_id, **part}, item_id, names) for part in make(value)]


def failure_row(failure: Any, names: Names = None) -> Row:
    """Return the row of a failure."""
    error = plain_error(failure.error)
    cells = (failure.index, failure.stage, error["type"], error["message"], failure.attempts)
    row = {"item_id": failure.item_id, **dict(zip(_FAILURE, cells, strict=True))}
    return _named(row, failure.item_id, names) | _spent(failure)


OUTCOME_KINDS: dict[str, Kind] = {
    "ok": "boolean",
    "error": "text",
    "stage": "text",
    "attempts": "integer",
    "tokens": "integer",
    "cost": "number",
}
"""Columns of `outcome_row` besides those of a result, and their kinds."""


def outcome_row(outcome: Any, id_column: str, reserved: Collection[str] = ()) -> Row:
    """
    Return the one row of an outcome, whether a success or a failure, for tables that have a row for every item.

    A success has the cells of its result, as at the level "results"; one with a name of `OUTCOME_KINDS`, or with a
    reserved one, is called ``value.NAME``. A failure has its error's type and message in ``error``.

    Args:
        outcome: The outcome.
        id_column: Name of the column of its id.
        reserved: Names of columns that the table has besides.
    """
    if outcome.ok:
        (found,) = success_rows(outcome, "results")
        cells = list(found.items())[1:]  # without its own column of the id
        error, stage, attempts = None, None, outcome.spent.tries
    else:
        cells = list(_spent(outcome).items())
        error, stage, attempts = error_text(outcome.error), outcome.stage, outcome.attempts
    taken = {*OUTCOME_KINDS, id_column, *reserved}
    row: Row = {id_column: outcome.item_id, "ok": outcome.ok}
    row |= {f"value.{name}" if name in taken else name: cell for name, cell in cells}
    spent = outcome.spent
    return row | {
        "error": error,
        "stage": stage,
        "attempts": attempts,
        "tokens": spent.tokens,
        "cost": spent.cost,
    }


def known_kind(column: str, *, is_builtin: bool) -> Kind | None:
    """
    Return the kind of a column of `outcome_row` whatever its cells are; None if it depends on them.

    Args:
        column: Its name.
        is_builtin: Whether the results are those of a built-in task.
    """
    if column in OUTCOME_KINDS:
        return OUTCOME_KINDS[column]
    if is_builtin or column.startswith("spent."):
        return _FIELD_KINDS.get(column.rpartition(".")[2])
    return None


def level_columns(level: Level, names: Names = None) -> tuple[str, ...]:
    """Return the columns that a level has without a row; those of results depend on what the results are."""
    if level != "failures":
        return ()
    name = () if names is None else ("name",)
    return ("item_id", *name, *_FAILURE, *(f"spent.{field}" for field in Spent._fields))


def _kind(value: object) -> type:
    return next((kind for kind in _RESULTS if isinstance(value, kind)), object)


def _named(row: Row, item_id: object, names: Names) -> Row:
    """Add the name of an item, after its id."""
    if names is None:
        return row
    name = names.get(item_id)
    if name is None:
        name = names.get(str(item_id))
    first, *others = row.items()
    rest = {("value.name" if key == "name" else key): cell for key, cell in others}
    return {first[0]: first[1], "name": name, **rest}


def _spent(outcome: Any) -> Row:
    return {f"spent.{name}": cell for name, cell in outcome.spent._asdict().items()}


def _scalars(value: Any, *left_out: str) -> Row:
    """Return the fields of a result that are no collections, except some."""
    found = ((field.name, getattr(value, field.name)) for field in fields(value))
    return {
        name: cell for name, cell in found if name not in left_out and not isinstance(cell, (tuple, Mapping))
    }


def _summary(value: RestaurantSummary) -> Row:
    row = _scalars(value)
    for name, aspect in value.categories.items():
        row[f"{name}.status"] = aspect.status
        row[f"{name}.summary"] = aspect.summary
        row[f"{name}.bullets"] = list(aspect.bullets)
        row[f"{name}.evidence"] = [review.review_id for review in aspect.evidence]
    return row


def _comparison(value: AspectComparison) -> Row:
    row = _scalars(value) | {"display": list(value.display)}
    for name, lift in value.aspects.items():
        row |= {f"{name}.{column}": cell for column, cell in _scalars(lift).items()}
    return row


def _vocabulary(value: Vocabulary) -> Row:
    row = _scalars(value)
    return row | {
        "word_count": len(value.words),
        "phrase_count": len(value.phrases),
        "failed_chunk_count": len(value.failed_chunks),
    }


_RESULTS: dict[type, Callable[[Any], Row]] = {
    RestaurantSummary: _summary,
    RestaurantSentiment: _scalars,
    ReviewSummary: _scalars,
    RestaurantStrength: _scalars,
    AspectComparison: _comparison,
    Vocabulary: _vocabulary,
}


_ANNOTATED: dict[str, Kind] = {
    "str": "text",
    "AspectStatus": "text",
    "int": "integer",
    "float": "number",
    "bool": "boolean",
}
_FIELD_KINDS: dict[str, Kind] = {
    **{
        field.name: kind
        for result in (*_RESULTS, AspectSummary, AspectLift)
        for field in fields(result)
        if (kind := _ANNOTATED.get(str(field.type).removesuffix(" | None"))) is not None
    },
    **{
        name: "integer" if type(default) is int else "number"
        for name, default in Spent._field_defaults.items()
    },
    **dict.fromkeys(("word_count", "phrase_count", "failed_chunk_count"), "integer"),
    **dict.fromkeys(("bullets", "display", "evidence"), "texts"),  # ids of reviews may be numbers or texts
}
"""
Kinds of the columns of built-in results by the last part of their name, whatever their cells are.

Tables that are written in parts, by several processes, need one kind of each column in all of them.
"""


def _own_row(success: Any) -> Row:
    """Return the row of a result of a user's own task: its fields, or the column ``value``."""
    value = plain(success.value)
    row: Row = {"item_id": success.item_id}
    if not isinstance(value, dict):
        return row | {"value": value}
    for name, cell in _flat(value, "").items():
        row[name if name not in row and not name.startswith("spent.") else f"value.{name}"] = cell
    return row


def _flat(value: Mapping[str, Any], prefix: str) -> Row:
    row: Row = {}
    for name, cell in value.items():
        full = f"{prefix}{name}"
        if isinstance(cell, dict) and cell:
            row |= _flat(cell, f"{full}.")
        else:
            row[full] = cell
    return row


def _summary_aspects(value: RestaurantSummary) -> Iterator[Row]:
    for name, aspect in value.categories.items():
        yield {
            "aspect": name,
            "status": aspect.status,
            "summary": aspect.summary,
            "bullets": list(aspect.bullets),
            "evidence": [review.review_id for review in aspect.evidence],
            "snippets": [review.snippet for review in aspect.evidence],
            "invalid_citations": aspect.invalid_citations,
            "failed_count": aspect.failed_count,
            "replaced": aspect.replaced,
            "error": aspect.error,
        }


def _comparison_aspects(value: AspectComparison) -> Iterator[Row]:
    return ({"aspect": name, **_scalars(lift)} for name, lift in value.aspects.items())


def _labels(value: RestaurantSentiment) -> Iterator[Row]:
    return (_scalars(label) for label in value.labels)


def _words(value: Vocabulary) -> Iterator[Row]:
    for word, entry in value.words.items():
        yield {
            "kind": "word",
            "text": word,
            "pos": entry.pos,
            "meanings": list(entry.meanings),
            "synonyms": list(entry.synonyms),
            "example": entry.example,
        }
    for phrase, meaning in value.phrases.items():
        yield {
            "kind": "phrase",
            "text": phrase,
            "pos": None,
            "meanings": [meaning],
            "synonyms": [],
            "example": value.phrase_examples.get(phrase, ""),
        }


_PARTS: dict[str, dict[type, Callable[[Any], Iterator[Row]]]] = {
    "aspects": {RestaurantSummary: _summary_aspects, AspectComparison: _comparison_aspects},
    "labels": {RestaurantSentiment: _labels},
    "words": {Vocabulary: _words},
}


def cause_of(failure: Any) -> str:
    """Return the cause of a failure, which is equal for failures that differ in numbers and quoted texts only."""
    error = plain_error(failure.error)
    return f"{failure.stage}: {error['type']}: {without_particulars(error['message'])}"


def without_particulars(message: str) -> str:
    """Return an error message without what differs between errors of one cause: quoted texts, ids and numbers."""
    message = re.sub(r"'[^']*'|\"[^\"]*\"|‘[^’]*’|“[^”]*”", "'...'", message)
    # First ids as UUIDs and hashes are, then numbers with their separators.
    message = re.sub(r"\b(?=[0-9a-f-]*\d)[0-9a-f]{8,}(?:-[0-9a-f]+)*\b", "N", message, flags=re.IGNORECASE)
    return re.sub(r"\d+(?:[.,:]\d+)*", "N", message)
