"""
Simulated server: answers calls on virtual time, with slots, limits per minute, a KV cache and faults.

Theory of operation. A call arrives (`begin`), may be refused, and becomes a `Job`. A `Slots` or a `Batching` decides
when its answer is written:

- `Slots` draws the seconds of each job. A job that finds all slots taken, or no memory, waits in order of arrival.
- `Batching` is a server with `TokenSpeed`. Prompts are read one after the other, and nothing is written meanwhile. All
  jobs whose prompt has been read write at the same speed, which changes whenever their number does. So instead of each
  job's time, one number grows:
  `written`, the tokens that a job which ran all along would have written. A job ends when it has grown by the length of
  its answer. The next to end is the top of a heap.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from heapq import heapify, heappop, heappush
from itertools import count
from math import inf
from random import Random
from typing import Protocol, TypeAlias

from .._engine.virtual import Done, Timer, VirtualTime
from .._llm_response import LLMResponse
from ..errors import (
    BackendError,
    PermanentBackendError,
    PromptTooLong,
    RateLimited,
    TransientBackendError,
)
from ..models import Hit, LLMRequest, SearchQuery
from ._answers import Answers
from ._specification import ServerSpecification, ServerUsage
from .latency import LogNormal, TokenSpeed

BLOCK = 16
"""Tokens of a block of the KV cache, as vLLM has them."""
TIMEOUT_SECONDS = 600.0
"""Seconds until a client gives up a server that does not answer: the default of our backends."""
_AT_ONCE = frozenset({"rate_limited", "overloaded", "bad_request", "reset"})


class Job:
    """A call that the server has taken."""

    __slots__ = (
        "answer",
        "begun_at",
        "done",
        "error",
        "left",
        "prompt",
        "size",
        "state",
        "timer",
        "unread",
        "written_at",
    )

    def __init__(self, answer: LLMResponse, error: BackendError | None, prompt: int, done: Done) -> None:
        self.answer = answer
        self.error = error
        self.prompt = prompt  # tokens before the answer: after a preemption, those that were written too
        self.unread = prompt - answer.cached_tokens  # tokens to read
        self.left = max(1, answer.completion_tokens)  # tokens to write
        self.done = done
        self.size = 0  # tokens in memory, without those that are written while it runs
        self.state = WAITING
        self.timer: Timer | None = None
        self.written_at = 0.0
        self.begun_at = 0


WAITING, READING, RUNNING, GONE = range(4)


class Machine(Protocol):
    """Works on jobs."""

    @property
    def in_use(self) -> int:
        """Number of jobs that it works on."""
        ...

    @property
    def waiting(self) -> int:
        """Number of jobs that wait."""
        ...

    def add(self, job: Job) -> None:
        """Take a job."""
        ...

    def cancel(self, job: Job) -> None:
        """Give up a job that has not ended."""
        ...


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
        self._machine: Machine = (
            Batching(config, config.latency, time, self.usage)
            if isinstance(config.latency, TokenSpeed)
            else Slots(config, time, random)
        )
        self._busy = 0.0
        self._changed_at = 0.0

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
        fault = self._fault()
        if fault is not None:
            usage.faults[fault] += 1
        prompt = self._answers.prompt_tokens(request)
        refusal = self._refusal(fault, prompt, request.max_tokens)
        if refusal is not None:
            return self._fail(refusal, done, self._config.refusal_seconds)
        if fault in _AT_ONCE or fault == "no_response":
            seconds = TIMEOUT_SECONDS if fault == "no_response" else self._config.refusal_seconds
            return self._fail(_ERRORS[fault](), done, seconds)
        cached = self._answers.cached_tokens(request) if self._config.prefix_cache else 0
        answer = self._answers.answer(request, prompt, cached)
        error = _ERRORS["server_error"]() if fault == "server_error" else None
        job = Job(_spoil(answer, fault), error, prompt, done)
        job.done = partial(self._end, job, done)
        self._count_busy()
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
        full = config.overload == "refuse" and self._machine.in_use >= (config.slots or inf)
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

    def _end(self, job: Job, done: Done, *_: object) -> None:
        self._count_busy(left=1)
        if job.error is None:
            usage, answer = self.usage, job.answer
            usage.answered += 1
            usage.prompt_tokens += answer.prompt_tokens
            usage.completion_tokens += answer.completion_tokens
            done(answer, None)
        else:
            done(None, job.error)

    def _cancel(self, job: Job) -> None:
        if job.state != GONE:
            self._count_busy()
            self.usage.cancelled += 1
            self._machine.cancel(job)

    def _count_busy(self, left: int = 0) -> None:
        now = self._time.now()
        self._busy += (self._machine.in_use + left) * (now - self._changed_at)
        self._changed_at = now

    def finish(self) -> ServerUsage:
        """Return what it saw until now."""
        self._count_busy()
        now, usage = self._time.now(), self.usage
        places = self._config.slots or usage.peak
        usage.busy_share = min(1.0, self._busy / (places * now)) if places and now else 0.0
        return usage


class Slots:
    """
    A server whose calls take a time of their own.

    Args:
        config: Its slots, memory and latency.
        time: Where it lives.
        random: Draws latencies.
    """

    def __init__(self, config: ServerSpecification, time: VirtualTime, random: Random) -> None:
        self.in_use = 0
        self.waiting = 0
        self._slots = config.slots or inf
        self._memory = config.kv_tokens or inf
        self._latency = config.latency
        self._time = time
        self._random = random
        self._used = 0
        self._queue: deque[Job] = deque()

    def add(self, job: Job) -> None:
        """Take a job."""
        job.size = job.prompt + job.left
        if self.waiting or not self._fits(job):
            self.waiting += 1
            self._queue.append(job)
        else:
            self._run(job)

    def cancel(self, job: Job) -> None:
        """Give up a job that has not ended."""
        if job.state == WAITING:
            self.waiting -= 1
            job.state = GONE
        else:
            self._leave(job)
        self._admit()

    def _fits(self, job: Job) -> bool:
        return self.in_use < self._slots and (not self._used or self._used + job.size <= self._memory)

    def _run(self, job: Job) -> None:
        job.state = RUNNING
        self.in_use += 1
        self._used += job.size
        latency = self._latency
        seconds = latency.draw(self._random) if isinstance(latency, LogNormal) else latency
        job.timer = self._time.call_later(seconds, partial(self._end, job))  # type: ignore[arg-type]

    def _leave(self, job: Job) -> None:
        job.state = GONE
        self.in_use -= 1
        self._used -= job.size
        if job.timer is not None:
            job.timer.cancel()

    def _end(self, job: Job) -> None:
        self._leave(job)
        self._admit()
        job.done(None, None)

    def _admit(self) -> None:
        queue = self._queue
        while queue and (queue[0].state == GONE or self._fits(queue[0])):
            job = queue.popleft()
            if job.state == WAITING:
                self.waiting -= 1
                self._run(job)


class Batching:
    """
    A server that decodes its calls side by side; see the module's docstring.

    Args:
        config: Its slots and memory.
        speed: Its speed.
        time: Where it lives.
        usage: Counts preemptions.
    """

    def __init__(
        self, config: ServerSpecification, speed: TokenSpeed, time: VirtualTime, usage: ServerUsage
    ) -> None:
        self.in_use = 0
        self.waiting = 0
        self._slots = config.slots or inf
        self._memory = config.kv_tokens or inf
        self._speed = speed
        self._time = time
        self._usage = usage
        self._queue: deque[Job] = deque()
        self._admitted = count()
        self._reader_free_at = 0.0
        self._running: list[tuple[float, int, Job]] = []  # by what `written` will be when they end
        self._writing = 0
        self._written = 0.0
        self._written_until = 0.0
        self._fixed = 0  # tokens in memory, without what was written since the jobs run
        self._starts = 0.0  # sum of `written_at` of those that run
        self._next: Timer | None = None

    def add(self, job: Job) -> None:
        """Take a job."""
        self.waiting += 1
        self._queue.append(job)
        self._admit()

    def cancel(self, job: Job) -> None:
        """Give up a job that has not ended."""
        self._advance()
        if job.state == WAITING:
            self.waiting -= 1
        else:
            self._leave(job)
        job.state = GONE
        self._admit()

    @property
    def _used(self) -> float:
        return self._fixed + self._writing * self._written - self._starts

    def _advance(self) -> None:
        """Let the running jobs write until now, from the moment at which the last prompt was read."""
        now = self._time.now()
        seconds = now - max(self._written_until, self._reader_free_at)
        if self._writing and seconds > 0:
            self._written += seconds * self._speed.decode_rate(self._writing)
        self._written_until = now

    def _admit(self) -> None:
        self._advance()
        queue = self._queue
        while queue:
            job = queue[0]
            if job.state != GONE:
                # Room for a block of each: a job that was stopped would otherwise fit into what it has just left, and
                # be read again and again, while nothing is written.
                needed = self._used + job.prompt + BLOCK * (self.in_use + 1)
                if self.in_use >= self._slots or (self.in_use and needed > self._memory):
                    break
                self.waiting -= 1
                self._read(job)
            queue.popleft()
        self._plan()

    def _read(self, job: Job) -> None:
        job.state = READING
        job.size, job.begun_at = job.prompt, next(self._admitted)
        self.in_use += 1
        self._fixed += job.size
        now = self._time.now()
        begins = max(now, self._reader_free_at)
        self._reader_free_at = begins + job.unread / self._speed.prefill
        overhead = self._speed.overhead
        job.timer = self._time.call_later(self._reader_free_at + overhead - now, partial(self._write, job))

    def _write(self, job: Job) -> None:
        self._advance()
        job.state, job.timer, job.written_at = RUNNING, None, self._written
        self._writing += 1
        self._starts += job.written_at
        heappush(self._running, (self._written + job.left, job.begun_at, job))
        self._plan()

    def _leave(self, job: Job) -> None:
        """Take a job out, whether its prompt is being read or it runs."""
        self.in_use -= 1
        self._fixed -= job.size
        if job.timer is not None:
            job.timer.cancel()
            job.timer = None
        if job.state == RUNNING:
            self._writing -= 1
            self._starts -= job.written_at
            job.state = GONE
            if len(self._running) > 2 * self._writing + 64:
                self._running = [entry for entry in self._running if entry[2].state == RUNNING]
                heapify(self._running)
        if not self._writing:
            self._running.clear()
            self._written = self._starts = 0.0  # numbers stay small, and exact

    def _plan(self) -> None:
        """Plan the next thing that happens by itself: a job ends, or the memory is full."""
        if self._next is not None:
            self._next.cancel()
            self._next = None
        running = self._running
        while running and running[0][2].state != RUNNING:
            heappop(running)
        if not running:
            return
        rate = self._speed.decode_rate(self._writing)
        seconds = max(0.0, running[0][0] - self._written) / rate
        if self._writing > 1:
            seconds = min(seconds, max(0.0, self._memory - self._used) / (rate * self._writing))
        seconds += max(0.0, self._reader_free_at - self._time.now())
        self._next = self._time.call_later(seconds, self._happen)

    def _happen(self) -> None:
        self._next = None
        self._advance()
        ended: list[Job] = []
        running = self._running
        # Tokens that are written in less time than the clock can tell: without them, a fast server would wait for them
        # for ever.
        slack = 1e-9 + self._speed.decode * max(1e-9, 1e-14 * self._time.now())
        while running and (running[0][2].state != RUNNING or running[0][0] <= self._written + slack):
            job = heappop(running)[2]
            if job.state == RUNNING:
                self._leave(job)
                ended.append(job)
        while self._writing > 1 and self._used >= self._memory - slack * self._writing:
            self._preempt()
        self._admit()
        for job in ended:
            job.done(None, None)

    def _preempt(self) -> None:
        """Stop the latest job: it waits before all others, and what it wrote is read again, with its prompt."""
        job = max(
            (entry[2] for entry in self._running if entry[2].state == RUNNING), key=lambda job: job.begun_at
        )
        written = int(self._written - job.written_at)
        self._leave(job)
        self._usage.preemptions += 1
        self._running = [entry for entry in self._running if entry[2] is not job]
        heapify(self._running)
        job.state = WAITING
        job.prompt += written
        job.unread = job.prompt
        job.left = max(1, job.left - written)
        self.waiting += 1
        self._queue.appendleft(job)


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
