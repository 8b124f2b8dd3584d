"""
Rate pacing (GCRA): spreads calls and their tokens over the minute, by configured and by reported limits.

Theory of operation. A *configured* limit is a token bucket that refills continuously, in the form of the generic cell
rate algorithm (GCRA, ITU-T Recommendation I.371; for an introduction see Brandur Leach, "Rate Limiting, Cells, and
GCRA", https://brandur.org/rate-limiting). GCRA stores one number, the *theoretical arrival time* (TAT): here, the time
at which the bucket is full again. Taking `amount` moves it forward by `amount * interval`. A call of `amount` may start
once the bucket holds that much, at `TAT - (capacity - amount) * interval`. No timer refills the bucket, and a call that
waits exactly until `ready_at` is never sent back by a rounding error.

A *reported* limit comes from the latest response headers (``x-ratelimit-*``: limit, remaining, reset). Three facts make
it harder:

1. Responses arrive out of order and late. Calls have numbers; a report counts from its own call on. Calls started after
   that call are subtracted, because the service may not have counted them yet. Reports for calls older than the one
   reported last are ignored.
2. Headers do not say whether the service refills a bucket or resets a fixed window. `_ReportedLimit._compare` finds out
   from how `reset` changes as `remaining` falls.
3. Headers can be wrong. Implausible numbers are ignored, and after `MAX_WAIT` seconds one call starts whatever they
   say.

If a limit is both configured and reported, a call has to satisfy both. The classes here use no clock, no thread and no
queue: the time is an argument. `RateLimiter` queues the calls.
"""

from __future__ import annotations

from math import inf
from typing import Literal, TypeAlias

from .._llm_response import RateLimitInfo, RateLimitStatus

RateName: TypeAlias = Literal["requests_per_minute", "tokens_per_minute"]
"""Field of `Limits`."""

MINUTE = 60.0
MAX_WAIT = MINUTE
"""Seconds after the latest start at which one call may start whatever the service reported, to get a new report."""
STARTS_KEPT = 4096
"""How many recent calls keep their start time. Rate-limit headers for older calls are ignored."""
_CAUTION = 1 + 1e-6  # slows the rate by many times the rounding error of a minute
_MAX_LIMIT = 10**12
_MAX_RESET = 32 * 86400.0


