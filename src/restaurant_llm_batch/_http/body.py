"""
Response bodies: decompressed and counted piece by piece, and refused above a greatest size.

A service, or whoever answers in its place, decides how long an answer is, and a compressed one grows a thousandfold.
So the clients hand over what came from the socket as it is, and `BodyReader` decompresses it in pieces of bounded size
and counts them. No more memory is used than the greatest size and one piece, and the time limit is looked at between
two pieces. Of an error only the beginning is read: more than that is neither shown nor examined.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from anyio.lowlevel import checkpoint

from .._validation import is_whole
from ..errors import ConfigurationError
from .types import TransportError

DEFAULT_MAX_ANSWER = 64 * 2**20
"""Bytes; a completion has some kilobytes, a batch of 2,048 embeddings up to about 50 MiB."""
MAX_ERROR_BYTES = 128 * 1024
"""Bytes of an error's body that are read; messages and codes stand at its beginning."""
ACCEPT_ENCODING = "gzip, deflate"
"""What is asked for: the compressions of the standard library, which decompresses in pieces."""

_PIECE = 256 * 1024
"""Bytes that are decompressed at once, at most."""
_SLICE = 16 * 1024
"""Bytes that the decompressor is given at once: it copies what it has not used."""
_MAX_MEMBERS = 1000
"""Compressed parts that follow each other in one body; each one costs time without giving anything."""
_GZIP, _ZLIB, _RAW = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS
_WINDOWS = {"gzip": _GZIP, "x-gzip": _GZIP, "deflate": _ZLIB}
_GZIP_MARK = b"\x1f\x8b"
_UNREADABLE = frozenset({"br", "zstd", "compress", "x-compress", "dcb", "dcz"})
"""Compressions that were not asked for; other words in this header, such as a character set, are ignored."""


def check_max_answer(value: object, field: str = "max_answer") -> int:
    """
    Return a greatest size in bytes.

    Raises:
        ConfigurationError: If it is not an integer of at least 1.
    """
    if not is_whole(value, 1):
        raise ConfigurationError(
            f"{field} must be a whole number of bytes of at least 1, got {value!r}; "
            f"for example {field}={DEFAULT_MAX_ANSWER}, which is 64 MiB"
        )
    return value


def is_short(status: int, headers: Mapping[str, str], length: int | None, max_answer: int) -> bool:
    """Return whether a successful response says itself that it is not compressed and short enough."""
    return (
        length is not None
        and length <= max_answer
        and 200 <= status < 300
        and "content-encoding" not in headers
    )


class BodyReader:
    """
    The body of one response, as far as it has come.

    Args:
        status: The HTTP status; the body of an error is cut off, any other one refused if it is too long.
        headers: The response headers; names are case-insensitive.
        max_answer: Greatest size in bytes, decompressed.

    Attributes:
        full: Whether nothing more is read of an error.

    Raises:
        TransportError: If the response says that it is longer, or is compressed in a way that was not asked for.
    """

    __slots__ = ("_decoder", "_is_error", "_max", "_pieces", "_received", "_size", "full")

    def __init__(self, status: int, headers: Mapping[str, str], max_answer: int) -> None:
        self._is_error = not 200 <= status < 300
        self._max = min(max_answer, MAX_ERROR_BYTES) if self._is_error else max_answer
        self._pieces: list[bytes] = []
        self._size = self._received = 0
        self._decoder: _Decoder | None = None
        self.full = False
        length = headers.get("content-length", "")
        if not self._is_error and length.isdecimal() and len(length) < 20 and int(length) > max_answer:
            raise answer_too_long(max_answer, int(length))
        encoding = headers.get("content-encoding")
        if encoding is not None:
            self._set_decoder(encoding)

    def _set_decoder(self, encoding: str) -> None:
        names = [name.strip().lower() for name in encoding[:200].split(",")]
        names = [name for name in names if name in _UNREADABLE or name in _WINDOWS]
        if len(names) > 1 or _UNREADABLE.intersection(names):
            if self._is_error:  # its status says enough
                self.full = True
                return
            raise TransportError(
                f"the response's body is compressed as {', '.join(names)[:80]!r}, which was not asked for, and is not "
                f"read; have the server or gateway respect Accept-Encoding: {ACCEPT_ENCODING}",
                request_may_have_been_sent=True,
                unreadable=True,
            )
        if names:
            self._decoder = _Decoder(_WINDOWS[names[0]])

    def feed(self, data: bytes) -> Iterator[None]:
        """
        Add bytes as they came from the server; yields after each piece, for the caller to look at the time.

        Raises:
            TransportError: If the body is too long, or cannot be decompressed.
        """
        self._received += len(data)
        if self._decoder is None:
            self._add(data)
            return
        if self._received > self._max and not self._is_error:
            raise answer_too_long(self._max)
        try:
            for piece in self._decoder.pieces(data):
                self._add(piece)
                yield
                if self.full:
                    return
        except (zlib.error, _TooManyMembers) as error:
            if not self._is_error:
                raise _broken(str(error)) from None
            self.full = True

    def _add(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size > self._max:
            if not self._is_error:
                raise answer_too_long(self._max)
            piece = piece[: len(piece) - (self._size - self._max)]
        self.full = self._is_error and self._size >= self._max
        self._pieces.append(piece)

    def body(self) -> bytes:
        """
        Return the body, after its last bytes were added.

        Raises:
            TransportError: If a compressed body ended early.
        """
        if self._decoder is not None and self._received and not self._is_error and not self._decoder.complete:
            raise _broken("it ended early")
        return self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)


