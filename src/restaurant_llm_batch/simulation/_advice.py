"""Advice of a plan: what will fail or is unwise, in sentences, and limits that suit the server better."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from textwrap import shorten
from typing import Any

from .._config.limits import DefaultLimit, Limits
from .._config.strategy import Strategy
from .._limits.aimd import AdaptiveLimit
from .._text import error_text
from .._values import short
from ..models import ItemId
from ..outcomes import Failure
from ..protocols import Task
from ._play import RunnerParts
from ._replay import Replay, Timing
from .plan import Plan
from .result import duration
from .simulated_server import SimulatedServer

_SHOWN, _PROBLEM = 3, 160
_TOLERATED_REFUSALS = 0.05
"""Share of refused calls that is no reason for another limit: an adaptive limit needs some to learn from."""
_OUTLIER, _LONG_PROMPT = 8, 2_000
"""Times the mean, and tokens, from which on a prompt is so much larger than the others that it is named."""
_GAIN = 0.8
"""Share of the time that doubled limits must be below, to be worth it."""
_GOOD = 1.05
"""Times that differ by less are equal."""
_FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
_MAX_LIMIT = 1024
_SCALED = ("llm", "batches", "llm_total")


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """
    What a plan has found.

    Attributes:
        plan: The plan, without advice.
        parts: The runner.
        task: The task.
        refuses_all: Whether a bad row refuses the whole input.
        failures: The items that failed.
        answered: Ids of the items that made a call.
        stopped: Why the run stopped, or None.
        largest: Tokens of the largest prompt together with its longest answer.
        assumed_model: Name of the model that was taken for the one of the backend, which does not tell; or "".
        server: The server that was given, or None.
        times: The times with half, given and double limits.
        replay: Plays the run with other limits.
    """

    plan: Plan
    parts: RunnerParts
    task: Task[Any]
    refuses_all: bool
    failures: Sequence[Failure]
    answered: AbstractSet[ItemId]
    stopped: str | None
    largest: int
    assumed_model: str
    server: SimulatedServer | None
    times: Mapping[str, Timing]
    replay: Replay


def advise(found: Findings) -> tuple[list[str], Limits]:
    """Return the warnings of a plan, and the limits that it suggests."""
    suggested, why = _better_limits(found)
    warnings = [*_of_input(found), *_of_prompts(found), *_of_budgets(found), *_of_strategy(found), *why]
    return warnings, suggested


def scaled(limits: Limits, factor: float) -> Limits:
    """Return limits with more or fewer calls in flight, and room for their items."""
    if factor == 1:
        return limits
    changed = {name: _times(getattr(limits, name), factor) for name in _SCALED}
    return replace(limits, **changed, open_items=max(1, round(limits.open_items * max(1.0, factor))))


def _times(limit: Any, factor: float) -> Any:
    if limit is None:
        return None
    if isinstance(limit, DefaultLimit):
        return DefaultLimit(max(1, round(factor * limit)))
    if isinstance(limit, AdaptiveLimit):
        least, start, most = (
            max(1, round(factor * number)) for number in (limit.min, limit.start, limit.max)
        )
        return replace(limit, min=least, start=start, max=most)
    number = limit if isinstance(limit, int) else limit.limit
    return max(1, round(factor * number))


def _of_input(found: Findings) -> list[str]:
    plan = found.plan
    warnings = []
    if plan.bad_rows:
        shown = "; ".join(
            f"item {row.index}: {shorten(row.problem, _PROBLEM)}" for row in plan.bad_rows[:_SHOWN]
        )
        what = "so run() refuses them all" if found.refuses_all else "which fail"
        warnings.append(f"{_many(len(plan.bad_rows), 'item')} cannot be read, {what}: {shown}")
    if found.task.requires_search and found.parts.search is None:
        warnings.append(
            f"{found.task.name} searches, but the runner has no search, so run() refuses it; the reviews of this plan "
            "are made up"
        )
    elif plan.searches and not hasattr(found.parts.search, "search"):
        warnings.append(
            "the search has no blocking search(), which a plan needs; the reviews of this plan are made up"
        )
    if plan.unknown:
        shown = ", ".join(map(short, plan.unknown[:_SHOWN]))
        dots = ", ..." if len(plan.unknown) > _SHOWN else ""
        warnings.append(
            f"the search finds no review of {_many(len(plan.unknown), 'item')} ({shown}{dots}): "
            "are these ids those of the index?"
        )
    if found.stopped is not None:
        warnings.append(f"the run stops: {found.stopped}; what comes after that is not in this plan")
    return [*warnings, *_of_failures(found)]


def _of_failures(found: Findings) -> list[str]:
    """Return the causes for which items fail, the most frequent first."""
    causes = Counter(
        (failure.stage, error_text(failure.error), failure.item_id in found.answered)
        for failure in found.failures
        if failure.stage != "run"
    )
    hint = "; if a made-up answer is the cause, give answers=, a backend that answers as your model would"
    return [
        f"{_many(number, 'item')} fail{'s' * (number == 1)} at stage {stage}: {text}{hint * answered}"
        for (stage, text, answered), number in causes.most_common(_SHOWN)
    ]


def _of_prompts(found: Findings) -> list[str]:
    plan = found.plan
    warnings = []
    if plan.over_context:
        warnings.append(
            f"{_many(plan.over_context, 'prompt')} of more than the model's {plan.context:,} tokens will be refused; "
            "show fewer reviews, or lower max_tokens_per_batch"
        )
    if plan.no_room:
        warnings.append(
            f"{_many(plan.no_room, 'prompt')} and their longest answers do not fit into the model's {plan.context:,} "
            "tokens together, which many servers refuse; lower max_tokens of the task"
        )
    for one in plan.kinds:
        mean = one.prompt_tokens / max(1, one.calls)
        if one.largest_prompt > max(_OUTLIER * mean, _LONG_PROMPT):
            warnings.append(
                f"the largest prompt of {one.kind} has {one.largest_prompt:,} tokens, and the mean {mean:,.0f}: is "
                "there a text that is no review?"
            )
    if getattr(found.parts.count, "blocking", False):
        warnings.append("the token counter asks a service; this plan uses an estimate in its place")
    return warnings


def _of_budgets(found: Findings) -> list[str]:
    plan = found.plan
    warnings = []
    if not getattr(found.parts.llm, "calls_model", True):
        if plan.price is not None:
            warnings.append(
                "the runner's backend calls no model; the cost is that of one with the given price"
            )
    elif plan.price is None and plan.kinds:
        name = found.parts.model_name
        given = f"prices={{{name!r}: Price(prompt=..., completion=...)}}"
        model = f"the model {name!r}" if name else "the model"
        warnings.append(
            f"the cost is unknown, because there is no price for {model}; give the runner {given}"
        )
    elif found.assumed_model:
        warnings.append(
            f"the backend does not tell the name of its model; it is taken to be {found.assumed_model!r}, the only one "
            "with a price"
        )
    stop = found.parts.config.stop
    if stop.max_cost is not None and plan.cost is not None and stop.max_cost < plan.cost.high:
        warnings.append(
            f"the runner stops at max_cost={stop.max_cost:g}, and the run likely costs {plan.cost.low:.4g} to "
            f"{plan.cost.high:.4g}"
        )
    tokens = plan.tokens
    if stop.max_tokens is not None and stop.max_tokens < tokens.high:
        warnings.append(
            f"the runner stops at max_tokens={stop.max_tokens:,}, and the run likely takes {tokens.low:,.0f} to "
            f"{tokens.high:,.0f} tokens"
        )
    run = found.parts.config.time_limits.run
    if run is not None and found.server is not None and plan.seconds > run:
        warnings.append(f"the runner stops after {run:g} s, and the run likely takes {plan.seconds:,.0f} s")
    return warnings


def _of_strategy(found: Findings) -> list[str]:
    parts, given = found.parts, found.times["given"]
    if parts.strategy.restaurant_async or found.plan.items < 2 or not found.plan.kinds:
        return []
    awaits = hasattr(parts.llm, "acomplete")
    if not awaits and parts.search is not None and not hasattr(parts.search, "search"):
        return []
    name = "Strategy.stage(4)" if awaits else "Strategy.threaded()"
    other = found.replay.time(found.parts.limits, Strategy.stage(4) if awaits else Strategy.threaded())
    if other.seconds > _GAIN * given.seconds:
        return []
    seconds = duration(other.seconds), duration(given.seconds)
    return [
        f"the strategy runs one item after the other; {name} would take {seconds[0]} instead of {seconds[1]}"
    ]


def _better_limits(found: Findings) -> tuple[Limits, list[str]]:
    """Return limits that suit the server better, and what is wrong with the runner's."""
    plan, limits = found.plan, found.parts.limits
    warnings: list[str] = []
    if found.server is not None and found.times["given"].server.calls:
        limits, warnings = _limits_for(found.server, found)
    if plan.context is not None and limits.tokens_per_batch > plan.context:
        limits = replace(limits, max_tokens_per_batch=plan.context)
    memory, held = plan.kv_tokens, plan.tokens_in_flight
    if memory is None:
        return limits, warnings
    if held.high > memory:
        if found.parts.limits.tokens_in_flight is None:
            warnings.append(
                f"the calls in flight hold {held.low:,.0f} tokens, and up to {held.high:,.0f} if answers are long, but "
                f"the server's cache holds {memory:,}: set tokens_in_flight={memory}"
            )
        limits = replace(limits, tokens_in_flight=memory)
    if found.largest > memory:
        warnings.append(
            f"the largest call takes {found.largest:,} tokens with its longest answer, and the budget of calls in "
            f"flight is {memory:,}: it runs alone"
        )
    return limits, warnings


