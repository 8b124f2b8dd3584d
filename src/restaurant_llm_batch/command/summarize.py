"""The command `summarize`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import click
from rich.console import Console

from ..engine.retry import RetryPolicy
from ..engine.streams import Outcomes
from ..integrations.progress import RichProgress
from ..limits import Limits
from ..models import ItemId, RestaurantSummary
from ..protocols import AsyncLLMBackend, LLMBackend
from ..runner import BatchRunner
from ..strategy import Strategy
from ..tasks.summary import SummarizeAspects
from . import parameters, report, services
from .gathering import Gathered
from .interrupts import Interrupts
from .output import STDOUT, Writer, open_writer
from .services import MakeLLM
from .sources import Source, in_qdrant, open_source

_HELP = """
Summarise restaurants from their reviews, aspect by aspect and overall.

SOURCE is a file of reviews (JSON Lines, indexed in memory first) or a folder made by `index`; without it,
the sample that is shipped. With --search qdrant there is no SOURCE: all restaurants of the collection are
summarised. Results are the same at every stage; only the time differs.

Ctrl-C lets the calls in flight finish and shows what is done; pressed again, it cancels them.

Exit status: 0 all done, 1 some restaurants failed, 2 wrong usage, 130 interrupted.
"""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What was asked for on the command line."""

    source: Path | None
    stage: str
    search_concurrency: int
    llm_concurrency: int
    window: int
    limit: int
    min_score: float
    mode: Literal["single", "split"]
    language: Literal["auto", "ko", "en"]
    aspects: tuple[str, ...]
    restaurants: tuple[str, ...] | None
    first: int | None
    output: str | None
    show: int | None
    llm: str
    model: str | None
    llm_url: str | None
    search: str
    qdrant_url: str | None
    collection: str | None
    attempts: int
    quiet: bool

    @property
    def task(self) -> SummarizeAspects:
        """The task."""
        return SummarizeAspects(
            limit=self.limit,
            min_score=self.min_score,
            mode=self.mode,
            language=self.language,
            aspects=self.aspects,
        )

    def runner(
        self, llm: LLMBackend | AsyncLLMBackend, source: Source, progress: RichProgress
    ) -> BatchRunner:
        """Return the runner."""
        retry = RetryPolicy(attempts=self.attempts)
        return BatchRunner(
            llm=llm,
            search=source.search,
            strategy=Strategy.threaded() if self.stage == "threaded" else Strategy.stage(int(self.stage)),
            limits=Limits(search=self.search_concurrency, llm=self.llm_concurrency, restaurants=self.window),
            search_retry=retry,
            llm_retry=retry,
            observers=[progress],
        )

    def open_source(self) -> Source:
        """Open the reviews."""
        if self.search == "qdrant":
            return in_qdrant(self.source, self.qdrant_url, self.collection)
        return open_source(self.source, None if self.quiet else report.console(stderr=True))

    def items(self, source: Source) -> list[ItemId]:
        """Return the restaurants."""
        ids = source.restaurant_ids if self.restaurants is None else source.pick(self.restaurants)
        return list(ids[: self.first])


def command(llms: Mapping[str, MakeLLM]) -> click.Command:
    """
    Build the command.

    Args:
        llms: What makes a model, by the name to choose it by; the first is the default.
    """
    options = [parameters.source(), *_speed(), *_contents(llms), *_results()]
    return click.Command("summarize", params=options, callback=partial(_main, llms), help=_HELP)


def _main(llms: Mapping[str, MakeLLM], /, **given: Any) -> None:
    options = Options(**given)
    task, llm = options.task, llms[options.llm](services.llm_settings(options.model, options.llm_url))
    source = options.open_source()
    items = options.items(source)
    gathered = Gathered(options.show)
    with (
        source.search,
        open_writer(options.output, options.source) as writer,
        _progress(options) as progress,
        options.runner(llm, source, progress) as runner,
    ):
        stream = runner.stream(task, items)
        _collect(stream, writer, gathered, progress)
    out = report.console(stderr=options.output == STDOUT)
    report.show(out, gathered, stream.stats, source, len(items), options.quiet, options.output is not None)
    if gathered.interrupted:
        sys.exit(130)
    sys.exit(0 if gathered.done == len(items) else 1)


