"""
Batch budget: the tokens of a packed batch, which grow and shrink by what the server bears.

Theory of operation. A larger batch asks the same with fewer instructions, until calls take longer for each token, do
not fit into the model's context, or fill the KV cache. The budget is tried out in *windows*: as many full batches of
one kind, packed under the same budget, as a median needs.

    grow        calls wait, and nothing speaks against it: the budget becomes a quarter more
    compare     after the next window, the median of the seconds for each token is compared with the one before. Unless
                it is worse, by more than chance, the budget grows again; otherwise it goes back, and is tried again
                after `HOLD` windows, twice as many each time
    shrink      calls have become so much slower that only their size can help, or a server has preempted calls in two
                readings: the budget is lowered. If that does not help, it is the server that is slower; the median is
                the new measure
    too much    a prompt that was too long, or a memory that was full, lowers the budget below that call. It comes near
                that size again only after `HOLD` windows, twice as many each time

What calls take depends on how many there are at once. So windows are compared only if about as many calls were in
flight. Calls that began before the latest change are ignored: they were packed under another budget.

`BatchBudgetState` does no I/O and reads no clock; `BatchBudget` puts a lock around it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp, inf, log, sqrt
from typing import Any, NamedTuple

from ..errors import ConfigurationError
from ..outcomes import Reason
from .aimd import HISTORY_LIMIT, LimitHistoryEntry
from .concurrency import LockedState

WINDOW = 12
"""Full batches of one kind that make a window."""
FULL = 0.6
"""Share of the budget from which a batch is full: replies are planned at their longest."""
GROWTH = 1.25
"""Factor by which the budget grows."""
SHRINK = 0.75
"""Factor by which it shrinks."""
BELOW_TOO_MUCH = 0.8
"""Share of a call that was too much that the budget becomes."""
WORSE, MUCH_WORSE = 1.1, 1.5
"""Seconds for each token, by those before, from which a larger batch does not pay, and the budget shrinks."""
ALIKE = 1.25
"""How many times as many calls may be in flight in one of two windows that are compared."""
MEDIAN_ERROR, QUARTILES = 1.25, 1.35
"""Standard error of a median of n numbers, times the root of n by their deviation; and that by their quartiles."""
HOLD, MOST_HOLD = 4, 64
"""Windows until something that was too much is tried again: at first, and at most."""
MAX_VAIN = 2
"""Decreases in a row that have not helped, after which the server is taken to be slower by itself."""
PREEMPTED_READINGS = 2
"""Readings with preemptions, since the latest change, that lower the budget."""
MAX_KINDS = 32
"""Kinds of calls that are told apart; of more, all are forgotten."""


@dataclass(frozen=True, slots=True)
class AdaptiveBatch:
    """
    A token budget of packed batches that adapts to what the server bears.

    The budget grows while calls wait and larger batches take no longer for each token. It shrinks if they do, if a
    prompt is too long for the model, if the server's memory is full, and, with ``watch_server``, if the server preempts
    calls. A batch keeps to the budget at the time at which it is packed, so equal runs need not pack equal batches;
    with a store, the texts of an item are packed as they were the first time.

    Attributes:
        min: Smallest budget, in tokens.
        start: Initial budget.
        max: Largest budget.

    Raises:
        ConfigurationError: Unless they are whole numbers with 1 <= min <= start <= max.
    """

    min: int = 1000
    start: int = 4000
    max: int = 16_000

    def __post_init__(self) -> None:
        given: tuple[object, ...] = (self.min, self.start, self.max)
        whole = all(isinstance(value, int) and not isinstance(value, bool) for value in given)
        if not whole or not 1 <= self.min <= self.start <= self.max:
            raise ConfigurationError(
                f"AdaptiveBatch needs whole numbers 1 <= min <= start <= max, got min={self.min!r}, "
                f"start={self.start!r}, max={self.max!r}; for example AdaptiveBatch(min=1000, start=4000, max=16000)"
            )


class BatchCall(NamedTuple):
    """
    A call with a packed batch.

    Attributes:
        kind: The task name of its request.
        tokens: Its tokens, those of its longest reply included.
        began: When it began, in seconds.
        in_flight: Calls in flight when it ended, itself included.
        others_wait: Whether calls wait for their turn, or are made one after the other.
    """

    kind: str
    tokens: int
    began: float
    in_flight: int = 1
    others_wait: bool = True


class _Window(NamedTuple):
    """
    A window.

    Attributes:
        seconds: Median of the seconds for each token.
        error: Standard error of its logarithm.
        in_flight: Median of the calls in flight.
    """

    seconds: float
    error: float
    in_flight: float

    @classmethod
    def of(cls, samples: Sequence[tuple[float, int]]) -> _Window:
        """Return the window of seconds for each token, and calls in flight."""
        from statistics import median  # takes as long to import as the limiters together

        ordered = sorted(seconds for seconds, _ in samples)
        number = len(ordered)
        low, high = ordered[number // 4], ordered[(3 * number) // 4]
        deviation = log(high / low) / QUARTILES
        error = MEDIAN_ERROR * deviation / sqrt(number)
        return cls(median(ordered), error, median(in_flight for _, in_flight in samples))

    def is_worse(self, than: _Window, factor: float) -> bool:
        """Return whether tokens take so many times as long as in another window, and not by chance."""
        chance = sqrt(self.error**2 + than.error**2)
        return self.seconds > factor * than.seconds * exp(chance)

    def is_comparable(self, other: _Window) -> bool:
        """Return whether about as many calls were in flight in another window."""
        return self.in_flight <= ALIKE * other.in_flight and other.in_flight <= ALIKE * self.in_flight


class BatchBudgetState:
    """
    The state machine of one budget.

    Args:
        bounds: Its bounds.
        now: The time, in seconds.

    Attributes:
        limit: The budget, in tokens.
        history: Its latest changes.
        waiting: No call waits for it: always 0.
        set_watchers: Called when a user has set it.
    """

    def __init__(self, bounds: AdaptiveBatch, now: float = -inf) -> None:
        self.limit = bounds.start
        self.history: deque[LimitHistoryEntry] = deque(
            [LimitHistoryEntry(now, self.limit, "start")], HISTORY_LIMIT
        )
        self.waiting = 0
        self.set_watchers: list[Callable[[], object]] = []
        self._bounds = bounds
        self._changed_at = now
        self._samples: dict[str, list[tuple[float, int]]] = {}
        self._bases: dict[str, _Window] = {}  # at the budget before, or at this one
        self._before = 0  # the budget before the one that is tried out; 0 if it is not new
        self._shrunk: dict[str, _Window] = {}  # the windows for whose sake the budget was lowered
        self._vain = 0
        self._too_much: float = inf  # a size that is not to be reached now
        self._patience = HOLD // 2
        self._hold = 0  # windows until the budget may grow
        self._preempted = 0
        self._is_full = False

    def answered(self, call: BatchCall, seconds: float, now: float) -> None:
        """Take in a call that was answered after some seconds, and change the budget if a window is complete."""
        if call.began < self._changed_at or call.tokens < FULL * self.limit or seconds <= 0:
            return
        if call.kind not in self._samples and len(self._samples) >= MAX_KINDS:
            self._samples.clear()
            self._bases.clear()
        samples = self._samples.setdefault(call.kind, [])
        samples.append((seconds / call.tokens, call.in_flight))
        if len(samples) >= WINDOW:
            window = _Window.of(samples)
            samples.clear()
            self._decide(call, window, now)

    def too_much(self, call: BatchCall, reason: Reason, now: float) -> None:
        """Take in a call that was too long for the model, or for which the server had no memory."""
        if call.began < self._changed_at:
            return
        self._avoid(call.tokens)
        lower = int(min(self.limit, call.tokens) * BELOW_TOO_MUCH)
        if lower < self.limit:
            self._change(lower, reason, now)

    def follow_server(self, preempted: bool, is_full: bool, now: float) -> None:
        """
        Take in a reading of the server's load.

        Args:
            preempted: Whether it has preempted calls since the reading before.
            is_full: Whether its KV cache is nearly full, so that the budget is not to grow.
            now: The time, in seconds.
        """
        self._is_full = is_full or preempted
        self._preempted += preempted
        if self._preempted >= PREEMPTED_READINGS:
            self._avoid(self.limit)
            self._change(int(self.limit * SHRINK), "server", now)

    def set(self, limit: int, now: float) -> None:
        """Continue from a budget chosen by the user, which it does not exceed from then on."""
        bounds = self._bounds
        if (limit, limit) != (self.limit, bounds.max):
            self._bounds = AdaptiveBatch(min(bounds.min, limit), limit, limit)
            self.limit = limit
            self.history.append(LimitHistoryEntry(now, limit, "manual"))
            self._forget(now)

    def _decide(self, call: BatchCall, window: _Window, now: float) -> None:
        self._preempted = 0
        base = self._bases.get(call.kind)
        if base is None or not window.is_comparable(base):
            self._before = 0  # it cannot be judged by this: it stays
        elif self._before and window.is_worse(base, WORSE):
            before = self._before
            self._avoid(self.limit)
            self._change(before, "latency", now)
            return
        elif not self._before and window.is_worse(base, MUCH_WORSE) and self._helps(call, window):
            self._shrunk[call.kind] = window
            self._change(int(self.limit * SHRINK), "latency", now)
            return
        self._before = 0
        self._bases[call.kind] = window
        self._shrunk.pop(call.kind, None)
        if self._hold:
            self._hold -= 1
            if not self._hold:
                self._too_much = inf
        if call.others_wait and not self._is_full:
            self._grow(now)

    def _helps(self, call: BatchCall, window: _Window) -> bool:
        """Return whether a decrease may help: not if those before have not."""
        shrunk = self._shrunk.get(call.kind)
        self._vain = self._vain + 1 if shrunk is not None and window.seconds * WORSE > shrunk.seconds else 0
        return self._vain < MAX_VAIN and self.limit > self._bounds.min

    def _grow(self, now: float) -> None:
        larger = min(self._bounds.max, int(self.limit * GROWTH))
        if larger >= BELOW_TOO_MUCH * self._too_much:
            larger = int(BELOW_TOO_MUCH * self._too_much)
        if larger > self.limit:
            before = self.limit
            self._change(larger, "probe", now)
            self._before = before

    def _avoid(self, size: int) -> None:
        """Do not come near a size for some windows, the more the more often something was too much."""
        self._too_much = min(self._too_much, size)
        self._patience = min(2 * self._patience, MOST_HOLD)
        self._hold = self._patience

    def _change(self, limit: int, reason: Reason, now: float) -> None:
        limit = max(self._bounds.min, min(self._bounds.max, limit))
        if limit != self.limit:
            self.limit = limit
            self.history.append(LimitHistoryEntry(now, limit, reason))
        self._forget(now)

    def _forget(self, now: float) -> None:
        """Begin new windows: calls that began earlier were packed under another budget."""
        self._changed_at = now
        self._before = self._preempted = 0
        for samples in self._samples.values():
            samples.clear()


class BatchBudget(LockedState[BatchBudgetState]):
    """
    A budget that the runs of a runner share.

    Args:
        bounds: Its bounds.
    """

    def __init__(self, bounds: AdaptiveBatch) -> None:
        self._configured = bounds
        super().__init__()

    def _initial_state(self, parents: BatchBudgetState | None) -> BatchBudgetState:
        return BatchBudgetState(self._configured)  # in a forked child, too

    @property
    def bounds(self) -> AdaptiveBatch:
        """Its bounds, as they were given."""
        return self._configured

    @property
    def limit(self) -> int:
        """
        Most tokens of a batch. May be set at any time, in any thread: it is its largest budget from then on.

        Raises:
            ConfigurationError: When it is set to anything but a whole number of at least 1.
        """
        return self._state_for_process()[1].limit

    @limit.setter
    def limit(self, limit: int) -> None:
        given: object = limit
        if not isinstance(given, int) or isinstance(given, bool) or given < 1:
            raise ConfigurationError(
                f"max_tokens_per_batch must be a whole number of at least 1, got {limit!r}"
            )
        self._change(BatchBudgetState.set, limit, 0.0 if self.clock is None else self.clock())
        self._notify_set()

    @property
    def latest_change(self) -> LimitHistoryEntry | None:
        """The latest change of the budget."""
        return self._state_for_process()[1].history[-1]

    @property
    def limit_history(self) -> tuple[LimitHistoryEntry, ...]:
        """The changes of the budget, oldest first."""
        lock, state = self._state_for_process()
        with lock:
            return tuple(state.history)

    def unused(self) -> BatchBudget:
        """Return one with the same bounds, under which nothing was packed."""
        return BatchBudget(self._configured)

    def answered(self, call: BatchCall, seconds: float, now: float) -> None:
        """Take in a call that was answered after some seconds."""
        self._change(BatchBudgetState.answered, call, seconds, now)

    def too_much(self, call: BatchCall, reason: Reason, now: float) -> None:
        """Take in a call that was too long for the model, or for which the server had no memory."""
        self._change(BatchBudgetState.too_much, call, reason, now)

    def follow_server(self, preempted: bool, is_full: bool, now: float) -> None:
        """Take in a reading of the server's load; see `BatchBudgetState.follow_server`."""
        self._change(BatchBudgetState.follow_server, preempted, is_full, now)

    def _change(self, change: Callable[..., None], *arguments: Any) -> None:
        lock, state = self._state_for_process()
        with lock:
            change(state, *arguments)

    def __repr__(self) -> str:
        return f"<BatchBudget {self.limit:,} tokens>"
