"""Opened inputs: files, standard input, pipes and objects of Python, unpacked if they are gzip, with their progress."""

from __future__ import annotations

import gzip
import io
import sys
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, Any

from .._rows.table import FileError

STDIN = "-"
GZIP = b"\x1f\x8b"
HEAD = 65_536
"""Bytes from the beginning of an input by which its kind is found."""
_BUFFER = 1 << 20
_IN_MEMORY = 64 << 20
"""Bytes of a pipe that are kept in memory where a format needs to be read from its end."""


class Counted(io.RawIOBase):
    """
    A binary input that counts what is read of it.

    Args:
        file: The input.

    Attributes:
        count: Number of bytes read so far.
    """

    def __init__(self, file: Any) -> None:
        self._file = file
        self.count = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer; return the number of bytes."""
        # One read, so that a slow pipe delivers what it has.
        read = getattr(self._file, "read1", self._file.read)
        data = read(len(buffer)) or b""
        buffer[: len(data)] = data
        self.count += len(data)
        return len(data)


class Input:
    """
    An opened input.

    Args:
        label: Its name for messages.
        file: The input, in bytes.
        name: Its file name, with the ending that says what it is; "" if it has none.
        size: Its size in bytes; None if it is not known.

    Attributes:
        name: The file name, without ``.gz``.
        was_packed: Whether it is gzip.
        names_gzip: Whether its name says that.
        reader: The input, unpacked.
    """

    def __init__(self, label: str, file: Any, name: str, size: int | None) -> None:
        self.label = label
        self.size = size
        self._raw = file
        self._copy: IO[bytes] | None = None
        self._counted = Counted(file)
        self.reader = io.BufferedReader(self._counted, _BUFFER)
        self.names_gzip = name.lower().endswith((".gz", ".gzip"))
        self.name = name.rpartition(".")[0] if self.names_gzip else name
        self.was_packed = self.peek(2) == GZIP
        if self.was_packed:
            unpacked: Any = gzip.GzipFile(fileobj=self.reader)
            self.reader = io.BufferedReader(unpacked, _BUFFER)

    @property
    def bytes_read(self) -> int:
        """Number of bytes read so far, packed ones if it is gzip."""
        return self._counted.count

    def peek(self, count: int = HEAD) -> bytes:
        """Return the first bytes, or those that there are at once."""
        try:
            return self.reader.peek(count)[:count]
        except (EOFError, OSError, zlib.error) as error:
            raise self.cannot_read(error) from error

    def read(self) -> bytes:
        """Return the next piece; b"" at the end."""
        try:
            return self.reader.read1(HEAD)
        except (EOFError, OSError, zlib.error) as error:
            raise self.cannot_read(error) from error

    def seekable(self) -> IO[bytes]:
        """Return the input as a file that can be read from its end."""
        if not self.was_packed and hasattr(self._raw, "seek") and self._raw.seekable():
            self._raw.seek(0)
            return self._raw  # type: ignore[no-any-return]
        copy: IO[bytes] = SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115  # closed by `close`
        self._copy = copy
        while data := self.read():
            copy.write(data)
        copy.seek(0)
        return copy

    def close(self) -> None:
        """Close what was opened here."""
        if self._copy is not None:
            self._copy.close()

    def cannot_read(self, error: BaseException, at: str = "") -> FileError:
        """Return the error of an input that cannot be read further."""
        if isinstance(error, (EOFError, zlib.error, gzip.BadGzipFile)):
            return FileError(f"{self.label}{at}: the gzip file is cut off or damaged; copy it again")
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        return FileError(f"cannot read {self.label}: {reason}")


def check(source: Any) -> None:
    """
    Check that there is an input, before anything is read.

    Raises:
        FileError: There is no such file.
    """
    if isinstance(source, Path) and str(source) != STDIN and not source.exists():
        raise FileError(f"there is no file {str(source)!r}")


@contextmanager
def opened(source: Any) -> Iterator[Input]:
    """
    Open an input for a block.

    Args:
        source: A path, "-" for standard input, or a file that was opened, for bytes or for text.

    Raises:
        FileError: It cannot be read.
    """
    if isinstance(source, Path) and str(source) != STDIN:
        check(source)
        try:
            with source.open("rb", buffering=0) as file:
                size = source.stat().st_size if source.is_file() else None
                with closing(Input(repr(str(source)), file, source.name, size)) as opened_file:
                    yield opened_file
        except OSError as error:
            raise FileError(f"cannot read {str(source)!r}: {error.strerror}") from error
        return
    if isinstance(source, Path):
        stdin: object = sys.stdin
        if stdin is None:
            raise FileError("standard input is closed; name a file")
        with closing(Input("standard input", getattr(sys.stdin, "buffer", sys.stdin), "", None)) as stream:
            yield stream
        return
    name = getattr(source, "name", "")
    given: Any = getattr(source, "buffer", source)
    if isinstance(given, io.TextIOBase):
        given = io.BytesIO(given.read().encode())
    label = repr(name) if isinstance(name, str) and name else "the file"
    with closing(Input(label, given, "", None)) as opened_object:
        yield opened_object
