"""Command `answers`: put the answers of a batch file into a store."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from ..._store.asked_by_hand import asked_by_hand
from ..._store.store import Store
from ..._text import terminal_text
from ...backends.openai_batch.by_hand import AnswersKept
from ...errors import ConfigurationError

_HELP = """
Put the answers in batch files into a store, where a run finds them and pays for none of them.

FILES are what `vllm run-batch` has written, or the output and error files of a provider's batch, made of a file of
`restaurant-llm-batch requests`. Calls that failed are asked again by the next `requests`, or by the run.

If `requests` was given the same store, answers to other calls are noticed: a run would not find them, and pay again.
Of several answers to a call the first reply is kept.

Exit status: 0 all lines were answers, 1 some calls failed, or lines cannot be read or answer other calls, 2 wrong
usage, or no line answers a call of `requests`.
"""


def command() -> click.Command:
    """Build the command."""
    return click.Command(
        "answers",
        params=[
            click.Argument(["files"], nargs=-1, required=True, type=click.Path(path_type=Path)),
            click.Option(["--store"], required=True, type=click.Path(path_type=Path), help="The store."),
        ],
        callback=_main,
        help=_HELP,
    )


def _main(files: tuple[Path, ...], store: Path) -> None:
    asked = asked_by_hand(store)
    with Store(store) as opened:
        found = AnswersKept(opened, asked)
        for path in files:
            try:
                with path.open("rb") as lines:
                    found.keep(lines)
            except OSError as error:
                raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
            if found.first_error is not None:
                click.echo(terminal_text(f"{path}: {found.first_error}"), err=True)
    click.echo(
        f"{found.kept:,} answers are in {store}; {found.failed:,} calls failed, "
        f"{found.unreadable:,} lines are no answers"
    )
    if found.duplicates:
        click.echo(
            f"{found.duplicates:,} lines answer a call that a line before answers; of each call the first reply "
            "is kept"
        )
    _check_asked(found, store, known=bool(asked))
    sys.exit(1 if found.failed or found.unreadable or found.foreign else 0)


def _check_asked(found: AnswersKept, store: Path, *, known: bool) -> None:
    """
    Say which answers no run will find, as far as that is known.

    Raises:
        ConfigurationError: All of them.
    """
    total = found.kept + found.failed
    again = f"`restaurant-llm-batch requests ... --store {store}` says what is left to ask"
    if not total and found.unreadable:
        raise ConfigurationError(
            "no line answers a call that `restaurant-llm-batch requests` has written: a run would pay for all of "
            "its calls; give the output of that batch file"
        )
    if total and not known:
        click.echo(
            f"whether a run asks for them is not known, since `requests` was not given --store {store}; {again}"
        )
    elif total and found.foreign == total:
        raise ConfigurationError(
            f"none of the {total:,} answers is to a call that `requests` has written with --store {store}: a run "
            f"would find none of them and pay for its calls again. Were they asked with another source, model, "
            f"--llm-url or task? {again}"
        )
    elif found.foreign:
        click.echo(
            f"{found.foreign:,} answers are to calls that `requests` has not written with --store {store}; a run "
            f"may not find them: {again}"
        )
