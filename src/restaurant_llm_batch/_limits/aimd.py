"""
A limit that finds itself: what a service bears is learned from what it refuses.

Additive increase, multiplicative decrease, as TCP does it, with one thing that TCP cannot know: how many calls of
ours were in flight when a call was admitted, its *depth*. A service that refuses at depth 25 bears 24 or fewer.
`AIMDController` is pure: told what became of calls, it changes its limit.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal, TypeAlias

from ..errors import ConfigurationError
from ..outcomes import Reason

CallResult: TypeAlias = Literal["success", "rate_limited", "transient_error", "other"]
"""
What became of a call: answered; refused for now (429); troubled, a transient failure of another kind; other, which
says nothing about the limit.
"""

DECREASE_FACTOR = 0.8
"""What a refusal leaves of the limit, when the one before it did not help."""
SATURATION_THRESHOLD = 0.8
"""Share of the limit that must have been in flight for an answer to say that more might be borne."""
ROUNDS_BETWEEN_PROBES, MAX_ROUNDS_BETWEEN_PROBES = 2, 4
"""Rounds of answers between two probes, at first and after probes that were refused."""
HISTORY_LIMIT = 10_000
"""Changes of a limit that are remembered."""


@dataclass(frozen=True, slots=True)
class AdaptiveLimit:
    """
    A limit on calls in flight that adapts to what the service bears.

    It doubles until the first refusal, drops below what was refused, and from then on asks for one more now and
    then; where that is borne, for two more, and four. A refusal cuts once: calls that were on their way already
    do not cut again. Other transient errors stop its growth for a while and do not cut. ``Retry-After`` delays the
    call that was refused, not the limit.

    The constants were found by simulation and measured (benchmarks/unknown_limit.py).

    Attributes:
        min: Never fewer.
        start: What it begins with.
        max: Never more.

    Raises:
        ConfigurationError: Unless 1 <= min <= start <= max, in whole numbers.
    """

    min: int = 1
    start: int = 8
    max: int = 256

    def __post_init__(self) -> None:
        given: tuple[object, ...] = (self.min, self.start, self.max)
        whole = all(isinstance(value, int) and not isinstance(value, bool) for value in given)
        if not whole or not 1 <= self.min <= self.start <= self.max:
            raise ConfigurationError(
                f"AdaptiveLimit needs whole numbers 1 <= min <= start <= max, got min={self.min!r}, "
                f"start={self.start!r}, max={self.max!r}; write for example AdaptiveLimit(min=1, start=8, max=256)"
            )


@dataclass(frozen=True, slots=True)
class LimitHistoryEntry:
    """
    A limit, from a moment on.

    Attributes:
        time: When, on `time.monotonic`'s clock.
        limit: Calls in flight at most, from then on.
        reason: "start"; "slow_start" while the limit still doubles; "probe" for a trial of more; "rate_limited" for a
            cut; "manual" for a limit set by hand.
    """

    time: float
    limit: int
    reason: Reason


class AIMDController:
    """
    The state machine of one adaptive limit.

    Attributes:
        limit: Calls in flight at most.
        epoch: Counts the cuts; calls that were admitted in an earlier one say nothing more.
        history: Its changes, the latest `HISTORY_LIMIT`.
    """

    __slots__ = (
        "_answers",
        "_bounds",
        "_calm",
        "_frozen",
        "_hold",
        "_known",
        "_probing",
        "_row",
        "_starting",
        "_step",
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
        self._known = self.limit  # what was borne before the probe under way
        self._step = 1
        self._hold = ROUNDS_BETWEEN_PROBES
        self._calm = 0  # answers at saturation since the last change
        self._answers = 0  # answers since the last cut
        self._row = 0  # cuts in a row that did not help
        self._frozen = 0  # answers to let pass before growing again

    def record(self, outcome: CallResult, depth: int, epoch: int, now: float) -> None:
        """
        Take note of what became of a call.

        Args:
            outcome: What became of it.
            depth: Calls in flight when it was admitted, itself included.
            epoch: The epoch it was admitted in.
            now: The time.
        """
        if epoch != self.epoch:
            return
        if outcome == "success":
            self._answered(depth, now)
        elif outcome == "rate_limited":
            self._refused(depth, now)
        elif outcome == "transient_error":
            self._frozen = self.limit

    def set(self, limit: int, now: float) -> None:
        """Go on from a limit that was chosen by hand, within the bounds."""
        self._starting = self._probing = False
        self._calm = 0
        self._change(limit, "manual", now)

    def _answered(self, depth: int, now: float) -> None:
        if self._frozen:
            self._frozen -= 1
            return
        self._answers += 1
        if self._answers >= 2 * self.limit:
            self._row = 0
        if depth < SATURATION_THRESHOLD * self.limit or self.limit == self._bounds.max:
            return
        if self._starting:
            self._change(self.limit + 1, "slow_start", now)  # one for each answer doubles it in a round
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

    def _refused(self, depth: int, now: float) -> None:
        self.epoch += 1
        self._answers = self._calm = 0
        self._row += 1
        if self._starting:
            limit = depth - 1
        elif self._probing and self._row == 1:
            limit = self._known
            self._hold = min(2 * self._hold, MAX_ROUNDS_BETWEEN_PROBES)
        else:
            # The depth tells a cap on calls in flight at once, a cap on calls per second only by and by.
            limit = min(depth - 1, int(self.limit * DECREASE_FACTOR))
        self._starting = self._probing = False
        self._change(limit, "rate_limited", now)

    def _change(self, limit: int, reason: Reason, now: float) -> None:
        limit = max(self._bounds.min, min(self._bounds.max, limit))
        if limit != self.limit:
            self.limit = limit
            self.history.append(LimitHistoryEntry(now, limit, reason))
