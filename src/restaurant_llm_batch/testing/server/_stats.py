"""What the server has seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ._jobs import JobQueue
from ._responses import PlannedResponse


@dataclass(frozen=True, slots=True)
class ServerStats:
    """
    What a `FaultServer` has seen until now.

    A path is the API's, without the ids in it: "/v1/chat/completions", "/v2/run", "/v2/status".

    Attributes:
        requests: All requests that have ended.
        statuses: They by path and the status that they were answered with; 0 where no whole answer was sent.
        refused: Questions turned away with 429 or 503: by the limit, a bucket, or a planned refusal.
        answered: Completions sent whole, and those of jobs told at least once; usable or not, a model was paid.
        prompt_tokens: Tokens in the questions of those.
        completion_tokens: Tokens in them.
        abandoned: Requests given up before they were answered, by the client or by the server's end.
        in_flight: Chat completions that are being answered now.
        peak: The most of them at once.
        faults: Faults that were met, by their kind.
        jobs: RunPod jobs by status; "VANISHED" are those that the server does not know any more.
        jobs_alive: The ids of those that are queued or being worked on.
        peak_jobs: The most of them alive at once.
        duplicates: Jobs made for a question for which another job was alive.
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

    def asked(self, path: str, status: int | None = None) -> int:
        """Return how many requests a path got; with a status, how many of them were answered with that."""
        if status is not None:
            return self.statuses.get((path, status), 0)
        return sum(number for (place, _), number in self.statuses.items() if place == path)

    def as_dict(self) -> dict[str, Any]:
        """Return the counts as plain data, such as JSON takes."""
        plain: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        statuses = {f"{path} {status}": number for (path, status), number in self.statuses.items()}
        return {**plain, "statuses": statuses, "jobs_alive": list(self.jobs_alive)}


class StatsBuilder:
    """Counts; whoever uses it has the lock."""

    def __init__(self) -> None:
        self.statuses: Counter[tuple[str, int]] = Counter()
        self.faults: Counter[str] = Counter()
        self.refused = self.answered = self.abandoned = self.in_flight = self.peak = 0
        self.prompt_tokens = self.completion_tokens = 0
        self._told_jobs: set[str] = set()

    def request_received(self) -> None:
        """Count a question that was let in."""
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)

    def record_response(self, answer: PlannedResponse) -> None:
        """Count the completion in an answer that was sent."""
        if answer.usage is not None and answer.job_id not in self._told_jobs:
            if answer.job_id:
                self._told_jobs.add(answer.job_id)
            self.answered += 1
            self.prompt_tokens += answer.usage.prompt
            self.completion_tokens += answer.usage.completion

    def snapshot(self, jobs: JobQueue) -> ServerStats:
        """Return the counts of now."""
        by_status = Counter(job.status for job in jobs.all.values())
        return ServerStats(
            requests=self.statuses.total(),
            statuses=dict(sorted(self.statuses.items())),
            refused=self.refused,
            answered=self.answered,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            abandoned=self.abandoned,
            in_flight=self.in_flight,
            peak=self.peak,
            faults=dict(sorted(self.faults.items())),
            jobs=dict(sorted(by_status.items())),
            jobs_alive=tuple(jobs.alive),
            peak_jobs=jobs.peak,
            duplicates=jobs.duplicates,
        )
