"""What the constructors of the tasks check alike."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf
from typing import Literal, TypeAlias, TypeVar, get_args

from ..errors import STOPS_THE_RUN, ConfigurationError, RunStopped
from ..steps import ResultOrError
from ._prompts.aspects import Language


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
    check(task, "language", getattr(task, "language") in LANGUAGE_OPTIONS, '"ko", "en" or "auto"')  # noqa: B009


def check_temperature(task: object) -> None:
    """Check the field `temperature`."""
    value = getattr(task, "temperature")  # noqa: B009
    check(task, "temperature", isinstance(value, (int, float)) and 0 <= value < inf, "a number of at least 0")


T = TypeVar("T")


def reraise_fatal(result: ResultOrError[T]) -> ResultOrError[T]:
    """
    Return what a part came to.

    Raises:
        RunStopped: When the run was stopped: then the item is not done, whatever its other parts came to.
        PermanentBackendError: When it is one that stops the run, likewise.
    """
    if isinstance(result, (RunStopped, *STOPS_THE_RUN)):
        raise result
    return result


def raise_first(errors: Iterable[Exception]) -> None:
    """Raise the first error, if there is one."""
    for error in errors:
        raise error


def describe_error(error: Exception) -> str:
    """Return an error as a result tells it."""
    return f"{type(error).__name__}: {error}"


LanguageOption: TypeAlias = Literal["ko", "en", "auto"]
"""What the field `language` of a task may be; "auto" is that of the texts."""

LANGUAGE_OPTIONS: tuple[str, ...] = get_args(LanguageOption)


def choose_language(choice: LanguageOption, texts: Iterable[str]) -> Language:
    """Return the language that was chosen, or for "auto" that of the texts."""
    return language_of(texts) if choice == "auto" else choice


def language_of(texts: Iterable[str]) -> Language:
    """Return the language that more of the texts is written in, by script; "ko" where there is neither."""
    hangul = latin = 0
    for text in texts:
        hangul += sum("가" <= character <= "힣" for character in text)
        latin += sum(character.isascii() and character.isalpha() for character in text)
    # A Hangul syllable carries about as much as two and a half Latin letters.
    return "ko" if hangul * 2.5 >= latin else "en"
