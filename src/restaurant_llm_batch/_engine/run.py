"""One run: what its policy, its conductor and its driver share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from math import inf
from random import Random
from time import monotonic
from typing import TYPE_CHECKING, Any

from .._config.retry import RetryPolicy
from .._config.stopping import StopConditions, StopMonitor, TimeLimits
from .._limits.concurrency import ConcurrencyLimiter
from .._limits.limiters import LimiterSet
from .._llm_response import LLMResponse, RateLimitInfo
from ..cancellation import CancelToken
from ..errors import (
    STOPS_THE_RUN,
    DeadlineExceeded,
    OutputError,
    RateLimited,
    RunStopped,
    TransientBackendError,
)
from ..events import (
    CacheHit,
    CallEnded,
    CallStarted,
    Event,
    ItemEnded,
    ItemStarted,
    RetryScheduled,
    RunEnded,
    RunStarted,
)
from ..models import ItemId
from ..outcomes import Failure, Outcome, RunStats, Stage, Success
from ..protocols import Observer, Task
from .call import Call
from .items import RunItem
from .memo import MemoTable
from .packer import BatchPacker
from .plan import ExecutionPlan
from .stats import RunCounters

if TYPE_CHECKING:
    from .._store.store import Store

log = logging.getLogger("restaurant_llm_batch")

TAIL_QUEUE_RATIO = 2.25
"""
Calls waiting for each slot when a run's tail begins: what is then under way waits for what is not begun.

