"""Batch files by hand: the calls that a run waits for as a file, and the answers of such a file in a store."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, BinaryIO, Literal, NoReturn

from ..._engine.wave_service import BatchState
from ..._llm_response import LLMResponse
from ..._store.store import Store
from ..._store.writer import CommitFuture
from ...errors import ConfigurationError, PermanentBackendError
from ...models import LLMRequest
from ..openai.llm import OpenAILLM
from ._codec import decode_line, encode_line, read_answer, request_of

_NO_BOUND = 2**62


class RequestsWritten(ConfigurationError):
    """The calls were written to the file; they are answered elsewhere. It stops the run."""


class RequestFile:
    """
    A backend for `BatchRunner` that answers nothing: it writes the calls that all items wait for to a file, then stops.

    With a store, replies that are there are used, so that the file has the calls of the next step.

    Args:
        llm: Knows the bodies of requests, and what the store knows the model by.
        path: The file; one that exists is replaced.

    Attributes:
        lines: Number of calls that were written.
    """

    name = "file:by-hand"
    max_lines = max_bytes = _NO_BOUND
    max_enqueued_tokens: int | None = None
    min_wave = 0
    online_rest = False
    wait_at_most: float | None = None
    on_stop: Literal["cancel", "keep"] = "cancel"

    def __init__(self, llm: OpenAILLM, path: Path) -> None:
        self.lines: int = 0
        self.online: Any = llm
        self._path = path

    @property
    def wave_service(self) -> RequestFile:
        """The file, as the engine uses it: a `WaveService`."""
        return self

    @property
    def model(self) -> str:
        """Name of the model."""
        return str(self.online.model)

    @property
    def fingerprint(self) -> str:
        """What the store knows the model by."""
        return str(self.online.fingerprint)

    def complete(self, request: LLMRequest, /) -> NoReturn:
        """Refuse: calls are written together."""
        raise ConfigurationError("a file of requests answers no call")

    def write(self, custom_id: str, request: LLMRequest) -> bytes:
        """Return a line for a request."""
        return encode_line(custom_id, self.online.request_body(request))

    def read(self, line: bytes, task: str) -> LLMRequest:
        """Return the request of a line."""
        return request_of(decode_line(line)[1], task)

    def rewrite(self, line: bytes) -> bytes:
        """Return the line."""
        return line

    def learns(self, line: bytes, error: Exception) -> bool:
        """Return False: there is no service."""
        return False

    def read_answer(self, raw: bytes) -> tuple[str, LLMResponse | Exception] | None:
        """Return the id and the answer of a line."""
        return read_answer(raw)

    def upload(self, file: BinaryIO, name: str) -> str:
        """Write the lines to the file, all of them or none."""
        partial = self._path.with_name(f"{self._path.name}.partial")
        with partial.open("wb") as target:
            shutil.copyfileobj(file, target)
        partial.replace(self._path)
        with self._path.open("rb") as written:
            self.lines = sum(1 for _ in written)
        return name

    def create(self, file_id: str, wave: str) -> NoReturn:
        """Stop the run: the file is there."""
        raise RequestsWritten(f"{self.lines:,} calls were written to {self._path}")

    def look(self, batch_id: str) -> BatchState:
        """Refuse: there are no batches."""
        raise PermanentBackendError("a file has no batches", status=404)

    def find(self, wave: str, file_id: str) -> BatchState | None:
        """Return None: there are no batches."""
        return None

    def cancel(self, batch_id: str) -> None:
        """Do nothing."""

    def cancel_later(self, batch_ids: list[str]) -> None:
        """Do nothing."""

    def fetch(self, file_id: str, into: BinaryIO) -> None:
        """Refuse: there are no batches."""
        raise PermanentBackendError("a file has no batches", status=404)

    def forget(self, file_id: str) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class AnswersKept:
    """
    What was in files of answers, which are read one after the other.

    Args:
        store: The store that the replies are put into.
        asked: Keys of the calls that were written to batch files, as far as they are known.

    Attributes:
        unreadable: Number of lines that are no answers.
        duplicates: Number of lines whose call has an answer before; the first reply of a call is kept.
        foreign: Number of calls that no batch file asked, as far as is known: 0 if `asked` is empty.
        first_error: The first error of the file that was read last; None without one.
    """

    def __init__(self, store: Store, asked: AbstractSet[bytes] = frozenset()) -> None:
        self.unreadable: int = 0
        self.duplicates: int = 0
        self.foreign: int = 0
        self.first_error: Exception | None = None
        self._store = store
        self._asked = asked
        self._answered: set[bytes] = set()
        self._failed: set[bytes] = set()

    @property
    def kept(self) -> int:
        """Number of replies that are in the store now."""
        return len(self._answered)

    @property
    def failed(self) -> int:
        """Number of calls that were not answered, but have an error."""
        return len(self._failed)

    def keep(self, lines: Iterable[bytes]) -> None:
        """
        Put the replies in a file of answers into the store.

        Args:
            lines: The lines of the file.

        Raises:
            StoreError: The store cannot be written.
        """
        self.first_error = None
        last: CommitFuture | None = None
        for raw in lines:
            if not raw.strip():
                continue
            answer = read_answer(raw)
            key = _key(answer[0]) if answer is not None else None
            if answer is None or key is None:
                self.unreadable += 1
            elif self._is_new(key, answer[1]) and not isinstance(answer[1], Exception):
                last = CommitFuture()
                self._store.put(key, answer[1], last)
        if last is not None:
            last.result()  # changes are durable in the order in which they were made

    def _is_new(self, key: bytes, answer: LLMResponse | Exception) -> bool:
        """Count an answer; return whether it is the first of its call, or its first reply after errors."""
        known = key in self._answered or key in self._failed
        self.duplicates += known
        self.foreign += not known and bool(self._asked) and key not in self._asked
        if isinstance(answer, Exception):
            if key not in self._answered:
                self._failed.add(key)
                self.first_error = self.first_error or answer
            return not known
        if key in self._answered:
            return False
        self._failed.discard(key)
        self._answered.add(key)
        return True


def keys_of(path: Path) -> Iterator[bytes]:
    """Yield the key of each call in a batch file."""
    with path.open("rb") as lines:
        for raw in lines:
            key = _key(decode_line(raw)[0])
            if key is not None:
                yield key


def _key(custom_id: str) -> bytes | None:
    try:
        key = bytes.fromhex(custom_id)
    except ValueError:
        return None
    return key if len(key) == 16 else None
