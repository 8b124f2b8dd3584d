"""Plays runs on virtual time: the engine of a runner, with a simulated server in place of its backends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from random import Random
from typing import Any

from .._config.limits import Limits
from .._config.strategy import Strategy
from .._engine.frames import ItemSource
from .._engine.items import InlineSource, ItemReader, as_task
from .._engine.packer import BatchPacker
from .._engine.plan import make_plan
from .._engine.run import RunConfig, RunState
from .._engine.sequential import SequentialDriver
from .._engine.virtual import Done, VirtualDriver, VirtualMailbox, VirtualTime
from .._limits.concurrency import ConcurrencyLimiter
from .._limits.limiters import LimiterSet
from .._store.overlay import OverlayStore
from ..errors import ConfigurationError
from ..models import Hit, SearchQuery
from ..outcomes import Outcome, RunStats, Stage
from ..protocols import LLMBackend, Observer, TokenCounter
from ..sharing._memory import MemoryBroker
from ..sharing.limiter import SharedLimiter
from ..tokens.packing import estimate_tokens
from ._answers import Answers
from ._model import Find, ServerModel
from ._specification import ServerSpecification, ServerUsage


@dataclass(frozen=True, slots=True)
class RunnerParts:
    """
    What a simulation takes of a runner.

    Attributes:
        config: Its configuration.
        strategy: Its strategy.
        limits: Its limits.
        llm: Its LLM backend, which is not called.
        search: Its search backend, or None.
        count: Its token counter.
    """

    config: RunConfig
    strategy: Strategy
    limits: Limits
    llm: object
    search: object | None
    count: TokenCounter

    @property
    def model_name(self) -> str:
        """Name of its model, as its replies have it; empty if the backend does not tell."""
        name = getattr(self.llm, "model", None)
        return name if isinstance(name, str) else ""

    @property
    def model(self) -> str:
        """Name of its model in simulated replies."""
        return self.model_name or "simulated"

    @property
    def count_tokens(self) -> TokenCounter:
        """Its counter; the estimate in place of one that would ask a service for each prompt."""
        return estimate_tokens if getattr(self.count, "blocking", False) else self.count


class RunBackend:
    """
    The backends of one run: a `VirtualBackend`.

    Args:
        model: The server.
        time: Where it lives.
        find: Searches.
    """

    def __init__(self, model: ServerModel, time: VirtualTime, find: Find) -> None:
        self._model = model
        self._time = time
        self._find = find

    def begin(self, stage: Stage, argument: Any, done: Done, /) -> Callable[[], object]:
        """Begin a call: a request to the model, a query, or the queries of one round trip."""
        if stage == "llm":
            return self._model.begin_request(argument, done)
        if not isinstance(argument, SearchQuery):
            return self._model.begin_search(self._find, argument, done)

        def first(found: Any, error: BaseException | None) -> None:
            done(None if error is not None else found[0], error)

        return self._model.begin_search(self._find, (argument,), first)

    def wait_for(self, stage: Stage, argument: Any) -> Any:
        """Make a call, and let time pass until it has ended; return its answer or raise its error."""
        ended: list[tuple[Any, BaseException | None]] = []
        self.begin(stage, argument, lambda answer, error: ended.append((answer, error)))
        while not ended:
            if not self._time.step():
                raise RuntimeError("a simulated call waits, but nothing is left to happen")
        answer, error = ended[0]
        if error is not None:
            raise error
        return answer


class Player:
    """
    One run in a simulation.

    Args:
        run: The run.
        driver: Its driver.
        total: The number of its items, if it is known.
        deliver: Takes its outcomes.
    """

    def __init__(
        self,
        run: RunState,
        driver: VirtualDriver | SequentialDriver,
        total: int | None,
        deliver: Callable[[Outcome[Any]], object],
    ) -> None:
        self.run = run
        self.driver = driver
        self.total = total
        self.deliver = deliver

    @property
    def finished(self) -> bool:
        """Whether the run is over. A sequential one is, when `Playback` has played it."""
        return not isinstance(self.driver, VirtualDriver) or self.driver.scheduler.finished

    @property
    def stats(self) -> RunStats:
        """The statistics, in virtual seconds."""
        return self.run.recorder.stats


class Playback:
    """
    Runs that live in one virtual time, at one simulated server.

    Args:
        server: What the server is like.
        seed: Seed of all that is random.
        answers: Answers the requests at once, for example `OfflineLLM`; None for answers made from their forms.
        count: Counts the tokens of a text.
        model: Name of the model in its answers.
    """

    def __init__(
        self,
        server: ServerSpecification,
        seed: int,
        answers: LLMBackend | None,
        count: Callable[[str], int],
        model: str,
    ) -> None:
        self.time = VirtualTime()
        self._seed = seed
        made = Answers(answers, count, server.answer_tokens, Random(f"answers {seed}"), model)
        self.model = ServerModel(server, self.time, Random(f"server {seed}"), made)
        # By `id`, with the object itself, so that no other one takes its place.
        self._limiters: dict[int, tuple[LimiterSet, LimiterSet]] = {}
        self._twins: dict[int, tuple[ConcurrencyLimiter, ConcurrencyLimiter]] = {}
        self._brokers: dict[str, MemoryBroker] = {}
        self._stores: dict[int, tuple[object, OverlayStore]] = {}
        self.players: list[Player] = []

    def add(
        self,
        parts: RunnerParts,
        task: Any,
        items: Iterable[Any],
        deliver: Callable[[Outcome[Any]], object],
        observers: Sequence[Observer],
    ) -> Player:
        """
        Add a run; `play` plays it.

        Raises:
            ConfigurationError: The task or the items are invalid, or it is the second run of a sequential strategy.
        """
        checked = as_task(task)
        reader = ItemReader(checked, items)
        number = len(self.players) + 1
        search = parts.search if hasattr(parts.search, "search") else _MadeUp()
        backend = RunBackend(self.model, self.time, search.search)
        config = self._config(parts, backend, observers)
        run = RunState(number, checked, config, self.time.now, Random(f"run {number} {self._seed}"))
        driver: VirtualDriver | SequentialDriver
        if parts.strategy.is_concurrent:
            window = parts.limits.open_items if parts.strategy.restaurant_async else 1
            source: ItemSource = InlineSource(reader)
            driver = VirtualDriver(run, source, reader, window, self.time, backend, deliver)
        else:
            if any(isinstance(player.driver, SequentialDriver) for player in self.players):
                raise ConfigurationError(
                    "at most one of the runners that are simulated together may have Strategy.stage(1), because it "
                    "waits for each of its calls; for example Strategy.threaded() for the others"
                )
            driver = SequentialDriver(run, reader, collect=False, mailbox=VirtualMailbox(self.time))
        player = Player(run, driver, reader.total, deliver)
        self.players.append(player)
        return player

    def play(self) -> ServerUsage:
        """Play all runs to their ends, and return what the server saw."""
        try:
            for player in self.players:
                player.run.started_at = self.time.now()
                player.run.recorder.start(player.total)
            for player in self.players:
                if isinstance(player.driver, VirtualDriver):
                    player.driver.start()
            for player in self.players:
                if isinstance(player.driver, SequentialDriver):
                    _play_sequential(player.driver, player.deliver)
            pending = [player for player in self.players if not player.finished]
            while pending:
                if not self.time.step():
                    raise RuntimeError("the simulated run waits, but nothing is left to happen")
                if pending[-1].finished:
                    pending.pop()
            for player in self.players:
                if isinstance(player.driver, VirtualDriver) and player.driver.scheduler.failure is not None:
                    raise player.driver.scheduler.failure
        finally:
            for player in self.players:
                if isinstance(player.driver, VirtualDriver):
                    player.driver.end()
                player.run.recorder.finish()
        return self.model.finish()

    def _config(self, parts: RunnerParts, backend: RunBackend, observers: Sequence[Observer]) -> RunConfig:
        config = parts.config
        search = parts.search if parts.search is not None else _MadeUp()
        limiters = self._limiters.setdefault(
            id(config.limiters), (config.limiters, config.limiters.unused(self._twin))
        )[1]
        store = config.store
        if store is not None:
            store = self._stores.setdefault(id(store), (store, OverlayStore(store)))[1]
        plan = make_plan(parts.strategy, _Stub(backend, search), _Stub(backend, parts.llm))
        # A counter that learns must not learn from simulated answers, and one that blocks would ask a service.
        packer = BatchPacker(parts.limits, partial(_counted, parts.count_tokens))
        return replace(
            config, plan=plan, limiters=limiters, packer=packer, store=store, observers=tuple(observers)
        )

    def _twin(self, limiter: ConcurrencyLimiter) -> ConcurrencyLimiter:
        """Return the limiter that takes the place of another one: the same each time."""
        known = self._twins.get(id(limiter))
        if known is None:
            known = self._twins[id(limiter)] = limiter, self._unused(limiter)
        return known[1]

    def _unused(self, limiter: ConcurrencyLimiter) -> ConcurrencyLimiter:
        if not isinstance(limiter, SharedLimiter):
            return limiter.unused()
        broker = self._brokers.setdefault(limiter.broker.place, MemoryBroker(self.time.now))
        return limiter.on_virtual_time(broker, self.time, f"member {len(self._twins)}")


def _counted(count: TokenCounter, text: str) -> int:
    return count(text)


def _play_sequential(driver: SequentialDriver, deliver: Callable[[Outcome[Any]], object]) -> None:
    outcomes: list[Outcome[Any]] = []
    more = True
    while more:
        more = driver.take(outcomes)
        for outcome in outcomes:
            deliver(outcome)
        outcomes.clear()


_STAGES: Mapping[str, Stage] = {"search": "search", "search_many": "search", "complete": "llm"}


class _Stub:
    """A backend with the methods that another one has. Only a sequential run calls them; others begin their calls."""

    def __init__(self, backend: RunBackend, model: object) -> None:
        for name, stage in _STAGES.items():
            if callable(getattr(model, name, None)):
                setattr(self, name, partial(backend.wait_for, stage))
            if callable(getattr(model, "a" + name, None)):
                setattr(self, "a" + name, _begun_elsewhere)


async def _begun_elsewhere(argument: Any) -> Any:
    """Only say that the method is there: a run that awaits calls has the virtual driver begin them instead."""
    raise RuntimeError("the virtual driver begins calls, and awaits none")


class _MadeUp:
    """A search that finds made-up reviews."""

    def search(self, query: SearchQuery, /) -> Sequence[Hit]:
        """Return as many hits as may be."""
        return made_up_hits(query)

    def search_many(self, queries: Sequence[SearchQuery], /) -> Sequence[Sequence[Hit]]:
        """Return the hits of each query."""
        return [made_up_hits(query) for query in queries]


def made_up_hits(query: SearchQuery) -> list[Hit]:
    """Return reviews in place of those that a search would find: as many as it may, of the usual length."""
    restaurant_id = query.restaurant_id if query.scope == "restaurant" else 0
    aspect = query.aspect or "search"
    return [
        Hit(f"{aspect}-{number}", _REVIEW, 1.0 - number / 1000, restaurant_id)
        for number in range(query.limit)
    ]


_REVIEW = "직원분들이 친절하고 음식이 정갈해요. 가격은 조금 있지만 양을 생각하면 만족스러웠습니다."
