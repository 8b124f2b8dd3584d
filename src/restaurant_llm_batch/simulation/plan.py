"""`Plan`: what a run comes to, before its first paid call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from math import ceil
from typing import Any, NamedTuple

from .._config.limits import Limits
from .._config.stopping import Price, StopConditions
from ..models import ItemId
from ._plan_text import as_html, as_text
from .latency import check_number
from .result import duration

_MAX_KINDS = 6


class Range(NamedTuple):
    """A likely range: a pair of numbers, `low` and `high`, which are equal for what is known exactly."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class BadRow:
    """
    An item that cannot be read.

    Attributes:
        index: Its position in the input, from 0.
        item_id: Its id; None if it has none.
        problem: What is wrong with it, with the names of the fields.
    """

    index: int
    item_id: ItemId | None
    problem: str


@dataclass(frozen=True, slots=True)
class PlannedCalls:
    """
    The calls of one kind.

    Attributes:
        kind: Task name of their requests.
        calls: Their number, if every answer can be used; as many as in earlier runs, if answers decide and there are
            such runs.
        calls_range: Fewest and most, by what usable answers may say. It is exact, and both are equal to `calls`, if no
            answer decides.
        prompt_tokens: Tokens of their prompts, chat template included.
        prompt_tokens_range: Fewest and most; they are equal if no answer stands in a prompt.
        completion_tokens: Likely range of the tokens of their answers.
        completion_tokens_at_most: The same if every answer is as long as its request allows.
        cached_tokens: How many of `prompt_tokens` stand at the beginning of an earlier prompt, in the whole blocks in
            which services cache; as large a share as in earlier runs, if there are some.
        largest_prompt: Tokens of the largest prompt.
        reason: Why a figure is a range; empty if none is, but for the answers.
    """

    kind: str
    calls: int
    calls_range: Range
    prompt_tokens: int
    prompt_tokens_range: Range
    completion_tokens: Range
    completion_tokens_at_most: int
    cached_tokens: int
    largest_prompt: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class PlannedBatches:
    """
    What a run comes to if a provider's batches answer its calls (`OpenAIBatchLLM`), and if each is made online.

    Attributes:
        waves: Number of batches, one after the other: one for each step in which items wait for the model, if it has no
            more calls than a batch has lines.
        cost: Likely range of the cost by batches; None if no price is known.
        cost_at_most: The same if every answer is as long as its request allows.
        seconds_at_most: Seconds if each batch takes the day that the service promises.
        online_cost: Likely range of the cost online.
        online_cost_at_most: The same if every answer is as long as its request allows.
        online_seconds: Time of the run online, by simulation.
        are_used: Whether the runner's backend sends batches.
    """

    waves: int
    cost: Range | None
    cost_at_most: float | None
    seconds_at_most: float
    online_cost: Range | None
    online_cost_at_most: float | None
    online_seconds: float
    are_used: bool


