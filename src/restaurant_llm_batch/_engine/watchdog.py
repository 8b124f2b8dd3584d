"""Stall detector: emits `Stalled`, with the pending waits, when no call starts or ends for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..events import PendingWait, Stalled, WaitReason
from .call import Call
from .frames import Frame
from .memo import Backoff, WaitForCallback, WaitForLine, WaitForTurn
from .run import RunState, log


class StallDetector:
    """
    Emits `Stalled` when no call starts or ends for `TimeLimits.stall_warning_after` seconds.

    Args:
        run: The run.
        call_later: Calls a function where the run lives, after some seconds.
        waits: Returns the pending waits at a time.
    """

    def __init__(
        self,
        run: RunState,
        call_later: Callable[[float, Callable[[], object]], object],
        waits: Callable[[float], Iterable[PendingWait]],
    ) -> None:
        self._run = run
        self._call_later = call_later
        self._waits = waits
        self._seconds = run.time_limits.stall_warning_after or 0.0
        self._activity_count = -1
        self._since = self._next = 0.0

    def start(self) -> None:
        """Check from now on, as long as the run lasts."""
        if self._seconds:
            self._since = self._run.now()
            self._next = self._since + self._seconds
            self._call_later(self._seconds / 2, self._check)

    def _check(self) -> None:
        now = self._run.now()
        activity = self._run.recorder.activity_count
        if activity != self._activity_count:
            self._activity_count, self._since, self._next = activity, now, now + self._seconds
        elif now >= self._next:
            self._next = now + (now - self._since)  # next warning after 2, 4, ... times as long
            waits = sorted(self._waits(now), key=lambda wait: -wait.seconds)
            if waits:  # otherwise the consumer of the outcomes, or the input, is slow
                stalled = Stalled(self._run.number, now, now - self._since, tuple(waits))
                log.warning("%s", stalled)
                self._run.recorder.emit(stalled)
        self._call_later(self._seconds / 2, self._check)


def describe_waits(
    running: Iterable[Call],
    queued: Iterable[Call],
    suspended: Mapping[Frame, tuple[Any, float]],
    memo_waiters: Mapping[Frame, float],
    now: float,
) -> Iterable[PendingWait]:
    """
    Yield the pending waits of a run.

    Args:
        running: Calls at their backends.
        queued: Calls that no limiter has admitted yet.
        suspended: Frames that wait otherwise, with the step and when they started to wait.
        memo_waiters: Frames that wait for another item's memoized flow, and when they started to wait.
        now: The time.
    """
    for call in running:
        item_id, label = call.frame.item.item_id, call.label
        yield PendingWait(item_id, label, "response", now - call.started_at, call.attempt)
    for call in queued:
        item_id, label = call.frame.item.item_id, call.label
        reason: WaitReason = "concurrency" if call.rate_ticket is None else "rate_limit"
        yield PendingWait(item_id, label, reason, now - call.queued_at, call.attempt)
    for frame, (step, since) in suspended.items():
        if frame.item.index < 0:
            continue  # it works for no item
        if isinstance(step, WaitForLine):
            yield PendingWait(frame.item.item_id, step.label, "batch", now - since)
        elif isinstance(step, WaitForTurn):
            yield PendingWait(frame.item.item_id, "", "concurrency", now - since)
        elif isinstance(step, WaitForCallback):
            yield PendingWait(
                frame.item.item_id, "", "duplicate" if step.interruptible else "store", now - since
            )
        elif isinstance(step, Backoff):
            yield PendingWait(frame.item.item_id, step.label, "retry", now - since, step.attempt)
        else:
            yield PendingWait(frame.item.item_id, "", "sleep", now - since)
    for frame, since in memo_waiters.items():
        yield PendingWait(frame.item.item_id, "", "duplicate", now - since)
