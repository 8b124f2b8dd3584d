"""
AIMD controller: adaptive concurrency limit, learns a service's capacity from 429 responses.

Theory of operation. Additive increase, multiplicative decrease, as in TCP congestion control (RFC 5681; D.-M. Chiu and
R. Jain, "Analysis of the Increase and Decrease Algorithms for Congestion Avoidance in Computer Networks", 1989), with
one fact that TCP does not have: the *depth* of a call, the number of calls in flight when it was admitted. A service
that refuses a call at depth 25 bears at most 24. The limit goes through these phases:

    slow start   every success at saturation adds 1, which doubles the limit in each round, until the first 429
    hold         the limit stays as it is for `_hold` rounds of successes at saturation
    probe        the limit is raised by 1; if a round succeeds, by 2, then by 4, and so on; a 429 goes back to the limit
                 before the probe
    decrease     a 429 in another phase, or one more after a decrease: the limit becomes depth - 1, or is multiplied by
                 `DECREASE_FACTOR` if that is lower; then hold

A *round* is as many successes as the limit. Each decrease begins a new *epoch*; calls admitted in an earlier epoch are
ignored, so that one overload decreases the limit once. `AIMDController` does no I/O and reads no clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeAlias

from .._shortage import is_local_shortage
from .._validation import is_number
from ..errors import ConfigurationError, RateLimited, TransientBackendError
from ..outcomes import Reason
from .server_signal import ServerWord

Timing: TypeAlias = tuple[str, Any, float]
"""How long a call took: its kind; its answer, or its size as a power of two; and when it began."""

CallResult: TypeAlias = Literal["success", "rate_limited", "transient_error", "other"]
"""
The result of a call: "success"; "rate_limited" for a 429; "transient_error" for another transient failure; "other" for
a result that says nothing about the limit.
"""


def call_result(error: BaseException | None, tokens: int = 0) -> CallResult:
    """
    Return the result of a call.

    Args:
        error: What it raised; None if it was answered.
        tokens: Tokens of its prompt and its longest reply; 0 if they are not counted.
    """
    if error is None:
        return "success"
    if isinstance(error, RateLimited):
        # Refused because its minute is used up, it says nothing about how many calls may be in flight.
        status = error.rate_limit
        return "other" if status is not None and status.is_insufficient_for(tokens) else "rate_limited"
    if is_local_shortage(error):
        return "rate_limited"  # fewer calls in flight are what helps
    return "transient_error" if isinstance(error, TransientBackendError) else "other"


DECREASE_FACTOR = 0.8
"""Factor that a 429 applies to the limit if the decrease before it did not help."""
SATURATION_THRESHOLD = 0.8
"""Share of the limit that must have been in flight for a success to count towards an increase."""
ROUNDS_BETWEEN_PROBES, MAX_ROUNDS_BETWEEN_PROBES = 2, 4
"""Rounds of successes between two probes: initially, and at most, after probes that got a 429."""
HISTORY_LIMIT = 10_000
"""Most changes of a limit that are kept."""
_NOT_STATE = frozenset({"_bounds", "history"})
_UNTIL_ROOM = 1 << 40
"""Successes to ignore before growing again, while the server says that it is full."""


@dataclass(frozen=True, slots=True)
class AdaptiveLimit:
    """
    A limit on calls in flight that adapts to the service's capacity (AIMD).

    The limit doubles in every round until the first 429 response, then drops below the number of calls at which the
    service refused. From then on it probes: every few rounds it is raised by one, and while that succeeds, by two, by
    four and so on. One overload lowers the limit once: 429 responses to calls that were already in flight do not lower
    it again. Other transient errors pause its growth and do not lower it. ``Retry-After`` delays the refused call, not
    the limit.

    The algorithm is additive increase, multiplicative decrease (RFC 5681; Chiu and Jain, 1989). The constants were
    found by simulation and measured (benchmarks/unknown_limit.py).

    A server that queues calls instead of refusing them shows only in their latency. With `latency_factor`, the limit
    follows that too: see there. Where the signals disagree, the more careful one wins.

    Attributes:
        min: Smallest limit, in calls in flight.
        start: Initial limit.
        max: Largest limit.
        latency_factor: How many times as long as at an idle server calls may take, for example 2.0. The median of the
            latest calls is compared with the least that was seen, by kind and size of the call, so that long answers
            are not taken for congestion. The limit is kept where calls take the square root of that. Now and then it
            is lowered for a moment to measure again what calls take without a queue. None to ignore latency.

    Raises:
        ConfigurationError: Unless min, start and max are whole numbers with 1 <= min <= start <= max, and
            latency_factor is a number above 1, or None.
    """

    min: int = 1
    start: int = 8
    max: int = 256
    latency_factor: float | None = None

    def __post_init__(self) -> None:
        given: tuple[object, ...] = (self.min, self.start, self.max)
        whole = all(isinstance(value, int) and not isinstance(value, bool) for value in given)
        if not whole or not 1 <= self.min <= self.start <= self.max:
            raise ConfigurationError(
                f"AdaptiveLimit needs whole numbers 1 <= min <= start <= max, got min={self.min!r}, "
                f"start={self.start!r}, max={self.max!r}; for example AdaptiveLimit(min=1, start=8, max=256)"
            )
        factor: object = self.latency_factor
        if factor is not None and not (is_number(factor) and factor > 1):
            raise ConfigurationError(
                f"AdaptiveLimit.latency_factor must be a number above 1, or None, got {factor!r}; "
                "for example AdaptiveLimit(latency_factor=2.0)"
            )

    def declared(self) -> dict[str, Any]:
        """Return its fields in values that JSON has, without those that say nothing."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True)
