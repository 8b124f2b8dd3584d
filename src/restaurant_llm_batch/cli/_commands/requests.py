"""Command `requests`: write the calls of a task to a batch file, for those who run it by hand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from ..._config.strategy import Strategy
from ..._runner import BatchRunner
from ..._store.asked_by_hand import remember_asked
from ...backends.openai.llm import OpenAILLM
from ...backends.openai_batch.by_hand import RequestFile, keys_of
from ...errors import ConfigurationError
from .. import _options as parameters
from .. import _reading as reading
from .. import _report as report
from .. import _settings as settings
from .._backends import with_any_keys
from .._options import RunOptions
from .._output import check_output
from .._reading import take_form
from .._settings import SectionedCommand, take_settings
from .sentiment import SentimentOptions
from .strengths import StrengthsOptions
from .summarize import SummarizeOptions

_HELP = """
Write the calls of a task to a batch file, to be answered by hand: by `vllm run-batch`, or by a provider's batch.

SOURCE is a file of reviews, or a folder made by `index`; by default the built-in sample. No model is called. With
--store, answers that are in the store are used, so that a task of two steps takes two files. Give --model, and
--llm-url, as later to the command itself, which finds the answers by them:

\b
    restaurant-llm-batch requests reviews.jsonl -o batch.jsonl --model Qwen/Qwen2.5-7B-Instruct --store run.db
    vllm run-batch -i batch.jsonl -o answers.jsonl --model Qwen/Qwen2.5-7B-Instruct
    restaurant-llm-batch answers answers.jsonl --store run.db
    restaurant-llm-batch summarize reviews.jsonl --llm openai --model Qwen/Qwen2.5-7B-Instruct --store run.db
"""
_TASKS: Mapping[str, type[RunOptions[Any]]] = {
    "summarize": SummarizeOptions,
    "sentiment": SentimentOptions,
    "strengths": StrengthsOptions,
}
_MODEL = "gpt-5-mini"


def command() -> click.Command:
    """Build the command."""
    options = [
        parameters.source(),
        click.Option(
            ["--task", "named"],
            type=click.Choice([*_TASKS]),
            default="summarize",
            show_default=True,
            help="The task whose calls are written.",
        ),
        click.Option(["-o", "--output"], required=True, metavar="FILE", help="The batch file."),
        *settings.options(
            search=True,
            llm=True,
            batches=True,
            llms=["openai"],
            tasks=["summary", "aspects", "sentiment", "strengths"],
        ),
        *reading.options(),
        *parameters.which(),
    ]
    return SectionedCommand("requests", params=options, callback=_main, help=_HELP)


def _main(named: str, output: str, **values: Any) -> None:
    chosen = take_settings(values)
    if chosen.batch_llm_model is None:
        raise ConfigurationError(f"requests needs --model; for example --model {_MODEL}")
    form = take_form(values)
    options = _TASKS[named](
        settings=chosen, form=form, output=output, level=None, show=None, quiet=False, **values
    )
    check_output(output, options.paths, chosen.batch_store, chosen.batch_record)
    loaded = options.load(report.console(stderr=True))
    file = RequestFile(_model(chosen), Path(output))
    arguments = {**chosen.runner_arguments(), "strategy": Strategy.stage(4)}
    arguments.pop("record", None)  # nothing is run
    runner = BatchRunner(llm=file, search=loaded.search, **arguments)
    try:
        done = runner.run(options.task, loaded.items).stats.succeeded
    finally:
        runner.close()
        if loaded.search is not None:
            loaded.search.close()
    if file.lines:
        if chosen.batch_store is not None:
            remember_asked(chosen.batch_store, keys_of(Path(output)))
        click.echo(
            f"{file.lines:,} calls were written to {output}; next: restaurant-llm-batch answers FILE --store FILE"
        )
    else:
        click.echo(f"there is nothing to ask: {done:,} of {len(loaded.items):,} items have all their answers")


def _model(chosen: Any) -> OpenAILLM:
    """Return the model, which is not called, so that it needs no key."""
    llm = with_any_keys(chosen).model_copy(update={"batch_llm_backend": "openai"}).llm()
    assert isinstance(llm, OpenAILLM)
    return llm
