"""What RunPod's ``/health`` tells about an endpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from ...errors import PermanentBackendError

Counts = TypeVar("Counts", "JobCounts", "WorkerCounts")


@dataclass(frozen=True, slots=True)
class JobCounts:
    """An endpoint's jobs: waiting, being worked on, and those that ended lately."""

    in_queue: int = 0
    in_progress: int = 0
    completed: int = 0
    failed: int = 0
    retried: int = 0


@dataclass(frozen=True, slots=True)
class WorkerCounts:
    """
    An endpoint's workers.

    Attributes:
        idle: Ready and without work.
        initializing: Fetching their image or loading the model.
        ready: Able to take a job.
        running: Working.
        throttled: Wanted, but RunPod has no free GPU of the kind.
        unhealthy: Failing, again and again.
    """

    idle: int = 0
    initializing: int = 0
    ready: int = 0
    running: int = 0
    throttled: int = 0
    unhealthy: int = 0


@dataclass(frozen=True, slots=True)
class RunPodHealth:
    """A look at an endpoint: its jobs and its workers."""

    jobs: JobCounts
    workers: WorkerCounts

    @property
    def problem(self) -> str | None:
        """Why jobs wait although no worker is on its way, in words; None when nothing is wrong."""
        workers = self.workers
        if not self.jobs.in_queue or workers.idle or workers.initializing or workers.ready or workers.running:
            return None
        if workers.throttled:
            return (
                f"all {workers.throttled} of its workers are throttled: RunPod has no free GPU of that kind; "
                "allow more kinds of GPU, or another region"
            )
        if workers.unhealthy:
            return f"all {workers.unhealthy} of its workers are unhealthy; their logs say why"
        return (
            "it has no workers. Without requests for a week RunPod sets an endpoint's max workers to 0, and "
            "it stays so until somebody raises it in the console"
        )


def read_health(body: Any) -> RunPodHealth:
    """
    Read the body of ``/health``.

    Raises:
        PermanentBackendError: When it is something else.
    """
    if not isinstance(body, dict) or not isinstance(body.get("workers"), dict):
        raise PermanentBackendError("/health tells of no workers", backend="runpod")
    return RunPodHealth(_read(JobCounts, body.get("jobs")), _read(WorkerCounts, body["workers"]))


def _read(kind: type[Counts], given: Any) -> Counts:
    told: Mapping[str, Any] = given if isinstance(given, dict) else {}
    counts = {}
    for name in kind.__slots__:
        head, *rest = name.split("_")
        value = told.get(head + "".join(word.capitalize() for word in rest))
        counts[name] = value if type(value) is int and value > 0 else 0
    return kind(**counts)
