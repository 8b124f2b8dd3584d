"""RunPod endpoint health: counts of jobs and workers from ``/health``, and why jobs stay queued."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from ...errors import PermanentBackendError

Counts = TypeVar("Counts", "JobCounts", "WorkerCounts")


@dataclass(frozen=True, slots=True)
class JobCounts:
    """Numbers of an endpoint's jobs: queued, in progress, and recently ended."""

    in_queue: int = 0
    in_progress: int = 0
    completed: int = 0
    failed: int = 0
    retried: int = 0


@dataclass(frozen=True, slots=True)
class WorkerCounts:
    """
    Numbers of an endpoint's workers.

    Attributes:
        idle: Ready, without a job.
        initializing: Pulling the image or loading the model.
        ready: Able to take a job.
        running: Working on a job.
        throttled: Requested, but RunPod has no free GPU of that type.
        unhealthy: Failing repeatedly.
    """

    idle: int = 0
    initializing: int = 0
    ready: int = 0
    running: int = 0
    throttled: int = 0
    unhealthy: int = 0


@dataclass(frozen=True, slots=True)
class RunPodHealth:
    """Numbers of an endpoint's jobs and workers at one moment."""

    jobs: JobCounts
    workers: WorkerCounts

    @property
    def problem(self) -> str | None:
        """Why jobs are queued without any worker to take them, for people to read; None if there is no problem."""
        workers = self.workers
        if not self.jobs.in_queue or workers.idle or workers.initializing or workers.ready or workers.running:
            return None
        if workers.throttled:
            return (
                f"all {workers.throttled} of its workers are throttled: RunPod has no free GPU of that type; "
                "allow more GPU types, or another region"
            )
        if workers.unhealthy:
            return f"all {workers.unhealthy} of its workers are unhealthy; see their logs"
        return (
            "it has no workers. After a week without requests RunPod sets an endpoint's max workers to 0; raise it "
            "in the console"
        )


def read_health(body: Any) -> RunPodHealth:
    """
    Parse the body of ``/health``.

    Raises:
        PermanentBackendError: If it has no worker counts.
    """
    if not isinstance(body, dict) or not isinstance(body.get("workers"), dict):
        raise PermanentBackendError("/health reports no workers", backend="runpod")
    return RunPodHealth(
        _read_counts(JobCounts, body.get("jobs")), _read_counts(WorkerCounts, body["workers"])
    )


def _read_counts(counts_class: type[Counts], section: Any) -> Counts:
    """Read a section's camelCase counts; a missing or malformed count is 0."""
    values: Mapping[str, Any] = section if isinstance(section, dict) else {}
    counts = {}
    for name in counts_class.__slots__:
        head, *rest = name.split("_")
        value = values.get(head + "".join(word.capitalize() for word in rest))
        counts[name] = value if type(value) is int and value > 0 else 0
    return counts_class(**counts)
