"""Draws the plan of a seed. Each part is drawn by a function of its own; most plans have only some of them."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

from restaurant_llm_batch import AdaptiveLimit, Limits, RetryPolicy, StopConditions, TimeLimits
from restaurant_llm_batch.simulation import LogNormal, SimulatedFault, SimulatedServer, TokenSpeed

from .plans import PATIENT, WAYS, Happening, Item, Joiner, Node, Plan, Way

_CONCURRENT: tuple[Way, ...] = ("4", "4", "threaded")
_FAULTS: tuple[SimulatedFault, ...] = (
    *("rate_limited", "overloaded", "server_error", "reset", "no_response", "bad_request"),
    *("content_filter", "truncated", "malformed", "empty"),
)
_RATES = ("requests_per_minute", "tokens_per_minute")
_TASKS = ("aspects", "aspects split", "sentiment", "strengths")


def plan(seed: int) -> Plan:
    """Return the plan of a seed."""
    random = Random(seed)
    calm = random.random() < 0.15
    flow = _draw_flow(random)
    is_task = flow[0] == "task"
    items = _draw_items(random, 3 if is_task else 9, bad=not is_task)
    lazy = any(item.bad for item in items) or random.random() < 0.4
    if lazy and items and not is_task and random.random() < 0.2:
        items = (*items, items[0])
    way = random.choice((*WAYS, *_CONCURRENT))
    return Plan(
        seed=seed,
        flow=flow,
        items=items,
        lazy=lazy,
        fails_at=random.randrange(len(items) + 1) if lazy and not calm and random.random() < 0.06 else None,
        way=way,
        limits=_draw_limits(random, is_task),
        server=_draw_server(random, calm, is_task),
        llm_retry=_draw_retry(random, calm),
        search_retry=RetryPolicy(random.randint(1, 3), 0.1, 1.0),
        search_faults=random.choice((0, 1, 2) if calm else (0, 0, 0, 0, 1, 2, -1)),
        time_limits=TimeLimits(stall_warning_after=None) if calm else _draw_time_limits(random),
        stop=StopConditions() if calm else _draw_stop(random),
        commit_seconds=random.choice((None, None, 0.0, 0.01, 0.5)),
        happenings=() if calm else (*_draw_happenings(random), *_draw_settings(Random(f"limits {seed}"))),
        joiner=_draw_joiner(random, way) if not is_task and random.random() < 0.2 else None,
        counter="service" if random.random() < 0.1 else "plain",
    )


def _draw_flow(random: Random) -> Node:
    if random.random() < 0.04:
        return "task", random.choice(_TASKS)
    first = _draw_node(random, 0)
    if random.random() < 0.5:
        return first
    return "seq", first, *(_draw_node(random, 1) for _ in range(random.randint(1, 2)))


def _draw_node(random: Random, depth: int) -> Node:
    point = random.random()
    if depth < 2 and point < 0.45:
        match random.choice(("gather", "gather", "seq", "once", "catch", "spoil close")):
            case "once":
                return "once", random.choice("ab"), _draw_node(random, depth + 1)
            case "gather":
                return "gather", *(_draw_node(random, depth + 1) for _ in range(random.randint(0, 3)))
            case "seq":
                return "seq", *(_draw_node(random, depth + 1) for _ in range(random.randint(1, 2)))
            case kind:
                return kind, _draw_node(random, depth + 1)
    match random.choice(("complete",) * 8 + ("ask", "search", "search", "pack", "sleep", "raise")):
        case "ask":
            return "ask", random.choice((60, 200))
        case "search":
            return "search", random.randint(1, 4)
        case "pack":
            return "pack", random.randint(0, 5), random.randint(1, 60)
        case "sleep":
            return "sleep", random.choice((0.0, 0.3, 2.0, 30.0))
        case "raise":
            return "raise", random.randint(1, 4)
    limiter = random.choice(("llm", "llm", "batches"))
    return "complete", limiter, random.choice((20, 60, 200)), random.random() < 0.25


def _draw_items(random: Random, most: int, *, bad: bool) -> tuple[Item, ...]:
    number = random.randint(0, most) if random.random() < 0.1 else random.randint(2, most)
    has_bad = bad and random.random() < 0.1
    urgent = random.random() < 0.4
    return tuple(
        Item(number, random.choice((-1, 0, 0, 3)) if urgent else 0, has_bad and random.random() < 0.3)
        for number in range(1, number + 1)
    )


def _draw_limit(random: Random, most: int) -> int | AdaptiveLimit:
    if random.random() < 0.25:
        start = random.randint(1, most)
        return AdaptiveLimit(random.randint(1, start), start, start + random.randint(0, 12))
    return random.randint(1, most)


def _some(random: Random, share: float, *choices: Any) -> Any:
    """Return one of the choices for a share of the plans, None for all others."""
    return random.choice(choices) if random.random() < share else None


def _draw_limits(random: Random, is_task: bool) -> Limits:
    return Limits(
        search=_draw_limit(random, 5),
        llm=_draw_limit(random, 5),
        batches=_draw_limit(random, 4),
        llm_total=_draw_limit(random, 4) if random.random() < 0.25 else None,
        open_items=random.choice((1, 2, 3, 5, 200)),
        max_tokens_per_batch=3000 if is_task else 150,
        min_batch_size=1,
        max_batch_size=random.choice((2, 100)),
        tokens_in_flight=_some(random, 0.2, 100, 300, 1000, 5000),
        requests_per_minute=_some(random, 0.12, 5, 60, 300),
        tokens_per_minute=_some(random, 0.1, 500, 5000, 50_000),
    )


def _draw_server(random: Random, calm: bool, is_task: bool) -> SimulatedServer:
    latency = random.choice(
        (0.0, 0.5, 0.5, LogNormal(0.4, 0.8), LogNormal(2.0, 0.3), TokenSpeed(2000, 60, 0.1, 0.05))
    )
    slots = _some(random, 0.4, 1, 2, 3, 5)
    kinds = random.sample(_FAULTS, random.choice((1, 1, 2, 4)))
    faulty = not calm and random.random() < 0.6
    return SimulatedServer(
        latency=latency,
        slots=slots,
        overload="refuse" if slots and random.random() < 0.6 else "queue",
        requests_per_minute=_some(random, 0.08, 20, 100),
        tokens_per_minute=_some(random, 0.05, 20_000, 100_000) if is_task else _some(random, 0.08, 800, 5000),
        kv_tokens=None if is_task else _some(random, 0.2, 600, 1500),
        retry_after=_some(random, 0.4, 0.2, 1, 20),
        faults={kind: random.choice((0.03, 0.1, 0.25)) for kind in kinds} if faulty else {},
        answer_tokens=_some(random, 0.5, 1, 30, 150),
    )


def _draw_retry(random: Random, calm: bool) -> RetryPolicy:
    refusals = PATIENT if calm else random.choice((1, 3, 20, 20))
    first = random.choice((0.1, 0.5) if calm else (0.0, 0.1, 0.5))
    return RetryPolicy(random.randint(1, 4), first, random.choice((0.5, 5.0, 30.0)), refusals)


def _draw_time_limits(random: Random) -> TimeLimits:
    return TimeLimits(
        call=_some(random, 0.2, 0.3, 0.5, 3.0),
        item=_some(random, 0.25, 0.5, 1.0, 2.0, 10.0),
        run=_some(random, 0.12, 0.5, 1.0, 3.0, 20.0),
        stall_warning_after=_some(random, 0.1, 0.2, 5.0),
    )


def _draw_stop(random: Random) -> StopConditions:
    point = random.random()
    if point < 0.08:
        return StopConditions(max_tokens=random.choice((60, 300, 1000)))
    if point < 0.12:
        return StopConditions(max_cost=random.choice((0.0002, 0.001)))
    if point < 0.18:
        return StopConditions(error_rate=random.choice((0.3, 0.8)), error_rate_window=random.choice((1, 4)))
    if point < 0.24:
        return StopConditions(max_rate_limited_seconds=random.choice((0.5, 3.0)))
    if point < 0.28:
        return StopConditions(same_error_in_a_row=random.choice((1, 2)))
    return StopConditions()


def _draw_happenings(random: Random) -> tuple[Happening, ...]:
    def moment() -> float:
        return random.choice((0.0, 0.25, 0.5, round(random.uniform(0, 6), 2)))

    point = random.random()
    happenings: list[Happening] = []
    if point < 0.06:
        happenings.append(Happening("stop", moment()))
    elif point < 0.14:
        happenings.append(Happening("cancel", moment()))
    elif point < 0.2:
        happenings.append(Happening("interrupt", random.randint(2, 60)))
    elif point < 0.3:
        happenings.append(Happening("kill", moment()))
    elif point < 0.33:
        happenings.append(Happening("disk full", moment()))
    if random.random() < 0.08:
        happenings += (
            Happening("resize", moment(), random.randint(1, 8)) for _ in range(random.randint(1, 2))
        )
    return tuple(happenings)


def _draw_settings(random: Random) -> Iterator[Happening]:
    """Draw limits that a user sets: of any kind, up and down, at any moment."""
    if random.random() < 0.2:
        for _ in range(random.randint(1, 5)):
            limit = random.choice(
                ("llm", "llm", "batches", "search", "llm_total", "tokens_in_flight", *_RATES, *_RATES)
            )
            most = {"tokens_in_flight": 1000, "requests_per_minute": 300, "tokens_per_minute": 20_000}
            number = random.choice((random.randint(1, 8), random.randint(1, 3))) * most.get(limit, 8) // 8
            yield Happening("resize", round(random.uniform(0, 8), 2), max(1, number), limit)


def _draw_joiner(random: Random, way: Way) -> Joiner:
    at = random.choice((0.0, 0.2, 1.0))
    items = _draw_items(random, 5, bad=False)
    if way != "1" and random.random() < 0.5:
        return Joiner(at, way, "runner", items)
    return Joiner(at, random.choice(_CONCURRENT), "limit", items)
