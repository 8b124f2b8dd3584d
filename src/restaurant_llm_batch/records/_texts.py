"""Tables of text: CSV and TSV, JSON Lines, JSON documents, and a text a line."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from typing import Any

from .._rows.frames import column_names
from .._rows.review_rows import SHAPES
from .._rows.table import FileError
from .._text import message_text
from ..errors import ConfigurationError
from ._decoding import Lines
from ._kinds import delimiter_of

_CHUNK = 65_536
Rows = Iterator[tuple[int, Any]]


def _number(text: str) -> float | None:
    """Return a number beyond JSON's; NaN stands for a missing value."""
    return None if text == "NaN" else float(text)


_DECODER = json.JSONDecoder(parse_constant=_number)


def json_lines(lines: Lines) -> Rows:
    """Yield the value of each line that is not blank, or why it is none."""
    for text in lines:
        number = lines.number
        if number in lines.problems:
            yield number, ConfigurationError(lines.problems.pop(number))
        elif text.strip():
            yield number, _parsed(text)


def _parsed(text: str) -> Any:
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        return ConfigurationError(f"not JSON ({error.msg} at column {error.colno}); {SHAPES}")
    except RecursionError:
        return ConfigurationError(f"nested too deeply; {SHAPES}")
    except ValueError:  # Python reads no number of more than 4,300 digits
        return ConfigurationError(f"a number with thousands of digits; {SHAPES}")


def text_lines(lines: Lines) -> Rows:
    """Yield each line that is not blank as a text."""
    for text in lines:
        number = lines.number
        if number in lines.problems:
            yield number, ConfigurationError(lines.problems.pop(number))
        elif text.strip():
            yield number, text.strip()


class CSVTable:
    """
    A table with a line of names.

    Args:
        lines: Its lines.
        label: Its name for messages.
        tabs: Whether cells are separated by tabs, if the line of names does not say otherwise.

    Attributes:
        columns: The names, in composed form; "" for a column without one.

    Raises:
        FileError: The line of names cannot be read.
    """

    def __init__(self, lines: Lines, label: str, *, tabs: bool) -> None:
        self._lines = lines
        self._label = label
        header = next((line for line in lines if line.strip()), "")
        delimiter = "\t" if tabs else ","
        if header.lower().startswith("sep=") and len(header.strip()) == 5:  # a line that Excel reads
            delimiter, header = header[4], next(lines, "")
        elif delimiter not in header:
            delimiter = delimiter_of(header) or delimiter
        # A name in quotes may go on in the next line, which the reader takes by itself.
        self._reader = csv.reader(_Joined(header, lines), delimiter=delimiter)
        try:
            names = next(self._reader, [])
            for problem in lines.problems.values():
                raise ConfigurationError(problem)
            self.columns = column_names(names)
        except (csv.Error, ConfigurationError) as error:
            raise FileError(f"{label}, line {lines.number}: {error}") from error

    def rows(self) -> Rows:
        """Yield the rows that are not blank, by the number of their first line, or why they are none."""
        names, lines = self.columns, self._lines
        width = len(names)
        while True:
            number = lines.number + 1
            try:
                cells = next(self._reader, None)
            except csv.Error as error:
                yield number, ConfigurationError(self._problem(error))
                continue
            if cells is None:
                return
            if lines.problems:
                yield number, ConfigurationError(lines.problems.popitem()[1])
                lines.problems.clear()
            elif not any(cells):
                continue
            elif lines.exhausted:
                yield number, ConfigurationError("a quotation mark is not closed; the file may be cut off")
            elif len(cells) == width or (len(cells) > width and not any(cells[width:])):
                yield number, dict(zip(names, cells, strict=False))
            else:
                yield number, ConfigurationError(self._wrong_width(len(cells), width))

    def _wrong_width(self, found: int, width: int) -> str:
        more = " (a cell with the sign between cells in it needs quotation marks)" if found > width else ""
        return f"not {width} cells as in the line of names, but {found}{more}"

    def _problem(self, error: csv.Error) -> str:
        if "field larger" in str(error):
            return (
                f"a cell of more than {csv.field_size_limit():,} characters; is a quotation mark not closed?"
            )
        return str(error)


