"""
What observers see: one stream of small frozen events.

Progress bars, statistics, timelines and traces are observers; the engine knows none of them. Times (`time`)
are seconds on the run's monotonic clock. Events of one run arrive in order, one at a time, on the thread or
loop that drives it; events of different runs of one runner may arrive from different threads.

They are named tuples because two of them are made for every call, and these are made four times faster than
frozen dataclasses.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

from ._llm_response import LLMResponse
from .models import ItemId
from .outcomes import Outcome, RunStats, Stage


class RunStarted(NamedTuple):
    """A run of a task begins; `total` is the number of items, or None when the input does not tell."""

    run: int
    time: float
    total: int | None
    task: str = ""


class ItemStarted(NamedTuple):
    """An item entered the window."""

    run: int
    time: float
    item_id: ItemId


class CallStarted(NamedTuple):
    """
    A call was admitted and begins.

    Attributes:
        stage: "search", "llm" or "tokens".
        label: The aspect searched for, or the task name of the request.
        attempt: 1 for the first try.
        queue_seconds: Seconds it waited for its slot.
        weight: Slots it holds; more than 1 only for several searches in one round trip.
    """

    run: int
    time: float
    item_id: ItemId
    stage: Stage
    label: str
    attempt: int
    queue_seconds: float
    weight: int


class CallEnded(NamedTuple):
    """A call came back: with the model's `reply` (None for a search), or with an `error`."""

    run: int
    time: float
    item_id: ItemId
    stage: Stage
    label: str
    attempt: int
    seconds: float
    weight: int
    reply: LLMResponse | None
    error: BaseException | None


class CacheHit(NamedTuple):
    """An answer was in the store already: no call is made, and nothing is paid; `label` is the request's task name."""

    run: int
    time: float
    item_id: ItemId
    label: str
    reply: LLMResponse


class RetryScheduled(NamedTuple):
    """A call will be made again after `wait` seconds; its slot is free until then."""

    run: int
    time: float
    item_id: ItemId
    stage: Stage
    label: str
    attempt: int
    wait: float
    rate_limited: bool
    error: Exception


WaitReason: TypeAlias = Literal[
    "response", "concurrency", "rate_limit", "retry", "sleep", "store", "duplicate"
]


class PendingWait(NamedTuple):
    """
    Something that an item waits for.

    Attributes:
        item_id: The item.
        label: The aspect searched for, the task name of the request, or "".
        reason: "response" of a backend; a slot of a limit on calls in flight ("concurrency") or per minute
            ("rate_limit"); the next attempt ("retry"); a task's own "sleep"; a reply being written to the "store"; or
            another item or run that makes the same call ("duplicate").
        seconds: For how long.
        attempt: Of a call that is being tried, which try it is; else 0.
    """

    item_id: ItemId
    label: str
    reason: WaitReason
    seconds: float
    attempt: int = 0


class Stalled(NamedTuple):
    """
    No call has started or ended for `TimeLimits.stall_warning_after` seconds, or for 2, 4, ... times as long.

    The longest wait comes first.

    As a text it is what the log says.
    """

    run: int
    time: float
    seconds: float
    waits: tuple[PendingWait, ...]

    def __str__(self) -> str:
        parts: list[str] = []
        for kind, words in _WAITED_FOR.items():
            alike = [wait for wait in self.waits if wait.reason == kind]
            if not alike:
                continue
            first, *more = alike
            tries = f", try {first.attempt}" if first.attempt > 1 else ""
            name = f"{first.label!r} of {first.item_id!r}" if first.label else repr(first.item_id)
            others = f" and {len(more)} more" if more else ""
            parts.append(f"{words}: {name} for {first.seconds:.0f} s{tries}{others}")
        return (
            f"run {self.run}: nothing has happened for {self.seconds:.0f} s. Waiting for {'; '.join(parts)}"
        )


_WAITED_FOR: dict[WaitReason, str] = {
    "response": "an answer",
    "store": "the disk",
    "retry": "the next try",
    "rate_limit": "a limit per minute",
    "sleep": "the end of a pause",
    "duplicate": "another item or run that asks the same",
    "concurrency": "a slot",
}
"""In the order of the log: what the others wait for comes first."""


class ItemEnded(NamedTuple):
    """An item is done, or failed."""

    run: int
    time: float
    outcome: Outcome[object]


class RunEnded(NamedTuple):
    """A run is over."""

    run: int
    time: float
    stats: RunStats


Event: TypeAlias = (
    RunStarted
    | ItemStarted
    | CallStarted
    | CallEnded
    | CacheHit
    | RetryScheduled
    | Stalled
    | ItemEnded
    | RunEnded
)