def _limits_for(server: SimulatedServer, found: Findings) -> tuple[Limits, list[str]]:
    warnings = []
    limits, given, double = found.parts.limits, found.times["given"], found.times["double"]
    if given.refused_share > _TOLERATED_REFUSALS:
        warnings.append(
            f"the limits drown the server: it refuses {given.refused_share:.0%} of the calls, with {given.peak} in "
            "flight; see suggested_limits"
        )
    elif server.slots is not None and given.peak > server.slots and server.overload == "queue":
        warnings.append(
            f"the limits let {given.peak} calls go, but the server works on {server.slots} at once: the others wait "
            "there, and time limits count that"
        )
    if given.failed:
        warnings.append(
            f"{_many(given.failed, 'item')} of the {given.played:,} that were played fail at the given server: "
            "their calls are refused, or fail, too often"
        )
    if given.server.preemptions:
        warnings.append(
            f"the server's cache overflows: {_many(given.server.preemptions, 'call')} of those played are stopped and "
            "computed again; set tokens_in_flight"
        )
    if double.seconds < _GAIN * given.seconds and double.refused_share <= _TOLERATED_REFUSALS:
        warnings.append(
            "the limits leave the server idle: double the calls in flight take "
            f"{double.seconds / given.seconds:.0%} of the time; see suggested_limits"
        )
    per_minute = {
        name: getattr(server, name)
        for name in ("requests_per_minute", "tokens_per_minute")
        if getattr(server, name) is not None and getattr(limits, name) is None
    }
    if per_minute:
        limits = replace(limits, **per_minute)
    return (_fastest(limits, server, found) if warnings or per_minute else limits), warnings


