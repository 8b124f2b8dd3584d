"""Final report of a command: tables of results and failures, and a paragraph of statistics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import click
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from .._tables.rows import cause_of
from .._text import error_text, terminal_text
from ..integrations._tally import duration
from ..models import ItemId
from ..outcomes import Failure, Outcome, RunStats, Success
from . import _tables as tables
from ._hints import hints
from ._options import LoadedInput
from ._tables import counted
from ._views import R, ResultView


def console(*, stderr: bool = False) -> Console:
    """Return a console that prints text unchanged, without markup, emoji codes or highlighting."""
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False)


def show(
    out: Console,
    collected: ResultCollector[R],
    view: ResultView[R],
    loaded: LoadedInput,
    stats: RunStats,
    *,
    written: bool,
    quiet: bool,
) -> None:
    """
    Print results, failures and statistics.

    Args:
        out: Console to print on.
        collected: The outcomes of the run.
        view: How to show its results.
        loaded: Its input.
        stats: Its statistics.
        written: Whether the results are also written to a file or to standard output.
        quiet: Whether to print only results and failures, and no results if they are written elsewhere.
    """
    results, failures = collected.results, collected.failures
    if results and not (quiet and written):
        given: list[Any] = results if view.with_ids else [success.value for success in results]
        out.print(view.table(given, loaded.source))
        _print_more(out, results, collected.done, view.what)
    if failures:
        out.print(tables.failures_table(failures, loaded.source))
        _print_more(out, failures, collected.failed, "failure")
        if len(collected.causes) < collected.failed:
            out.print(tables.causes_table(collected.causes, loaded.source))
        context = click.get_current_context(silent=True)
        texts = [error_text(failure.error) for failure in failures]
        for hint in [] if context is None else hints(texts, context.command):
            out.print(Padding(tables.dim(hint), (0, 1)))
    if not quiet:
        out.print(Padding(footer(collected, view, loaded, stats), (0, 1)))


def _print_more(out: Console, shown: Sequence[Any], total: int, what: str) -> None:
    hidden = total - len(shown)
    if hidden:
        out.print(Padding(tables.more(hidden, what if hidden == 1 else f"{what}s"), (0, 1, 1, 1)))


_NAMED = 3
"""Items with failed parts that are named."""
_MANY_REFUSALS = 0.05
"""Share of calls that were refused from which the report says what to do."""
_LIMIT_OPTIONS = {"llm": "--llm-concurrency", "batches": "--batch-concurrency"}
NO_MODEL = "offline-extractive"
"""Model name in the replies of `OfflineLLM`."""


def footer(collected: ResultCollector[R], view: ResultView[R], loaded: LoadedInput, stats: RunStats) -> Text:
    """Return a paragraph with the counts and statistics of the run, and notes."""
    text = Text(
        f"{_counts(collected, view, len(loaded.items))} {_costs(stats, searched=loaded.search is not None)}"
    )
    if stats.stopped_because is not None and not collected.interrupted:
        text.append(f" The run stopped early: {terminal_text(stats.stopped_because)}.", style="red")
    if stats.rate_limited >= _MANY_REFUSALS * max(1, stats.calls.get("llm", 0)):
        text.append(f" {refusals(stats)}", style="yellow")
    if collected.failed_parts:
        text.append(f" {_failed_parts(collected, view)}.", style="red")
    if loaded.source.skipped:
        text.append(f" {counted(loaded.source.skipped, 'bad row was', 'bad rows were')} left out.")
    if loaded.note:
        text.append(f" {loaded.note}")
    models = ", ".join(sorted(map(terminal_text, collected.models)))
    if models:
        text.append(f" Model: {models}.")
    if NO_MODEL in collected.models:
        text.append(f" No language model was used: {view.offline}.", style="yellow")
    return text


def _failed_parts(collected: ResultCollector[R], view: ResultView[R]) -> str:
    """Return how many parts failed, and of which items."""
    ids = collected.with_failed_parts
    names = ", ".join(terminal_text(str(item_id)) for item_id in ids[:_NAMED])
    dots = ", ..." if len(ids) > _NAMED else ""
    what = view.what if len(ids) == 1 else f"{view.what}s"
    return f"{counted(collected.failed_parts, *view.failed_part_phrases)} (of {what} {names}{dots})"


def refusals(stats: RunStats) -> str:
    """Return a sentence about refused calls: which limit would have done, or how to have it found."""
    refused = {change.limiter for change in stats.limit_history if change.reason == "rate_limited"}
    last = {change.limiter: change.limit for change in stats.limit_history}
    found = [
        f"{last[name]} ({option} {last[name]})" for name, option in _LIMIT_OPTIONS.items() if name in refused
    ]
    if found:
        advice = f"it takes about {' and '.join(found)}"
    elif at := [name for name, endpoint in stats.endpoints.items() if endpoint.rate_limited]:
        advice = _of_endpoints(at, {name: last[f"llm:{name}"] for name in at if f"llm:{name}" in refused})
    else:
        advice = "with --llm-concurrency auto the limit adapts to what the service takes"
    return f"The service refused {counted(stats.rate_limited, 'call', 'calls')}; {advice}."


def _of_endpoints(names: Sequence[str], taken: Mapping[str, int]) -> str:
    """Return what endpoints that refused calls take, or how to have it found."""
    advice = [f"{name} takes about {limit}" for name, limit in taken.items()]
    if fixed := [name for name in names if name not in taken]:
        limits = ", ".join(f"{name!r}: AdaptiveLimit()" for name in fixed)
        what = "endpoint takes" if len(fixed) == 1 else "endpoints take"
        advice.append(f"give its pool a limit that adapts to what the {what}: limits={{{limits}}}")
    return "; ".join(advice)


def _counts(collected: ResultCollector[R], view: ResultView[R], total: int) -> str:
    parts = [f"{collected.done:,} of {view.several(total)} {view.done}"]
    others = {
        "failed": collected.failed,
        "not finished": collected.unfinished,
        "not started": total - collected.total,
    }
    parts += [f"{number:,} {what}" for what, number in others.items() if number]
    return ("Interrupted: " if collected.interrupted else "") + ", ".join(parts)


def _costs(stats: RunStats, *, searched: bool) -> str:
    peak = stats.peak_in_flight
    calls = [counted(stats.calls.get("llm", 0), "LLM call", "LLM calls")]
    peaks = [str(peak.get("llm", 0))]
    if searched:
        calls.insert(0, counted(stats.calls.get("search", 0), "search", "searches"))
        peaks.insert(0, str(peak.get("search", 0)))
    tokens = (
        f"{stats.prompt_tokens:,} tokens in and {stats.completion_tokens:,} out"
        if stats.prompt_tokens or stats.completion_tokens
        else "no tokens"
    )
    hits = f", {counted(stats.cache_hits, 'reply', 'replies')} from the store" if stats.cache_hits else ""
    return (
        f"in {seconds(stats.wall_seconds)}, with {' and '.join(calls)} "
        f"(at most {' and '.join(peaks)} in flight){hits}, "
        f"{counted(stats.retries, 'retry', 'retries')}, "
        f"{stats.rate_limited:,} rate limited and {tokens}."
    )


def seconds(span: float) -> str:
    """Return a time span in words, with tenths of a second below 10 s."""
    return f"{span:.1f} s" if span < 10 else duration(span)


T = TypeVar("T", bound=Success[object] | Failure)


@dataclass
class ResultCollector(Generic[R]):
    """
    Collects the outcomes of a run: keeps the first ones in input order, and counts all.

    Attributes:
        max_kept: How many successes, and how many failures, to keep; None for all.
        count_failed_parts: Returns the number of failed parts of a result.
        done: Number of items that succeeded.
        failed: Number of items that failed.
        unfinished: Number of items that were started, but not finished before the run stopped.
        causes: Of each cause of failures, how many there are, and the id of an item that failed by it.
        failed_parts: Number of failed parts of all results.
        with_failed_parts: Ids of the first items that have some.
        models: Names of the models that answered.
        interrupted: Whether Ctrl-C ended the run.
    """

    max_kept: int | None
    count_failed_parts: Callable[[R], int]
    done: int = 0
    failed: int = 0
    unfinished: int = 0
    causes: dict[str, tuple[int, ItemId | None]] = field(default_factory=dict)
    failed_parts: int = 0
    with_failed_parts: list[ItemId | None] = field(default_factory=list)
    models: set[str] = field(default_factory=set)
    interrupted: bool = False
    _successes: list[Success[R]] = field(default_factory=list)
    _failures: list[Failure] = field(default_factory=list)

    def add(self, outcome: Outcome[R]) -> None:
        """Add an outcome."""
        if isinstance(outcome, Success):
            self.done += 1
            failed_parts = self.count_failed_parts(outcome.value)
            if failed_parts and len(self.with_failed_parts) <= _NAMED:
                self.with_failed_parts.append(outcome.item_id)
            self.failed_parts += failed_parts
            model = getattr(outcome.value, "model", "")
            if model and isinstance(model, str):
                self.models.add(model)
            self._keep(self._successes, outcome)
        elif outcome.stage == "run":
            self.unfinished += 1
        else:
            self.failed += 1
            cause = cause_of(outcome)
            number, example = self.causes.get(cause, (0, outcome.item_id))
            self.causes[cause] = number + 1, example
            self._keep(self._failures, outcome)

    @property
    def total(self) -> int:
        """Number of outcomes."""
        return self.done + self.failed + self.unfinished

    @property
    def results(self) -> list[Success[R]]:
        """The first successes, in input order."""
        return self._first(self._successes)

    @property
    def failures(self) -> list[Failure]:
        """The first failures, in input order."""
        return self._first(self._failures)

    def _keep(self, kept: list[T], outcome: T) -> None:
        kept.append(outcome)
        # Outcomes arrive out of order. Sort and truncate only when the list has doubled: amortised O(log n) each.
        if self.max_kept is not None and len(kept) > 2 * self.max_kept + 100:
            kept[:] = self._first(kept)

    def _first(self, kept: list[T]) -> list[T]:
        return sorted(kept, key=lambda outcome: outcome.index)[: self.max_kept]
