"""A server that queues calls and refuses none, on virtual time, behind an adaptive limit's controller alone."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from random import Random
from statistics import median
from typing import NamedTuple

from restaurant_llm_batch import AdaptiveLimit
from restaurant_llm_batch._limits.aimd import LimitHistoryEntry
from restaurant_llm_batch._limits.latency_signal import make_controller
from restaurant_llm_batch._limits.server_signal import ServerSignal
from restaurant_llm_batch.models import ServerLoad


class Kind(NamedTuple):
    """A kind of call: its name, its size, its median seconds at an idle server, and its share of the calls."""

    label: str
    size: int
    seconds: float
    share: float = 1.0


ONE_KIND = (Kind("summary", 7, 0.1),)
SHORT_AND_LONG = (Kind("rating", 4, 0.1, 0.7), Kind("summary", 9, 1.0, 0.3))


@dataclass
class Played:
    """What became of a run: its seconds, its calls' seconds by kind, the most in the server, and the limits."""

    seconds: float
    took: dict[str, list[float]]
    most_waiting: int
    history: Sequence[LimitHistoryEntry]
    limit: int

    def slowdown(self, kinds: Sequence[Kind] = ONE_KIND) -> float:
        """Return how many times as long as at an idle server the median call took, in the mean of the kinds' calls."""
        total = sum(map(len, self.took.values()))
        return sum(
            len(self.took[kind.label]) / total * median(self.took[kind.label]) / kind.seconds
            for kind in kinds
            if self.took[kind.label]
        )


def play(
    limit: int | AdaptiveLimit,
    slots: int,
    seed: int,
    calls: int = 2000,
    *,
    kinds: Sequence[Kind] = ONE_KIND,
    sigma: float = 0.3,
    changes: Sequence[tuple[float, int]] = (),
    slower: tuple[float, float] = (float("inf"), 1.0),
    watch: float | None = None,
) -> Played:
    """
    Make calls through a limit at a server that works on `slots` of them, in order of arrival.

    `changes` are other numbers of slots, as (second, slots); from the second `slower[0]` on, each call takes
    `slower[1]` times as long. With `watch`, the server's load is read every so many seconds.
    """
    random = Random(f"queueing {seed}")
    control = make_controller(limit, 0.0) if isinstance(limit, AdaptiveLimit) else None
    signal = ServerSignal()
    weights = [kind.share for kind in kinds]
    left = [random.choices(kinds, weights)[0] for _ in range(calls)]
    events: list[tuple[float, int, str, tuple[Kind, int, int, float] | int]] = []
    number = count()
    queue: deque[tuple[Kind, int, int, float]] = deque()
    took: defaultdict[str, list[float]] = defaultdict(list)
    now, in_flight, running, done, most_waiting = 0.0, 0, 0, 0, 0
    for second, other in changes:
        heappush(events, (second, next(number), "slots", other))
    if watch is not None:
        heappush(events, (watch, next(number), "read", 0))

    def work() -> None:
        nonlocal running
        while queue and running < slots:
            call = queue.popleft()
            running += 1
            seconds = (
                call[0].seconds * random.lognormvariate(0, sigma) * (slower[1] if now >= slower[0] else 1.0)
            )
            heappush(events, (now + seconds, next(number), "ends", call))

    def admit() -> None:
        nonlocal in_flight, most_waiting
        most = limit if control is None else control.limit
        assert isinstance(most, int)
        while left and in_flight < most:
            in_flight += 1
            queue.append((left.pop(), in_flight, 0 if control is None else control.epoch, now))
        work()
        most_waiting = max(most_waiting, len(queue))

    admit()
    while done < calls:
        now, _, what, told = heappop(events)
        if isinstance(told, int):
            if what == "slots":
                slots = told
            elif control is not None and watch is not None:
                word = signal.judge(ServerLoad(running, len(queue)))
                control.follow_server(word, in_flight, now)
                heappush(events, (now + watch, next(number), "read", 0))
        else:
            kind, depth, epoch, began = told
            running -= 1
            in_flight -= 1
            done += 1
            took[kind.label].append(now - began)
            if control is not None:
                control.record("success", depth, epoch, now, (kind.label, kind.size, began))
        admit()
    history = () if control is None else tuple(control.history)
    assert isinstance(limit, (int, AdaptiveLimit))
    return Played(now, dict(took), most_waiting, history, limit if isinstance(limit, int) else control.limit)  # type: ignore[union-attr]
