"""
Fit of a `TokenSpeed` to the times of real calls: iteratively reweighted least squares (IRLS), and bisection.

Theory of operation. A call that is alone takes ``overhead + prompt / prefill + completion / decode`` seconds, which is
linear in three unknowns that are not negative. Errors are relative to the time of each call, and Huber's weights keep a
few slow calls from mattering (https://en.wikipedia.org/wiki/Huber_loss). What further calls side by side cost,
`batch_slowdown`, is found by playing them: the more it is, the longer the simulated server takes for the same calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations
from statistics import median
from typing import NamedTuple

from .._engine.virtual import VirtualTime
from .._llm_response import LLMResponse
from ..errors import ConfigurationError
from ._machines import Batching, Job
from ._specification import ServerSpecification, ServerUsage
from .latency import TokenSpeed

MIN_TOKENS = 12
"""Tokens by which the longest and the shortest must differ, of prompts and of answers, to tell what a token takes."""
FASTEST_READING, FASTEST_WRITING = 1e6, 1e5
"""Tokens a second of a server whose times do not grow with the tokens."""
_ROUNDS = 30
_HUBER = 1.5
"""Standard deviations from which on an error counts linearly."""
_MOST_SLOWDOWN = 16.0
_CACHE_SHOWS = 0.1
"""Share of a call's time that reading its prompt must take, for a cache to show in it."""


class Sample(NamedTuple):
    """A call that was answered: its tokens, its seconds, and when it began, in seconds on any clock."""

    prompt: int
    completion: int
    seconds: float
    began: float = 0.0


def fit_speed(samples: Sequence[Sample]) -> TokenSpeed:
    """
    Return the speed that fits calls that were alone, without `batch_slowdown`.

    Raises:
        ConfigurationError: Their tokens do not tell what a token takes.
    """
    _check(samples)
    overhead, reading, writing = _solve_robustly(
        [(1.0, float(sample.prompt), float(sample.completion)) for sample in samples],
        [sample.seconds for sample in samples],
    )
    return TokenSpeed(
        prefill=1 / max(reading, 1 / FASTEST_READING),
        decode=1 / max(writing, 1 / FASTEST_WRITING),
        batch_slowdown=0.0,
        overhead=overhead,
    )


def fit_slowdown(
    speed: TokenSpeed, groups: Sequence[Sequence[Sample]], server: ServerSpecification
) -> TokenSpeed:
    """
    Return the speed with the `batch_slowdown` that fits groups of calls that were made side by side.

    Args:
        speed: What fits calls that were alone.
        groups: The calls.
        server: The server, whose slots and memory count.
    """

    def is_enough(slowdown: float) -> bool:
        tried = replace(speed, batch_slowdown=slowdown)
        return (
            median(
                seconds / sample.seconds
                for group in groups
                for sample, seconds in zip(group, predict(tried, group, server), strict=True)
            )
            >= 1
        )

    groups = [group for group in groups if len(group) > 1]
    if not groups or is_enough(0.0):
        return speed
    low, high = 0.0, _MOST_SLOWDOWN
    for _ in range(_ROUNDS):
        middle = (low + high) / 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return replace(speed, batch_slowdown=round(high, 6))


def caches_prefixes(speed: TokenSpeed, again: Sequence[Sample]) -> bool:
    """Return whether calls whose prompts, but for their ends, had been read before took the time of cached ones."""
    gains = []
    for sample in again:
        reading = sample.prompt / speed.prefill
        cached = speed.overhead + sample.completion / speed.decode
        if reading > _CACHE_SHOWS * (cached + reading):
            gains.append((cached + reading - sample.seconds) / reading)
    return bool(gains) and max(gains) > 0.5


def predict(speed: TokenSpeed, group: Sequence[Sample], server: ServerSpecification) -> list[float]:
    """Return the seconds of each call of a group at a server of this speed."""
    time, ended = VirtualTime(), [0.0] * len(group)
    machine = Batching(server, speed, time, ServerUsage(), lambda job: job.done(None, None))
    first = min(sample.began for sample in group)

    def end(index: int, *_: object) -> None:
        ended[index] = time.now() - (group[index].began - first)

    for index, sample in enumerate(group):
        answer = LLMResponse("", completion_tokens=sample.completion)
        job = Job(answer, None, sample.prompt, partial(end, index))
        time.call_later(sample.began - first, partial(machine.add, job))
    while time.step():
        pass
    return ended


