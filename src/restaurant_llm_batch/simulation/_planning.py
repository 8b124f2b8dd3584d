"""
Makes a `Plan`: a simulated run is recorded, at a server that is never full and never fails, and replayed for its times.

Theory of operation.

1. *Read*: every item is parsed; those that cannot be are reported. Of the others a sample is picked, if wished, evenly.
2. *Record*: the run goes through the engine with likely answers (`_recording`). Searches are made, the model is not
   called, and what the store has is found there.
3. *Vary*: if calls follow answers, a few items are recorded again with short, with long and with unreadable answers:
   what then differs is a range.
4. *Scale*: figures of a sample are multiplied; how far they may be off comes from how far the items differ.
5. *Learn*: if a record has earlier runs of the task, figures are corrected by what these have seen (`_expectation`).
6. *Replay*: the recorded calls are played at the server that was given, for the times (`_replay`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from math import inf, sqrt
from statistics import stdev
from typing import Any

from .._config.limits import Limits
from .._config.stopping import Price, StopConditions, TimeLimits, find_price
from .._engine.items import as_task
from .._validation import check_whole
from ..errors import ConfigurationError
from ..protocols import LLMBackend
from ..records._record import Record
from ._advice import Findings, advise, scaled
from ._batching import planned_batches
from ._expectation import Expectation
from ._history import History, find_history
from ._learning import learn_from_runs
from ._play import RunnerParts
from ._recording import Recorder, RememberingSearch
from ._replay import Replay, Timing
from ._rows import read_rows
from ._script import Tally
from ._thinning import evenly
from ._trials import NONE, Trial, Variation, name_of_task
from .plan import Plan, PlannedCalls, Range
from .simulated_server import SimulatedServer

VARIED_ITEMS = 20
"""Items that are recorded again with other answers."""
COST_LOW, COST_HIGH = 0.41, 1.22
"""Bounds of the likely cost, by the most likely one: the range is three times as wide as its lower end, at most."""
TEMPLATES = 0.01
"""By how much the prompt tokens of chat templates differ from those that are counted here, as a share of the cost."""


def make_plan(
    parts: RunnerParts,
    task: Any,
    items: Iterable[Any],
    *,
    sample: int | None,
    server: SimulatedServer | None,
    context: int | None,
    answers: LLMBackend | None,
    record: Record | None = None,
    own_record: bool = False,
) -> Plan:
    """Make a plan; see `BatchRunner.plan`."""
    _check(sample, server, context, answers)
    checked = as_task(task)
    chosen, total, bad = read_rows(checked, items, sample)
    history = None if record is None else find_history(record, name_of_task(checked), parts.model_name)
    served, assumed, is_known = _server(server, history)
    context = _context(parts, served, context)
    run = Trial(_quiet(parts), checked, answers, context, {} if history is None else history.lengths)
    recorder = run.record(chosen)
    scale = total / len(chosen) if chosen else 1.0
    varied = Variation(run, evenly(chosen, VARIED_ITEMS), total) if chosen else None
    kinds = _kinds(recorder, varied, scale, total)
    price, assumed_model = _price(parts)
    cost, at_most = _cost(kinds, recorder, price)
    cautions = (
        [] if own_record or record is None or history is not None else [_nothing_learned(record, parts, run)]
    )
    if history is not None and kinds:
        expectation = Expectation(history, recorder, scale)
        found = expectation.kinds(kinds, {} if varied is None else varied.decided(kinds))
        if price is not None:
            others = [one for one in kinds if one.kind not in history.kinds]
            cost = expectation.cost(found.kinds, price, _cost(others, recorder, price)[0] or Range(0, 0))
            at_most = max(cost.high, _cost(found.kinds, recorder, price)[1] or 0.0)
        kinds, cautions = found.kinds, found.warnings
        expectation.add_to_scripts()
    replay = Replay(parts, recorder, total, served)
    times = {name: replay.time(scaled(parts.limits, by)) for name, by in _TIMED.items()}
    by_limits = {name: timing.seconds for name, timing in times.items()}
    batches = planned_batches(parts, recorder, scale, price, cost, at_most, by_limits["given"])
    if batches is not None and batches.are_used:
        cost, at_most = batches.cost, batches.cost_at_most
        by_limits = dict.fromkeys(by_limits, batches.seconds_at_most)
        assumed = "each batch taken to last the day that it may"
        if price is not None and price.batch is None:
            cautions = [*cautions, "the price has no factor for batches; for example Price(..., batch=0.5)"]
    plan = Plan(
        task=run.name,
        items=total,
        sampled=len(chosen),
        model=parts.model_name,
        kinds=tuple(kinds),
        searches=round(scale * recorder.searches),
        stored={kind: round(scale * number) for kind, number in recorder.stored.items()},
        repeated={kind: round(scale * number) for kind, number in recorder.repeated.items()},
        repairs_at_most=0 if varied is None else varied.repairs(),
        bad_rows=tuple(bad),
        unknown=tuple(one.item_id for one in recorder.items if one.searched and not one.hits),
        over_context=round(scale * recorder.over_context),
        no_room=round(scale * recorder.no_room),
        context=context,
        price=price,
        cost=cost,
        cost_at_most=at_most,
        seconds=by_limits["given"],
        seconds_by_limits=by_limits,
        tokens_in_flight=_in_flight(recorder, times["given"], parts.limits),
        kv_tokens=served.kv_tokens or _number(parts.limits.tokens_in_flight),
        warnings=(),
        suggested_limits=parts.limits,
        assumed=assumed,
        learned_from="" if history is None else str(history),
        batches=batches,
        _stop=parts.config.stop,
    )
    findings = Findings(
        plan=plan,
        parts=parts,
        task=checked,
        refuses_all=isinstance(items, Collection),
        failures=run.failures,
        answered={one.item_id for one in recorder.items if one.calls},
        stopped=run.stopped,
        largest=max((tally.largest for tally in recorder.kinds.values()), default=0),
        assumed_model=assumed_model,
        server=served if is_known else None,
        times=times,
        replay=replay,
    )
    warnings, suggested = advise(findings)
    return replace(plan, warnings=(*warnings, *cautions), suggested_limits=suggested)


_TIMED = {"half": 0.5, "given": 1.0, "double": 2.0}


def _check(sample: object, server: object, context: object, answers: object) -> None:
    if sample is not None:
        check_whole("sample", sample, 1, "sample=200")
    if context is not None:
        check_whole("context", context, 1, "context=8192")
    if server is not None and not isinstance(server, SimulatedServer):
        raise ConfigurationError(
            f"server must be a SimulatedServer, got {server!r}; "
            "for example server=SimulatedServer(latency=0.8, slots=24)"
        )
    if answers is not None and not callable(getattr(answers, "complete", None)):
        raise ConfigurationError(
            f"answers must be a backend with complete(), got {answers!r}; for example answers=OfflineLLM()"
        )


def _server(server: SimulatedServer | None, history: History | None) -> tuple[SimulatedServer, str, bool]:
    """Return the server for the time, what that rests on in words, and whether it is known how many calls it bears."""
    if server is not None:
        return server, "at the given server", True
    learned = None if history is None else learn_from_runs(history.runs, history.path)
    if history is None or learned is None:
        return SimulatedServer(), "a call taken to last 0.8 s", False
    run, found = learned
    served = SimulatedServer(**found.fields)
    is_known = served.slots is not None or served.requests_per_minute is not None
    more = "" if is_known else f"; more than {found.peak:,} at once were not seen"
    return served, f"as calls took in run {run.run} of {history.path.name}{more}", is_known


def _nothing_learned(record: Record, parts: RunnerParts, run: Trial) -> str:
    model = f" with {parts.model_name}" if parts.model_name else ""
    return (
        f"{record.path.name} has no run of {run.name}{model} that says enough, so nothing was learned from it; "
        "see open_record(...).runs()"
    )


def _quiet(parts: RunnerParts) -> RunnerParts:
    """Return a runner that stops for nothing, and makes no search twice."""
    config = replace(
        parts.config,
        stop=StopConditions(same_error_in_a_row=None),
        time_limits=TimeLimits(stall_warning_after=None),
        prices={},
    )
    search = RememberingSearch(parts.search) if hasattr(parts.search, "search") else parts.search
    return replace(parts, config=config, search=search)


def _kinds(recorder: Recorder, varied: Variation | None, scale: float, total: int) -> list[PlannedCalls]:
    names = dict.fromkeys([*recorder.kinds, *(varied.kinds if varied is not None else ())])
    shared = recorder.shared()
    return [_of_kind(_Scaled(recorder, name, shared.get(name, NONE), scale), varied, total) for name in names]


class _Scaled:
    """
    The figures of a kind for all items.

    Args:
        recorder: Has the figures for those that were looked at.
        kind: The kind.
        shared: The figures of the calls that several items share, which are not scaled.
        scale: The number of all items, by those that were looked at.
    """

    def __init__(self, recorder: Recorder, kind: str, shared: Tally, scale: float) -> None:
        self.recorder = recorder
        self.kind = kind
        self.tally = recorder.kinds.get(kind, NONE)
        self.scale = scale
        self.has_shared: bool = shared.calls > 0
        self._shared = shared

    def __getitem__(self, figure: str) -> int:
        fixed: int = getattr(self._shared, figure)
        found: int = getattr(self.tally, figure)
        return fixed + round(self.scale * (found - fixed))


def _of_kind(scaled_kind: _Scaled, varied: Variation | None, total: int) -> PlannedCalls:
    kind, tally, records = scaled_kind.kind, scaled_kind.tally, scaled_kind.recorder.items
    reasons: list[str] = []
    likely = [scaled_kind["calls"], scaled_kind["prompt"]]
    lows, highs = [*likely], [*likely]
    if varied is not None and (tally.following or not tally.calls):
        for place, figure in enumerate(("calls", "prompt")):
            lower, higher = varied.differences(kind, figure)
            lows[place] = max(0, lows[place] + lower)
            highs[place] += higher
        if lows[0] < highs[0]:
            reasons.append("how many there are depends on earlier answers")
        elif lows[1] < highs[1]:
            reasons.append("earlier answers stand in the prompts")
    if scaled_kind.scale > 1:
        reasons.append(f"scaled from {len(records):,} of {total:,} items")
        for place, figures in enumerate(
            ([one.calls[kind] for one in records], [one.tokens[kind] for one in records])
        ):
            off = 0 if scaled_kind.has_shared else _off(figures, total)
            lows[place] = max(0, lows[place] - off)
            highs[place] += off
        if scaled_kind.has_shared:
            reasons.append("several items share one, but new items may bring new ones")
            highs = [round(high * scaled_kind.scale) for high in (tally.calls, tally.prompt)]
    least, most = (number / likely[0] if likely[0] else 1.0 for number in (lows[0], highs[0]))
    return PlannedCalls(
        kind,
        likely[0],
        Range(lows[0], highs[0]),
        likely[1],
        Range(lows[1], highs[1]),
        Range(round(scaled_kind["low"] * least), round(scaled_kind["high"] * most)),
        round(scaled_kind["most"] * most),
        min(likely[1], scaled_kind["cached"]),
        tally.largest_prompt,
        "; ".join(reasons),
    )


def _off(figures: Sequence[int], total: int) -> int:
    """Return how far a sum that is scaled from a sample may be off: two standard errors."""
    count = len(figures)
    if count < 2:
        return round(sum(figures) * (total - count) / 2)
    return round(2 * total * stdev(figures) / sqrt(count) * sqrt(1 - count / total))


def _price(parts: RunnerParts) -> tuple[Price | None, str]:
    """Return the price of the model, and the name under which it was found if the backend does not tell its own."""
    prices = parts.config.prices
    found = find_price(prices, parts.model_name)
    if found is None and not parts.model_name and len(prices) == 1:
        ((name, found),) = prices.items()
        return found, name
    return found, ""


def _cost(
    kinds: Sequence[PlannedCalls], recorder: Recorder, price: Price | None
) -> tuple[Range | None, float | None]:
    if price is None:
        return None, None
    likely = sum(
        price.of_tokens(one.prompt_tokens, _likely(one, recorder), one.cached_tokens) for one in kinds
    )
    low = sum(
        price.of_tokens(
            round(one.prompt_tokens_range.low), round(one.completion_tokens.low), one.cached_tokens
        )
        for one in kinds
    )
    high, most = (
        sum(price.of_tokens(round(one.prompt_tokens_range.high), round(tokens)) for one, tokens in answers)
        for answers in (
            [(one, one.completion_tokens.high) for one in kinds],
            [(one, one.completion_tokens_at_most) for one in kinds],
        )
    )
    low, high, most = low * (1 - TEMPLATES), high * (1 + TEMPLATES), most * (1 + TEMPLATES)
    return Range(max(low, COST_LOW * likely), min(high, COST_HIGH * likely)), most


def _likely(one: PlannedCalls, recorder: Recorder) -> int:
    tally = recorder.kinds.get(one.kind)
    return 0 if tally is None else round(tally.likely * one.calls / tally.calls)


def _in_flight(recorder: Recorder, timing: Timing, limits: Limits) -> Range:
    tallies = recorder.kinds.values()
    calls = sum(tally.calls for tally in tallies)
    if not calls:
        return Range(0, 0)
    prompt = sum(tally.prompt for tally in tallies)
    likely = timing.peak * (prompt + sum(tally.likely for tally in tallies)) / calls
    most = timing.peak * (prompt + sum(tally.most for tally in tallies)) / calls
    budget = _number(limits.tokens_in_flight) or inf
    return Range(round(min(likely, budget)), round(min(most, budget)))


def _context(parts: RunnerParts, server: SimulatedServer, context: int | None) -> int | None:
    told = getattr(parts.llm, "context_length", None)
    lengths = [one for one in (context, told, server.kv_tokens) if isinstance(one, int)]
    return min(lengths, default=None)


def _number(limit: Any) -> int | None:
    """Return a limit as a number."""
    return limit if limit is None or isinstance(limit, int) else int(limit.limit)
