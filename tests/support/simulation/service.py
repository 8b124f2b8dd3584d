"""
What the simulated server works on, seen from its door: which call of which run, from when to when.

The promises about what is asked for are checked here: limits on calls, tokens and rates, priorities aside; no call
after a stop, after a deadline or beyond a budget; attempts within the retry policy; no answer paid twice.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
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
        highest: The highest limit of each limiter that there was.
    """

    def __init__(self, now: Callable[[], float], disk: Disk | None) -> None:
        self.at_server: Counter[ConcurrencyLimiter] = Counter()
        self.working: dict[Call, Served] = {}
        self.begun: list[Call] = []
        self.highest: Counter[ConcurrencyLimiter] = Counter()
        self._disk = disk
        self._now = now
        self._chains: dict[tuple[RunRecord, int, Question], Chain] = {}
        self._chains_by_error: dict[int, Chain] = {}
        self._answered: Counter[tuple[RunRecord, Question]] = Counter()
        self._minutes: dict[LimiterSet, Minute] = {}

    def chain_of(self, error: BaseException) -> Chain | None:
        """Return the attempts of the call that failed with an error; None if the server did not answer with it."""
        return self._chains_by_error.get(id(error))

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

        def ended(answer: Any, error: BaseException | None) -> None:
            self.leave(served)
            if stage == "llm":
                self._record_end(served, answer, error)
            done(answer, error)

        cancel = inner(stage, argument, ended, endpoint)

        def cancelled() -> None:
            shared = call.in_flight is not None and call.in_flight.has_other_waiters
            in_time = call.deadline is None or self._now() < call.deadline - EPSILON
            keep("a call goes on if another run waits for it", not (shared and in_time), served.question)
            self.leave(served)
            at = call.admission.endpoint_ticket
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
                keep("at most the limit in flight", alone or taken <= most, limiter, taken, call.spec.label)

    def _limit_at_admission(self, call: Call, limiter: ConcurrencyLimiter) -> int:
        """Return the limit; the highest that there was, if another limiter kept the call between then and now."""
        at = call.admission.endpoint_ticket
        is_last = (
            len(call.admission._limiters) == 1 if at is None else limiter not in call.admission._limiters
        )
        starts_when_admitted = is_last and call.admission.rate_ticket is None
        return limiter.limit if starts_when_admitted else max(limiter.limit, self.highest[limiter])

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
        is_wanted = call.state is not ABANDONED and not record.finished
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
            at = call.admission.endpoint_ticket
            chain.probes += at is not None and at.is_probe
            chain.error = error
            error.add_note(f"of call {len(self._chains_by_error)}")  # failures share errors that are equal
            self._chains_by_error[id(error)] = chain
        record.call_returned(answer, error, is_wanted)
        minute = self._minutes.get(record.limiters)
        if minute is not None and call.admission.rate_ticket is not None:
            used = 0 if isinstance(error, RateLimited) else call.admission.tokens
            if answer is not None:
                used = answer.prompt_tokens + answer.completion_tokens
            refund = max(0, call.admission.tokens - used)
            minute.refunds.append((self._now(), refund))
            minute.largest_refund = max(minute.largest_refund, refund)

    def _check_is_new(self, served: Served) -> None:
        """Check that a reply is not in the store, nor on its way there, before it is paid for."""
        disk, key, call = self._disk, served.key, served.call
        assert disk is not None
        assert key is not None
        since = disk.durable_since.get(key)
        if since is not None and call.attempt == 1 and key not in disk.discarded:
            keep("what is in the store is not paid for", since >= call.admission.queued_at, served.question)
        for other in self.working.values():
            is_live = other.call.state is not ABANDONED and not other.record.finished
            if other.key == key and is_live:
                keep("equal questions in flight are asked once", False, served.question)

    def _check_rates(self, record: RunRecord, call: Call) -> None:
        limits = record.limits
        requests, tokens = limits.requests_per_minute, limits.tokens_per_minute
        if requests is None and tokens is None:
            return
        now = self._now()
        minute = self._minutes.setdefault(record.limiters, Minute())
        minute.starts.append((now, call.admission.tokens))
        minute.largest = max(minute.largest, call.admission.tokens)
        while minute.starts[0][0] <= now - 60 + EPSILON:
            minute.starts.popleft()
        while minute.refunds and minute.refunds[0][0] <= now - 60 + EPSILON:
            minute.refunds.popleft()
        if requests is not None:
            keep("calls per minute", len(minute.starts) <= requests, len(minute.starts), requests)
        if tokens is not None:
            refunds = sum(refund for _, refund in minute.refunds) + minute.largest_refund
            # What `RatePacer` promises: beyond the limit by the largest call, and by refunds.
            most = tokens + max(0, minute.largest - tokens // 60) + refunds + 1
            reserved = sum(reserved for _, reserved in minute.starts)
            keep("tokens per minute", reserved <= most, reserved, most)


def weights_of(call: Call) -> list[tuple[ConcurrencyLimiter, int]]:
    """Return what a call takes of each of its limiters that counts calls, or tokens in flight."""
    admission = call.admission
    token_limiter = None if admission._pool is None else admission._pool.tokens
    at = admission.endpoint_ticket
    return [
        *(
            (limiter, admission.tokens if limiter is token_limiter else call.spec.permits)
            for limiter in admission._limiters
        ),
        *([(at.endpoint.limiter, 1)] if at is not None and at.endpoint is not None else []),
    ]
