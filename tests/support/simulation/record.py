"""
One run of a simulation test: its events, its outcomes and what it was answered.

The promises about a run are checked here: the window, one outcome for each item, right results, deadlines, budgets,
the reasons of failures, statistics, and that nothing happens after its end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import isclose
from typing import Any

from restaurant_llm_batch import Failure, LLMResponse, Price, Success
from restaurant_llm_batch._engine.call import Call
from restaurant_llm_batch._engine.run import RunState
from restaurant_llm_batch._limits.limiters import LimiterSet
from restaurant_llm_batch.errors import BackendError, DeadlineExceeded, RateLimited, RunStopped
from restaurant_llm_batch.events import (
    CacheHit,
    CallEnded,
    CallStarted,
    Event,
    ItemEnded,
    ItemStarted,
    RetryScheduled,
    RunEnded,
)
from restaurant_llm_batch.outcomes import Outcome
from restaurant_llm_batch.simulation._play import Player

from .broken import EPSILON, keep
from .flows import disagreement
from .plans import Item, Plan, Way

PRICES = {"": Price(prompt=1.0, completion=4.0)}


class RunRecord:
    """
    What is seen of a run.

    Args:
        plan: The plan.
        way: The strategy of the run.
        items: Its items.
        interrupt_at: Number of the event at which a Ctrl-C is raised; None for none.

    Attributes:
        way: The strategy.
        outcomes: The outcomes that were delivered.
        events: Its events.
        taken: Items that were taken from a lazy input.
    """

    def __init__(self, plan: Plan, way: Way, items: Sequence[Item], interrupt_at: int | None = None) -> None:
        self.plan = plan
        self.way = way
        self.items = items
        self.outcomes: list[Outcome[Any]] = []
        self.events: list[Event] = []
        self.taken = 0
        self.limits = plan.limits
        self.llm_retry = plan.llm_retry
        self.was_stopped = False
        self.peak: Counter[str] = Counter()
        self._is_sequential = way == "1"
        self._window = plan.limits.open_items if way in ("4", "threaded") else 1
        self._interrupt_at = interrupt_at
        self._open: dict[object, float] = {}
        self._ended: Counter[int] = Counter()
        self._calls: Counter[str] = Counter()
        self._in_flight: Counter[str] = Counter()
        self._tokens = [0, 0]
        self._budget_tokens = 0
        self._refused = 0
        self._kinds: Counter[type] = Counter()
        self._stored: dict[int, list[bytes]] = {}  # by item: keys of replies that it was answered
        self._player: Player | None = None

    def attach(self, player: Player) -> None:
        """Attach the run, before it starts."""
        self._player = player

    @property
    def player(self) -> Player:
        """The run in the simulation."""
        assert self._player is not None
        return self._player

    @property
    def run(self) -> RunState:
        """The run's state."""
        return self.player.run

    @property
    def limiters(self) -> LimiterSet:
        """Its limiters."""
        return self.run.limiters

    @property
    def fingerprint(self) -> str:
        """The fingerprint of its model."""
        return self.run.fingerprint

    @property
    def finished(self) -> bool:
        """Whether the run is over, so that what is answered now is not wanted any more."""
        driver: Any = self.player.driver
        return bool(driver._over if self._is_sequential else driver.scheduler.finished)

    @property
    def slack(self) -> float:
        """Seconds by which an item may end after its deadline: a reply that is being stored has arrived."""
        return EPSILON + (self.plan.commit_seconds or 0.0)

    # What the run tells.

    def deliver(self, outcome: Outcome[Any]) -> None:
        """Take an outcome."""
        keep(
            "exactly one outcome per item",
            all(outcome.index != other.index for other in self.outcomes),
            outcome,
        )
        self.outcomes.append(outcome)

    def observe(self, event: Event) -> None:
        """Take an event."""
        self.events.append(event)
        self._kinds[type(event)] += 1
        keep("no event after the last", self._kinds[RunEnded] == isinstance(event, RunEnded), event)
        keep("events in order", len(self.events) < 2 or self.events[-2].time <= event.time + EPSILON, event)
        self._observe(event)
        if len(self.events) == self._interrupt_at and not isinstance(event, RunEnded):
            raise KeyboardInterrupt

    def _observe(self, event: Event) -> None:
        if isinstance(event, ItemStarted):
            self._open[event.item_id] = event.time
            keep("the window", len(self._open) <= self._window, len(self._open), self._window)
            keep("nothing starts after a stop", self.run.stopped is None, event)
        elif isinstance(event, ItemEnded):
            self._item_ended(event)
        elif (
            isinstance(event, CallEnded)
            and self.plan.time_limits.call is not None
            and not self._is_sequential
        ):
            most = self.plan.time_limits.call + EPSILON
            keep("a call ends within its time limit", event.seconds <= most, event)

    def _item_ended(self, event: ItemEnded) -> None:
        outcome, limits = event.outcome, self.plan.time_limits
        self._ended[outcome.index] += 1
        keep("an item ends once", self._ended[outcome.index] == 1, outcome)
        if isinstance(outcome, Failure) and outcome.stage == "input":
            return
        started = self._open.pop(outcome.item_id, None)
        if limits.run is not None and not self._is_sequential:
            late = event.time - self.run.started_at - limits.run
            keep("the time limit of the run", late <= EPSILON, late, outcome)
        if limits.item is None or started is None:
            return
        late = event.time - started - limits.item
        # What returns too late fails in a sequential run, whose flow may catch that.
        told = str(outcome.value if isinstance(outcome, Success) else outcome)
        catches = self.plan.flow[0] == "task" or any(mark in told for mark in ("'error'", "DeadlineExceeded"))
        if not self._is_sequential or (isinstance(outcome, Success) and not catches):
            keep("the time limit of an item", late <= self.slack, late, outcome)

    # What the server sees of it.

    def check_call_may_begin(self, call: Call) -> None:
        """Check that a call to the model may begin: no stop, no deadline and no budget forbids it."""
        keep("nothing starts after a stop", self.run.stopped is None, call.label, self.run.stopped)
        stop = self.plan.stop
        if stop.max_tokens is not None:
            keep("the budget of tokens", self._budget_tokens < stop.max_tokens, self._budget_tokens)
        if stop.max_cost is not None:
            cost = PRICES[""].of_tokens(*self._tokens)
            is_rounded = isclose(cost, stop.max_cost)  # the engine adds the costs of the calls
            keep("the budget of cost", cost < stop.max_cost or is_rounded, cost, stop.max_cost)
        frame = call.frame
        item = None if frame is None else frame.item
        if item is not None:
            overdue = item.deadline is not None and self.run.now() > item.deadline + EPSILON
            keep("no call for an item whose time is up", not overdue, item)
            shared = self.plan.commit_seconds is not None
            keep("a call has the priority of its item", shared or call.priority == item.priority, item)
            keep("results stream in the order of arrival", shared or call.sequence >= item.sequence, item)

    def call_began(self, call: Call) -> None:
        """Count a call."""
        stage, permits = call.spec.stage, call.spec.permits
        self._calls[stage] += permits
        self._in_flight[stage] += permits
        self.peak[stage] = max(self.peak[stage], self._in_flight[stage])

    def call_left(self, call: Call) -> None:
        """Count a call that the server does not work on any more."""
        self._in_flight[call.spec.stage] -= call.spec.permits

    def call_returned(self, answer: Any, error: BaseException | None, is_wanted: bool) -> None:
        """Count what a call was answered."""
        if isinstance(answer, LLMResponse) and not self.finished:
            self._tokens[0] += answer.prompt_tokens
            self._tokens[1] += answer.completion_tokens
            self._budget_tokens = sum(self._tokens)
        self._refused += is_wanted and isinstance(error, RateLimited)

    def answered(self, call: Call, answer: LLMResponse, key: bytes | None) -> None:
        """Remember which reply an item was given."""
        if key is not None and call.frame is not None:
            self._stored.setdefault(call.frame.item.index, []).append(key)

    def may_ask_again(self, question: tuple[Any, ...]) -> bool:
        """Return whether a question may be asked again although it was answered, in a run without a store."""
        # Questions that items share; the flow of a once() whose item or call ran out of time; an item that comes twice.
        text = "".join(question[:-1]) if isinstance(question[0], str) else "".join(question[0])
        shared = "odd" in text or "even" in text or self.plan.flow[0] == "task"
        twice = len({item.id for item in self.items}) < len(self.items)
        limits = self.plan.time_limits
        return shared or twice or ("once" in text and (limits.item or limits.call) is not None)

    # At the end.

    def check_end(self, chain_of: Any, kept: Any, discarded: Any) -> None:
        """Check everything that has to be true when the run is over."""
        self._check_outcomes()
        self._check_statistics()
        for outcome in self.outcomes:
            self._check_outcome(outcome, chain_of)
            if isinstance(outcome, Success) and kept is not None:
                for key in self._stored.get(outcome.index, ()):
                    keep(
                        "a reply is on disk before its flow goes on", key in kept or key in discarded, outcome
                    )

    def _check_outcomes(self) -> None:
        indexes = sorted(outcome.index for outcome in self.outcomes)
        events = sorted(self._ended)
        keep("events tell of every outcome", indexes == events, indexes, events)
        keep("one end of the run", self._kinds[RunEnded] == 1, self._kinds)
        if self.plan.lazy and self.player.total is None:
            keep("an outcome for every item taken", indexes == list(range(self.taken)), indexes, self.taken)
        else:
            started = {event.item_id for event in self.events if isinstance(event, ItemStarted)}
            missing = started - {outcome.item_id for outcome in self.outcomes}
            keep("an outcome for every item taken", not missing, missing)
        if self.run.stopped is None and not self.was_stopped:
            whole = len(self.items) if self.plan.fails_at is None else None
            keep("every item has an outcome", whole is None or len(indexes) == whole, indexes, whole)

    def _check_statistics(self) -> None:
        stats = self.player.stats
        ok = sum(isinstance(outcome, Success) for outcome in self.outcomes)
        counted = stats.succeeded, stats.failed
        keep("statistics: outcomes", counted == (ok, len(self.outcomes) - ok), counted, ok)
        calls = {stage: number for stage, number in stats.calls.items() if stage != "tokens"}
        # A call whose start is observed by an interrupted observer is counted, but not made.
        unmade = self._interrupt_at is not None and self.was_stopped
        is_right = unmade or calls == dict(self._calls)
        keep("statistics: calls", is_right, calls, self._calls)
        keep("statistics: refusals", stats.rate_limited == self._refused, stats.rate_limited, self._refused)
        tokens = [stats.prompt_tokens, stats.completion_tokens]
        keep("statistics: tokens", tokens == self._tokens, tokens, self._tokens)
        keep("statistics: retries", stats.retries == self._kinds[RetryScheduled], stats.retries)
        keep("statistics: cache hits", stats.cache_hits == self._kinds[CacheHit], stats.cache_hits)
        for stage, peak in self.peak.items():
            keep("statistics: peak", stats.peak_in_flight[stage] >= peak, stage, stats.peak_in_flight, peak)
        started = sum(event.weight for event in self.events if isinstance(event, CallStarted))
        keep("events tell of every call", started == sum(stats.calls.values()), started, stats.calls)

    def _check_outcome(self, outcome: Outcome[Any], chain_of: Any) -> None:
        if isinstance(outcome, Success):
            wrong = None
            if self.plan.flow[0] != "task":
                item_id: Any = outcome.item_id
                wrong = disagreement(self.plan.flow, item_id, outcome.value)
            keep("a result is that of its item", wrong is None, wrong)
            return
        error, plan = outcome.error, self.plan
        keep("a failure has its item", outcome.stage == "input" or outcome.index < len(self.items), outcome)
        if isinstance(error, RunStopped):
            stopped = self.run.stopped is not None or self.was_stopped
            keep("an item fails as stopped only if the run was", stopped, outcome)
        elif isinstance(error, DeadlineExceeded):
            limits = plan.time_limits
            keep("an item is late only with a time limit", (limits.item or limits.call) is not None, outcome)
        elif isinstance(error, BackendError):
            self._check_reason(outcome, error, chain_of)
        elif plan.is_calm and outcome.stage != "input" and plan.flow[0] != "task":
            keep("a calm plan succeeds", isinstance(error, LookupError), outcome)

    def _check_reason(self, outcome: Failure, error: BackendError, chain_of: Any) -> None:
        """Check that a call which failed an item was made as often as the retry policy says."""
        keep("a calm plan succeeds", not self.plan.is_calm, outcome)
        chain = chain_of(error)
        if chain is None:
            return  # of a search, or a copy that items share
        policy = self.llm_retry
        attempts = chain.failed + chain.refused
        keep("a failure tells its attempts", outcome.attempts == attempts, outcome, chain)
        endpoints = self.plan.endpoints
        if isinstance(error, RateLimited):
            least = policy.max_rate_limit_attempts
            enough = chain.refused >= least if endpoints else chain.refused == least
            keep("a refused call is made again as often as it may", enough, chain, outcome)
        elif error.status == 500 or error.status is None:
            enough = policy.attempts <= chain.failed <= policy.attempts + endpoints + chain.probes
            keep("a failed call is made again as often as it may", enough, chain, outcome)
