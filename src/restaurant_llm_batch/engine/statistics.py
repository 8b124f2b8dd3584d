"""Counting what a run does, from its events alone."""

from __future__ import annotations

import sys
from collections import Counter

from ..errors import RateLimited
from ..events import CallEnded, CallStarted, Event, ItemEnded, RetryPlanned, RunStarted
from ..report import RunStats, Success


class Statistics:
    """An observer that adds up the events of one run."""

    def __init__(self) -> None:
        self._began = 0.0
        self._latest = 0.0
        self._calls: Counter[str] = Counter()
        self._retries = 0
        self._refusals = 0
        self._prompt_tokens = 0
        self._completion_tokens = 0
        self._succeeded = 0
        self._failed = 0

    def __call__(self, event: Event, /) -> None:
        """Take note of an event."""
        self._latest = event.at
        if isinstance(event, CallStarted):
            self._calls[event.stage] += event.weight
        elif isinstance(event, CallEnded):
            self._ended(event)
        elif isinstance(event, ItemEnded):
            if isinstance(event.outcome, Success):
                self._succeeded += 1
            else:
                self._failed += 1
        elif isinstance(event, RetryPlanned):
            self._retries += 1
        elif isinstance(event, RunStarted):
            self._began = event.at

    def snapshot(self, peak_in_flight: dict[str, int], stopped_because: str | None) -> RunStats:
        """Return the sums so far, with what events do not tell."""
        return RunStats(
            wall_seconds=max(0.0, self._latest - self._began),
            succeeded=self._succeeded,
            failed=self._failed,
            calls=dict(self._calls),
            retries=self._retries,
            refusals=self._refusals,
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self._completion_tokens,
            peak_in_flight=peak_in_flight,
            peak_memory_mib=peak_memory_mib(),
            stopped_because=stopped_because,
        )

    def _ended(self, event: CallEnded) -> None:
        if event.reply is not None:
            self._prompt_tokens += event.reply.prompt_tokens
            self._completion_tokens += event.reply.completion_tokens
        elif isinstance(event.error, RateLimited):
            self._refusals += 1


def peak_memory_mib() -> float | None:
    """Return the process's peak resident memory in MiB, or None on systems that do not tell."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Kilobytes on Linux, bytes on macOS (getrusage(2) of each).
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)
