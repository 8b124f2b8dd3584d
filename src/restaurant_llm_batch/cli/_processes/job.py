"""Job of a process: what it is told at its start, and how it makes the runner and the task of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any, Literal

from ..._config.limits import Limits
from ..._config.stopping import StopConditions
from ..._runner import BatchRunner
from ..._settings import BatchSettings
from ...errors import ConfigurationError
from ...protocols import Observer, Task
from ...search import EmbeddedSearch, QdrantSearch
from .. import _backends as services
from .._backends import MakeLLM
from .._options import RunOptions

_LEAST_SECONDS = 0.001
"""What is left of the time of a run at least, since there is no limit of 0 seconds."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """
    What a process does.

    Attributes:
        options: The options of the command, with its settings and its task.
        llms: Factories of LLM backends, by their names for ``--llm``.
        chosen: The model, if it is not one of the settings'.
        search: The folder of the index, "qdrant", or None for a task that does not search.
        limits: The limits, those that are shared among them.
        counts_calls: Whether the command has a stop condition or prices, for which calls are counted.
        deadline: When the time of the run is up, on the system's monotonic clock; None for never.
        texts: Whether the command records prompts and answers.
        folder: A private folder of the run, to be deleted if the command is killed.
    """

    options: RunOptions[Any]
    llms: Mapping[str, MakeLLM]
    chosen: str | None
    search: Path | Literal["qdrant"] | None
    limits: Limits
    counts_calls: bool
    deadline: float | None
    texts: bool
    folder: Path

    @property
    def task(self) -> Task[Any]:
        """The task."""
        return self.options.task

    def make_runner(self, stop: StopConditions, observer: Observer) -> BatchRunner:
        """
        Return the runner of the process.

        Args:
            stop: Its stop conditions.
            observer: Receives its events.

        Raises:
            ConfigurationError: A backend cannot be made, or the store cannot be opened.
        """
        settings = self.options.settings
        _, llm = services.make_llm(self.llms, self.chosen, settings)
        arguments = settings.runner_arguments(llm)
        arguments.pop("record", None)  # the command records the events of all processes
        left = None if self.deadline is None else max(_LEAST_SECONDS, self.deadline - monotonic())
        arguments["time_limits"] = replace(arguments["time_limits"], run=left)
        arguments["limits"] = self.limits
        arguments["stop"] = stop
        return BatchRunner(llm=llm, search=self._search(settings), observers=[observer], **arguments)

    def _search(self, settings: BatchSettings) -> EmbeddedSearch | QdrantSearch | None:
        if self.search is None:
            return None
        if self.search == "qdrant":
            return services.qdrant(settings)[0]
        assert isinstance(self.search, Path)
        return EmbeddedSearch(self.search, embedder=settings.embedder(), read_only=True)


def check_can_be_sent(job: Job, dumps: Callable[[Job], object]) -> None:
    """
    Check that a job can be sent to another process.

    Args:
        job: The job.
        dumps: Pickles it.

    Raises:
        ConfigurationError: It cannot.
    """
    try:
        dumps(job)
    except Exception as error:
        raise ConfigurationError(
            f"--processes: the options or the model cannot be handed to another process ({error}); name a model of "
            "your own as MODULE:NAME, or leave --processes out"
        ) from error
