"""What the engine needs of a provider's batch service: its limits, its codec, and its requests, which block."""

from __future__ import annotations

from typing import Any, BinaryIO, Literal, NamedTuple, Protocol, TypeAlias

from .._llm_response import LLMResponse
from ..errors import TransientBackendError
from ..models import LLMRequest


class FileNotVisible(TransientBackendError):
    """The service does not find a file yet that it has."""


class LineUnanswered(TransientBackendError):
    """A batch has ended, or is gone, without an answer to a line: it is at fault, and not the call."""


class BatchProblem(NamedTuple):
    """
    Why a batch has failed.

    Attributes:
        code: The service's code, such as "token_limit_exceeded".
        message: Its message.
        line: The number of the line that is at fault, from 1; None if it is not one line.
        is_quota: Whether too many tokens are enqueued at the service: the same batch may be made later.
        limit: Most tokens that may be enqueued, if the service has said so.
    """

    code: str
    message: str
    line: int | None = None
    is_quota: bool = False
    limit: int | None = None


class BatchState(NamedTuple):
    """
    A batch, as the service describes it.

    Attributes:
        id: Its id.
        status: "validating", "in_progress", "finalizing", "completed", "failed", "expired", "cancelling",
            "cancelled".
        output_file: Id of the file with the answers, or "".
        error_file: Id of the file with the lines that failed, or "".
        problems: Why it has failed.
        input_file: Id of the file with the lines, or "".
        lines: Number of its lines; 0 if the service does not say.
        done: How many of them have been answered, or have failed, likewise.
        answered: How many of them have been answered, so that the file with the answers has them, likewise.
    """

    id: str
    status: str
    output_file: str = ""
    error_file: str = ""
    problems: tuple[BatchProblem, ...] = ()
    input_file: str = ""
    lines: int = 0
    done: int = 0
    answered: int = 0

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.status in ("completed", "failed", "expired", "cancelled")


LineAnswer: TypeAlias = LLMResponse | Exception


def wave_service_of(llm: object) -> WaveService | None:
    """Return the service whose batches carry the calls of a backend; None if each call is made by itself."""
    service: WaveService | None = getattr(llm, "wave_service", None)
    return service


class WaveService(Protocol):
    """
    A service that answers many requests in one batch, at some time.

    Methods with a `BatchState` or a file block, and raise a `BackendError`.

    Attributes:
        name: Its name in the store's journal, without a space.
        online: The backend that makes the same calls one by one.
        max_lines: Most lines of a batch.
        max_bytes: Most bytes of its file.
        max_enqueued_tokens: Most prompt tokens of all batches that are at the service at once; None if not known.
        min_wave: A wave of fewer lines is not worth a batch, if `online_rest`.
        online_rest: Whether the lines of a small wave, and those that are late, are called online.
        wait_at_most: Seconds for a batch, from its creation; None for no limit.
        on_stop: What happens to the batches of a run that ends early.
    """

    name: str
    online: Any
    max_lines: int
    max_bytes: int
    max_enqueued_tokens: int | None
    min_wave: int
    online_rest: bool
    wait_at_most: float | None
    on_stop: Literal["cancel", "keep"]

    def write(self, custom_id: str, request: LLMRequest) -> bytes:
        """Return a line for a request, with its line break."""
        ...

    def read(self, line: bytes, task: str) -> LLMRequest:
        """Return the request of a line."""
        ...

    def rewrite(self, line: bytes) -> bytes:
        """Return a line as it would be written now, with all that was learned since."""
        ...

    def learns(self, line: bytes, error: Exception) -> bool:
        """Return whether a line that was refused may be answered if it is rewritten."""
        ...

    def read_answer(self, raw: bytes) -> tuple[str, LineAnswer] | None:
        """Return the id and the answer of a line of an output or an error file; None if it is none."""
        ...

    def upload(self, file: BinaryIO, name: str) -> str:
        """Upload a file, and return its id."""
        ...

    def create(self, file_id: str, wave: str) -> BatchState:
        """Create the batch of a wave."""
        ...

    def look(self, batch_id: str) -> BatchState:
        """Look at a batch."""
        ...

    def find(self, wave: str, file_id: str) -> BatchState | None:
        """Return the batch of a wave whose id is not known; None if there is none."""
        ...

    def cancel(self, batch_id: str) -> None:
        """Cancel a batch."""
        ...

    def cancel_later(self, batch_ids: list[str]) -> None:
        """Cancel batches without waiting for it."""
        ...

    def fetch(self, file_id: str, into: BinaryIO) -> None:
        """Write the content of a file into another one."""
        ...

    def forget(self, file_id: str) -> None:
        """Delete a file."""
        ...
