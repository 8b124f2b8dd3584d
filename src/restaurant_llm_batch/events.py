"""
What observers see: one stream of small frozen events.

Progress bars, statistics, timelines and traces are observers; the engine knows none of them. Times (`at`)
are seconds on the run's monotonic clock. Events of one run arrive in order, one at a time, on the thread or
loop that drives it; events of different runs of one runner may arrive from different threads.

They are named tuples because two of them are made for every call, and these are made four times faster than
frozen dataclasses.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

from ._llm_response import LLMReply
from .models import ItemId
from .outcomes import Outcome, RunStats, Stage


class RunStarted(NamedTuple):
    """A run of a task begins; `total` is the number of items, or None when the input does not tell."""

    run: int
    at: float
    total: int | None
    task: str = ""


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


class AnswerFound(NamedTuple):
    """An answer was in the store already: no call is made, and nothing is paid; `what` is the request's task name."""

    run: int
    at: float
    item_id: ItemId
    what: str
    reply: LLMReply


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


WaitFor: TypeAlias = Literal["answer", "slot", "pace", "retry", "pause", "disk", "other"]


class Wait(NamedTuple):
    """
    Something that an item waits for.

    Attributes:
        item_id: The item.
        what: The aspect searched for, the task name of the request, or "".
        wait_for: The "answer" of a backend; a "slot"; the "pace" of a limit per minute; the time of the next try
            ("retry") or of a task's own "pause"; an answer that is being written to the "disk"; or an "other" item
            or run, which asks the same.
        seconds: For how long.
        attempt: Of a call that is being tried, which try it is; else 0.
    """

    item_id: ItemId
    what: str
    wait_for: WaitFor
    seconds: float
    attempt: int = 0


class Stalled(NamedTuple):
    """
    Nothing has begun or ended for as many `seconds` as `Deadlines.stall` says, or twice, four times, ... as many.

    The longest wait comes first.

    As a text it is what the log says.
    """

    run: int
    at: float
    seconds: float
    waits: tuple[Wait, ...]

    def __str__(self) -> str:
        parts: list[str] = []
        for kind, words in _WAITED_FOR.items():
            alike = [wait for wait in self.waits if wait.wait_for == kind]
            if not alike:
                continue
            first, *more = alike
            tries = f", try {first.attempt}" if first.attempt > 1 else ""
            name = f"{first.what!r} of {first.item_id!r}" if first.what else repr(first.item_id)
            others = f" and {len(more)} more" if more else ""
            parts.append(f"{words}: {name} for {first.seconds:.0f} s{tries}{others}")
        return (
            f"run {self.run}: nothing has happened for {self.seconds:.0f} s. Waiting for {'; '.join(parts)}"
        )


_WAITED_FOR: dict[WaitFor, str] = {
    "answer": "an answer",
    "disk": "the disk",
    "retry": "the next try",
    "pace": "a limit per minute",
    "pause": "the end of a pause",
    "other": "another item or run that asks the same",
    "slot": "a slot",
}
"""In the order of the log: what the others wait for comes first."""


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


Event: TypeAlias = (
    RunStarted
    | ItemStarted
    | CallStarted
    | CallEnded
    | AnswerFound
    | RetryPlanned
    | Stalled
    | ItemEnded
    | RunEnded
)
