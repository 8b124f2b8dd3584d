"""What RunPod's flows are made of: their steps, the job they are about, and when they look at it."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, fields
from hashlib import blake2b
from math import isfinite
from typing import Literal, NamedTuple

from ..._http.exchange import Exchange
from ..._store.journal import Journal
from ...errors import ConfigurationError
from ...models import LLMRequest

log = logging.getLogger("restaurant_llm_batch")

LONG_IN_QUEUE = 30.0
"""Seconds in the queue after which the endpoint's health is looked at, and between such looks."""

Operation = Literal["run", "status", "cancel", "health"]


@dataclass(frozen=True, slots=True)
class Polling:
    """
    How often a job is looked at; the defaults are those of RunPod's own command line.

    Attributes:
        first: Seconds before the first look.
        growth: How much longer each wait is than the one before.
        longest: The longest wait in seconds.

    Raises:
        ConfigurationError: When they make no series of waits.
    """

    first: float = 0.5
    growth: float = 1.5
    longest: float = 5.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not isfinite(value) or value <= 0:
                raise ConfigurationError(f"Polling.{field.name} must be a number above 0, got {value!r}")
        if self.growth < 1 or self.longest < self.first:
            raise ConfigurationError(
                "Polling needs growth >= 1 and longest >= first, got "
                f"first={self.first!r}, growth={self.growth!r}, longest={self.longest!r}"
            )

    def after(self, wait: float) -> float:
        """Return the wait that follows a wait."""
        return min(max(wait * self.growth, self.first), self.longest)


class Now(NamedTuple):
    """Ask for the time. Answered with monotonic seconds."""


class Send(NamedTuple):
    """Ask for an exchange. Answered with an `Answer`; the key is added by whoever sends it."""

    operation: Operation
    exchange: Exchange


def job_mark(identity: str, request: LLMRequest) -> str:
    """Return what a job is noted with: with equal marks, jobs may have each other's answers."""
    asked = (identity, request.messages, request.schema, request.max_tokens, request.temperature)
    written = json.dumps(asked, sort_keys=True, default=repr)
    return f"runpod:{blake2b(written.encode(), digest_size=8).hexdigest()}"


@dataclass(frozen=True, slots=True)
class Notes:
    """
    Where a call notes its job.

    Attributes:
        journal: The journal of its question.
        mark: Says what is asked, and of whom; see `job_mark`.
    """

    journal: Journal
    mark: str

    def find(self) -> Job | None:
        """Return the job that was noted before, or None; raises as `Journal.take` does."""
        job_id = self.journal.take(self.mark)
        if job_id is None:
            return None
        log.info("RunPod job %s of an earlier call is watched again", job_id)
        return Job(job_id, notes=self, found=True)


@dataclass(slots=True, eq=False)
class Job:
    """
    A job, as far as it is known.

    Attributes:
        id: Its id; empty until its submission is answered.
        over: Whether it is known to have ended.
        notes: Where it is noted, if anywhere.
        found: Whether an earlier call has submitted it.
        gone: Whether it was cancelled by somebody else, or is unknown to RunPod.
        left: Whether it is left to another call that waits for it.
    """

    id: str = ""
    over: bool = False
    notes: Notes | None = None
    found: bool = False
    gone: bool = False
    left: bool = False

    @property
    def alive(self) -> bool:
        """Whether it was made, may still cost money, and is nobody else's business."""
        return bool(self.id) and not self.over and not self.left

    @property
    def may_be_replaced(self) -> bool:
        """Whether it is an earlier call's that has come to nothing, so that this call makes its own."""
        return self.found and self.gone and self.over

    def made(self, job_id: str) -> None:
        """Note its id, which its submission has told."""
        self.id = job_id
        if self.notes is not None:
            self.notes.journal.note(self.notes.mark, job_id)

    def unanswered(self) -> None:
        """Note that its call is over without an answer: once it has ended nobody is to look for it again."""
        if self.notes is None or not self.id:
            return
        if self.over:
            self.notes.journal.forget(self.id)
        else:
            self.notes.journal.leave(self.id)


class QueueWatch:
    """Says when to look why jobs wait so long, and warns once."""

    def __init__(self, every: float = LONG_IN_QUEUE) -> None:
        self.every = every
        self._next = 0.0
        self._warned = False

    def is_due(self, since: float, now: float) -> bool:
        """Tell whether to look, for a job that has been in the queue since then."""
        if self._warned or now < max(since + self.every, self._next):
            return False
        self._next = now + self.every
        return True

    def warn(self, endpoint: str, trouble: str | None) -> None:
        """Warn of trouble, the first time there is some."""
        if trouble is not None and not self._warned:
            self._warned = True
            log.warning("jobs wait in the queue of RunPod endpoint %s: %s", endpoint, trouble)
