"""A wave of requests on its way to a provider's batch: its lines, and the temporary file that has their prompts."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from secrets import token_hex
from typing import Any, BinaryIO, cast

from .._claim import Claim
from ..errors import StoreError


@contextmanager
def writing_file() -> Iterator[None]:
    """
    Turn an error of a temporary file into one that says what to do.

    Raises:
        StoreError: The file cannot be written or read.
    """
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"a temporary file of a batch cannot be written ({error}); free some space in {tempfile.gettempdir()}, or "
            "set TMPDIR to a folder with room for the prompts and answers of the run"
        ) from error


def temporary_file() -> BinaryIO:
    """Return a temporary file, which is gone with the process."""
    with writing_file():
        return cast("BinaryIO", tempfile.TemporaryFile(prefix="restaurant-llm-batch-"))


class WaveFile:
    """
    A temporary file of lines, which is gone with the process.

    Attributes:
        size: Its size in bytes.
        users: How many flows may still read a line of it.
        sealed: Whether no further line is added.
    """

    def __init__(self) -> None:
        self.size: int = 0
        self.users: int = 0
        self.sealed = False
        self._file: BinaryIO | None = None
        self._at_end = True

    @property
    def file(self) -> BinaryIO:
        """The open file."""
        if self._file is None:
            self._file = temporary_file()
        return self._file

    def append(self, line: bytes) -> int:
        """Add a line, and return where it begins."""
        start, file = self.size, self.file
        with writing_file():
            if not self._at_end:
                file.seek(start)
                self._at_end = True
            file.write(line)
        self.size += len(line)
        return start

    def read(self, start: int, size: int) -> bytes:
        """Return a line."""
        self._at_end = False
        with writing_file():
            self.file.seek(start)
            return self.file.read(size)

    def rewind(self) -> BinaryIO:
        """Return the open file, at its beginning."""
        self._at_end = False
        with writing_file():
            self.file.flush()
            self.file.seek(0)
        return self.file

    def release(self) -> None:
        """Note that a flow reads it no more."""
        self.users -= 1
        self.close_if_unused()

    def close_if_unused(self) -> None:
        """Close the file, unless a flow may read it, or a line be added."""
        if self.sealed and self.users <= 0:
            self.close()

    def close(self) -> None:
        """Close the file."""
        file, self._file = self._file, None
        if file is not None:
            file.close()


class Line:
    """
    A request in a wave.

    Attributes:
        key: The key of its reply in the store.
        task: Task name of the request.
        file: The file that it stands in.
        start, size: Where it stands there.
        weight: Estimated prompt tokens, or bytes.
        sent: Whether its batch is at the service.
        answered: Whether it has its answer.
        is_leaderless: Whether the flow that asked first has gone before it was answered.
        lead: Wakes the flow that asked first, which is also told when the line is sent; None if it does not wait.
        followers: Wake the flows that have asked for the same since.
        users: Number of flows that may still read it.
        result: Its answer, for a flow that was not waiting when it came.
    """

    __slots__ = (
        "answered",
        "file",
        "followers",
        "is_leaderless",
        "key",
        "lead",
        "result",
        "sent",
        "size",
        "start",
        "task",
        "users",
        "weight",
    )

    def __init__(self, key: bytes, task: str, file: WaveFile, start: int, size: int, weight: int) -> None:
        self.key: bytes = key
        self.task: str = task
        self.file: WaveFile = file
        self.start: int = start
        self.size: int = size
        self.weight: int = weight
        self.sent: bool = False
        self.answered: bool = False
        self.is_leaderless: bool = False
        self.lead: Callable[[Any], object] | None = None
        self.followers: tuple[Callable[[Any], object], ...] = ()
        self.users: int = 0
        self.result: Any = None

    def wait_as_lead(self, wake: Callable[[Any], object]) -> None:
        """Call `wake` when the line is sent, or with its answer; at once if it has that."""
        if self.answered:
            wake(self.result)
        else:
            self.lead = wake

    def wait_as_follower(self, wake: Callable[[Any], object]) -> None:
        """Call `wake` with the answer; at once if it is there."""
        if self.answered:
            wake(self.result)
        else:
            self.followers += (wake,)

    @property
    def raw(self) -> bytes:
        """What is sent for it."""
        return self.file.read(self.start, self.size)


class Wave:
    """
    The lines that one batch is to answer.

    Args:
        wave_id: Its id, if an earlier run has sent it; None for a new wave.

    Attributes:
        id: Its id, by which its batch is found again.
        is_adopted: Whether an earlier run, or another process, has sent it.
        is_foreign: Whether another process or run that may be alive waits for it too: it is not ours to cancel.
        is_paid: Whether its lines count as calls of this run; those that another one has sent are found.
        file: The file of its lines; of an adopted wave, of those that this run has asked for.
        lines: The lines by key, in the order in which they stand in the file.
        weight: That of all of its lines.
        file_id: Id of the file at the service, or "".
        batch_id: Id of its batch, or "".
        creating: Whether its batch may exist although its id is not known.
        has_ended: Whether nothing more will happen to its batch.
        is_over: Whether no answer of it is waited for any more.
        done: Keys whose answers have been handed over.
    """

    def __init__(self, wave_id: str | None = None) -> None:
        self.id: str = token_hex(12) if wave_id is None else wave_id
        self.is_adopted: bool = wave_id is not None
        self.is_foreign: bool = False
        self.is_paid: bool = wave_id is None
        self.file: WaveFile = WaveFile()
        self.lines: dict[bytes, Line] = {}
        self.weight: int = 0
        self.file_id: str = ""
        self.batch_id: str = ""
        self.creating: bool = False
        self.has_ended: bool = False
        self.is_over: bool = False
        self.done: set[bytes] = set()
        self._cancel_claim = Claim()

    def claim_cancel(self) -> bool:
        """Take the right to cancel its batch; return False if it is taken. Thread-safe."""
        return self._cancel_claim.take()

    def add(self, key: bytes, raw: bytes, task: str, weight: int) -> Line:
        """Add a line."""
        line = Line(key, task, self.file, self.file.append(raw), len(raw), weight)
        line.sent = self.is_adopted and self.is_paid
        self.lines[key] = line
        self.weight += weight
        return line

    def move(self, lines: Iterable[Line]) -> None:
        """Take lines of another wave, or of the file that this one had."""
        for line in lines:
            raw = line.raw
            line.file.users -= line.users
            line.file, line.start = self.file, self.file.append(raw)
            line.file.users += line.users
            self.lines[line.key] = line
            self.weight += line.weight

    def leave_out(self, keys: Iterable[bytes]) -> list[Line]:
        """Remove and return lines that were not sent yet."""
        gone = [self.lines.pop(key) for key in keys]
        old, self.file = self.file, WaveFile()
        kept, self.lines, self.weight = self.lines, {}, 0
        self.move(kept.values())
        self.file.sealed = True
        old.close_if_unused()
        return gone

    def unanswered(self) -> list[Line]:
        """Return the lines that have no answer."""
        return [line for line in self.lines.values() if not line.answered]
