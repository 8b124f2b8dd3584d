"""
Calls as logical operations: all attempts at a call, matched from the events of a run.

A call that failed is over only if no retry is scheduled for it, which is not said: it ends with its item at the latest.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..events import CallEnded, CallStarted, RetryScheduled
from ..models import ItemId
from ._otel_conventions import CANCELLED, error_type


@dataclass(slots=True)
class LogicalCall:
    """
    A call with all of its attempts.

    Attributes:
        first: Its first attempt.
        failed: Its latest attempt, if that failed and has not been made again, and when that started.
        error: The error of the latest attempt that failed.
        attempt: The attempt that is in flight; None between two attempts.
        span: Its span, once that was started, with the context of the spans below it.
        attempts: Number of the latest attempt.
    """

    first: CallStarted
    failed: tuple[CallStarted, CallEnded] | None = None
    error: BaseException | None = None
    attempt: CallStarted | None = None
    span: tuple[Any, Any] | None = field(default=None, repr=False)
    attempts: int = 0

    @property
    def error_type(self) -> str | None:
        """The type of the error that the call ended with; None if it was answered."""
        if self.attempt is not None:
            return CANCELLED
        return None if self.error is None else error_type(self.error)


class LogicalCalls:
    """The calls of one run that are not over."""

    def __init__(self) -> None:
        self._by_item: dict[ItemId, dict[int, LogicalCall]] = {}

    def started(self, event: CallStarted) -> None:
        """Record that an attempt starts."""
        call = self._by_item.setdefault(event.item_id, {}).setdefault(event.call, LogicalCall(event))
        call.attempt, call.attempts = event, event.attempt

    def attempt_ended(self, attempt: CallStarted, event: CallEnded) -> LogicalCall:
        """Record that an attempt ends, and return its call, which is over unless the attempt failed."""
        calls = self._by_item.setdefault(event.item_id, {})
        call = calls.setdefault(attempt.call, LogicalCall(attempt))
        call.attempt, call.attempts = None, attempt.attempt
        if event.error is None:
            call.error = None
            del calls[attempt.call]
            if not calls:
                del self._by_item[event.item_id]
        else:
            call.failed, call.error = (attempt, event), event.error
        return call

    def retried(self, event: RetryScheduled) -> LogicalCall | None:
        """Return the call that will be made again; None if it is not known."""
        return self._by_item.get(event.item_id, {}).get(event.call)

    def over_with(self, item_id: ItemId | None) -> list[LogicalCall]:
        """Remove and return the calls of an item that ended."""
        return [] if item_id is None else list(self._by_item.pop(item_id, {}).values())

    def over(self) -> list[LogicalCall]:
        """Remove and return all calls; for the end of the run."""
        return [call for item_id in list(self._by_item) for call in self.over_with(item_id)]
