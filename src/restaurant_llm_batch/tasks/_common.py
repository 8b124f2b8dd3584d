"""Field validation, fatal errors and language detection shared by the built-in tasks."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf
from typing import Literal, TypeAlias, TypeVar, get_args

from .._text import error_text
from ..errors import STOPS_THE_RUN, ConfigurationError, RunStopped
from ..steps import ResultOrError
from ._prompts.aspects import Language


def check(task: object, field: str, valid: bool, bounds: str) -> None:
    """
    Raise unless a field of a task is valid.

    Args:
        task: The task.
        field: Name of the field.
        valid: Whether its value is valid.
        bounds: Text for the error message: valid values.

    Raises:
        ConfigurationError: `valid` is False; the message names the field and its bounds.
    """
    if not valid:
        value = getattr(task, field)
        raise ConfigurationError(f"{type(task).__name__}.{field} must be {bounds}, got {value!r}")


def is_count(value: object) -> bool:
    """Return whether a value is a whole number of at least 1."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def check_count(task: object, field: str, *, optional: bool = False) -> None:
    """Check that a field is a whole number of at least 1, or None if `optional`."""
    value = getattr(task, field)
    valid = is_count(value) or (optional and value is None)
    check(task, field, valid, "a whole number of at least 1" + (", or None" if optional else ""))


def check_language(task: object) -> None:
    """Check that the field `language` is one of `LANGUAGE_OPTIONS`."""
    check(task, "language", getattr(task, "language") in LANGUAGE_OPTIONS, '"ko", "en" or "auto"')  # noqa: B009


def check_temperature(task: object) -> None:
    """Check that the field `temperature` is a finite number of at least 0."""
    value = getattr(task, "temperature")  # noqa: B009
    check(task, "temperature", isinstance(value, (int, float)) and 0 <= value < inf, "a number of at least 0")


T = TypeVar("T")


def reraise_fatal(result: ResultOrError[T]) -> ResultOrError[T]:
    """
    Return the result or error of one part of an item, but raise an error that stops the run.

    An item of several parts survives the failure of one part, but must not succeed in a run that stops.

    Raises:
        RunStopped: The run stopped before the part was finished.
        PermanentBackendError: The part failed with an error that stops the run.
    """
    if isinstance(result, (RunStopped, *STOPS_THE_RUN)):
        raise result
    return result


def raise_first(errors: Iterable[Exception]) -> None:
    """Raise the first of `errors`; do nothing if there are none."""
    for error in errors:
        raise error


def describe_error(error: Exception) -> str:
    """Return the text of an error for a result: its type and message."""
    return error_text(error)


LanguageOption: TypeAlias = Literal["ko", "en", "auto"]
"""Value of a task's field `language`; "auto" detects the language of the texts."""

LANGUAGE_OPTIONS: tuple[str, ...] = get_args(LanguageOption)


def choose_language(choice: LanguageOption, texts: Iterable[str]) -> Language:
    """Return `choice`, or for "auto" the language of the texts."""
    return language_of(texts) if choice == "auto" else choice


def language_of(texts: Iterable[str]) -> Language:
    """Return the prevailing language of the texts, by script; "ko" if they have neither Hangul nor Latin letters."""
    hangul = latin = 0
    for text in texts:
        hangul += sum("가" <= character <= "힣" for character in text)
        latin += sum(character.isascii() and character.isalpha() for character in text)
    # A Hangul syllable carries about as much as two and a half Latin letters.
    return "ko" if hangul * 2.5 >= latin else "en"
