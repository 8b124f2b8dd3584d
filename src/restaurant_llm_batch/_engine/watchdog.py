"""Noticing that nothing happens in a run, and saying what is waited for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from time import monotonic
from typing import Any

from ..events import PendingWait, Stalled, WaitReason
from .call import Call
from .frames import Frame
from .memo import Backoff, WaitForCallback
from .run import Run, log


class StallDetector:
    """
    Looks now and then whether anything has happened.

    Args:
        run: The run.
        after: Calls something at home after so many seconds.
        waits: Returns what is waited for now.
    """

    def __init__(
        self,
        run: Run,
        after: Callable[[float, Callable[[], object]], object],
        waits: Callable[[float], Iterable[PendingWait]],
    ) -> None:
        self._run = run
        self._call_later = after
        self._waits = waits
        self._seconds = run.time_limits.stall_warning_after or 0.0
        self._activity_count = -1
        self._since = self._next = 0.0

    def start(self) -> None:
        """Look from now on, as long as the run lasts."""
        if self._seconds:
            self._since = monotonic()
            self._next = self._since + self._seconds
            self._call_later(self._seconds / 2, self._check)

    def _check(self) -> None:
        now = monotonic()
        if self._run.activity_count != self._activity_count:
            self._activity_count, self._since, self._next = self._run.activity_count, now, now + self._seconds
        elif now >= self._next:
            self._next = now + (now - self._since)  # after twice, four times, ... as long
            waits = sorted(self._waits(now), key=lambda wait: -wait.seconds)
            if waits:  # else it is the reader, or the input, that takes its time
                stalled = Stalled(self._run.number, now, now - self._since, tuple(waits))
                log.warning("%s", stalled)
                self._run.emit(stalled)
        self._call_later(self._seconds / 2, self._check)


def describe_waits(
    out: Iterable[Call],
    waiting: Iterable[Call],
    paused: Mapping[Frame, tuple[Any, float]],
    joined: Mapping[Frame, float],
    now: float,
) -> Iterable[PendingWait]:
    """
    Say what is waited for.

    Args:
        out: Calls at their backends.
        waiting: Calls that have not been admitted.
        paused: Flows that wait for something else, by which step, since when.
        joined: Flows that wait for what another item does for all, since when.
        now: The time.
    """
    for call in out:
        yield PendingWait(
            call.frame.item.item_id, call.label, "response", now - call.started_at, call.attempt
        )
    for call in waiting:
        kind: WaitReason = "concurrency" if call.rate_ticket is None else "rate_limit"
        yield PendingWait(call.frame.item.item_id, call.label, kind, now - call.queued_at, call.attempt)
    for frame, (step, since) in paused.items():
        if isinstance(step, WaitForCallback):
            yield PendingWait(
                frame.item.item_id, "", "duplicate" if step.interruptible else "store", now - since
            )
        elif isinstance(step, Backoff):
            yield PendingWait(frame.item.item_id, step.label, "retry", now - since, step.attempt)
        else:
            yield PendingWait(frame.item.item_id, "", "sleep", now - since)
    for frame, since in joined.items():
        yield PendingWait(frame.item.item_id, "", "duplicate", now - since)
