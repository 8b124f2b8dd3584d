"""What RunPod's flows are made of: their steps, the job they are about, and when they look at it."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, fields
from hashlib import blake2b
from math import isfinite
from typing import Literal, NamedTuple

from ..._http.exchange import HTTPRequest
from ..._store.journal import JobJournal
from ...errors import ConfigurationError
from ...models import LLMRequest

log = logging.getLogger("restaurant_llm_batch")

QUEUE_WARNING_AFTER = 30.0
"""Seconds in the queue after which the endpoint's health is looked at, and between such looks."""

Operation = Literal["run", "status", "cancel", "health"]


@dataclass(frozen=True, slots=True)
class PollingPolicy:
    """
    How often a job is looked at; the defaults are those of RunPod's own command line.

    Attributes:
        wait_initial: Seconds before the first look.
        multiplier: How much longer each wait is than the one before.
        wait_max: The longest wait in seconds.

    Raises:
        ConfigurationError: When they make no series of waits.
    """

    wait_initial: float = 0.5
    multiplier: float = 1.5
    wait_max: float = 5.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not isfinite(value) or value <= 0:
                raise ConfigurationError(
                    f"PollingPolicy.{field.name} must be a number above 0, got {value!r}"
                )
        if self.multiplier < 1 or self.wait_max < self.wait_initial:
            raise ConfigurationError(
                "PollingPolicy needs multiplier >= 1 and wait_max >= wait_initial, got "
                f"wait_initial={self.wait_initial!r}, multiplier={self.multiplier!r}, wait_max={self.wait_max!r}"
            )

    def after(self, wait: float) -> float:
        """Return the wait that follows a wait."""
        return min(max(wait * self.multiplier, self.wait_initial), self.wait_max)


class GetTime(NamedTuple):
    """Ask for the time. Answered with monotonic seconds."""


class Send(NamedTuple):
    """Ask for an exchange. Answered with an `HTTPResponse`; the key is added by whoever sends it."""

    operation: Operation
    request: HTTPRequest


def job_fingerprint(backend: str, request: LLMRequest) -> str:
    """Return what a job is noted with: with equal marks, jobs may have each other's answers."""
    asked = (backend, request.messages, request.schema, request.max_tokens, request.temperature)
    written = json.dumps(asked, sort_keys=True, default=repr)
    return f"runpod:{blake2b(written.encode(), digest_size=8).hexdigest()}"


@dataclass(frozen=True, slots=True)
class JobRecord:
    """
    Where a call notes its job.

    Attributes:
        journal: The journal of its question.
        fingerprint: Says what is asked, and of whom; see `job_fingerprint`.
    """

    journal: JobJournal
    fingerprint: str

    def find(self) -> Job | None:
        """Return the job that was noted before, or None; raises as `JobJournal.claim` does."""
        job_id = self.journal.claim(self.fingerprint)
        if job_id is None:
            return None
        log.info("RunPod job %s of an earlier call is watched again", job_id)
        return Job(job_id, record=self, found=True)


@dataclass(slots=True, eq=False)
class Job:
    """
    A job, as far as it is known.

    Attributes:
        id: Its id; empty until its submission is answered.
        finished: Whether it is known to have ended.
        record: Where it is noted, if anywhere.
        found: Whether an earlier call has submitted it.
        lost: Whether it was cancelled by somebody else, or is unknown to RunPod.
        handed_over: Whether it is left to another call that waits for it.
    """

    id: str = ""
    finished: bool = False
    record: JobRecord | None = None
    found: bool = False
    lost: bool = False
    handed_over: bool = False

    @property
    def alive(self) -> bool:
        """Whether it was made, may still cost money, and is nobody else's business."""
        return bool(self.id) and not self.finished and not self.handed_over

    @property
    def may_be_replaced(self) -> bool:
        """Whether it is an earlier call's that has come to nothing, so that this call makes its own."""
        return self.found and self.lost and self.finished

    def made(self, job_id: str) -> None:
        """Note its id, which its submission has told."""
        self.id = job_id
        if self.record is not None:
            self.record.journal.record(self.record.fingerprint, job_id)

    def unanswered(self) -> None:
        """Note that its call is over without an answer: once it has ended nobody is to look for it again."""
        if self.record is None or not self.id:
            return
        if self.finished:
            self.record.journal.discard(self.id)
        else:
            self.record.journal.release(self.id)


class QueueMonitor:
    """Says when to look why jobs wait so long, and warns once."""

    def __init__(self, every: float = QUEUE_WARNING_AFTER) -> None:
        self.every = every
        self._next = 0.0
        self._warned = False

    def is_due(self, since: float, now: float) -> bool:
        """Tell whether to look, for a job that has been in the queue since then."""
        if self._warned or now < max(since + self.every, self._next):
            return False
        self._next = now + self.every
        return True

    def warn(self, endpoint: str, problem: str | None) -> None:
        """Warn of trouble, the first time there is some."""
        if problem is not None and not self._warned:
            self._warned = True
            log.warning("jobs wait in the queue of RunPod endpoint %s: %s", endpoint, problem)