By simulation (benchmarks/strengths.py) enough for a hundred items of two calls each, over 32 slots, to come within
15 % of the bound. With more, the results of longer runs would come later for nothing.
"""


class Run:
    """
    The state that one run shares: its plan and its limits, whether it was stopped, and who watches.

    Attributes:
        store: Where answers are kept, or None.
        time_limits: How long things may take.
        fingerprint: Names the model that is asked, for the keys of the store.
        activity_count: Counts what happens: calls that begin and end, and outcomes.
        stopped: What stopped the run, or None while it goes on.
        input_exhausted: Whether the input has ended.
        current_frame: What the driver is advancing now; for it to find its way.
        cancel_token: Set when calls in flight are given up too; blocking backends may look at it.
    """

    def __init__(
        self,
        number: int,
        task: Task[Any],
        plan: ExecutionPlan,
        limiters: LimiterSet,
        packer: BatchPacker,
        retries: dict[Stage, RetryPolicy],
        observers: Sequence[Observer],
        sequence: Callable[[], int],
        random: Random,
        stop_monitor: StopMonitor | None = None,
        store: Store | None = None,
        fingerprint: str = "",
        time_limits: TimeLimits = TimeLimits(),
    ) -> None:
        self.number = number
        self.task = task
        self.plan = plan
        self.limiters = limiters
        self.packer = packer
        self.memo = MemoTable()
        self.store = store
        self.fingerprint = fingerprint
        self.time_limits = time_limits
        self.retries = retries
        self.random = random
        self.stopped: Exception | None = None
        self.activity_count = 0
        self.input_exhausted = False
        self.current_frame: Any = None
        self.cancel_token = CancelToken()
        self.counters = RunCounters()
        self._stop_monitor = stop_monitor or StopMonitor(StopConditions(), {})
        self._observers = tuple(observers)
        self._sequence = sequence
        self._latest = 0

    @property
    def stats(self) -> RunStats:
        """What the run has taken so far."""
        history = self.limiters.history(self.counters.started_at)
        reason = None if self.stopped is None else describe_stop(self.stopped)
        return self.counters.stats(reason, history, self._stop_monitor.cost)

    def stop(self, reason: str) -> None:
        """Have nothing more begun; whoever drives the run is to be told."""
        if self.stopped is None:
            self.stopped = RunStopped(reason)

    def stop_if_fatal(self, error: Exception) -> None:
        """Stop by an error after which no further call can succeed, if it is one."""
        if isinstance(error, STOPS_THE_RUN) and self.stopped is None:
            self.stopped = error

    def request_cancel(self) -> None:
        """Stop, and tell calls in flight that nobody will hear their answers."""
        self.stop("the run was cancelled")
        self.cancel_token.set()

    def start(self, total: int | None) -> None:
        """Note that the run begins."""
        self.counters.started_at = self.counters.latest = now = monotonic()
        self.emit(RunStarted(self.number, now, total, self.task.name))

    def finish(self) -> None:
        """Note that the run is over."""
        self.emit(RunEnded(self.number, monotonic(), self.stats))

    def queue_position(self, entry: RunItem, gates: tuple[ConcurrencyLimiter, ...]) -> float:
        """
        Return an LLM call's place in line, by its item.

        Items go in the order of their arrival, so that they finish in it and results stream out. In the tail of
        the run, when the last two rounds of calls wait, what is begun last would end alone, step after step: items
        that nobody has answered anything yet, and that have the longest way to go, then go first.
        """
        if not (self.input_exhausted and entry.has_llm_reply):
            return entry.sequence
        if any(
            gate.waiting > TAIL_QUEUE_RATIO * gate.limit for gate in gates if gate is not self.limiters.tokens
        ):
            return entry.sequence
        return self._latest + 1 - 1 / (2 + entry.sequence)  # before the next item of another run

    def item_started(self, entry: RunItem) -> None:
        """Let an entry into the window."""
        entry.sequence = self._latest = self._sequence()
        if self.time_limits.item is not None:
            entry.deadline = monotonic() + self.time_limits.item
        if self._observers:
            self.emit(ItemStarted(self.number, monotonic(), entry.item_id))

    def call_started(self, call: Call, entry: RunItem) -> None:
        """Note that a call was admitted."""
        now = call.started_at = monotonic()
        self.activity_count += 1
        self.counters.call_started(call.stage, call.permits)
        if self.time_limits.call is not None or entry.deadline is not None:
            self._set_deadline(call, entry)
        if self._observers:
            waited = now - call.queued_at
            self.emit(CallStarted(self.number, now, *_named(call, entry), waited, call.permits))

    def _set_deadline(self, call: Call, entry: RunItem) -> None:
        """Say until when a call may take, and what it is then."""
        seconds = self.time_limits.call
        own = inf if seconds is None else call.started_at + seconds
        items = inf if entry.deadline is None else entry.deadline
        call.deadline = min(own, items)
        if items <= own:
            call.timeout_error = self.item_timeout_error()
        elif call.method.is_async:
            call.timeout_error = TransientBackendError(f"no answer within {seconds:g} s")
        else:
            call.timeout_error = DeadlineExceeded(
                f"no answer within {seconds:g} s, and the call cannot be ended"
            )

    def item_timeout_error(self) -> DeadlineExceeded:
        """Return the error of an item whose time is up."""
        return DeadlineExceeded(f"the item's {self.time_limits.item:g} s are up")

    def is_overdue(self, entry: RunItem, after: float = 0.0) -> bool:
        """Tell whether an item's time is up, or will be after so many seconds."""
        return entry.deadline is not None and monotonic() + after >= entry.deadline

    def check_run_timeout(self) -> None:
        """Stop if the run's time is up."""
        seconds = self.time_limits.run
        if seconds is not None and monotonic() >= self.counters.started_at + seconds:
            self.stop(f"the run's {seconds:g} s are up")

    def call_finished(self, call: Call, entry: RunItem, answer: Any, error: BaseException | None) -> None:
        """Note that a call came back."""
        self.activity_count += 1
        reply = answer if isinstance(answer, LLMResponse) and is_valid_reply(answer) else None
        if reply is not None:
            self.counters.record_reply(reply)
        elif error is not None:
            self.counters.record_error(error)
        if call.stage == "llm":
            report = (
                reply.rate_limit
                if reply is not None
                else error.rate_limit
                if isinstance(error, RateLimited)
                else None
            )
            if report is not None or self.limiters.rate.active:
                self._report_usage(call, reply, error, report)
            if self._stop_monitor.needed:
                self._apply_rules(reply, error)
        if self._observers:
            now = monotonic()
            seconds = now - call.started_at
            event = CallEnded(self.number, now, *_named(call, entry), seconds, call.permits, reply, error)
            self.emit(event)

    def _report_usage(
        self, call: Call, reply: LLMResponse | None, error: BaseException | None, report: RateLimitInfo | None
    ) -> None:
        """Tell the gate for limits per minute what a call took, and what the service said is left."""
        used = 0 if isinstance(error, RateLimited) else None  # of what failed otherwise nobody knows
        if reply is not None:
            used = reply.prompt_tokens + reply.completion_tokens or None
        self.limiters.rate.record_usage(call.rate_ticket, used, report, self.counters.in_flight("llm"))

    def record_late_reply(self, answer: Any) -> None:
        """Note what a call came to that its item did not wait for: it was paid for, too."""
        if isinstance(answer, LLMResponse) and is_valid_reply(answer):
            self.counters.record_reply(answer)
            if self._stop_monitor.needed:
                self._apply_rules(answer, None)

    def _apply_rules(self, reply: LLMResponse | None, error: BaseException | None) -> None:
        if reply is not None:
            reason = self._stop_monitor.record_reply(reply)
        elif isinstance(error, RateLimited):
            reason = self._stop_monitor.record_rate_limited(monotonic())
        else:
            reason = self._stop_monitor.record_failure()
        if reason is not None:
            self.stop(reason)

    def check_rate_limited(self) -> None:
        """Stop if the model has refused everything for too long."""
        reason = self._stop_monitor.rate_limit_stop(monotonic())
        if reason is not None:
            self.stop(reason)

    def cap_wait(self, wait: float, refused: bool) -> float:
        """Return a wait, shortened to when the run's time or the patience with refusals is up."""
        now, seconds = monotonic(), self.time_limits.run
        if seconds is not None:
            wait = min(wait, max(0.0, self.counters.started_at + seconds - now))
        left = self._stop_monitor.next_check_in(now) if refused else None
        return wait if left is None else min(wait, left)

    def record_cache_hit(self, entry: RunItem, what: str, reply: LLMResponse) -> None:
        """Note that an answer was found in the store."""
        self.counters.cache_hits += 1
        if self._observers:
            self.emit(CacheHit(self.number, monotonic(), entry.item_id, what, reply))

    def retry_scheduled(
        self, call: Call, entry: RunItem, wait: float, refused: bool, error: Exception
    ) -> None:
        """Note that a call will be made again."""
        self.counters.retries += 1
        if self._observers:
            event = RetryScheduled(self.number, monotonic(), *_named(call, entry), wait, refused, error)
            self.emit(event)

    def item_finished(self, entry: RunItem, value: Any, error: Exception | None) -> Outcome[Any]:
        """Book an entry's end and return its outcome."""
        outcome: Outcome[Any]
        if error is None:
            outcome = Success(entry.item_id, value, entry.index)
        else:
            if self.store is not None and entry.stored_replies:
                self._discard(entry, error)
            stage, attempts = failure_stage(entry, error)
            outcome = Failure(entry.item_id, error, stage, attempts, entry.index)
        self.record_outcome(outcome)
        return outcome

    def _discard(self, entry: RunItem, error: Exception) -> None:
        """Take the answer out of the store that an item failed by, or later runs would fail by it too."""
        reply = getattr(error, "reply", None)
        for kept, key in entry.stored_replies:
            if kept is reply and self.store is not None:
                self.store.discard(key, lambda _: None)

    def record_outcome(self, outcome: Outcome[Any]) -> None:
        """Book an outcome."""
        self.activity_count += 1
        self.counters.latest = now = monotonic()
        if isinstance(outcome, Success):
            self.counters.succeeded += 1
        else:
            self.counters.failed += 1
        if self._observers:
            self.emit(ItemEnded(self.number, now, outcome))

    def emit(self, event: Event) -> None:
        """Show an event to all observers."""
        for observer in self._observers:
            try:
                observer(event)
            except Exception:
                log.exception("an observer failed; the run goes on without it having seen the event")

    def stop_error(self) -> RunStopped:
        """Return the error of an item that a stop keeps from going on."""
        reason = self.stopped
        error = RunStopped(f"not run to its end: {describe_stop(reason)}")
        error.__cause__ = reason
        return error


