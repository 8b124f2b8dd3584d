"""Recordings of a task for a plan: of all items with likely answers, and of a few with others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .._engine.items import RunItem
from .._store.identity import fingerprint_of
from ..outcomes import Failure, Outcome
from ..protocols import LLMBackend, Task
from ._expectation import Decided
from ._play import Playback, RunnerParts
from ._recording import PrefixCache, Recorder, Variant, Watcher
from ._script import Tally
from .latency import SampledNumbers
from .plan import PlannedCalls
from .simulated_server import SimulatedServer

NONE = Tally()


class Trial:
    """
    Recordings of a task.

    Args:
        parts: The runner.
        task: The task.
        answers: Answers the requests; None for answers made from their forms.
        context: The context length, if it is known.
        lengths: How long answers were in earlier runs, by kind.

    Attributes:
        name: Name of the task.
        failures: The failures of the first recording.
        stopped: Why it stopped, or None.
    """

    def __init__(
        self,
        parts: RunnerParts,
        task: Task[Any],
        answers: LLMBackend | None,
        context: int | None,
        lengths: Mapping[str, SampledNumbers],
    ) -> None:
        self.failures: list[Failure] = []
        self.stopped: str | None = None
        self._parts = parts
        self._task = task
        self._answers = answers
        self._context = context
        self._lengths = lengths
        self._recorded = False
        self.name: str = name_of_task(task)

    def record(self, items: Sequence[RunItem], variant: Variant = "likely") -> Recorder:
        """Record items."""
        parts = self._parts
        recorder = Recorder(
            parts.count_tokens,
            variant,
            self._answers,
            _prefix_cache(parts.llm),
            parts.model,
            self._context,
            self._lengths,
        )
        watcher = Watcher(self._task, recorder, parts.config.ask)
        playback = Playback(SimulatedServer(latency=0.1), 0, recorder, lambda text: 0, parts.model)
        first, self._recorded = not self._recorded, True
        player = playback.add(parts, watcher, iter(items), self._keep if first else _drop, (recorder,))
        playback.play()
        if first:
            self.stopped = player.stats.stopped_because
        return recorder

    def _keep(self, outcome: Outcome[Any]) -> None:
        if isinstance(outcome, Failure):
            self.failures.append(outcome)


def name_of_task(task: Task[Any]) -> str:
    """Return the name of a task."""
    return str(getattr(task, "name", type(task).__name__))


def _drop(outcome: object) -> None:
    """Drop an outcome."""


class Variation:
    """
    Recordings of a few items with other answers, and by how much the figures then differ.

    Args:
        run: Records.
        items: The items.
        total: Number of items of the whole run.
    """

    def __init__(self, run: Trial, items: Sequence[RunItem], total: int) -> None:
        self._scale = total / len(items)
        self._base = run.record(items)
        self._unreadable = run.record(items, "unreadable")
        following = any(tally.following for tally in self._base.kinds.values())
        sizes: tuple[Variant, ...] = ("short", "long") if following else ()
        self._others = [run.record(items, size) for size in sizes]

    def repairs(self) -> int:
        """Return how many calls come on top if no answer can be used."""
        more = (
            tally.calls - self._base.kinds.get(kind, NONE).calls
            for kind, tally in self._unreadable.kinds.items()
        )
        return round(sum(number for number in more if number > 0) * self._scale)

    def differences(self, kind: str, figure: str) -> tuple[int, int]:
        """Return by how much a figure of a kind may be lower, and higher, in the whole run."""
        base = getattr(self._base.kinds.get(kind, NONE), figure)
        found = [getattr(one.kinds.get(kind, NONE), figure) - base for one in self._others]
        return round(min([0, *found]) * self._scale), round(max([0, *found]) * self._scale)

    def decided(self, planned: Iterable[PlannedCalls]) -> dict[str, Decided]:
        """Return what answers decide of each kind."""
        found = {}
        for kind in [one.kind for one in planned]:
            calls, prompts = self.differences(kind, "calls"), self.differences(kind, "prompt")
            never = kind not in self._base.kinds
            found[kind] = Decided(never or calls[0] < calls[1], never or prompts[0] < prompts[1])
        return found

    @property
    def kinds(self) -> list[str]:
        """The kinds of calls that were made with any readable answers."""
        return list(dict.fromkeys(kind for one in self._others for kind in one.kinds))


def _prefix_cache(llm: object) -> PrefixCache:
    """Return how a service caches prompts: OpenAI from 1,024 tokens on, in steps of 128; vLLM in blocks of 16."""
    hosted = "//api.openai.com" in fingerprint_of(llm)
    return PrefixCache(128, 1024) if hosted else PrefixCache()
