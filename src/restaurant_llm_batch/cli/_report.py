"""What a command says when its run is done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from ..integrations._tally import duration
from ..outcomes import Failure, Outcome, RunStats, Success
from . import _tables as tables
from ._options import LoadedInput
from ._tables import clean, counted
from ._views import R, ResultView


def console(*, stderr: bool = False) -> Console:
    """Return a console that prints texts as they are."""
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False)


def show(
    out: Console,
    gathered: ResultCollector[R],
    view: ResultView[R],
    work: LoadedInput,
    stats: RunStats,
    *,
    written: bool,
    quiet: bool,
) -> None:
    """
    Print results, failures and what the run took.

    Args:
        out: Where to.
        gathered: What the run brought.
        view: How its results are shown.
        work: What there was to do.
        stats: What it took.
        written: Whether the results were written elsewhere.
        quiet: Whether to leave out what is not a result.
    """
    results, failures = gathered.results, gathered.failures
    if results and not (quiet and written):
        out.print(view.table(results, work.known))
        _print_more(out, results, gathered.done, view.what)
    if failures:
        out.print(tables.failures_table(failures, work.known))
        _print_more(out, failures, gathered.failed, "failure")
    if not quiet:
        out.print(Padding(footer(gathered, view, work, stats), (0, 1)))


def _print_more(out: Console, shown: Sequence[Any], total: int, what: str) -> None:
    left = total - len(shown)
    if left:
        out.print(Padding(tables.more(left, what if left == 1 else f"{what}s"), (0, 1, 1, 1)))


NO_MODEL = "offline-extractive"


def footer(gathered: ResultCollector[R], view: ResultView[R], work: LoadedInput, stats: RunStats) -> Text:
    """Say in a paragraph what the run did and took."""
    text = Text(
        f"{_counts(gathered, view, len(work.items))} {_effort(stats, searched=work.search is not None)}"
    )
    if stats.stopped_because is not None and not gathered.interrupted:
        text.append(f" The run stopped early: {clean(stats.stopped_because)}.", style="red")
    if gathered.lost:
        text.append(f" {counted(gathered.lost, *view.lost_as)}.", style="red")
    if work.note:
        text.append(f" {work.note}")
    models = ", ".join(sorted(map(clean, gathered.models)))
    if models:
        text.append(f" Model: {models}.")
    if NO_MODEL in gathered.models:
        text.append(f" No language model was used: {view.offline}.", style="yellow")
    return text


def _counts(gathered: ResultCollector[R], view: ResultView[R], asked_for: int) -> str:
    parts = [f"{gathered.done:,} of {view.several(asked_for)} {view.done}"]
    others = {
        "failed": gathered.failed,
        "not finished": gathered.unfinished,
        "not begun": asked_for - gathered.total,
    }
    parts += [f"{number:,} {what}" for what, number in others.items() if number]
    return ("Interrupted: " if gathered.interrupted else "") + ", ".join(parts)


def _effort(stats: RunStats, *, searched: bool) -> str:
    peak = stats.peak_in_flight
    calls = [counted(stats.calls.get("llm", 0), "LLM call", "LLM calls")]
    most = [str(peak.get("llm", 0))]
    if searched:
        calls.insert(0, counted(stats.calls.get("search", 0), "search", "searches"))
        most.insert(0, str(peak.get("search", 0)))
    tokens = (
        f"{stats.prompt_tokens:,} tokens in and {stats.completion_tokens:,} out"
        if stats.prompt_tokens or stats.completion_tokens
        else "no tokens"
    )
    found = f", {counted(stats.cache_hits, 'answer', 'answers')} from the store" if stats.cache_hits else ""
    return (
        f"in {seconds(stats.wall_seconds)}, with {' and '.join(calls)} "
        f"(at most {' and '.join(most)} in flight){found}, "
        f"{counted(stats.retries, 'retry', 'retries')}, "
        f"{counted(stats.rate_limited, 'refusal', 'refusals')} and {tokens}."
    )


def seconds(span: float) -> str:
    """Write a time span, with tenths while it is short."""
    return f"{span:.1f} s" if span < 10 else duration(span)


T = TypeVar("T", bound=Success[object] | Failure)


@dataclass
class ResultCollector(Generic[R]):
    """
    The outcomes of a run; those that come first in the input are kept, the others are counted.

    Attributes:
        most: How many outcomes of a kind are kept; None for all.
        count_lost: Says how many parts of a result are missing.
        done: How many items were done.
        failed: How many failed.
        unfinished: How many were begun when the run was stopped, and not finished.
        lost: How many parts are missing of what was done.
        models: The models that answered.
        interrupted: Whether Ctrl-C ended the run.
    """

    most: int | None
    count_lost: Callable[[R], int]
    done: int = 0
    failed: int = 0
    unfinished: int = 0
    lost: int = 0
    models: set[str] = field(default_factory=set)
    interrupted: bool = False
    _successes: list[Success[R]] = field(default_factory=list)
    _failures: list[Failure] = field(default_factory=list)

    def add(self, outcome: Outcome[R]) -> None:
        """Take an outcome."""
        if isinstance(outcome, Success):
            self.done += 1
            self.lost += self.count_lost(outcome.value)
            if outcome.value.model:
                self.models.add(outcome.value.model)
            self._keep(self._successes, outcome)
        elif outcome.stage == "run":
            self.unfinished += 1
        else:
            self.failed += 1
            self._keep(self._failures, outcome)

    @property
    def total(self) -> int:
        """How many outcomes there were."""
        return self.done + self.failed + self.unfinished

    @property
    def results(self) -> list[R]:
        """The first that were done, in input order."""
        return [success.value for success in self._first(self._successes)]

    @property
    def failures(self) -> list[Failure]:
        """The first that failed, in input order."""
        return self._first(self._failures)

    def _keep(self, kept: list[T], outcome: T) -> None:
        kept.append(outcome)
        # Sorting now and then, rather than always, keeps a hundred thousand restaurants cheap.
        if self.most is not None and len(kept) > 2 * self.most + 100:
            kept[:] = self._first(kept)

    def _first(self, kept: list[T]) -> list[T]:
        return sorted(kept, key=lambda outcome: outcome.index)[: self.most]
