"""
Noting jobs in a backend, so that a later run finds what an earlier one has left behind.

With a store, every question has a `JobJournal`. A backend whose answers are jobs elsewhere, as `RunPodLLM`'s are,
looks into `current()`: it notes a job as soon as it knows its id, and asks for one before it makes another.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol


class JobJournal(Protocol):
    """
    The journal of one question. Its methods never wait and never raise, `claim` excepted.

    A backend may wrap others and ask them several times for one answer. So a job goes by a mark, which says
    whose it is and what it was asked, and is given to one call only.
    """

    def claim(self, fingerprint: str) -> str | None:
        """
        Return the id of a job that may be alive, was noted with an equal mark, and has nobody waiting; or None.

        Raises:
            StoreError: When the journal cannot be read.
        """
        ...

    def record(self, fingerprint: str, job_id: str) -> None:
        """Note a job that was just made, and is waited for; `fingerprint` has no space in it."""
        ...

    def release(self, job_id: str) -> None:
        """Note that a job is waited for no more although it may be alive."""
        ...

    def discard(self, job_id: str) -> None:
        """Note that a job has ended without an answer. One with an answer is forgotten when that is kept."""
        ...


_CURRENT: ContextVar[JobJournal | None] = ContextVar("journal", default=None)


def current_job_journal() -> JobJournal | None:
    """Return the journal of the question that is being asked here; None without a store."""
    return _CURRENT.get()


@contextmanager
def use_job_journal(journal: JobJournal) -> Iterator[None]:
    """Have backends that are called in this block note their jobs."""
    token = _CURRENT.set(journal)
    try:
        yield
    finally:
        _CURRENT.reset(token)