class _Joined:
    """A line, then those of an iterator that goes on after errors."""

    def __init__(self, first: str, lines: Iterator[str]) -> None:
        self._first: str | None = first
        self._lines = lines

    def __iter__(self) -> _Joined:
        return self

    def __next__(self) -> str:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        return next(self._lines)


def json_document(text: Iterator[str], label: str) -> Rows:
    """
    Yield the elements of a JSON document, each by the number of its first line, without holding all of them.

    It is a list, an object with one list of objects, or several values one after the other.
    """
    buffer = _Buffer(text, label)
    if buffer.next_sign() == "[":
        yield from _elements(buffer)
        return
    number, value = buffer.line, buffer.value()
    rest = buffer.next_sign()
    if rest:
        yield number, value
        while buffer.next_sign():
            yield buffer.line, buffer.value()
        return
    yield from ((number, row) for row in _rows_in(value, label))


def _rows_in(value: Any, label: str) -> list[Any]:
    if isinstance(value, dict):
        lists = [one for one in value.values() if isinstance(one, list) and one and isinstance(one[0], dict)]
        if any(name.endswith("_id") or name == "id" for name in value):
            return [value]
        if len(lists) == 1:
            return lists[0]
    raise FileError(f"{label}: not a list of items; for example [{{...}}, {{...}}]")


def _elements(buffer: _Buffer) -> Rows:
    buffer.skip()
    while (sign := buffer.next_sign()) != "]":
        if sign == "":
            raise buffer.error("it ends within a list; the file may be cut off")
        number = buffer.line
        yield number, buffer.value()
        sign = buffer.next_sign()
        if sign == ",":
            buffer.skip()
        elif sign != "]":
            raise buffer.error(
                "a comma is missing" if sign else "it ends within a list; the file may be cut off"
            )
    buffer.skip()
    if buffer.next_sign():
        raise buffer.error("there is more after the list")


class _Buffer:
    """
    A JSON text of which only a part is held, with a position in it.

    Attributes:
        line: Number of the line of the position.
    """

    def __init__(self, text: Iterator[str], label: str) -> None:
        self.line = 1
        self._pieces = text
        self._label = label
        self._text = ""
        self._at = 0
        self._counted = 0

    def next_sign(self) -> str:
        """Move to the next sign that is not blank, and return it; "" at the end."""
        while True:
            rest = len(self._text)
            while self._at < rest and self._text[self._at] in " \t\r\n":
                self._at += 1
            if self._at < rest:
                self.line += self._text.count("\n", self._counted, self._at)
                self._counted = self._at
                return self._text[self._at]
            if not self._more(_CHUNK):
                return ""

    def skip(self) -> None:
        """Move by one sign."""
        self._at += 1

    def value(self) -> Any:
        """Return the value at the position, and move behind it."""
        wanted = _CHUNK
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if not self._more(wanted):
                    raise self.error(f"{error.msg} at column {error.colno}") from error
            except (RecursionError, ValueError) as error:
                raise self.error(message_text(str(error), 200)) from error
            else:
                # A number at the end of what is held may go on.
                if end < len(self._text) or not self._more(wanted):
                    self._at = end
                    return value
            wanted *= 2  # so that a long value is not read again at every line

    def error(self, text: str) -> FileError:
        """Return an error at the position."""
        return FileError(f"{self._label}: not JSON ({text}, after line {self.line})")

    def _more(self, wanted: int) -> bool:
        """Read more, and drop what is behind the position; return whether there was more."""
        parts, size = [], 0
        while size < wanted and (piece := next(self._pieces, None)) is not None:
            parts.append(piece)
            size += len(piece)
        if not parts:
            return False
        self.line += self._text.count("\n", self._counted, self._at)
        self._text = "".join([self._text[self._at :], *parts])
        self._at = self._counted = 0
        return True
