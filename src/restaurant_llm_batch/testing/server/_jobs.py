"""
RunPod job queue: jobs, workers, and the end of each job, as a discrete-event simulation.

Nothing runs in the background. Each operation first calls `JobQueue.advance`, which replays all events up to the
current time in order, so that the state does not depend on how often it is read.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from heapq import heappop, heappush
from math import inf
from typing import Any

from ._responses import Usage

ALIVE = ("IN_QUEUE", "IN_PROGRESS")
VANISHED = "VANISHED"
"""Status of a job that the service has dropped."""


@dataclass(slots=True, eq=False)
class ServerJob:
    """
    A job.

    Attributes:
        id: Id of the job.
        digest: Digest of its request's messages.
        end: Status that it will end with; None if it never ends.
        more: Further fields of the response with that status.
        seconds: Seconds that a worker needs for it.
        starts: Whether a worker ever starts it.
        usage: Tokens of the completion in `more`.
        dies_at: Time when its time to live is over.
        lasts: Maximum seconds that a worker may work on it (execution timeout).
        status: Current status.
        trouble: Operations on it that fail once.
    """

    id: str
    digest: str
    end: str | None
    more: dict[str, Any]
    seconds: float = 0.0
    starts: bool = True
    usage: Usage | None = None
    dies_at: float = inf
    lasts: float = inf
    status: str = "IN_QUEUE"
    trouble: set[str] = field(default_factory=set)

    @property
    def alive(self) -> bool:
        """Whether the job is queued or running."""
        return self.status in ALIVE


class JobQueue:
    """
    All jobs of a server.

    Attributes:
        all: Jobs by id.
        alive: Queued and running jobs by id.
        peak: Maximum number of live jobs at once.
        duplicates: Number of jobs submitted while another job for the same messages was alive.
    """

    def __init__(self) -> None:
        self.all: dict[str, ServerJob] = {}
        self.alive: dict[str, ServerJob] = {}
        self.peak = 0
        self.duplicates = 0
        self._queue: deque[ServerJob] = deque()
        self._running: set[str] = set()
        self._events: list[tuple[float, int, str, ServerJob]] = []
        self._sequence = 0
        self._alive_by_digest: Counter[str] = Counter()

    def add(self, job: ServerJob, now: float, workers: int | None) -> None:
        """Add a job to the queue."""
        self.advance(now, workers)
        self.all[job.id] = self.alive[job.id] = job
        self.peak = max(self.peak, len(self.alive))
        self.duplicates += self._alive_by_digest[job.digest] > 0
        self._alive_by_digest[job.digest] += 1
        if job.dies_at < inf:
            self._schedule(job.dies_at, VANISHED, job)
        if job.starts:
            self._queue.append(job)
        self.advance(now, workers)

    def advance(self, now: float, workers: int | None) -> None:
        """Replay all events until `now`, with `workers` workers; None for one per job."""
        while self._events and self._events[0][0] <= now:
            time, _, status, job = heappop(self._events)
            if job.alive:
                self.end(job, status)
                # At the time of the event, not `now`: the next job starts when its worker became free.
                self._start_queued(time, workers)
        self._start_queued(now, workers)

    def end(self, job: ServerJob, status: str) -> None:
        """End a job with a status."""
        job.status = status
        del self.alive[job.id]
        self._running.discard(job.id)
        self._alive_by_digest[job.digest] -= 1

    def purge(self) -> int:
        """Cancel the queued jobs, and return their number."""
        queued = [job for job in self.alive.values() if job.status == "IN_QUEUE"]
        for job in queued:
            self.end(job, "CANCELLED")
        return len(queued)

    def _start_queued(self, time: float, workers: int | None) -> None:
        while self._queue and (workers is None or len(self._running) < workers):
            job = self._queue.popleft()
            if not job.alive:
                continue
            job.status = "IN_PROGRESS"
            self._running.add(job.id)
            ends_at = time + job.seconds if job.end is not None else inf
            if time + job.lasts < ends_at:
                self._schedule(time + job.lasts, "TIMED_OUT", job)
            elif job.end is not None:
                self._schedule(ends_at, job.end, job)

    def _schedule(self, time: float, status: str, job: ServerJob) -> None:
        self._sequence += 1  # orders events of the same time, and keeps the heap from comparing jobs
        heappush(self._events, (time, self._sequence, status, job))
