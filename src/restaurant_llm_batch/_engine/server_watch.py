"""
Server watch: reads the load of a run's servers every few seconds, and adapts the limits to it.

Theory of operation. A driver reads (`ReadServer`): in a task, in a thread of its own, or, on virtual time, at once. The
answer is taken where the run lives. What it says is decided by the server's `ServerSignal`, and what becomes of that by
each limit. A reading that fails is counted, and logged once; the limits then go by their other signals. While a reading
takes long, no other one begins: a server that hangs holds one thread, however many runs there are.

The servers, with their signals, belong to the runner: several runs take turns in reading them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any, Protocol

from .._limits.concurrency import ConcurrencyLimiter
from .._limits.limiters import LimiterSet
from .._limits.server_signal import FULL_CACHE, SILENCE, ServerSignal, ServerWord, as_load
from .._text import error_text
from ..models import ServerLoad
from .mailbox import Clock
from .plan import LoadMethod, ReadServer
from .recorder import RunRecorder, log
from .token_budget import TokenBudget

_OWN_LIMITS = ("llm", "batches", "llm_total")


class WatchedServer:
    """
    A server, and what it has said so far.

    Args:
        name: Its name in the statistics: "llm", or "llm:" and the name of an endpoint of a pool.
        method: The method that returns its load.

    Attributes:
        signal: What its readings say.
        read_at: When the latest reading began, in any run.
        blocked: Number of threads that read it now.
        is_told: Whether it was logged that it cannot be read.
        load: Its latest load; None before.
    """

    __slots__ = ("_read", "blocked", "is_told", "load", "method", "name", "read_at", "signal")

    def __init__(self, name: str, method: LoadMethod) -> None:
        self.name: str = name
        self._read = method.method
        self.method: LoadMethod = (
            method if method.is_async else LoadMethod(self._read_blocking, is_async=False)
        )
        self.signal: ServerSignal = ServerSignal()
        self.read_at: float = -inf
        self.blocked: int = 0
        self.is_told: bool = False
        self.load: ServerLoad | None = None

    def _read_blocking(self) -> Any:
        self.blocked += 1
        try:
            return self._read()
        finally:
            self.blocked -= 1


@dataclass(frozen=True, slots=True)
class WatchPlan:
    """
    What is watched.

    Attributes:
        seconds: Seconds between two readings.
        servers: The servers.
        budget: The tokens in flight that their KV caches bear; None if that is not theirs to say.
    """

    seconds: float
    servers: Sequence[WatchedServer]
    budget: TokenBudget | None = None


class WatchedRun(Protocol):
    """The part of `RunState` that the watch uses."""

    now: Clock
    limiters: LimiterSet
    recorder: RunRecorder
    watch: WatchPlan | None


class ServerWatch:
    """
    Reads the servers of one run.

    Args:
        run: The run.
        read: Reads.
    """

    def __init__(self, run: WatchedRun, read: ReadServer) -> None:
        self._run = run
        self._read = read
        plan = run.watch
        self._servers: Sequence[WatchedServer] = () if plan is None else plan.servers
        self._seconds = 0.0 if plan is None else plan.seconds
        self._budget = None if plan is None else plan.budget
        self._call_later: Callable[[float, Callable[[], object]], object] | None = None
        self._reading: set[WatchedServer] = set()
        self._replies = self._reserved = self._used = 0  # at the latest reading
        self._ended = False

    def start(self, call_later: Callable[[float, Callable[[], object]], object]) -> None:
        """Read from now on, as long as the run lasts."""
        if self._servers:
            self._call_later = call_later
            self._tick()

    def end(self) -> None:
        """Take no more answers."""
        self._ended = True

    def _tick(self) -> None:
        self.read_due()
        if self._call_later is not None and not self._ended:
            self._call_later(self._seconds, self._tick)

    def read_due(self) -> None:
        """Begin the readings whose time has come."""
        now = self._run.now()
        for server in self._servers:
            # Half of the time: another run may have read it a moment ago, but a timer may be early.
            if server in self._reading or server.blocked:
                continue
            if now - server.read_at >= self._seconds / 2:
                self._reading.add(server)
                server.read_at = now
                try:
                    self._read(server.method, partial(self._take, server))
                except Exception as error:  # no thread can be started, for example
                    self._take(server, None, error)

    def _take(self, server: WatchedServer, answer: Any, error: BaseException | None) -> None:
        """Take an answer, where the run lives."""
        self._reading.discard(server)
        if self._ended:
            return
        load: ServerLoad | None = None
        if error is None:
            try:
                load = as_load(answer)
            except Exception as wrong:
                error = wrong
        recorder, signal = self._run.recorder, server.signal
        if load is None:
            recorder.server_read(server.name, None, (0, 0), signal.counted, error)
            self._lost(server, error)
        else:
            server.load = load
            limiters = self._limiters(server)
            ended = self._replies_since()
            budget = self._budget
            word = signal.judge(
                load,
                sum(limiter.statistics().in_flight for limiter in limiters),
                ended,
                is_bounded=budget is not None and budget.is_in_force,
            )
            recorder.server_read(server.name, load, signal.new, signal.counted)
            self._follow(limiters, word, load, signal.new[0], ended)
        recorder.emit_limit_changes()

    def _follow(
        self,
        limiters: Sequence[ConcurrencyLimiter],
        word: ServerWord,
        load: ServerLoad,
        preempted: int,
        ended: int,
    ) -> None:
        """Have the limits follow a reading."""
        now, counters = self._run.now(), self._run.recorder.counters
        for limiter in limiters:
            limiter.follow_server(word, now)
        batch_tokens = self._run.limiters.batch_tokens
        if batch_tokens is not None:
            batch_tokens.follow_server(preempted > 0, (load.kv_usage or 0.0) > FULL_CACHE, now)
        if self._budget is not None:
            loads = [one.load for one in self._servers]
            self._budget.follow(
                loads, preempted, ended, counters.in_flight("llm"), now, self._fullness_since()
            )
            self._run.limiters.token_block = self._budget.block

    def _replies_since(self) -> int:
        """Return how many calls have ended since the reading before."""
        before, self._replies = self._replies, self._run.recorder.counters.replies
        return self._replies - before

    def _fullness_since(self) -> float:
        """Return the share of what they counted with that the calls took which have ended since the reading before."""
        counters = self._run.recorder.counters
        reserved, used = counters.reserved - self._reserved, counters.used - self._used
        self._reserved, self._used = counters.reserved, counters.used
        return used / reserved if reserved else 0.0

    def _lost(self, server: WatchedServer, error: BaseException | None) -> None:
        for limiter in self._limiters(server):
            limiter.follow_server(SILENCE, self._run.now())
        if not server.is_told:
            server.is_told = True
            log.warning(
                "the load of the model's server (%s) cannot be read, so its limits go by their other signals: %s",
                server.name,
                "" if error is None else error_text(error),
            )

    def _limiters(self, server: WatchedServer) -> list[ConcurrencyLimiter]:
        named = self._run.limiters.named()
        names = _OWN_LIMITS if server.name == "llm" else (server.name,)
        return [named[name] for name in names if name in named]
