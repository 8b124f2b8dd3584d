"""
Measurement of a model by real calls (`SimulatedServer.measured`).

Theory of operation. All calls are made by one flow of one item, which the engine runs as it runs any task: so blocking
and awaited backends, threads, event loops and interrupts are its matter. Times are those of its events: what a call
took at the backend, without waits in the engine. Nothing is tried again. A call that fails is left out.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from secrets import token_hex
from typing import Any

from .._config.limits import Limits
from .._config.retry import RetryPolicy
from .._config.strategy import Strategy
from .._engine.bridge import RunBridge, in_thread, on_loop
from .._engine.concurrent import ConcurrentDriver
from .._engine.frames import ItemSource
from .._engine.handover import Handover
from .._engine.items import ItemReader, as_task
from .._engine.mailbox import thread_clock
from .._engine.packer import BatchPacker
from .._engine.plan import make_plan
from .._engine.resources import Lease, RunnerResources
from .._engine.run import RunConfig, RunState
from .._engine.streams import BlockingSession
from .._engine.threaded import ThreadedDriver
from .._limits.concurrency import ConcurrencyLimiter
from .._limits.limiters import LimiterSet
from .._limits.rate import RateLimiter
from ..errors import BatchError, ConfigurationError
from ..events import CallEnded, Event
from ..models import LLMRequest
from ..outcomes import Outcome
from ..steps import Flow, complete, gather
from ..tokens.packing import estimate_tokens
from ._fit import Sample, caches_prefixes, fit_slowdown, fit_speed
from ._specification import ServerSpecification
from .latency import TokenSpeed

log = logging.getLogger("restaurant_llm_batch")

MIN_CALLS = 8
TOGETHER = 0.4
"""Share of the calls that are made side by side."""
FIRST_GROUP = 8
"""Most calls of the first group that is made side by side; each further one has twice as many."""
AGAIN = 2
"""Calls whose prompt has been read before, if there are at least `CALLS_WITH_AGAIN`."""
CALLS_WITH_AGAIN = 14
REPEATED = 1
"""Place of the call, among those that are alone, whose prompt is read again: the first long one."""
SHORT, LONG = 2, 40
"""Lines of a prompt."""
FEW, MANY = 1, 6
"""Sentences of an answer."""
_LINE = "The soup was hot, the waiter was friendly, and table {number} is by the window."


@dataclass(frozen=True, slots=True)
class Plan:
    """
    The requests of a measurement.

    Attributes:
        first: Opens the connection, and loads what the server loads late; its time does not count.
        alone: Made one after the other.
        again: Likewise; their prompts have been read before, but for their ends.
        groups: Each is made side by side.
    """

    first: LLMRequest
    alone: list[LLMRequest] = field(default_factory=list)
    again: list[LLMRequest] = field(default_factory=list)
    groups: list[list[LLMRequest]] = field(default_factory=list)

    @property
    def width(self) -> int:
        """Most calls side by side."""
        return max(map(len, self.groups), default=1)

    def flow(self, _: object) -> Flow[None]:
        """Make all calls; an error of one is in its event."""
        # Those again at once after the prompt that they repeat: a server may keep only the latest of each slot.
        begin, rest = self.alone[: REPEATED + 1], self.alone[REPEATED + 1 :]
        for request in (self.first, *begin, *self.again, *rest):
            with suppress(Exception):
                yield from complete(request)
        for group in self.groups:
            yield from gather(*map(complete, group))


def measure(llm: Any, calls: int, server: ServerSpecification) -> tuple[TokenSpeed, bool]:
    """Measure a model; return its speed, and whether it caches prefixes. See `SimulatedServer.measured`."""
    given: object = calls
    if not isinstance(given, int) or isinstance(given, bool) or given < MIN_CALLS:
        raise ConfigurationError(
            f"calls must be a whole number of at least {MIN_CALLS}, got {given!r}; for example calls=20"
        )
    plan = make_requests(calls)
    log.info("measuring %s makes %d real calls, which are paid for", type(llm).__name__, calls)
    ended = {event.label: event for event in make_calls(llm, plan)}
    if not any(event.error is None for event in ended.values()):
        _raise_first(list(ended.values()))

    def samples(requests: list[LLMRequest]) -> list[Sample]:
        found = (ended.get(request.task) for request in requests)
        return [
            Sample(
                event.reply.prompt_tokens,
                event.reply.completion_tokens,
                event.seconds,
                event.time - event.seconds,
            )
            for event in found
            if event is not None and event.reply is not None
        ]

    alone = samples(plan.alone)
    if len(alone) < 3:
        _raise_first(list(ended.values()))
    speed = fit_speed(alone)
    speed = fit_slowdown(speed, [samples(group) for group in plan.groups], server)
    caches = caches_prefixes(speed, samples(plan.again))
    log.info("measured %s: %s, prefix_cache=%s", type(llm).__name__, speed, caches)
    return speed, caches


def _raise_first(ended: list[CallEnded]) -> None:
    error = next((event.error for event in ended if event.error is not None), None)
    raise error if error is not None else ConfigurationError("no call of the measurement was made")


def make_requests(calls: int) -> Plan:
    """Return requests, none of whose prompts begins like another's, or like one of an earlier measurement."""
    numbers = count()

    def request(lines: int, sentences: int, start: str = "", end: str = "") -> LLMRequest:
        notes = [_LINE.format(number=number) for number in range(lines)]
        ask = f"Write {sentences} sentences about this restaurant."
        text = "\n".join([f"Visit {start or token_hex(6)}", *notes, end, ask])
        message = {"role": "user", "content": text}
        return LLMRequest(
            f"measure-{next(numbers)}",
            (message,),
            _form(sentences),
            max_tokens=20 + 40 * sentences,
            temperature=0.7,
        )

    plan = Plan(request(SHORT, FEW))
    together = round(calls * TOGETHER)
    again = AGAIN if calls >= CALLS_WITH_AGAIN else 0
    kinds = [(SHORT, FEW), (LONG, FEW), (SHORT, MANY)]
    start = token_hex(6)
    for index in range(calls - 1 - again - together):
        lines, sentences = kinds[index % len(kinds)]
        plan.alone.append(request(lines, sentences, start if index == REPEATED else ""))
    plan.again.extend(request(LONG, FEW, start, f"Guest {number}.") for number in range(again))
    size = FIRST_GROUP
    while together:
        size = together if together < 3 * size else size
        plan.groups.append([request(SHORT, MANY) for _ in range(size)])
        together -= size
        size *= 2
    return plan


