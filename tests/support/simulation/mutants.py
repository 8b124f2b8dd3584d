"""
Planted faults: changes of one line of the engine, each of which the simulation tests have to find.

A fault is planted by rewriting the source of one function in this process; the files are left as they are.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from restaurant_llm_batch._config.stopping import StopMonitor
from restaurant_llm_batch._engine import policy
from restaurant_llm_batch._engine.admission import Admission
from restaurant_llm_batch._engine.cached_calls import StoringCall
from restaurant_llm_batch._engine.frames import MemoWaiters
from restaurant_llm_batch._engine.run import RunState
from restaurant_llm_batch._engine.scheduler import Scheduler
from restaurant_llm_batch._engine.stats import RunCounters
from restaurant_llm_batch._limits.concurrency import ConcurrencyState
from restaurant_llm_batch._limits.rate import RateLimiter
from restaurant_llm_batch._limits.wait_queue import PriorityWaitQueue
from restaurant_llm_batch._store.inflight import InFlightCall, InFlightCalls


@dataclass(frozen=True, slots=True)
class Mutant:
    """
    A fault that is planted.

    Attributes:
        name: What is wrong.
        owner: The class or the module that has the function.
        function: Its name.
        old: The line, or a part of it, that is replaced.
        new: What stands there instead.
    """

    name: str
    owner: Any
    function: str
    old: str
    new: str


@contextmanager
def planted(mutant: Mutant) -> Iterator[None]:
    """Plant a fault for the length of a `with` block."""
    original = mutant.owner.__dict__[mutant.function]
    source = textwrap.dedent(inspect.getsource(original))
    assert source.count(mutant.old) == 1, f"{mutant.name}: {mutant.old!r} is not a part of {mutant.function}"
    changed = f"from __future__ import annotations\n{source.replace(mutant.old, mutant.new)}"
    made: dict[str, Any] = {}
    exec(compile(changed, f"<{mutant.name}>", "exec"), original.__globals__, made)
    setattr(mutant.owner, mutant.function, made[mutant.function])
    try:
        yield
    finally:
        setattr(mutant.owner, mutant.function, original)


MUTANTS = (
    Mutant(
        "drop a release",
        Admission,
        "_release_tickets",
        "limiters[0].release(self, outcome, now)",
        "",
    ),
    Mutant("forget a waiter", PriorityWaitQueue, "release", "return self._admit()", "return []"),
    Mutant(
        "wake no call when a limit is raised", ConcurrencyState, "resize", "return self._admit()", "return []"
    ),
    Mutant(
        "set no timer when a rate is raised",
        *(RateLimiter, "_update"),
        "if waiting:\n        self._notify_watchers()",
        "",
    ),
    Mutant(
        "a limit that is lowered holds later",
        ConcurrencyState,
        "resize",
        "self.limit = limit",
        "self.limit = max(limit, self.limit)",
    ),
    Mutant("swap priorities", PriorityWaitQueue, "_wait", "(ticket.priority,", "(-ticket.priority,"),
    Mutant(
        "ignore the order of arrival", PriorityWaitQueue, "_wait", "ticket.sequence, ", "-ticket.sequence, "
    ),
    Mutant("free two slots for one", ConcurrencyState, "_left", "- ticket.weight", "- 2 * ticket.weight"),
    Mutant("one call more than the limit", ConcurrencyState, "_fits", "<= self.limit", "<= self.limit + 1"),
    Mutant(
        "one item more than the window", Scheduler, "admit_items", "_undelivered) > 0", "_undelivered) >= 0"
    ),
    Mutant(
        "lose the outcome of an item that was retried",
        *(Scheduler, "_finish_item"),
        "if not item.delivered:",
        "if not item.delivered and not item.retried:",
    ),
    Mutant(
        "deliver the outcome of a bad item twice",
        *(Scheduler, "_finish_item"),
        "if not item.delivered:",
        "if item.bad:\n        self._callbacks.deliver(outcome)\n    if not item.delivered:",
    ),
    Mutant(
        "book a reply to another part of a gather()",
        *(Scheduler, "_resume_flow"),
        "parent.answers[frame.index]",
        "parent.answers[parent.pending_children - 1]",
    ),
    Mutant("ignore the deadline of an item", RunState, "is_overdue", "item.deadline is not None", "False"),
    Mutant(
        "keep a slot during the back-off",
        *(Scheduler, "on_call_finished"),
        "call.release()",
        "self._callbacks.call_later(0.1 if error else 0, call.release)",
    ),
    Mutant("forget the followers of a call", InFlightCall, "_resolve", "in followers:", "in followers[1:]:"),
    Mutant("forget a promoted follower", InFlightCall, "_promote_next", "first.notify()", "pass"),
    Mutant(
        "ask an equal question twice",
        *(InFlightCalls, "join"),
        "self.open.setdefault(entry.key, entry)",
        "self.open.update({entry.key: entry}) or entry",
    ),
    Mutant(
        "lose a write to the store", StoringCall, "persist", "self._store.put(", "(lambda *_: done(None))("
    ),
    Mutant("forget who waits for a once()", MemoWaiters, "release", "return waiting", "return waiting[1:]"),
    Mutant(
        "count a refusal as an attempt", policy, "_call", "refused = rate_limited or short", "refused = short"
    ),
    Mutant("retry once too often", policy, "next_retry_delay", "count >= (", "count > ("),
    Mutant("start a call after a stop", policy, "_call", "if run.stopped is not None:", "if False:"),
    Mutant(
        "sleep on after a stop",
        *(Scheduler, "drain"),
        "if not isinstance(step, WaitForCallback) or step.interruptible:",
        "if isinstance(step, WaitForCallback) and step.interruptible:",
    ),
    Mutant("keep the queue after a stop", Scheduler, "drain", "in self._cancel_queued()", "in ()"),
    Mutant(
        "forget one queued call at a stop",
        Scheduler,
        "_cancel_queued",
        "(self._queued)",
        "(self._queued)[1:]",
    ),
    Mutant(
        "forget the prompt in the budget", StopMonitor, "_record", "+= prompt + completion", "+= completion"
    ),
    Mutant("count no refusals", RunCounters, "record_error", "+= isinstance(error, RateLimited)", "+= 0"),
)