@dataclass(frozen=True, slots=True, repr=False)
class Plan:
    """
    What a run comes to, before its first paid call; see `BatchRunner.plan`.

    The figures hold if every call is answered at its first attempt, in a form that can be used. Calls that fail and are
    made again, and answers that are asked for again, come on top; see `repairs_at_most`.

    Attributes:
        task: Name of the task.
        items: Number of items that can be read.
        sampled: How many of them were looked at; fewer than `items` if a sample was wanted.
        model: Name of the model; empty if the backend does not tell it.
        kinds: The calls by kind, in the order in which they are first made.
        searches: Number of searches.
        stored: Replies that the store has, by kind; they are not paid for.
        repeated: Requests that are equal to another one of this run, by kind; with a store, equal ones are made and
            paid for once.
        repairs_at_most: Calls that come on top if no answer can be used: those that ask again, less those that are then
            not made.
        bad_rows: Items that cannot be read.
        unknown: Ids of the items of which no search found a review, of those that were looked at.
        over_context: Prompts that fill the model's context or more.
        no_room: Prompts that fit into the context, but not together with their longest answer.
        context: The context length that prompts were compared with, in tokens; None if it is not known.
        price: The price of the model; None if it is not known.
        cost: Likely range of the cost; None if no price is known.
        cost_at_most: The cost if every answer is as long as its request allows and nothing is cached.
        seconds: Time of the run, by simulation; with a backend that sends batches, if each takes a day.
        seconds_by_limits: The same with "half", "given" and "double" as many calls in flight.
        tokens_in_flight: Tokens of the calls that are in flight at once at most: with likely answers, and with the
            longest.
        kv_tokens: Tokens that the server's cache holds; None if it is not known.
        warnings: Sentences on what will fail or is unwise.
        suggested_limits: Limits that suit the server better, or those of the runner.
        assumed: What the times rest on, in words.
        learned_from: The earlier runs that the figures rest on, in words; empty if there are none.
        batches: What the run comes to by a provider's batches, and online; None if the backend sends none and the price
            has no `batch`.
    """

    task: str
    items: int
    sampled: int
    model: str
    kinds: tuple[PlannedCalls, ...]
    searches: int
    stored: Mapping[str, int]
    repeated: Mapping[str, int]
    repairs_at_most: int
    bad_rows: tuple[BadRow, ...]
    unknown: tuple[ItemId, ...]
    over_context: int
    no_room: int
    context: int | None
    price: Price | None
    cost: Range | None
    cost_at_most: float | None
    seconds: float
    seconds_by_limits: Mapping[str, float]
    tokens_in_flight: Range
    kv_tokens: int | None
    warnings: tuple[str, ...]
    suggested_limits: Limits
    assumed: str = field(default="", repr=False)
    learned_from: str = field(default="", repr=False)
    batches: PlannedBatches | None = None
    _stop: StopConditions = field(default=StopConditions(), repr=False)

    @property
    def calls(self) -> dict[str, int]:
        """Number of calls to the model by kind, if every answer can be used."""
        return {one.kind: one.calls for one in self.kinds}

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts, chat templates included."""
        return sum(one.prompt_tokens for one in self.kinds)

    @property
    def prompt_tokens_range(self) -> Range:
        """Fewest and most tokens of all prompts, by what answers say that stand in later prompts."""
        return _total(one.prompt_tokens_range for one in self.kinds)

    @property
    def completion_tokens(self) -> Range:
        """Likely range of the tokens of all answers."""
        return _total(one.completion_tokens for one in self.kinds)

    @property
    def completion_tokens_at_most(self) -> int:
        """Tokens of all answers, if each is as long as its request allows."""
        return sum(one.completion_tokens_at_most for one in self.kinds)

    @property
    def tokens(self) -> Range:
        """Likely range of the tokens of all prompts and answers."""
        return _total([self.prompt_tokens_range, self.completion_tokens])

    @property
    def cached_share(self) -> float:
        """Share of the prompt tokens that a service may read from its cache, from 0 to 1."""
        prompt = self.prompt_tokens
        return sum(one.cached_tokens for one in self.kinds) / prompt if prompt else 0.0

    def stop_conditions(self, margin: float = 1.2) -> StopConditions:
        """
        Return the runner's stop conditions, with a budget: the upper end of the likely ranges, times `margin`.

        Args:
            margin: Factor for what is not foreseen: retries, answers that are asked for again.

        Raises:
            ConfigurationError: `margin` is not above 0.
        """
        check_number("margin", margin, above=0)
        tokens = ceil(margin * self.tokens.high)
        cost = None if self.cost is None else margin * self.cost.high
        return replace(self._stop, max_tokens=tokens or None, max_cost=cost or None)

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as values that can be written as JSON."""
        totals = (
            "calls",
            "prompt_tokens",
            "prompt_tokens_range",
            "completion_tokens",
            "completion_tokens_at_most",
            "cached_share",
        )
        values = {one.name: getattr(self, one.name) for one in fields(self) if one.name[0] != "_"}
        return _plain({**values, **{name: getattr(self, name) for name in totals}})  # type: ignore[no-any-return]

    def __str__(self) -> str:
        return as_text(_title(self), _facts(self), self.warnings)

    def __repr__(self) -> str:
        cost = "" if self.cost is None else f", costs {self.cost.low:.4g} to {self.cost.high:.4g}"
        return f"<Plan of {self.task}: {self.items:,} items, {sum(self.calls.values()):,} calls{cost}>"

    def _repr_html_(self) -> str:
        heads = ("calls of kind", "calls", "prompt tokens", "answer tokens", "at most", "why a range")
        rows = (
            (
                one.kind,
                _span(one.calls_range),
                _span(one.prompt_tokens_range),
                _span(one.completion_tokens),
                f"{one.completion_tokens_at_most:,}",
                one.reason,
            )
            for one in self.kinds
        )
        return as_html(_title(self), _facts(self), heads, rows, self.warnings)


