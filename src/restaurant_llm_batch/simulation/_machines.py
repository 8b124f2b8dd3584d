"""
Machines of a simulated server: they decide when the answer to each job is written.

Theory of operation. `Slots` draws the seconds of each job. A job that finds all slots taken, or no memory, waits in
order of arrival. `Sharing` does so too, but its jobs slow each other down.

`Batching` is a server with `TokenSpeed`. Prompts are read one after the other, and nothing is written meanwhile. All
jobs whose prompt has been read write at the same speed, which changes whenever their number does. So instead of each
job's time, one number grows: `written`, the tokens that a job which ran all along would have written. A job ends when
it has grown by the length of its answer. The next to end is the top of a heap.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from heapq import heapify, heappop, heappush
from itertools import count
from math import inf
from random import Random
from typing import Protocol, TypeAlias

from .._engine.virtual import Done, Timer, VirtualTime
from .._llm_response import LLMResponse
from ..errors import BackendError
from ._specification import ServerSpecification, ServerUsage
from .latency import LogNormal, SampledLatency, TokenSpeed

BLOCK = 16
"""Tokens of a block of the KV cache, as vLLM has them."""


class Job:
    """A call that the server has taken."""

    __slots__ = (
        "answer",
        "begun_at",
        "done",
        "error",
        "kind",
        "left",
        "prompt",
        "size",
        "state",
        "timer",
        "unread",
        "written_at",
    )

    def __init__(
        self, answer: LLMResponse, error: BackendError | None, prompt: int, done: Done, kind: str = ""
    ) -> None:
        self.answer = answer
        self.kind = kind
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

OnEnd: TypeAlias = Callable[[Job], object]


class Machine(Protocol):
    """
    Works on jobs.

    Attributes:
        slowness: By how much longer its work takes than it should; 1.0 as a rule.
    """

    @property
    def slowness(self) -> float:
        """By how much longer its work takes than it should."""
        ...

    @slowness.setter
    def slowness(self, factor: float) -> None: ...

    @property
    def in_use(self) -> int:
        """Number of jobs that it works on."""
        ...

    @property
    def waiting(self) -> int:
        """Number of jobs that wait."""
        ...

    @property
    def used(self) -> float:
        """Tokens in its memory."""
        ...

    def set_slots(self, slots: int) -> None:
        """Work on another number of jobs at once from now on; those that run go on."""
        ...

    def add(self, job: Job) -> None:
        """Take a job."""
        ...

    def cancel(self, job: Job) -> None:
        """Give up a job that has not ended."""
        ...


class Slots:
    """
    A server whose calls take a time of their own.

    Args:
        config: Its slots, memory and latency.
        time: Where it lives.
        random: Draws latencies.
        on_end: Called with a job whose answer has been written.
    """

    def __init__(self, config: ServerSpecification, time: VirtualTime, random: Random, on_end: OnEnd) -> None:
        self._on_end = on_end
        self.in_use = 0
        self.waiting = 0
        self.slowness: float = 1.0  # of the jobs that begin from now on
        self._slots = config.slots or inf
        self._memory = config.kv_tokens or inf
        self._latency = config.latency
        self._time = time
        self._random = random
        self._used = 0
        self._queue: deque[Job] = deque()

    @property
    def used(self) -> float:
        """Tokens in its memory."""
        return self._used

    def set_slots(self, slots: int) -> None:
        """Work on another number of jobs at once from now on; those that run go on."""
        self._slots = slots
        self._admit()

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
        job.timer = self._time.call_later(self.slowness * self._seconds(job), partial(self._end, job))

    def _seconds(self, job: Job) -> float:
        """Return the seconds that a job takes if no other one slows it down."""
        latency = self._latency
        if isinstance(latency, LogNormal):
            return latency.draw(self._random)
        if isinstance(latency, SampledLatency):
            return latency.draw(self._random, job.kind, job.prompt, job.left)
        assert not isinstance(latency, TokenSpeed)  # which `Batching` has
        return latency

    def _leave(self, job: Job) -> None:
        job.state = GONE
        self.in_use -= 1
        self._used -= job.size
        if job.timer is not None:
            job.timer.cancel()

    def _end(self, job: Job) -> None:
        self._leave(job)
        self._admit()
        self._on_end(job)

    def _admit(self) -> None:
        queue = self._queue
        while queue and (queue[0].state == GONE or self._fits(queue[0])):
            job = queue.popleft()
            if job.state == WAITING:
                self.waiting -= 1
                self._run(job)


class Sharing(Slots):
    """
    A server whose calls slow each other down: with n of them, each goes on at ``1 / (1 + slowdown * (n - 1))``.

    As in `Batching`, one number grows: the seconds of work that a job which ran all along would have behind it.

    Args:
        config: Its slots, memory and latency.
        slowdown: What each further job adds to the time of a job.
        time: Where it lives.
        random: Draws latencies.
        on_end: Called with a job whose answer has been written.
    """

    def __init__(
        self, config: ServerSpecification, slowdown: float, time: VirtualTime, random: Random, on_end: OnEnd
    ) -> None:
        super().__init__(config, time, random, on_end)
        self._slowdown = slowdown
        self._worked = 0.0
        self._worked_until = 0.0
        self._number = count()
        self._running: Running = []  # by what `worked` will be when they end
        self._next: Timer | None = None

    def _run(self, job: Job) -> None:
        self._advance()
        job.state = RUNNING
        self.in_use += 1
        self._used += job.size
        heappush(self._running, (self._worked + self._seconds(job), next(self._number), job))
        self._plan()

    def _leave(self, job: Job) -> None:
        self._advance()
        super()._leave(job)
        if not self.in_use:
            self._running.clear()
            self._worked = 0.0  # numbers stay small, and exact
        self._plan()

    def _advance(self) -> None:
        now = self._time.now()
        self._worked += (now - self._worked_until) / self._pace
        self._worked_until = now

    @property
    def _pace(self) -> float:
        """Seconds that a second of work takes now."""
        return 1 + self._slowdown * max(0, self.in_use - 1)

    def _plan(self) -> None:
        if self._next is not None:
            self._next.cancel()
            self._next = None
        running = _without_ended(self._running)
        if running:
            seconds = max(0.0, running[0][0] - self._worked) * self._pace
            self._next = self._time.call_later(seconds, partial(self._end, running[0][2]))


Running: TypeAlias = list[tuple[float, int, "Job"]]
"""A heap of jobs, by the work that a server will have done when they end."""


def _without_ended(running: Running) -> Running:
    """Remove the jobs that have ended from the front of a heap, and return it."""
    while running and running[0][2].state != RUNNING:
        heappop(running)
    return running


class Batching:
    """
    A server that decodes its calls side by side; see the module's docstring.

    Args:
        config: Its slots and memory.
        speed: Its speed.
        time: Where it lives.
        usage: Counts preemptions.
        on_end: Called with a job whose answer has been written.
    """

    def __init__(
        self,
        config: ServerSpecification,
        speed: TokenSpeed,
        time: VirtualTime,
        usage: ServerUsage,
        on_end: OnEnd,
    ) -> None:
        self._on_end = on_end
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
        self._running: Running = []  # by what `written` will be when they end
        self._writing = 0
        self._written = 0.0
        self._written_until = 0.0
        self._fixed = 0  # tokens in memory, without what was written since the jobs run
        self._starts = 0.0  # sum of `written_at` of those that run
        self._slowness = 1.0
        self._next: Timer | None = None

    @property
    def slowness(self) -> float:
        """By how much longer its work takes than it should."""
        return self._slowness

    @slowness.setter
    def slowness(self, factor: float) -> None:
        self._advance()
        self._slowness = factor
        self._plan()

    def _rate(self) -> float:
        return self._speed.decode_rate(self._writing) / self._slowness

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
    def used(self) -> float:
        """Tokens in its memory."""
        self._advance()
        return self._used

    def set_slots(self, slots: int) -> None:
        """Work on another number of jobs at once from now on; those that run go on."""
        self._slots = slots
        self._admit()

    @property
    def _used(self) -> float:
        return self._fixed + self._writing * self._written - self._starts

    def _advance(self) -> None:
        """Let the running jobs write until now, from the moment at which the last prompt was read."""
        now = self._time.now()
        seconds = now - max(self._written_until, self._reader_free_at)
        if self._writing and seconds > 0:
            self._written += seconds * self._rate()
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
        self._reader_free_at = begins + self._slowness * job.unread / self._speed.prefill
        overhead = self._slowness * self._speed.overhead
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
        running = _without_ended(self._running)
        if not running:
            return
        rate = self._rate()
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
            self._on_end(job)

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
