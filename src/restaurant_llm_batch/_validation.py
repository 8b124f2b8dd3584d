"""Argument validation: type checks that reject bool, and `ConfigurationError` messages with an example."""

from __future__ import annotations

import operator
from math import inf
from typing import SupportsIndex, TypeGuard

from .errors import ConfigurationError


def is_number(value: object) -> TypeGuard[int | float]:
    """Return whether a value is a finite int or float; True and False are not numbers."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -inf < value < inf


def is_whole(value: object, minimum: int = 0) -> TypeGuard[int]:
    """Return whether a value is an int of at least `minimum`; True and False are not ints."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= minimum


def as_whole(value: object) -> int | None:
    """Return a whole number of any type, such as numpy's, as an int; None for anything else, bool included."""
    if type(value) is int:  # the usual case; a check against a protocol takes 20 times as long
        return value
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        return None
    if getattr(getattr(value, "dtype", None), "kind", "") == "b":  # before NumPy 2, its bool has __index__
        return None
    try:
        return operator.index(value)
    except TypeError:  # an array of several numbers has __index__, but it raises
        return None


def check_whole(field: str, value: object, minimum: int, example: str = "") -> None:
    """
    Check that a value is an int of at least `minimum`.

    Args:
        field: The argument's name, as the caller writes it.
        value: The argument.
        minimum: The smallest allowed value.
        example: A working argument for the message, such as ``"window=64"``.

    Raises:
        ConfigurationError: If it is not.
    """
    if not is_whole(value, minimum):
        raise ConfigurationError(
            _with_example(f"{field} must be a whole number of at least {minimum}, got {value!r}", example)
        )


def check_positive(field: str, value: object, example: str = "", *, unit: str = "") -> None:
    """
    Check that a value is a finite number above 0.

    Args:
        field: The argument's name, as the caller writes it.
        value: The argument.
        example: A working argument for the message, such as ``"Timeout(read=30)"``.
        unit: The unit for the message, such as ``"seconds"``.

    Raises:
        ConfigurationError: If it is not.
    """
    if not is_number(value) or value <= 0:
        what = f"a number of {unit}" if unit else "a number"
        raise ConfigurationError(_with_example(f"{field} must be {what} above 0, got {value!r}", example))


def _with_example(message: str, example: str) -> str:
    return f"{message}; for example {example}" if example else message
