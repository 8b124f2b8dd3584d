"""
Live RunPod jobs: registry of this process's jobs that may be running, to cancel them when the interpreter exits.

Theory of operation
-------------------
Each call registers its job *before* it is submitted (`LiveJobs.track`), and removes it when the job has ended or
was never made. At exit, `LiveJobs.cancel_remaining` runs as an ``atexit`` hook. Worker threads are daemons and may
still be in the middle of a call then, so each job has a `Phase` that says which thread acts next:

    phase          meaning                                      at exit
    SUBMITTING     a thread waits for the job's id              wait for that thread, `OTHER_THREADS_GRACE` at most
    WATCHED        the job is polled                            cancel it here
    CANCELLING     a thread cancels it                          wait for that thread, as above
    CANCEL_FAILED  its call has ended, the job may be alive     cancel it here, one last time

Two calls may watch the same job, if the second one resumed it from a store. The first that ends passes the job on
(`Job.handed_over`) instead of cancelling it; `LiveJobs.may_cancel` decides that under the lock.

All fields are guarded by ``_lock``, except ``forks``, which never changes. A forked child makes its own `LiveJobs`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from time import monotonic, sleep

from ... import _fork
from ...errors import RunStopped
from ._job import Job

SHUTDOWN_GRACE = 30.0
"""Maximum seconds that cancelling delays the interpreter's exit; RunPod accepts 100 cancellations per 10 seconds."""

OTHER_THREADS_GRACE = 10.0
"""Maximum seconds to wait for other threads at exit; some may wait for an event loop that no longer runs."""


class Phase(Enum):
    """Which thread acts next on a job; see the module's docstring."""

    SUBMITTING = "waiting for the response to its submission"
    WATCHED = "polled by its call"
    CANCELLING = "being cancelled by a thread"
    CANCEL_FAILED = "may be alive although its call has ended"


class LiveJobs:
    """The jobs of one backend in one process that may be alive. Thread-safe."""

    def __init__(self) -> None:
        self.forks = _fork.count
        self._jobs: dict[Job, Phase] = {}
        self._closed = False
        self._lock = threading.Lock()

    @contextmanager
    def track(self, job: Job) -> Iterator[None]:
        """
        Register a job during the block, which submits and watches it; keep it afterwards if it may be alive.

        Raises:
            RunStopped: If the interpreter is exiting.
        """
        with self._lock:
            if self._closed:
                raise RunStopped("the interpreter is exiting")
            self._jobs[job] = Phase.SUBMITTING
        try:
            yield
        finally:
            with self._lock:
                if job.alive:
                    self._jobs[job] = Phase.CANCEL_FAILED
                else:
                    self._jobs.pop(job, None)
                # A resumed job has ended: an earlier call that failed to cancel it need not try again.
                if job.found and job.finished:
                    for other in self._others_with_id(job, Phase.CANCEL_FAILED):
                        del self._jobs[other]

    def set_phase(self, job: Job, phase: Phase) -> None:
        """Set a registered job's phase."""
        with self._lock:
            if job in self._jobs:
                self._jobs[job] = phase

    def may_cancel(self, job: Job) -> bool:
        """
        Return whether the caller should cancel a job, and mark it as being cancelled.

        Returns False, and passes the job on, if another call watches it. If all calls of a job end at the same
        time, the last one gets True.
        """
        with self._lock:
            if job in self._jobs:
                self._jobs[job] = Phase.CANCELLING
            job.handed_over = job.record is not None and bool(self._others_with_id(job, Phase.WATCHED))
            return not job.handed_over

    def cancel_remaining(self, cancel: Callable[[Job], object]) -> None:
        """
        Cancel all live jobs when the interpreter exits, and refuse new ones.

        Waits up to `OTHER_THREADS_GRACE` seconds for submissions and cancellations of other threads.

        Args:
            cancel: Cancels one job, blocking.
        """
        if _fork.count != self.forks:
            return  # a forked child must not cancel its parent's jobs
        with self._lock:
            self._closed = True
        started_at = monotonic()
        while self._jobs:
            job = self._claim_next()
            if monotonic() - started_at > (OTHER_THREADS_GRACE if job is None else SHUTDOWN_GRACE):
                return
            if job is None:
                sleep(0.01)
                continue
            cancel(job)
            with self._lock:
                self._jobs.pop(job, None)

    def _others_with_id(self, job: Job, phase: Phase) -> list[Job]:
        return [
            other
            for other, found in self._jobs.items()
            if found is phase and other.id == job.id and other is not job
        ]

    def _claim_next(self) -> Job | None:
        """Return a job that no other thread acts on, marked as being cancelled; None if there is none."""
        with self._lock:
            for job, phase in self._jobs.items():
                if phase in (Phase.WATCHED, Phase.CANCEL_FAILED):
                    self._jobs[job] = Phase.CANCELLING
                    return job
        return None
