"""
Server signal: what a server says of its load, as advice for the limits of the calls that go there.

Theory of operation. A reading has the requests that run and those that wait. A short queue keeps a server busy, so up
to a sixteenth of the running ones may wait; the limit then stays as it is. A longer queue in two readings in a row, or
one that is half as long as the running ones at once, lowers the limit to the share that runs; preemptions lower it by a
tenth. From then on it is known what the server bears, and only readings without a queue raise the limit: at once up to
there, and after `PATIENCE` of them by 1, 2, 4 and so on beyond. After preemptions, which make the server work twice,
that takes four times as many readings each time.

Before, room raises it. If tokens in flight are limited to what the KV cache bears, each reading doubles it. If not, it
grows by half of the running requests, once in a *round*: when as many calls have ended as run. What a request takes of
the cache grows until it ends. So the most that a request took in the mean of any reading, which fades slowly, says how
many requests the cache has room for, and the limit grows no further than that.

A page may be wrong. Behind one address there may be several servers, whose counters are told apart (`Counter`). A queue
that is longer than all of our calls, and is the same to the last digit in `STALE` readings in a row, is no news: then
nothing is said. The signal does no I/O and reads no clock.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from math import inf
from typing import Any, NamedTuple

from .._validation import is_number
from .._values import short
from ..errors import ConfigurationError
from ..models import ServerLoad

PATIENCE, MOST_PATIENCE = 8, 512
"""Readings without a queue after which more calls are tried than the server bore; and most of them."""
FULL_CACHE = 0.9
"""Share of the KV cache above which the limit does not grow."""
WANTED_CACHE = 0.9
"""Share of the KV cache up to which it may grow, if each request takes as much as the most of late."""
FADING = 0.98
"""Factor of what a request took at most, at each reading."""
AFTER_PREEMPTION = 0.9
"""Factor that preemptions apply to the limit."""
QUEUE_SHARE = 16
"""Running requests for each that may wait."""
STALE = 8
"""Equal readings in a row after which a queue that is not ours is not believed."""
MOST_SERVERS = 16
"""Servers behind one address whose counters are told apart."""
MOST_COUNTED = 10**12
"""Largest count that is believed."""
MOST_USAGE = 2.0
"""Share of a KV cache above which it is no share: unknown."""


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


class Counter:
    """
    A counter that only grows, read at an address behind which there may be several servers.

    A value belongs to the server whose latest value is the nearest one below it. One that is below all of them is that
    of another server, or of one that was started again.
    """

    __slots__ = ("_latest",)

    def __init__(self) -> None:
        self._latest: list[int] = []  # ascending

    def increase(self, value: int) -> int:
        """Return by how much it has grown since the server was read before; 0 for the first reading of a server."""
        latest = self._latest
        place = bisect_right(latest, value)
        if not place:
            latest.insert(0, value)
            del latest[MOST_SERVERS:]
            return 0
        before, latest[place - 1] = latest[place - 1], value
        return value - before


class ServerSignal:
    """
    The readings of one server.

    Attributes:
        new: Preemptions and rejections since the reading before.
        counted: Those since the first reading.
    """

    __slots__ = (
        "_bears",
        "_calm",
        "_each",
        "_ended",
        "_equal",
        "_latest",
        "_patience",
        "_preemptions",
        "_queued",
        "_rejections",
        "_step",
        "counted",
        "new",
    )

    def __init__(self) -> None:
        self.new: tuple[int, int] = (0, 0)
        self.counted: tuple[int, int] = (0, 0)
        self._preemptions, self._rejections = Counter(), Counter()
        self._latest: ServerLoad | None = None
        self._equal = 0  # readings in a row that are equal to the one before
        self._each = 0.0  # the most of the cache that a request took, in the mean of a reading
        self._ended = 0.0  # calls that have ended in this round
        self._queued = 0  # readings in a row with a queue
        self._calm = 0  # readings in a row without one
        self._bears = 0  # requests that ran when there was a queue; 0 while unknown
        self._step = 1  # what the limit grows by next, beyond these
        self._patience = PATIENCE // 2

    def judge(
        self,
        load: ServerLoad,
        in_flight: int | None = None,
        ended: float = inf,
        *,
        is_bounded: bool = False,
    ) -> ServerWord:
        """
        Return what a reading says.

        Args:
            load: The reading.
            in_flight: Our calls in flight there; None if that is not known.
            ended: Calls that have ended since the reading before.
            is_bounded: Whether tokens in flight are limited to what its KV cache bears.
        """
        preempted = self._preemptions.increase(load.preemptions)
        rejected = self._rejections.increase(load.rejections)
        self.new, self.counted = (
            (preempted, rejected),
            (self.counted[0] + preempted, self.counted[1] + rejected),
        )
        self._equal = self._equal + 1 if load == self._latest else 0
        self._latest = load
        running, waiting = load.running, load.waiting
        self._ended += ended
        self._each = max(FADING * self._each, (load.kv_usage or 0.0) / max(1, running))
        if self._equal >= STALE and in_flight is not None and waiting > in_flight:
            return SILENCE
        allowed = max(1, running // QUEUE_SHARE)
        is_long = waiting > allowed
        if not preempted and not is_long:
            self._queued = 0
            return self._without_queue(load, is_bounded=is_bounded)
        if preempted and (self._calm or not self._bears):  # the first reading of an episode
            self._patience = min(4 * self._patience, MOST_PATIENCE)
        self._queued += 1
        self._calm, self._step = 0, 1
        if not running:
            return STAY  # it does not work yet
        if not preempted and self._queued < 2 and 2 * waiting < running:
            return STAY
        self._bears = running
        share = min(1.0, (running + allowed / 2) / (running + waiting)) if is_long else 1.0
        return ServerWord(is_free=False, share=share * AFTER_PREEMPTION if preempted else share)

    def _without_queue(self, load: ServerLoad, *, is_bounded: bool) -> ServerWord:
        running = load.running
        room = WANTED_CACHE / self._each - running if self._each and not is_bounded else inf
        if load.waiting or room < 1 or ((load.kv_usage or 0.0) > FULL_CACHE and not is_bounded):
            return STAY
        self._calm += 1
        step: float
        if not self._bears and is_bounded:
            step, is_free = max(1, running), True
        elif not self._bears:
            step = 0 if self._ended < running else min(room, max(1, running // 2))
            is_free = room >= running
        else:
            step, is_free = min(room, self._step_when_known(running)), False
        if step:
            self._ended = 0.0
        return ServerWord(is_free, step=int(step))

    def _step_when_known(self, running: int) -> int:
        """Return by how many calls the limit grows, if it is known how many the server bears."""
        if running < self._bears * 3 // 4:
            return max(1, (self._bears - running) // 2)
        if self._calm < max(PATIENCE, self._patience):
            return 0
        step, self._step = self._step, min(2 * self._step, max(1, running // 2))
        return step


_COUNTS = ("running", "waiting", "preemptions", "rejections")


def as_load(answer: Any) -> ServerLoad:
    """
    Return the load that a backend's `metrics` or `health` has returned.

    Raises:
        ConfigurationError: It says neither what runs nor what waits.
    """
    jobs, workers = _field(answer, "jobs"), _field(answer, "workers")
    if jobs is not None and workers is not None:
        return _load_of_jobs(jobs, workers)
    counts = {name: _count(_field(answer, name)) for name in _COUNTS}
    running, waiting = counts["running"], counts["waiting"]
    if running is None or waiting is None:
        given = {name: _field(answer, name) for name in _COUNTS[:2]}
        wrong = [f"{name}={short(value)}" for name, value in given.items() if value is not None]
        with_them = f" with {' and '.join(wrong)}" if wrong else ""
        raise ConfigurationError(
            "metrics() has to return an object with running and waiting, numbers of at least 0, "
            f"got {type(answer).__name__}{with_them}; for example ServerLoad(running=3, waiting=0)"
        )
    return ServerLoad(
        running,
        waiting,
        _share(_field(answer, "kv_usage")),
        _count(_field(answer, "kv_tokens")) or None,
        counts["preemptions"] or 0,
        counts["rejections"] or 0,
        _count(_field(answer, "kv_block")) or None,
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
    """Return a count; None for what is none."""
    return int(value) if is_number(value) and 0 <= value <= MOST_COUNTED else None


def _share(value: Any) -> float | None:
    """Return the share of a KV cache in use; None for what is none. Rounding may make it a little more than 1."""
    return min(1.0, float(value)) if is_number(value) and 0 <= value <= MOST_USAGE else None
