"""Noticing that nothing happens in a run, and saying what is waited for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from time import monotonic
from typing import Any

from ..events import Stalled, Wait, WaitFor
from .call import Call
from .frames import Frame
from .memo import Await, BackOff
from .run import Run, log


class StallWatch:
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
        waits: Callable[[float], Iterable[Wait]],
    ) -> None:
        self._run = run
        self._after = after
        self._waits = waits
        self._seconds = run.deadlines.stall or 0.0
        self._pulse = -1
        self._since = self._next = 0.0

    def begin(self) -> None:
        """Look from now on, as long as the run lasts."""
        if self._seconds:
            self._since = monotonic()
            self._next = self._since + self._seconds
            self._after(self._seconds / 2, self._look)

    def _look(self) -> None:
        now = monotonic()
        if self._run.pulse != self._pulse:
            self._pulse, self._since, self._next = self._run.pulse, now, now + self._seconds
        elif now >= self._next:
            self._next = now + (now - self._since)  # after twice, four times, ... as long
            waits = sorted(self._waits(now), key=lambda wait: -wait.seconds)
            if waits:  # else it is the reader, or the input, that takes its time
                stalled = Stalled(self._run.number, now, now - self._since, tuple(waits))
                log.warning("%s", stalled)
                self._run.show(stalled)
        self._after(self._seconds / 2, self._look)


def waits_of(
    out: Iterable[Call],
    waiting: Iterable[Call],
    paused: Mapping[Frame, tuple[Any, float]],
    joined: Mapping[Frame, float],
    now: float,
) -> Iterable[Wait]:
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
        yield Wait(call.owner.entry.item_id, call.what, "answer", now - call.began_at, call.attempt)
    for call in waiting:
        kind: WaitFor = "slot" if call.rate_ticket is None else "pace"
        yield Wait(call.owner.entry.item_id, call.what, kind, now - call.asked_at, call.attempt)
    for frame, (step, since) in paused.items():
        if isinstance(step, Await):
            yield Wait(frame.entry.item_id, "", "other" if step.leavable else "disk", now - since)
        elif isinstance(step, BackOff):
            yield Wait(frame.entry.item_id, step.what, "retry", now - since, step.attempt)
        else:
            yield Wait(frame.entry.item_id, "", "pause", now - since)
    for frame, since in joined.items():
        yield Wait(frame.entry.item_id, "", "other", now - since)
