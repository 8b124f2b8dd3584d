"""Command `answers`: put the answers of a batch file into a store."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from ..._store.store import Store
from ..._text import terminal_text
from ...backends.openai_batch.by_hand import keep_answers
from ...errors import ConfigurationError

_HELP = """
Put the answers in batch files into a store, where a run finds them and pays for none of them.

FILES are what `vllm run-batch` has written, or the output and error files of a provider's batch, made of a file of
`restaurant-llm-batch requests`. Calls that failed are asked again by the next `requests`, or by the run.

Exit status: 0 all lines were answers, 1 some calls failed or lines cannot be read, 2 wrong usage.
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
    kept = failed = unreadable = 0
    with Store(store) as opened:
        for path in files:
            try:
                with path.open("rb") as lines:
                    found = keep_answers(lines, opened)
            except OSError as error:
                raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
            kept, failed, unreadable = kept + found.kept, failed + found.failed, unreadable + found.unreadable
            if found.first_error is not None:
                click.echo(terminal_text(f"{path}: {found.first_error}"), err=True)
    click.echo(
        f"{kept:,} answers are in {store}; {failed:,} calls failed, {unreadable:,} lines are no answers"
    )
    sys.exit(1 if failed or unreadable else 0)
