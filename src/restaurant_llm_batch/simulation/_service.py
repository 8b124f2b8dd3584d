"""
Fit of a server to the calls that it was seen to answer, among others: how long each takes, and what slows it down.

Theory of operation. Several explanations are tried of the same calls: each takes its own time; each takes longer the
more calls there are at once (`SampledLatency.slowdown`); the server works on so many at once, and others wait
(`slots`); or it batches (`TokenSpeed`). Under an explanation, the seconds that the server worked on each call are
known, and what a call of its size takes is fitted to them. The explanation is taken under which the times that were
seen are likeliest: ``sum(log(seconds)) + n * (entropy of the logarithms of the errors)`` is least. The entropy is that
of Vasicek, by the distances of neighbours, so the errors may have any distribution. A more complicated explanation has
to be better by a margin.

What a record cannot show is not found: a server that was never full has any number of slots.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from heapq import heappop, heappush
from itertools import accumulate
from math import inf, log, sqrt
from statistics import fmean, median, variance
from typing import NamedTuple

from ._fit import FASTEST_READING, FASTEST_WRITING, Sample, predict, solve_robustly
from ._specification import ServerSpecification
from ._thinning import evenly
from .latency import Latency, SampledLatency, SampledNumbers, TokenSpeed

FITTED_CALLS, FITTED_POINTS, BATCHED_CALLS = 2000, 1000, 600
"""Most calls in sequence that explanations are tried on, most to which a size is fitted, and most for batching."""
MIN_OF_KIND = 12
"""Fewest calls of a kind that has a size of its own."""
FACTORS = 1000
_LEAST_SECONDS, _LEAST_ERROR = 1e-6, 2e-3
_ROUNDS = 5
_SLOWDOWNS = (0.02, 0.1, 0.3, 0.8)
_SLOTS_TRIED = 16
_SCALINGS = 4
_MARGIN = 4.0
_FEWEST = 3
"""Fewest calls that waited, and that did not, to tell a queue."""
_HARDLY = 0.02
"""Share of the usual time in which no call is answered, but for as small a share of the calls."""


class Served(NamedTuple):
    """A call that was answered: the task name of its request, when it began and ended, and its tokens."""

    kind: str
    began: float
    ended: float
    prompt: int
    completion: int


class Service(NamedTuple):
    """How a server works on calls, and how many at once; None for any number."""

    latency: Latency
    slots: int | None


class _Explanation(NamedTuple):
    """An explanation of calls: how unlikely they are, and what the server is like."""

    unlikely: float
    slots: int | None
    slowdown: float
    speed: TokenSpeed | None = None


def fit_service(calls: Sequence[Served], slots: int | None = None) -> Service:
    """
    Return what explains the times of calls best.

    Args:
        calls: The calls.
        slots: How many the server works on at once, if it is known.
    """
    calls = sorted(calls, key=lambda call: call.began)
    tried = calls[:FITTED_CALLS]
    margin = _MARGIN + log(len(tried)) / 2
    best = plain = _explain(tried, None, 0.0)
    for slowdown, number in _explanations(tried, slots):
        found = _explain(tried, number, slowdown)
        if found.unlikely < min(best.unlikely, plain.unlikely - margin):
            best = found
    for slowdown, number in _near(best, tried):
        found = _explain(tried, number, slowdown)
        if found.unlikely < best.unlikely:
            best = found
    batching = _batching(tried[:BATCHED_CALLS], slots)
    if batching is not None and batching.speed is not None:
        single = (
            best
            if len(tried) <= BATCHED_CALLS
            else _explain(tried[:BATCHED_CALLS], best.slots, best.slowdown)
        )
        if batching.unlikely < single.unlikely - 2 * margin:
            return Service(batching.speed, slots)
    work = _work(calls, best.slots, best.slowdown)
    kinds, others = fit_kinds(
        [
            (call.kind, call.prompt, call.completion, seconds)
            for call, (seconds, _) in zip(calls, work, strict=True)
        ]
    )
    return Service(SampledLatency(kinds, others, best.slowdown), best.slots if slots is None else slots)


def fit_kinds(
    points: Sequence[tuple[str, int, int, float]],
) -> tuple[Mapping[str, SampledNumbers], SampledNumbers]:
    """
    Fit numbers to the tokens of calls.

    Args:
        points: Kind, tokens of the prompt and of the answer, and the number, of each call.

    Returns:
        What was fitted to each kind of which there are enough, and to all.
    """
    by_kind: defaultdict[str, list[tuple[int, int, float]]] = defaultdict(list)
    for kind, *point in points:
        by_kind[kind].append(tuple(point))  # type: ignore[arg-type]
    kinds = {kind: fit_numbers(some) for kind, some in by_kind.items() if len(some) >= MIN_OF_KIND}
    return kinds, fit_numbers([(prompt, completion, number) for _, prompt, completion, number in points])


def fit_numbers(points: Sequence[tuple[int, int, float]]) -> SampledNumbers:
    """Fit numbers to tokens of prompts and answers; their sum is kept."""
    size = _fit_size(points)
    means = [max(_LEAST_SECONDS, _of(size, prompt, completion)) for prompt, completion, _ in points]
    numbers = [number for _, _, number in points]
    factors = sorted(number / mean for number, mean in zip(numbers, means, strict=True))
    scale = sum(numbers) / sum(means) if any(numbers) else 0.0
    size_of_group = -(-len(factors) // FACTORS)
    groups = [
        fmean(factors[place : place + size_of_group]) for place in range(0, len(factors), size_of_group)
    ]
    usual = fmean(groups) or 1.0
    fixed, per_prompt_token, per_answer_token = (scale * part for part in size)
    return SampledNumbers(
        fixed, per_prompt_token, per_answer_token, tuple(factor / usual for factor in groups)
    )


def _fit_size(points: Sequence[tuple[int, int, float]]) -> tuple[float, float, float]:
    """Return what a number has apart from tokens, for each token of the prompt, and for each of the answer."""
    some = evenly([point for point in points if point[2] > 0], FITTED_POINTS)
    if not some:
        return 1.0, 0.0, 0.0
    rows = [(1.0, float(prompt), float(completion)) for prompt, completion, _ in some]
    fixed, reading, writing = solve_robustly(rows, [number for *_, number in some], _ROUNDS)
    return fixed, reading, writing


def _of(size: tuple[float, float, float], prompt: int, completion: int) -> float:
    return size[0] + size[1] * prompt + size[2] * completion


def _explain(calls: Sequence[Served], slots: int | None, slowdown: float) -> _Explanation:
    """Return how unlikely the times of calls are, if the server works on so many at once, and is slowed down so."""
    work = _work(calls, slots, slowdown)
    least = _HARDLY * median(call.ended - call.began for call in calls)
    if slots is not None and sum(seconds < least for _, seconds in work) > _HARDLY * len(calls):
        return _Explanation(inf, slots, slowdown)  # calls would have ended before they began
    if slots is not None and not _shows_queue(calls, work):
        return _Explanation(inf, slots, slowdown)
    by_kind: defaultdict[str, list[tuple[int, int, float]]] = defaultdict(list)
    for call, (seconds, _) in zip(calls, work, strict=True):
        by_kind[call.kind].append((call.prompt, call.completion, seconds))
    off: list[float] = []
    for points in by_kind.values():
        size = _fit_size(points)
        off += _centred(
            [
                log(number / max(_LEAST_SECONDS, _of(size, prompt, completion)))
                for prompt, completion, number in points
            ]
        )
    return _Explanation(
        sum(log(seconds) for _, seconds in work) + len(calls) * _entropy(off), slots, slowdown
    )


def _shows_queue(calls: Sequence[Served], work: Sequence[tuple[float, float]]) -> bool:
    """Return whether calls that had to wait took longer than those that had not, by about as much as they waited."""
    waited, at_once, expected = [], [], []
    for call, (_, seconds) in zip(calls, work, strict=True):
        took = max(_LEAST_SECONDS, call.ended - call.began)
        if took > seconds * (1 + _HARDLY):
            waited.append(log(took))
            expected.append(log(took / seconds))
        else:
            at_once.append(log(took))
    if min(len(waited), len(at_once)) < _FEWEST:
        return False
    longer = fmean(waited) - fmean(at_once)
    error = sqrt(variance(waited) / len(waited) + variance(at_once) / len(at_once))
    return longer > max(2 * error, fmean(expected) / 2)


def _centred(off: Sequence[float]) -> list[float]:
    middle = median(off)
    return [one - middle for one in off]


def _entropy(numbers: Sequence[float]) -> float:
    """Return the differential entropy of numbers, by the distances of each from its neighbours."""
    count = len(numbers)
    reach = max(1, round(sqrt(count) / 2))
    ordered = sorted(numbers)
    padded = [ordered[0]] * reach + ordered + [ordered[-1]] * reach
    return fmean(
        log(max(_LEAST_ERROR, high - low) * count / (2 * reach))
        for low, high in zip(padded, padded[2 * reach :], strict=False)
    )


def _work(calls: Sequence[Served], slots: int | None, slowdown: float) -> list[tuple[float, float]]:
    """Return for each call the seconds that it would take alone, and those that it took once it had a slot."""
    begins = _begins(calls, slots)
    if not slowdown:
        seconds = [max(_LEAST_SECONDS, call.ended - began) for call, began in zip(calls, begins, strict=True)]
        return list(zip(seconds, seconds, strict=True))
    worked = _Integral(calls, lambda running: 1 / (1 + slowdown * max(0, running - 1)))
    return [
        (max(_LEAST_SECONDS, worked.between(began, call.ended)), max(_LEAST_SECONDS, call.ended - began))
        for call, began in zip(calls, begins, strict=True)
    ]


def _begins(calls: Sequence[Served], slots: int | None) -> list[float]:
    """Return when the server begins each call, if it works on so many at once, in order of arrival."""
    if slots is None:
        return [call.began for call in calls]
    busy: list[float] = []
    begins = []
    for call in calls:
        began = call.began if len(busy) < slots else max(call.began, heappop(busy))
        begins.append(min(began, call.ended))
        heappush(busy, call.ended)
    return begins


class _Integral:
    """
    The integral over time of a function of the number of calls that are open.

    Args:
        calls: The calls.
        function: The function.
    """

    def __init__(self, calls: Sequence[Served], function: Callable[[int], float]) -> None:
        changes = sorted([(call.began, 1) for call in calls] + [(call.ended, -1) for call in calls])
        self._times = [time for time, _ in changes]
        self._values = [function(running) for running in accumulate(change for _, change in changes)]
        steps = (
            value * (after - time)
            for value, time, after in zip(self._values, self._times, self._times[1:], strict=False)
        )
        self._sums = [0.0, *accumulate(steps)]

    def between(self, start: float, end: float) -> float:
        """Return the integral from one time to another."""
        return self._until(end) - self._until(start)

    def _until(self, time: float) -> float:
        place = bisect_right(self._times, time) - 1
        return self._sums[place] + self._values[place] * (time - self._times[place]) if place >= 0 else 0.0


def _explanations(calls: Sequence[Served], slots: int | None) -> Iterator[tuple[float, int | None]]:
    """Yield slowdowns and slots that may explain calls; only one of both at once."""
    for slowdown in _SLOWDOWNS:
        yield slowdown, None
    if slots is None:
        for number in evenly(range(1, peak_of(calls)), _SLOTS_TRIED):
            yield 0.0, number


def _near(best: _Explanation, calls: Sequence[Served]) -> Iterator[tuple[float, int | None]]:
    """Yield explanations that are near the best one of those that were tried."""
    if best.slowdown:
        for factor in (0.5, 0.65, 0.8, 1.25, 1.5, 2.0):
            yield factor * best.slowdown, None
    elif best.slots is not None:
        # With as many slots as there were calls at once, none would wait.
        most = peak_of(calls)
        around = most // _SLOTS_TRIED
        for number in range(max(1, best.slots - around), min(most, best.slots + around + 1)):
            yield 0.0, number


def peak_of(calls: Sequence[Served]) -> int:
    """Return how many calls were in flight at most."""
    changes = sorted([(call.began, 1) for call in calls] + [(call.ended, -1) for call in calls])
    return max(accumulate(change for _, change in changes))


def _batching(calls: Sequence[Served], slots: int | None) -> _Explanation | None:
    """
    Return how unlikely the times of calls are at a server that batches; None if they tell nothing of one.

    A call takes ``overhead + read / prefill + completion * (1 + batch_slowdown * others) / decode`` seconds, in which
    `read` are the prompts that are read during the call, its own included, and `others` the calls beside it in the
    mean. That is linear in four unknowns.
    """
    if sum(1 for call in calls if call.prompt and call.completion) < 0.9 * len(calls):
        return None
    starts = [call.began for call in calls]
    read = [0.0, *accumulate(float(call.prompt) for call in calls)]
    beside = _Integral(calls, lambda running: float(running - 1))
    rows, times = [], []
    for index, call in enumerate(calls):
        seconds = max(_LEAST_SECONDS, call.ended - call.began)
        others = max(0.0, beside.between(call.began, call.ended) / seconds)
        reading = read[bisect_right(starts, call.ended)] - read[index]
        rows.append((1.0, reading, float(call.completion), call.completion * others))
        times.append(seconds)
    places = evenly(range(len(calls)), FITTED_POINTS)
    overhead, per_prompt, per_token, slower = solve_robustly(
        [rows[place] for place in places], [times[place] for place in places], _ROUNDS
    )
    if not per_token:
        return None
    speed = TokenSpeed(
        1 / max(per_prompt, 1 / FASTEST_READING),
        1 / max(per_token, 1 / FASTEST_WRITING),
        slower / per_token,
        overhead,
    )
    # Not by the sums that were fitted: a call that takes long, for whatever reason, sees many others begin.
    speed, played = _scaled(speed, calls, slots)
    off = _centred(
        [log(took / max(_LEAST_SECONDS, foretold)) for took, foretold in zip(times, played, strict=True)]
    )
    return _Explanation(sum(map(log, times)) + len(calls) * _entropy(off), slots, 0.0, speed)


def _scaled(speed: TokenSpeed, calls: Sequence[Served], slots: int | None) -> tuple[TokenSpeed, list[float]]:
    """Return a speed at which calls that are played take as long as they took, in sum, and how long each takes."""
    server = ServerSpecification(slots=slots)
    samples = [Sample(call.prompt, call.completion, call.ended - call.began, call.began) for call in calls]
    took = sum(sample.seconds for sample in samples)
    played = predict(speed, samples, server)
    for _ in range(_SCALINGS):
        ratio = sum(played) / took
        if 0.99 < ratio < 1.01:
            break
        ratio = min(2.0, max(0.5, ratio))
        speed = replace(
            speed, prefill=ratio * speed.prefill, decode=ratio * speed.decode, overhead=speed.overhead / ratio
        )
        played = predict(speed, samples, server)
    return speed, played
