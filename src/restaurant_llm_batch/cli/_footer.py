"""The paragraph that ends what a command prints: how much was done, and what it took."""

from __future__ import annotations

from rich.text import Text

from ..integrations._tally import duration
from ..outcomes import RunStats
from ._gathering import Gathered
from ._options import Work
from ._results import R, View
from ._tables import clean, counted

NO_MODEL = "offline-extractive"


def footer(gathered: Gathered[R], view: View[R], work: Work, stats: RunStats) -> Text:
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


def _counts(gathered: Gathered[R], view: View[R], asked_for: int) -> str:
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
    found = f", {counted(stats.found, 'answer', 'answers')} from the store" if stats.found else ""
    return (
        f"in {seconds(stats.wall_seconds)}, with {' and '.join(calls)} "
        f"(at most {' and '.join(most)} in flight){found}, "
        f"{counted(stats.retries, 'retry', 'retries')}, "
        f"{counted(stats.refusals, 'refusal', 'refusals')} and {tokens}."
    )


def seconds(span: float) -> str:
    """Write a time span, with tenths while it is short."""
    return f"{span:.1f} s" if span < 10 else duration(span)
