"""
Starts under limits per minute that processes share: token buckets at the broker, and what a member was lent of them.

The broker keeps a bucket for calls and one for tokens, as `RatePacer` does in one process. A member asks with the
tokens of each call that waits, and gets the right to start as many of them as the buckets hold, for `STARTS_SECONDS`.
Buckets are spread over some seconds more than a minute, so that starts which are used late keep to the limit too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil, inf
from typing import Any, cast

from .._limits.pacing import MINUTE, GCRABucket, RateName, RatePacer, spread
from .._limits.rate import RateLimiter, RateQueue
from .._limits.wait_queue import Ticket
from ..errors import ConfigurationError
from ._messages import STARTS_SECONDS, StartsAsk, Terms

MOST_WANTED = 200
"""Most calls of which a message says the tokens."""
PATIENCE = 0.3
"""Seconds since it was lent a start after which the member that waits longest goes before all others."""
SILENCE = 0.8
"""Seconds without a message after which others wait no more for a member: it may be gone."""
_SPREAD = MINUTE + 2 * STARTS_SECONDS


class StartsLender:
    """
    The buckets of one shared limit.

    Args:
        terms: The limits per minute.
        now: The time, in seconds.
    """

    def __init__(self, terms: Terms, now: float) -> None:
        # Members ask every quarter of a second, and what a bucket cannot hold until then is lost.
        requests, tokens = terms.requests_per_minute, terms.tokens_per_minute
        self._requests = None if requests is None else _bucket(requests, 2 if requests >= 30 else 1, now)
        self._tokens = None if tokens is None else _bucket(tokens, max(1, tokens // 30), now)
        self._waiting: dict[str, tuple[float, float, int]] = {}  # since when, when last asked, how many calls

    def give_back(self, ask: StartsAsk, now: float) -> None:
        """Take back what a member was lent and has not used."""
        if self._requests is not None and ask.unused > 0:
            self._requests.refund(
                ask.unused, 0, now
            )  # never above its capacity, or a minute could have more starts
        if self._tokens is not None:
            if ask.unused_tokens > 0:
                self._tokens.refund(ask.unused_tokens, self._tokens.capacity, now)
            elif ask.unused_tokens < 0:
                self._tokens.take(-ask.unused_tokens, now)

    def lend(self, member: str, ask: StartsAsk, members: set[str], now: float) -> int:
        """Return how many of the calls that a member wants to start it may start."""
        self._waiting = {
            name: waits
            for name, waits in self._waiting.items()
            if name in members and now - waits[1] < SILENCE
        }
        since = self._waiting.pop(member, (now,))[0]
        others, total = (
            list(self._waiting.values()),
            ask.waiting + sum(each[2] for each in self._waiting.values()),
        )
        started = 0
        # Nothing is lent ahead while others wait, and who waits longest goes first.
        if not others or (ask.waiting and (since <= min(others)[0] or now - min(others)[0] <= PATIENCE)):
            started = self._take(ask, ask.waiting / total if total else 1.0, now)
        if ask.waiting:
            self._waiting[member] = now if started else since, now, ask.waiting
        return started

    def _take(self, ask: StartsAsk, fraction: float, now: float) -> int:
        requests, tokens = self._requests, self._tokens
        most = inf if requests is None else max(1, ceil(requests.capacity * fraction))
        most_tokens = inf if tokens is None else tokens.capacity * fraction
        started = taken = 0
        for amount in ask.wanted:
            if started >= most or (started and taken + amount > most_tokens):
                break
            ready = requests is None or requests.ready_at(1) <= now
            if not ready or (tokens is not None and tokens.ready_at(amount) > now):
                break
            if requests is not None:
                requests.take(1, now)
            if tokens is not None:
                tokens.take(amount, now)
            started, taken = started + 1, taken + amount
        return started

    def state(self) -> list[Any]:
        """Return where the buckets stand, in values that JSON has."""
        return [None if bucket is None else bucket.contents for bucket in (self._requests, self._tokens)] + [
            self._waiting
        ]

    def restore(self, state: list[Any]) -> None:
        """Continue from a state."""
        *contents, waiting = state
        for bucket, content in zip((self._requests, self._tokens), contents, strict=True):
            if bucket is not None and content is not None:
                bucket.restore((content[0], content[1]))
        self._waiting = {name: (since, asked, calls) for name, (since, asked, calls) in waiting.items()}


def _bucket(limit: int, least: int, now: float) -> GCRABucket:
    return spread(limit, now, _SPREAD, least)


class LentPacer(RatePacer):
    """
    When calls may start: when a start was lent, and what the service reports allows it.

    Args:
        terms: The limits per minute.
    """

    __slots__ = (
        "_expected",
        "_lapse_at",
        "_lent",
        "_lent_tokens",
        "_limits_tokens",
        "_unused_tokens",
        "ask_at",
    )

    def __init__(self, terms: Terms) -> None:
        super().__init__(None, None, 0.0)
        self.configured = {
            "requests_per_minute": terms.requests_per_minute,
            "tokens_per_minute": terms.tokens_per_minute,
        }
        self.counts_tokens = self._limits_tokens = terms.tokens_per_minute is not None
        self.ask_at = 0.0
        self._lent = 0
        self._lent_tokens = 0
        self._lapse_at = 0.0
        self._unused_tokens = 0
        self._expected: list[int] = []  # tokens of the calls that started since the last message

    def ready_at(self, tokens: int, now: float) -> float:
        """Return when a call may start: at the next message, if no start was lent."""
        at = super().ready_at(tokens, now)
        enough = self._lent > 0 and (not self._limits_tokens or self._lent_tokens >= tokens)
        if enough and now < self._lapse_at:
            return at
        return max(at, self.ask_at, now + 0.05)

    def reserve(self, tokens: int, now: float) -> int:
        """Use a start, and return the number of the call."""
        if self._lent:
            self._lent -= 1
            self._lent_tokens -= tokens
            if len(self._expected) < MOST_WANTED:
                self._expected.append(tokens)
        return super().reserve(tokens, now)

    def settle_usage(self, reserved: int, used: int | None, now: float) -> None:
        """Note the tokens that a finished call did not use, or used in excess."""
        super().settle_usage(reserved, used, now)
        if used is not None and self._limits_tokens:
            self._unused_tokens += reserved - used

    def prepare(self, waiting: Sequence[int]) -> StartsAsk:
        """
        Return what to say to the broker; starts that were lent and are left go back.

        Args:
            waiting: The tokens of the calls that wait, in order.
        """
        wanted = (*waiting, *self._expected)[:MOST_WANTED]
        unused_tokens = self._unused_tokens + (max(0, self._lent_tokens) if self._limits_tokens else 0)
        ask = StartsAsk(wanted, len(waiting), self._lent, unused_tokens)
        self._lent = self._lent_tokens = self._unused_tokens = 0
        self._expected = []
        return ask

    def lend(self, ask: StartsAsk, starts: int, lapse_at: float) -> None:
        """Take the starts that the broker lends, which may be used until a moment on the clock of the runs."""
        self._lent = starts
        self._lent_tokens = sum(ask.wanted[:starts])
        self._lapse_at = lapse_at

    def restore_unused(self, ask: StartsAsk) -> None:
        """Say again, next time, what an ask has said that did not reach the broker. Starts it gave back are lost."""
        self._unused_tokens += min(0, ask.unused_tokens)


class SharedRateLimiter(RateLimiter):
    """
    The limits per minute of a `SharedLimiter`, in one process.

    Args:
        terms: The limits.
        on_wait: Called when a call begins to wait.
    """

    def __init__(self, terms: Terms, on_wait: Callable[[], object]) -> None:
        self._terms = terms
        self._on_wait = on_wait
        super().__init__(terms.requests_per_minute, terms.tokens_per_minute)

    def enqueue(self, ticket: Ticket, now: float) -> bool:
        """Queue a new ticket and return whether it is admitted at once; if not, `on_admitted` is called later."""
        admitted = super().enqueue(ticket, now)
        if not admitted:
            self._on_wait()
        return admitted

    def _initial_state(self, parents: RateQueue | None) -> RateQueue:
        return RateQueue(LentPacer(self._terms), 0.0)

    def set_limit(self, name: RateName, limit: int) -> None:
        """
        Refuse to set a limit.

        Raises:
            ConfigurationError: Always.
        """
        raise ConfigurationError(
            f"{name} cannot be changed: all members of a SharedLimiter declare it; "
            "end the processes that share it, and start them with another number"
        )

    def prepare(self) -> StartsAsk:
        """Return what to say to the broker."""
        lock, state = self._state_for_process()
        with lock:
            return self._pacer(state).prepare([ticket.weight for ticket in state.in_order(MOST_WANTED)])

    def lend(self, ask: StartsAsk, starts: int, lapse_at: float, ask_at: float, now: float) -> None:
        """Take what the broker lends, and admit calls."""
        lock, state = self._state_for_process()
        with lock:
            pacer = self._pacer(state)
            pacer.lend(ask, starts, lapse_at)
            pacer.ask_at = ask_at
        if starts:
            self.admit_ready(now)

    def unanswered(self, ask: StartsAsk) -> None:
        """Note that the broker has not answered."""
        lock, state = self._state_for_process()
        with lock:
            self._pacer(state).restore_unused(ask)

    @staticmethod
    def _pacer(state: RateQueue) -> LentPacer:
        return cast("LentPacer", state.pacer)
