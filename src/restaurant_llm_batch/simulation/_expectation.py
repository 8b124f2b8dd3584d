"""
Expectation of a run by its history: the figures of a plan, corrected by what earlier runs of the task have seen.

Theory of operation. What the task's own code decides stays as it was planned: which calls an item makes, if no answer
decides, and what stands in their prompts. The rest is as it was: lengths of answers, by kind and by prompt; calls that
answers decide, for each item; prompts that answers stand in. Prompts are also counted in the tokens of the service: by
the items that the plan and the history have in common.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from .._config.stopping import Price
from ._history import MIN_ITEMS, History, SeenItem, SeenKind
from ._lengths import Length
from ._recording import ItemRecord, Recorder
from ._script import PlannedCall
from .plan import PlannedCalls, Range

_OTHER_TASK = 0.5, 2.0
"""Prompts that are so much shorter or longer than those of the history are not those of the same task."""
_ANY_COUNTER = 0.2, 5.0
"""By how much a made-up counter may be off, if all items that both have differ alike."""
_OTHER_COUNTER = 0.8, 1.25
"""By how much counters of tokens differ, if the items do not."""
_UNEVEN = 0.25
"""Share by which the items that both have differ in the mean, from which on they are not the same."""


@dataclass(frozen=True, slots=True)
class Decided:
    """Whether answers decide how many calls of a kind there are, and whether they stand in its prompts."""

    calls: bool
    prompts: bool


@dataclass(frozen=True, slots=True)
class Expected:
    """
    What is expected of a run.

    Attributes:
        kinds: The calls by kind.
        warnings: Why the history may not be that of this task.
    """

    kinds: list[PlannedCalls]
    warnings: list[str]


class Expectation:
    """
    Corrects the figures of a plan.

    Args:
        history: The history of the task.
        recorder: What was recorded for the plan.
        scale: The number of all items, by those that were looked at.
    """

    def __init__(self, history: History, recorder: Recorder, scale: float) -> None:
        self.history = history
        self._calling = [item for item in recorder.items if item.calls]
        self._items = scale * len(self._calling)
        self._by_id: Mapping[object, ItemRecord] = {item.item_id: item for item in self._calling}
        self._common = [item for item in history.items if item.item_id in self._by_id]
        self._decided: dict[str, Decided] = {}

    def kinds(self, planned: Sequence[PlannedCalls], decided: Mapping[str, Decided]) -> Expected:
        """Return the calls by kind, and warnings."""
        found, warnings = [], []
        known = self.history.kinds
        self._decided = {kind: Decided(calls=True, prompts=True) for kind in known} | dict(decided)
        for one in planned:
            seen = known.get(one.kind)
            if seen is None:
                found.append(one)
            elif self._decided[one.kind].calls:
                found.append(self._as_often(one, seen))
            else:
                corrected, warning = self._corrected(one, seen)
                found.append(corrected)
                warnings += warning
        planned_kinds = {one.kind for one in planned}
        for kind, seen in known.items():
            if kind not in planned_kinds:
                nothing = PlannedCalls(kind, 0, Range(0, 0), 0, Range(0, 0), Range(0, 0), 0, 0, 0)
                found.append(self._as_often(nothing, seen))
        return Expected(found, warnings)

    def cost(self, kinds: Sequence[PlannedCalls], price: Price, others: Range) -> Range:
        """
        Return the likely range of the cost.

        Args:
            kinds: The calls by kind.
            price: The price.
            others: The cost of kinds that the history does not know.
        """
        known = [one for one in kinds if one.kind in self.history.kinds]
        likely = sum(
            price.of_tokens(one.prompt_tokens, round(_middle(one.completion_tokens)), one.cached_tokens)
            for one in known
        )
        off = self.history.spread(
            lambda item: self.history.cost(item, price) - self._cost_expected(item, price),
            self._items,
            likely / max(1.0, self._items),
        )
        # Of prompts: what is not known of them beside what differs from item to item.
        unknown = sum(
            price.of_tokens(round(one.prompt_tokens_range.high - one.prompt_tokens_range.low), 0) / 2
            for one in known
            if not self._decided[one.kind].calls
        )
        off = (off**2 + unknown**2) ** 0.5
        return Range(max(0.0, likely - off) + others.low, likely + off + others.high)

    def _cost_expected(self, item: SeenItem, price: Price) -> float:
        """Return what an item of the history would have been expected to cost."""
        total = 0.0
        for kind, seen in self.history.kinds.items():
            if self._decided[kind].calls:
                share = 1 / len(self.history.items)
                one = seen.total
                total += price.of_tokens(one.prompt, one.completion, one.cached) * share
            elif kind in item.spent:
                spent = item.spent[kind]
                completion = self.history.expected(kind, spent.prompt, spent.calls)
                total += price.of_tokens(
                    spent.prompt, 0, round(seen.cached_share * spent.prompt)
                ) + completion * price.of_tokens(0, 1)
        return total

    def _as_often(self, one: PlannedCalls, seen: SeenKind) -> PlannedCalls:
        """Return the calls of a kind that answers decide: as often for each item as it was."""
        history, number = self.history, self._items
        each = number / len(history.items)

        def spread(figure: str) -> Range:
            mean = getattr(seen.total, figure) / len(history.items)
            off = history.spread(
                lambda item: (
                    getattr(item.spent[one.kind], figure) - mean if one.kind in item.spent else -mean
                ),
                number,
                mean,
            )
            return _around(number * mean, off)

        longest = (
            one.completion_tokens_at_most / one.calls
            if one.calls
            else max(seen.answers.factors) * seen.answers.mean(seen.prompt)
        )
        calls = spread("calls")
        return replace(
            one,
            calls=round(each * seen.total.calls),
            calls_range=calls,
            prompt_tokens=round(each * seen.total.prompt),
            prompt_tokens_range=spread("prompt"),
            completion_tokens=spread("completion"),
            completion_tokens_at_most=round(longest * calls.high),
            cached_tokens=round(each * seen.total.cached),
            largest_prompt=max(one.largest_prompt, round(seen.prompt)),
            reason=f"{seen.items:,} of {len(history.items):,} items made one in earlier runs",
        )

    def _corrected(self, one: PlannedCalls, seen: SeenKind) -> tuple[PlannedCalls, list[str]]:
        """Return the calls of a kind whose number is known: with prompts and answers as they were."""
        history, kind = self.history, one.kind
        ratio, again, doubt, warnings = self._ratio(one, seen)
        prompt = ratio * one.prompt_tokens
        low, high = one.prompt_tokens_range
        if self._decided[kind].prompts:
            low = high = one.prompt_tokens  # what answers say is in the ratio
        prompts = Range(round(low * ratio * doubt.low), round(high * ratio * doubt.high))
        expected = history.expected(kind, prompt, one.calls * again)
        share = seen.items / len(history.items)
        off = history.spread(
            lambda item: (
                item.spent[kind].completion
                - history.expected(kind, item.spent[kind].prompt, item.spent[kind].calls)
                if kind in item.spent
                else 0.0
            ),
            self._items,
            seen.total.completion / len(history.items),
        )
        reasons = [reason for reason in (one.reason,) if reason and not self._decided[kind].prompts]
        if share and again > 1.005:
            reasons.append(f"{again - 1:.0%} were made again in earlier runs")
        corrected = replace(
            one,
            prompt_tokens=round(prompt),
            prompt_tokens_range=prompts,
            completion_tokens=_around(expected, off, most=one.completion_tokens_at_most),
            cached_tokens=round(seen.cached_share * prompt),
            reason="; ".join(reasons),
        )
        return corrected, warnings

    def _ratio(self, one: PlannedCalls, seen: SeenKind) -> tuple[float, float, Range, list[str]]:
        """
        Return how prompts of a kind compare to those counted.

        Returns:
            The tokens that the service counts, by those that the plan counts; how many calls were made for each that is
            planned; the range in which the first may lie around its value; and warnings.
        """
        kind, again, certain = one.kind, 1 + seen.cut_off, Range(1.0, 1.0)
        counted = one.prompt_tokens / one.calls
        usual = seen.prompt / counted
        warning = (
            f"prompts of {kind} have {counted:,.0f} tokens on average, and had {seen.prompt:,.0f} in earlier runs: "
            "if the task has changed since, its answers may be of another length too"
        )
        pairs = [(self._by_id[item.item_id], item.spent[kind]) for item in self._common if kind in item.spent]
        pairs = [(planned, spent) for planned, spent in pairs if planned.calls[kind]]
        if len(pairs) >= MIN_ITEMS and not self._decided[kind].prompts:
            ratio = sum(spent.prompt for _, spent in pairs) / sum(
                planned.tokens[kind] for planned, _ in pairs
            )
            made = sum(spent.calls for _, spent in pairs) / sum(planned.calls[kind] for planned, _ in pairs)
            uneven = fmean(abs(spent.prompt / (planned.tokens[kind] * ratio) - 1) for planned, spent in pairs)
            if _within(ratio, _ANY_COUNTER) and uneven < _UNEVEN and made < _OTHER_TASK[1]:
                return ratio, max(1.0, made), certain, [] if _within(ratio, _OTHER_TASK) else [warning]
        if self._decided[kind].prompts and _within(usual, _ANY_COUNTER):
            return usual * again, again, certain, [] if _within(usual, _OTHER_TASK) else [warning]
        if not _within(usual, _OTHER_TASK):
            return 1.0, again, certain, [warning]
        # Other items, or another counter: it may be either.
        middle = (1 + usual) / 2
        doubt = Range(min(1.0, usual) / middle, max(1.0, usual) / middle)
        return middle * again, again, doubt, [] if _within(usual, _OTHER_COUNTER) else [warning]

    def add_to_scripts(self) -> None:
        """Add calls to the items that answers decide, as often as they were made, for the time."""
        recorded = {kind for item in self._calling for kind in item.calls}
        for kind, seen in self.history.kinds.items():
            if kind in recorded or not self._calling:
                continue
            length = max(1, round(seen.answers.mean(seen.prompt)))
            call = PlannedCall(
                "llm", True, kind, round(seen.prompt), Length(length, length, length, 2 * length)
            )
            total = seen.total.calls / len(self.history.items) * len(self._calling)
            for number in range(round(total)):
                self._calling[number * len(self._calling) // max(1, round(total))].script.append(call)


def _around(likely: float, off: float, most: float | None = None) -> Range:
    high = likely + off
    return Range(max(0, round(likely - off)), round(high if most is None else min(high, most)))


def _within(ratio: float, bounds: tuple[float, float]) -> bool:
    return bounds[0] < ratio < bounds[1]


def _middle(numbers: Range) -> float:
    return (numbers.low + numbers.high) / 2
