"""What the constructors of the tasks check alike."""

from __future__ import annotations

from math import inf

from ..errors import ConfigurationError
from ._language import CHOICES


def check(task: object, field: str, fine: bool, bounds: str) -> None:
    """
    Complain about a field of a task.

    Raises:
        ConfigurationError: When it is not fine; names the field and what it must be.
    """
    if not fine:
        value = getattr(task, field)
        raise ConfigurationError(f"{type(task).__name__}.{field} must be {bounds}, got {value!r}")


def is_count(value: object) -> bool:
    """Tell whether something is a whole number of at least 1."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def check_count(task: object, field: str, *, optional: bool = False) -> None:
    """Check a whole number of at least 1."""
    value = getattr(task, field)
    fine = is_count(value) or (optional and value is None)
    check(task, field, fine, "a whole number of at least 1" + (", or None" if optional else ""))


def check_language(task: object) -> None:
    """Check the field `language`."""
    check(task, "language", getattr(task, "language") in CHOICES, '"ko", "en" or "auto"')  # noqa: B009


def check_temperature(task: object) -> None:
    """Check the field `temperature`."""
    value = getattr(task, "temperature")  # noqa: B009
    check(task, "temperature", isinstance(value, (int, float)) and 0 <= value < inf, "a number of at least 0")
