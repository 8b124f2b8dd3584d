"""
Latency controller: an adaptive limit that also learns from how long calls take.

Theory of operation. A server that queues calls refuses none, so a limit that follows refusals alone grows without an
end. But with n calls in flight at a server that works on c, a call takes n / c times as long as at an idle server
(Little's law). So what calls take now, divided by what they take without a queue, says how far the limit is above the
capacity, as the round-trip time does in TCP Vegas (Brakmo and Peterson, 1995) and BBR (Cardwell et al., 2016).

    window      the latest answers of calls admitted in this epoch. Calls are told apart by kind and size; each kind has
                its median, and its base: the median without a queue. The more the times of a kind vary, the more of its
                answers make a window
    slowdown    the mean of median / base, in which each kind counts by its number of calls; of a kind that is not
                measured in this window, calls are taken to wait as long as the others. It is taken for less by its
                standard error: what may be chance changes nothing
    hold        while the slowdown is above the square root of the factor, the limit does not grow
    decrease    if it is above the factor, the limit becomes a quarter more than the capacity, which is the limit times
                the sum of the bases by the sum of the medians, but at least half of what it was; a new epoch begins.
                If that does not help, it becomes the capacity. After two clear decreases in a row that did not help it
                is the server that is slower, not its queue: the bases become the medians, and the limit what it was
    dip         after `FIRST_DIP` rounds, and then ever more rarely, the limit is lowered below the capacity. What calls
                take then corrects the bases, and the limit is what it was. If it is clearly less than the bases were,
                these were measured in a queue, and the limit stays down.

A base is measured with a cohort: all calls that were admitted until a moment after which there was time for the slow
ones, too, because the first answers to arrive are those of the fast ones. The limit grows when the first base is known.
All else is as in `AIMDController`, which decreases the limit on refusals; the lower limit holds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from math import exp, log, sqrt
from statistics import median
from typing import Any, NamedTuple

from .._llm_response import LLMResponse
from ..outcomes import Reason
from .aimd import SATURATION_THRESHOLD, AdaptiveLimit, AIMDController, CallResult, Timing
from .server_signal import ServerWord

MIN_ANSWERS = 16
"""Fewest answers between two looks at the slowdown; half of that while the limit doubles in each round."""
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
MIN_COHORT, MIN_OF_DIP = 8, 24
"""Fewest calls of a cohort, and of all cohorts of a dip."""
REACH, MOST_REACH = 1.5, 8.0
"""How many times as long as the slowest call of a cohort another one has time for, and as the median one at most."""
LONGEST_BEGINNING = 2
"""Rounds after which the limit begins to grow, whatever was measured."""
LONGEST_DIP = 4
"""Rounds after which a dip ends, whatever was measured."""
FIRST_DIP, MAX_ROUNDS_BETWEEN_DIPS = 16, 192
"""Rounds until the first dip, and most between two; each that finds nothing new makes it four times as many."""
FIRST_DEPTH, DIP = 0.65, 0.85
"""Share of the capacity, by what is known of it, that a dip leaves in use."""
LOOKS, FAR = 2, 1.5
"""Looks in a row at which the slowdown is above the factor, and by how much in one look, until the limit is lowered."""
CHANCES = 4
"""Looks in a row at which the slowdown is above the factor, after which that is no chance."""
AFTER_DECREASE = 1.25
"""The limit after a decrease, in capacities."""
LEAST_DECREASE, LEAST_DIP = 0.5, 0.25
"""Least share of the limit that a decrease leaves, and a dip, which has to end below the capacity."""
MOST_PROBED = 2
"""A probe adds at most the limit divided by this: what it does to latency shows only when its calls have ended."""
MOST_LOWERED = 0.8
"""Share of the limit that a decrease has to leave at most, to tell anything if it does not help."""
MAX_VAIN = 2
"""Decreases in a row that have not helped, after which the server is taken to be slower by itself."""
FORGETTING, FORGOTTEN = 0.8, 0.5
"""Factor for the number of calls of a kind at each look, and the number at which it counts no more."""
MAX_KINDS = 256
"""Kinds of calls whose bases are kept; of more, all are forgotten."""
MOST_A_SECOND, MOST_SKIPPED = 250, 31
"""Answers that are taken in, in a second, and most that are passed over for each: the others cost nearly nothing."""
READ_AS_WRITTEN = 32
"""Tokens that a model reads in the time in which it writes one, for the size of a call."""
_LEAST_SECONDS = 1e-9


class _Kind:
    """
    The calls of one kind and size.

    Attributes:
        base: Seconds of one without a queue; 0.0 while unknown.
        weight: Answers by which the base is known.
        deviation: Standard deviation of the logarithm of the seconds.
        latest: Seconds of the latest ones of this epoch.
        fresh: How many came since the latest look that took them in.
        calls: How many come between two looks, of late.
        cohort: When each call began, and its seconds, while the base is measured; None otherwise.
    """

    __slots__ = ("base", "calls", "cohort", "deviation", "fresh", "latest", "weight")

    def __init__(self) -> None:
        self.base: float = 0.0
        self.weight: int = 0
        self.deviation: float = 0.0
        self.latest: deque[float] = deque(maxlen=MIN_WINDOW)
        self.fresh: int = 0
        self.calls: float = 0.0
        self.cohort: list[tuple[float, float]] | None = []

    def grown_up(self, now: float) -> list[float]:
        """Return the seconds of those of the cohort that began so long ago that the slow ones have ended, too."""
        if not self.cohort:
            return []
        took = [seconds for _, seconds in self.cohort]
        reach = min(REACH * max(took), MOST_REACH * median(took))
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


class _Measured(NamedTuple):
    """
    The window of one kind of call.

    Attributes:
        kind: The kind.
        number: Its answers.
        median: Their median.
    """

    kind: _Kind
    number: int
    median: float


class _Slowdown(NamedTuple):
    """
    How much longer calls take than without a queue.

    Attributes:
        times: How many times as long the median call takes.
        error: Standard error of the logarithm of that.
        excess: How many times as long all calls together take: the limit by the capacity.
        wait: Seconds that a call waits.
    """

    times: float
    error: float
    excess: float
    wait: float = 0.0

    @property
    def at_least(self) -> float:
        """What it is at least, if it is not chance."""
        return self.times * exp(-self.error)

    @property
    def is_new_low(self) -> bool:
        """Whether calls are clearly faster than the bases."""
        return self.times < exp(-2 * max(self.error, 0.05))


class LatencyController(AIMDController):
    """The state machine of an adaptive limit with a `latency_factor`; see the module's docstring."""

    __slots__ = (
        "_above",
        "_active",
        "_at_decrease",
        "_before_dip",
        "_before_vain",
        "_deepest",
        "_dip_after",
        "_factor",
        "_held",
        "_kinds",
        "_left",
        "_looked_at",
        "_lowered",
        "_rounds",
        "_skipped",
        "_slowdown",
        "_taken",
        "_to_skip",
        "_touched",
        "_unsure",
        "_vain",
    )

    def __init__(self, bounds: AdaptiveLimit, factor: float, now: float) -> None:
        super().__init__(bounds, now)
        self._factor = factor
        self._kinds: dict[tuple[str, int], _Kind] = {}
        self._touched: list[_Kind] = []
        self._active: list[_Kind] = []  # those of which there were calls of late
        self._left = MIN_ANSWERS // 2  # answers until the next look
        self._held = True  # until there is a base: it would be measured in a queue otherwise
        self._slowdown = _Slowdown(1.0, 0.0, 1.0)  # at the latest look
        self._vain = 0  # decreases in a row that have not helped
        self._before_vain = 0  # the limit before the first of them
        self._unsure = 0  # looks in a row at which it was, if not for chance
        self._above = 0  # looks in a row at which the slowdown was above the factor
        self._at_decrease = self._slowdown  # at the latest decrease
        self._lowered = 1.0  # share of the limit that the latest decrease left
        self._before_dip = 0  # the limit before the dip that is under way; 0 without one
        self._dip_after = FIRST_DIP  # rounds between two dips
        self._rounds = 0.0  # since the latest dip
        self._deepest = 0  # most calls in flight at the admission of a call, since the latest look
        self._looked_at = now
        self._taken = self._left  # answers that are taken in between two looks
        self._skipped = 0  # answers that are not, after each that is
        self._to_skip = 0

    def record(
        self, outcome: CallResult, depth: int, epoch: int, now: float, timing: Timing | None = None
    ) -> None:
        """Record the result of a call, and adapt the limit."""
        if epoch != self.epoch:
            return
        if outcome != "success":
            super().record(outcome, depth, epoch, now)
            return
        if timing is not None:
            self._to_skip -= 1
            if self._to_skip < 0:
                self._to_skip = self._skipped
                self._take(timing, depth, now)
                if epoch != self.epoch:
                    return
        if not (self._held or self._before_dip):
            self._succeeded(depth, now)

    def set(self, limit: int, now: float) -> None:
        """Continue from a limit chosen by the user, which it does not exceed from then on."""
        super().set(limit, now)
        self._before_dip = 0
        self._start_window()

    def follow_server(self, word: ServerWord, in_flight: int, now: float) -> None:
        """Adapt the limit to what the server says of its load; it grows only if latency allows that too."""
        if self._held or self._before_dip:
            word = word.without_step()
        epoch = self.epoch
        super().follow_server(word, in_flight, now)
        if self.epoch != epoch:
            self._before_dip = 0
            self._start_window()

    def _take(self, timing: Timing, depth: int, now: float) -> None:
        """Take in how long a call took, and look at the slowdown if there are enough."""
        label, answer, began = timing
        if depth > self._deepest:
            self._deepest = depth
        size = _size(answer)
        kind = self._kinds.get((label, size))
        if kind is None:
            kind = self._add_kind(label, size)
        kind.latest.append(now - began)
        if kind.cohort is not None:
            kind.cohort.append((began, now - began))
        if not kind.fresh:
            self._touched.append(kind)
        kind.fresh += 1
        self._left -= 1
        if self._left <= 0:
            # Not that of this call: a long one was admitted when there were fewer, or more.
            deepest, self._deepest = self._deepest, 0
            self._look(deepest, now)

    def _add_kind(self, label: str, size: int) -> _Kind:
        if len(self._kinds) >= MAX_KINDS:
            self._kinds.clear()
            self._touched.clear()
            self._active.clear()
        kind = self._kinds[label, size] = _Kind()
        return kind

    def _look(self, depth: int, now: float) -> None:
        """Compare the windows' medians with the bases, and change the limit if they say so."""
        measured = self._measure()
        needed = max((one.kind.latest.maxlen or 0 for one in measured), default=0)
        answers = (self._skipped + 1) * self._taken
        self._left = self._taken = max(self._period(), needed // 4)
        self._rounds += answers / self.limit
        seconds, self._looked_at = now - self._looked_at, now
        if seconds > 0:
            self._skipped = min(MOST_SKIPPED, int(answers / seconds / MOST_A_SECOND))
        if self._before_dip:
            self._continue_dip(now)
            return
        for one in measured:
            if not one.kind.base:
                self._learn_base(one.kind, now)
        if not measured:
            return  # too many kinds for so few answers
        slowdown = self._slowdown = _slowdown(measured, self._active)
        knows_nothing = self._starting and not any(one.kind.base for one in measured)
        self._held = slowdown.at_least > sqrt(self._factor) or (
            knows_nothing and self._rounds < LONGEST_BEGINNING
        )
        self._unsure = self._unsure + 1 if slowdown.times > self._factor else 0
        is_above = slowdown.at_least > self._factor or self._unsure >= CHANCES
        if is_above:
            self._above += 1
            if self._above >= LOOKS or slowdown.at_least > FAR * self._factor:
                self._decrease(slowdown, measured, depth, now)
            return
        self._above = self._vain = 0
        saturated = depth >= SATURATION_THRESHOLD * self.limit
        grows = self._starting and self.limit < self._bounds.max and not self._held
        if saturated and not grows and self._rounds >= self._dip_after:
            self._begin_dip(now)

    def _learn_base(self, kind: _Kind, now: float) -> None:
        """Learn the first base of a kind, if there are enough calls."""
        cohort = kind.grown_up(now)
        if len(cohort) >= MIN_COHORT:
            # Where calls of the other kinds wait, so do these.
            middle, slowdown = median(cohort), self._slowdown
            kind.base = max(middle - slowdown.wait, middle / max(1.0, slowdown.times))
            kind.weight = len(cohort)
            kind.cohort = None

    def _measure(self) -> list[_Measured]:
        """Return the windows of the kinds of which there are new answers, and enough of them."""
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
            measured.append(_Measured(kind, len(kind.latest), kind.median()))
        self._touched = few
        if len(self._active) > len(measured):
            for kind in self._active:
                kind.calls *= kind.calls > FORGOTTEN
            self._active = [kind for kind in self._active if kind.calls]
        return measured

    def _period(self) -> int:
        if self._before_dip:
            return MIN_COHORT
        return max(MIN_ANSWERS // 2 if self._starting else MIN_ANSWERS, self.limit // 2)

    def _start_window(self) -> None:
        """Forget the latest answers: their calls were admitted under another limit."""
        for kind in self._kinds.values():
            kind.latest.clear()
            kind.fresh = 0
            kind.cohort = None if kind.base and not self._before_dip else []
        self._touched.clear()
        self._left = self._taken = self._period()

    def _decrease(self, slowdown: _Slowdown, measured: Sequence[_Measured], depth: int, now: float) -> None:
        was, self._at_decrease, self._above, self._unsure = self._at_decrease, slowdown, 0, 0
        if not self._vain or slowdown.excess <= was.excess * sqrt(self._lowered):
            self._vain, self._before_vain = 1, self.limit
        elif self._lowered <= MOST_LOWERED:
            self._vain += 1
        if self._vain > MAX_VAIN:
            self._vain, self._held = 0, False
            self._set_bases(measured)
            self._dip_after, self._rounds = FIRST_DIP // 4, 0.0  # if that was chance, a dip finds it out
            self._change(self._before_vain, "latency_probe", now)
            self._start_window()
            return
        after = AFTER_DECREASE if self._vain == 1 else 1.0
        share = max(LEAST_DECREASE, after * exp(slowdown.error) / slowdown.excess)
        self._lowered = share
        if share < 1:
            self._begin_epoch(int(min(depth, self.limit) * share), "latency", now)

    def _begin_dip(self, now: float) -> None:
        deep = FIRST_DEPTH if self._dip_after <= FIRST_DIP else DIP
        share = max(LEAST_DIP, deep / max(1.0, self._slowdown.excess))
        lower = max(self._bounds.min, int(self.limit * share))
        self._rounds = 0.0
        if lower < self.limit:
            self._before_dip = self.limit
            self._begin_epoch(lower, "latency_probe", now)

    def _continue_dip(self, now: float) -> None:
        """End a dip if enough calls were measured, or if it takes too long."""
        cohorts = [(kind, kind.grown_up(now)) for kind in self._kinds.values() if kind.cohort]
        measured = [
            _Measured(kind, len(cohort), median(cohort))
            for kind, cohort in cohorts
            if len(cohort) >= MIN_OF_KIND
        ]
        if sum(one.number for one in measured) < MIN_OF_DIP and self._rounds < LONGEST_DIP:
            return
        before, self._before_dip = self._before_dip, 0
        self._rounds, self._held = 0.0, False
        if _slowdown(measured, [one.kind for one in measured]).is_new_low:
            self._set_bases(measured)
            self._dip_after = FIRST_DIP // 4
        else:
            for one in measured:
                _average_in(one.kind, one.number, one.median)
            self._dip_after = min(4 * max(self._dip_after, FIRST_DIP), MAX_ROUNDS_BETWEEN_DIPS)
            self._change(before, "latency_probe", now)
        self._start_window()

    def _set_bases(self, measured: Sequence[_Measured]) -> None:
        for kind, number, middle in measured:
            kind.base, kind.weight = middle, number

    def _begin_epoch(self, limit: int, reason: Reason, now: float) -> None:
        """Lower the limit; what is learned from calls that were admitted before is ignored from now on."""
        self.epoch += 1
        self._starting = self._probing = False
        self._calm = self._successes = 0
        self._change(limit, reason, now)
        self._start_window()

    def _probe(self, step: int, now: float) -> None:
        super()._probe(min(step, max(1, self.limit // MOST_PROBED)), now)

    def _rate_limited(self, depth: int, now: float) -> None:
        self._before_dip = 0
        super()._rate_limited(depth, now)
        self._start_window()


def _size(answer: Any) -> int:
    """Return the size of a call, as the power of two of the tokens that the model writes, or would in that time."""
    if isinstance(answer, LLMResponse):
        written = answer.completion_tokens or len(answer.text) // 4
        return (written + answer.prompt_tokens // READ_AS_WRITTEN).bit_length()
    return answer if isinstance(answer, int) else 0


def _error(kind: _Kind, number: int) -> float:
    """Return the standard error of the logarithm of a median divided by the base."""
    return MEDIAN_ERROR * kind.deviation * sqrt(1 / number + 1 / max(1, kind.weight))


def _average_in(kind: _Kind, number: int, middle: float) -> None:
    """Correct a base by another measurement."""
    if not kind.base:
        kind.base, kind.weight = middle, number
        return
    total = kind.weight + number
    kind.base *= (middle / kind.base) ** (number / total)
    kind.weight = min(MAX_WEIGHT, total)


def _slowdown(measured: Sequence[_Measured], kinds: Sequence[_Kind]) -> _Slowdown:
    """
    Return how much longer calls take than without a queue; 1.0 if nothing is known of their kinds.

    Args:
        measured: The windows of the kinds that are measured.
        kinds: All kinds of calls that are made.
    """
    known = [(one, one.kind.calls or one.number) for one in measured if one.kind.base]
    calls = sum(number for _, number in known)
    if not calls:
        return _Slowdown(1.0, 0.0, 1.0)
    shares = [number * one.median / one.kind.base for one, number in known]
    total, spent = sum(shares), sum(number * one.median for one, number in known)
    error = sum(
        (share * _error(one.kind, one.number)) ** 2 for share, (one, _) in zip(shares, known, strict=True)
    )
    error = sqrt(error) / total
    needed = sum(number * one.kind.base for one, number in known)
    wait = max(0.0, (spent - needed) / calls)
    seen = {id(one.kind) for one, _ in known}
    for kind in kinds:
        if kind.base and id(kind) not in seen:
            calls += kind.calls
            total += kind.calls * (kind.base + wait) / kind.base
            spent += kind.calls * (kind.base + wait)
            needed += kind.calls * kind.base
    return _Slowdown(total / calls, error, spent / needed, wait)


def make_controller(limit: AdaptiveLimit, now: float) -> AIMDController:
    """Return the controller of an adaptive limit."""
    factor = limit.latency_factor
    return AIMDController(limit, now) if factor is None else LatencyController(limit, factor, now)
