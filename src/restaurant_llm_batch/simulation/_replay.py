"""
Replay of recorded scripts on virtual time: how long a run takes with other limits, or with more items.

A replayed item makes the calls of a recorded one, with as many tokens, in the same order and side by side where they
were; no prompt is written and no answer is read. Of very many items a part is played, and the rest goes on at the pace
of its second half.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from random import Random
from typing import Any

from .._config.limits import Limits, make_limiters
from .._config.stopping import StopConditions, TimeLimits
from .._config.strategy import Strategy
from .._limits.limiters import as_pool
from .._llm_response import LLMResponse
from ..models import Hit, ItemId, LLMRequest, SearchQuery
from ..steps import Flow, Once, Search, SearchAll, Sleep, complete, gather, once, sleep
from ._play import Playback, RunnerParts
from ._recording import Recorder
from ._script import Gathered, PlannedCall, Script
from .simulated_server import ServerUsage, SimulatedServer

PLAYED_CALLS, MIN_ITEMS = 2000, 100
"""Most calls that are played, and fewest items."""
_VARIATION = 0.3
"""By how much the lengths of answers vary around the likely one, either way."""


@dataclass(frozen=True, slots=True)
class Timing:
    """
    How a replayed run went.

    Attributes:
        seconds: Virtual seconds of the whole run.
        peak: Most calls to the model in flight at once.
        played: How many items were played.
        failed: How many of these failed.
        server: What the server saw of them.
    """

    seconds: float
    peak: int
    played: int
    failed: int
    server: ServerUsage

    @property
    def refused_share(self) -> float:
        """Share of the calls that were refused."""
        return self.server.refused / self.server.calls if self.server.calls else 0.0


class Replay:
    """
    Plays recorded scripts.

    Args:
        parts: The runner.
        recorder: The items, with their scripts.
        total: Number of items of the whole run, which may be more than were recorded.
        server: What the server is like.
    """

    def __init__(
        self,
        parts: RunnerParts,
        recorder: Recorder,
        total: int,
        server: SimulatedServer,
    ) -> None:
        self._parts = parts
        self._recorder = recorder
        self._server = server
        records = recorder.items
        self._total = total if records else 0
        calls = sum(tally.calls for tally in recorder.kinds.values())
        each = calls / len(records) if records else 0
        most = max(MIN_ITEMS, round(PLAYED_CALLS / each)) if each else MIN_ITEMS
        self._played = min(self._total, most)

    def time(self, limits: Limits, strategy: Strategy | None = None) -> Timing:
        """Return how the run goes with other limits, or with another strategy."""
        strategy = self._parts.strategy if strategy is None else strategy
        timing = self._play(limits, strategy, self._played)
        left = self._total - self._played
        if not left:
            return timing
        half = self._played // 2
        pace = (timing.seconds - self._play(limits, strategy, half).seconds) / (self._played - half)
        return replace(timing, seconds=timing.seconds + left * max(0.0, pace))

    def _play(self, limits: Limits, strategy: Strategy, number: int) -> Timing:
        parts = self._parts
        config = replace(
            parts.config,
            limiters=make_limiters(limits, as_pool(parts.llm)),
            store=None,
            stop=StopConditions(same_error_in_a_row=None),
            time_limits=TimeLimits(stall_warning_after=None),
            prices={},
        )
        search = None if parts.search is None else _FindsNothing(parts.search)
        # Of a replayed prompt, the text is the number of its tokens.
        parts = replace(parts, config=config, strategy=strategy, limits=limits, search=search, count=int)
        playback = Playback(self._server, 0, _Answers(), int, parts.model)
        player = playback.add(parts, _Again(self._pick(number), self._recorder), range(number), _ignore, ())
        usage = playback.play()
        stats = player.stats
        return Timing(stats.wall_seconds, stats.peak_in_flight.get("llm", 0), number, stats.failed, usage)

    def _pick(self, number: int) -> list[tuple[Script, int]]:
        """Return the scripts of so many items, evenly picked, or again from the first, and in which round each is."""
        records, count = self._recorder.items, len(self._recorder.items)
        if number <= count:
            return [(records[index * count // number].script, 0) for index in range(number)]
        return [(records[index % count].script, index // count) for index in range(number)]


class _Again:
    """The task that replays scripts; its items are their numbers."""

    name = "replay"
    requires_search = False

    def __init__(self, scripts: Sequence[tuple[Script, int]], recorder: Recorder) -> None:
        self._scripts = scripts
        self._once = recorder.once
        self._uses = recorder.once_uses

    def parse_item(self, raw: int, /) -> int:
        return raw

    def item_key(self, item: int, /) -> tuple[ItemId, int]:
        return item, 0

    def flow(self, item: int, /) -> Flow[None]:
        return self._replayed(*self._scripts[item])

    def _replayed(self, script: Script, number: int) -> Generator[Any, Any, None]:
        for step in script:
            match step:
                case PlannedCall(prompt=0):
                    continue  # its reply is in the store
                case PlannedCall():
                    yield from complete(_request(step), limiter=step.limiter)
                case Gathered():
                    yield from gather(*(self._replayed(part, number) for part in step.scripts))
                case Sleep():
                    yield from sleep(step.seconds)
                case Once():
                    # What one item of a sample had for itself, its like in another round has for itself too.
                    key = step.key if self._uses[step.key] > 1 else (step.key, number)
                    yield from once(key, partial(self._replayed, self._once.get(step.key, []), number))
                case Search() | SearchAll():
                    yield step


def _request(call: PlannedCall) -> LLMRequest:
    message = {"role": "user", "content": str(call.prompt)}
    inputs = {"tokens": call.length.likely, "language": ""}
    return LLMRequest(call.kind, (message,), None, inputs, call.length.most)


class _Answers:
    """Answers replayed requests, with as many tokens as were likely, more or less."""

    def __init__(self) -> None:
        self._random = Random(0)

    def complete(self, request: LLMRequest, /) -> LLMResponse:
        varied = request.inputs["tokens"] * (1 + _VARIATION * (2 * self._random.random() - 1))
        return LLMResponse("", completion_tokens=max(1, round(varied)))


class _FindsNothing:
    """A search with the methods of another one, which finds nothing."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def search(self, query: SearchQuery, /) -> Sequence[Hit]:
        return ()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def _ignore(outcome: object) -> None:
    """Drop an outcome."""
