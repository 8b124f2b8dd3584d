"""
Times of calls: how many times as long calls take as at an idle server, by their kind and size.

Each kind has a *base*, the median of what its calls take without a queue, and a *window*, its latest calls. The more
the times of a kind vary, the more calls make a window. A base is measured with a *cohort*: all calls that began until a
moment after which there was time for the slow ones, too, because the first answers to arrive are those of the fast
ones. `CallTimes` does no I/O and reads no clock; `LatencyController` decides what the times mean for a limit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from math import exp, log, sqrt
from statistics import median
from typing import Any, NamedTuple

from .._llm_response import LLMResponse

MIN_OF_KIND = 5
"""Fewest answers of a kind of call that make a median."""
MIN_WINDOW, MAX_WINDOW = 16, 128
"""Fewest and most answers of a kind that make a window."""
WANTED_ERROR = 0.12
"""Standard error of a window's median that is wanted, as a share of it."""
MEDIAN_ERROR = 1.25
"""Standard error of the median of n numbers from a normal distribution, times the root of n by their deviation."""
QUARTILES = 1.35
"""Distance of the quartiles of a normal distribution, in standard deviations."""
MAX_WEIGHT = 256
"""Most answers that a base counts for when another measurement is averaged in."""
MIN_COHORT, MAX_COHORT = 8, 32
"""Fewest calls of a cohort; and of one whose times vary much."""
REACH = 1.5
"""How many times as long as the ninth of ten calls of a cohort another one has time for."""
HARDLY_FASTER = log(1.19)
"""Logarithm of how many times as fast calls are in a dip at most, if there was no queue before."""
FORGETTING, FORGOTTEN = 0.8, 0.5
"""Factor for the number of calls of a kind at each look, and the number at which it counts no more."""
MAX_KINDS = 256
"""Kinds of calls whose bases are kept; of more, all are forgotten."""
READ_AS_WRITTEN = 32
"""Tokens that a model reads in the time in which it writes one, for the size of a call."""
_LEAST_SECONDS = 1e-9