def _form(sentences: int) -> dict[str, Any]:
    texts = {
        "type": "array",
        "items": {"type": "string", "maxLength": 80},
        "minItems": sentences,
        "maxItems": sentences,
    }
    return {
        "type": "object",
        "properties": {"sentences": texts},
        "required": ["sentences"],
        "additionalProperties": False,
    }


def make_calls(llm: Any, plan: Plan) -> list[CallEnded]:
    """
    Make all calls, and return how they ended.

    Raises:
        ConfigurationError: The backend has no method to call.
    """
    ended: list[CallEnded] = []

    def observe(event: Event) -> None:
        if isinstance(event, CallEnded):
            ended.append(event)

    awaited = callable(getattr(llm, "acomplete", None))
    strategy = Strategy.stage(4) if awaited else Strategy.threaded()
    once = RetryPolicy(attempts=1, max_rate_limit_attempts=1)
    one = ConcurrencyLimiter(1)
    config = RunConfig(
        plan=make_plan(strategy, None, llm),
        limiters=LimiterSet(one, ConcurrencyLimiter(plan.width), one, None, None, RateLimiter(None, None)),
        packer=BatchPacker(Limits(), estimate_tokens),
        retries={"search": once, "llm": once, "tokens": once},
        sequence=count().__next__,
        observers=(observe,),
    )
    task = as_task(plan.flow)
    reader = ItemReader(task, [1])
    run = RunState(0, task, config, thread_clock)

    def begin(lease: Lease) -> RunBridge:
        def make_driver(handover: Handover, source: ItemSource) -> Any:
            kind: Any = ConcurrentDriver if lease.loop_thread is not None else ThreadedDriver
            return kind(run, source, reader, 1, lease.threads, handover.deliver, handover.wake, collect=True)

        loop = lease.loop_thread
        launch = in_thread(make_driver, lease.threads) if loop is None else on_loop(make_driver, loop.portal)
        return RunBridge(run, reader, launch, collect=True)

    session = BlockingSession(begin, RunnerResources([llm]).lease(loop=awaited), run, 1)
    outcomes: list[Outcome[Any]] = []
    try:
        while not session.closed:
            session.take(outcomes)
    except BaseException:
        session.end(outcomes)
        raise
    for outcome in outcomes:
        if not outcome.ok and not isinstance(outcome.error, BatchError):
            raise outcome.error
    return ended
