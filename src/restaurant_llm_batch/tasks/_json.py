"""
Tolerant JSON reader: every JSON value in a text, also those that are cut off or nearly JSON, in linear time.

Theory of operation. A model's answer is prose with JSON somewhere in it. The reader goes from one opening bracket to
the next and reads a value there:

- A whole value is yielded, and the search goes on behind it.
- A value that ends early, because the text does or because of an error in it, is kept as a `CutObject` or `CutList`
  with all members that are whole. These come last. The search goes on right behind the bracket, so that whole values
  inside of it are found too. As each such step reads text again, all of them together may read at most a quarter of the
  text and `_EXTRA_BUDGET` characters; after that the search goes on behind what was read.

Python's own decoder reads the first value, which is usually the only one. The tolerant reader accepts besides: single
and typographic quotes, full-width signs, Python's literals, names without quotes, trailing and missing commas, raw
control characters, and quotes within a text that are not escaped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from json import JSONDecoder
from typing import Any

from .._patterns import lazy_pattern

_MAX_DEPTH = 32
"""Depth at which the tolerant reader gives up a value; the deepest answer of a task has 4 levels."""
_EXTRA_BUDGET = 20_000
"""Characters that may be read again, besides a quarter of the text; most answers are shorter."""


class CutObject(dict[str, Any]):
    """An object that was cut off: its whole members, and the last one as far as it goes if it is a container."""


class CutList(list[Any]):
    """A list that was cut off, like `CutObject`."""


class Conflict:
    """The value of a name that an object has twice, with different values."""


_CONFLICT = Conflict()


def _as_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        for name, value in pairs:
            if members[name] != value:
                members[name] = _CONFLICT
    return members


# strict=False: some servers leave raw control characters in strings.
_DECODERS = {
    False: JSONDecoder(strict=False),
    True: JSONDecoder(strict=False, object_pairs_hook=_as_object),
}
_OPENING = lazy_pattern(r"[{\[｛［]")
_OPENINGS_RUN = lazy_pattern(r"[\s{\[｛［]*+")
_SPACE = lazy_pattern(r"[\s\0\ufeff\u200b\u200c\u2060]*+")
_TOKEN = lazy_pattern(r"[^\s\0,:{}\[\]，、：｛｝［］\"'“”‘’„「」『』«»]++")
_OPENINGS = ("{", "[", "｛", "［")
_OBJECT_ENDS, _LIST_ENDS, _COLONS = ("}", "｝"), ("]", "］"), (":", "：")
_NUMBER = lazy_pattern(r"[-+]?\d{1,300}(?:\.\d{1,300})?(?:[eE][-+]?\d{1,5})?")
_CONSTANTS: dict[str, Any] = {
    **dict.fromkeys(("null", "None", "undefined", "NaN", "nan"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_CLOSING_QUOTES = {
    '"': '"', "'": "'", "“": "”“", "‘": "’", "„": "“”", "「": "」", "『": "』", "«": "»"
}  # fmt: skip
_TO_QUOTE = {
    close: lazy_pattern(rf"[^{close}\\]*+(?:\\.[^{close}\\]*+)*+[{close}]", re.DOTALL)
    for close in _CLOSING_QUOTES.values()
}
# A separator, the end, or the next name, if the comma before it is missing.
_AFTER_TEXT = lazy_pattern(r"[\s\0\ufeff]*+(?:[,:}\]，、：｝］]|$|\"[^\"\\]{1,60}\"\s{0,9}:)")
_ESCAPE = lazy_pattern(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}


def decode_whole(text: str, *, keep_conflicts: bool = False) -> Any:
    """
    Return the value of a text that is JSON as a whole.

    Args:
        text: The text.
        keep_conflicts: Whether a name with two different values in an object gets a `Conflict` instead of the last one.

    Raises:
        ValueError: It is not JSON.
        RecursionError: It is nested too deeply for Python's decoder.
    """
    return _DECODERS[keep_conflicts].decode(text)


def json_values(text: str, *, keep_conflicts: bool = False) -> Iterator[Any]:
    """
    Yield the JSON objects and lists in a text: the whole ones, then those that are cut off, each in their order.

    Args:
        text: The text.
        keep_conflicts: As in `decode_whole`.
    """
    opening = _OPENING.search(text)
    start = opening.start() if opening else len(text)
    try:
        value, position = _DECODERS[keep_conflicts].raw_decode(text, start)
        yield value
    except (ValueError, RecursionError):
        position = start
    reader, cut = _Reader(text, keep_conflicts), []
    budget = len(text) // 4 + _EXTRA_BUDGET
    while opening := _OPENING.search(text, position):
        start = opening.start()
        value, end, whole = reader.container(start, _MAX_DEPTH)
        if whole:
            yield value
            position = end
            continue
        if value:
            cut.append(value)
        budget -= end - start
        position = start + 1 if budget > 0 else max(end, start + 1)
    yield from cut


_MISSING: Any = object()
_Read = tuple[Any, int, bool]
"""A value, the index behind it, and whether it is whole; `_MISSING` for a value that is not, unless a container."""


class _Reader:
    """Recursive-descent reader of one text."""

    def __init__(self, text: str, keep_conflicts: bool) -> None:
        self._text = text
        self._keep_conflicts = keep_conflicts

    def container(self, start: int, depth: int) -> _Read:
        """Read the object or list that opens at `start`; at most `depth` levels deep."""
        if not depth:
            # No answer is so deep: what opens here is not looked at again, bracket by bracket.
            deeper = _OPENINGS_RUN.match(self._text, start)
            return _MISSING, deeper.end() if deeper else start, False
        return self._object(start, depth) if self._text[start] in "{｛" else self._list(start, depth)

    def _object(self, start: int, depth: int) -> _Read:
        pairs: list[tuple[str, Any]] = []
        position = self._skip(start + 1)
        while True:
            if self._text.startswith(_OBJECT_ENDS, position):
                return self._as_object(pairs), position + 1, True
            name, end, whole = self._scalar(position)
            end = self._skip(end)
            if not whole or not self._text.startswith(_COLONS, end):
                return CutObject(self._as_object(pairs)), end, False
            value, position, whole = self._value(self._skip(end + 1), depth)
            if value is not _MISSING:
                pairs.append((str(name), value))
            after = self._separated(position) if whole else None
            if after is None:
                return CutObject(self._as_object(pairs)), position, False
            position = after

    def _as_object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return _as_object(pairs) if self._keep_conflicts else dict(pairs)

    def _list(self, start: int, depth: int) -> _Read:
        values: list[Any] = []
        position = self._skip(start + 1)
        while True:
            if self._text.startswith(_LIST_ENDS, position):
                return values, position + 1, True
            value, position, whole = self._value(position, depth)
            if value is not _MISSING:
                values.append(value)
            after = self._separated(position) if whole else None
            if after is None:
                return CutList(values), position, False
            position = after

    def _separated(self, position: int) -> int | None:
        """Return the index of the next member or of the closing bracket; None if there is neither."""
        end = self._skip(position)
        following = self._text[end : end + 1]
        if following and following in ",，、":
            return self._skip(end + 1)
        return end if following and following in "}]{[｝］｛［\"'“‘„「『«" else None

    def _value(self, position: int, depth: int) -> _Read:
        if self._text.startswith(_OPENINGS, position):
            return self.container(position, depth - 1)
        return self._scalar(position)

    def _scalar(self, position: int) -> _Read:
        quote = self._text[position : position + 1]
        if quote in _CLOSING_QUOTES:
            return self._quoted(position + 1, _CLOSING_QUOTES[quote])
        token = _TOKEN.match(self._text, position)
        if token is None:
            return _MISSING, position, False
        text, end = token[0], token.end()
        if end == len(self._text):
            return _MISSING, end, False  # there may have been more of it
        if _NUMBER.fullmatch(text):
            return (int(text) if text.lstrip("-+").isdigit() else float(text)), end, True
        return _CONSTANTS.get(text, text), end, True

    def _quoted(self, start: int, close: str) -> _Read:
        position = start
        while found := _TO_QUOTE[close].match(self._text, position):
            position = found.end()
            # A quote that no separator follows belongs to the text: 'It's good'.
            if _AFTER_TEXT.match(self._text, position):
                return _unescaped(self._text[start : position - 1]), position, True
        return _MISSING, len(self._text), False

    def _skip(self, position: int) -> int:
        space = _SPACE.match(self._text, position)
        return space.end() if space else position


def _unescaped(text: str) -> str:
    if "\\" not in text:
        return text
    text = _ESCAPE.sub(_unescape, text)
    # Two escapes may stand for one character outside of the basic plane.
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def _unescape(match: re.Match[str]) -> str:
    code, sign = match.groups()
    return chr(int(code, 16)) if code else _ESCAPED.get(sign, sign)
