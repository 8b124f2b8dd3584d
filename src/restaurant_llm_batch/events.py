"""
Run events for observers: one stream of small immutable events.

Progress bars, statistics, timelines and traces are observers; the engine depends on none of them. `run` numbers the
run. `time` is in seconds, on the run's monotonic clock. Events of one run arrive in order, one at a time, on the thread
or event loop that drives the run; events of different runs of one runner may arrive from different threads.

Events are named tuples: every call emits two, and a named tuple is created four times faster than a frozen dataclass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

from ._llm_response import LLMResponse
from .models import ItemId, LLMRequest, SearchQuery, ServerLoad
from .outcomes import Outcome, Reason, RunStats, Stage


class RunStarted(NamedTuple):
    """A run of a task started; `total` is the number of items, or None if the input has no length."""

    run: int
    time: float
    total: int | None
    task: str = ""


class ItemStarted(NamedTuple):
    """An item was admitted: it is now one of the open items; `position` is that in the input, from 0."""

    run: int
    time: float
    item_id: ItemId
    position: int = 0


class CallStarted(NamedTuple):
    """
    A call was admitted and started.

    Attributes:
        stage: "search", "llm" or "tokens".
        label: The aspect of the query, or the task name of the request.
        attempt: Number of the attempt, from 1.
        queue_seconds: Seconds that the call waited for its limits.
        weight: Slots that the call holds; more than 1 only for several queries in one round trip.
        call: Number of the call in its run, from 1. All attempts of a call have the same number.
        rate_seconds: How many of `queue_seconds` it waited for a limit per minute.
        key: The key of its reply in the store; None without a store.
        endpoint: Name of the endpoint of an `LLMPool` that it goes to; None without a pool.
        request: The request, the query or the queries; None unless an observer has a true `wants_requests`.
    """

    run: int
    time: float
    item_id: ItemId
    stage: Stage
    label: str
    attempt: int
    queue_seconds: float
    weight: int
    call: int = 0
    rate_seconds: float = 0.0
    key: bytes | None = None
    request: LLMRequest | SearchQuery | Sequence[SearchQuery] | None = None
    endpoint: str | None = None


class CallEnded(NamedTuple):
    """
    A call ended after `seconds`, with the model's `reply` (None for a search) or with an `error`.

    Attributes:
        call: Its number, as in `CallStarted`.
        hits: The answer of a search, as the backend returned it; None unless an observer has a true `wants_requests`.
        endpoint: Its endpoint, as in `CallStarted`.
    """

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
    call: int = 0
    hits: Any = None
    endpoint: str | None = None


class LateReply(NamedTuple):
    """A call that was given up when its time was up has returned a `reply` after all; its tokens count."""

    run: int
    time: float
    item_id: ItemId
    call: int
    attempt: int
    reply: LLMResponse


class CacheHit(NamedTuple):
    """
    The store already had the reply, so no call is made; `label` is the request's task name.

    `call`, `key` and `request` are as in `CallStarted`; no call has this number.
    """

    run: int
    time: float
    item_id: ItemId
    label: str
    reply: LLMResponse
    call: int = 0
    key: bytes | None = None
    request: LLMRequest | None = None


class RetryScheduled(NamedTuple):
    """A call failed and will be retried after `wait` seconds; it holds no slot until then. `call` is its number."""

    run: int
    time: float
    item_id: ItemId
    stage: Stage
    label: str
    attempt: int
    wait: float
    rate_limited: bool
    error: Exception
    call: int = 0


class LimitChanged(NamedTuple):
    """
    An adaptive or a shared limit has changed, perhaps through a call of another run.

    It is emitted at the start of a run too, with the reason "start".

    A limit of any kind that a user sets has changed too, with the reason "manual"; see `BatchRunner.set_limit`.

    `time` is when the run notices: at its start, whenever one of its calls ends, and when a user sets a limit.

    Attributes:
        limiter: Field of `Limits`; or "llm:" and the name of an endpoint of an `LLMPool`.
        limit: The new limit: calls or tokens in flight, or calls or tokens per minute.
        reason: Why it changed; see `LimitChange`.
    """

    run: int
    time: float
    limiter: str
    limit: int
    reason: Reason


class ServerRead(NamedTuple):
    """
    The load of a model's server was read, or could not be; see `BatchRunner(watch_server=...)`.

    Attributes:
        server: "llm"; or "llm:" and the name of an endpoint of an `LLMPool`.
        load: The load; None if it could not be read.
        preemptions: Preemptions since any run of the runner read the server before.
        rejections: Requests that it has refused since then.
        error: Why the load could not be read; None if it could.
    """

    run: int
    time: float
    server: str
    load: ServerLoad | None
    preemptions: int = 0
    rejections: int = 0
    error: BaseException | None = None


class BatchProgress(NamedTuple):
    """
    A provider's batch that carries calls of the run was made, or looked at.

    Attributes:
        batch: Its id at the service.
        status: As the service says: "validating", "in_progress", "finalizing", "completed", "failed", "expired",
            "cancelling", "cancelled"; "missing" if the service does not find it.
        lines: Number of its calls.
        done: How many of them have been answered, or have failed, as far as the service says.
    """

    run: int
    time: float
    batch: str
    status: str
    lines: int
    done: int


WaitReason: TypeAlias = Literal[
    "response", "concurrency", "rate_limit", "retry", "sleep", "store", "duplicate", "batch"
]


class PendingWait(NamedTuple):
    """
    One wait of an item.

    Attributes:
        item_id: Id of the item.
        label: The aspect of the query, the task name of the request, or "".
        reason: "response": a backend's response; "concurrency": a limit on calls in flight; "rate_limit": a limit per
            minute; "retry": the delay before the next attempt; "sleep": a sleep of the task; "store": a reply being
            written to the store; "duplicate": the same call of another item or run; "batch": a provider's batch.
        seconds: Seconds waited so far.
        attempt: Number of the attempt in progress, from 1; 0 if the wait is not part of a call.
    """

    item_id: ItemId
    label: str
    reason: WaitReason
    seconds: float
    attempt: int = 0


class Stalled(NamedTuple):
    """
    No call has started or ended for `TimeLimits.stall_warning_after` seconds, or for 2, 4, ... times as long.

    ``str()`` returns the text of the log record.

    Attributes:
        seconds: Seconds since a call last started or ended.
        waits: What the open items wait for, longest wait first.
    """

    run: int
    time: float
    seconds: float
    waits: tuple[PendingWait, ...]

    def __str__(self) -> str:
        parts: list[str] = []
        for reason, text in _REASON_TEXTS.items():
            waits = [wait for wait in self.waits if wait.reason == reason]
            if not waits:
                continue
            longest, *rest = waits
            attempt = f", attempt {longest.attempt}" if longest.attempt > 1 else ""
            name = f"{longest.label}/{longest.item_id!r}" if longest.label else repr(longest.item_id)
            others = f" and {len(rest)} other{'s' * (len(rest) > 1)}" if rest else ""
            parts.append(f"{text}: {name} ({longest.seconds:.0f} s{attempt}){others}")
        return (
            f"run {self.run}: no call has started or ended for {self.seconds:.0f} s, "
            f"waiting for {'; '.join(parts)}"
        )


_REASON_TEXTS: dict[WaitReason, str] = {
    "response": "response",
    "batch": "batch",
    "store": "store write",
    "retry": "retry",
    "rate_limit": "rate limit",
    "sleep": "sleep",
    "duplicate": "identical call",
    "concurrency": "concurrency slot",
}
"""In the order of the log text: causes first, then the waits that follow from them."""


class ItemEnded(NamedTuple):
    """An item succeeded or failed."""

    run: int
    time: float
    outcome: Outcome[object]


class RunEnded(NamedTuple):
    """A run ended; no event of this run follows."""

    run: int
    time: float
    stats: RunStats


Event: TypeAlias = (
    RunStarted
    | ItemStarted
    | CallStarted
    | CallEnded
    | LateReply
    | CacheHit
    | RetryScheduled
    | LimitChanged
    | ServerRead
    | BatchProgress
    | Stalled
    | ItemEnded
    | RunEnded
)
