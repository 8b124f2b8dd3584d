"""
Measurement of a model by real calls (`SimulatedServer.measured`).

Theory of operation. All calls are made by one flow of one item, which the engine runs as it runs any task: so blocking
and awaited backends, threads, event loops and interrupts are its matter. Times are those of its events: what a call
took at the backend, without waits in the engine. Nothing is tried again. A call that fails is left out.

The calls are made up (`make_requests`), or those of a task (`requests_of`): its items are played on virtual time, with
likely answers, and what they ask is asked for real. Forms and prompts are then those of the task, and so is what a step
of the server takes.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain, count
from random import Random
from secrets import token_hex
from typing import Any, NamedTuple

from .._config.limits import Limits
from .._config.retry import RetryPolicy
from .._config.strategy import Strategy
from .._engine.beginning import beginning
from .._engine.items import ItemReader, as_task
from .._engine.mailbox import thread_clock
from .._engine.packer import BatchPacker
from .._engine.plan import ExecutionPlan, make_plan
from .._engine.resources import Lease, RunnerResources
from .._engine.run import RunConfig, RunState
from .._engine.streams import BlockingRun, BlockingSession
from .._engine.wave_service import wave_service_of
from .._limits.concurrency import ConcurrencyLimiter
from .._limits.limiters import LimiterSet
from .._limits.rate import RateLimiter
from .._llm_response import LLMResponse
from ..errors import BatchError, ConfigurationError
from ..events import CallEnded, Event
from ..models import LLMRequest
from ..outcomes import Outcome
from ..protocols import Observer
from ..steps import Flow, complete, gather
from ..tasks._ask import ask_flow
from ..tokens.packing import estimate_tokens
from ._fit import Sample, caches_prefixes, fit_alike, fit_slowdown, fit_speed
from ._lengths import LikelyAnswers
from ._play import Playback, RunnerParts
from ._specification import ServerSpecification
from ._thinning import evenly
from .latency import SampledNumbers, TokenSpeed

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

    @property
    def one_by_one(self) -> list[LLMRequest]:
        """The requests that are made one after the other, in order."""
        # Those again at once after the prompt that they repeat: a server may keep only the latest of each slot.
        begin, rest = self.alone[: REPEATED + 1], self.alone[REPEATED + 1 :]
        return [self.first, *begin, *self.again, *rest]

    def flow(self, _: object) -> Flow[None]:
        """Make all calls; an error of one is in its event."""
        for request in self.one_by_one:
            with suppress(Exception):
                yield from complete(request)
        for group in self.groups:
            yield from gather(*map(complete, group))


class Measured(NamedTuple):
    """What was measured: the speed, whether prefixes are cached and, of a task, how long answers are by kind."""

    speed: TokenSpeed
    caches: bool
    lengths: dict[str, SampledNumbers] | None


def measure(llm: Any, calls: int, server: ServerSpecification, own: OwnCalls | None) -> Measured:
    """Measure a model; see `SimulatedServer.measured`."""
    given: object = calls
    if not isinstance(given, int) or isinstance(given, bool) or given < MIN_CALLS:
        raise ConfigurationError(
            f"calls must be a whole number of at least {MIN_CALLS}, got {given!r}; for example calls=20"
        )
    if wave_service_of(llm) is not None:
        name = type(llm).__name__
        raise ConfigurationError(
            f"llm must answer each call by itself, and {name} sends them in batches, which may take a day; measure the "
            "same model online, for example SimulatedServer.measured(OpenAILLM('gpt-5-mini'))"
        )
    plan = make_requests(calls) if own is None else requests_of(own, calls)
    log.info("measuring %s makes %d real calls, which are paid for", type(llm).__name__, calls)
    ended = make_calls(llm, plan)
    if not any(event.error is None for event in ended):
        _raise_first(ended)
    by_call = {event.call: event for event in ended}
    in_order = [*plan.one_by_one, *chain.from_iterable(plan.groups)]
    of_request = {id(request): by_call.get(number) for number, request in enumerate(in_order, 1)}

    def samples(requests: list[LLMRequest]) -> list[Sample]:
        found = (of_request[id(request)] for request in requests)
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

    alone, groups = samples(plan.alone), [samples(group) for group in plan.groups]
    if len(alone) < 3:
        _raise_first(ended)
    if own is None:
        speed = fit_slowdown(fit_speed(alone), groups, server)
        measured = Measured(speed, caches_prefixes(speed, samples(plan.again)), None)
    else:
        together = [_from_the_start(group) for group in groups]
        measured = Measured(fit_alike(alone, together, server), False, _lengths(ended))
    log.info("measured %s: %s, prefix_cache=%s", type(llm).__name__, measured.speed, measured.caches)
    return measured


def _from_the_start(group: Sequence[Sample]) -> list[Sample]:
    """Return calls side by side with the time since the first began: a client that has to wait for a core counts."""
    start = min((sample.began for sample in group), default=0.0)
    return [sample._replace(seconds=sample.began + sample.seconds - start, began=start) for sample in group]


def _lengths(ended: Sequence[CallEnded]) -> dict[str, SampledNumbers] | None:
    """Return how long answers are, by kind."""
    found: defaultdict[str, list[int]] = defaultdict(list)
    for event in ended:
        if event.reply is not None and event.reply.completion_tokens:
            found[event.label].append(event.reply.completion_tokens)
    means = {kind: sum(tokens) / len(tokens) for kind, tokens in found.items()}
    return {
        kind: SampledNumbers(means[kind], factors=tuple(one / means[kind] for one in tokens))
        for kind, tokens in found.items()
    } or None


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
    for size in _group_sizes(together):
        plan.groups.append([request(SHORT, MANY) for _ in range(size)])
    return plan


@dataclass(frozen=True, slots=True)
class OwnCalls:
    """
    A task whose calls are measured.

    Attributes:
        task: The task, or a generator function of one item.
        items: The items that are asked about.
        search: The search, if the task needs one.
        limits: The limits, for the size of batches.
    """

    task: Any
    items: Iterable[Any]
    search: Any
    limits: Limits


def requests_of(own: OwnCalls, calls: int) -> Plan:
    """
    Return requests of a task, no two of which are equal.

    Raises:
        ConfigurationError: The items do not ask so much.
    """
    if own.search is None and as_task(own.task).requires_search:
        raise ConfigurationError(
            "the task searches for reviews, so its measurement needs search=, with a blocking search(); "
            "for example SimulatedServer.measured(llm, task=task, items=items, search=EmbeddedSearch(...))"
        )
    model = _NotAsked()
    config = _config(make_plan(Strategy.stage(1), own.search, model), 1, own.limits, ())
    parts = RunnerParts(config, Strategy.stage(1), own.limits, model, own.search, estimate_tokens)
    asked = _Asked()
    playback = Playback(ServerSpecification(latency=0.0), 0, asked, estimate_tokens, parts.model)
    playback.add(parts, own.task, own.items, _drop, ())
    playback.play()
    requests = evenly(asked.requests, calls)
    if len(requests) < calls:
        raise ConfigurationError(
            f"the items make {len(requests)} different requests, and calls={calls} needs as many: give more items, "
            f"or lower calls, to at least {MIN_CALLS}"
        )
    mixed = [*requests]
    Random(0).shuffle(mixed)  # so that each kind is among those alone and among those side by side
    together = round(calls * TOGETHER)
    plan = Plan(mixed[0], mixed[1 : calls - together])
    left = mixed[calls - together :]
    for size in _group_sizes(together):
        plan.groups.append(left[:size])
        left = left[size:]
    return plan


class _Asked:
    """Answers requests at once, as is likely, and keeps them."""

    def __init__(self) -> None:
        self.requests: list[LLMRequest] = []
        self._known: set[str] = set()
        self._likely = LikelyAnswers(estimate_tokens)

    def complete(self, request: LLMRequest, /) -> LLMResponse:
        key = repr(request.messages)
        if key not in self._known:
            self._known.add(key)
            self.requests.append(request)
        return LLMResponse(self._likely.text(request, "likely"))


class _NotAsked:
    """A model that is not called."""

    def complete(self, request: LLMRequest, /) -> LLMResponse:
        raise RuntimeError("a simulation calls no model")


def _drop(outcome: object) -> None:
    """Drop an outcome."""


def _group_sizes(together: int) -> Iterator[int]:
    """Yield the sizes of groups that are made side by side: each twice as large as the one before."""
    size = FIRST_GROUP
    while together:
        size = together if together < 3 * size else size
        yield size
        together -= size
        size *= 2


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
    config = _config(make_plan(strategy, None, llm), plan.width, Limits(), (observe,))
    task = as_task(plan.flow)
    reader = ItemReader(task, [1])
    run = RunState(0, task, config, thread_clock)

    begin = beginning(concurrent=True, loop=awaited)

    def begin_run(lease: Lease) -> BlockingRun:
        return begin(run, reader, 1, lease, collect=True)

    session = BlockingSession(begin_run, RunnerResources([llm]).lease(loop=awaited), run, 1)
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


def _config(plan: ExecutionPlan, width: int, limits: Limits, observers: tuple[Observer, ...]) -> RunConfig:
    """Return the configuration of a run that tries nothing again and has so many calls in flight."""
    once = RetryPolicy(attempts=1, max_rate_limit_attempts=1)
    one = ConcurrencyLimiter(1)
    return RunConfig(
        plan=plan,
        limiters=LimiterSet(
            one, ConcurrencyLimiter(width), ConcurrencyLimiter(width), None, None, RateLimiter(None, None)
        ),
        packer=BatchPacker(limits, estimate_tokens),
        retries={"search": once, "llm": once, "tokens": once},
        sequence=count().__next__,
        observers=observers,
        ask=ask_flow,
    )
