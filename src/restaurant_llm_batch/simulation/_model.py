"""
Simulated server: answers calls on virtual time, with limits per minute, refusals and faults.

A call arrives (`begin_request`), may be refused, and becomes a `Job` of a machine, which decides when it is answered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from math import inf
from random import Random
from typing import TypeAlias

from .._engine.virtual import Done, VirtualTime
from .._llm_response import LLMResponse
from ..errors import (
    BackendError,
    PermanentBackendError,
    PromptTooLong,
    RateLimited,
    TransientBackendError,
)
from ..models import Hit, LLMRequest, SearchQuery, ServerLoad
from ._machines import GONE, Batching, Job, Machine, Sharing, Slots
from ._model_answers import Answers
from ._specification import ServerSpecification, ServerUsage
from .latency import SampledLatency, TokenSpeed

_AT_ONCE = frozenset({"rate_limited", "overloaded", "bad_request", "reset"})

Find: TypeAlias = Callable[[SearchQuery], Sequence[Hit]]


class ServerModel:
    """
    The server of a simulation, and the search beside it.

    Args:
        config: What it is like.
        time: Where it lives.
        random: Draws latencies and faults.
        answers: What it answers.
    """

    def __init__(
        self, config: ServerSpecification, time: VirtualTime, random: Random, answers: Answers
    ) -> None:
        self.usage = ServerUsage()
        self._config = config
        self._time = time
        self._random = random
        self._answers = answers
        self._faults = tuple(config.faults.items())
        self._requests = _Bucket(config.requests_per_minute)
        self._tokens = _Bucket(config.tokens_per_minute)
        bounds = config.requests_per_minute, config.tokens_per_minute, config.kv_tokens
        self._refuses = config.overload == "refuse" or any(bound is not None for bound in bounds)
        self._machine: Machine = (
            Batching(config, config.latency, time, self.usage, self._end)
            if isinstance(config.latency, TokenSpeed)
            else Sharing(config, config.latency.slowdown, time, random, self._end)
            if isinstance(config.latency, SampledLatency) and config.latency.slowdown
            else Slots(config, time, random, self._end)
        )
        self._busy = 0.0
        self._changed_at = 0.0
        self._is_down = False
        self._jobs: dict[Job, None] | None = {} if config.outages else None  # those that an outage would end
        for begin, end in config.outages:
            time.call_later(begin, partial(self._set_down, True))
            time.call_later(end, partial(self._set_down, False))
        self._slots = config.slots
        for moment, slots in config.slot_changes:
            time.call_later(moment, partial(self._set_slots, slots))
        for begin, end, factor in config.slowdowns:
            time.call_later(begin, partial(self._scale_slowness, factor))
            time.call_later(end, partial(self._scale_slowness, 1 / factor))

    def _set_down(self, is_down: bool) -> None:
        """Begin or end an outage."""
        self._is_down = is_down
        jobs, self._jobs = list(self._jobs or ()), {}
        if not is_down:
            return
        self._count_busy()
        for job in jobs:
            self._machine.cancel(job)
        for job in jobs:
            self.usage.lost += 1
            self._fail(_ERRORS["reset"](), job.done, 0.0)

    def _set_slots(self, slots: int) -> None:
        self._count_busy()
        self._slots = slots
        self._machine.set_slots(slots)

    def load(self) -> ServerLoad:
        """
        Return its load, as a server's metrics have it.

        Raises:
            TransientBackendError: It is down.
        """
        if self._is_down:
            raise TransientBackendError("the connection was lost")
        machine, memory = self._machine, self._config.kv_tokens
        return ServerLoad(
            machine.in_use,
            machine.waiting,
            None if memory is None else min(1.0, machine.used / memory),
            memory,
            self.usage.preemptions,
            self.usage.refused,
        )

    def _scale_slowness(self, factor: float) -> None:
        self._machine.slowness *= factor

    def begin_search(self, find: Find, queries: Sequence[SearchQuery], done: Done) -> Callable[[], object]:
        """Begin a search for several queries; the answer has the hits of each."""
        self.usage.searches += len(queries)
        try:
            found = [find(query) for query in queries]
        except Exception as error:
            return self._fail(error, done, self._config.search_seconds)
        return self._time.call_later(self._config.search_seconds, partial(done, found, None)).cancel

    def begin_request(self, request: LLMRequest, done: Done) -> Callable[[], object]:
        """Begin a request to the model; return what cancels it."""
        usage, machine = self.usage, self._machine
        usage.calls += 1
        if self._is_down:
            usage.lost += 1
            return self._fail(_ERRORS["reset"](), done, self._config.refusal_seconds)
        fault = self._fault()
        if fault is not None:
            usage.faults[fault] += 1
        prompt = self._answers.prompt_tokens(request)
        if self._refuses or fault is not None:
            refusal = self._refusal(fault, prompt, request.max_tokens)
            if refusal is not None:
                return self._fail(refusal, done, self._config.refusal_seconds)
            if fault in _AT_ONCE or fault == "no_response":
                config = self._config
                seconds = config.timeout_seconds if fault == "no_response" else config.refusal_seconds
                return self._fail(_ERRORS[fault](), done, seconds)
        cached = self._answers.cached_tokens(request) if self._config.prefix_cache else 0
        answer = self._answers.answer(request, prompt, cached)
        error = _ERRORS["server_error"]() if fault == "server_error" else None
        job = Job(answer if fault is None else _spoil(answer, fault), error, prompt, done, request.task)
        self._count_busy()
        if self._jobs is not None:
            self._jobs[job] = None
        machine.add(job)
        if machine.in_use > usage.peak:
            usage.peak = machine.in_use
        if machine.waiting > usage.peak_queue:
            usage.peak_queue = machine.waiting
        return partial(self._cancel, job)

    def _refusal(self, fault: str | None, prompt: int, max_tokens: int) -> BackendError | None:
        config, now = self._config, self._time.now()
        if config.kv_tokens is not None and prompt >= config.kv_tokens:
            return PromptTooLong(
                f"the prompt has {prompt} tokens, and the memory holds {config.kv_tokens}", status=400
            )
        needed = prompt + max_tokens
        full = config.overload == "refuse" and self._machine.in_use >= (self._slots or inf)
        if not full and self._requests.has(1, now) and self._tokens.has(needed, now):
            self._requests.take(1)
            self._tokens.take(needed)
            if fault not in ("rate_limited", "overloaded"):
                return None
        self.usage.refused += 1
        status = 503 if fault == "overloaded" else 429
        return RateLimited("the server is full", status=status, retry_after=config.retry_after)

    def _fault(self) -> str | None:
        if self._faults:
            point = self._random.random()
            for kind, share in self._faults:
                point -= share
                if point < 0:
                    return kind
        return None

    def _fail(self, error: Exception, done: Done, seconds: float) -> Callable[[], object]:
        return self._time.call_later(seconds, partial(done, None, error)).cancel

    def _end(self, job: Job) -> None:
        self._count_busy(left=1)
        if self._jobs is not None:
            self._jobs.pop(job, None)
        if job.error is None:
            usage, answer = self.usage, job.answer
            usage.answered += 1
            usage.prompt_tokens += answer.prompt_tokens
            usage.completion_tokens += answer.completion_tokens
            job.done(answer, None)
        else:
            job.done(None, job.error)

    def _cancel(self, job: Job) -> None:
        if job.state != GONE:
            self._count_busy()
            self.usage.cancelled += 1
            if self._jobs is not None:
                self._jobs.pop(job, None)
            self._machine.cancel(job)

    def _count_busy(self, left: int = 0) -> None:
        now = self._time.now()
        self._busy += (self._machine.in_use + left) * (now - self._changed_at)
        self._changed_at = now

    @property
    def places(self) -> float:
        """How many calls it works on at once: its slots, or as many as there were."""
        return max(
            [self._config.slots or self.usage.peak, *(slots for _, slots in self._config.slot_changes)]
        )

    def finish(self) -> ServerUsage:
        """Return what it saw until now."""
        self._count_busy()
        now, usage = self._time.now(), self.usage
        places = self.places
        usage.busy_share = min(1.0, self._busy / (places * now)) if places and now else 0.0
        return usage


class _Bucket:
    """
    A token bucket that holds one minute's amount.

    Args:
        per_minute: What flows in during a minute; None for an endless amount.
    """

    def __init__(self, per_minute: int | None) -> None:
        self._holds = float(per_minute or 0)
        self._endless = per_minute is None
        self._level = self._holds
        self._at = 0.0

    def has(self, amount: int, now: float) -> bool:
        """Return whether an amount is there; one that is larger than the bucket is, if it is full."""
        if self._endless:
            return True
        self._level = min(self._holds, self._level + (now - self._at) * self._holds / 60)
        self._at = now
        return self._level >= min(amount, self._holds)

    def take(self, amount: int) -> None:
        """Take an amount that is there."""
        self._level -= min(amount, self._holds)


_ERRORS: dict[str, Callable[[], BackendError]] = {
    "server_error": partial(TransientBackendError, "the server failed", status=500),
    "reset": partial(TransientBackendError, "the connection was lost"),
    "no_response": partial(TransientBackendError, "no response in time"),
    "bad_request": partial(PermanentBackendError, "the server refuses the request", status=400),
}


def _spoil(answer: LLMResponse, fault: str | None) -> LLMResponse:
    """Apply a fault to an answer."""
    text = answer.text
    half = text[: len(text) // 2]
    match fault:
        case "truncated":
            return replace(answer, text=half, finish_reason="length")
        case "content_filter":
            return replace(answer, text=half, finish_reason="content_filter")
        case "malformed":
            return replace(answer, text=text[:-1] + ', "and')
        case "empty":
            return replace(answer, text="")
    return answer
