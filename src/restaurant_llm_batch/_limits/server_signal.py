"""
Server signal: what a server says of its load, as advice for the limits of the calls that go there.

Theory of operation. A reading has the requests that run and those that wait. A short queue keeps a server busy, so up
to a sixteenth of the running ones may wait; the limit then stays as it is. A longer queue in two readings in a row, or
one that is half as long as the running ones at once, lowers the limit to the share that runs; preemptions lower it by a
tenth. From then on it is known what the server bears, and only readings without a queue raise the limit: at once up to
there, and after `PATIENCE` of them by 1, 2, 4 and so on beyond. Before, room raises it by half of the running requests,
or less if the KV cache is fuller. The signal does no I/O and reads no clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from .._validation import is_number
from ..errors import ConfigurationError
from ..protocols import ServerLoad

PATIENCE = 8
"""Readings without a queue after which more calls are tried than the server bore."""
FULL_CACHE = 0.9
"""Share of the KV cache above which the limit does not grow."""
ROOMY_CACHE = 0.6
"""Share of the KV cache below which it grows fast."""
AFTER_PREEMPTION = 0.9
"""Factor that preemptions apply to the limit."""
QUEUE_SHARE = 16
"""Running requests for each that may wait."""


class ServerWord(NamedTuple):
    """
    What a server says.

    Attributes:
        is_free: Whether the limit may grow by its own probes, too.
        share: Share of the calls in flight that it bears; 1.0 for all.
        step: Calls by which the limit may grow now.
    """

    is_free: bool
    share: float = 1.0
    step: int = 0

    def without_step(self) -> ServerWord:
        """Return the same, with no growth."""
        return ServerWord(self.is_free, self.share)


SILENCE = ServerWord(is_free=True)
"""What a server says that cannot be read: nothing. The limit goes by its other signals."""
STAY = ServerWord(is_free=False)
"""The limit stays as it is."""


class ServerSignal:
    """The readings of one server."""

    __slots__ = ("_bears", "_calm", "_preemptions", "_queued", "_step")

    def __init__(self) -> None:
        self._preemptions: int | None = None
        self._queued = 0  # readings in a row with a queue
        self._calm = 0  # readings in a row without one
        self._bears = 0  # requests that ran when there was a queue; 0 while unknown
        self._step = 1  # what the limit grows by next, beyond these

    def judge(self, load: ServerLoad) -> ServerWord:
        """Return what a reading says."""
        before, self._preemptions = self._preemptions, load.preemptions
        preempted = before is not None and load.preemptions > before
        running, waiting = load.running, load.waiting
        allowed = max(1, running // QUEUE_SHARE)
        is_long = waiting > allowed
        if not preempted and not is_long:
            self._queued = 0
            return self._without_queue(load)
        self._queued += 1
        self._calm, self._step = 0, 1
        if not running:
            return STAY  # it does not work yet
        if not preempted and self._queued < 2 and 2 * waiting < running:
            return STAY
        self._bears = running
        share = min(1.0, (running + allowed / 2) / (running + waiting)) if is_long else 1.0
        return ServerWord(is_free=False, share=share * AFTER_PREEMPTION if preempted else share)

    def _without_queue(self, load: ServerLoad) -> ServerWord:
        usage = load.kv_usage or 0.0
        if load.waiting or usage > FULL_CACHE:
            return STAY
        self._calm += 1
        if not self._bears:
            return ServerWord(is_free=True, step=max(1, load.running // (2 if usage < ROOMY_CACHE else 8)))
        if load.running < self._bears * 3 // 4:
            return ServerWord(is_free=False, step=max(1, (self._bears - load.running) // 2))
        if self._calm < PATIENCE:
            return STAY
        step, self._step = self._step, min(2 * self._step, max(1, load.running // 2))
        return ServerWord(is_free=False, step=step)


_COUNTS = ("running", "waiting", "preemptions", "rejections")


def as_load(answer: Any) -> ServerLoad:
    """
    Return the load that a backend's `metrics` or `health` has returned.

    Raises:
        ConfigurationError: It says neither what runs nor what waits.
    """
    if isinstance(answer, ServerLoad):
        return answer
    jobs, workers = _field(answer, "jobs"), _field(answer, "workers")
    if jobs is not None and workers is not None:
        return _load_of_jobs(jobs, workers)
    counts = {name: _count(_field(answer, name)) for name in _COUNTS}
    running, waiting = counts["running"], counts["waiting"]
    if running is None or waiting is None:
        raise ConfigurationError(
            f"metrics() has to return an object with running and waiting, got {type(answer).__name__}; "
            "for example ServerLoad(running=3, waiting=0)"
        )
    usage = _field(answer, "kv_usage")
    return ServerLoad(
        running,
        waiting,
        min(1.0, max(0.0, float(usage))) if is_number(usage) else None,
        _count(_field(answer, "kv_tokens")) or None,
        counts["preemptions"] or 0,
        counts["rejections"] or 0,
    )


def _load_of_jobs(jobs: Any, workers: Any) -> ServerLoad:
    """
    Return the load of an endpoint that starts workers when jobs wait, as RunPod's do.

    The queue is what makes it start them. So it counts only while none is being started, and beyond a job for each
    worker that runs.
    """
    queued, running = _count(_field(jobs, "in_queue")) or 0, _count(_field(workers, "running")) or 0
    starting = _count(_field(workers, "initializing")) or 0
    waiting = 0 if starting or not running else max(0, queued - running)
    return ServerLoad(_count(_field(jobs, "in_progress")) or 0, waiting)


def _field(answer: Any, name: str) -> Any:
    return answer.get(name) if isinstance(answer, Mapping) else getattr(answer, name, None)


def _count(value: Any) -> int | None:
    return int(value) if is_number(value) and value >= 0 else None
