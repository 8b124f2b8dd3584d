"""Start of a run in several processes: its checks, before anything is started or opened for writing."""

from __future__ import annotations

import pickle  # nosec B403  # to see whether something can be pickled
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Any, Literal

from ..._config.limits import Limits
from ..._engine.items import ItemReader, as_task
from ..._limits.aimd import AdaptiveLimit
from ..._runner import BatchRunner
from ...errors import ConfigurationError
from ...protocols import AsyncLLMBackend, LLMBackend, Observer, Task
from ...records._recording import as_recording, describe_runner
from ...search import EmbeddedSearch
from .._backends import MakeLLM
from .._options import LoadedInput, RunOptions
from .._views import R
from .handout import HandOut
from .job import Job, check_can_be_sent
from .keeper import Keeper
from .sharing import SharedLimits
from .stream import ProcessStream
from .whole import WholeRun


def check_model(options: RunOptions[Any], chosen: str | None) -> None:
    """
    Check that the model may be used by several processes.

    Raises:
        ConfigurationError: It is loaded into the process that uses it.
    """
    if chosen is None and options.settings.batch_llm_backend == "vllm-engine":
        raise ConfigurationError(
            "--processes: with --llm vllm-engine each process would load the model; start `vllm serve`, and use "
            "--llm vllm --llm-url http://localhost:8000"
        )


def open_stream(
    stack: ExitStack,
    options: RunOptions[R],
    loaded: LoadedInput,
    llm: LLMBackend | AsyncLLMBackend,
    llms: Mapping[str, MakeLLM],
    chosen: str | None,
    progress: Observer,
    folder: Path,
) -> ProcessStream[R]:
    """
    Return the outcomes of a run in several processes, which starts when the first of them is asked for.

    Args:
        stack: Closes what is opened.
        options: The options of the command.
        loaded: Its input.
        llm: The model, by which arguments are checked; it is not called here.
        llms: Factories of LLM backends, by their names for ``--llm``.
        chosen: The model, if it is not one of the settings'.
        progress: Receives the events of all processes.
        folder: A private folder, which the caller deletes.

    Raises:
        ConfigurationError: An argument or an item is invalid, or the job cannot be handed to another process.
    """
    task = as_task(options.task)
    settings = options.settings
    arguments = settings.runner_arguments(llm)
    recording = as_recording(arguments.pop("record", None))
    if recording is not None:
        stack.callback(recording.close)
    runner = BatchRunner(llm=llm, search=loaded.search, **arguments)
    stack.callback(runner.close)
    if runner.parts.config.wave_service is not None:
        raise ConfigurationError(
            "--processes: a provider's batch answers the calls of all items together, so one process is enough; leave "
            "--processes out"
        )
    items = list(ItemReader(task, loaded.items))
    search = _search_of(loaded)
    limits = SharedLimits(
        runner.limits, folder, model=getattr(llm, "calls_model", True), search=search == "qdrant"
    )
    stack.callback(limits.close)
    limits.declare()
    config = runner.parts.config
    observers: list[Observer] = [progress]
    if recording is not None:
        facts = describe_runner(llm, runner.strategy, runner.limits, config)
        observers.append(recording.observer(facts, limits))
    run = WholeRun(task, replace(config, observers=observers), limits, len(items))
    number = min(options.processes or 1, max(1, len(items)))
    most, least = _shares(runner, task, number)
    name = chosen or settings.batch_llm_backend

    def make_job() -> Job:
        return Job(
            options=options,
            llms={name: llms[name]} if name in llms else {next(iter(llms)): next(iter(llms.values()))},
            chosen=chosen,
            search=search,
            limits=replace(limits.for_processes, open_items=most),
            counts_calls=run.counts_calls,
            deadline=run.deadline,
            texts=settings.batch_record_texts and recording is not None,
            folder=folder,
        )

    check_can_be_sent(make_job(), pickle.dumps)
    hand_out = HandOut((item.index for item in items), number, most, least)
    raw: Sequence[Any] = loaded.items
    numbered = [(item, raw[item.index]) for item in items]
    keeper = Keeper(run, make_job, numbered, hand_out, number, runner.limits.open_items)
    return ProcessStream(keeper, run)


def _search_of(loaded: LoadedInput) -> Path | Literal["qdrant"] | None:
    search = loaded.search
    if search is None:
        return None
    if not isinstance(search, EmbeddedSearch):
        if search.is_local:
            raise ConfigurationError(
                "--processes: a folder of Qdrant's client can be opened by one process at a time; start a Qdrant "
                "server, and set QDRANT_URL=http://localhost:6333"
            )
        return "qdrant"
    assert search.path is not None, "a file is indexed into a folder if there are several processes"
    search.close()  # processes open it
    return search.path


def _shares(runner: BatchRunner, task: Task[Any], processes: int) -> tuple[int, int]:
    """
    Return how many items a process has at most, and how many keep it busy.

    The window of the run is divided. But twice as many items as calls may be in flight are enough, and the fewer a
    process has, the fewer are run again if it dies.
    """
    limits = runner.limits
    if not runner.strategy.restaurant_async:
        return 2, 2  # one that runs, and the next one
    window = max(1, ceil(limits.open_items / processes))
    calls = max(_most_calls(limits), 1)
    least = min(window, ceil(calls / processes) + 1)
    return min(window, max(4, 2 * least)), least


def _most_calls(limits: Limits) -> int:
    """Return how many calls of the model may be in flight."""
    found = [
        limit.max if isinstance(limit, AdaptiveLimit) else limit
        for limit in (limits.llm, limits.batches)
        if isinstance(limit, (int, AdaptiveLimit))
    ]
    return max(found, default=limits.open_items)
