"""Lines of text in any encoding: UTF-8, UTF-16 and CP949 are recognised, others named."""

from __future__ import annotations

import codecs
import io
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain

from .._rows.columns import Advice
from .._rows.table import FileError
from ..errors import ConfigurationError
from ._opening import Input

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SAMPLE = 65_536
"""Bytes, from the first that are not ASCII, by which the encoding is found."""
_MOST = 0.9


class Lines:
    """
    The lines of an input as texts, with their ends.

    Without a name of the encoding it is found by the byte order mark, or by the first bytes that are not ASCII: UTF-8
    if most lines with such bytes are, otherwise CP949 if nearly all are and give Hangul.

    Args:
        source: The input.
        encoding: Name of the encoding; None to find it.
        advice: Phrases for error messages.

    Attributes:
        number: Number of the latest line, from 1.
        exhausted: Whether a line was wanted after the last.
        problems: Why lines are no text, by their numbers.

    Raises:
        ConfigurationError: There is no such encoding.
    """

    def __init__(self, source: Input, encoding: str | None, advice: Advice) -> None:
        self.number = 0
        self.exhausted = False
        self.problems: dict[int, str] = {}
        self._source = source
        self._advice = advice
        self._encoding = None if encoding is None else check_encoding(encoding, advice)
        self._lines = self._begin()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        try:
            text = next(self._lines)
        except StopIteration:
            self.exhausted = True
            raise
        except (EOFError, OSError, zlib.error) as error:
            raise self._source.cannot_read(error, f", after line {self.number}") from error
        except UnicodeDecodeError as error:
            raise FileError(
                f"{self._source.label}, line {self.number + 1}: not {error.encoding} text ({error.reason})"
            ) from error
        self.number += 1
        return text

    def _begin(self) -> Iterator[str]:
        encoding = _marked(self._source, self._encoding, self._advice)
        if encoding is not None and _family(encoding) in ("utf-16", "utf-32"):
            return iter(io.TextIOWrapper(self._source.reader, encoding, newline=""))
        head = self._source.peek()
        if b"\r" in head and b"\n" not in head:  # the line ends of old Macs
            found = encoding or self._found(head.split(b"\r"))
            return iter(io.TextIOWrapper(self._source.reader, found, newline=""))
        return self._decoded(encoding, self._source.reader)

    def _decoded(self, encoding: str | None, lines: Iterable[bytes]) -> Iterator[str]:
        rest = iter(lines)
        for raw in rest:
            if encoding is None and not raw.isascii():
                ahead = _ahead(raw, rest)
                encoding = self._found(ahead)
                rest = chain(ahead, rest)
                yield from self._in(encoding, rest)
                return
            if b"\0" in raw and encoding is None:
                raise self._no_text(raw)
            yield self._line(raw, encoding or "ascii")

    def _in(self, encoding: str, lines: Iterable[bytes]) -> Iterator[str]:
        for raw in lines:
            yield self._line(raw, encoding)

    def _line(self, raw: bytes, encoding: str) -> str:
        try:
            return raw.decode(encoding)
        except UnicodeDecodeError as error:
            self.problems[self.number + 1] = self._advise(raw, encoding, error.reason)
            return raw.decode(encoding, "replace")

    def _advise(self, raw: bytes, encoding: str, reason: str) -> str:
        other = "cp949" if _family(encoding) == "utf-8" else "utf-8"
        try:
            raw.decode(other)
            fits = f"; this line is {other}: {self._advice.encoding(other)}, if all are"
        except UnicodeDecodeError:
            fits = f"; name its encoding, for example {self._advice.encoding('cp1252')}, or save it as UTF-8"
        return f"not {'UTF-8' if encoding == 'utf-8' else encoding} text ({reason}){fits}"

    def _found(self, sample: Iterable[bytes]) -> str:
        lines = [line for line in sample if not line.isascii()]
        if any(b"\0" in line for line in lines):
            raise self._no_text(lines[0])
        korean = [text for line in lines if (text := _text(line, "cp949")) is not None]
        utf_8 = sum(_text(line, "utf-8") is not None for line in lines)
        if 2 * utf_8 < len(lines) and len(korean) >= _MOST * len(lines) and _is_hangul("".join(korean)):
            return "cp949"
        return "utf-8"

    def _no_text(self, raw: bytes) -> FileError:
        order = "utf-16-le" if raw[1:2] == b"\0" else "utf-16-be"
        if raw[:1] == b"\0" or raw[1:2] == b"\0":
            return FileError(
                f"{self._source.label} seems to be UTF-16 without its mark; write {self._advice.encoding(order)}"
            )
        return FileError(f"{self._source.label}, line {self.number + 1}: not text")


