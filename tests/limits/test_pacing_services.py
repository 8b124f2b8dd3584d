"""A pace against services that count for themselves, in virtual time: it uses what they give and is hardly refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush
from math import inf
from random import Random
from typing import Protocol

import pytest

from restaurant_llm_batch._limits.pacing import RatePacer
from restaurant_llm_batch._llm_response import RateLimitInfo, RateLimitStatus

RESERVED = 3000
"""Tokens of each call's prompt and longest answer; what it uses in the end is 300 to 1,500."""
PLACES = 100


def requests_left(limit: int, remaining: int, reset: float) -> RateLimitInfo:
    return RateLimitInfo(requests=RateLimitStatus(limit, remaining, reset))


class Unpaced(RatePacer):
    """Hears nothing."""

    __slots__ = ()

    def update_from_report(self, number: int, report: RateLimitInfo, now: float) -> None:
        pass


class Service(Protocol):
    """Counts for itself; refuses, and says what is left."""

    def ask(self, used: int, now: float) -> tuple[bool, RateLimitInfo]: ...


@dataclass
class BucketService:
    """OpenAI's way: a minute's worth, or less, that comes back one by one; resets in milliseconds."""

    limit: int
    holds: float
    lacking: float = 0.0
    at: float = 0.0

    def ask(self, used: int, now: float) -> tuple[bool, RateLimitInfo]:
        rate = self.limit / 60
        self.lacking, self.at = max(0.0, self.lacking - (now - self.at) * rate), now
        taken = self.lacking + 1 <= self.holds + 1e-6
        self.lacking += taken
        return taken, requests_left(
            self.limit, max(0, int(self.holds - self.lacking)), round(self.lacking / rate, 3)
        )


@dataclass
class WindowService:
    """Many gateways' way: so many in each minute of the clock; resets in whole seconds."""

    limit: int
    minute: int = -1
    used: int = 0

    def ask(self, used: int, now: float) -> tuple[bool, RateLimitInfo]:
        minute = int((now + 17) // 60)
        if minute != self.minute:
            self.minute, self.used = minute, 0
        taken = self.used < self.limit
        self.used += taken
        return taken, requests_left(self.limit, self.limit - self.used, round(60 - (now + 17) % 60))


@dataclass
class TokenService:
    """A minute's worth of tokens; takes what a call reserves, as OpenAI is said to, or what it uses in the end."""

    limit: int
    by_use: bool
    lacking: float = 0.0
    at: float = 0.0

    def ask(self, used: int, now: float) -> tuple[bool, RateLimitInfo]:
        rate = self.limit / 60
        self.lacking, self.at = max(0.0, self.lacking - (now - self.at) * rate), now
        taken = self.lacking + RESERVED <= self.limit
        self.lacking += taken * (used if self.by_use else RESERVED)
        left = RateLimitStatus(self.limit, int(self.limit - self.lacking), round(self.lacking / rate, 3))
        return taken, RateLimitInfo(tokens=left)


SERVICES: dict[str, Callable[[], Service]] = {
    "a bucket": lambda: BucketService(600, 600),
    "a small bucket": lambda: BucketService(600, 20),
    "windows": lambda: WindowService(600),
    "tokens by what is reserved": lambda: TokenService(400_000, by_use=False),
    "tokens by what is used": lambda: TokenService(400_000, by_use=True),
}


def drive(service: Service, pace: RatePacer, seconds: float, minutes: float = 5) -> tuple[int, int]:
    """Ask whenever the pace and the places allow it; return how many calls were answered, and refused."""
    random, now, answered, refused = Random(1), 0.0, 0, 0
    flying: list[tuple[float, int, int, RateLimitInfo]] = []
    while now < 60 * minutes:
        ready = pace.ready_at(RESERVED, now) if len(flying) < PLACES else inf
        if ready <= now:
            used = random.randint(300, 1500)
            taken, report = service.ask(used, now)
            answered, refused = answered + taken, refused + (not taken)
            lasts = random.uniform(0.5, 1.5) * seconds if taken else 0.2
            heappush(flying, (now + lasts, pace.reserve(RESERVED, now), used if taken else 0, report))
        elif flying and flying[0][0] <= ready:
            now, number, used, report = heappop(flying)
            pace.settle_usage(RESERVED, used, now)
            pace.update_from_report(number, report, now)
        else:
            now = ready
    return answered, refused


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("seconds", [0.5, 10.0])
@pytest.mark.sample(1)
@pytest.mark.slow
def test_what_was_learned_uses_what_the_service_gives_and_is_hardly_refused(
    service: str, seconds: float
) -> None:
    answered, refused = drive(SERVICES[service](), RatePacer(None, None, 0.0), seconds)
    most, without = drive(SERVICES[service](), Unpaced(None, None, 0.0), seconds)

    assert answered >= 0.93 * most
    assert refused <= max(0.03 * answered, PLACES)  # at first, nothing is known
    assert without > 10 * most or seconds > 1  # long calls in so few places hardly come up against the limit


@pytest.mark.sample(2)
@pytest.mark.parametrize("service", ["a bucket", "a small bucket", "windows"])
def test_a_given_number_of_requests_is_never_refused_by_a_service_that_counts_as_many(service: str) -> None:
    answered, refused = drive(SERVICES[service](), Unpaced(600, None, 0.0), 2.0)

    assert refused == 0
    assert answered >= 0.97 * 600 * 5


@pytest.mark.parametrize(("by_use", "calls"), [(True, 444), (False, 133)])
def test_a_given_number_of_tokens_is_what_a_service_counts_and_its_reports_say_how_it_counts(
    by_use: bool, calls: int
) -> None:
    """By what is used, 444 calls of 900 tokens a minute; by what is reserved, 133 of 3,000: given back in vain."""
    answered, refused = drive(TokenService(400_000, by_use), RatePacer(None, 400_000, 0.0), 5.0)

    assert refused == 0
    assert 0.85 * calls * 5 <= answered <= (calls + 1) * 6