def _fastest(limits: Limits, server: SimulatedServer, found: Findings) -> Limits:
    """Return the smallest limits with about the least time and without refusals."""
    options = [scaled(limits, factor) for factor in _FACTORS]
    if server.slots is not None:
        options.append(_with_calls(limits, server.slots))
    tried = [
        (option, found.replay.time(option))
        for option in sorted(options, key=_calls)
        if option is limits or _calls(option) <= _MAX_LIMIT
    ]
    fewest = min(timing.failed for _, timing in tried)
    fine = [
        (option, timing)
        for option, timing in tried
        if timing.refused_share <= _TOLERATED_REFUSALS and timing.failed == fewest
    ]
    if not fine:
        return min(tried, key=lambda entry: entry[1].refused_share)[0]
    least = min(timing.seconds for _, timing in fine)
    return next(option for option, timing in fine if timing.seconds <= _GOOD * least)


def _with_calls(limits: Limits, calls: int) -> Limits:
    return replace(
        limits, llm=calls, batches=calls, llm_total=calls, open_items=max(limits.open_items, 2 * calls)
    )


def _calls(limits: Limits) -> int:
    """Return how many calls to the model limits let go at once."""
    numbers = [
        limit.max if isinstance(limit, AdaptiveLimit) else limit if isinstance(limit, int) else limit.limit
        for limit in (limits.llm, limits.batches, limits.llm_total)
        if limit is not None
    ]
    return min(sum(numbers[:2]), numbers[2]) if len(numbers) > 2 else sum(numbers)


def _many(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"
