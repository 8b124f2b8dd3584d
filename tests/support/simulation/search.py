"""Plays many plans, and reduces one that fails to a smaller one that fails likewise."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import Any

from restaurant_llm_batch import Success
from restaurant_llm_batch.events import RunEnded
from restaurant_llm_batch.outcomes import Outcome

from .broken import Broken
from .drawing import plan
from .plans import WAYS, Plan
from .world import Played, play

REPEAT_EVERY = 40
"""Of so many plans, one is played a second time, and its events have to be equal."""


@dataclass(slots=True)
class Tally:
    """
    What came of many plans.

    Attributes:
        plans: Number of plans.
        steps: Actions on virtual time, after each of which the promises were checked.
        events: Events of the runs.
        repeated: Plans that were played twice, or under other strategies too.
        failed: The seeds of plans that failed, and their errors.
    """

    plans: int = 0
    steps: int = 0
    events: int = 0
    repeated: int = 0
    failed: dict[int, Broken] = field(default_factory=dict)

    def __str__(self) -> str:
        return (
            f"{self.plans:,} plans, {self.events:,} events, {self.steps:,} moments checked, "
            f"{self.repeated:,} plans repeated, {len(self.failed):,} failed"
        )


@contextmanager
def quietly() -> Iterator[None]:
    """Log nothing, and collect garbage seldom: thousands of small worlds come and go."""
    logger = logging.getLogger("restaurant_llm_batch")
    disabled, threshold = logger.disabled, gc.get_threshold()
    logger.disabled = True
    gc.set_threshold(100_000, *threshold[1:])
    try:
        yield
    finally:
        logger.disabled = disabled
        gc.set_threshold(*threshold)


def play_all(seeds: Iterable[int], *, most_failures: int = 1) -> Tally:
    """Play the plans of seeds, until some have failed."""
    tally = Tally()
    with quietly():
        for seed in seeds:
            tally.plans += 1
            try:
                played = examine(seed, tally)
            except Broken as broken:
                tally.failed[seed] = broken
                if len(tally.failed) >= most_failures:
                    break
            else:
                tally.steps += played.steps
                tally.events += sum(map(len, played.events))
    return tally


def examine(seed: int, tally: Tally) -> Played:
    """
    Play the plan of a seed; some plans are repeated.

    Raises:
        Broken: A promise was not kept.
    """
    drawn = plan(seed)
    played = play(drawn)
    if seed % REPEAT_EVERY == 0:
        tally.repeated += 1
        again = play(drawn)
        if _texts(played) != _texts(again):
            raise Broken("equal seeds give equal runs, to the event", drawn)
        if drawn.is_calm and drawn.joiner is None and drawn.flow[0] != "task":
            _compare_ways(drawn, played)
    return played


def _texts(played: Played) -> list[str]:
    """Return the events as texts, without the memory of the process."""
    return [
        str(event._replace(stats=replace(event.stats, peak_memory_mib=None)))
        if isinstance(event, RunEnded)
        else str(event)
        for events in played.events
        for event in events
    ]


def _compare_ways(drawn: Plan, played: Played) -> None:
    """Check that a plan in which nothing depends on time has the same results under every strategy."""
    results = _results(drawn, played)
    for way in WAYS:
        if way != drawn.way and _results(drawn, play(replace(drawn, way=way))) != results:
            raise Broken("results do not depend on the strategy", f"{drawn.way} and {way}: {drawn}")


def _results(drawn: Plan, played: Played) -> list[str]:
    """Return what has to be equal under every strategy: no duplicates, which fail only if both are open at once."""
    ids = [item.id for item in drawn.items]
    outcomes: list[Outcome[Any]] = sorted(played.records[0].outcomes, key=lambda outcome: outcome.index)
    return [
        f"{outcome.index} {outcome.value if isinstance(outcome, Success) else repr(outcome.error)}"
        for outcome in outcomes
        if ids.count(drawn.items[outcome.index].id) == 1
    ]


def failure_of(candidate: Plan) -> Broken | None:
    """Return how a plan fails; None if it does not."""
    try:
        play(candidate)
    except Broken as broken:
        return broken
    return None


def reduce(failing: Plan) -> Plan:
    """Return a smaller plan that breaks the same promise; the plan itself if it fails only when it is repeated."""
    with quietly():
        broken = failure_of(failing)
        if broken is None:
            return failing
        smaller = True
        while smaller:
            smaller = False
            for candidate in _smaller(failing):
                found = failure_of(candidate)
                if found is not None and found.promise == broken.promise:
                    failing, smaller = candidate, True
                    break
    return failing


_KEPT = frozenset({"seed", "flow", "items", "way", "happenings", "limits", "server"})
_DEFAULTS = Plan(0, ("sleep", 0.0), ())


def _smaller(given: Plan) -> Iterator[Plan]:
    """Yield plans with one part less."""
    for part in fields(Plan):
        default = getattr(_DEFAULTS, part.name)
        if part.name not in _KEPT and getattr(given, part.name) != default:
            yield replace(given, **{part.name: default})
    for number in range(len(given.happenings)):
        yield replace(given, happenings=given.happenings[:number] + given.happenings[number + 1 :])
    for kind in given.server.faults:
        left = {other: share for other, share in given.server.faults.items() if other != kind}
        yield replace(given, server=replace(given.server, faults=left))
    for number in range(len(given.items)):
        yield replace(given, items=given.items[:number] + given.items[number + 1 :])
    if given.flow[0] != "task":
        for node in given.flow[1:]:
            if isinstance(node, tuple):
                yield replace(given, flow=node)
        if given.flow[0] in ("seq", "gather"):
            for number in range(1, len(given.flow)):
                yield replace(given, flow=given.flow[:number] + given.flow[number + 1 :])
    for name in ("llm_total", "tokens_in_flight", "requests_per_minute", "tokens_per_minute"):
        if getattr(given.limits, name) is not None:
            yield replace(given, limits=_without(given.limits, name))
    for name in ("kv_tokens", "requests_per_minute", "tokens_per_minute", "retry_after"):
        if getattr(given.server, name) is not None:
            yield replace(given, server=_without(given.server, name))


def _without(settings: Any, name: str) -> Any:
    return replace(settings, **{name: None})
