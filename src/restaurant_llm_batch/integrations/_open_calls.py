"""Which calls are under way, from the events of a run; no display, no clock, no lock."""

from __future__ import annotations

from ..events import CallEnded, CallStarted, ItemEnded
from ..models import ItemId
from ..outcomes import Failure

_SAME_MOMENT = 1e-6
"""Seconds: a call's beginning is told twice, once as a difference, which rounds."""


class OpenCalls:
    """The calls of one run that have begun and not ended."""

    __slots__ = ("_of",)

    def __init__(self) -> None:
        self._of: dict[ItemId, list[CallStarted]] = {}

    def call_started(self, event: CallStarted) -> None:
        """Note that a call began."""
        self._of.setdefault(event.item_id, []).append(event)

    def call_finished(self, event: CallEnded) -> CallStarted | None:
        """Return how a call that ended had begun; None if it was given up for lost before."""
        calls = self._of.get(event.item_id)
        if not calls:
            return None
        place = _place(calls, event)
        if place is None:
            return None
        call = calls.pop(place)
        if not calls:
            del self._of[event.item_id]
        return call

    def cancelled_with(self, event: ItemEnded) -> list[CallStarted]:
        """Return the calls that an item left open: its run was cancelled, and nobody will hear their answers."""
        outcome = event.outcome
        if outcome.item_id is None or is_refused_input(event):
            return []
        return self._of.pop(outcome.item_id, [])

    def cancelled(self) -> list[CallStarted]:
        """Return all calls that are still open, once."""
        calls = [call for of_item in self._of.values() for call in of_item]
        self._of.clear()
        return calls


def is_refused_input(event: ItemEnded) -> bool:
    """Tell whether an item was never begun; another one of the same name may be open."""
    return isinstance(event.outcome, Failure) and event.outcome.stage == "input"


def _place(calls: list[CallStarted], event: CallEnded) -> int | None:
    began = event.time - event.seconds
    similar = None
    for place, call in enumerate(calls):
        if (call.attempt, call.stage, call.label) == (event.attempt, event.stage, event.label):
            if abs(call.time - began) < _SAME_MOMENT:
                return place
            similar = place if similar is None else similar
    return similar