class _TooManyMembers(Exception):
    pass


class _Decoder:
    """Decompresses gzip and deflate in bounded pieces."""

    __slots__ = ("_decompressor", "_members", "_window")

    def __init__(self, window: int) -> None:
        self._window = window
        self._members = 0
        self._decompressor: Any = None

    @property
    def complete(self) -> bool:
        """Whether the compressed data have ended."""
        return self._decompressor is None or bool(self._decompressor.eof)

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """Yield the decompressed pieces of some data, each of at most `_PIECE` bytes."""
        for start in range(0, len(data), _SLICE):
            rest = data[start : start + _SLICE]
            piece = b""
            while rest or len(piece) == _PIECE:  # a full piece may have left output behind
                if self._decompressor is None or self._decompressor.eof:
                    if not self._is_next_member(rest):
                        return
                    self._decompressor = zlib.decompressobj(self._window)
                piece = self._decompressor.decompress(rest, _PIECE)
                rest = self._decompressor.unconsumed_tail or self._decompressor.unused_data
                if piece:
                    yield piece

    def _is_next_member(self, data: bytes) -> bool:
        """Return whether data begin a compressed part; what follows the last part is ignored."""
        self._members += 1
        if self._members > _MAX_MEMBERS:
            raise _TooManyMembers(f"it has more than {_MAX_MEMBERS} compressed parts")
        if self._members > 1:
            return self._window == _GZIP and bool(data) and _GZIP_MARK.startswith(data[:2])
        if self._window == _ZLIB and data[0] & 0xF != 8:
            self._window = _RAW  # some servers leave out the header that "deflate" has
        return True


def answer_too_long(max_answer: int, length: int | None = None) -> TransportError:
    """Return the error for a response with a body above the greatest size."""
    size = f"{length:,} bytes, more than" if length is not None else "more than"
    return TransportError(
        f"the response's body has {size} max_answer={max_answer:,} bytes, and is not read; if answers of this size are "
        "expected, pass a higher one: transport=HTTPTransport(max_answer=...), or QdrantSearch(max_answer=...)",
        request_may_have_been_sent=True,
        unreadable=True,
    )


def _broken(reason: str) -> TransportError:
    return TransportError(
        f"the response's body cannot be decompressed: {reason[:200]}", request_may_have_been_sent=True
    )


def read_body(response: Any, max_answer: int, check: Callable[[], object]) -> bytes:
    """
    Read the body of a response of httpx or httpx2 that a blocking client streams; the caller closes the response.

    Args:
        response: The response, of which only the head has been read.
        max_answer: Greatest size in bytes, decompressed.
        check: Called between two pieces; raises if the time is up.

    Raises:
        TransportError: As `BodyReader`.
    """
    reader = BodyReader(response.status_code, response.headers, max_answer)
    if not reader.full:
        for data in response.iter_raw():
            for _ in reader.feed(data):
                check()
            if reader.full:
                break
    return reader.body()


async def aread_body(response: Any, max_answer: int) -> bytes:
    """Read the body of a response that an async client streams, and close it; see `read_body`."""
    chunks = response.aiter_raw()
    try:
        reader = BodyReader(response.status_code, response.headers, max_answer)
        if not reader.full:
            async for data in chunks:
                for _ in reader.feed(data):
                    await checkpoint()  # other calls go on, and a time limit of the caller holds
                if reader.full:
                    break
        return reader.body()
    finally:
        await response.aclose()
        # To its end, which is near: an async generator that is left half-way is closed by the garbage collector.
        with suppress(Exception):
            async for _ in chunks:
                pass
