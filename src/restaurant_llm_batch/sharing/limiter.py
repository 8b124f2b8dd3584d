"""Shared limiter: a concurrency limiter whose slots are lent by a broker, which lends them to other processes too."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
import time
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from .. import _fork
from .._limits.aimd import AdaptiveLimit
from .._limits.concurrency import ConcurrencyLimiter, ConcurrencyState, notify_admitted
from .._text import message_text
from .._validation import check_whole
from ..errors import ConfigurationError
from ._borrower import BorrowedState
from ._broker import Broker
from ._messages import STARTS_SECONDS, Answer, Ask, BrokerUnavailable, Terms
from ._renewal import Renewal, RenewalThread, Timers, VirtualRenewal
from ._starts import SharedRateLimiter

log: logging.Logger = logging.getLogger("restaurant_llm_batch")

_MAX_NAME = 200
_ROUNDING = 1e-6
"""Seconds by which a message may be early: on virtual time, waiting for less might let no time pass."""


def loan_clock() -> Callable[[], float]:
    """Return the clock of loans: one that goes on while the computer sleeps, if there is one."""
    boot_time = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic if boot_time is None else partial(time.clock_gettime, boot_time)


class SharedLimiter(ConcurrencyLimiter):
    """
    One limit on calls in flight for all processes that name it, at one broker.

        gpu = SharedLimiter("gpu", 8, broker=FileBroker("/run/lock/limits.db"))
        BatchRunner(llm=llm, limits=Limits(llm=gpu))

    The broker lends each process a share for about two seconds, in proportion to what is in flight and waits there; the
    shares together never exceed the limit. Each process renews its share in a thread of its own, a few times a second,
    and admits calls without asking. Slots that a process does not use go to others within a second. Those of a process
    that was killed come back when its loan ends, and a process that was paused for longer starts nothing until it has
    asked again.

    While the broker cannot be reached, a process goes on with its share until the loan ends. Then it starts nothing,
    logs a warning, and asks again until the broker answers.

    Each object is one member of the limit. Give one object to several runners to have them share a loan; objects with
    equal names share the limit, in one process or in several. A forked child is a member of its own.

    Args:
        name: The limit's name, at its broker.
        limit: Most calls in flight in all processes, at least 1; or an `AdaptiveLimit`, which learns the number from
            what all processes see. All members declare the same.
        broker: Where the limit is kept: a `FileBroker`, `RedisBroker` or `RayBroker`.
        requests_per_minute: LLM calls that start in any 60 seconds in all processes, in place of the one in `Limits`.
        tokens_per_minute: Their tokens, likewise.
        without_broker: Calls in flight that this process may have while the broker cannot be reached and its loan has
            ended. With several processes this may exceed the limit, so it is 0 by default.

    Raises:
        ConfigurationError: If an argument is invalid.
    """

    rate: SharedRateLimiter | None
    _member = ""

    def __init__(
        self,
        name: str,
        limit: int | AdaptiveLimit,
        *,
        broker: Broker,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        without_broker: int = 0,
    ) -> None:
        _check(name, limit, broker)
        for field, value in (
            ("requests_per_minute", requests_per_minute),
            ("tokens_per_minute", tokens_per_minute),
        ):
            if value is not None:
                check_whole(f"SharedLimiter {field}", value, 1, f"{field}=600")
        check_whole("SharedLimiter without_broker", without_broker, 0, "without_broker=1")
        most = limit.max if isinstance(limit, AdaptiveLimit) else limit
        if without_broker > most:
            raise ConfigurationError(
                f"without_broker={without_broker} of the shared limit {name!r} is more than its limit of {most}; "
                "for example without_broker=1"
            )
        self._begin(
            name, Terms(limit, requests_per_minute, tokens_per_minute), broker, without_broker, time=None
        )

    def _begin(
        self, name: str, terms: Terms, broker: Broker, without_broker: int, time: Timers | None
    ) -> None:
        self._name = name
        self._terms = terms
        self._broker = broker
        self._without_broker = without_broker
        self._time = time
        self._clock = loan_clock() if time is None else time.now
        self._run_clock = _monotonic if time is None else time.now
        self._lost = False  # whether a warning says that the broker does not answer
        self._renewals: dict[int, Renewal] = {}
        rated = (terms.requests_per_minute, terms.tokens_per_minute) != (None, None)
        self.rate = SharedRateLimiter(terms, self._on_starts_wait) if rated else None
        super().__init__(terms.limit)
        if time is None:
            weakref.finalize(self, _leave_at_exit, weakref.WeakMethod(self.close), _fork.count)

    def _initial_state(self, parents: ConcurrencyState | None) -> ConcurrencyState:
        label = "" if self._time is not None else f"{socket.gethostname()}:{os.getpid()}"
        return BorrowedState(
            self._terms,
            self._member or secrets.token_hex(8),
            label,
            self._broker.interval,
            self._without_broker,
            self._clock,
            self._run_clock,
            self._nudge,
            self._starts_wait,
        )

    @property
    def name(self) -> str:
        """The limit's name, at its broker."""
        return self._name

    @property
    def broker(self) -> Broker:
        """Where the limit is kept."""
        return self._broker

    @property
    def configured(self) -> int | AdaptiveLimit:
        """The limit as it is declared."""
        return self._terms.limit

    @property
    def state(self) -> str:
        """A sentence on the loan: how many slots of how many are lent for how long, or why none are."""
        lock, state = self._borrowed()
        with lock:
            return state.describe(self._clock())

    @property
    def is_adaptive(self) -> bool:
        """Whether the limit of all members is learned."""
        return isinstance(self._terms.limit, AdaptiveLimit)

    def open(self) -> None:
        """
        Declare the limit at the broker. A runner does so when it is made; it borrows nothing.

        Raises:
            ConfigurationError: If the broker cannot be used or does not answer, unless `without_broker` says that the
                runner may do without; or if other processes declare another limit.
        """
        try:
            answer = self._exchange_now()
        except BrokerUnavailable as error:
            if not self._without_broker:
                raise ConfigurationError(
                    f"the broker {self._broker.place} of the shared limit {self._name!r} does not answer: {error}; "
                    "start it, or pass without_broker=1 to go on without it"
                ) from error
        else:
            if answer.refused:
                raise ConfigurationError(f"the shared limit {self._name!r} is refused: {answer.refused}")

    def close(self) -> None:
        """
        Give the slots back that are not in use. Calls in flight keep theirs; a later call borrows again.

        A runner closes its limiters with its clients.
        """
        lock, state = self._borrowed()
        with lock:
            if state.waiting or not state.lent:
                return
        try:
            self._exchange_now(leaves=True)
        except Exception as error:  # the loan ends by itself
            log.debug("slots of the shared limit %r go back when their loan ends: %s", self._name, error)

    def unused(self) -> ConcurrencyLimiter:
        """Return a limiter of its own with the whole limit, through which no call has passed."""
        return ConcurrencyLimiter(self._terms.limit)

    def on_virtual_time(self, broker: Broker, time: Timers, member: str) -> SharedLimiter:
        """
        Return a limiter of the same limit at a broker on virtual time, through which no call has passed.

        Args:
            broker: The broker.
            time: The virtual time.
            member: The member's name, so that equal runs have equal events.
        """
        twin = object.__new__(SharedLimiter)
        twin._member = member
        twin._begin(self._name, self._terms, broker, self._without_broker, time)
        return twin

    # Messages

    def _borrowed(self) -> tuple[threading.RLock, BorrowedState]:
        lock, state = self._state_for_process()
        return lock, cast("BorrowedState", state)

    def _starts_wait(self) -> int:
        return 0 if self.rate is None else self.rate.waiting

    def _on_starts_wait(self) -> None:
        lock, state = self._borrowed()
        with lock:
            state.ask_soon()

    def _nudge(self) -> None:
        renewal = self._renewals.get(_fork.count)
        if renewal is None:
            lock, _ = self._borrowed()
            renewal = (
                RenewalThread(self._exchange, lock)
                if self._time is None
                else VirtualRenewal(self._exchange, self._time)
            )
            self._renewals = {_fork.count: renewal}
        renewal.nudge()

    def _exchange(self) -> float | None:
        """Send a message if one is due, and return the seconds until the next one; None for no next one."""
        lock, state = self._borrowed()
        with lock:
            now, due = self._clock(), state.due
        if due is None:
            return None
        if due - now > _ROUNDING:
            return due - now
        try:
            self._exchange_now()
        except Exception as error:  # whatever a client of a service raises, the next message may be answered
            self._warn(state, message_text(str(error)))
        with lock:
            return None if state.due is None else max(0.0, state.due - self._clock())

    def _exchange_now(self, *, leaves: bool = False) -> Answer:
        lock, state = self._borrowed()
        with lock:
            ask = state.prepare(self._clock(), leaves=leaves)
        if self.rate is not None:
            ask = ask._replace(starts=self.rate.prepare())
        try:
            answer = self._broker.perform(self._name, ask)
        except Exception as error:
            if self.rate is not None and ask.starts is not None:
                self.rate.unanswered(ask.starts)
            with lock:
                admitted = state.unanswered(ask, message_text(str(error)), self._clock())
                stopped = state.history[-1].reason == "no_broker" and not self._lost
            notify_admitted(admitted, lock, state)
            if stopped:
                self._notify_set()  # not only when the next call ends: there may be none
            raise
        with lock:
            admitted = state.answered(ask, answer, self._clock())
        notify_admitted(admitted, lock, state)
        self._take_starts(ask, answer, state)
        self._answered(answer)
        return answer

    def _take_starts(self, ask: Ask, answer: Answer, state: BorrowedState) -> None:
        if self.rate is None or ask.starts is None:
            return
        now = self._run_clock()
        wait = 0.0 if state.due is None else max(0.0, state.due - self._clock())
        self.rate.lend(ask.starts, answer.starts, now + STARTS_SECONDS, now + wait, now)

    def _warn(self, state: BorrowedState, error: str) -> None:
        """Say once that the broker is gone, as soon as that keeps calls from starting."""
        if not self._lost and state.limit <= self._without_broker:
            self._lost = True
            what = f"goes on with {self._without_broker}" if self._without_broker else "starts nothing more"
            log.warning(
                "the broker %s of the shared limit %r does not answer, so this process %s until it does: %s",
                self._broker.place,
                self._name,
                what,
                error,
            )

    def _answered(self, answer: Answer) -> None:
        if answer.refused and not self._lost:
            self._lost = True
            log.warning(
                "the shared limit %r is refused, so this process starts nothing: %s",
                self._name,
                answer.refused,
            )
        elif self._lost and not answer.refused:
            self._lost = False
            log.warning("the broker %s of the shared limit %r answers again", self._broker.place, self._name)
            self._notify_set()

    def __reduce__(self) -> tuple[Any, ...]:
        terms = self._terms
        options = {
            "broker": self._broker,
            "requests_per_minute": terms.requests_per_minute,
            "tokens_per_minute": terms.tokens_per_minute,
            "without_broker": self._without_broker,
        }
        return _made_again, (self._name, terms.limit, options)

    def __repr__(self) -> str:
        counts = self.statistics()
        return (
            f"<SharedLimiter {self._name!r} at {self._broker.place}: {counts.in_flight}/{counts.limit} in flight, "
            f"{counts.waiting} waiting; {self.state}>"
        )


