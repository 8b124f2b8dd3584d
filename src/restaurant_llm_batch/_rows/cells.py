"""Cells of tables: missing values, whole numbers and ids as they are meant, whichever program wrote them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from decimal import Decimal
from typing import Any

from ..errors import ConfigurationError
from ..models import ID_FIELDS, ItemId, as_item_id

WHOLE_FIELDS = frozenset((*ID_FIELDS, "review_id", "category", "food_category_id", "limit", "priority"))
"""Fields of items and reviews that hold ids and whole numbers. A column with a gap holds floats in many tables."""

_MISSING = frozenset(("nan", "NaN", "<NA>", "NaT", "NULL", "null", "None", "\\N", "#N/A"))
"""What programs write for a missing value, where a table holds texts only."""
_MISSING_TYPES = frozenset(("NAType", "NaTType"))
_TEXT_TYPES = frozenset(("UUID",))
_WHOLE = re.compile(r"(0|-?[1-9][0-9]{0,18})(?:\.0+)?")
_INT64 = range(-(2**63), 2**63)
_EXACT = 2**53
"""Up to here every whole number is a float of its own."""


def plain(value: Any) -> Any:
    """Return a cell as a plain Python value, also inside of lists and objects; None for NaN, NaT and pandas' NA."""
    kind = type(value)
    if kind is str or kind is int or kind is bool or value is None:
        return value
    if kind is float:
        return value if value == value else None  # NaN is not equal to itself
    if kind is list or kind is tuple:
        return [plain(member) for member in value]
    if isinstance(value, Mapping):
        return {str(name): plain(member) for name, member in value.items()}
    return _of_a_library(value)


def _of_a_library(value: Any) -> Any:
    if type(value).__name__ in _MISSING_TYPES:
        return None
    if isinstance(value, str) or type(value).__name__ in _TEXT_TYPES:
        return str(value)
    if isinstance(value, Decimal):
        return None if value.is_nan() else value
    if (
        getattr(getattr(value, "dtype", None), "kind", "") in ("m", "M")
        and getattr(value, "shape", None) == ()
    ):
        text = str(value)  # numpy's times of nanoseconds are plain integers otherwise
        return None if text == "NaT" else text
    for convert in ("item", "tolist", "to_list", "as_py"):  # of numpy: scalars, arrays; of polars; of pyarrow
        if hasattr(value, convert) and (convert != "item" or getattr(value, "shape", None) == ()):
            found = getattr(value, convert)()
            return found if type(found) is type(value) else plain(found)
    return value


def is_blank(cells: Iterable[Any]) -> bool:
    """Return whether all cells of a row are missing, or texts without a character."""
    return all(cell == "" if type(cell) is str else plain(cell) is None for cell in cells)


def is_missing(text: str) -> bool:
    """Return whether a cell of a table of texts stands for a missing value."""
    text = text.strip()
    return not text or text in _MISSING


def text_id(text: str) -> ItemId | None:
    """Return the id in a cell of a table of texts: a number if it is written as one; None for a missing one."""
    if is_missing(text):
        return None
    text = text.strip()
    found = _WHOLE.fullmatch(text)
    number = int(found[1]) if found else None
    return number if number is not None and number in _INT64 else text


def text_content(text: str) -> str:
    """Return the text in a cell of a table of texts; "" for a missing one."""
    return "" if text in _MISSING else text


def whole(value: Any) -> Any:
    """Return a float or decimal that is a whole number as an integer, and any other value as it is."""
    is_exact = isinstance(value, (float, Decimal)) and bool(-_EXACT < value < _EXACT)
    return int(value) if is_exact and value == int(value) else value


def cell_id(value: Any, field: str, *, of_texts: bool = False) -> ItemId | None:
    """
    Return the id in a cell; None for a missing one.

    Args:
        value: The cell.
        field: Its name, for the error message.
        of_texts: Whether the table holds texts only, in which numbers are written out.

    Raises:
        ConfigurationError: It is no id.
    """
    if type(value) is str:  # the usual case
        if of_texts or not value.strip():
            return text_id(value)
    elif type(value) is not int:
        value = whole(plain(value))
        if value is None:
            return None
        if isinstance(value, (float, Decimal)) and not -_EXACT < value < _EXACT:
            raise ConfigurationError(
                f"{field} {value!r} is too large for a number with a decimal point, which rounds it; "
                "write it as an integer or as text"
            )
    item_id = as_item_id(value, field)
    if isinstance(item_id, int) and item_id not in _INT64:
        raise ConfigurationError(f'{field} is too large for an integer; use a string, "{item_id}"')
    return item_id


def as_number(value: Any, *, of_texts: bool = False) -> float | None:
    """
    Return the number in a cell; None for a missing one.

    Raises:
        ValueError: It is no number.
    """
    if of_texts and isinstance(value, str):
        return None if is_missing(value) else float(value)
    value = plain(value)
    if value is None:
        return None
    if isinstance(value, (int, float, Decimal)) and not isinstance(value, bool):
        return float(value)
    raise ValueError("no number")


def clean(row: dict[str, Any], *, of_texts: bool = False, deep: bool = False) -> dict[str, Any]:
    """
    Return a row with its cells as they are meant: missing ones are None, ids and other whole numbers integers.

    Args:
        row: The row, which is changed.
        of_texts: Whether the table holds texts only.
        deep: Whether values of other libraries than Python's may be in it, in lists too.
    """
    for name, value in row.items():
        kind = type(value)
        if kind is str:
            if of_texts and (not value or name in WHOLE_FIELDS):
                row[name] = text_id(value) if value else None
        elif kind is not int and value is not None:
            if deep or kind is float:
                value = plain(value)
            row[name] = whole(value) if name in WHOLE_FIELDS else value
    return row


def as_text(value: Any) -> Any:
    """Return bytes in UTF-8, as some Parquet files hold them, as text, and any other value as it is."""
    if isinstance(value, bytes):
        with suppress(UnicodeDecodeError):
            return value.decode()
    return value
