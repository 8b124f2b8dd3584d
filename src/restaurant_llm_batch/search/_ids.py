"""Ids at the door of a search backend: read, told to be the same, and put in order."""

from __future__ import annotations

import operator

from ..errors import ConfigurationError
from ..models import ItemId

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