class RatePacer:
    """
    When calls may start, under limits on calls and tokens per minute.

    *Configured* limits apply from the first call on. Calls are spread over the minute: at most one second's worth of
    them, or one call, start at once. In any 60 seconds, at most as many calls start as the limit allows.

    The token bucket holds one second's worth. A larger call starts when the bucket is full and leaves it in debt;
    later calls wait until the debt is repaid. The long-term rate therefore never exceeds the limit, but a 60-second
    window may exceed it by the largest call's size above one second's worth, plus refunds in that window, plus one
    refund before it.

    *Reported* limits come from the latest response headers. Calls started after that response's call are subtracted,
    because the service may not have counted them yet. A bucket refills as fast as the report says, but never faster
    than the limit per minute: some services report a bucket that is smaller than their limit. A fixed window,
    recognised by a `reset` that shrinks while `remaining` falls, refills when it ends. Implausible reports are
    ignored.

    A call has to satisfy both. A wait for a reported limit ends 60 seconds after the latest start: one call starts
    then, so that a limit per day, or a service that miscounts, does not stall a run for ever.

    Args:
        requests: Configured calls per minute, at least 1; None for no configured limit.
        tokens: Configured tokens per minute, at least 1; None for no configured limit.
        now: The time, in seconds, on the clock of every later `now`.

    Attributes:
        configured: The configured limits; None for none.
        counts_tokens: Whether a token limit is configured or was reported, so that calls need their token counts.
    """

    __slots__ = (
        "_count",
        "_latest",
        "_reported_requests",
        "_reported_tokens",
        "_requests",
        "_reserved",
        "_starts",
        "_tokens",
        "configured",
        "counts_tokens",
    )

    def __init__(self, requests: int | None, tokens: int | None, now: float) -> None:
        self.configured: dict[RateName, int | None] = {
            "requests_per_minute": requests,
            "tokens_per_minute": tokens,
        }
        self._requests = None if requests is None else spread(requests, now)
        self._tokens = None if tokens is None else spread(tokens, now)
        self._reported_requests, self._reported_tokens = _ReportedLimit(), _ReportedLimit()
        self.counts_tokens = tokens is not None
        self._count = 0
        self._reserved = 0  # tokens, by all calls so far
        # By number: when that call started, and `_reserved` then, its own tokens included.
        self._starts: list[tuple[float, int]] = [(now, 0)] * STARTS_KEPT
        self._latest = now

    def ready_at(self, tokens: int, now: float) -> float:
        """Return the earliest time at which a call of `tokens` may start: at once if that is not after `now`."""
        at = now
        if self._reported_requests.account is not None:
            at = max(at, self._reported_requests.account.ready_at(1))
        if self._reported_tokens.account is not None:
            at = max(at, self._reported_tokens.account.ready_at(tokens))
        at = min(at, max(now, self._latest + MAX_WAIT))
        if self._requests is not None:
            at = max(at, self._requests.ready_at(1))
        if self._tokens is not None:
            at = max(at, self._tokens.ready_at(tokens))
        return at

    def reserve(self, tokens: int, now: float) -> int:
        """
        Record that a call starts, ready or not, and return its number.

        Args:
            tokens: The most that it may use: the tokens of its prompt and of its longest reply.
            now: The time, in seconds.
        """
        self._count += 1
        self._reserved += tokens
        self._starts[self._count % STARTS_KEPT] = now, self._reserved
        self._latest = max(self._latest, now)
        if self._requests is not None:
            self._requests.take(1, now)
        if self._tokens is not None:
            self._tokens.take(tokens, now)
        if self._reported_requests.account is not None:
            self._reported_requests.account.take(1, now)
        if self._reported_tokens.account is not None:
            self._reported_tokens.account.take(tokens, now)
        return self._count

    def configure(self, name: RateName, limit: int, now: float) -> None:
        """Change a configured limit, from now on."""
        self.configured[name] = limit
        if name == "requests_per_minute":
            self._requests = _respread(self._requests, limit, now)
        else:
            self._tokens = _respread(self._tokens, limit, now)
            self.counts_tokens = True

    def settle_usage(self, reserved: int, used: int | None, now: float) -> None:
        """
        Refund the tokens that a finished call did not use, or take those that it used in excess.

        This applies to the configured limit. For the reported limit, the next report includes it.

        Args:
            reserved: The tokens that `reserve` was called with.
            used: The tokens that the call used; None if unknown, and then all reserved tokens count as used.
            now: The time, in seconds.
        """
        if self._tokens is None or used is None:
            return
        if used > reserved:
            self._tokens.take(used - reserved, now)
        else:
            self._tokens.refund(reserved - used, reserved, now)

    def update_from_report(self, number: int, report: RateLimitInfo, now: float) -> None:
        """
        Apply the rate-limit headers of a response.

        Args:
            number: The number of the call that they came with, whether it succeeded or was refused. Headers for a call
                earlier than the latest reported one are ignored.
            report: The headers.
            now: The time, in seconds.
        """
        since = self._count - number
        if not 0 <= since < min(self._count, STARTS_KEPT):
            return
        began, reserved = self._starts[number % STARTS_KEPT]
        if report.requests is not None:
            self._reported_requests.update(number, report.requests, since, began, now)
        if report.tokens is not None:
            self._reported_tokens.update(number, report.tokens, self._reserved - reserved, began, now)
            self.counts_tokens = self.counts_tokens or self._reported_tokens.account is not None


class GCRABucket:
    """
    A token bucket that refills continuously, stored as its theoretical arrival time (GCRA).

    More may be taken than it holds; the rest is a debt. An amount above its capacity may be taken when it is full.

    Args:
        capacity: What it holds when it is full.
        interval: Seconds in which one unit is refilled (the emission interval).
        full_at: When it is full.
    """

    __slots__ = ("_capacity", "_surplus", "_theoretical_arrival", "interval")

    def __init__(self, capacity: int, interval: float, full_at: float) -> None:
        self._capacity = capacity
        self.interval = interval
        self._theoretical_arrival = full_at
        self._surplus = 0.0  # refunds above the capacity

    @property
    def capacity(self) -> int:
        """What it holds when it is full."""
        return self._capacity

    @property
    def contents(self) -> tuple[float, float]:
        """When it is full, and its surplus: what `restore` takes."""
        return self._theoretical_arrival, self._surplus

    def restore(self, contents: tuple[float, float]) -> None:
        """Continue from the contents of a bucket of equal capacity and interval."""
        self._theoretical_arrival, self._surplus = contents

    def ready_at(self, amount: int) -> float:
        """Return when `amount` may be taken."""
        return self._theoretical_arrival - max(0.0, self._capacity + self._surplus - amount) * self.interval

    def delay(self, seconds: float, now: float) -> None:
        """Let it be full no earlier than so many seconds from now."""
        self._theoretical_arrival = max(self._theoretical_arrival, now + seconds)

    def seconds_until_full(self, now: float, interval: float) -> float:
        """Return when it is full; sooner if it refills a unit in `interval` seconds that takes less time."""
        return max(0.0, self._theoretical_arrival - now) * min(1.0, interval / self.interval)

    def take(self, amount: float, now: float) -> None:
        """Take `amount`, whether or not the bucket holds it."""
        if self._surplus:
            kept = max(0.0, self._surplus - amount)
            amount, self._surplus = amount - (self._surplus - kept), kept
        self._theoretical_arrival = max(self._theoretical_arrival, now) + amount * self.interval

    def refund(self, amount: float, most: int, now: float) -> None:
        """
        Refund `amount` tokens.

        The bucket may exceed its capacity by at most `most`, since one call can refund more than a second's worth.
        """
        lacking = max(0.0, self._theoretical_arrival - now) / self.interval
        self._theoretical_arrival = now + max(0.0, lacking - amount) * self.interval
        self._surplus = max(self._surplus, min(most, self._surplus + amount - lacking))


