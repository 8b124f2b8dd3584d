"""
RunPod's jobs: a queue, workers, and how each job ends.

Nothing happens by itself: whoever looks first lets time pass, in the order in which things would have happened.
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
"""A job that the service does not know any more."""


@dataclass(slots=True, eq=False)
class ServerJob:
    """
    A job.

    Attributes:
        id: Its id.
        digest: Of its question.
        end: The status it will end with; None for never.
        more: What is told with that status, beside it.
        seconds: How long a worker works on it.
        starts: Whether a worker ever takes it.
        usage: Tokens of the completion in `more`.
        dies_at: When its time to live is over.
        lasts: Seconds that a worker may work on it.
        status: Its status now.
        trouble: Operations on it that fail once more.
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
        """Whether it costs money, or will."""
        return self.status in ALIVE


class JobQueue:
    """
    All jobs of a server.

    Attributes:
        all: The jobs by id.
        alive: Those that are alive.
        peak: The most that were alive at once.
        duplicates: Jobs that were made while another one for the same question was alive.
    """

    def __init__(self) -> None:
        self.all: dict[str, ServerJob] = {}
        self.alive: dict[str, ServerJob] = {}
        self.peak = 0
        self.duplicates = 0
        self._queue: deque[ServerJob] = deque()
        self._at_work: set[str] = set()
        self._events: list[tuple[float, int, str, ServerJob]] = []
        self._order = 0
        self._asking: Counter[str] = Counter()

    def add(self, job: ServerJob, now: float, workers: int | None) -> None:
        """Take a job into the queue."""
        self.move_on(now, workers)
        self.all[job.id] = self.alive[job.id] = job
        self.peak = max(self.peak, len(self.alive))
        self.duplicates += self._asking[job.digest] > 0
        self._asking[job.digest] += 1
        if job.dies_at < inf:
            self._at(job.dies_at, VANISHED, job)
        if job.starts:
            self._queue.append(job)
        self.move_on(now, workers)

    def move_on(self, now: float, workers: int | None) -> None:
        """Let time pass until now, with so many workers; None for as many as there are jobs."""
        while self._events and self._events[0][0] <= now:
            at, _, status, job = heappop(self._events)
            if job.alive:
                self.end(job, status)
                self._start(at, workers)
        self._start(now, workers)

    def end(self, job: ServerJob, status: str) -> None:
        """End a job."""
        job.status = status
        del self.alive[job.id]
        self._at_work.discard(job.id)
        self._asking[job.digest] -= 1

    def purge(self) -> int:
        """Remove the jobs in the queue, and return how many there were."""
        queued = [job for job in self.alive.values() if job.status == "IN_QUEUE"]
        for job in queued:
            self.end(job, "CANCELLED")
        return len(queued)

    def _start(self, at: float, workers: int | None) -> None:
        while self._queue and (workers is None or len(self._at_work) < workers):
            job = self._queue.popleft()
            if not job.alive:
                continue
            job.status = "IN_PROGRESS"
            self._at_work.add(job.id)
            ends_at = at + job.seconds if job.end is not None else inf
            if at + job.lasts < ends_at:
                self._at(at + job.lasts, "TIMED_OUT", job)
            elif job.end is not None:
                self._at(ends_at, job.end, job)

    def _at(self, moment: float, status: str, job: ServerJob) -> None:
        self._order += 1
        heappush(self._events, (moment, self._order, status, job))