def _made_again(name: str, limit: int | AdaptiveLimit, options: dict[str, Any]) -> SharedLimiter:
    """Return another member of a limit: what a pickled one comes to, in another process."""
    return SharedLimiter(name, limit, **options)


def _monotonic() -> float:
    return time.monotonic()


def _leave_at_exit(close: weakref.WeakMethod[Callable[[], None]], forks: int) -> None:
    method = close()
    if method is not None and forks == _fork.count:
        method()


def _check(name: object, limit: object, broker: object) -> None:
    if not isinstance(name, str) or not 0 < len(name) <= _MAX_NAME or not name.isprintable():
        raise ConfigurationError(
            f"a SharedLimiter needs a name of 1 to {_MAX_NAME} printable characters, got {name!r}; "
            'for example SharedLimiter("gpu", 8, broker=...)'
        )
    if not isinstance(limit, AdaptiveLimit) and (
        not isinstance(limit, int) or isinstance(limit, bool) or limit < 1
    ):
        raise ConfigurationError(
            f"a SharedLimiter needs a limit of at least 1, or an AdaptiveLimit, got {limit!r}; "
            'for example SharedLimiter("gpu", 8, broker=...)'
        )
    if isinstance(limit, AdaptiveLimit) and limit.latency_factor is not None:
        raise ConfigurationError(
            "a SharedLimiter learns its limit from refusals alone, so its AdaptiveLimit takes no latency_factor; "
            'for example SharedLimiter("gpu", AdaptiveLimit(), broker=...)'
        )
    if not isinstance(broker, Broker):
        raise ConfigurationError(
            f"a SharedLimiter needs a broker, got {broker!r}; for example broker=FileBroker('limits.db'), "
            "RedisBroker('redis://localhost') or RayBroker()"
        )
