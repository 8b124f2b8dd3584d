"""Field validation, fatal errors and language detection shared by the built-in tasks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import inf
from typing import Any, Protocol, TypeVar

from .._text import error_text
from .._values import composed
from ..errors import STOPS_THE_RUN, ConfigurationError, RunStopped
from ..models import Hit, ItemId, RestaurantRef, Review, SearchQuery, as_item_id
from ..steps import ResultOrError
from ._prompts.wording import Language, Wording, as_language


def as_restaurant(raw: Any) -> RestaurantRef:
    """
    Return an item of a task that searches: an id, a mapping or a `RestaurantRef`.

    Raises:
        ConfigurationError: The item is invalid; the message names every wrong field.
    """
    if not isinstance(raw, (Mapping, RestaurantRef)):
        return RestaurantRef(as_item_id(raw, "restaurant_id"))
    from ._schemas import read_restaurant

    return read_restaurant(raw)


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


def check_search(task: object) -> None:
    """Check the fields `limit`, `min_score` and `query`."""
    check_count(task, "limit")
    check_min_score(task)
    query = getattr(task, "query")  # noqa: B009
    valid = query is None or (isinstance(query, str) and bool(query.strip()))
    check(task, "query", valid, "words to search for, or None")


def check_min_score(task: object) -> None:
    """Check that the field `min_score` is a similarity."""
    score = getattr(task, "min_score")  # noqa: B009
    check(task, "min_score", isinstance(score, (int, float)) and -1 <= score <= 1, "-1 to 1")


def reviews_in_scope(hits: Iterable[Hit], query: SearchQuery) -> tuple[Review, ...]:
    """Return the hits of a search as reviews, each with its restaurant's id."""
    # Filter again: a search backend of the user's own may ignore `scope`.
    own = query.scope == "restaurant"
    return tuple(
        Review(composed(hit.content), hit.review_id, hit.restaurant_id)
        for hit in hits
        if is_same_id(hit.restaurant_id, query.restaurant_id) == own
    )


def is_same_id(one: ItemId | None, other: ItemId) -> bool:
    """Return whether two ids name the same restaurant: 7 and "7" do, and so do both Unicode forms of a text."""
    return composed(str(one)) == composed(str(other))


def as_shown(hits: Iterable[Hit]) -> list[Hit]:
    """Return the hits of a search as they are shown to a model: their texts in composed form."""
    return [
        hit if (content := composed(hit.content)) is hit.content else replace(hit, content=content)
        for hit in hits
    ]


class Worded(Protocol):
    """The fields of a task that say in what words and language it asks."""

    @property
    def language(self) -> str: ...
    @property
    def instructions(self) -> str | None: ...
    @property
    def replace_instructions(self) -> bool: ...


def check_wording(task: Worded) -> None:
    """Check the fields `language`, `instructions` and `replace_instructions`."""
    name = type(task).__name__
    try:
        as_language(task.language)
    except ConfigurationError as error:
        raise ConfigurationError(f"{name}.{error}") from None
    own: object = task.instructions
    valid = own is None or (isinstance(own, str) and bool(own.strip()))
    check(task, "instructions", valid, 'a text such as "Write for tourists.", or None')
    check(task, "replace_instructions", isinstance(task.replace_instructions, bool), "True or False")
    if task.replace_instructions and own is None:
        raise ConfigurationError(
            f"{name}.replace_instructions needs instructions to put in place of ours; "
            'for example instructions="List what guests complain about."'
        )


def check_temperature(task: object) -> None:
    """Check that the field `temperature` is a finite number of at least 0."""
    value = getattr(task, "temperature")  # noqa: B009
    check(task, "temperature", isinstance(value, (int, float)) and 0 <= value < inf, "a number of at least 0")


T = TypeVar("T")


def reraise_fatal(result: ResultOrError[T]) -> ResultOrError[T]:
    """
    Return the result or error of one part of an item, but raise an error that stops the run.

    An item of several parts survives the failure of one part, but must not succeed in a run that stops, because it
    would count as done. Only an overall summary may fail with such an error: the aspects are whole without it.

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


def choose_wording(task: Worded, texts: Iterable[str]) -> Wording:
    """Return the wording of a task's instructions; of language "auto", in the language of the texts."""
    language = task.language
    if language not in ("ko", "en"):
        language = as_language(language)
        if language == "auto":
            language = language_of(texts)
    return Wording(language, task.instructions or "", task.replace_instructions)


_ASCII_LETTERS = bytes(code for code in range(128) if chr(code).isalpha())
_HANGUL_LEADS = b"\xea\xeb\xec\xed"
"""First bytes of Hangul syllables in UTF-8; those of U+A000 to U+ABFF, of rare scripts, are among them."""
_SAMPLE = 80
"""How many characters of each text its language is detected by."""


def language_of(texts: Iterable[str]) -> Language:
    """
    Return the prevailing language of the beginnings of texts, by script.

    It is "ko" if they have neither Hangul nor Latin letters.
    """
    # Counted in bytes, and of beginnings: a loop over all characters takes longer than all the rest of an item.
    utf_8 = "\n".join([text[:_SAMPLE] for text in texts]).encode("utf-8", "surrogatepass")
    syllables = len(utf_8) - len(utf_8.translate(None, _HANGUL_LEADS))
    # A Hangul syllable carries about as much as two and a half Latin letters, and takes three bytes.
    if 2.5 * syllables >= len(utf_8) - 3 * syllables:
        return "ko"
    latin = len(utf_8) - len(utf_8.translate(None, _ASCII_LETTERS))
    return "ko" if 2.5 * syllables >= latin else "en"
