"""
RunState: what the flows, the scheduler and the driver of one run share, and every decision about its end.

`RunState` decides: has the run stopped, is an item overdue, how long may a call take, which call goes first.
`RunRecorder` (in `recorder`) records: statistics, events for observers, and the calls that the stop conditions count.
Time comes from `RunState.now`, the clock of the run's driver, so that a run can live on virtual time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from random import Random
from typing import TYPE_CHECKING, Any, TypeAlias

from .._config.retry import RetryPolicy
from .._config.stopping import Price, StopConditions, StopMonitor, TimeLimits, TokenEstimate
from .._limits.clients import Client
from .._limits.concurrency import ConcurrencyLimiter
from .._limits.limiters import LimiterSet
from .._llm_response import LLMResponse
from ..cancellation import CancelToken
from ..errors import (
    STOPS_THE_RUN,
    ConfigurationError,
    DeadlineExceeded,
    RateLimited,
    RunStopped,
    TransientBackendError,
)
from ..outcomes import Stage
from ..protocols import Observer, Task
from ..steps import Ask, Complete, Flow
from .admission import CallContext
from .call import Call
from .frames import EngineFlow
from .items import RunItem
from .mailbox import Clock
from .memo import MemoTable
from .packer import BatchPacker
from .plan import CallSpec, ExecutionPlan
from .recorder import RunRecorder, describe_stop

if TYPE_CHECKING:
    from .._store.identity import PoolModels
    from .._store.overlay import AnyStore
    from .server_watch import WatchPlan
    from .wave_service import WaveService
    from .waves import Waves

Completion: TypeAlias = "Callable[[Complete, RunItem, RunState], EngineFlow[LLMResponse]]"
"""Makes the calls to the model that a step asks for."""

log = logging.getLogger("restaurant_llm_batch")

TAIL_QUEUE_RATIO = 2.25
"""
Queued calls per slot below which a run is in its tail; see `RunState.queue_position`.

