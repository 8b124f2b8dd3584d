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
from operator import mul
from statistics import fmean, median
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
_FITS = 1.1
"""Foretold seconds by those of calls side by side, from which on they do not fit."""
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
    overhead, reading, writing = solve_robustly(
        [(1.0, float(sample.prompt), float(sample.completion)) for sample in samples],
        [sample.seconds for sample in samples],
    )
    return TokenSpeed(
        prefill=1 / max(reading, 1 / FASTEST_READING),
        decode=1 / max(writing, 1 / FASTEST_WRITING),
        batch_slowdown=0.0,
        overhead=overhead,
    )


def fit_alike(
    alone: Sequence[Sample], groups: Sequence[Sequence[Sample]], server: ServerSpecification
) -> TokenSpeed:
    """
    Return the speed that fits calls of one task, whose prompts and answers may differ by little.

    It foretells such calls, also many of them at once. What a token takes is not told by them: the time of calls alone
    is divided so that it fits those side by side, too.

    Args:
        alone: Calls that were made one after the other.
        groups: Calls that were made side by side.
        server: The server, whose slots and memory count.

    Raises:
        ConfigurationError: The model does not report tokens.
    """
    _check_counted(alone)
    times = [sample.seconds for sample in alone]
    speed = TokenSpeed(FASTEST_READING, FASTEST_WRITING, 0.0, fmean(times))
    # Prompts are read one after the other, so too much of the time in them makes calls side by side too slow.
    for has_overhead, has_reading in ((1.0, 1.0), (1.0, 0.0), (0.0, 0.0)):
        overhead, reading, writing = solve_robustly(
            [(has_overhead, has_reading * one.prompt, float(one.completion)) for one in alone], times
        )
        if not writing:
            continue
        predicted = sum(overhead + reading * one.prompt + writing * one.completion for one in alone)
        ratio = sum(times) / predicted  # their sum is kept, which the fit to usual calls does not
        speed = TokenSpeed(
            1 / max(ratio * reading, 1 / FASTEST_READING), 1 / (ratio * writing), 0.0, ratio * overhead
        )
        speed = fit_slowdown(speed, groups, server)
        if all(_excess(speed, group, server) < _FITS for group in groups if len(group) > 1):
            break
    return speed


def _excess(speed: TokenSpeed, group: Sequence[Sample], server: ServerSpecification) -> float:
    """Return the seconds of calls side by side as foretold, by those that they took, in the median."""
    foretold = predict(speed, group, server)
    return median(seconds / sample.seconds for sample, seconds in zip(group, foretold, strict=True))


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


def _check_counted(samples: Sequence[Sample]) -> list[Sample]:
    """Return the samples whose tokens are known."""
    counted = [sample for sample in samples if sample.prompt and sample.completion]
    if 2 * len(counted) < len(samples):
        raise ConfigurationError(
            "the speed cannot be measured, because the model does not report the tokens of its calls; give what is "
            "known instead, for example SimulatedServer(latency=LogNormal.fitted(seconds))"
        )
    return counted


def _check(samples: Sequence[Sample]) -> None:
    counted = _check_counted(samples)
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


def solve_robustly(
    rows: Sequence[Sequence[float]], values: Sequence[float], rounds: int = _ROUNDS
) -> list[float]:
    """Return the coefficients, none below 0, that fit values above 0, by Huber's loss of the relative errors."""
    columns = [*map(list, zip(*rows, strict=True)), list(values)]
    scales = [max(map(abs, column)) or 1.0 for column in columns]
    columns = [[value / scale for value in column] for column, scale in zip(columns, scales, strict=True)]

    def solved(weights: Sequence[float]) -> list[float]:
        found = _solve_bounded(columns, weights)
        return [value * scales[-1] / scale for value, scale in zip(found, scales[:-1], strict=True)]

    weights = [1 / value**2 for value in values]
    found = solved(weights)
    for _ in range(rounds):
        errors = [abs(value - _dot(row, found)) / value for row, value in zip(rows, values, strict=True)]
        most = _HUBER * max(median(errors) / 0.6745, 1e-6)
        weights = [
            min(1.0, most / max(error, 1e-12)) / value**2 for error, value in zip(errors, values, strict=True)
        ]
        found = solved(weights)
    return found


def _solve_bounded(columns: Sequence[Sequence[float]], weights: Sequence[float]) -> list[float]:
    """
    Return the weighted least squares solution without a negative coefficient: the best of all sets that are 0.

    Args:
        columns: The columns, of which the last has the values.
        weights: The weights of the rows.
    """
    width = len(columns) - 1
    moments = [[0.0] * (width + 1) for _ in range(width + 1)]
    for i in range(width + 1):
        weighted = list(map(mul, weights, columns[i]))
        for j in range(i, width + 1):
            moments[i][j] = moments[j][i] = sum(map(mul, weighted, columns[j]))
    best, least = [0.0] * width, moments[width][width]
    for count in range(1, width + 1):
        for chosen in combinations(range(width), count):
            found = _solve(moments, chosen)
            if found is None or min(found) < 0:
                continue
            whole = [0.0] * width
            for column, value in zip(chosen, found, strict=True):
                whole[column] = value
            loss = moments[width][width] - 2 * _dot(whole, moments[width][:width])
            loss += sum(whole[i] * _dot(whole, moments[i][:width]) for i in chosen)
            if loss < least - 1e-15 * moments[width][width]:
                best, least = whole, loss
    return best


def _solve(moments: Sequence[Sequence[float]], chosen: Sequence[int]) -> list[float] | None:
    """Return the solution of the normal equations in a few columns; None if there are many."""
    width = len(chosen)
    matrix = [[*(moments[i][j] for j in chosen), moments[i][-1]] for i in chosen]
    trace = max(moments[i][i] for i in chosen)
    for column in range(width):  # Gaussian elimination
        pivot = max(range(column, width), key=lambda row: abs(matrix[row][column]))
        matrix[column], matrix[pivot] = matrix[pivot], matrix[column]
        if abs(matrix[column][column]) <= 1e-9 * trace:
            return None
        for row in range(width):
            if row != column:
                factor = matrix[row][column] / matrix[column][column]
                matrix[row] = [a - factor * b for a, b in zip(matrix[row], matrix[column], strict=True)]
    return [matrix[column][width] / matrix[column][column] for column in range(width)]


def _dot(row: Sequence[float], coefficients: Sequence[float]) -> float:
    return float(sum(map(mul, row, coefficients)))
