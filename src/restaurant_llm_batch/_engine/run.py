"""One run: what its policy, its conductor and its driver share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from math import inf
from random import Random
from time import monotonic
from typing import TYPE_CHECKING, Any

from .._config.retry import RetryPolicy
from .._config.stopping import Deadlines, StopRules, Watch
from .._limits.concurrency import Gate
from .._limits.limiters import Gates
from .._llm_response import LLMReply, RateReport
from ..cancellation import GivenUp
from ..errors import (
    STOPS_THE_RUN,
    DeadlineExceeded,
    OutputError,
    RateLimited,
    RunStopped,
    TransientBackendError,
)
from ..events import (
    AnswerFound,
    CallEnded,
    CallStarted,
    Event,
    ItemEnded,
    ItemStarted,
    RetryPlanned,
    RunEnded,
    RunStarted,
)
from ..models import ItemId
from ..outcomes import Failure, Outcome, RunStats, Stage, Success
from ..protocols import Observer, Task
from .call import Call
from .items import Entry
from .memo import Cells
from .packer import Packer
from .plan import Plan
from .stats import Meter

if TYPE_CHECKING:
    from .._store.store import Store

log = logging.getLogger("restaurant_llm_batch")

TAIL = 2.25
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
        deadlines: How long things may take.
        identity: Names the model that is asked, for the keys of the store.
        pulse: Counts what happens: calls that begin and end, and outcomes.
        stopped: What stopped the run, or None while it goes on.
        exhausted: Whether the input has ended.
        advancing: What the driver is advancing now; for it to find its way.
        given_up: Set when calls in flight are given up too; blocking backends may look at it.
    """

    def __init__(
        self,
        number: int,
        task: Task[Any],
        plan: Plan,
        gates: Gates,
        packer: Packer,
        retries: dict[Stage, RetryPolicy],
        observers: Sequence[Observer],
        arrivals: Callable[[], int],
        random: Random,
        watch: Watch | None = None,
        store: Store | None = None,
        identity: str = "",
        deadlines: Deadlines = Deadlines(),
    ) -> None:
        self.number = number
        self.task = task
        self.plan = plan
        self.gates = gates
        self.packer = packer
        self.cells = Cells()
        self.store = store
        self.identity = identity
        self.deadlines = deadlines
        self.retries = retries
        self.random = random
        self.stopped: Exception | None = None
        self.pulse = 0
        self.exhausted = False
        self.advancing: Any = None
        self.given_up = GivenUp()
        self.meter = Meter()
        self._watch = watch or Watch(StopRules(), {})
        self._observers = tuple(observers)
        self._arrivals = arrivals
        self._latest = 0

    @property
    def stats(self) -> RunStats:
        """What the run has taken so far."""
        history = self.gates.history(self.meter.began)
        reason = None if self.stopped is None else why(self.stopped)
        return self.meter.stats(reason, history, self._watch.cost)

    def stop(self, reason: str) -> None:
        """Have nothing more begun; whoever drives the run is to be told."""
        if self.stopped is None:
            self.stopped = RunStopped(reason)

    def note_stop(self, error: Exception) -> None:
        """Stop by an error after which no further call can succeed, if it is one."""
        if isinstance(error, STOPS_THE_RUN) and self.stopped is None:
            self.stopped = error

    def give_up(self) -> None:
        """Stop, and tell calls in flight that nobody will hear their answers."""
        self.stop("the run was cancelled")
        self.given_up.set()

    def begin(self, total: int | None) -> None:
        """Note that the run begins."""
        self.meter.began = self.meter.latest = now = monotonic()
        self.show(RunStarted(self.number, now, total, self.task.name))

    def end(self) -> None:
        """Note that the run is over."""
        self.show(RunEnded(self.number, monotonic(), self.stats))

    def place(self, entry: Entry, gates: tuple[Gate, ...]) -> float:
        """
        Return an LLM call's place in line, by its item.

        Items go in the order of their arrival, so that they finish in it and results stream out. In the tail of
        the run, when the last two rounds of calls wait, what is begun last would end alone, step after step: items
        that nobody has answered anything yet, and that have the longest way to go, then go first.
        """
        if not (self.exhausted and entry.underway):
            return entry.arrival
        if any(gate.waiting > TAIL * gate.limit for gate in gates if gate is not self.gates.tokens):
            return entry.arrival
        return self._latest + 1 - 1 / (2 + entry.arrival)  # before the next item of another run

    def open(self, entry: Entry) -> None:
        """Let an entry into the window."""
        entry.arrival = self._latest = self._arrivals()
        if self.deadlines.item is not None:
            entry.deadline = monotonic() + self.deadlines.item
        if self._observers:
            self.show(ItemStarted(self.number, monotonic(), entry.item_id))

    def began(self, call: Call, entry: Entry) -> None:
        """Note that a call was admitted."""
        now = call.began_at = monotonic()
        self.pulse += 1
        self.meter.enter(call.stage, call.weight)
        if self.deadlines.call is not None or entry.deadline is not None:
            self._bound(call, entry)
        if self._observers:
            waited = now - call.asked_at
            self.show(CallStarted(self.number, now, *_named(call, entry), waited, call.weight))

    def _bound(self, call: Call, entry: Entry) -> None:
        """Say until when a call may take, and what it is then."""
        seconds = self.deadlines.call
        own = inf if seconds is None else call.began_at + seconds
        items = inf if entry.deadline is None else entry.deadline
        call.until = min(own, items)
        if items <= own:
            call.late = self.item_late()
        elif call.line.native:
            call.late = TransientBackendError(f"no answer within {seconds:g} s")
        else:
            call.late = DeadlineExceeded(f"no answer within {seconds:g} s, and the call cannot be ended")

    def item_late(self) -> DeadlineExceeded:
        """Return the error of an item whose time is up."""
        return DeadlineExceeded(f"the item's {self.deadlines.item:g} s are up")

    def is_late(self, entry: Entry, after: float = 0.0) -> bool:
        """Tell whether an item's time is up, or will be after so many seconds."""
        return entry.deadline is not None and monotonic() + after >= entry.deadline

    def look_at_time(self) -> None:
        """Stop if the run's time is up."""
        seconds = self.deadlines.run
        if seconds is not None and monotonic() >= self.meter.began + seconds:
            self.stop(f"the run's {seconds:g} s are up")

    def ended(self, call: Call, entry: Entry, answer: Any, error: BaseException | None) -> None:
        """Note that a call came back."""
        self.pulse += 1
        reply = answer if isinstance(answer, LLMReply) and is_sound(answer) else None
        if reply is not None:
            self.meter.answered(reply)
        elif error is not None:
            self.meter.raised(error)
        if call.stage == "llm":
            report = (
                reply.rate if reply is not None else error.rate if isinstance(error, RateLimited) else None
            )
            if report is not None or self.gates.rate.active:
                self._hear(call, reply, error, report)
            if self._watch.needed:
                self._apply_rules(reply, error)
        if self._observers:
            now = monotonic()
            seconds = now - call.began_at
            event = CallEnded(self.number, now, *_named(call, entry), seconds, call.weight, reply, error)
            self.show(event)

    def _hear(
        self, call: Call, reply: LLMReply | None, error: BaseException | None, report: RateReport | None
    ) -> None:
        """Tell the gate for limits per minute what a call took, and what the service said is left."""
        used = 0 if isinstance(error, RateLimited) else None  # of what failed otherwise nobody knows
        if reply is not None:
            used = reply.prompt_tokens + reply.completion_tokens or None
        self.gates.rate.heard(call.rate_ticket, used, report, self.meter.in_flight("llm"))

    def ended_late(self, answer: Any) -> None:
        """Note what a call came to that its item did not wait for: it was paid for, too."""
        if isinstance(answer, LLMReply) and is_sound(answer):
            self.meter.answered(answer)
            if self._watch.needed:
                self._apply_rules(answer, None)

    def _apply_rules(self, reply: LLMReply | None, error: BaseException | None) -> None:
        if reply is not None:
            reason = self._watch.answered(reply)
        elif isinstance(error, RateLimited):
            reason = self._watch.refused(monotonic())
        else:
            reason = self._watch.failed()
        if reason is not None:
            self.stop(reason)

    def look_at_refusals(self) -> None:
        """Stop if the model has refused everything for too long."""
        reason = self._watch.overdue(monotonic())
        if reason is not None:
            self.stop(reason)

    def shortened(self, wait: float, refused: bool) -> float:
        """Return a wait, shortened to when the run's time or the patience with refusals is up."""
        now, seconds = monotonic(), self.deadlines.run
        if seconds is not None:
            wait = min(wait, max(0.0, self.meter.began + seconds - now))
        left = self._watch.patience(now) if refused else None
        return wait if left is None else min(wait, left)

    def found(self, entry: Entry, what: str, reply: LLMReply) -> None:
        """Note that an answer was found in the store."""
        self.meter.found += 1
        if self._observers:
            self.show(AnswerFound(self.number, monotonic(), entry.item_id, what, reply))

    def retry(self, call: Call, entry: Entry, wait: float, refused: bool, error: Exception) -> None:
        """Note that a call will be made again."""
        self.meter.retries += 1
        if self._observers:
            event = RetryPlanned(self.number, monotonic(), *_named(call, entry), wait, refused, error)
            self.show(event)

    def close(self, entry: Entry, value: Any, error: Exception | None) -> Outcome[Any]:
        """Book an entry's end and return its outcome."""
        outcome: Outcome[Any]
        if error is None:
            outcome = Success(entry.item_id, value, entry.index)
        else:
            if self.store is not None and entry.kept:
                self._discard(entry, error)
            stage, attempts = where(entry, error)
            outcome = Failure(entry.item_id, error, stage, attempts, entry.index)
        self.closed(outcome)
        return outcome

    def _discard(self, entry: Entry, error: Exception) -> None:
        """Take the answer out of the store that an item failed by, or later runs would fail by it too."""
        reply = getattr(error, "reply", None)
        for kept, key in entry.kept:
            if kept is reply and self.store is not None:
                self.store.discard(key, lambda _: None)

    def closed(self, outcome: Outcome[Any]) -> None:
        """Book an outcome."""
        self.pulse += 1
        self.meter.latest = now = monotonic()
        if isinstance(outcome, Success):
            self.meter.succeeded += 1
        else:
            self.meter.failed += 1
        if self._observers:
            self.show(ItemEnded(self.number, now, outcome))

    def show(self, event: Event) -> None:
        """Show an event to all observers."""
        for observer in self._observers:
            try:
                observer(event)
            except Exception:
                log.exception("an observer failed; the run goes on without it having seen the event")

    def stop_error(self) -> RunStopped:
        """Return the error of an item that a stop keeps from going on."""
        reason = self.stopped
        error = RunStopped(f"not run to its end: {why(reason)}")
        error.__cause__ = reason
        return error


def why(reason: BaseException | None) -> str:
    """Say in a few words what stopped a run."""
    if reason is None:
        return "the run was closed"
    if type(reason) is RunStopped:
        return str(reason)
    return f"{type(reason).__name__}: {reason}"


def _named(call: Call, entry: Entry) -> tuple[ItemId, Stage, str, int]:
    return entry.item_id, call.stage, call.what, call.attempt


def where(entry: Entry, error: Exception) -> tuple[Stage, int]:
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


def is_sound(reply: LLMReply) -> bool:
    """Tell whether a backend filled a reply with what belongs there."""
    numbers: tuple[object, ...] = (reply.prompt_tokens, reply.completion_tokens, reply.cached_tokens)
    text: object = reply.text
    return isinstance(text, str) and all(isinstance(number, int) for number in numbers)
