"""
Files and batches of the fault server: uploaded files, and batches of chat completions that end by the clock.

Nothing runs in the background. `BatchQueue.look` replays what has happened to a batch until the current time, so its
state does not depend on how often it is read.

A batch takes `Faults.batch_seconds`: it is validated for a tenth of them, works for eight tenths, and finalizes for the
last. Its answers are made when it has ended, in an order that has nothing to do with that of its lines.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

from pydantic_core import to_json

from ._requests import ChatRequest, read_chat, read_json
from ._responses import Usage

BatchFault: TypeAlias = Literal[
    "batch_over_quota",
    "batch_invalid_line",
    "batch_fails",
    "batch_expires",
    "batch_is_cancelled",
    "batch_vanishes",
    "batch_never_ends",
    "batch_lost",
    "batch_is_slow",
    "file_hidden",
    "output_hidden",
    "answers_twice",
    "answers_missing",
    "errors_only",
]
"""What may happen to a batch; see `Faults.batch_faults`."""
BATCH_FAULTS: tuple[str, ...] = get_args(BatchFault)

MAX_LINES = 50_000
MAX_BYTES = 200_000_000
CREATED = 1_700_000_000
HIDDEN_FOR = 2
"""Requests that do not find a hidden file."""
SLOWER = 10
"""How much longer a slow batch takes."""
ENDED = frozenset({"completed", "failed", "expired", "cancelled"})


class Line(NamedTuple):
    """A line of a batch."""

    custom_id: str
    request: ChatRequest


class Answer(NamedTuple):
    """What became of a line: the body and status of a response, and the tokens of its completion."""

    status: int
    body: Any
    usage: Usage | None


AnswerLine: TypeAlias = Callable[[ChatRequest], Answer]


@dataclass(slots=True, eq=False)
class ServerFile:
    """
    A file.

    Attributes:
        id: Its id.
        name: Its name.
        content: Its bytes.
        hidden: Requests of its content that do not find it yet.
        refused: Batches that were refused because it was not found.
    """

    id: str
    name: str
    content: bytes
    hidden: int = 0
    refused: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return OpenAI's description of it."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": len(self.content),
            "created_at": CREATED,
            "filename": self.name,
            "purpose": "batch",
            "status": "processed",
        }


@dataclass(slots=True, eq=False)
class ServerBatch:
    """
    A batch.

    Attributes:
        id: Its id.
        file_id: Its input file.
        endpoint: The endpoint that its lines are for.
        metadata: What the client has said of it.
        created_at: When it was created.
        seconds: Seconds that it takes.
        fault: What happens to it, or None.
        lines: Its lines.
        tokens: Tokens of their prompts, which count against the quota while it is alive.
        status: Its status, as of the latest look.
        errors: Why it has failed.
        output: Its output file, or None.
        error_file: Its error file, or None.
        done: Lines that have been answered, or have failed.
        cancelled_at: When it was cancelled; None if it was not.
    """

    id: str
    file_id: str
    endpoint: str
    metadata: Mapping[str, Any] | None
    created_at: float
    seconds: float
    fault: str | None
    lines: list[Line] = field(default_factory=list)
    tokens: int = 0
    status: str = "validating"
    errors: list[dict[str, Any]] = field(default_factory=list)
    output: str | None = None
    error_file: str | None = None
    done: tuple[int, int] = (0, 0)
    cancelled_at: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return OpenAI's description of it."""
        completed, failed = self.done
        errors = {"object": "list", "data": self.errors} if self.errors else None
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": self.endpoint,
            "errors": errors,
            "input_file_id": self.file_id,
            "completion_window": "24h",
            "status": self.status,
            "output_file_id": self.output,
            "error_file_id": self.error_file,
            "created_at": CREATED + int(self.created_at),
            "expires_at": CREATED + int(self.created_at) + 86_400,
            "request_counts": {"total": len(self.lines), "completed": completed, "failed": failed},
            "metadata": self.metadata,
        }


