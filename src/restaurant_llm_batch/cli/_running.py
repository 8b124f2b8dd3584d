"""
Task commands: run a task over the input, write outcomes as they finish, and lose none by Ctrl-C or SIGTERM.

Theory of operation. `command` builds a click command whose callback is `_main`:

1. Parse the options, build the LLM backend, load the input and build the runner; errors end the command before any
   call is made, and before anything is opened for writing.
2. Stream the outcomes of the run. Each is collected for the report and written to ``--output`` at once, and a Ctrl-C
   never separates the two (`StopSignals.deferred`).
3. The first Ctrl-C, or SIGTERM, only sets a flag and stops the run softly: calls in flight finish, their outcomes still
   arrive, and no item is started. The second raises `KeyboardInterrupt` in the main thread: it cancels the calls in
   flight, and the outcomes finished until then are taken from the exception (`KeyboardInterrupt.report`) or from the
   closed stream. Before and after the run, one is enough.
4. Print the report, and exit with 0 (all succeeded), 1 (some failed) or 130 (interrupted).

Resources are opened in an `ExitStack` in order of dependence: search, output file, progress display, runner. The runner
is closed first, so that the display still shows its last events.

With ``--processes`` the run is in processes of their own (`_processes`), whose outcomes come in one stream too.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import click
from rich.console import Console

from .._engine.streams import OutcomeStream
from .._runner import BatchRunner
from .._settings.settings import BatchSettings
from .._text import message_text
from ..integrations._tally import calls
from ..integrations.progress import RichProgress
from ..outcomes import Outcome
from ..protocols import AsyncLLMBackend, LLMBackend, Task
from ..records._record import Record, find_record
from ..tasks._preview import preview
from ..tokens import estimate_tokens
from . import _backends as services
from . import _report as report
from ._backends import MakeLLM
from ._options import LoadedInput, RunOptions
from ._output import STDOUT, check_output, open_writer
from ._processes.start import check_model, open_stream
from ._processes.stream import ProcessStream
from ._reading import take_form
from ._records import check_level, record_columns, record_maker, refuse_table
from ._report import ResultCollector
from ._settings import SectionedCommand, take_settings
from ._signals import StopSignals, terminated_like_interrupted
from ._views import R, ResultView

_HELP_ENDING = """
Ctrl-C lets the calls in flight finish and shows what is done; pressed again, it cancels them. SIGTERM does the same.

