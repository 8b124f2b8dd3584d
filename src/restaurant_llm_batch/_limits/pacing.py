"""
Pace: how fast calls may begin, where a service counts them, and their tokens, by the minute.

`RatePacer` is told when calls begin and end and what services say is left of their limits, and says from when on the
next one may begin. Pure: it knows no clock, no thread and no queue.
"""

from __future__ import annotations

from math import inf

from .._llm_response import RateLimitInfo, RateLimitStatus

MINUTE = 60.0
MAX_WAIT = MINUTE
"""Seconds after which one call is let through to look again, whatever a service said."""
STARTS_KEPT = 4096
"""Calls of which it is known when they began; what is said to older ones is ignored."""
_CAUTION = 1 + 1e-6  # many times what rounding adds up to in a minute
_MOST = 10**12
_MAX_RESET = 32 * 86400.0


class RatePacer:
    """
    How fast calls may begin: so many, and so many tokens, per minute.

    *Given* numbers hold from the first call on. Calls are spread over the minute: no more than a second's worth
    of them, or one, begin at once. In no 60 seconds do more begin than given.

    Of tokens, a second's worth is lent at once too. A call that needs more begins when all of that is there, and
    those after it wait until its tokens have come in; so over time no more is taken than given. In 60 seconds it
    may be more by what the heaviest call is above a second's worth, by what was given back meanwhile, and by what
    one call gave back before.

    *Learned* numbers are those of the latest report, less what began after the call that it was said to, since the
    service may have counted before that. What was taken comes back as fast as the report says, but never faster
    than the limit in a minute: some services speak of a bucket that is smaller than their limit. Where what remains
    falls while the reset draws nearer, it is a window, of which nothing comes back before it ends. Reports that
    contradict themselves are ignored.

    Where both are there, both hold. A learned wait ends 60 seconds after the latest call began: one call is
    let through then, so that a limit per day, or a service that counts wrongly, does not stall a run for ever.

    Args:
        requests: Calls per minute, at least 1; None for no number.
        tokens: Tokens per minute, likewise.
        now: The time, in seconds, on the clock of every later `now`.

    Attributes:
        counts_tokens: Whether it matters how many tokens a call takes: they are given, or were learned of.
    """

    __slots__ = (
        "_begun",
        "_count",
        "_latest",
        "_reported_requests",
        "_reported_tokens",
        "_requests",
        "_taken",
        "_tokens",
        "counts_tokens",
    )

    def __init__(self, requests: int | None, tokens: int | None, now: float) -> None:
        self._requests = None if requests is None else _spread(requests, now)
        self._tokens = None if tokens is None else _spread(tokens, now)
        self._reported_requests, self._reported_tokens = _ReportedLimit(), _ReportedLimit()
        self.counts_tokens = tokens is not None
        self._count = 0
        self._taken = 0
        # By number: when that call began, and all tokens taken by then, its own included.
        self._begun: list[tuple[float, int]] = [(now, 0)] * STARTS_KEPT
        self._latest = now

    def ready_at(self, tokens: int, now: float) -> float:
        """Return from when on a call of so many tokens may begin: at once, if that is not after `now`."""
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
        Note that a call begins, ready or not; return its number.

        Args:
            tokens: The most that it may take: those of its prompt, and of its longest answer.
            now: The time.
        """
        self._count += 1
        self._taken += tokens
        self._begun[self._count % STARTS_KEPT] = now, self._taken
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

    def settle_usage(self, reserved: int, used: int | None, now: float) -> None:
        """
        Give back what a call that ended did not use, or take what it used besides.

        Only of the given tokens: what a service gives back, its next report says.

        Args:
            reserved: What `take` was told.
            used: Tokens that it took; None when that is not known, and all of them count as used.
            now: The time.
        """
        if self._tokens is None or used is None:
            return
        if used > reserved:
            self._tokens.take(used - reserved, now)
        else:
            self._tokens.refund(reserved - used, reserved, now)

    def update_from_report(self, number: int, report: RateLimitInfo, now: float) -> None:
        """
        Learn from what a service says is left.

        Args:
            number: Of the call that it was said to, answered or refused. What was said to an earlier call
                than the latest that is known is ignored.
            report: What it said.
            now: The time.
        """
        since = self._count - number
        if not 0 <= since < min(self._count, STARTS_KEPT):
            return
        began, taken = self._begun[number % STARTS_KEPT]
        if report.requests is not None:
            self._reported_requests.update(number, report.requests, since, began, now)
        if report.tokens is not None:
            self._reported_tokens.update(number, report.tokens, self._taken - taken, began, now)
            self.counts_tokens = self.counts_tokens or self._reported_tokens.account is not None


class _GCRABucket:
    """
    What is taken comes back one by one; more may be taken than there is, which is a debt. What is more than it holds
    is let through when it is full.

    It is kept as the time at which it is full again. So whoever waits until `ready_at`, to the last bit of the
    number, finds it ready, and nothing is to be done as time goes by.

    Args:
        capacity: What it holds.
        seconds: Seconds in which one comes back.
        full_at: When it is full.
    """

    __slots__ = ("_capacity", "_more", "_seconds", "_theoretical_arrival")

    def __init__(self, capacity: int, seconds: float, full_at: float) -> None:
        self._capacity = capacity
        self._seconds = seconds
        self._theoretical_arrival = full_at
        self._more = 0.0  # given back when it was full

    def ready_at(self, amount: int) -> float:
        return self._theoretical_arrival - max(0.0, self._capacity + self._more - amount) * self._seconds

    def take(self, amount: float, now: float) -> None:
        if self._more:
            kept = max(0.0, self._more - amount)
            amount, self._more = amount - (self._more - kept), kept
        self._theoretical_arrival = max(self._theoretical_arrival, now) + amount * self._seconds

    def refund(self, amount: float, most: int, now: float) -> None:
        """Give back so much, of which `most` may be more than it holds: calls give back more than that at once."""
        lacking = max(0.0, self._theoretical_arrival - now) / self._seconds
        self._theoretical_arrival = now + max(0.0, lacking - amount) * self._seconds
        self._more = max(self._more, min(most, self._more + amount - lacking))


class _FixedWindow:
    """
    Nothing comes back until the window ends.

    Then a minute's worth is spread over a minute, until a report tells what the next window holds: when this one
    ends was perhaps told in whole seconds, and a whole limit let through too early would all be refused.

    Args:
        limit: What a window holds.
        left: What is left in this one.
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
    What is known of one limit from reports.

    Attributes:
        account: What may be taken by what was said; None before anything was.
    """

    __slots__ = ("_before", "_number", "_window", "account")

    def __init__(self) -> None:
        self.account: _GCRABucket | _FixedWindow | None = None
        self._number = 0
        self._before: RateLimitStatus | None = None
        self._window = False

    def update(self, number: int, said: RateLimitStatus, since: int, began: float, now: float) -> None:
        """Go by what was said to a call that began at a time, and since whose beginning so much was taken."""
        if number < self._number or not _is_plausible(said):
            return
        self._number = number
        self._compare(said)
        if self._window:
            self.account = _FixedWindow(said.limit, said.remaining - since, now + said.reset)
            return
        lacking = said.limit - said.remaining
        seconds = MINUTE / said.limit
        if lacking:
            seconds = max(seconds, said.reset / lacking)
        # Counted when the call began, what was taken since is lacking too, but some of it has come back. Counted
        # when it was answered, all of that is in the number. We are not told which, so go by the lesser of the two.
        lacking += max(0, since - int((now - began) / seconds))
        self.account = _GCRABucket(said.limit, seconds, now + lacking * seconds)

    def _compare(self, said: RateLimitStatus) -> None:
        """
        Tell windows from buckets.

        A bucket that holds less takes longer to fill. That something holds less, and is full sooner all the same,
        makes it a window, unless seconds were rounded, or what remains, where that is said to be the same.
        """
        before = self._before
        if before is None or said.limit != before.limit or said.remaining > before.remaining:
            self._before = said
        elif said.reset > before.reset:
            self._before, self._window = said, False
        else:
            same = said.remaining == before.remaining
            rounding = 1 + (before.reset / max(1, before.limit - before.remaining) if same else 0)
            if said.reset < before.reset - rounding:
                self._before, self._window = said, True


def _spread(limit: int, now: float) -> _GCRABucket:
    """
    Return a full bucket out of which no 60 seconds take more than a limit.

    They take what it holds, and what comes back in less than 60 seconds: together less than the limit and 1.
    """
    holds = max(1, limit // 60)
    return _GCRABucket(holds, MINUTE * _CAUTION / (limit - holds + 1), now)


def _is_plausible(said: RateLimitStatus) -> bool:
    """Tell whether numbers can be true; no comparison with a NaN is."""
    try:
        whole = 1 <= said.limit <= _MOST and 0 <= said.remaining <= said.limit
        fits = whole and 0 <= said.reset <= _MAX_RESET
    except TypeError:  # what a backend of the user's says need not be a number
        return False
    return fits