class BatchQueue:
    """
    All files and batches of a server.

    Args:
        answer: Answers a line.

    Attributes:
        files: Files by id.
        all: Batches by id, in the order of their creation.
        lines: Number of lines of all batches that were not refused as a whole.
        paid: Number of lines that were answered with a completion.
        paid_twice: How many of these had been paid for in an earlier line, with the same messages.
        submitted_twice: Number of lines that were submitted while another batch had the same messages and was alive, or
            had answered them.
        usage: Tokens of the completions.
    """

    def __init__(self, answer: AnswerLine) -> None:
        self.files: dict[str, ServerFile] = {}
        self.all: dict[str, ServerBatch] = {}
        self.lines = self.paid = self.paid_twice = self.submitted_twice = 0
        self.usage = Usage(0, 0)
        self._answer = answer
        self._paid: Counter[str] = Counter()
        self._alive: Counter[str] = Counter()
        self._numbers = 0

    def add_file(self, name: str, content: bytes) -> ServerFile:
        """Keep a file."""
        self._numbers += 1
        file = ServerFile(f"file-{self._numbers:06d}", name, content)
        self.files[file.id] = file
        return file

    def statuses(self) -> dict[str, int]:
        """Return the number of batches by status."""
        return dict(sorted(Counter(batch.status for batch in self.all.values()).items()))

    def create(
        self,
        file: ServerFile,
        endpoint: str,
        metadata: Any,
        fault: str | None,
        seconds: float,
        quota: int | None,
        now: float,
    ) -> ServerBatch:
        """Create a batch of the lines of a file."""
        number = len(self.all) + 1
        seconds *= SLOWER if fault == "batch_is_slow" else 1
        batch = ServerBatch(f"batch_{number:06d}", file.id, endpoint, metadata, now, seconds, fault)
        batch.errors = _read_lines(file.content, endpoint, batch.lines)
        batch.tokens = sum(line.request.prompt_tokens for line in batch.lines)
        enqueued = sum(one.tokens for one in self.all.values() if self.look(one, now).status not in ENDED)
        if not batch.errors:
            if fault == "batch_over_quota" or (quota is not None and enqueued + batch.tokens > quota):
                batch.errors = [_over_quota(quota or enqueued)]
            elif fault == "batch_invalid_line":
                batch.errors = [_invalid(1, "invalid_request", "This line cannot be processed.")]
            elif fault == "batch_fails":
                batch.errors = [
                    _invalid(None, "server_error", "The server had an error while it read the file.")
                ]
        if not batch.errors:
            self.lines += len(batch.lines)
            digests = [line.request.digest for line in batch.lines]
            self.submitted_twice += sum(self._alive[one] > 0 or self._paid[one] > 0 for one in digests)
            self._alive.update(digests)
        self.all[batch.id] = batch
        return batch

    def look(self, batch: ServerBatch, now: float) -> ServerBatch:
        """Let a batch be as it is at a moment."""
        if batch.status in ENDED:
            return batch
        passed, lasts = now - batch.created_at, batch.seconds
        if batch.errors:
            if passed >= 0.1 * lasts:
                batch.status = "failed"
        elif batch.cancelled_at is not None:
            self._end(batch, "cancelled", _share(batch.cancelled_at - batch.created_at, lasts, batch.fault))
        elif batch.fault == "batch_never_ends":
            batch.status = "in_progress"
        elif passed >= lasts:
            status = {"batch_expires": "expired", "batch_is_cancelled": "cancelled"}.get(
                batch.fault or "", "completed"
            )
            self._end(batch, status, 1.0 if status == "completed" else 0.5)
        else:
            batch.status = (
                "validating"
                if passed < 0.1 * lasts
                else "in_progress"
                if passed < 0.9 * lasts
                else "finalizing"
            )
        return batch

    def cancel(self, batch: ServerBatch, now: float) -> ServerBatch:
        """Cancel a batch: it is "cancelling", and "cancelled" when it is looked at next."""
        if self.look(batch, now).status not in ENDED and batch.cancelled_at is None:
            batch.cancelled_at = now
            batch.status = "cancelling"
        return batch

    def _end(self, batch: ServerBatch, status: str, share: float) -> None:
        batch.status = status
        for line in batch.lines:
            self._alive[line.request.digest] -= 1
        done = batch.lines[: round(share * len(batch.lines))]
        outputs: list[bytes] = []
        errors: list[bytes] = []
        for number, line in enumerate(done):
            if batch.fault == "answers_missing" and number % 3 == 0:
                continue
            answer = self._answer(line.request)
            if batch.fault == "errors_only":
                error = {"message": "The server had an error.", "type": "server_error", "code": None}
                answer = Answer(500, {"error": error}, None)
            if answer.usage is not None:
                self._pay(line.request.digest, answer.usage)
            written = _written(batch, number, line, answer)
            (outputs if answer.status == 200 else errors).append(written)
        errors += (_not_done(batch, line, status) for line in batch.lines[len(done) :])
        batch.done = len(outputs), len(errors)
        if batch.fault == "answers_twice":
            outputs += outputs
        batch.output = self._result(outputs, "output", batch) if outputs else None
        batch.error_file = self._result(errors, "error", batch) if errors else None

    def _pay(self, digest: str, usage: Usage) -> None:
        self.paid += 1
        self.paid_twice += self._paid[digest] > 0
        self._paid[digest] += 1
        self.usage = Usage(self.usage.prompt + usage.prompt, self.usage.completion + usage.completion)

    def _result(self, written: list[bytes], kind: str, batch: ServerBatch) -> str:
        # In an order that has nothing to do with that of the lines.
        written = sorted(written, key=lambda one: blake2b(one, digest_size=8).digest())
        file = self.add_file(f"{batch.id}_{kind}.jsonl", b"".join(written))
        file.hidden = HIDDEN_FOR if batch.fault == "output_hidden" else 0
        return file.id