By simulation (benchmarks/strengths.py), a hundred items of two calls each, over 32 slots, then finish within 15 % of
the bound. A larger ratio delays the results of longer runs without a gain.
"""


@dataclass(frozen=True, slots=True)
class RunConfig:
    """
    The configuration that all runs of one runner share.

    Attributes:
        plan: The backend methods to call, and what runs concurrently.
        limiters: The limiters.
        packer: Packs texts into batches and counts tokens.
        retries: The retry policy of each stage.
        sequence: Numbers the items of all runs in the order in which they enter the window.
        store: The store of replies, or None.
        fingerprint: The fingerprint of the LLM backend, for cache keys.
        models: What the store knows the models of a pool by; None without a pool.
        time_limits: How long calls, items and the run may take.
        stop: When a run stops by itself.
        prices: Prices by model name.
        estimates_usage: Whether the tokens of a call are estimated if the backend reports none; not if it calls no
            model.
        observers: Called with every event.
        ask: Returns the flow that performs an `Ask` for an item of a priority; it belongs to the tasks.
        watch: The servers whose load is read, or None.
        wave_service: The service whose batches carry the calls to the model; None to make each call by itself.
    """

    plan: ExecutionPlan
    limiters: LimiterSet
    packer: BatchPacker
    retries: Mapping[Stage, RetryPolicy]
    sequence: Callable[[], int]
    store: AnyStore | None = None
    fingerprint: str = ""
    models: PoolModels | None = None
    time_limits: TimeLimits = field(default_factory=TimeLimits)
    stop: StopConditions = field(default_factory=StopConditions)
    prices: Mapping[str, Price] = field(default_factory=dict)
    estimates_usage: bool = True
    observers: Sequence[Observer] = ()
    ask: Callable[[Ask, int], Flow[Any]] | None = None
    watch: WatchPlan | None = None
    wave_service: WaveService | None = None


class RunState:
    """
    The state of one run.

    Args:
        number: The run's number, unique in the process.
        task: The task.
        config: The configuration that it shares with the other runs of its runner.
        now: The driver's clock, in seconds.
        random: Jitters the retries.
        client: Whom it is made for, or None.

    Attributes:
        recorder: Records what happens.
        calls: What its calls have in common.
        llm_calls: What its calls to the model have in common.
        memo: The flows of this run that run once.
        started_at: When it started, on its clock.
        complete: Makes its calls to the model; set at the first one.
        stopped: The error that stopped the run; None while it goes on.
        input_exhausted: Whether the input has ended.
        current_frame: The frame being advanced; used to find who owns a memo cell.
        cancel_token: Set when calls in flight are cancelled too.
        shares: What it leads and follows among the calls in flight in the store, and how to leave each.
        waves: Its calls to the model that go as lines of batches; None if each is made by itself.
    """

    __slots__ = (
        "_latest_sequence",
        "_next_sequence",
        "ask",
        "calls",
        "cancel_token",
        "client",
        "complete",
        "current_frame",
        "fingerprint",
        "input_exhausted",
        "limiters",
        "llm_calls",
        "memo",
        "models",
        "now",
        "number",
        "packer",
        "plan",
        "random",
        "recorder",
        "retries",
        "shares",
        "started_at",
        "stop_monitor",
        "stopped",
        "store",
        "task",
        "time_limits",
        "watch",
        "waves",
    )

    def __init__(
        self,
        number: int,
        task: Task[Any],
        config: RunConfig,
        now: Clock,
        random: Random | None = None,
        client: Client | None = None,
    ) -> None:
        self.number: int = number
        self.task: Task[Any] = task
        self.now: Clock = now
        self.client: Client | None = client
        self.random: Random = random or Random()
        self.plan: ExecutionPlan = config.plan
        self.llm_calls: CallSpec = CallSpec(config.plan.llm, "llm", endpoints=config.plan.endpoints)
        self.limiters: LimiterSet = config.limiters
        self.packer: BatchPacker = config.packer
        self.retries: Mapping[Stage, RetryPolicy] = config.retries
        self.store: AnyStore | None = config.store
        self.fingerprint: str = config.fingerprint
        self.models: PoolModels | None = config.models
        self.ask: Callable[[Ask, int], Flow[Any]] | None = config.ask
        self.complete: Completion | None = None
        self.watch: WatchPlan | None = config.watch
        self.time_limits: TimeLimits = config.time_limits
        self.memo: MemoTable = MemoTable()
        self.started_at: float = 0.0
        self.stopped: Exception | None = None
        self.input_exhausted: bool = False
        self.current_frame: Any = None
        self.cancel_token: CancelToken = CancelToken()
        self.shares: dict[object, Callable[[], object]] = {}
        self.stop_monitor: StopMonitor = config.stop.monitor(config.prices, config.estimates_usage)
        self.recorder: RunRecorder = RunRecorder(self, config.observers)
        self.calls: CallContext = CallContext(
            now,
            self.recorder.counters,
            client,
            config.limiters,
            config.packer.request_tokens,
            config.limiters.follows_latency,
        )
        self._next_sequence = config.sequence
        self.limiters.use_clock(now)
        self._latest_sequence = 0
        service = config.wave_service
        self.waves: Waves | None = None
        if service is not None:
            from .wave_flow import carry
            from .wave_host import WaveRun
            from .waves import Waves

            left = self.stop_monitor.prompt_tokens_left
            looked_at = self.recorder.batch_looked_at
            needs = WaveRun(now, self.packer.prompt_tokens, self.stop, looked_at, left)
            self.waves = Waves(service, config.store, needs, carry)

    # Stopping

    def stop(self, reason: str) -> None:
        """Start nothing more. The driver has to be woken to notice."""
        if self.stopped is None:
            self.stopped = RunStopped(reason)

    def stop_if_fatal(self, error: Exception) -> None:
        """Stop if no further call can succeed after this error."""
        fatal = isinstance(error, STOPS_THE_RUN) or (
            isinstance(error, ConfigurationError) and not error.of_one_item
        )
        if fatal and self.stopped is None:
            self.stopped = error

    def request_cancel(self) -> None:
        """Stop, and notify the calls in flight that no caller waits for their replies."""
        self.stop("the run was cancelled")
        self.cancel_token.set()

    def leave(self, share: object) -> None:
        """Leave a call in flight that it shares."""
        self.shares[share]()
        del self.shares[share]

    def leave_all(self) -> None:
        """Leave the calls in flight that an interrupt has kept it from leaving. Doing it again does nothing."""
        for share in list(self.shares):
            self.leave(share)

    def stop_error(self) -> RunStopped:
        """Return the error of an item that a stop keeps from finishing."""
        reason = self.stopped
        error = RunStopped(f"not run to its end: {describe_stop(reason)}")
        error.__cause__ = reason
        return error

    def check_run_timeout(self) -> None:
        """Stop if the run's time is up."""
        seconds = self.time_limits.run
        if seconds is not None and self.now() >= self.started_at + seconds:
            self.stop_for_time()

    def stop_for_time(self) -> None:
        """Stop because the run's time is up."""
        self.stop(f"the run's {self.time_limits.run:g} s are up")

    def check_rate_limited(self) -> None:
        """Stop if the model has refused every call for too long."""
        reason = self.stop_monitor.rate_limit_stop(self.now())
        if reason is not None:
            self.stop(reason)

    def check_stop_conditions(
        self, reply: LLMResponse | None, error: BaseException | None, estimate: TokenEstimate, cancelled: bool
    ) -> None:
        """Count an LLM call, which may have been cancelled at the model; stop if it meets a stop condition."""
        monitor = self.stop_monitor
        if reply is not None:
            reason = monitor.record_reply(reply, estimate)
        elif isinstance(error, RateLimited):
            reason = monitor.record_rate_limited(self.now())
        else:
            reason = monitor.record_failure() or (monitor.record_cancelled(estimate) if cancelled else None)
        if reason is not None:
            self.stop(reason)

    def check_usage(self, reply: LLMResponse, estimate: TokenEstimate) -> None:
        """Count the tokens of a late reply, or of one that came with an error; stop if a budget is used up."""
        reason = self.stop_monitor.record_usage(reply, estimate)
        if reason is not None:
            self.stop(reason)

    def check_failed_item(self, error: Exception, stage: str, replies: int) -> None:
        """Count an item that failed, and stop if too many in a row end with the same permanent error."""
        reason = self.stop_monitor.record_failed_item(error, stage, replies)
        if reason is not None:
            self.stop(reason)

    # Time

    def enter_window(self, item: RunItem) -> None:
        """Let an item enter the window: give it its sequence number and its deadline."""
        next_sequence, clock = self._next_sequence, self.now
        item.sequence = self._latest_sequence = next_sequence()
        item.entered_at = now = clock()
        if self.time_limits.item is not None:
            item.deadline = now + self.time_limits.item

    def set_call_deadline(self, call: Call, item: RunItem) -> None:
        """Set the call's deadline, and the error raised when it passes: its own time limit or its item's."""
        seconds = self.time_limits.call
        own = inf if seconds is None else call.started_at + seconds
        items = inf if item.deadline is None else item.deadline
        call.deadline = min(own, items)
        if items <= own:
            call.timeout_error = self.item_timeout_error()
        elif call.is_async:
            call.timeout_error = TransientBackendError(f"no response within {seconds:g} s")
        else:
            call.timeout_error = DeadlineExceeded(
                f"no response within {seconds:g} s, and the blocking call cannot be stopped"
            )

    def item_timeout_error(self) -> DeadlineExceeded:
        """Return the error of an item whose time is up."""
        return DeadlineExceeded(f"the item's {self.time_limits.item:g} s are up")

    def is_overdue(self, item: RunItem, after: float = 0.0) -> bool:
        """Return whether an item's time is up, or will be `after` seconds from now."""
        return item.deadline is not None and self.now() + after >= item.deadline

    def seconds_left(self, item: RunItem) -> float:
        """Return the seconds until the time of an item, or of the run, is up; infinity without a limit."""
        limits = self.time_limits
        end = inf if limits.run is None else self.started_at + limits.run
        if item.deadline is not None:
            end = min(end, item.deadline)
        return end if end == inf else max(0.0, end - self.now())

    def cap_wait(self, wait: float, rate_limited: bool) -> float:
        """Return a wait before a retry, shortened to end no later than the run or its rate-limit condition."""
        now, seconds = self.now(), self.time_limits.run
        if seconds is not None:
            wait = min(wait, max(0.0, self.started_at + seconds - now))
        left = self.stop_monitor.next_check_in(now) if rate_limited else None
        return wait if left is None else min(wait, left)

    # Order

    def queue_position(self, item: RunItem, limiters: tuple[ConcurrencyLimiter, ...]) -> float:
        """
        Return the queue position of an item's LLM call; lower goes first.

        Items go in the order of their arrival, so that results stream in order. Near the end of the run (the input is
        exhausted and at most `TAIL_QUEUE_RATIO` calls per slot are queued), items without any reply go first:
        otherwise the item that starts last would run all of its steps alone.
        """
        if not (self.input_exhausted and item.has_llm_reply):
            return item.sequence
        endpoints = self.limiters.endpoints
        if endpoints is not None and endpoints.waiting > TAIL_QUEUE_RATIO * endpoints.limit:
            return item.sequence
        if any(
            limiter.waiting > TAIL_QUEUE_RATIO * limiter.limit
            for limiter in limiters
            if limiter is not self.limiters.tokens
        ):
            return item.sequence
        return self._latest_sequence + 1 - 1 / (2 + item.sequence)  # before the next item of another run