def _title(plan: Plan) -> str:
    """Return what is planned, in words."""
    sample = f", of which {plan.sampled:,} were looked at" if plan.sampled < plan.items else ""
    model = f", model {plan.model}" if plan.model else ""
    return f"Plan of {plan.task}: {plan.items:,} item{'s' * (plan.items != 1)}{sample}{model}"


def _facts(plan: Plan) -> list[tuple[str, str]]:
    """Return the figures of a plan by name, in words."""
    kinds = [f"{one.kind} {_span(one.calls_range)}" for one in plan.kinds[:_MAX_KINDS]]
    more = len(plan.kinds) - _MAX_KINDS
    listed = ", ".join(kinds) + (f" and {more} more kinds" if more > 0 else "")
    found = [("calls", f"{sum(plan.calls.values()):,}" + (f": {listed}" if listed else ""))]
    if plan.repairs_at_most:
        found.append(
            ("asked again", f"0 to {plan.repairs_at_most:,} calls, by how many answers cannot be read")
        )
    if plan.searches:
        found.append(("searches", f"{plan.searches:,}"))
    if plan.stored:
        found.append(("in the store", f"{sum(plan.stored.values()):,} replies, which are not paid for"))
    if plan.repeated:
        found.append(
            (
                "equal calls",
                f"{sum(plan.repeated.values()):,} equal to another of this run, which is made once",
            )
        )
    prompt = f"{plan.prompt_tokens:,}"
    if plan.prompt_tokens_range.low != plan.prompt_tokens_range.high:
        prompt += f" ({_span(plan.prompt_tokens_range)})"
    if plan.cached_share >= 0.01:
        prompt += f"; {plan.cached_share:.0%} may come from a service's prompt cache"
    found.append(("prompt tokens", prompt))
    found.append(
        (
            "answer tokens",
            f"{_span(plan.completion_tokens)} likely, {plan.completion_tokens_at_most:,} at most",
        )
    )
    if plan.cost is None or plan.cost_at_most is None:
        found.append(("cost", "unknown"))
    else:
        found.append(("cost", f"{_money(plan.cost)} likely, {plan.cost_at_most:.4g} at most"))
    batches = plan.batches
    if batches is not None and not batches.are_used:
        found.append(("by batches", f"{_batches(batches)}, with OpenAIBatchLLM"))
    elif batches is not None:
        online = "" if batches.online_cost is None else f"{_money(batches.online_cost)} likely, "
        found.append(("by batches", _batches(batches)))
        found.append(("online", f"{online}in {duration(batches.online_seconds)}"))
        return [*found, *_learned(plan)]
    half, double = (duration(plan.seconds_by_limits[name]) for name in ("half", "double"))
    times = f"{duration(plan.seconds)}; with half the calls in flight {half}, with double {double}"
    found.append(("time", f"{times} ({plan.assumed})"))
    in_flight = f"{plan.tokens_in_flight.low:,.0f} likely, {plan.tokens_in_flight.high:,.0f} at most"
    if plan.kv_tokens is not None:
        in_flight += f"; the cache holds {plan.kv_tokens:,}"
    found.append(("tokens in flight", in_flight))
    return [*found, *_learned(plan)]


def _learned(plan: Plan) -> list[tuple[str, str]]:
    return [("learned from", plan.learned_from)] if plan.learned_from else []


def _batches(batches: PlannedBatches) -> str:
    """Return what a run comes to by batches, in words."""
    cost = "" if batches.cost is None else f"{_money(batches.cost)} likely, "
    waves = f"{batches.waves:,} wave{'s' * (batches.waves != 1)}"
    return f"{cost}in {waves}, each of which may take a day"


def _span(numbers: Range) -> str:
    """Return a range of whole numbers in words."""
    low, high = round(numbers.low), round(numbers.high)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _money(cost: Range) -> str:
    """Return a range of costs in words."""
    return f"{cost.low:.4g} to {cost.high:.4g}"


def _total(ranges: Iterable[Range]) -> Range:
    listed = list(ranges)
    return Range(sum(one.low for one in listed), sum(one.high for one in listed))


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        if isinstance(value, Limits):  # its limiters are no data
            return {one.name: _plain(getattr(value, one.name)) for one in fields(value)}
        return _plain(asdict(value))
    if isinstance(value, Range):
        return list(value)
    if isinstance(value, Mapping):
        return {str(name): _plain(member) for name, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(member) for member in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
