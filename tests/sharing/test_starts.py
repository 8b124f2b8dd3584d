"""Limits per minute that processes share: no minute has more starts or tokens, and none is wasted while calls wait."""

from __future__ import annotations

from collections import deque
from functools import partial
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from restaurant_llm_batch import SharedLimiter
from restaurant_llm_batch._engine.virtual import VirtualTime
from restaurant_llm_batch._limits.wait_queue import CallbackTicket
from restaurant_llm_batch.sharing._memory import MemoryBroker
from restaurant_llm_batch.sharing._messages import StartsAsk, Terms
from restaurant_llm_batch.sharing._starts import StartsLender


class Member:
    """A process on virtual time whose calls wait for the limits per minute alone."""

    def __init__(self, world: Minutes, name: str) -> None:
        base = SharedLimiter("account", 10_000, broker=world.broker, **world.rates)  # type: ignore[arg-type]
        self.limiter = base.on_virtual_time(world.broker, world.time, name)
        self.world = world
        self.name = name
        self.started = 0
        assert self.limiter.rate is not None
        self.rate = self.limiter.rate

    def call(self, tokens: int, used: int | None = None, seconds: float = 1.0) -> None:
        """Want to start a call that takes some seconds."""

        def admitted() -> None:
            self.started += 1
            self.world.start(tokens)
            self.world.time.call_later(seconds, ended)

        def ended() -> None:
            self.world.end(tokens if used is None else used, tokens)
            self.rate.record_usage(ticket, used, None, 0, self.world.time.now())

        ticket = CallbackTicket(admitted, weight=tokens)
        if self.rate.enqueue(ticket, self.world.time.now()):
            admitted()


class Minutes:
    """Members that share limits per minute, and the starts of all of them."""

    def __init__(self, requests: int | None, tokens: int | None) -> None:
        self.time = VirtualTime()
        self.broker = MemoryBroker(self.time.now)
        self.rates = {"requests_per_minute": requests, "tokens_per_minute": tokens}
        self.starts: deque[tuple[float, int]] = deque()
        self.largest = 0
        self.largest_refund = 0
        self.total = 0

    def start(self, tokens: int) -> None:
        now = self.time.now()
        self.total += 1
        self.largest = max(self.largest, tokens)
        self.starts.append((now, tokens))
        while self.starts[0][0] <= now - 60:
            self.starts.popleft()
        requests = self.rates["requests_per_minute"]
        assert requests is None or len(self.starts) <= requests

    def end(self, used: int, reserved: int) -> None:
        self.largest_refund = max(self.largest_refund, reserved - used)

    def tokens_in_a_minute(self) -> int:
        return sum(tokens for _, tokens in self.starts)

    def run(self, until: float) -> None:
        while self.time.next_moment <= until:
            self.time.step(until)
        self.time.step(until)


@pytest.mark.sample(2)
@pytest.mark.parametrize("requests", [5, 60, 600])
@pytest.mark.parametrize("number", [1, 3, 8])
def test_no_minute_has_more_starts_than_the_limit_and_few_less(requests: int, number: int) -> None:
    world = Minutes(requests, None)
    members = [Member(world, str(each)) for each in range(number)]
    for member in members:
        for _ in range(3 * requests // number + 10):
            member.call(1)
    world.run(120.0)

    assert world.total >= 0.9 * 2 * requests - 1
    if number > 1 and requests >= 60:
        started = [member.started for member in members]
        assert min(started) > 0.4 * max(started)


def test_tokens_are_shared_and_what_is_not_used_goes_to_all() -> None:
    world = Minutes(None, 60_000)
    greedy, modest = Member(world, "a"), Member(world, "b")
    for _ in range(400):
        greedy.call(1000, used=500)
    for _ in range(100):
        modest.call(100, used=100)
    world.run(120.0)

    assert world.tokens_in_a_minute() <= 60_000 * 2 + 2000  # those reserved; half of them were given back
    assert modest.started == 100
    assert greedy.started >= 0.85 * (120_000 - 10_000) / 500


def test_a_large_call_starts_though_small_ones_of_others_never_stop() -> None:
    world = Minutes(None, 6000)
    small, large = Member(world, "a"), Member(world, "b")
    for _ in range(2000):
        small.call(20)
    world.run(1.0)
    large.call(3000)
    world.run(6.0)

    assert large.started == 1


def test_a_member_alone_starts_at_once_what_is_free() -> None:
    world = Minutes(600, None)
    member = Member(world, "a")
    member.call(1)
    world.run(0.01)

    assert member.started == 1


def test_a_member_that_falls_idle_keeps_nothing() -> None:
    world = Minutes(600, None)
    first, second = Member(world, "a"), Member(world, "b")
    for _ in range(50):
        first.call(1)
    world.run(10.0)
    before = second.started
    for _ in range(100):
        second.call(1)
    world.run(20.0)

    assert first.started == 50
    assert second.started - before >= 90


@settings(max_examples=6, deadline=None)
@given(
    requests=st.one_of(st.none(), st.integers(1, 300)),
    tokens=st.one_of(st.none(), st.integers(100, 30_000)),
    number=st.integers(1, 5),
    seed=st.integers(0, 1000),
)
def test_no_minute_has_more_whatever_is_called_when(
    requests: int | None, tokens: int | None, number: int, seed: int
) -> None:
    if requests is None and tokens is None:
        requests = 10
    world, random = Minutes(requests, tokens), Random(seed)
    members = [Member(world, str(each)) for each in range(number)]
    for member in members:
        for _ in range(random.randint(1, 60)):
            size = random.randint(1, 200)
            world.time.call_later(
                random.uniform(0, 100),
                partial(member.call, size, random.randint(0, size)),
            )
    most = 0
    for second in range(140):
        world.run(float(second))
        most = max(most, world.tokens_in_a_minute())

    if tokens is not None and requests is None:
        assert most <= 2 * tokens + 10 * world.largest + 10 * world.largest_refund


def test_where_the_buckets_stand_is_kept() -> None:
    terms = Terms(8, 60, 6000)
    lender = StartsLender(terms, 0.0)
    assert lender.lend("a", StartsAsk((50, 60, 70), 3), {"a"}, 0.0) == 2
    again = StartsLender(terms, 0.0)
    again.restore(lender.state())

    assert again.state() == lender.state()
    assert again.lend("a", StartsAsk((60,), 1), {"a"}, 0.1) == 0
