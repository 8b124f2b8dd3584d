"""
What observers see: one stream of small frozen events.

Progress bars, statistics, timelines and traces are observers; the engine knows none of them. Times (`at`)
are seconds on the run's monotonic clock. Events of one run arrive in order, one at a time, on the thread or
loop that drives it; events of different runs of one runner may arrive from different threads.

They are named tuples because two of them are made for every call, and these are made four times faster than
frozen dataclasses.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from .models import ItemId, LLMReply
from .report import Outcome, RunStats, Stage


class RunStarted(NamedTuple):
    """A run begins; `total` is the number of items, or None when the input does not tell."""

    run: int
    at: float
    total: int | None


class ItemStarted(NamedTuple):
    """An item entered the window."""

    run: int
    at: float
    item_id: ItemId


class CallStarted(NamedTuple):
    """
    A call was admitted and begins.

    Attributes:
        stage: "search", "llm" or "tokens".
        what: The aspect searched for, or the task name of the request.
        attempt: 1 for the first try.
        waited: Seconds it waited for its slot.
        weight: Slots it holds; more than 1 only for several searches in one round trip.
    """

    run: int
    at: float
    item_id: ItemId
    stage: Stage
    what: str
    attempt: int
    waited: float
    weight: int


class CallEnded(NamedTuple):
    """A call came back: with the model's `reply` (None for a search), or with an `error`."""

    run: int
    at: float
    item_id: ItemId
    stage: Stage
    what: str
    attempt: int
    seconds: float
    weight: int
    reply: LLMReply | None
    error: BaseException | None


class RetryPlanned(NamedTuple):
    """A call will be made again after `wait` seconds; its slot is free until then."""

    run: int
    at: float
    item_id: ItemId
    stage: Stage
    what: str
    attempt: int
    wait: float
    refused: bool
    error: Exception


class ItemEnded(NamedTuple):
    """An item is done, or failed."""

    run: int
    at: float
    outcome: Outcome[object]


class RunEnded(NamedTuple):
    """A run is over."""

    run: int
    at: float
    stats: RunStats


Event: TypeAlias = RunStarted | ItemStarted | CallStarted | CallEnded | RetryPlanned | ItemEnded | RunEnded
