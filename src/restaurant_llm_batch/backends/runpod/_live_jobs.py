"""Which jobs of this process may be alive, so that none outlives it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from time import monotonic, sleep

from ...errors import RunStopped
from ._job import Job

SHUTDOWN_GRACE = 30.0
"""Most seconds that the interpreter's end is held up for; RunPod takes 100 cancellations in ten seconds."""

OTHERS_TAKE = 10.0
"""Most seconds that it waits for what other threads do; some may wait for a loop that runs no more."""


class Phase(Enum):
    """What is being done about a job."""

    SUBMITTED = "its submission is being answered"
    WATCHED = "it is alive"
    CANCELLED = "it is being cancelled"
    KEPT = "cancelling it failed, and is tried once more at the very end"


class LiveJobs:
    """The jobs of one backend in one process."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._jobs: dict[Job, Phase] = {}
        self._closed = False
        self._lock = threading.Lock()

    @contextmanager
    def track(self, job: Job) -> Iterator[None]:
        """
        Keep a job that is about to be submitted, until it is over or was never made.

        Raises:
            RunStopped: When the interpreter is ending.
        """
        with self._lock:
            if self._closed:
                raise RunStopped("the interpreter is ending")
            self._jobs[job] = Phase.SUBMITTED
        try:
            yield
        finally:
            with self._lock:
                if job.alive:
                    self._jobs[job] = Phase.KEPT
                else:
                    self._jobs.pop(job, None)
                if job.found and job.finished:
                    for other in self._of_same_id(job, Phase.KEPT):
                        del self._jobs[other]

    def record(self, job: Job, phase: Phase) -> None:
        """Note what is being done about a job."""
        with self._lock:
            if job in self._jobs:
                self._jobs[job] = phase

    def may_cancel(self, job: Job) -> bool:
        """
        Note that a job is to be cancelled; return False when another call waits for it, which goes on.

        Of calls that leave at the same time, the last one is told True.
        """
        with self._lock:
            if job in self._jobs:
                self._jobs[job] = Phase.CANCELLED
            job.handed_over = job.record is not None and bool(self._of_same_id(job, Phase.WATCHED))
            return not job.handed_over

    def end(self, cancel: Callable[[Job], object]) -> None:
        """
        Cancel what is still alive, at the interpreter's end.

        Worker threads are daemons and go on until the very last moment: a submission that one of them waits
        for is waited for, and what one of them is cancelling is left to it, but for so long only.
        """
        if os.getpid() != self.pid:
            return  # a forked child has no part in its parent's jobs
        with self._lock:
            self._closed = True
        began = monotonic()
        while self._jobs:
            job = self._take()
            if monotonic() - began > (OTHERS_TAKE if job is None else SHUTDOWN_GRACE):
                return
            if job is None:
                sleep(0.01)
                continue
            cancel(job)
            with self._lock:
                self._jobs.pop(job, None)

    def _of_same_id(self, job: Job, phase: Phase) -> list[Job]:
        return [
            other
            for other, found in self._jobs.items()
            if found is phase and other.id == job.id and other is not job
        ]

    def _take(self) -> Job | None:
        with self._lock:
            for job, phase in self._jobs.items():
                if phase in (Phase.WATCHED, Phase.KEPT):
                    self._jobs[job] = Phase.CANCELLED
                    return job
        return None
