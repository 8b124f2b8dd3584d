"""Click command group: its commands, one-line error messages, and exit statuses."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from importlib.metadata import PackageNotFoundError
from typing import Any

import click

from .._text import terminal_text
from ..errors import BatchError
from ._backends import MakeLLM, models
from ._commands import (
    answers,
    compare,
    config,
    index,
    limits,
    requests,
    run,
    sentiment,
    serve,
    strengths,
    summarize,
    summarize_reviews,
    top,
    view,
    vocabulary,
)
from ._commands import query as search
from ._hints import hints

_HELP = """\
Summarise restaurants from their reviews, many at a time, without ever overloading the model.

To try it with the built-in sample and without a model:

\b
    restaurant-llm-batch summarize

With your own reviews:

\b
    restaurant-llm-batch index reviews.jsonl --into reviews.index
    restaurant-llm-batch search reviews.index --restaurant 1 friendly staff
    restaurant-llm-batch summarize reviews.index --output summaries.jsonl
    restaurant-llm-batch sentiment reviews.jsonl --output labels.jsonl

With a model:

\b
    restaurant-llm-batch summarize reviews.index --llm vllm --llm-url http://localhost:8000 --record night.db
    restaurant-llm-batch top night.db
"""


_CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


class CLIError(click.ClickException):
    """An error that the user can fix: shown as one line, without a traceback; exit status 2."""

    exit_code = 2


class Commands(click.Group):
    """
    A click group that shows errors of the library as `CLIError`, and exits with status 130 on Ctrl-C.

    A terminal or file that cannot be written to, such as one on a full disk, is an error in one line as well.

    Args:
        makers: What builds each command, by its name. A command has about a hundred options, so it is built when it is
            used.
        options: Arguments of `click.Group`.
    """

    def __init__(self, name: str, makers: Mapping[str, Callable[[], click.Command]], **options: Any) -> None:
        super().__init__(name, **options)
        self._makers = makers

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands, in order."""
        return sorted(self._makers)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, or None if there is none of that name."""
        if cmd_name in self._makers and cmd_name not in self.commands:
            self.add_command(self._makers[cmd_name]())
        return self.commands.get(cmd_name)

    def main(self, *arguments: Any, **options: Any) -> Any:
        """Run the program."""
        try:
            return super().main(*arguments, **options)
        except OSError as error:
            if error.errno not in _CANNOT_WRITE:
                raise
            with suppress(OSError):
                CLIError(f"cannot write the output: {os.strerror(error.errno)}").show()
            _drop_output()
            sys.exit(CLIError.exit_code)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except BatchError as error:
            text = " ".join([str(error), *getattr(error, "__notes__", ())])
            raise CLIError(terminal_text(text + self._hint(ctx, text))) from error
        except KeyboardInterrupt as error:
            click.echo("interrupted", err=True)
            for note in getattr(error, "__notes__", ()):
                click.echo(terminal_text(note), err=True)
            ctx.exit(130)

    def _hint(self, ctx: click.Context, text: str) -> str:
        """Return the options that a message is about, in brackets, or ""."""
        command = self.commands.get(ctx.invoked_subcommand or "")
        found = [] if command is None else hints([text], command)
        return f" ({'; '.join(found)})" if found else ""


def _drop_output() -> None:
    """Send what is still buffered for standard output nowhere: Python would complain about it when it exits."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def build(llms: Mapping[str, MakeLLM] | None = None) -> click.Group:
    """
    Build the command group.

    Args:
        llms: Factories of LLM backends, by their names for ``--llm``; the first is the default. None for `models()`.
    """
    version = click.Option(
        ["--version"],
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_show_version,
        help="Show the version and exit.",
    )
    with_model = {
        "summarize": summarize,
        "summarize-reviews": summarize_reviews,
        "sentiment": sentiment,
        "strengths": strengths,
        "compare": compare,
        "vocabulary": vocabulary,
        "run": run,
        "serve": serve,
    }
    llms = llms or models()
    makers: dict[str, Callable[[], click.Command]] = {
        "index": index.command,
        "search": search.command,
        "config": config.command,
        "limits": limits.command,
        "requests": requests.command,
        "answers": answers.command,
        "top": top.command,
        "view": view.command,
        **{name: partial(module.command, llms) for name, module in with_model.items()},
    }
    return Commands(
        "restaurant-llm-batch",
        makers,
        params=[version],
        help=_HELP,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )


def _show_version(ctx: click.Context, _param: click.Parameter, requested: bool) -> None:
    if not requested or ctx.resilient_parsing:
        return
    try:
        from .. import __version__ as version
    except PackageNotFoundError:
        version = "(not installed)"
    click.echo(f"restaurant-llm-batch {version}")
    ctx.exit()
