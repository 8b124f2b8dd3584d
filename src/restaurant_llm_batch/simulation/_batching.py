"""What a run would come to by provider batches, and online: waves, cost and time of both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping
from math import ceil

from .._config.stopping import Price
from .._engine.wave_service import wave_service_of
from ..steps import Once
from ._play import RunnerParts
from ._recording import Recorder
from ._script import Gathered, PlannedCall, Script
from .plan import PlannedBatches, Range

MAX_LINES = 50_000
"""Lines of a batch, if the runner's backend sends none."""
BATCH_SECONDS = 24 * 3600.0
"""Seconds within which a service promises to answer a batch."""


def planned_batches(
    parts: RunnerParts,
    recorder: Recorder,
    scale: float,
    price: Price | None,
    cost: Range | None,
    cost_at_most: float | None,
    online_seconds: float,
) -> PlannedBatches | None:
    """
    Return what a run would come to by batches; None if its backend sends none, and no price of batches is known.

    Args:
        parts: The runner.
        recorder: Has seen the calls.
        scale: The number of all items, by those that were looked at.
        price: The price of the model, or None.
        cost: The likely cost online; None if there is no price.
        cost_at_most: The cost online with the longest answers.
        online_seconds: The time online.
    """
    service = wave_service_of(parts.llm)
    factor = None if price is None else price.batch
    if service is None and factor is None:
        return None
    waves = _waves(recorder, scale, MAX_LINES if service is None else service.max_lines)
    by_batch = 1.0 if factor is None else factor
    return PlannedBatches(
        waves=waves,
        cost=None if cost is None else Range(cost.low * by_batch, cost.high * by_batch),
        cost_at_most=None if cost_at_most is None else cost_at_most * by_batch,
        seconds_at_most=waves * BATCH_SECONDS,
        online_cost=cost,
        online_cost_at_most=cost_at_most,
        online_seconds=online_seconds,
        are_used=service is not None,
    )


def _waves(recorder: Recorder, scale: float, max_lines: int) -> int:
    """Return the number of waves: one for each step in which items wait for the model, or more if it has many calls."""
    levels: Counter[int] = Counter()
    counted: set[Hashable] = set()
    for item in recorder.items:
        _depth(item.script, 0, levels, recorder.once, counted)
    return sum(ceil(scale * calls / max_lines) for calls in levels.values())


def _depth(
    script: Script, level: int, levels: Counter[int], once: Mapping[Hashable, Script], counted: set[Hashable]
) -> int:
    """Count the calls of a script by their levels, and return the level after it."""
    for step in script:
        if isinstance(step, PlannedCall) and step.prompt:
            levels[level] += 1
            level += 1
        elif isinstance(step, Gathered):
            level = max([level, *(_depth(part, level, levels, once, counted) for part in step.scripts)])
        elif isinstance(step, Once):
            own = once.get(step.key, [])
            if step.key in counted:
                level += _length(own, once)
            else:
                counted.add(step.key)
                level = _depth(own, level, levels, once, counted)
    return level


def _length(script: Script, once: Mapping[Hashable, Script]) -> int:
    """Return the number of calls of a script that come one after the other."""
    return _depth(script, 0, Counter(), once, set())
