"""Statistics of the fault server: requests, statuses, tokens, faults, jobs and batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ._batches import BatchQueue
from ._jobs import JobQueue
from ._responses import PlannedResponse


@dataclass(frozen=True, slots=True)
class ServerStats:
    """
    Statistics of a `FaultServer` at one moment.

    Paths are those of the APIs without ids: "/v1/chat/completions", "/v2/run", "/v2/status", "/v1/files/content".

    Attributes:
        requests: Number of requests that have ended.
        statuses: Number of requests by path and status; status 0 if no complete response was sent.
        refused: Number of requests refused with 429 or 503: by the limit, a bucket, or a fault.
        answered: Number of completions sent completely, and of jobs whose completion was reported; usable or not,
            they were paid for.
        prompt_tokens: Prompt tokens of these completions.
        completion_tokens: Tokens of these completions.
        abandoned: Number of requests that ended without a response because the client disconnected or the server
            stopped.
        in_flight: Number of chat completions in progress now.
        peak: Maximum number of chat completions in progress at once.
        faults: Number of faults met, by kind.
        jobs: Number of RunPod jobs by status; "VANISHED" for those that the server has dropped.
        jobs_alive: Ids of the jobs that are queued or running.
        peak_jobs: Maximum number of live jobs at once.
        duplicates: Number of jobs submitted while another job for the same messages was alive.
        batches: Number of batches by status.
        batch_lines: Number of lines of the batches that were not refused as a whole.
        batch_paid: Number of these that were answered with a completion; they are among `answered`.
        batch_duplicates: Number of lines that were submitted although an earlier batch had the same messages, and was
            alive or had answered them: each is paid for twice, unless one of the two batches is cancelled in time.
    """

    requests: int
    statuses: Mapping[tuple[str, int], int]
    refused: int
    answered: int
    prompt_tokens: int
    completion_tokens: int
    abandoned: int
    in_flight: int
    peak: int
    faults: Mapping[str, int]
    jobs: Mapping[str, int]
    jobs_alive: tuple[str, ...]
    peak_jobs: int
    duplicates: int
    batches: Mapping[str, int]
    batch_lines: int
    batch_paid: int
    batch_duplicates: int

    def asked(self, path: str, status: int | None = None) -> int:
        """Return the number of requests to a path; with a `status`, only those that got this status."""
        if status is not None:
            return self.statuses.get((path, status), 0)
        return sum(number for (counted_path, _), number in self.statuses.items() if counted_path == path)

    def as_dict(self) -> dict[str, Any]:
        """Return the statistics as JSON-compatible data."""
        plain: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        statuses = {f"{path} {status}": number for (path, status), number in self.statuses.items()}
        return {**plain, "statuses": statuses, "jobs_alive": list(self.jobs_alive)}


class StatsBuilder:
    """Mutable statistics; the caller must hold the lock of the `FaultService`."""

    def __init__(self) -> None:
        self.statuses: Counter[tuple[str, int]] = Counter()
        self.faults: Counter[str] = Counter()
        self.refused = self.answered = self.abandoned = self.in_flight = self.peak = 0
        self.prompt_tokens = self.completion_tokens = 0
        self._counted_jobs: set[str] = set()

    def request_received(self) -> None:
        """Count an admitted chat completion."""
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)

    def record_response(self, answer: PlannedResponse) -> None:
        """Count the completion in a response that was sent, unless it was reported before."""
        if answer.usage is not None and answer.job_id not in self._counted_jobs:
            if answer.job_id:
                self._counted_jobs.add(answer.job_id)
            self.answered += 1
            self.prompt_tokens += answer.usage.prompt
            self.completion_tokens += answer.usage.completion

    def snapshot(self, jobs: JobQueue, batches: BatchQueue) -> ServerStats:
        """Return a copy of the current statistics."""
        by_status = Counter(job.status for job in jobs.all.values())
        return ServerStats(
            requests=self.statuses.total(),
            statuses=dict(sorted(self.statuses.items())),
            refused=self.refused,
            answered=self.answered + batches.paid,
            prompt_tokens=self.prompt_tokens + batches.usage.prompt,
            completion_tokens=self.completion_tokens + batches.usage.completion,
            abandoned=self.abandoned,
            in_flight=self.in_flight,
            peak=self.peak,
            faults=dict(sorted(self.faults.items())),
            jobs=dict(sorted(by_status.items())),
            jobs_alive=tuple(jobs.alive),
            peak_jobs=jobs.peak,
            duplicates=jobs.duplicates,
            batches=batches.statuses(),
            batch_lines=batches.lines,
            batch_paid=batches.paid,
            batch_duplicates=batches.submitted_twice,
        )