class LimitHistoryEntry:
    """
    One change of an adaptive limit.

    Attributes:
        time: When it changed, in seconds on the clock of the runs that use the limiter.
        limit: The new limit, in calls in flight.
        reason: See `LimitChange`.
    """

    time: float
    limit: int
    reason: Reason


class AIMDController:
    """
    The state machine of one adaptive limit.

    Attributes:
        limit: Most calls in flight.
        epoch: Number of decreases so far; results of calls admitted in an earlier epoch are ignored.
        history: The latest `HISTORY_LIMIT` changes.
    """

    __slots__ = (
        "_bounds",
        "_calm",
        "_frozen",
        "_hold",
        "_known",
        "_probing",
        "_refused",
        "_row",
        "_starting",
        "_step",
        "_successes",
        "epoch",
        "history",
        "limit",
    )

    def __init__(self, bounds: AdaptiveLimit, now: float) -> None:
        self.limit = bounds.start
        self.epoch = 0
        self.history: deque[LimitHistoryEntry] = deque(
            [LimitHistoryEntry(now, self.limit, "start")], HISTORY_LIMIT
        )
        self._bounds = bounds
        self._starting = True
        self._probing = False
        self._known = self.limit  # the limit before the current probe
        self._step = 1
        self._hold = ROUNDS_BETWEEN_PROBES
        self._calm = 0  # successes at saturation since the last change
        self._successes = 0  # since the last decrease
        self._row = 0  # decreases in a row that did not help
        self._frozen = 0  # successes to ignore before growing again
        self._refused = False  # whether a 429 has come; the limit grows by its own probes from then on

    def record(
        self, outcome: CallResult, depth: int, epoch: int, now: float, timing: Timing | None = None
    ) -> None:
        """
        Record the result of a call, and adapt the limit.

        Args:
            outcome: The result.
            depth: Calls in flight when the call was admitted, itself included.
            epoch: The epoch in which it was admitted.
            now: The time, in seconds.
            timing: How long it took, for a limit that follows latency.
        """
        if epoch != self.epoch:
            return
        if outcome == "success":
            self._succeeded(depth, now)
        elif outcome == "rate_limited":
            self._rate_limited(depth, now)
        elif outcome == "transient_error":
            self._frozen = self.limit

    def set(self, limit: int, now: float) -> None:
        """Continue from a limit chosen by the user, which it does not exceed from then on."""
        self._starting = self._probing = False
        self._calm = 0
        bounds = self._bounds
        if (limit, limit) != (self.limit, bounds.max):
            self._bounds = replace(bounds, min=min(bounds.min, limit), start=limit, max=limit)
            self.limit = limit
            self.history.append(LimitHistoryEntry(now, limit, "manual"))

    def follow_server(self, word: ServerWord, in_flight: int, now: float) -> None:
        """
        Adapt the limit to what the server says of its load.

        Args:
            word: What it says.
            in_flight: Calls in flight.
            now: The time, in seconds.
        """
        if not word.is_free:
            self._frozen = _UNTIL_ROOM
            self._starting = self._probing = False
        elif self._frozen > self.limit:
            self._frozen = self._calm = 0
        if word.share < 1:
            limit = max(self._bounds.min, int(in_flight * word.share))
            if limit < self.limit:
                self.epoch += 1
                self._successes = self._calm = 0
                self._change(limit, "server", now)
        elif word.step and not self._refused and in_flight >= SATURATION_THRESHOLD * self.limit:
            self._change(self.limit + word.step, "server", now)

    def state(self) -> dict[str, Any]:
        """Return where it stands, in values that JSON has, for `restore`; without the history."""
        state = {name: getattr(self, name) for name in self.__slots__ if name not in _NOT_STATE}
        return {**state, "bounds": self._bounds.declared()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from where another controller stood. What this version does not know is left out."""
        self._bounds = AdaptiveLimit(**state["bounds"])
        for name in self.__slots__:
            if name in state and name not in _NOT_STATE:
                setattr(self, name, state[name])

    def _succeeded(self, depth: int, now: float) -> None:
        if self._frozen:
            self._frozen -= 1
            return
        self._successes += 1
        if self._successes >= 2 * self.limit:  # the last decrease helped
            self._row = 0
        if depth < SATURATION_THRESHOLD * self.limit or self.limit == self._bounds.max:
            return
        if self._starting:
            self._change(self.limit + 1, "slow_start", now)  # one for each success doubles it in a round
            return
        self._calm += 1
        if self._probing:
            if self._calm >= self.limit:
                self._hold = ROUNDS_BETWEEN_PROBES
                self._probe(2 * self._step, now)
        elif self._calm >= self._hold * self.limit:
            self._probe(1, now)

    def _probe(self, step: int, now: float) -> None:
        self._probing = True
        self._known, self._step, self._calm = self.limit, step, 0
        self._change(self.limit + step, "probe", now)

    def _rate_limited(self, depth: int, now: float) -> None:
        # Calls in flight now were admitted under the old limit; their 429s are news of the same overload.
        self.epoch += 1
        self._successes = self._calm = 0
        self._row += 1
        if self._starting:
            # The first 429 of the run locates the capacity: the service bore the calls in flight before this one.
            limit = depth - 1
        elif self._probing and self._row == 1:
            # Only the probe was too much: go back to the limit that is known to work, and probe less often.
            limit = self._known
            self._hold = min(2 * self._hold, MAX_ROUNDS_BETWEEN_PROBES)
        else:
            # A 429 without a probe, or one more after a decrease: the capacity has changed. If the service limits
            # calls in flight, depth - 1 is the capacity; if it limits calls per second, depth says little, so also
            # decrease by a factor, which finds the capacity in a few steps.
            limit = min(depth - 1, int(self.limit * DECREASE_FACTOR))
        self._starting = self._probing = False
        self._refused = True
        self._change(limit, "rate_limited", now)

    def _change(self, limit: int, reason: Reason, now: float) -> None:
        limit = max(self._bounds.min, min(self._bounds.max, limit))
        if limit != self.limit:
            self.limit = limit
            self.history.append(LimitHistoryEntry(now, limit, reason))
