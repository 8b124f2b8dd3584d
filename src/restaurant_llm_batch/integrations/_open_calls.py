"""
Calls in flight, matched from the events of a run: which `CallStarted` a `CallEnded` belongs to.

Events carry no call id, so calls are matched by item, attempt, stage, label and start time. A cancelled run emits no
`CallEnded` for its open calls; they end with their item. No clock and no lock: the caller serialises events.
"""

from __future__ import annotations

from ..events import CallEnded, CallStarted, ItemEnded
from ..models import ItemId
from ..outcomes import Failure

_SAME_MOMENT = 1e-6
"""Tolerance in seconds between the start time of a `CallStarted` and ``time - seconds`` of its `CallEnded`."""


class OpenCalls:
    """The calls of one run that have started and not ended."""

    __slots__ = ("_by_item",)

    def __init__(self) -> None:
        self._by_item: dict[ItemId, list[CallStarted]] = {}

    def call_started(self, event: CallStarted) -> None:
        """Add a call."""
        self._by_item.setdefault(event.item_id, []).append(event)

    def call_finished(self, event: CallEnded) -> CallStarted | None:
        """Remove the call that ended and return its start event; None if it was already returned as cancelled."""
        calls = self._by_item.get(event.item_id)
        if not calls:
            return None
        index = _index_of(calls, event)
        if index is None:
            return None
        call = calls.pop(index)
        if not calls:
            del self._by_item[event.item_id]
        return call

    def cancelled_with(self, event: ItemEnded) -> list[CallStarted]:
        """Remove and return the open calls of an item that ended: they were cancelled and will not end."""
        outcome = event.outcome
        if outcome.item_id is None or is_refused_input(event):
            return []
        return self._by_item.pop(outcome.item_id, [])

    def cancelled(self) -> list[CallStarted]:
        """Remove and return all open calls; for the end of the run."""
        calls = [call for calls_of_item in self._by_item.values() for call in calls_of_item]
        self._by_item.clear()
        return calls


def is_refused_input(event: ItemEnded) -> bool:
    """Return whether an input item was refused before it started; a valid item with the same id may be open."""
    return isinstance(event.outcome, Failure) and event.outcome.stage == "input"


def _index_of(calls: list[CallStarted], event: CallEnded) -> int | None:
    """Return the index of the matching call: the one with the same start time, else the first similar one."""
    started_at = event.time - event.seconds
    similar = None
    for index, call in enumerate(calls):
        if (call.attempt, call.stage, call.label) == (event.attempt, event.stage, event.label):
            if abs(call.time - started_at) < _SAME_MOMENT:
                return index
            similar = index if similar is None else similar
    return similar
