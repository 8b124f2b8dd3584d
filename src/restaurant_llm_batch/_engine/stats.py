"""Run counters: calls, retries, tokens and peaks of one run."""

from __future__ import annotations

import sys
import threading

from .._llm_response import LLMResponse
from ..errors import RateLimited
from ..outcomes import LimitChange, RunStats
from .latency import LatencyHistogram


class StageCounters:
    """
    The counters of one stage: "search", "llm" or "tokens".

    Attributes:
        calls: Number of calls started; the queries of one round trip count one by one.
        in_flight: Number of calls that the backend works on.
        peak: Most calls at once.
        latency: Durations of the calls that were answered; one for each round trip.
    """

    __slots__ = ("calls", "in_flight", "latency", "peak")

    def __init__(self) -> None:
        self.calls: int = 0
        self.in_flight: int = 0
        self.peak: int = 0
        self.latency: LatencyHistogram = LatencyHistogram()


class _Stages(dict[str, StageCounters]):
    """The counters by stage, made at the first call."""

    def __missing__(self, stage: str) -> StageCounters:
        return self.setdefault(stage, StageCounters())


class RunCounters:
    """
    The counters of one run.

    This is not an observer of events: creating and emitting two events for every call takes longer than counting it,
    and most runs have no observer. Nor can calls in flight be counted from events: a blocking call returns in its
    thread a moment before the run is notified.
    """

    def __init__(self) -> None:
        self.started_at: float = 0.0
        self.latest: float = 0.0
        self.succeeded = self.failed = 0
        self.retries = 0
        self.cache_hits = 0
        self.replies: int = 0
        self.stages: _Stages = _Stages()
        self._rate_limited = 0
        self._prompt_tokens = 0
        self._completion_tokens = 0
        self._cached_tokens = 0
        self._lock = threading.RLock()

    def call_started(self, stage: str, permits: int) -> None:
        """Count a call that starts; the queries of one round trip count one by one. Thread-safe."""
        with self._lock:
            counters = self.stages[stage]
            counters.calls += permits
            now = counters.in_flight = counters.in_flight + permits
            if now > counters.peak:
                counters.peak = now

    def call_finished(self, stage: str, permits: int) -> None:
        """Count a call whose backend has returned. Thread-safe."""
        with self._lock:
            self.stages[stage].in_flight -= permits

    def in_flight(self, stage: str) -> int:
        """Return the number of calls that the backend works on."""
        return self.stages[stage].in_flight if stage in self.stages else 0

    def record_reply(self, reply: LLMResponse) -> None:
        """Count a reply, and add its tokens."""
        self.replies += 1
        self._prompt_tokens += reply.prompt_tokens
        self._completion_tokens += reply.completion_tokens
        self._cached_tokens += reply.cached_tokens

    def record_tokens(self, reply: LLMResponse) -> None:
        """Add the tokens of a reply that came late, or with an error."""
        self._prompt_tokens += reply.prompt_tokens
        self._completion_tokens += reply.completion_tokens
        self._cached_tokens += reply.cached_tokens

    def record_error(self, error: BaseException) -> None:
        """Count the exception of a call, if it is a refusal."""
        self._rate_limited += isinstance(error, RateLimited)

    def stats(
        self,
        stopped_because: str | None,
        limit_history: tuple[LimitChange, ...] = (),
        cost: float | None = None,
        estimated_cost: float | None = None,
    ) -> RunStats:
        """Return the statistics so far."""
        with self._lock:
            stages = dict(self.stages)
        return RunStats(
            wall_seconds=max(0.0, self.latest - self.started_at),
            succeeded=self.succeeded,
            failed=self.failed,
            calls={stage: counters.calls for stage, counters in stages.items()},
            retries=self.retries,
            rate_limited=self._rate_limited,
            cache_hits=self.cache_hits,
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self._completion_tokens,
            cached_tokens=self._cached_tokens,
            peak_in_flight={stage: counters.peak for stage, counters in stages.items()},
            peak_memory_mib=peak_memory_mib(),
            stopped_because=stopped_because,
            limit_history=limit_history,
            cost=cost,
            estimated_cost=estimated_cost,
            latency={stage: counters.latency.summary() for stage, counters in stages.items()},
        )


def peak_memory_mib() -> float | None:
    """Return the process's peak resident memory in MiB, or None if the system does not report it."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Kilobytes on Linux, bytes on macOS (getrusage(2) of each).
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)
