"""Rows of a record that say how the limiters of a run stand: what is in use, and how many calls wait for what."""

from __future__ import annotations

from collections import Counter

from ..events import RetryScheduled
from ..models import ItemId
from ._statements import Row
from ._wishes import RunControl

_STAGES = {"search": "search", "llm": "llm"}
"""Limiters with whose rows the calls stand that wait to be made again, and the stage of those calls."""


class Standings:
    """
    How the limiters of one run stand.

    Args:
        control: The limits of its runner; None for a simulation.
    """

    def __init__(self, control: RunControl | None) -> None:
        self._control = control
        self._retries: dict[
            int, tuple[ItemId, str, float]
        ] = {}  # by call: item, stage, and when it is made again
        self._written: list[Row] = []

    def retry_scheduled(self, event: RetryScheduled) -> None:
        """Count a call that waits to be made again."""
        stage = "search" if event.stage == "search" else "llm"
        self._retries[event.call] = event.item_id, stage, event.time + event.wait

    def retried(self, call: int) -> None:
        """Count it no more: it is made again."""
        self._retries.pop(call, None)

    def item_ended(self, item_id: ItemId) -> None:
        """Count the calls of an item no more."""
        if self._retries:
            for call in [call for call, (item, _, _) in self._retries.items() if item == item_id]:
                del self._retries[call]

    def rows(self, now: float, seconds: float) -> list[Row]:
        """
        Return the rows of the table `limiters`, unless nothing has changed since they were last returned.

        Args:
            now: The time, on the clock of the events.
            seconds: The same in seconds since the run began.
        """
        if self._control is None:
            return []
        retrying = Counter(stage for _, stage, due in list(self._retries.values()) if due > now)
        rows = [
            (place, name, most, in_use, waiting, retrying[_STAGES[name]] if name in _STAGES else 0, peak)
            for place, (name, most, in_use, waiting, peak) in enumerate(self._control.standings(), 1)
        ]
        if rows == self._written:
            return []
        self._written = rows
        return [(*row[:2], seconds, *row[2:]) for row in rows]