class Kind:
    """
    The calls of one kind and size.

    Attributes:
        base: Seconds of one without a queue; 0.0 while unknown.
        weight: Answers by which the base is known.
        deviation: Standard deviation of the logarithm of the seconds.
        latest: Seconds of the latest ones.
        fresh: How many came since the latest look that took them in.
        calls: How many come between two looks, of late.
        cohort: When each call began, and its seconds, while the base is measured; None otherwise.
        before: Median and number of the window before the dip that is under way.
    """

    __slots__ = ("base", "before", "calls", "cohort", "deviation", "fresh", "latest", "weight")

    def __init__(self) -> None:
        self.base: float = 0.0
        self.weight: int = 0
        self.deviation: float = 0.0
        self.latest: deque[float] = deque(maxlen=MIN_WINDOW)
        self.fresh: int = 0
        self.calls: float = 0.0
        self.cohort: list[tuple[float, float]] | None = []
        self.before: tuple[float, int] = (0.0, 0)

    def grown_up(self, now: float) -> list[float]:
        """Return the seconds of those of the cohort that began so long ago that the slow ones have ended, too."""
        if not self.cohort:
            return []
        took = sorted(seconds for _, seconds in self.cohort)
        reach = REACH * took[len(took) * 9 // 10]
        return [seconds for began, seconds in self.cohort if began <= now - reach]

    def median(self) -> float:
        """Return the median of the latest ones, and estimate their deviation, and so how many are needed."""
        ordered = sorted(self.latest)
        number = len(ordered)
        low, high = ordered[number // 4], ordered[(3 * number) // 4]
        deviation = log(max(_LEAST_SECONDS, high) / max(_LEAST_SECONDS, low)) / QUARTILES
        self.deviation = (self.deviation + deviation) / 2 if self.deviation else deviation
        needed = (MEDIAN_ERROR * self.deviation / WANTED_ERROR) ** 2
        needed = min(MAX_WINDOW, max(MIN_WINDOW, int(needed)))
        if needed != self.latest.maxlen:
            self.latest = deque(self.latest, needed)
        return max(_LEAST_SECONDS, (ordered[(number - 1) // 2] + ordered[number // 2]) / 2)

    def average_in(self, number: int, middle: float) -> None:
        """Correct the base by another measurement."""
        if not self.base:
            self.base, self.weight = middle, number
            return
        total = self.weight // 2 + number  # a server changes
        self.base *= (middle / self.base) ** (number / total)
        self.weight = min(MAX_WEIGHT, total)

    def error(self, number: int) -> float:
        """Return the standard error of the logarithm of a median of so many calls, divided by the base."""
        return MEDIAN_ERROR * self.deviation * sqrt(1 / number + 1 / max(1, self.weight))


class Measured(NamedTuple):
    """
    The median of one kind of call.

    Attributes:
        kind: The kind.
        number: Its answers.
        median: Their median.
    """

    kind: Kind
    number: int
    median: float


class Slowdown(NamedTuple):
    """
    How much longer calls take than without a queue.

    Attributes:
        times: How many times as long a call takes, in the mean of the calls.
        error: Standard error of the logarithm of that.
        excess: How many times as long all calls together take: calls in flight by the capacity.
        wait: Seconds that a call waits.
    """

    times: float = 1.0
    error: float = 0.0
    excess: float = 1.0
    wait: float = 0.0

    @property
    def at_least(self) -> float:
        """What it is at least, if it is not chance."""
        return self.times * exp(-self.error)

    @property
    def is_other(self) -> bool:
        """Whether calls are clearly faster or slower than the bases."""
        return abs(log(self.times)) > 2 * max(self.error, 0.05)

    def share_for(self, times: float) -> float:
        """
        Return the share of the calls in flight with which calls would take so many times as long.

        All kinds of calls wait equally long, so short ones are slowed down by a queue that long ones hardly notice:
        what calls take beyond their bases grows with the excess, in proportion.
        """
        if self.times <= 1 or self.excess <= 1:
            return times
        return (1 + (self.excess - 1) * (times - 1) / (self.times - 1)) / self.excess


class CallTimes:
    """
    The kinds of calls, and their times.

    Attributes:
        slowdown: At the latest look.
    """

    __slots__ = ("_active", "_kinds", "_touched", "slowdown")

    def __init__(self) -> None:
        self.slowdown: Slowdown = Slowdown()
        self._kinds: dict[tuple[str, int], Kind] = {}
        self._touched: list[Kind] = []  # those with fresh answers
        self._active: list[Kind] = []  # those of which there were calls of late

    def take(self, label: str, answer: Any, began: float, seconds: float) -> None:
        """Take in how long a call took."""
        key = (label, _size(answer))
        kind = self._kinds.get(key)
        if kind is None:
            kind = self._add_kind(key)
        kind.latest.append(seconds)
        if kind.cohort is not None:
            kind.cohort.append((began, seconds))
        if not kind.fresh:
            self._touched.append(kind)
        kind.fresh += 1

    def look(self, now: float) -> list[Measured]:
        """Return the windows of the kinds of which there are new answers, and enough; learn bases and the slowdown."""
        measured = self._windows()
        for one in measured:
            if not one.kind.base:
                self._learn_base(one.kind, now)
        if measured:
            self.slowdown = _slowdown(measured, self._active)
        return measured

    def begin_dip(self) -> None:
        """Keep what calls take now, to compare it with what they take in a dip, when there is no queue."""
        for kind in self._kinds.values():
            number = len(kind.latest)
            kind.before = (kind.median(), number) if number >= MIN_OF_KIND else (0.0, 0)
        self.start_windows(with_cohorts=True)

    def end_dip(self, now: float, least: int) -> float | None:
        """
        Correct the bases by what calls took in a dip.

        Args:
            now: The time, in seconds.
            least: Fewest calls.

        Returns:
            What calls took, as a share of the bases before, if these were clearly measured in a queue; 1.0 if they were
            not; None if there are too few calls.
        """
        cohorts = [(kind, kind.grown_up(now)) for kind in self._kinds.values() if kind.cohort]
        measured = [
            Measured(kind, len(cohort), median(cohort))
            for kind, cohort in cohorts
            if len(cohort) >= MIN_OF_KIND
        ]
        if sum(one.number for one in measured) < least:
            return None
        found = _slowdown(measured, [one.kind for one in measured])
        queued = [one for one in measured if one.kind.before[1]]
        number = sum(one.number for one in queued)
        faster = sum(one.number * log(one.kind.before[0] / one.median) for one in queued)
        if number and faster < number * HARDLY_FASTER:
            for kind, *_ in queued:
                kind.base, kind.weight = kind.before
        elif found.is_other:
            for kind, number, middle in measured:
                kind.base, kind.weight = middle, number
            return min(1.0, found.excess)
        for kind, number, middle in measured:
            kind.average_in(number, middle)
        return 1.0

    def start_windows(self, *, with_cohorts: bool = False) -> None:
        """Forget the latest answers: their calls were admitted under another limit."""
        for kind in self._kinds.values():
            kind.latest.clear()
            kind.fresh = 0
            kind.cohort = [] if with_cohorts or not kind.base else None
        self._touched.clear()

    def _add_kind(self, key: tuple[str, int]) -> Kind:
        if len(self._kinds) >= MAX_KINDS:
            self._kinds.clear()
            self._touched.clear()
            self._active.clear()
        kind = self._kinds[key] = Kind()
        return kind

    def _windows(self) -> list[Measured]:
        measured, few = [], []
        for kind in self._active:
            kind.calls *= FORGETTING
        for kind in self._touched:
            if len(kind.latest) < MIN_OF_KIND:
                few.append(kind)
                continue
            if not kind.calls:
                self._active.append(kind)
            kind.calls += kind.fresh
            kind.fresh = 0
            measured.append(Measured(kind, len(kind.latest), kind.median()))
        self._touched = few
        if len(self._active) > len(measured):
            for kind in self._active:
                kind.calls *= kind.calls > FORGOTTEN
            self._active = [kind for kind in self._active if kind.calls]
        return measured

    def _learn_base(self, kind: Kind, now: float) -> None:
        """Learn the first base of a kind, if there are enough calls."""
        cohort = kind.grown_up(now)
        if len(cohort) >= min(MAX_COHORT, max(MIN_COHORT, (kind.latest.maxlen or 0) // 2)):
            # Where calls of the other kinds wait, so do these.
            middle, slowdown = median(cohort), self.slowdown
            kind.base = max(middle - slowdown.wait, middle / max(1.0, slowdown.times))
            kind.weight = len(cohort)
            kind.cohort = None


def _slowdown(measured: Sequence[Measured], kinds: Sequence[Kind]) -> Slowdown:
    """
    Return how much longer calls take than without a queue; 1.0 if nothing is known of their kinds.

    Of a kind that is not measured in this window, calls are taken to wait as long as the others.

    Args:
        measured: The windows of the kinds that are measured.
        kinds: All kinds of calls that are made.
    """
    known = [(one, one.kind.calls or one.number) for one in measured if one.kind.base]
    calls = sum(number for _, number in known)
    if not calls:
        return Slowdown()
    shares = [number * one.median / one.kind.base for one, number in known]
    total, spent = sum(shares), sum(number * one.median for one, number in known)
    errors = [share * one.kind.error(one.number) for share, (one, _) in zip(shares, known, strict=True)]
    error = sqrt(sum(one * one for one in errors)) / total
    needed = sum(number * one.kind.base for one, number in known)
    wait = max(0.0, (spent - needed) / calls)
    seen = {id(one.kind) for one, _ in known}
    for kind in kinds:
        if kind.base and id(kind) not in seen:
            calls += kind.calls
            total += kind.calls * (kind.base + wait) / kind.base
            spent += kind.calls * (kind.base + wait)
            needed += kind.calls * kind.base
    return Slowdown(total / calls, error, spent / needed, wait)


def _size(answer: Any) -> int:
    """Return the size of a call, as the power of two of the tokens that the model writes, or would in that time."""
    if isinstance(answer, LLMResponse):
        written = answer.completion_tokens or len(answer.text) // 4
        return (written + answer.prompt_tokens // READ_AS_WRITTEN).bit_length()
    return answer if isinstance(answer, int) else 0
