"""
History of a task: what earlier runs in a record say of its calls, for plans.

Theory of operation. Tokens are summed by item and kind of call, of every attempt that was paid for. An item that found
a reply in the store is left out, because it says too little; so is one that did not end. How far a whole night may be
off is seen in how far items, and nights, are off from what is expected of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from pathlib import Path
from statistics import fmean, variance

from .._config.stopping import Price
from ..models import ItemId
from ..records._observed import ObservedCall, observed_calls, observed_items
from ..records._record import Record
from ..records._recorded import RecordedRun
from ._service import fit_numbers
from .latency import SampledNumbers

MOST_RUNS, MOST_CALLS = 10, 50_000
"""Most runs, and most calls of them together, that are looked at: the latest."""
MIN_ITEMS, MIN_CALLS = 5, 10
"""Fewest items, and fewest calls of a kind, that say how it usually is."""
ERRORS = 2.0
"""Standard errors of a likely range, either way: 19 of 20 nights lie in it."""
_DOUBT = 4
"""Nights that are assumed to have been equal, beside those that were seen."""
_NIGHT, _NIGHT_SEEN = 0.04, 0.01
"""By how much nights differ, as a share: if one was seen, and at least if several were."""


@dataclass(slots=True)
class Spent:
    """
    What an item has spent on calls of one kind.

    Attributes:
        calls: Number of the calls; attempts of one count once.
        prompt: Tokens of their prompts.
        cached: How many of these came from the service's cache.
        completion: Tokens of their answers.
    """

    calls: int = 0
    prompt: int = 0
    cached: int = 0
    completion: int = 0


@dataclass(frozen=True, slots=True)
class SeenItem:
    """An item of a run: the place of the run, its id, and what it spent by kind."""

    night: int
    item_id: ItemId | None
    spent: Mapping[str, Spent]


@dataclass(frozen=True, slots=True)
class SeenKind:
    """
    The calls of a kind in all runs together.

    Attributes:
        items: Number of items that made one.
        total: The sums.
        cut_off: Share of the calls whose answer was cut off, so that they were made again.
        answers: Tokens of an answer, by those of the prompt.
    """

    items: int
    total: Spent
    cut_off: float
    answers: SampledNumbers

    @property
    def cached_share(self) -> float:
        """Share of the prompt tokens that came from the cache."""
        return self.total.cached / self.total.prompt if self.total.prompt else 0.0

    @property
    def prompt(self) -> float:
        """Tokens of a prompt in the mean."""
        return self.total.prompt / self.total.calls


class History:
    """
    What earlier runs say of a task.

    Args:
        path: The record.
        runs: The runs, latest first.

    Attributes:
        runs: Those that were looked at.
        items: The items that made a call.
        kinds: Their calls by kind, of those of which there are enough.
    """

    def __init__(self, path: Path, runs: Sequence[RecordedRun]) -> None:
        self.path = path
        self.runs: list[RecordedRun] = []
        self.items: list[SeenItem] = []
        self.calls = 0
        points: defaultdict[str, list[tuple[int, int, float]]] = defaultdict(list)
        cut_off: defaultdict[str, int] = defaultdict(int)
        for run in runs[:MOST_RUNS]:
            if self.calls >= MOST_CALLS:
                break
            calls = observed_calls(path, run.run, MOST_CALLS - self.calls)
            seen = _items(len(self.runs), calls, observed_items(path, run.run))
            if seen:
                self.runs.append(run)
                self.items += seen
                self.calls += len(calls)
                for kind, point, is_cut_off in _answers(calls):
                    points[kind].append(point)
                    cut_off[kind] += is_cut_off
        self.kinds = {
            kind: SeenKind(number, total, cut_off[kind] / len(points[kind]), _all_paid(points[kind], total))
            for kind, number, total in _totals(self.items)
            if total.calls >= MIN_CALLS and number >= MIN_ITEMS and points[kind]
        }

    @property
    def lengths(self) -> dict[str, SampledNumbers]:
        """Tokens of an answer by kind."""
        return {kind: seen.answers for kind, seen in self.kinds.items()}

    def expected(self, kind: str, prompt: float, calls: float) -> float:
        """Return the tokens of so many answers, to prompts of so many tokens together."""
        return calls * self.kinds[kind].answers.mean(prompt / calls) if calls else 0.0

    def spread(self, error: Callable[[SeenItem], float], number: float, usual: float) -> float:
        """
        Return by how much a sum over a night's items may be off.

        Args:
            error: Returns by how much an item was off from what is expected.
            number: Number of the night's items.
            usual: The mean of an item.

        Returns:
            Two standard errors: of the night's items, of the expectation, which rests on the items that were seen, and
            of how nights differ.
        """
        nights: list[list[float]] = [[] for _ in self.runs]
        for item in self.items:
            nights[item.night].append(error(item))
        of_items = [one for night in nights for one in night]
        if len(of_items) < 2:
            return ERRORS * number * usual
        each = variance(of_items)
        between = (_NIGHT * usual) ** 2
        if len(nights) > 1:
            by_chance = fmean(each / len(night) for night in nights)
            seen = max(0.0, variance(map(fmean, nights)) - by_chance)
            # Two nights say little of how nights differ: they count as much as their number less one.
            between = max((_NIGHT_SEEN * usual) ** 2, seen * (len(nights) - 1) / (len(nights) - 1 + _DOUBT))
        of_sum = each * (number + number**2 / len(of_items))
        return ERRORS * sqrt(of_sum + between * number**2 * (1 + 1 / len(nights)))

    def cost(self, item: SeenItem, price: Price) -> float:
        """Return what an item cost."""
        return sum(price.of_tokens(one.prompt, one.completion, one.cached) for one in item.spent.values())

    def __str__(self) -> str:
        number, latest = len(self.runs), self.runs[0]
        which = f"run {latest.run}" if number == 1 else f"{number} runs"
        when = f"{'' if number == 1 else 'the latest '}of {latest.began:%Y-%m-%d %H:%M} UTC"
        return f"{which} of {self.path.name}, {when}: {len(self.items):,} items, {self.calls:,} calls"


def find_history(record: Record, task: str, model: str) -> History | None:
    """
    Return what the real runs of a task with a model say; None if there are none that say enough.

    Args:
        record: The record.
        task: Name of the task.
        model: Name of the model; if it is "", the one of the latest run.
    """
    runs = [run for run in reversed(record.runs()) if run.task == task and not run.simulated]
    wanted = model or next((run.model for run in runs), "")
    history = History(record.path, [run for run in runs if run.model == wanted])
    return history if history.kinds else None


def _items(night: int, calls: Iterable[ObservedCall], ended: Mapping[int, ItemId | None]) -> list[SeenItem]:
    """Return the items that made a call and ended, and what they spent."""
    spent: defaultdict[int, defaultdict[str, Spent]] = defaultdict(lambda: defaultdict(Spent))
    from_store = set()
    known: set[int] = set()
    for call in calls:
        if call.item is None or call.item not in ended:
            continue
        if call.outcome == "stored":
            from_store.add(call.item)
        elif call.prompt or call.completion:
            one = spent[call.item][call.kind]
            one.calls += call.call not in known
            one.prompt += call.prompt
            one.cached += call.cached
            one.completion += call.completion
            known.add(call.call)
    return [SeenItem(night, ended[row], of_item) for row, of_item in spent.items() if row not in from_store]


def _answers(calls: Iterable[ObservedCall]) -> Iterable[tuple[str, tuple[int, int, float], bool]]:
    """Yield of each call that was answered: its kind, the tokens of prompt and answer, and whether it was cut off."""
    for call in calls:
        if call.outcome == "ok" and call.prompt and call.completion:
            yield call.kind, (call.prompt, 0, float(call.completion)), call.finish_reason == "length"


def _all_paid(points: Sequence[tuple[int, int, float]], total: Spent) -> SampledNumbers:
    """Return the tokens of an answer, with those of attempts that failed and were paid for nevertheless."""
    found = fit_numbers(points)
    factor = total.completion / (found.mean(total.prompt / total.calls) * total.calls)
    return replace(found, fixed=factor * found.fixed, per_prompt_token=factor * found.per_prompt_token)


def _totals(items: Sequence[SeenItem]) -> Iterable[tuple[str, int, Spent]]:
    """Yield each kind, how many items made a call of it, and the sums."""
    numbers: defaultdict[str, int] = defaultdict(int)
    totals: defaultdict[str, Spent] = defaultdict(Spent)
    for item in items:
        for kind, one in item.spent.items():
            total = totals[kind]
            numbers[kind] += 1
            total.calls += one.calls
            total.prompt += one.prompt
            total.cached += one.cached
            total.completion += one.completion
    return [(kind, numbers[kind], total) for kind, total in totals.items()]