def describe_stop(reason: BaseException | None) -> str:
    """Say in a few words what stopped a run."""
    if reason is None:
        return "the run was closed"
    if type(reason) is RunStopped:
        return str(reason)
    return f"{type(reason).__name__}: {reason}"


def _named(call: Call, entry: RunItem) -> tuple[ItemId, Stage, str, int]:
    return entry.item_id, call.stage, call.label, call.attempt


def failure_stage(entry: RunItem, error: Exception) -> tuple[Stage, int]:
    """Return the stage at which an item failed, and how often the call was tried."""
    if isinstance(error, RunStopped):
        return "run", 0
    cause: BaseException | None = error
    while cause is not None:
        for raised, stage, attempts in entry.errors:
            if raised is cause:
                return stage, attempts
        cause = cause.__cause__
    if isinstance(error, OutputError):
        return "llm", next((attempt for reply, attempt in entry.retried if reply is error.reply), 1)
    return "task", 0


def is_valid_reply(reply: LLMResponse) -> bool:
    """Tell whether a backend filled a reply with what belongs there."""
    numbers: tuple[object, ...] = (reply.prompt_tokens, reply.completion_tokens, reply.cached_tokens)
    text: object = reply.text
    return isinstance(text, str) and all(isinstance(number, int) for number in numbers)
