"""
RunRecorder: records the statistics of a run, and emits the events that its observers see.

Everything that happens in a run is reported to it once, where the run lives. It decides nothing, but passes on what it
records: usage to the rate limiter, calls to the stop conditions in `RunState`, and it deletes a stored reply that made
its item fail. It reads the time from `RunState`.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from math import nan
from operator import call, itemgetter
from typing import TYPE_CHECKING, Any, Protocol

from .._config.stopping import StopMonitor, TokenEstimate
from .._limits.limiters import LimiterSet, LimitWatch
from .._llm_response import LLMResponse, RateLimitInfo, valid_reply
from .._shortage import is_local_shortage
from .._spent import SpentTable
from .._values import tuple_maker
from ..errors import RateLimited, RunStopped
from ..events import (
    BatchProgress,
    CacheHit,
    CallEnded,
    CallStarted,
    Event,
    ItemEnded,
    ItemStarted,
    LateReply,
    LimitChanged,
    RetryScheduled,
    RunEnded,
    RunStarted,
    ServerRead,
)
from ..models import LLMRequest, ServerLoad
from ..outcomes import Failure, Outcome, RunStats, Stage
from ..protocols import Observer, Task
from .call import Call
from .items import RunItem, failure_stage
from .kept_errors import KeptErrors
from .latency import MAX_RECENT
from .mailbox import Clock
from .packer import BatchPacker
from .stats import RunCounters
from .successes import make_success
from .wave_service import LineUnanswered

if TYPE_CHECKING:
    from .._store.overlay import AnyStore

log = logging.getLogger("restaurant_llm_batch")

_item_started, _call_started = tuple_maker(ItemStarted), tuple_maker(CallStarted)
_call_ended, _item_ended = tuple_maker(CallEnded), tuple_maker(ItemEnded)

_OBSERVER_FAILED = "an observer failed; the run goes on without it having seen the event"


class RecordedRun(Protocol):
    """The part of `RunState` that the recorder uses."""

    number: int
    task: Task[Any]
    now: Clock
    limiters: LimiterSet
    packer: BatchPacker
    store: AnyStore | None
    stop_monitor: StopMonitor
    started_at: float
    stopped: Exception | None

    def stop_error(self) -> RunStopped:
        """Return the error of an item that a stop keeps from finishing."""
        ...

    def check_stop_conditions(
        self, reply: LLMResponse | None, error: BaseException | None, estimate: TokenEstimate, cancelled: bool
    ) -> None:
        """Count an LLM call, and stop the run if it meets a stop condition."""
        ...

    def check_usage(self, reply: LLMResponse, estimate: TokenEstimate) -> None:
        """Count the tokens of a reply, and stop the run if a budget is used up."""
        ...

    def check_failed_item(self, error: Exception, stage: str, replies: int) -> None:
        """Count an item that failed, and stop the run if too many end with the same error."""
        ...


class RunRecorder:
    """
    Records one run.

    Args:
        run: The run.
        observers: Called with every event; the exception of an observer is logged and ignored.

    Attributes:
        counters: The counters.
        is_observed: Whether anybody sees the events.
        next_call: Returns the number of the next call, from 1.
    """

    __slots__ = (
        "_end_seen",
        "_end_unseen",
        "_ended",
        "_errors",
        "_has_prices",
        "_limits",
        "_observers",
        "_other_activity",
        "_post",
        "_run",
        "_shortage_logged",
        "_spent_table",
        "_unwatch_limits",
        "_with_requests",
        "counters",
        "is_observed",
        "next_call",
    )

    def __init__(self, run: RecordedRun, observers: Sequence[Observer]) -> None:
        self.counters: RunCounters = RunCounters()
        self._other_activity = 0
        self.next_call: Callable[[], int] = count(1).__next__
        self._run = run
        self._observers = tuple(observers)
        self.is_observed: bool = bool(observers)
        self._with_requests = any(getattr(observer, "wants_requests", False) for observer in observers)
        self._limits = LimitWatch(run.limiters)
        self._unwatch_limits: Callable[[], object] = _nothing
        self._post: Callable[[Callable[[], object]], object] | None = None
        self._shortage_logged = False
        self._errors = KeptErrors()
        self._has_prices = run.stop_monitor.has_prices
        self._spent_table = SpentTable(self._has_prices)
        self._ended: RunEnded | None = None
        self._end_unseen: deque[Observer] = deque()  # those that saw the run's start, but not its end
        self._end_seen: deque[object] = deque(maxlen=1)

    @property
    def wants_requests(self) -> bool:
        """Whether an observer wants the requests of the calls."""
        return self._with_requests

    @property
    def stats(self) -> RunStats:
        """The statistics so far."""
        run = self._run
        history = run.limiters.history(self.counters.started_at)
        reason = None if run.stopped is None else describe_stop(run.stopped)
        monitor = run.stop_monitor
        return self.counters.stats(reason, history, monitor.cost, monitor.estimated_cost)

    @property
    def activity_count(self) -> int:
        """A number that changes when a call starts or ends, and with an outcome; the stall detector watches it."""
        return self._other_activity + self.counters.activity_count

    def start(self, total: int | None) -> None:
        """Record that the run starts, with `total` items if that is known."""
        run = self._run
        run.started_at = self.counters.started_at = self.counters.latest = now = run.now()
        if self._observers:
            self._unwatch_limits = run.limiters.watch_set(self._on_limit_set)
            self._limits.look_again()
        event = RunStarted(run.number, now, total, run.task.name)
        for observer in self._observers:
            try:
                # In one call: after an interrupt, an observer has seen the start and is to see the end, or neither.
                seen = zip((observer,), map(observer, (event,)), strict=False)
                self._end_unseen.extend(map(itemgetter(0), seen))
            except Exception:
                self._end_unseen.append(observer)
                log.exception(_OBSERVER_FAILED)
        self.emit_limit_changes()

    def post_to(self, post: Callable[[Callable[[], object]], object]) -> None:
        """Emit what other threads do where the run lives: `post` runs an action there."""
        self._post = post

    def _on_limit_set(self) -> None:
        """Notice, in any thread, that a user has set a limit; otherwise it is noticed when a call ends."""
        self._limits.look_again()
        if self._post is not None:
            self._post(self.emit_limit_changes)

    def emit_limit_changes(self) -> None:
        """Emit how the limits have changed since this was last called."""
        if self._observers and self._ended is None:
            number, now = self._run.number, self._run.now()
            for limiter, change in self._limits.changes():
                self.emit(LimitChanged(number, now, limiter, change.limit, change.reason))

    def server_read(
        self,
        server: str,
        load: ServerLoad | None,
        new: tuple[int, int],
        counted: tuple[int, int],
        error: BaseException | None = None,
    ) -> None:
        """
        Record a reading of a server's load.

        Args:
            server: Its name.
            load: The load; None if it could not be read.
            new: Its preemptions and rejections since the reading before.
            counted: Those that were ever seen.
            error: Why it could not be read.
        """
        self.counters.servers[server].record(load, counted)
        if self._observers and self._ended is None:
            self.emit(ServerRead(self._run.number, self._run.now(), server, load, *new, error))

    def batch_looked_at(self, batch: str, status: str, lines: int, done: int) -> None:
        """Record what a service has said of a provider's batch: the run does not stall."""
        self._other_activity += 1
        if self._observers:
            self.emit(BatchProgress(self._run.number, self._run.now(), batch, status, lines, done))

    def finish(self) -> None:
        """Record that the run is over, if it had started. Calling it again does nothing."""
        unseen = self._end_unseen
        if not unseen:
            return
        if self._ended is None:
            self._unwatch_limits()
            self.emit_limit_changes()
            self._ended = RunEnded(self._run.number, self._run.now(), self.stats)
        while unseen:
            try:
                # In one call too: popped and called, or neither.
                self._end_seen.extend(map(call, map(deque.popleft, (unseen,)), (self._ended,)))
            except Exception:
                log.exception(_OBSERVER_FAILED)

    def item_started(self, item: RunItem) -> None:
        """Emit that an item enters the window; nothing else is recorded of it."""
        if self.is_observed:
            self.emit(_item_started((self._run.number, self._run.now(), item.item_id, item.index)))

    def call_started(self, call: Call, item: RunItem, counted: object = None) -> None:
        """
        Record that a call starts, at `call.started_at`.

        Args:
            call: The call.
            item: Its item.
            counted: What the counters know it by until it has ended; None for the call itself.
        """
        spec, counters, now = call.spec, self.counters, call.started_at
        stage, permits = spec.stage, spec.permits
        counted = counted or call
        counters.stages[stage].start(counted, permits)
        if call.endpoint is not None:
            counters.endpoints[call.endpoint].load.start(counted, permits)
        queued = now - call.queued_at
        item.waited += queued
        if stage == "llm":
            item.calls += 1
        elif stage == "search":
            item.searches += permits
        if call.attempt > item.tries:
            item.tries = call.attempt
        if self._observers:
            since = call.rate_queued_at
            rate = 0.0 if since is None else now - since
            key = None if call.in_flight is None else call.in_flight.key
            request = call.argument if self._with_requests and stage != "tokens" else None
            named = self._run.number, now, item.item_id, stage, call.label, call.attempt
            self.emit(
                _call_started((*named, queued, permits, call.number, rate, key, request, call.endpoint))
            )

    def call_dropped(self, call: Call, item: RunItem) -> None:
        """Record that a call ends that was queued and has not started."""
        item.waited += max(0.0, self._run.now() - call.queued_at)

    def call_finished(self, call: Call, item: RunItem, answer: Any, error: BaseException | None) -> None:
        """Record that a call has returned in time, or was abandoned with an error."""
        run, spec, counters = self._run, call.spec, self.counters
        stage, endpoint, clock = spec.stage, call.endpoint, run.now
        now = clock()
        seconds = now - call.started_at
        reply = None
        if error is not None:
            self._other_activity += 1  # it may have been abandoned, and not have ended
            counters.record_error(error)
            self._record_tokens_of_error(call, item, error)
        else:
            latency = counters.stages[stage].latency
            recent = latency.recent
            recent.append(seconds)
            if len(recent) >= MAX_RECENT:
                counters.sort_in(latency)
            if stage == "llm" and isinstance(answer, LLMResponse):
                reply = call.reply = valid_reply(answer)
                if reply is not None:
                    counters.record_reply(reply)
                    item.prompt_tokens += reply.prompt_tokens
                    item.completion_tokens += reply.completion_tokens
                    if self._has_prices:
                        self._charge(item, reply)
                    if call.tokens and reply.completion_tokens:
                        in_blocks = run.limiters.in_blocks
                        counters.reserved += in_blocks(call.tokens)
                        counters.used += in_blocks(reply.prompt_tokens + reply.completion_tokens)
        if endpoint is not None:
            counters.endpoints[endpoint].record_result(reply, error, seconds)
        if stage == "llm":
            # Before the rate limiter, which may start the next call with the tokens that this one has not used.
            if run.stop_monitor.needed and not (error is not None and _is_none_of_the_call(error)):
                cancelled = call.is_async and error is not None and error is call.timeout_error
                if cancelled:
                    item.cost = nan  # the model has read the prompt, and nobody says how many tokens that was
                run.check_stop_conditions(reply, error, self._estimate(call, reply), cancelled)
            report = reply.rate_limit if reply is not None else getattr(error, "rate_limit", None)
            if report is not None and endpoint is not None:
                call.record_report(report)
                report = None  # it is that of one endpoint only
            if report is not None or run.limiters.rate.active:
                self._report_usage(call, reply, error, report)
        if self._observers:
            hits = answer if self._with_requests and stage == "search" else None
            named = run.number, now, item.item_id, stage, call.label, call.attempt
            self.emit(_call_ended((*named, seconds, spec.permits, reply, error, call.number, hits, endpoint)))
            self.emit_limit_changes()

    def _charge(self, item: RunItem, reply: LLMResponse) -> None:
        """Add the cost of a reply's tokens to what its item has taken."""
        cost = self._run.stop_monitor.cost_of(reply)
        item.cost += nan if cost is None else cost

    def _report_usage(
        self, call: Call, reply: LLMResponse | None, error: BaseException | None, report: RateLimitInfo | None
    ) -> None:
        """Report a call's tokens and its rate-limit headers to the rate limiter."""
        # Failures other than a 429 may have used tokens; their number is unknown.
        used = 0 if isinstance(error, RateLimited) else None
        if reply is not None:
            used = reply.prompt_tokens + reply.completion_tokens or None
        in_flight = self.counters.in_flight("llm")
        ticket = call.rate_ticket
        self._run.limiters.rate.record_usage(ticket, used, report, in_flight, self._run.now())

    def record_late_reply(self, call: Call, item: RunItem, answer: Any) -> None:
        """Record a reply that arrived after its item had gone on; its tokens still count."""
        reply = valid_reply(answer) if isinstance(answer, LLMResponse) else None
        if reply is not None:
            self._record_tokens(call, item, reply)
            if self._observers:
                number, now = self._run.number, self._run.now()
                self.emit(LateReply(number, now, item.item_id, call.number, call.attempt, reply))

    def _record_tokens_of_error(self, call: Call, item: RunItem, error: BaseException) -> None:
        """Record the tokens of a call that failed, if the error says what it used."""
        paid = getattr(error, "reply", None)
        reply = valid_reply(paid) if isinstance(paid, LLMResponse) else None
        if reply is not None:
            self._record_tokens(call, item, reply)

    def _record_tokens(self, call: Call, item: RunItem, reply: LLMResponse) -> None:
        self.counters.record_tokens(reply)
        item.prompt_tokens += reply.prompt_tokens
        item.completion_tokens += reply.completion_tokens
        if self._has_prices:
            self._charge(item, reply)
        if self._run.stop_monitor.needed:
            self._run.check_usage(reply, self._estimate(call, reply))

    def _estimate(self, call: Call, reply: LLMResponse | None) -> TokenEstimate:
        text = "" if reply is None else reply.text
        return partial(self._run.packer.estimate_usage, call.argument, text)

    def log_shortage(self, error: Exception) -> None:
        """Log, once, that this process lacks threads or descriptors."""
        if not self._shortage_logged:
            self._shortage_logged = True
            log.warning(
                "this process is short of file descriptors, threads or ports: calls wait and are made again, which "
                "uses up no attempts; lower the limits, or allow it more (ulimit -n, ulimit -u): %s",
                error,
            )

    def record_cache_hit(self, item: RunItem, request: LLMRequest, reply: LLMResponse, key: bytes) -> None:
        """Record a reply that was found in the store under a key."""
        self.counters.cache_hits += 1
        item.cache_hits += 1
        if self._observers:
            number, now = self._run.number, self._run.now()
            shown = request if self._with_requests else None
            self.emit(CacheHit(number, now, item.item_id, request.task, reply, self.next_call(), key, shown))

    def retry_scheduled(
        self, call: Call, item: RunItem, wait: float, rate_limited: bool, error: Exception
    ) -> None:
        """Record that a call will be made again after `wait` seconds."""
        self.counters.retries += 1
        item.waited += wait
        if self._observers:
            number, now = self._run.number, self._run.now()
            named = item.item_id, call.spec.stage, call.label, call.attempt
            self.emit(RetryScheduled(number, now, *named, wait, rate_limited, error, call.number))

    def item_finished(self, item: RunItem, value: Any, error: Exception | None) -> Outcome[Any]:
        """Record an item's end and return its outcome; of an item that has one already, return that."""
        if item.outcome is not None:
            return item.outcome
        outcome: Outcome[Any]
        counters, clock = self.counters, self._run.now
        now = clock()
        # An item is counted and has its outcome, or neither: no interrupt lands within a statement without a call.
        if error is None and item.bad is None:
            outcome = make_success(item.item_id, value, item.index, self._spent_table.keep(item, now))
            item.outcome, counters.succeeded = outcome, counters.succeeded + 1
        else:
            outcome = self._failure(item, error, now)
            item.outcome, counters.failed = outcome, counters.failed + 1
        counters.latest = now
        if self._observers:
            self.emit(_item_ended((self._run.number, now, outcome)))
        return outcome

    def _failure(self, item: RunItem, error: Exception | None, now: float) -> Failure:
        stage: Stage
        if item.bad is not None:
            error, stage, attempts = item.bad, "input", 0
        else:
            error = error or self._run.stop_error()
            if item.stored_replies:
                self._discard(item, error)
            stage, attempts = failure_stage(item, error)
            if not item.shares_failure:  # one call that failed for many items is one failure
                self._run.check_failed_item(error, stage, self.counters.replies)
        kept, spent = self._errors.keep(error), self._spent_table.keep(item, now)
        return Failure(item.item_id, kept, stage, attempts, item.index, spent)

    def _discard(self, item: RunItem, error: Exception) -> None:
        """Delete the reply that an item failed by from the store; later runs would fail by it too."""
        store = self._run.store
        reply = getattr(error, "reply", None)
        for stored, key in item.stored_replies:
            if stored is reply and store is not None:
                store.discard(key, lambda _: None)

    def emit(self, event: Event) -> None:
        """Pass an event to all observers."""
        for observer in self._observers:
            try:
                observer(event)
            except Exception:
                log.exception(_OBSERVER_FAILED)


def _is_none_of_the_call(error: BaseException) -> bool:
    """Return whether the call is not at fault, but this process, or the batch that it was in."""
    return is_local_shortage(error) or isinstance(error, LineUnanswered)


def _nothing() -> None:
    """Do nothing."""


def describe_stop(reason: BaseException | None) -> str:
    """Return a short text for the reason why a run stopped."""
    if reason is None:
        return "the run was closed"
    if type(reason) is RunStopped:
        return str(reason)
    return f"{type(reason).__name__}: {reason}"