class _FixedWindow:
    """
    A limit that is reset as a whole when its window ends.

    After the end, the limit is spread over a minute until a report describes the next window. The end may have been
    reported in whole seconds, and a whole limit's worth of calls started too early would all be refused.

    Args:
        limit: What a window holds.
        left: What is left in this window.
        ends: When it ends.
    """

    __slots__ = ("_ends", "_left", "_limit")

    def __init__(self, limit: int, left: int, ends: float) -> None:
        self._limit = limit
        self._left = left
        self._ends = ends

    def ready_at(self, amount: int) -> float:
        return -inf if self._left >= min(amount, self._limit) else self._ends

    def take(self, amount: int, now: float) -> None:
        if now < self._ends:
            self._left -= amount
        else:
            self._left, self._ends = 0, now + amount * MINUTE / self._limit


class _ReportedLimit:
    """
    One limit, as the service reports it.

    Attributes:
        account: What may still be taken according to the latest report; None before the first.
    """

    __slots__ = ("_is_window", "_number", "_previous", "account")

    def __init__(self) -> None:
        self.account: GCRABucket | _FixedWindow | None = None
        self._number = 0
        self._previous: RateLimitStatus | None = None
        self._is_window = False

    def update(self, number: int, status: RateLimitStatus, since: int, began: float, now: float) -> None:
        """Apply the headers of call `number`, which started at `began`; `since` units were reserved after it."""
        if number < self._number or not _is_plausible(status):
            return
        self._number = number
        self._compare(status)
        if self._is_window:
            self.account = _FixedWindow(status.limit, status.remaining - since, now + status.reset)
            return
        lacking = status.limit - status.remaining
        interval = MINUTE / status.limit
        if lacking:
            interval = max(interval, status.reset / lacking)
        # If the service counted when the call started, the units reserved since are missing too, less those refilled
        # meanwhile. If it counted when it responded, `remaining` includes them. The headers do not say which, so assume
        # the first, which leaves less.
        lacking += max(0, since - int((now - began) / interval))
        self.account = GCRABucket(status.limit, interval, now + lacking * interval)

    def _compare(self, status: RateLimitStatus) -> None:
        """
        Distinguish fixed windows from token buckets.

        As a bucket's `remaining` falls, its time to full grows; if `reset` shrinks instead, it is a window. Differences
        that rounding could explain are ignored.
        """
        previous = self._previous
        if previous is None or status.limit != previous.limit or status.remaining > previous.remaining:
            # A new limit, or a refill: it says nothing, but the next report is compared with this one.
            self._previous = status
        elif status.reset > previous.reset:
            self._previous, self._is_window = status, False
        else:
            # `reset` may be rounded to whole seconds, and if `remaining` is the same number, a fraction of a unit may
            # have been refilled without showing. A smaller difference is no evidence, and the older report is kept, so
            # that differences add up over several reports.
            same = status.remaining == previous.remaining
            rounding = 1 + (previous.reset / max(1, previous.limit - previous.remaining) if same else 0)
            if status.reset < previous.reset - rounding:
                self._previous, self._is_window = status, True


def spread(limit: int, now: float, seconds: float = MINUTE, least: int = 1) -> GCRABucket:
    """
    Return a full bucket from which at most `limit` units can be taken in any 60 seconds, or in any `seconds`.

    Its capacity, plus the refill of less than that time, is less than limit + 1. It holds a second's worth of units,
    and at least `least`.
    """
    capacity = max(least, limit // 60)
    return GCRABucket(capacity, seconds * _CAUTION / (limit - capacity + 1), now)


def _respread(before: GCRABucket | None, limit: int, now: float) -> GCRABucket:
    """
    Return the bucket of a new limit, in place of the one before.

    What is still to be repaid for calls that have started is repaid at the faster of the two rates: a higher limit lets
    calls start at once, and after a lower one, no call waits for those that the limit before it allowed.
    """
    bucket = spread(limit, now)
    if before is not None:
        bucket.delay(before.seconds_until_full(now, bucket.interval), now)
    return bucket


def _is_plausible(status: RateLimitStatus) -> bool:
    """Return whether the numbers can be true. Comparisons with a NaN are False."""
    try:
        whole = 1 <= status.limit <= _MAX_LIMIT and 0 <= status.remaining <= status.limit
        fits = whole and 0 <= status.reset <= _MAX_RESET
    except TypeError:  # a user's own backend may report anything
        return False
    return fits