def _check(samples: Sequence[Sample]) -> None:
    counted = [sample for sample in samples if sample.prompt and sample.completion]
    if 2 * len(counted) < len(samples):
        raise ConfigurationError(
            "the speed cannot be measured, because the model does not report the tokens of its calls; give what is "
            "known instead, for example SimulatedServer(latency=LogNormal.fitted(seconds))"
        )
    for kind, tokens in (
        ("answers", [sample.completion for sample in counted]),
        ("prompts", [sample.prompt for sample in counted]),
    ):
        if max(tokens) - min(tokens) < MIN_TOKENS:
            raise ConfigurationError(
                f"the speed cannot be measured, because all {kind} have nearly the same length ({min(tokens)} to "
                f"{max(tokens)} tokens); give what is known instead, for example "
                "SimulatedServer(latency=TokenSpeed(prefill=5000, decode=40))"
            )


def _solve_robustly(rows: Sequence[Sequence[float]], times: Sequence[float]) -> list[float]:
    """Return the coefficients, none below 0, that fit the times, by Huber's loss of the relative errors."""
    weights = [1 / time**2 for time in times]
    found = _solve_bounded(rows, times, weights)
    for _ in range(_ROUNDS):
        errors = [abs(time - _dot(row, found)) / time for row, time in zip(rows, times, strict=True)]
        most = _HUBER * max(median(errors) / 0.6745, 1e-6)
        weights = [
            min(1.0, most / max(error, 1e-12)) / time**2 for error, time in zip(errors, times, strict=True)
        ]
        found = _solve_bounded(rows, times, weights)
    return found


def _solve_bounded(
    rows: Sequence[Sequence[float]], times: Sequence[float], weights: Sequence[float]
) -> list[float]:
    """Return the weighted least squares solution without a negative coefficient: the best of all sets that are 0."""
    width = len(rows[0])
    best, least = [0.0] * width, sum(weight * time**2 for weight, time in zip(weights, times, strict=True))
    for count in range(1, width + 1):
        for columns in combinations(range(width), count):
            found = _solve([[row[column] for column in columns] for row in rows], times, weights)
            if found is None or min(found) < 0:
                continue
            whole = [0.0] * width
            for column, value in zip(columns, found, strict=True):
                whole[column] = value
            loss = sum(
                weight * (time - _dot(row, whole)) ** 2
                for row, time, weight in zip(rows, times, weights, strict=True)
            )
            if loss < least:
                best, least = whole, loss
    return best


def _solve(
    rows: Sequence[Sequence[float]], times: Sequence[float], weights: Sequence[float]
) -> list[float] | None:
    """Return the weighted least squares solution, by the normal equations; None if there are many."""
    width = len(rows[0])
    scales = [max(abs(row[column]) for row in rows) or 1.0 for column in range(width)]
    scaled = [[value / scale for value, scale in zip(row, scales, strict=True)] for row in rows]
    matrix = [
        [sum(w * row[i] * row[j] for row, w in zip(scaled, weights, strict=True)) for j in range(width)]
        + [sum(w * row[i] * time for row, time, w in zip(scaled, times, weights, strict=True))]
        for i in range(width)
    ]
    total = sum(weights)
    for column in range(width):  # Gaussian elimination
        pivot = max(range(column, width), key=lambda row: abs(matrix[row][column]))
        matrix[column], matrix[pivot] = matrix[pivot], matrix[column]
        if abs(matrix[column][column]) < 1e-9 * total:
            return None
        for row in range(width):
            if row != column:
                factor = matrix[row][column] / matrix[column][column]
                matrix[row] = [a - factor * b for a, b in zip(matrix[row], matrix[column], strict=True)]
    return [matrix[column][width] / matrix[column][column] / scales[column] for column in range(width)]


def _dot(row: Sequence[float], coefficients: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(row, coefficients, strict=True))
