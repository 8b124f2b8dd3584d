"""
Reply log: a file to which one process appends entries, and which any process reads as far as it is whole.

An entry is its size, its kind, a body, and a hash of kind and body. The writer only appends. So a reader needs no lock,
on no file system: it stops where an entry is cut off, or does not match its hash yet, and goes on from there later.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

HEADER = b"restaurant_llm_batch reply log 1\n"
PROOF_SIZE = 8
"""Bytes of a hash: random damage passes for whole once in 10**19 times."""
_PIECE = 1 << 20
_MAX_ENTRY = 64 << 20
_MAX_VAIN = 5
_prefix = struct.Struct(">IB")


class Entry(NamedTuple):
    """
    An entry of a log.

    Attributes:
        kind: What it says.
        body: Its content.
        proof: The hash of both.
        offset: Where it begins in the file.
    """

    kind: int
    body: bytes
    proof: bytes
    offset: int


def pack(kind: int, body: bytes) -> bytes:
    """Return an entry as it is written."""
    return _prefix.pack(len(body), kind) + body + proof_of(kind, body)


def proof_of(kind: int, body: bytes) -> bytes:
    """Return the hash of an entry."""
    return blake2b(b"%c%b" % (kind, body), digest_size=PROOF_SIZE).digest()


class LogReader:
    """
    Reads the entries of a log that are new.

    Args:
        path: The log.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._next = 0
        self._size = 0  # when it was read last
        self._vain = 0  # readings since then that have found nothing whole

    def new_entries(self) -> Iterator[Entry]:
        """
        Yield the entries behind those that were read.

        Raises:
            OSError: The file cannot be read.
        """
        with suppress(FileNotFoundError), self.path.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            self._vain = self._vain + 1 if size == self._size else 0
            self._size = size
            # What is cut off may be so for a moment only: on a network, the size may be there before the content.
            if size <= self._next or self._vain > _MAX_VAIN:
                return
            if not self._next:
                if file.read(len(HEADER)) != HEADER:
                    return
                self._next = len(HEADER)
            file.seek(self._next)
            unread = b""
            while piece := file.read(_PIECE):
                unread += piece
                place = 0
                while (entry := _unpack(unread, place, self._next)) is not None:
                    length = _prefix.size + len(entry.body) + PROOF_SIZE
                    place += length
                    self._next += length
                    yield entry
                unread = unread[place:]
                if len(unread) > _MAX_ENTRY + _prefix.size + PROOF_SIZE:
                    return  # it is no entry

    def read(self, offset: int) -> Entry | None:
        """
        Return the entry at an offset; None if it is damaged.

        Raises:
            OSError: The file cannot be read.
        """
        with self.path.open("rb", buffering=0) as file:
            file.seek(offset)
            data = file.read(_prefix.size + 4096)
            if len(data) >= _prefix.size:
                left = _prefix.unpack_from(data)[0] + _prefix.size + PROOF_SIZE - len(data)
                while 0 < left <= _MAX_ENTRY and (piece := file.read(left)):
                    data += piece
                    left -= len(piece)
        return _unpack(data, 0, offset)


def _unpack(data: bytes, place: int, offset: int) -> Entry | None:
    """Return the entry at a place, if all of it is there."""
    if len(data) < place + _prefix.size:
        return None
    size, kind = _prefix.unpack_from(data, place)
    begin = place + _prefix.size
    body, proof = data[begin : begin + size], data[begin + size : begin + size + PROOF_SIZE]
    if size > _MAX_ENTRY or len(proof) < PROOF_SIZE or proof != proof_of(kind, body):
        return None
    return Entry(kind, body, proof, offset)


class LogWriter:
    """
    Appends entries to a new log.

    Args:
        path: The log, which must not exist.
        syncs: Whether what is written is on the disk when `append` returns, so that it survives the machine and is
            seen by others. Otherwise the operating system has it, so that it survives the process.

    Raises:
        OSError: The file cannot be made.
    """

    def __init__(self, path: Path, syncs: bool) -> None:
        self.path = path
        self._syncs = syncs
        self._file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND, 0o600)
        self._size = 0
        self.append([HEADER])

    def append(self, entries: list[bytes]) -> list[int]:
        """
        Append entries, and return where each begins.

        Raises:
            OSError: They cannot be written, and nothing of them is in the file.
        """
        left = memoryview(b"".join(entries))
        total = len(left)
        try:
            while left:
                left = left[os.write(self._file, left) :]
            if self._syncs:
                os.fsync(self._file)
        except OSError:
            os.ftruncate(self._file, self._size)  # what follows must not stand behind half an entry
            raise
        offsets, offset = [], self._size
        for entry in entries:
            offsets.append(offset)
            offset += len(entry)
        self._size += total
        return offsets

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)