def pieces(source: Input, encoding: str | None, advice: Advice) -> Iterator[str]:
    """
    Yield the text of an input in pieces, whatever its lines are; the encoding is found as in `Lines`.

    Raises:
        ConfigurationError: There is no such encoding, or it is no text in it.
    """
    named = None if encoding is None else check_encoding(encoding, advice)
    found = _marked(source, named, advice)
    decoder = None if found is None else codecs.getincrementaldecoder(found)()
    data = b"-"
    while data:
        data = source.read()
        if decoder is None and not data.isascii():
            decoder = codecs.getincrementaldecoder(_encoding_of(data))()
        try:
            yield data.decode("ascii") if decoder is None else decoder.decode(data, not data)
        except UnicodeDecodeError as error:
            name = "UTF-8" if error.encoding == "utf-8" else error.encoding
            raise FileError(
                f"{source.label}: not {name} text ({error.reason}); name its encoding, for example "
                f"{advice.encoding('cp1252')}, or save it as UTF-8"
            ) from error


def _encoding_of(data: bytes) -> str:
    """Return "cp949" if the beginning of a text is Korean in it and no UTF-8, and otherwise "utf-8"."""
    with suppress(UnicodeDecodeError):
        codecs.getincrementaldecoder("utf-8")().decode(data)
        return "utf-8"
    with suppress(UnicodeDecodeError):
        if _is_hangul(codecs.getincrementaldecoder("cp949")().decode(data)):
            return "cp949"
    return "utf-8"


def _marked(source: Input, encoding: str | None, advice: Advice) -> str | None:
    """Return the encoding of an input by its mark, which is read if it is UTF-8's, or by its name."""
    head = source.peek(4)
    marked = next((name for mark, name in _MARKS if head.startswith(mark)), None)
    if marked is not None and encoding is not None and _family(encoding) != marked:
        raise FileError(
            f"{source.label} begins with the mark of {marked}, and is not {encoding}; "
            f"write {advice.encoding(marked)}, or leave it out"
        )
    if marked == "utf-8":
        source.reader.read(3)
    return marked or encoding


def decode(source: Input, encoding: str | None, advice: Advice) -> str:
    """
    Return all of an input as one text.

    Raises:
        FileError: It is no text.
    """
    return "".join(pieces(source, encoding, advice))


def check_encoding(name: str, advice: Advice) -> str:
    """
    Return the name of an encoding as Python has it.

    Raises:
        ConfigurationError: There is none of that name.
    """
    try:
        found = codecs.lookup(name)
        "".encode(found.name)
    except (LookupError, TypeError, ValueError):
        raise ConfigurationError(
            f"there is no encoding {name!r}; for example {advice.encoding('cp949')}, utf-8, utf-16 or cp1252"
        ) from None
    return "utf-8" if found.name == "utf-8-sig" else found.name


def _family(encoding: str) -> str:
    return encoding[:6] if encoding.startswith(("utf-16", "utf-32")) else encoding


def _ahead(first: bytes, rest: Iterator[bytes]) -> deque[bytes]:
    found, size = deque([first]), len(first)
    while size < _SAMPLE and (line := next(rest, None)) is not None:
        found.append(line)
        size += len(line)
    return found


def _text(line: bytes, encoding: str) -> str | None:
    try:
        return line.decode(encoding)
    except UnicodeDecodeError:
        return None


def _is_hangul(text: str) -> bool:
    """Return whether most letters beyond ASCII are Hangul syllables."""
    beyond = [sign for sign in text if sign > "\x7f"]
    return 2 * sum("가" <= sign <= "힣" for sign in beyond) > len(beyond)