def _share(passed: float, lasts: float, fault: str | None) -> float:
    """Return the share of a cancelled batch's lines that were done before."""
    return 0.5 if fault == "batch_never_ends" else min(1.0, passed / lasts) if lasts else 0.0


def _written(batch: ServerBatch, number: int, line: Line, answer: Answer) -> bytes:
    name = f"{batch.id}_req_{number}"
    response = {"status_code": answer.status, "request_id": f"req_{number}", "body": answer.body}
    return to_json({"id": name, "custom_id": line.custom_id, "response": response, "error": None}) + b"\n"


def _not_done(batch: ServerBatch, line: Line, status: str) -> bytes:
    code = "batch_expired" if status == "expired" else "batch_cancelled"
    error = {"code": code, "message": f"This request was not executed before the batch was {status}."}
    return to_json({"id": batch.id, "custom_id": line.custom_id, "response": None, "error": error}) + b"\n"


def _read_lines(content: bytes, endpoint: str, into: list[Line]) -> list[dict[str, Any]]:
    """Read the lines of an input file; return what is wrong with it."""
    errors: list[dict[str, Any]] = []
    seen: set[str] = set()
    for number, raw in enumerate(content.splitlines(), 1):
        line = read_json(raw)
        request = read_chat(line.get("body")) if isinstance(line, dict) else None
        custom_id = line.get("custom_id") if isinstance(line, dict) else None
        if request is None or not isinstance(custom_id, str):
            errors.append(_invalid(number, "invalid_json_line", "This line is no request."))
        elif line.get("method") != "POST" or line.get("url") != endpoint:
            errors.append(_invalid(number, "invalid_url", "The URL is not that of the batch."))
        elif custom_id in seen:
            errors.append(_invalid(number, "duplicate_custom_id", "The custom_id is not unique."))
        else:
            seen.add(custom_id)
            into.append(Line(custom_id, request))
    if not into and not errors:
        errors.append(_invalid(None, "empty_file", "The input file is empty."))
    if len(into) > MAX_LINES or len(content) > MAX_BYTES:
        errors.append(_invalid(None, "too_many_tasks", "The input file is too large."))
    return errors


def _invalid(line: int | None, code: str, message: str) -> dict[str, Any]:
    return {"code": code, "message": message, "param": None, "line": line}


def _over_quota(quota: int) -> dict[str, Any]:
    message = (
        f"Enqueued token limit reached for this model in this organization. Limit: {quota:,} enqueued tokens. "
        "Please try again once some in_progress batches have been completed."
    )
    return _invalid(None, "token_limit_exceeded", message)
