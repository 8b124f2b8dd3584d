"""Values that several rooms handle: the composed form of texts, short values and places in messages, named tuples."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, cast
from unicodedata import normalize

T = TypeVar("T", bound=tuple[Any, ...])

PACKAGE_FOLDER = os.path.dirname(__file__) + os.sep  # noqa: PTH120  (pathlib takes as long to import as the models)
"""The folder of this package, with a separator at its end: what the file names of its own code begin with."""


def composed(text: str) -> str:
    """
    Return a text in Unicode's composed form, NFC; the text itself if it is composed already.

    macOS writes file names, and so some exports, in the decomposed form NFD. There a Hangul syllable is two or three
    letters: a model reads it worse, it takes two to three times as many tokens, and no comparison finds it equal.
    """
    return normalize("NFC", text)


def tuple_maker(kind: type[T]) -> Callable[[tuple[Any, ...]], T]:
    """Return what makes a named tuple from the tuple of its fields, in half the time that its class takes."""
    return cast("Callable[[tuple[Any, ...]], T]", partial(tuple.__new__, kind))


def short(value: object) -> str:
    """Return the repr of a value for an error message, cut off after 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def place_of(error: BaseException) -> str | None:
    """
    Return where a user's own code raised an error: file, line and function; None if it did not, or if it is not known.

    It is the innermost place outside of this library and of what is installed, or else outside of this library.
    """
    places: list[tuple[str, str]] = []
    frame = error.__traceback__
    while frame is not None:
        code = frame.tb_frame.f_code
        if not code.co_filename.startswith((PACKAGE_FOLDER, "<frozen")):
            places.append((code.co_filename, f"{code.co_filename}:{frame.tb_lineno} in {code.co_name}"))
        frame = frame.tb_next
    own = [place for file, place in places if "site-packages" not in file]
    return next(iter(own[::-1] or [place for _, place in places[::-1]]), None)
