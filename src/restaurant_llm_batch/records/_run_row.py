"""The row of a run in a record: what is known of its runner, how far it has come, and its figures."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from .._config.stopping import Price
from ..events import RunStarted
from ..outcomes import RunStats
from ._statements import Row
from ._values import iso, sql_integer, sql_name, to_json


@dataclass(frozen=True, slots=True)
class RunnerFacts:
    """
    What a record says of the runner of a run.

    Attributes:
        model: Name of its model.
        strategy: Its strategy.
        settings: Its limits, retries, time limits and stop conditions, as JSON.
        prices: Prices by model name.
        version: Version of the library.
        simulated: Whether its runs are simulated ones.
    """

    model: str
    strategy: str
    settings: str
    prices: Mapping[str, Price]
    version: str
    simulated: bool = False


@dataclass(slots=True)
class RunRow:
    """
    The row of one run.

    Attributes:
        facts: What is known of its runner.
        start: Its start.
        began: When that was, as a Unix time.
        texts: Whether texts are recorded.
        model: Name of the model that has replied last, if the runner's is not known.
        latest: Seconds from its start to its latest event.
        missing: Number of its events that could not be written.
        stats: Its figures, at its end.
    """

    facts: RunnerFacts
    start: RunStarted
    began: float
    texts: bool
    model: str = ""
    latest: float = 0.0
    missing: int = 0
    stats: RunStats | None = None

    def values(self) -> Row:
        """Return its values, from its second column on."""
        facts = self.facts
        row = (
            sql_name(self.start.task),
            sql_name(facts.model or self.model),
            facts.strategy,
            facts.settings,
            facts.version,
            self.start.total,
            int(facts.simulated),
            int(self.texts),
            iso(self.began),
            self.began,
            os.getpid(),
            self.latest,
            self.missing,
        )
        return (*row, *_NO_FIGURES) if self.stats is None else (*row, *self._figures(self.stats))

    def memory(self) -> Row:
        """Return the row of the table `run_memory`, once the run has ended."""
        stats = self.stats or RunStats()
        return 1, stats.peak_memory_mib, stats.out_of_memory, to_json(stats.out_of_memory_by_kind)

    def _figures(self, stats: RunStats) -> Row:
        stopped = stats.stopped_because
        return (
            iso(self.began + self.latest),
            self.latest,
            None if stopped is None else sql_name(stopped),
            stats.succeeded,
            stats.failed,
            sum(stats.calls.values()),
            stats.retries,
            stats.rate_limited,
            stats.cache_hits,
            sql_integer(stats.prompt_tokens),
            sql_integer(stats.completion_tokens),
            sql_integer(stats.cached_tokens),
            stats.cost,
            stats.estimated_cost,
        )


_NO_FIGURES = (None,) * 14
