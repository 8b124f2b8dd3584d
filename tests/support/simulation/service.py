"""
What the simulated server works on, seen from its door: which call of which run, from when to when.

The promises about what is asked for are checked here: limits on calls, tokens and rates, priorities aside; no call
after a stop, after a deadline or beyond a budget; attempts within the retry policy; no answer paid twice.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import Any

from restaurant_llm_batch._engine.call import ABANDONED, Call
from restaurant_llm_batch._engine.virtual import VirtualDriver
from restaurant_llm_batch._limits.concurrency import ConcurrencyLimiter
from restaurant_llm_batch._limits.limiters import LimiterSet
from restaurant_llm_batch._store.keys import request_key
from restaurant_llm_batch.errors import RateLimited
from restaurant_llm_batch.models import LLMRequest
from restaurant_llm_batch.outcomes import Stage

from .broken import EPSILON, keep
from .disk import Disk
from .record import RunRecord

Question = tuple[Any, ...]


@dataclass(slots=True)
class Chain:
    """The attempts of one call."""

    failed: int = 0
    refused: int = 0
    probes: int = 0  # of them, those that found out whether an endpoint is back
    error: BaseException | None = None


@dataclass(slots=True, eq=False)
class Served:
    """A call that the server works on."""

    record: RunRecord
    call: Call
    question: Question
    chain: Chain
    key: bytes | None


@dataclass(slots=True)
class Minute:
    """The calls that started under one rate limiter: when, the tokens that they reserved, and those given back."""

    starts: deque[tuple[float, int]] = field(default_factory=deque)
    refunds: deque[tuple[float, int]] = field(default_factory=deque)
    largest: int = 0
    largest_refund: int = 0


class Service:
    """
    The server, as it is watched.

    Args:
        now: The virtual time.
        disk: The store, or None.

    Attributes:
        at_server: Slots, or tokens, of each limiter that the calls take which the server works on.
        working: The calls that the server works on.
        begun: The calls that began in the event that is going on.
        trails: The limits of each limiter that there were: since when, and the limit.
    """

    def __init__(self, now: Callable[[], float], disk: Disk | None) -> None:
        self.at_server: Counter[ConcurrencyLimiter] = Counter()
        self.working: dict[Call, Served] = {}
        self.begun: list[Call] = []
        self.trails: defaultdict[ConcurrencyLimiter, list[tuple[float, int]]] = defaultdict(list)
        self._rates: dict[
            LimiterSet, dict[str, list[tuple[float, int]]]
        ] = {}  # likewise, of limits per minute
        self._disk = disk
        self._now = now
        self._chains: dict[tuple[RunRecord, int, Question], Chain] = {}
        self._chains_by_error: dict[int, Chain] = {}
        self._answered: Counter[tuple[RunRecord, Question]] = Counter()
        self._minutes: dict[LimiterSet, Minute] = {}

    def chain_of(self, error: BaseException) -> Chain | None:
        """Return the attempts of the call that failed with an error; None if the server did not answer with it."""
        return self._chains_by_error.get(id(error))

    def note_limit(self, limiter: ConcurrencyLimiter, limit: int) -> None:
        """Record the limit that there is now."""
        trail = self.trails[limiter]
        if not trail or trail[-1][1] != limit:
            trail.append((self._now(), limit))

    def limit_set(self, record: RunRecord, name: str, limit: int) -> None:
        """Record that a limit per minute was set; those on calls in flight are noted after each event."""
        if name in _RATES:
            self._rates_of(record)[name].append((self._now(), limit))

    def _rates_of(self, record: RunRecord) -> dict[str, list[tuple[float, int]]]:
        rates = self._rates.get(record.limiters)
        if rates is None:
            configured = {name: getattr(record.limits, name) for name in _RATES}
            rates = self._rates[record.limiters] = {
                name: [] if limit is None else [(-inf, limit)] for name, limit in configured.items()
            }
        return rates

    def watch(self, record: RunRecord) -> None:
        """Watch the calls of a run from now on."""
        driver: Any = record.player.driver
        if isinstance(driver, VirtualDriver):
            backend: Any = driver._backend
        else:
            method: Any = record.run.plan.llm.method
            backend = method.func.__self__
        backend.begin = partial(self._begin, record, backend.begin)

    def _begin(
        self, record: RunRecord, inner: Any, stage: Stage, argument: Any, done: Any, endpoint: str | None
    ) -> Callable[[], object]:
        """Begin a call, and check that it may begin."""
        driver: Any = record.player.driver
        call: Call = done.args[0] if isinstance(driver, VirtualDriver) else driver._call
        record.check_call_may_begin(call)
        served = Served(record, call, (), Chain(), None)
        if stage == "llm":
            self._check_request(served, argument)
        self._enter(served)

        was_cancelled = False

        def ended(answer: Any, error: BaseException | None) -> None:
            self.leave(served)
            if stage == "llm" and not was_cancelled:  # both may happen at one moment
                self._record_end(served, answer, error)
            done(answer, error)

        cancel = inner(stage, argument, ended, endpoint)

        def cancelled() -> None:
            nonlocal was_cancelled
            was_cancelled = True
            shared = call.in_flight is not None and call.in_flight.has_other_waiters
            in_time = call.deadline is None or self._now() < call.deadline - EPSILON
            keep("a call goes on if another run waits for it", not (shared and in_time), served.question)
            self.leave(served)
            at = call.endpoint_ticket
            served.chain.failed += 1
            served.chain.probes += at is not None and at.is_probe
            cancel()

        return cancelled

    def _check_request(self, served: Served, request: LLMRequest) -> None:
        record, call = served.record, served.call
        served.question = *(message["content"] for message in request.messages), request.max_tokens
        served.chain = self._next_attempt(record, call, served.question)
        if self._disk is not None:
            served.key = request_key(record.fingerprint, request)
            self._check_is_new(served)
        self._check_rates(record, call)

    def _enter(self, served: Served) -> None:
        call = served.call
        self.working[call] = served
        self.begun.append(call)
        served.record.call_began(call)
        for limiter, weight in weights_of(call):
            taken = self.at_server[limiter] = self.at_server[limiter] + weight
            if taken > limiter.limit:
                alone = sum(limiter in dict(weights_of(other)) for other in self.working) == 1
                most = self._limit_at_admission(call, limiter)
                keep("at most the limit in flight", alone or taken <= most, limiter, taken, call.label)

    def _limit_at_admission(self, call: Call, limiter: ConcurrencyLimiter) -> int:
        """Return the limit; the highest since it was queued, if another limiter kept it between then and now."""
        at = call.endpoint_ticket
        is_last = len(call._limiters) == 1 if at is None else limiter not in call._limiters
        if is_last and call.rate_ticket is None:
            return limiter.limit  # it starts when it is admitted
        trail = self.trails[limiter]
        at_first = max((since for since, _ in trail if since < call.queued_at), default=-inf)
        return max(limiter.limit, *(limit for since, limit in trail if since >= at_first))

    def leave(self, served: Served) -> None:
        """Record that the server does not work on a call any more."""
        if self.working.pop(served.call, None) is None:
            return
        served.record.call_left(served.call)
        for limiter, weight in weights_of(served.call):
            self.at_server[limiter] -= weight

    def forget(self, record: RunRecord) -> None:
        """Record that the process of a sequential run has left its call, as after a Ctrl-C."""
        for served in [served for served in self.working.values() if served.record is record]:
            self.leave(served)

    def _next_attempt(self, record: RunRecord, call: Call, question: Question) -> Chain:
        frame = call.frame
        # Items that share a question, and flows of one item that do, each have a chain of attempts.
        key = record, id(frame) if frame is not None else 0, question
        if call.attempt == 1:
            chain = self._chains[key] = Chain()
            return chain
        chain = self._chains[key]
        policy = record.llm_retry
        keep("attempts are counted", call.attempt == chain.failed + chain.refused + 1, call.attempt, chain)
        # A call is spared one failure at each endpoint of a pool, and after each wait a refusal by all but the last.
        endpoints = record.plan.endpoints
        most, refused = policy.attempts + endpoints, policy.max_rate_limit_attempts
        if endpoints:
            most += chain.probes
            refused = endpoints * (refused + most)
        keep("attempts within the retry policy", chain.failed < most, chain, policy)
        keep("refusals within the retry policy", chain.refused < refused, chain)
        return chain

    def _record_end(self, served: Served, answer: Any, error: BaseException | None) -> None:
        chain, call, record = served.chain, served.call, served.record
        is_wanted = call.progress is not ABANDONED and not record.finished
        if isinstance(error, RateLimited):
            chain.refused += 1
        elif error is not None:
            chain.failed += 1
        elif is_wanted:
            paid = self._answered[record, served.question] = self._answered[record, served.question] + 1
            record.answered(call, answer, served.key)
            if self._disk is None and paid > 1:
                keep("nothing is paid twice", record.may_ask_again(served.question), served.question)
        if error is not None:
            at = call.endpoint_ticket
            chain.probes += at is not None and at.is_probe
            chain.error = error
            error.add_note(f"of call {len(self._chains_by_error)}")  # failures share errors that are equal
            self._chains_by_error[id(error)] = chain
        record.call_returned(answer, error, is_wanted)
        minute = self._minutes.get(record.limiters)
        if minute is not None and call.rate_ticket is not None:
            used = 0 if isinstance(error, RateLimited) else call.tokens
            if answer is not None:
                used = answer.prompt_tokens + answer.completion_tokens
            refund = max(0, call.tokens - used)
            minute.refunds.append((self._now(), refund))
            minute.largest_refund = max(minute.largest_refund, refund)

    def _check_is_new(self, served: Served) -> None:
        """Check that a reply is not in the store, nor on its way there, before it is paid for."""
        disk, key, call = self._disk, served.key, served.call
        assert disk is not None
        assert key is not None
        since = disk.durable_since.get(key)
        if since is not None and call.attempt == 1 and key not in disk.discarded:
            keep("what is in the store is not paid for", since >= call.queued_at, served.question)
        for other in self.working.values():
            is_live = other.call.progress is not ABANDONED and not other.record.finished
            if other.key == key and is_live:
                keep("equal questions in flight are asked once", False, served.question)

    def _check_rates(self, record: RunRecord, call: Call) -> None:
        now = self._now()
        rates = self._rates_of(record)
        if not any(rates.values()):
            return
        minute = self._minutes.setdefault(record.limiters, Minute())
        minute.starts.append((now, call.tokens))
        minute.largest = max(minute.largest, call.tokens)
        while minute.starts[0][0] <= now - 60 + EPSILON:
            minute.starts.popleft()
        while minute.refunds and minute.refunds[0][0] <= now - 60 + EPSILON:
            minute.refunds.popleft()
        # What `RatePacer` promises: within the highest limit of the minute, and one second's worth for each new limit.
        if since := rates["requests_per_minute"]:
            most, changes = _in_minute(since, now)
            starts = sum(start >= since[0][0] for start, _ in minute.starts)
            keep("calls per minute", starts <= most + changes * max(1, most // 60), starts, most, changes)
        if since := rates["tokens_per_minute"]:
            most, changes = _in_minute(since, now)
            refunds = sum(refund for _, refund in minute.refunds) + minute.largest_refund
            # Beyond that by the largest call, which a lower limit does not wait for again, and by refunds.
            above = max(0, minute.largest - most // 60) + 1
            reserved = sum(reserved for start, reserved in minute.starts if start >= since[0][0])
            allowed = most + refunds + above + changes * (max(1, most // 60) + above)
            keep("tokens per minute", reserved <= allowed, reserved, most, changes)


_RATES = ("requests_per_minute", "tokens_per_minute")


def _in_minute(since: list[tuple[float, int]], now: float) -> tuple[int, int]:
    """Return the highest limit of the minute until now, and how many of its limits were set within it."""
    first = max((moment for moment, _ in since if moment <= now - 60), default=-inf)
    within = [limit for moment, limit in since if moment > now - 60 and moment > -inf]
    return max(limit for moment, limit in since if moment >= first), len(within)


def weights_of(call: Call) -> list[tuple[ConcurrencyLimiter, int]]:
    """Return what a call takes of each of its limiters that counts calls, or tokens in flight."""
    token_limiter = None if call._pool is None else call._pool.tokens
    at = call.endpoint_ticket
    return [
        *(
            (limiter, call.tokens if limiter is token_limiter else call.spec.permits)
            for limiter in call._limiters
        ),
        *([(at.endpoint.limiter, 1)] if at is not None and at.endpoint is not None else []),
    ]
