"""One run: what its policy, its conductor and its driver share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from random import Random
from time import monotonic
from typing import Any

from ..errors import OutputError, RunStopped
from ..events import (
    CallEnded,
    CallStarted,
    Event,
    ItemEnded,
    ItemStarted,
    RetryPlanned,
    RunEnded,
    RunStarted,
)
from ..gate import Gate
from ..models import LLMReply
from ..protocols import Observer, Task
from ..report import Failure, Outcome, RunStats, Stage, Success
from .call import Call
from .intake import Entry
from .meter import Meter
from .plan import Plan
from .retry import RetryPolicy
from .statistics import Statistics

log = logging.getLogger("restaurant_llm_batch")


class Gates:
    """The gates of a runner: which ones a call must pass, in order."""

    def __init__(self, search: Gate, llm: Gate, batches: Gate, total: Gate | None) -> None:
        self.search = (search,)
        self.llm = (llm, total) if total else (llm,)
        self.batches = (batches, total) if total else (batches,)


class Run:
    """
    The state that one run shares: its plan and its limits, whether it was stopped, and who watches.

    Attributes:
        stopped: What stopped the run, or None while it goes on.
    """

    def __init__(
        self,
        number: int,
        task: Task[Any],
        plan: Plan,
        gates: Gates,
        retries: dict[Stage, RetryPolicy],
        observers: Sequence[Observer],
        arrivals: Callable[[], int],
        random: Random,
    ) -> None:
        self.number = number
        self.task = task
        self.plan = plan
        self.gates = gates
        self.retries = retries
        self.random = random
        self.stopped: Exception | None = None
        self.meter = Meter()
        self._statistics = Statistics()
        self._observers = (self._statistics, *observers)
        self._arrivals = arrivals

    @property
    def stats(self) -> RunStats:
        """What the run has taken so far."""
        reason = None if self.stopped is None else why(self.stopped)
        return self._statistics.snapshot(self.meter.peak(), reason)

    def begin(self, total: int | None) -> None:
        """Note that the run begins."""
        self.observe(RunStarted(self.number, monotonic(), total))

    def end(self) -> None:
        """Note that the run is over."""
        self.observe(RunEnded(self.number, monotonic(), self.stats))

    def observe(self, event: Event) -> None:
        """Show an event to everyone who watches."""
        for observer in self._observers:
            try:
                observer(event)
            except Exception:
                log.exception("an observer failed; the run goes on without it having seen the event")

    def open(self, entry: Entry) -> None:
        """Let an entry into the window."""
        entry.arrival = self._arrivals()
        self.observe(ItemStarted(self.number, monotonic(), entry.item_id))

    def began(self, call: Call, entry: Entry) -> None:
        """Note that a call was admitted."""
        self.meter.enter(call.stage, call.weight)
        now = call.began_at = monotonic()
        waited = now - call.asked_at
        self.observe(
            CallStarted(
                self.number,
                now,
                entry.item_id,
                call.stage,
                call.what,
                call.attempt,
                waited,
                call.weight,
            )
        )

    def ended(self, call: Call, entry: Entry, answer: Any, error: BaseException | None) -> None:
        """Note that a call came back."""
        now = monotonic()
        reply = answer if isinstance(answer, LLMReply) else None
        self.observe(
            CallEnded(
                self.number,
                now,
                entry.item_id,
                call.stage,
                call.what,
                call.attempt,
                now - call.began_at,
                call.weight,
                reply,
                error,
            )
        )

    def retry(self, call: Call, entry: Entry, wait: float, refused: bool, error: Exception) -> None:
        """Note that a call will be made again."""
        self.observe(
            RetryPlanned(
                self.number,
                monotonic(),
                entry.item_id,
                call.stage,
                call.what,
                call.attempt,
                wait,
                refused,
                error,
            )
        )

    def close(self, entry: Entry, value: Any, error: Exception | None) -> Outcome[Any]:
        """Book an entry's end and return its outcome."""
        outcome: Outcome[Any]
        if error is None:
            outcome = Success(entry.item_id, value, entry.index)
        else:
            stage, attempts = _where(entry, error)
            outcome = Failure(entry.item_id, error, stage, attempts, entry.index)
        self.closed(outcome)
        return outcome

    def closed(self, outcome: Outcome[Any]) -> None:
        """Note an outcome that needed no entry."""
        self.observe(ItemEnded(self.number, monotonic(), outcome))

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


def _where(entry: Entry, error: Exception) -> tuple[Stage, int]:
    if isinstance(error, RunStopped):
        return "run", 0
    cause: BaseException | None = error
    while cause is not None:
        for raised, stage, attempts in entry.errors:
            if raised is cause:
                return stage, attempts
        cause = cause.__cause__
    if isinstance(error, OutputError):
        return "llm", entry.attempts.get("llm", 1)
    return "task", 0
