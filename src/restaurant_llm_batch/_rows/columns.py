"""Columns under other names: renaming, what is missing, and what to write then."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias
from unicodedata import normalize

from .._values import composed, short
from ..errors import ConfigurationError

BadRows: TypeAlias = Literal["refuse", "skip"]
"""What becomes of a bad row: an error that names it, or it is left out, counted and named."""

_PLACES = ("가게", "매장", "식당", "음식점", "업체", "업소", "점포")
_USUAL: Mapping[str, tuple[str, ...]] = {
    "content": (
        *(
            "content",
            "text",
            "review",
            "review_text",
            "review_content",
            "reviews",
            "body",
            "comment",
            "comments",
        ),
        *("message", "리뷰", "리뷰내용", "리뷰 내용", "내용", "본문", "후기", "텍스트", "평", "코멘트"),
    ),
    "restaurant_id": (
        *("restaurant_id", "store_id", "shop_id", "place_id", "business_id"),
        *(f"{place}{number}" for place in _PLACES for number in ("id", "번호", "코드")),
        *("restaurant", "store", "shop"),
        *(f"{place}{name}" for place in _PLACES for name in ("", "명")),
        *("상호", "상호명"),
    ),
    "review_id": ("review_id", "reviewid", "리뷰id", "리뷰번호"),
    "rating": ("rating", "stars", "star", "score", "평점", "별점", "점수"),
    "is_recommended": ("is_recommended", "recommended", "추천", "추천여부"),
}
"""
Names that tables often have for a field, without blanks and signs, in lower case, the likeliest first: a number is an
id rather than a name is.
"""
_MAX_NAMES_SHOWN = 12
_HARMLESS = str.maketrans("_-./:@", "xxxxxx")
"""Signs in a name of a column that a shell leaves alone, as it does letters and digits of any script."""
_OTHERS = ("id", "name", "restaurant_name", "category", "food_category_id", "cuisine", "label")
"""Fields besides, which are not taken for one that is missing."""
_SIGNS = re.compile(r"[\W_]+")


@dataclass(frozen=True, slots=True)
class Advice:
    """
    Phrases of error messages that say what to write.

    Attributes:
        options: Whether it is for the command line, and not for Python.
    """

    options: bool = False

    def columns(self, names: Mapping[str, str]) -> str:
        """Return how to name columns."""
        if self.options:
            return "--columns " + ",".join(f"{field}={_for_shell(names[field])}" for field in names)
        return "columns={" + ", ".join(f'"{field}": {_quoted(names[field])}' for field in names) + "}"

    def encoding(self, name: str) -> str:
        """Return how to name an encoding."""
        return f"--encoding {name}" if self.options else f'encoding="{name}"'

    @property
    def skip(self) -> str:
        """How to leave out bad rows."""
        return "--bad-rows skip" if self.options else 'bad_rows="skip"'

    def rating_scale(self, low: float, high: float) -> str:
        """Return how to name a scale of ratings."""
        return f"--rating-scale {low:g}-{high:g}" if self.options else f"rating_scale=({low:g}, {high:g})"


def _for_shell(text: str) -> str:
    import shlex

    return text if text.translate(_HARMLESS).isalnum() else shlex.quote(text)


def _close(name: str, names: Iterable[str], cutoff: float = 0.6) -> list[str]:
    """Return the most similar of several names, or none."""
    from difflib import get_close_matches  # only messages need it

    # By letters of Hangul: two syllables may differ in one of them.
    letters = {normalize("NFD", one): one for one in names}
    return [letters[one] for one in get_close_matches(normalize("NFD", name), letters, 1, cutoff)]


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


@dataclass(frozen=True, slots=True)
class TableForm:
    """
    How to read a table.

    Attributes:
        columns: The table's names of columns by the library's; a column without an entry keeps its name.
        encoding: Encoding of a text file; None to find it out.
        bad_rows: What becomes of a row that cannot be read.
        advice: Phrases for error messages.
        may_be_empty: Whether a table of reviews may have no row.

    Raises:
        ConfigurationError: An argument is invalid.
    """

    columns: Mapping[str, str] | None = None
    encoding: str | None = None
    bad_rows: BadRows = "refuse"
    advice: Advice = Advice()
    may_be_empty: bool = True

    def __post_init__(self) -> None:
        if self.bad_rows not in ("refuse", "skip"):
            raise ConfigurationError(f'bad_rows must be "refuse" or "skip", got {self.bad_rows!r}')
        given: object = self.columns
        if given is None:
            return
        valid = isinstance(given, Mapping) and all(
            isinstance(one, str) and one.strip() for pair in given.items() for one in pair
        )
        if not isinstance(given, Mapping) or not valid:
            raise ConfigurationError(
                f"columns must be names of columns by the names here, got {short(given)}; "
                'for example columns={"restaurant_id": "store", "content": "text"}'
            )
        object.__setattr__(
            self, "columns", {name: composed(column.strip()) for name, column in given.items()}
        )


def renamed(row: dict[str, Any], columns: Mapping[str, str] | None) -> dict[str, Any]:
    """Return a row with its columns under the names of the library; a column that another takes the name of is lost."""
    if not columns:
        return row
    found = {field: row[column] for field, column in columns.items() if column in row}
    taken = {columns[field] for field in found}
    for name, value in row.items():
        if name not in taken:
            found.setdefault(name, value)
    return found


def check_columns(columns: Mapping[str, str] | None, names: Sequence[str], advice: Advice) -> None:
    """
    Check that the columns that were named are in a table.

    Raises:
        ConfigurationError: One is not; the message says what to write.
    """
    for field, column in (columns or {}).items():
        if column in names:
            continue
        if field in names:
            right = advice.columns({column: field})
            raise ConfigurationError(f"there is no column {column!r}; write it the other way round: {right}")
        close = _close(column, names)
        did_you_mean = f"; did you mean {advice.columns({field: close[0]})}" if close else ""
        raise ConfigurationError(f"there is no column {column!r} ({listed(names)}){did_you_mean}")


def missing_columns(
    wanted: Iterable[str], names: Sequence[str], row: Mapping[str, Any], advice: Advice
) -> str:
    """
    Return a sentence about columns that a table lacks, with what to write.

    Args:
        wanted: The library's names of the columns.
        names: The columns of the table.
        row: Its first row, of which the longest text may be the content.
        advice: Phrases for messages.
    """
    missing = [name for name in wanted if name not in names]
    guessed: dict[str, str] = {}
    for field in missing:
        free = [
            name
            for name in names
            if name and name not in guessed.values() and name not in (*_USUAL, *_OTHERS)
        ]
        guess = _guess(field, free, row)
        if guess is not None:
            guessed[field] = guess
    sentence = f"there is no column {' and no column '.join(map(repr, missing))} ({listed(names)}); "
    if len(guessed) == len(missing):
        return f"{sentence}did you mean {advice.columns(guessed)}"
    example = advice.columns({name: guessed.get(name, "NAME") for name in missing})
    return f"{sentence}say which it is: {example}; the first line must name the columns"


def _guess(field: str, names: Sequence[str], row: Mapping[str, Any]) -> str | None:
    keys = {_key(name): name for name in names}
    usual = [_key(name) for name in _USUAL.get(field, (field,))]
    for name in usual:
        if name in keys:
            return keys[name]
    close = _close(_key(field), keys, 0.75)
    if close:
        return keys[close[0]]
    if field != "content":
        return None
    texts = [name for name in names if isinstance(row.get(name), str) and not row[name].isdecimal()]
    taken = {_key(name) for field, usual in _USUAL.items() if field != "content" for name in usual}
    texts = [name for name in texts if _key(name) not in taken]
    return max(texts, key=lambda name: len(row[name]), default=None)


def _key(name: str) -> str:
    return _SIGNS.sub("", composed(name).casefold())


def listed(names: Collection[str]) -> str:
    """Return the names of columns for a message."""
    shown = [short(name) for name in names if name][:_MAX_NAMES_SHOWN]
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return f"its columns: {', '.join(shown)}{more}" if shown else "it has no column"