Exit status: 0 all done, 1 some {what}s failed, 2 wrong usage, 130 interrupted.
"""

Stream: TypeAlias = OutcomeStream[R] | ProcessStream[R]


def command(
    name: str,
    help_text: str,
    parameters: Sequence[click.Parameter],
    options: type[RunOptions[R]],
    view: ResultView[R],
    llms: Mapping[str, MakeLLM],
) -> click.Command:
    """
    Build a command that runs a task.

    Args:
        name: Name of the command.
        help_text: Its help text, without the paragraphs common to all task commands.
        parameters: Its parameters, in the order of the help text.
        options: Class that holds their values.
        view: How to show its results.
        llms: Factories of LLM backends, by their names for ``--llm``.
    """
    callback = partial(_main, options, view, llms)
    ending = _HELP_ENDING.format(what=view.what)
    return SectionedCommand(name, params=[*parameters], callback=callback, help=f"{help_text}{ending}")


@terminated_like_interrupted()
def _main(
    make_options: Callable[..., RunOptions[R]],
    view: ResultView[R],
    llms: Mapping[str, MakeLLM],
    /,
    **values: Any,
) -> None:
    chosen = services.take_llm(llms, values)
    settings = take_settings(values)
    options = make_options(settings=settings, form=take_form(values), **values)
    task = options.task
    if options.preview:
        _preview(options, task)
        return
    if options.processes is not None:
        check_model(options, chosen)
    is_plan = options.plan is True
    _, llm = services.make_llm(llms, chosen, services.with_any_keys(settings) if is_plan else settings)
    check_output(options.output, options.paths, settings.batch_store, settings.batch_record)
    check_level(options.level, view)
    console = None if options.quiet else report.console(stderr=True)
    if is_plan:
        refuse_table(options.output)
        loaded = options.load(console)
        arguments = settings.runner_arguments(llm)
        recording = arguments.pop("record", None)  # a plan writes nothing to it
        record = None if recording is None else find_record(recording.path)
        _plan(options, task, loaded, BatchRunner(llm=llm, search=loaded.search, **arguments), record)
        return
    collected: ResultCollector[R] = ResultCollector(options.show, view.count_failed_parts)
    with ExitStack() as stack:
        folder: Path | None = None
        if options.processes is not None:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="restaurant-llm-batch-")))
            options = replace(options, index_folder=folder / "index")
        loaded = options.load(console)
        if loaded.search is not None:
            stack.enter_context(loaded.search)
        progress = _progress(options, f"{view.what}s")
        # Before the output is opened: an argument may be invalid, or the store be another program's.
        begin: Callable[[], Stream[R]]
        if folder is None:
            begin = _in_this_process(stack, options, task, loaded, llm, progress)
        else:
            many = open_stream(stack, options, loaded, llm, llms, chosen, progress, folder)
            begin = partial(stack.enter_context, many)
        writer = stack.enter_context(
            open_writer(
                options.output,
                options.paths,
                settings.batch_store,
                settings.batch_record,
                columns=record_columns(options.level, loaded.source.names),
            )
        )
        as_records = record_maker(view, options.output, options.level, loaded.source.names)
        stack.enter_context(progress)
        stream = begin()

        def handle(outcome: Outcome[R]) -> None:
            collected.add(outcome)
            for record in as_records(outcome):
                writer.write(record)

        collected.interrupted = _consume(stream, handle, progress, settings)
    out = report.console(stderr=options.output == STDOUT)
    written = options.output is not None
    report.show(out, collected, view, loaded, stream.stats, written=written, quiet=options.quiet)
    if collected.interrupted:
        sys.exit(130)
    sys.exit(0 if collected.done == len(loaded.items) else 1)


def _in_this_process(
    stack: ExitStack,
    options: RunOptions[R],
    task: Task[R],
    loaded: LoadedInput,
    llm: LLMBackend | AsyncLLMBackend,
    progress: RichProgress,
) -> Callable[[], OutcomeStream[R]]:
    """Make the runner, and return the function that opens it and begins its run."""
    arguments = options.settings.runner_arguments(llm)
    runner = BatchRunner(llm=llm, search=loaded.search, observers=[progress], **arguments)
    return lambda: stack.enter_context(runner).stream(task, loaded.items)


def _plan(
    options: RunOptions[R], task: Task[R], loaded: LoadedInput, runner: BatchRunner, record: Record | None
) -> None:
    """Print what a run comes to, as earlier runs in a record went if there are some, or write it to the output."""
    with ExitStack() as stack:
        if loaded.search is not None:
            stack.enter_context(loaded.search)
        settings = options.settings
        writer = stack.enter_context(
            open_writer(options.output, options.paths, settings.batch_store, settings.batch_record, "jsonl")
        )
        plan = stack.enter_context(runner).plan(task, loaded.items, record=record)
        writer.write(plan.to_dict())
    if options.output != STDOUT and not (options.output and options.quiet):
        click.echo(str(plan))


def _preview(options: RunOptions[R], task: Task[R]) -> None:
    """Print the prompts of the items that the options choose, or of the first one."""
    loaded = options.load(None if options.quiet else report.console(stderr=True))
    are_chosen = options.first is not None or options.only is not None
    settings = options.settings
    # A server that counts tokens is not asked: a preview needs none.
    count = estimate_tokens if settings.batch_token_counter == "vllm" else settings.token_counter()
    with ExitStack() as stack:
        if loaded.search is not None:
            stack.enter_context(loaded.search)
        for item in loaded.items if are_chosen else loaded.items[:1]:
            text = preview(task, item, search=loaded.search, limits=settings.limits(), count_tokens=count)
            # Line by line: a review may hold what a terminal obeys.
            click.echo("\n".join(message_text(line, sys.maxsize) for line in text.split("\n")))


def _in_flight(progress: RichProgress, settings: BatchSettings, again: str) -> str:
    """Return a text about what a run that is stopped has in flight; to do `again` cancels it."""
    batches = progress.batches
    if not batches:
        return f"finishing {calls(progress.in_flight)} in flight; {again} again to cancel them"
    which, they = ("the batch is", "it has") if batches == 1 else (f"{batches} batches are", "they have")
    fate = "left to go on" if settings.openai_batch_on_stop == "keep" else "cancelled"
    later = (
        "" if settings.batch_store is None else f"; run the same command again to use what {they} answered"
    )
    return f"stopping: {which} {fate} at the service{later}"


def _consume(
    stream: Stream[R],
    handle: Callable[[Outcome[R]], object],
    progress: RichProgress,
    settings: BatchSettings,
) -> bool:
    """Handle every outcome of a run; return whether Ctrl-C or SIGTERM stopped it."""
    interrupts = StopSignals(stream.stop, partial(_in_flight, progress, settings), progress.note)

    def handle_undivided(outcome: Outcome[R]) -> None:
        with interrupts.deferred():
            handle(outcome)

    with interrupts.listening():
        try:
            for outcome in stream:
                handle_undivided(outcome)
                # Again, outside the signal handler: the run may have started after the handler called stop().
                if interrupts.count:
                    stream.stop()
        except KeyboardInterrupt as interrupt:
            # Raised inside the stream, it carries what is finished; raised between two outcomes, close() returns that.
            report = getattr(interrupt, "report", None)
            for outcome in stream.close() if report is None else report.outcomes:
                handle_undivided(outcome)
            return True
        finally:
            stream.close()
    return bool(interrupts.count)


def _progress(options: RunOptions[R], what: str) -> RichProgress:
    if options.quiet:
        return RichProgress(console=Console(quiet=True, force_terminal=False), plain_every=0)
    # Outcomes written to the terminal would be overwritten by a bar that is redrawn there: use plain lines.
    plain = options.output == STDOUT and sys.stdout.isatty()
    console = Console(stderr=True, force_terminal=False if plain else None)
    return RichProgress(console=console, what=what, transient=True)
