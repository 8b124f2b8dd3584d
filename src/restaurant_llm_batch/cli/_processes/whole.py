"""Whole run: what the processes tell, as the statistics, the events and the stop conditions of one run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from time import monotonic
from typing import Any

from ..._config.stopping import StopConditions
from ..._engine.recorder import describe_stop
from ..._engine.run import RunConfig, RunState
from ...errors import TransientBackendError
from ...events import CallEnded, CallStarted, Event, ItemEnded, ItemStarted, LimitChanged
from ...outcomes import Failure, Outcome, RunStats
from ...protocols import Task
from .counting import count
from .merging import Merger
from .process import Process
from .sharing import SharedLimits
from .stopping import Note, WholeConditions, WholeMonitor
from .telling import Told, ToldNote, ToldOutcome

_PROCESS_BITS = 8
"""
Bits of a call's number that say its process; those above are its number there.

A record has 32 bits for both. Numbers of processes begin again after 255, which is when many have died.
"""
_LOOK_SECONDS = 0.5
"""Seconds between two looks at the adaptive limits."""


class WholeRun:
    """
    A run in several processes, for the command. All of it happens in one thread, but for `stats` and `reason`.

    Args:
        task: The task.
        config: The configuration of the runner, with the observers and the stop conditions.
        limits: The shared limits.
        total: The number of items.
    """

    def __init__(self, task: Task[Any], config: RunConfig, limits: SharedLimits, total: int) -> None:
        stop: StopConditions = WholeConditions.of(config.stop)
        self._run = RunState(1, task, replace(config, stop=stop), monotonic)
        self._limits = limits
        self._total = total
        self._merger: Merger[Event] = Merger()
        self._started: set[int] = set()
        self._looked_at = 0.0
        monitor = self._run.stop_monitor
        assert isinstance(monitor, WholeMonitor)
        self._monitor: WholeMonitor = monitor

    @property
    def counts_calls(self) -> bool:
        """Whether processes have to note calls and tokens."""
        return self._monitor.needed

    @property
    def deadline(self) -> float | None:
        """When the time of the run is up; None for never."""
        seconds = self._run.time_limits.run
        return None if seconds is None else self._run.started_at + seconds

    @property
    def stats(self) -> RunStats:
        """The statistics so far."""
        stats = self._run.recorder.stats
        return replace(stats, limit_history=(*stats.limit_history, *self._limits.history))

    @property
    def reason(self) -> str | None:
        """Why the run has stopped; None while it goes on."""
        stopped = self._run.stopped
        return None if stopped is None else describe_stop(stopped)

    def start(self) -> None:
        """Begin."""
        self._run.recorder.start(self._total)

    def stop(self, reason: str) -> None:
        """Stop, unless it has stopped."""
        self._run.stop(reason)

    # What processes tell

    def ready(self, process: Process, time: float) -> None:
        """Record that a process takes items, and has told everything until a time."""
        self._merger.told_until(process.number, time)

    def take(self, process: Process, told: Sequence[Told], until: float) -> list[ToldOutcome]:
        """
        Take what a process tells, and return the outcomes among it.

        Args:
            process: The process.
            told: What it tells.
            until: The time until which this is all.
        """
        outcomes: list[ToldOutcome] = []
        for one in told:
            if isinstance(one, ToldOutcome):
                outcomes.append(one)
            elif isinstance(one, ToldNote):
                self._note(one.note)
            else:
                self._event(process, one)
        self._merger.told_until(process.number, until)
        return outcomes

    def _note(self, note: Note) -> None:
        reason = self._monitor.apply(note, self._run.recorder.counters.replies)
        if reason is not None:
            self._run.stop(reason)

    def _event(self, process: Process, event: Any) -> None:
        event = event._replace(run=self._run.number)
        if hasattr(event, "call"):
            number = process.number & (1 << _PROCESS_BITS) - 1
            event = event._replace(call=event.call << _PROCESS_BITS | number)
        if isinstance(event, (CallStarted, CallEnded)):
            process.note_call(event)
        if isinstance(event, CallEnded) and isinstance(event.error, Exception) and event.stage != "tokens":
            self._run.stop_if_fatal(event.error)
        if isinstance(event, ItemStarted):
            if event.position in self._started:
                return  # it has begun before, in a process that died
            self._started.add(event.position)
        self._merger.add(event.time, event)

    def ended(self, outcome: Outcome[Any], time: float) -> Outcome[Any]:
        """Record an outcome, and return it; of an item that the end of the run has cut off, with the run's reason."""
        if isinstance(outcome, Failure) and outcome.stage == "run" and self._run.stopped is not None:
            outcome = replace(outcome, error=self._run.stop_error())
        counters = self._run.recorder.counters
        if outcome.ok:
            counters.succeeded += 1
        else:
            counters.failed += 1
        counters.latest = max(counters.latest, time)
        self._merger.add(time, ItemEnded(self._run.number, time, outcome))
        return outcome

    def lost(self, process: Process) -> None:
        """Record that a process has gone; calls that it had in flight end with it."""
        now = monotonic()
        for call in list(process.calls.values()):
            ended = CallEnded(
                run=self._run.number,
                time=now,
                item_id=call.item_id,
                stage=call.stage,
                label=call.label,
                attempt=call.attempt,
                seconds=max(0.0, now - call.time),
                weight=call.weight,
                reply=None,
                error=TransientBackendError("the process that made the call has ended"),
                call=call.call,
                endpoint=call.endpoint,
            )
            self._merger.add(now, ended)
        process.calls.clear()
        self._merger.remove(process.number)

    # Time

    def look(self) -> None:
        """Do what is due: pass events on, and apply what stops a run by its time."""
        now = monotonic()
        self._run.check_run_timeout()
        self._run.check_rate_limited()
        if now - self._looked_at >= _LOOK_SECONDS:
            self._looked_at = now
            for change in self._limits.changes(now - self._run.started_at):
                event = LimitChanged(self._run.number, now, change.limiter, change.limit, change.reason)
                self._merger.add(now, event)
        self._emit(self._merger.due(now))

    def finish(self) -> None:
        """Pass all events on, and end."""
        self._emit(self._merger.rest())
        self._run.recorder.finish()

    def _emit(self, events: Sequence[Event]) -> None:
        recorder = self._run.recorder
        for event in events:
            count(recorder.counters, event)
            recorder.emit(event)
