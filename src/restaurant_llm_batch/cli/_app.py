"""The command group: its commands, and how errors and Ctrl-C end it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError
from typing import Any

import click

from ..errors import BatchError
from ._backends import MakeLLM, models
from ._commands import index, search, sentiment, serve, strengths, summarize, summarize_reviews, vocabulary

_HELP = """\
Summarise restaurants from their reviews, many at a time, without ever overloading the model.

To see it work, with the sample that is shipped and no model at all:

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
    restaurant-llm-batch summarize reviews.index --llm vllm --llm-url http://localhost:8000
"""


class CLIError(click.ClickException):
    """Something that the user can put right: one line, no traceback."""

    exit_code = 2


class Commands(click.Group):
    """A group whose errors are one line, and whose interruption is exit status 130."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except BatchError as error:
            raise CLIError(str(error)) from error
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(130)


def build(llms: Mapping[str, MakeLLM] | None = None) -> click.Group:
    """
    Build the command line.

    Args:
        llms: What makes a model, by the name to choose it by; the first is the default.
    """
    version = click.Option(
        ["--version"],
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_show_version,
        help="Show the version and exit.",
    )
    group = Commands(
        "restaurant-llm-batch",
        params=[version],
        help=_HELP,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    for command in (index.command(), search.command()):
        group.add_command(command)
    for module in (summarize, summarize_reviews, sentiment, strengths, vocabulary, serve):
        group.add_command(module.command(llms or models()))
    return group


def _show_version(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    try:
        from .. import __version__ as version
    except PackageNotFoundError:
        version = "(not installed)"
    click.echo(f"restaurant-llm-batch {version}")
    ctx.exit()
