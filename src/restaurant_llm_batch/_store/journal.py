"""
Job journal: records the jobs that a backend submits, so that a later run can resume them.

With a store, every LLM call has a `JobJournal`. A backend that submits jobs to a service, such as `RunPodLLM`, gets it
from `current_job_journal()`. It records a job as soon as the service has returned its id, and tries to claim a recorded
job before it submits a new one.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Protocol


class JobJournal(Protocol):
    """
    The job journal of one LLM call. Its methods do not block and do not raise, except `claim`.

    A backend may wrap others and call them several times for one reply. Jobs are keyed by a fingerprint of the backend
    and the request. Each job is handed to at most one caller.
    """

    def claim(self, fingerprint: str) -> str | None:
        """
        Claim a possibly running job with this fingerprint that no call waits for; None if there is none.

        Raises:
            StoreError: If the journal cannot be read.
        """
        ...

    def record(self, fingerprint: str, job_id: str) -> None:
        """Record a job that was just submitted and that the caller waits for. `fingerprint` contains no space."""
        ...

    def release(self, job_id: str) -> None:
        """Record that the caller no longer waits for a job, which may still be running."""
        ...

    def discard(self, job_id: str) -> None:
        """Record that a job has ended without a reply. A job with a reply is deleted when the reply is stored."""
        ...


CURRENT_JOURNAL: ContextVar[JobJournal | None] = ContextVar("journal", default=None)
"""The journal of the call that is being made in this context; set by `_engine/cached_calls.py`."""


def current_job_journal() -> JobJournal | None:
    """Return the journal of the call that is being made in this context; None without a store."""
    return CURRENT_JOURNAL.get()
