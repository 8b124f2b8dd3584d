"""Batch files by hand: the calls that a run waits for as a file, and the answers of such a file in a store."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
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
    What was in files of answers.

    Attributes:
        kept: Number of replies that are in the store now.
        failed: Number of calls that were not answered, but have an error.
        unreadable: Number of lines that are no answers.
        first_error: The first error; None without one.
    """

    def __init__(self) -> None:
        self.kept = self.failed = self.unreadable = 0
        self.first_error: Exception | None = None


def keep_answers(lines: Iterable[bytes], store: Store) -> AnswersKept:
    """
    Put the replies in a file of answers into a store.

    Args:
        lines: The lines of the file.
        store: The store.

    Raises:
        StoreError: The store cannot be written.
    """
    found = AnswersKept()
    last: CommitFuture | None = None
    for raw in lines:
        if not raw.strip():
            continue
        answer = read_answer(raw)
        key = _key(answer[0]) if answer is not None else None
        if answer is None or key is None:
            found.unreadable += 1
        elif isinstance(answer[1], Exception):
            found.failed += 1
            found.first_error = found.first_error or answer[1]
        else:
            last = CommitFuture()
            store.put(key, answer[1], last)
            found.kept += 1
    if last is not None:
        last.result()  # changes are durable in the order in which they were made
    return found


def _key(custom_id: str) -> bytes | None:
    try:
        key = bytes.fromhex(custom_id)
    except ValueError:
        return None
    return key if len(key) == 16 else None