def _collect(
    stream: Outcomes[RestaurantSummary], writer: Writer, gathered: Gathered, progress: RichProgress
) -> None:
    interrupts = Interrupts(stream.stop, lambda: progress.in_flight, progress.note)

    def take(outcome: Any) -> None:
        with interrupts.held():
            gathered.add(outcome)
            writer.write(outcome)

    with interrupts.listening():
        try:
            for outcome in stream:
                take(outcome)
                if interrupts.count:
                    stream.stop()
        except KeyboardInterrupt as interrupt:
            left = getattr(interrupt, "report", None)
            for outcome in stream.close() if left is None else left.outcomes:
                take(outcome)
            gathered.interrupted = True
        finally:
            stream.close()
    gathered.interrupted = gathered.interrupted or bool(interrupts.count)


def _progress(options: Options) -> RichProgress:
    if options.quiet:
        return RichProgress(console=Console(quiet=True, force_terminal=False), plain_every=0)
    # Lines written to a terminal would run into a bar that is redrawn there.
    plain = options.output == STDOUT and sys.stdout.isatty()
    return RichProgress(console=Console(stderr=True, force_terminal=False if plain else None), transient=True)


def _speed() -> list[click.Parameter]:
    limits = Limits()
    return [
        click.Option(
            ["--stage"],
            type=click.Choice(["1", "2", "3", "4", "threaded"]),
            default="4",
            show_default=True,
            help="1: one thing at a time; 2: searches side by side; 3: and the model's async client; "
            "4: and restaurants side by side; threaded: side by side without an event loop.",
        ),
        _count("--search-concurrency", limits.search, "Searches in flight at most."),
        _count("--llm-concurrency", limits.llm, "Calls to the model in flight at most."),
        _count("--window", limits.restaurants, "Restaurants open at once at most."),
        _count("--attempts", RetryPolicy().attempts, "Tries of a call that fails in a way that may pass."),
    ]


def _contents(llms: Mapping[str, MakeLLM]) -> list[click.Parameter]:
    return [
        *services.llm_parameters(llms),
        *services.search_parameters(),
        click.Option(
            ["--aspects"],
            callback=parameters.names,
            default="service,price,food",
            show_default=True,
            metavar="A,B,...",
            help="What to summarise; an aspect without words of its own is searched by its name.",
        ),
        click.Option(
            ["--mode"],
            type=click.Choice(["single", "split"]),
            default="single",
            show_default=True,
            help="One call per restaurant, or one per aspect and one for the whole.",
        ),
        click.Option(
            ["--language"],
            type=click.Choice(["auto", "ko", "en"]),
            default="auto",
            show_default=True,
            help="What to search and answer in; auto goes by the reviews.",
        ),
        parameters.limit(),
        parameters.min_score(),
        click.Option(
            ["--restaurants"], callback=parameters.names, metavar="ID,ID,...", help="Only these restaurants."
        ),
        click.Option(["--first"], type=click.IntRange(min=1), metavar="N", help="Only the first N of them."),
    ]


def _results() -> list[click.Parameter]:
    return [
        click.Option(
            ["-o", "--output"],
            metavar="FILE",
            help="Write each outcome to FILE as JSON Lines as soon as it is there; - for standard output.",
        ),
        click.Option(
            ["--show"],
            callback=parameters.number_or_all,
            default="10",
            show_default=True,
            metavar="N|all",
            help="How many restaurants to show.",
        ),
        click.Option(
            ["-q", "--quiet"],
            is_flag=True,
            help="No progress and no statistics; with --output, nothing but failures.",
        ),
    ]


def _count(name: str, default: Any, text: str) -> click.Option:
    return click.Option(
        [name], type=click.IntRange(min=1), default=default, show_default=True, metavar="N", help=text
    )
