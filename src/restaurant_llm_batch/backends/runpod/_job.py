"""RunPod jobs: job state, steps of the job flows, polling policy and queue monitor."""

from __future__ import annotations

import json
from collections.abc import Generator
from dataclasses import dataclass, fields
from hashlib import blake2b
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

from ..._http.border import SafeLog
from ..._http.exchange import HTTPRequest
from ..._store.journal import JobJournal
from ..._validation import check_positive
from ...errors import ConfigurationError
from ...models import LLMRequest
from ...steps import Sleep

RESUMING = "resuming RunPod job %s of an earlier call"

QUEUE_WARNING_AFTER = 30.0
"""Seconds that a job may be queued before the endpoint's health is checked, and between such checks."""

Operation = Literal["run", "status", "cancel", "health"]


@dataclass(frozen=True, slots=True)
class PollingPolicy:
    """
    Exponential backoff between polls of a job; the defaults are those of RunPod's own CLI.

    Attributes:
        wait_initial: Seconds before the first poll.
        multiplier: Factor by which each wait grows; at least 1.
        wait_max: Maximum seconds between polls; at least `wait_initial`.

    Raises:
        ConfigurationError: If a value is not a number above 0, or the values contradict each other.
    """

    wait_initial: float = 0.5
    multiplier: float = 1.5
    wait_max: float = 5.0

    def __post_init__(self) -> None:
        for field in fields(self):
            check_positive(
                f"PollingPolicy.{field.name}",
                getattr(self, field.name),
                f"PollingPolicy({field.name}={field.default!r})",
            )
        if self.multiplier < 1 or self.wait_max < self.wait_initial:
            raise ConfigurationError(
                "PollingPolicy needs multiplier >= 1 and wait_max >= wait_initial, got "
                f"wait_initial={self.wait_initial!r}, multiplier={self.multiplier!r}, wait_max={self.wait_max!r}"
            )

    def after(self, wait: float) -> float:
        """Return the seconds to wait after a wait of `wait` seconds."""
        return min(max(wait * self.multiplier, self.wait_initial), self.wait_max)


class GetTime(NamedTuple):
    """A step that reads the clock; the flow is resumed with monotonic seconds."""


class Send(NamedTuple):
    """
    A step that sends an HTTP request; the flow is resumed with an `HTTPResponse`.

    The driver applies the operation's limits and adds the headers, which hold the key.
    """

    operation: Operation
    request: HTTPRequest


T = TypeVar("T")

JobFlow: TypeAlias = Generator[Send | Sleep | GetTime, Any, T]
"""A generator of requests to RunPod, waits and looks at the clock that returns a `T`."""


def job_fingerprint(backend: str, request: LLMRequest) -> str:
    """Return the journal key of a job: jobs with equal fingerprints have interchangeable outputs."""
    parts = (backend, request.messages, request.schema, request.max_tokens, request.temperature)
    text = json.dumps(parts, sort_keys=True, default=repr)
    return f"runpod:{blake2b(text.encode(), digest_size=8).hexdigest()}"


@dataclass(frozen=True, slots=True)
class JobRecord:
    """
    The journal entry of a call's job, which lets a later run resume the job instead of paying for another.

    Attributes:
        journal: The journal of the call.
        fingerprint: Key of the backend and the request; see `job_fingerprint`.
    """

    journal: JobJournal
    fingerprint: str

    def find(self) -> Job | None:
        """Claim the job that an earlier call recorded; None if there is none. Raises as `JobJournal.claim`."""
        job_id = self.journal.claim(self.fingerprint)
        if job_id is None:
            return None
        return Job(job_id, record=self, found=True)


@dataclass(slots=True, eq=False)
class Job:
    """
    The known state of a RunPod job.

    Attributes:
        id: Its id; empty until RunPod has responded to its submission.
        finished: Whether it is known to have ended.
        record: Its journal entry, or None.
        found: Whether an earlier call submitted it.
        lost: Whether another client cancelled it, or RunPod does not know it.
        handed_over: Whether another call that waits for it is responsible for it.
    """

    id: str = ""
    finished: bool = False
    record: JobRecord | None = None
    found: bool = False
    lost: bool = False
    handed_over: bool = False

    @property
    def alive(self) -> bool:
        """Whether the job exists, may still cost money, and is this call's responsibility."""
        return bool(self.id) and not self.finished and not self.handed_over

    @property
    def may_be_replaced(self) -> bool:
        """Whether it is an earlier call's job without output, so that this call may submit its own."""
        return self.found and self.lost and self.finished

    def on_submitted(self, job_id: str) -> None:
        """Set the id that RunPod returned, and record it in the journal."""
        self.id = job_id
        if self.record is not None:
            self.record.journal.record(self.record.fingerprint, job_id)

    def release_record(self) -> None:
        """
        End the call's claim on the journal entry, when the call ends without a reply.

        Discards the entry of a finished job, so that no later call resumes it.
        """
        if self.record is None or not self.id:
            return
        if self.finished:
            self.record.journal.discard(self.id)
        else:
            self.record.journal.release(self.id)


class QueueMonitor:
    """Decides when to check why jobs stay queued, and warns once per endpoint."""

    def __init__(self, interval: float = QUEUE_WARNING_AFTER) -> None:
        self.interval = interval
        self._next = 0.0
        self._warned = False

    def is_due(self, since: float, now: float) -> bool:
        """Return whether to check now, for a job queued since the time `since`."""
        if self._warned or now < max(since + self.interval, self._next):
            return False
        self._next = now + self.interval
        return True

    def warn(self, endpoint: str, problem: str | None, log: SafeLog) -> None:
        """Log a problem of the endpoint, once."""
        if problem is not None and not self._warned:
            self._warned = True
            log.warning("jobs stay queued at RunPod endpoint %s: %s", endpoint, problem)
