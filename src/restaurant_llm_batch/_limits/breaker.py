"""
Circuit breaker: leaves a failing endpoint out, and tries it again with one call at a time.

    state      meaning                              next, and by what
    CLOSED     calls go to the endpoint             OPEN: too many errors in a row, or one that each call would meet
    OPEN       it is left out                       DUE: its wait is over (`is_due`)
    DUE        the next call is a probe             PROBING: a call has started (`start`)
    PROBING    one call is at the endpoint          CLOSED: it was answered
                                                    OPEN: it failed; the wait is twice as long
                                                    DUE: it was cancelled, which says nothing

Each time the breaker opens, a new *epoch* begins. Errors of calls of an earlier epoch are news of the same failure and
are ignored. An answer closes the breaker whatever its epoch, unless the endpoint was left out for good reason: a
rejected key, for example, is not disproved by an answer to a call that started before.

The breaker uses no clock and no lock. The pattern is M. Nygard's ("Release It!", 2007; see
https://martinfowler.com/bliki/CircuitBreaker.html).
"""

from __future__ import annotations

from dataclasses import dataclass

from .._validation import check_positive, check_whole, is_number
from ..errors import ConfigurationError

CLOSED, OPEN, DUE, PROBING = range(4)
"""Plain integers: the state is read for every call."""

REFUSED_ROUNDS = 2
"""
Rounds of refusals without an answer that open the breaker; a round is as many calls as the endpoint's limit.

A service that bears fewer calls than are in flight refuses some and answers others. One that answers none in two rounds
refuses whatever is in flight.
"""


FATAL_WAIT = 60.0
"""Seconds at least until an endpoint is tried again that rejects every call: somebody has to mend it."""


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """
    When an endpoint is left out, and for how long.

    Attributes:
        errors_in_a_row: Errors without an answer in between after which it is left out.
        wait_initial: Seconds for which it is left out at first.
        wait_max: Most seconds; the wait doubles with each probe that fails.
        pool_timeout: Seconds for which calls wait while every endpoint is left out.

    Raises:
        ConfigurationError: `errors_in_a_row` is not a whole number of at least 1, or unless
            0 < wait_initial <= wait_max, and 0 <= pool_timeout.
    """

    errors_in_a_row: int = 5
    wait_initial: float = 1.0
    wait_max: float = 5.0
    pool_timeout: float = 30.0

    def __post_init__(self) -> None:
        check_whole("errors_in_a_row", self.errors_in_a_row, 1, "errors_in_a_row=5")
        check_positive("wait_initial", self.wait_initial, "wait_initial=1.0", unit="seconds")
        check_positive("wait_max", self.wait_max, "wait_max=5.0", unit="seconds")
        if not is_number(self.pool_timeout) or self.pool_timeout < 0:
            raise ConfigurationError(
                f"pool_timeout must be a number of seconds of at least 0, got {self.pool_timeout!r}; "
                "for example pool_timeout=30.0"
            )
        if self.wait_max < self.wait_initial:
            raise ConfigurationError(
                f"wait_max must be at least wait_initial, got wait_initial={self.wait_initial!r}, "
                f"wait_max={self.wait_max!r}; for example wait_initial=1.0, wait_max=5.0"
            )


class CircuitBreaker:
    """
    The state machine of one endpoint.

    Attributes:
        state: `CLOSED`, `OPEN`, `DUE` or `PROBING`.
        epoch: How often it has opened.
        probe_at: When its wait is over, in seconds on the clock of the calls.
        is_fatal: Whether it opened because each further call would fail too, for example for its API key.
        times_out: How often the endpoint was left out; probes that failed do not count.
        error: The error that opened it last; None if it never did.
    """

    __slots__ = (
        "_errors",
        "_policy",
        "_probe",
        "_refusals",
        "_wait",
        "epoch",
        "error",
        "is_fatal",
        "probe_at",
        "state",
        "times_out",
    )

    def __init__(self, policy: BreakerPolicy) -> None:
        self.state: int = CLOSED
        self.epoch: int = 0
        self.probe_at: float = 0.0
        self.is_fatal: bool = False
        self.times_out: int = 0
        self.error: BaseException | None = None
        self._policy = policy
        self._wait = policy.wait_initial
        self._errors = 0
        self._refusals = 0
        self._probe: object = None

    def is_due(self, now: float) -> bool:
        """Return whether the next call may go to the endpoint as a probe."""
        if self.state == OPEN and now >= self.probe_at:
            self.state = DUE
        return self.state == DUE

    def start(self, call: object) -> bool:
        """Record that a call goes to the endpoint though the breaker is not closed; return whether it is the probe."""
        is_probe = self.state == DUE
        if is_probe:
            self.state, self._probe = PROBING, call
        return is_probe

    def record_answer(self, epoch: int) -> bool:
        """Record an answer to a call of an epoch; return whether the breaker has closed by it."""
        self._errors = self._refusals = 0
        if self.state == CLOSED or (self.is_fatal and epoch != self.epoch):
            return False
        self.state, self.is_fatal, self._probe = CLOSED, False, None
        self._wait = self._policy.wait_initial
        return True

    def record_error(
        self, call: object, epoch: int, error: BaseException, now: float, *, fatal: bool
    ) -> bool:
        """Record an error of the endpoint; return whether it is left out by that, or for another reason than before."""
        if epoch != self.epoch:
            return False
        self._errors += 1
        if not fatal and self.state == CLOSED and self._errors < self._policy.errors_in_a_row:
            return False
        return self._open(call, error, now, self._wait, fatal=fatal)

    def record_refusal(
        self, call: object, epoch: int, error: BaseException, now: float, *, limit: int, retry_after: float
    ) -> bool:
        """
        Record a refusal; return whether the breaker has opened by it.

        Args:
            call: The call.
            epoch: The epoch in which it started.
            error: The refusal.
            now: The time, in seconds.
            limit: The endpoint's limit on calls in flight.
            retry_after: Seconds for which the service wants to be left alone; 0.0 if it does not say.
        """
        if epoch != self.epoch:
            return False
        self._refusals += 1
        most = max(self._policy.errors_in_a_row, REFUSED_ROUNDS * limit)
        if self.state == CLOSED and self._refusals < most:
            return False
        wait = min(self._policy.wait_max, max(self._wait, retry_after))
        return self._open(call, error, now, wait, fatal=False)

    def record_nothing(self, call: object) -> bool:
        """Record the end of a call that says nothing of the endpoint; return whether another probe is due."""
        if call is not self._probe:
            return False
        self.state, self._probe = DUE, None
        return True

    def _open(self, call: object, error: BaseException, now: float, wait: float, *, fatal: bool) -> bool:
        if self.state != CLOSED and call is not self._probe and (self.is_fatal or not fatal):
            return False  # it is left out already
        is_new = self.state == CLOSED
        is_news = is_new or (fatal and not self.is_fatal)
        self.times_out += is_new
        self.state, self._probe, self.error = OPEN, None, error
        self.is_fatal = fatal
        self.epoch += 1
        self._errors = self._refusals = 0
        self.probe_at = now + (max(FATAL_WAIT, wait) if fatal else wait)
        self._wait = min(self._policy.wait_max, 2 * self._wait)
        return is_news
