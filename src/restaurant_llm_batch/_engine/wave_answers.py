"""
The answers of a batch: its files are downloaded, and their lines handed out in pieces.

Theory of operation. Both files, that with answers and that with errors, are in temporary files before the first line is
handed out. Whatever keeps them from being downloaded whole, nothing is lost by it: the answers stay at the service, and
a file that ends in the middle of a line, has no answer in it, or has fewer lines than the batch has answers is
downloaded again.

Lines come in the order of the service. Those of both files are spread evenly over each other, as if the calls had been
made one by one: a few calls in ten thousand that fail are then no row of failures, which would stop the run
(`StopConditions`).

No line is trusted: it may be torn, endless, of another batch, or come twice. What is no answer is passed over.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from types import TracebackType
from typing import BinaryIO, NamedTuple, Self

from ..errors import PermanentBackendError
from ..steps import Sleep
from . import wave_timing as timing
from .wave_file import temporary_file, writing_file
from .wave_requests import WaveSteps, retried
from .wave_service import LineAnswer
from .waves import Waves, log

MAX_LINE = 16 * 2**20
"""Bytes of the longest line that is read; an answer has some kilobytes."""
_MAX_PIECE = 4 * 2**20
"""Bytes of lines that are handed out at once, but for the last of them."""
_PROBED = 1000
"""Lines of a file among which there has to be an answer."""
_DOWNLOADS = 3

Answer = tuple[bytes, LineAnswer]
"""The key of a line, and its answer."""


class _Read(NamedTuple):
    """A file that was downloaded, and its size."""

    file: BinaryIO
    size: int


class _Fetched(NamedTuple):
    """The size of a file, and the number of its lines that are not blank."""

    size: int
    lines: int


class AnswerFiles:
    """
    The files of one batch; a context manager, at whose end they are gone.

    Args:
        waves: The waves of the run.
    """

    def __init__(self, waves: Waves) -> None:
        self._waves = waves
        self._files: list[_Read] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for read in self._files:
            read.file.close()

    def download(self, file_id: str, answered: int = 0) -> WaveSteps[None]:
        """
        Download a file.

        Args:
            file_id: Its id.
            answered: Number of answers that it has, as far as the service says.

        Raises:
            FileNotVisible: The service does not find it.
            BackendError: It cannot be downloaded, or has no answers in it.
            StoreError: There is no room for it on the disk.
        """
        file = temporary_file()
        try:
            waits = timing.waits()
            for left in reversed(range(_DOWNLOADS)):
                fetch = partial(_fetch, file_id, file, self._waves)
                size, lines = yield from retried(self._waves, fetch, timing.LONG_TRIES)
                fault = self._fault_of(file, size) or (_SHORT if lines < answered else "")
                if not fault:
                    break
                if left:
                    log.warning("the file %r of a batch %s, and is downloaded again", file_id, fault)
                    yield Sleep(next(waits))
            else:
                if fault == _NO_ANSWERS:
                    raise PermanentBackendError(f"the file {file_id} {fault}")
                log.warning("the file %r of a batch still %s; what is there is used", file_id, fault)
            file.seek(0)
        except BaseException:
            file.close()
            raise
        self._files.append(_Read(file, size))

    def pieces(self) -> Iterator[list[Answer]]:
        """Yield the answers in all files, in pieces."""
        left = {index: 0.0 for index, read in enumerate(self._files) if read.size}
        while left:
            piece: list[Answer] = []
            lines = taken = 0
            while left and lines < timing.SLICE and taken < _MAX_PIECE:
                index = min(left, key=left.__getitem__)
                file, size = self._files[index]
                raw = read_line(file)
                if raw is None:
                    del left[index]
                    continue
                left[index] = file.tell() / size
                lines, taken = lines + 1, taken + len(raw)
                found = self._answer(raw)
                if found is not None:
                    piece.append(found)
            yield piece

    def _answer(self, raw: bytes) -> Answer | None:
        found = self._waves.service.read_answer(raw) if raw else None
        if found is None:
            return None
        try:
            key = bytes.fromhex(found[0])
        except ValueError:
            return None
        return key, found[1]

    def _fault_of(self, file: BinaryIO, size: int) -> str:
        """Return what is wrong with a file, or ""."""
        if not size:
            return ""
        file.seek(0)
        seen = 0
        while not self._is_answer(read_line(file) or b""):
            seen += 1
            if file.tell() >= size or seen >= _PROBED:
                return _NO_ANSWERS
        file.seek(max(0, size - MAX_LINE))
        last = file.read(MAX_LINE).rpartition(b"\n")[2]
        return _TORN if last.strip() and not self._is_answer(last) else ""

    def _is_answer(self, raw: bytes) -> bool:
        return bool(raw) and self._waves.service.read_answer(raw) is not None


_NO_ANSWERS, _TORN = "has no answers in it", "ends in the middle of a line"
_SHORT = "has fewer lines than the batch has answers"


def read_line(file: BinaryIO) -> bytes | None:
    """Return the next line, b"" in place of one that is too long, or None at the end of the file."""
    raw = file.readline(MAX_LINE)
    if not raw:
        return None
    if len(raw) < MAX_LINE or raw.endswith(b"\n"):
        return raw
    while raw and not raw.endswith(b"\n"):
        raw = file.readline(MAX_LINE)
    return b""


def _fetch(file_id: str, into: BinaryIO, waves: Waves) -> _Fetched:
    """Download a file."""
    with writing_file():
        into.seek(0)
        into.truncate()
    waves.service.fetch(file_id, into)
    with writing_file():
        into.flush()
        size = into.tell()
        into.seek(0)
        lines = sum(not raw.isspace() for raw in iter(partial(read_line, into), None))
    return _Fetched(size, lines)
