"""Plays runs on virtual time: the engine of a runner, with a simulated server in place of its backends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from random import Random
from typing import Any

from .._config.limits import Limits
from .._config.strategy import Strategy
from .._engine.items import ItemReader, as_task
from .._engine.packer import BatchPacker
from .._engine.plan import LoadMethod, make_plan
from .._engine.run import RunConfig, RunState
from .._engine.sequential import SequentialDriver
from .._engine.server_reading import read_at_once
from .._engine.server_watch import WatchedServer, WatchPlan
from .._engine.token_budget import TokenBudget
from .._engine.virtual import Done, VirtualDriver, VirtualMailbox, VirtualTime
from .._limits.batch_budget import BatchBudget
from .._limits.concurrency import ConcurrencyLimiter
from .._limits.limiters import LimiterSet, as_pool
from .._limits.pool import EndpointLimiter, L
from .._store.overlay import OverlayStore
from ..errors import ConfigurationError
from ..models import Hit, SearchQuery
from ..outcomes import Outcome, RunStats, Stage
from ..protocols import LLMBackend, Observer, TokenCounter
from ..sharing._memory import MemoryBroker
from ..sharing.limiter import SharedLimiter
from ..tokens.packing import estimate_tokens
from ._model import Find, ServerModel
from ._model_answers import Answers
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
        return _model_name(self.llm)

    @property
    def model(self) -> str:
        """Name of its model in simulated replies."""
        return self.model_name or "simulated"

    @property
    def endpoints(self) -> Mapping[str, object]:
        """The backends of the endpoints by name, if its LLM backend is a pool; otherwise empty."""
        pool = as_pool(self.llm)
        if pool is None:
            return {}
        return dict(zip(pool.endpoint_limiter.names, pool.endpoint_backends, strict=True))

    @property
    def count_tokens(self) -> TokenCounter:
        """Its counter; the estimate in place of one that would ask a service for each prompt."""
        return estimate_tokens if getattr(self.count, "blocking", False) else self.count


class RunBackend:
    """
    The backends of one run: a `VirtualBackend`.

    Args:
        model: The server.
        endpoints: The servers of the endpoints of a pool, by name.
        time: Where they live.
        find: Searches.
    """

    def __init__(
        self, model: ServerModel, endpoints: Mapping[str, ServerModel], time: VirtualTime, find: Find
    ) -> None:
        self._model = model
        self._endpoints = endpoints
        self._time = time
        self._find = find

    def begin(
        self, stage: Stage, argument: Any, done: Done, endpoint: str | None = None, /
    ) -> Callable[[], object]:
        """Begin a call: a request to the model or an endpoint, a query, or the queries of one round trip."""
        if stage == "llm":
            model = self._model if endpoint is None else self._endpoints[endpoint]
            return model.begin_request(argument, done)
        if not isinstance(argument, SearchQuery):
            return self._model.begin_search(self._find, argument, done)

        def first(found: Any, error: BaseException | None) -> None:
            done(None if error is not None else found[0], error)

        return self._model.begin_search(self._find, (argument,), first)

    def wait_for(self, stage: Stage, endpoint: str | None, argument: Any) -> Any:
        """Make a call, and let time pass until it has ended; return its answer or raise its error."""
        ended: list[tuple[Any, BaseException | None]] = []
        self.begin(stage, argument, lambda answer, error: ended.append((answer, error)), endpoint)
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
    Runs that live in one virtual time, at one simulated server; or at those of the endpoints of a pool.

    Args:
        server: What the server is like; of the endpoints of a pool, each; or one for each of them, by name.
        seed: Seed of all that is random.
        answers: Answers the requests at once, for example `OfflineLLM`; None for answers made from their forms.
        count: Counts the tokens of a text.
        model: Name of the model in its answers.
    """

    def __init__(
        self,
        server: ServerSpecification | Mapping[str, ServerSpecification],
        seed: int,
        answers: LLMBackend | None,
        count: Callable[[str], int],
        model: str,
    ) -> None:
        self.time = VirtualTime()
        self._seed = seed
        self._answers = answers
        self._count = count
        self._servers = server
        first = server if isinstance(server, ServerSpecification) else next(iter(server.values()))
        self.model = self._serve(first, model, "")
        self.endpoints: dict[str, ServerModel] = {}
        # By `id`, with the object itself, so that no other one takes its place.
        self._limiters: dict[int, tuple[LimiterSet, LimiterSet]] = {}
        self._twins: dict[int, tuple[Any, Any]] = {}
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
        for name, endpoint in parts.endpoints.items():
            if name not in self.endpoints:
                server = (
                    self._servers if isinstance(self._servers, ServerSpecification) else self._servers[name]
                )
                model = _model_name(endpoint) or parts.model
                self.endpoints[name] = self._serve(server, model, f" {name}")
        backend = RunBackend(self.model, self.endpoints, self.time, search.search)
        config = self._config(parts, backend, observers)
        run = RunState(number, checked, config, self.time.now, Random(f"run {number} {self._seed}"))
        driver: VirtualDriver | SequentialDriver
        if parts.strategy.is_concurrent:
            window = parts.limits.open_items if parts.strategy.restaurant_async else 1
            driver = VirtualDriver(run, reader, reader, window, self.time, backend, deliver)
        else:
            if any(isinstance(player.driver, SequentialDriver) for player in self.players):
                raise ConfigurationError(
                    "at most one of the runners that are simulated together may have Strategy.stage(1), because it "
                    "waits for each of its calls; for example Strategy.threaded() for the others"
                )
            driver = SequentialDriver(
                run, reader, collect=False, mailbox=VirtualMailbox(self.time), read_server=read_at_once
            )
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
        return self._usage()

    def _serve(self, server: ServerSpecification, model: str, name: str) -> ServerModel:
        answered = Random(f"answers {self._seed}{name}")
        made = Answers(self._answers, self._count, server.answer_tokens, answered, model)
        return ServerModel(server, self.time, Random(f"server {self._seed}{name}"), made)

    def _usage(self) -> ServerUsage:
        """Return what the servers saw together."""
        if not self.endpoints:
            return self.model.finish()
        models = [self.model, *self.endpoints.values()]  # the first one has the searches
        usages = [model.finish() for model in models]
        return ServerUsage.together(usages, [0.0, *(model.places for model in self.endpoints.values())])

    def _config(self, parts: RunnerParts, backend: RunBackend, observers: Sequence[Observer]) -> RunConfig:
        config = parts.config
        search = parts.search if parts.search is not None else _MadeUp()
        limiters = self._limiters.setdefault(
            id(config.limiters), (config.limiters, config.limiters.unused(self._twin))
        )[1]
        store = config.store
        if store is not None:
            store = self._stores.setdefault(id(store), (store, OverlayStore(store)))[1]
        endpoints = [_Stub(backend, endpoint, name) for name, endpoint in parts.endpoints.items()]
        llm, searches = _Stub(backend, parts.llm), _Stub(backend, search)
        plan = make_plan(parts.strategy, searches, llm, endpoints)
        # A counter that learns must not learn from simulated answers, and one that blocks would ask a service.
        packer = BatchPacker(parts.limits, partial(_counted, parts.count_tokens))
        return replace(
            config,
            plan=plan,
            limiters=limiters,
            packer=packer,
            store=store,
            observers=tuple(observers),
            watch=self._watch(config.watch, list(parts.endpoints), limiters),
            wave_service=None,
        )

    def _watch(
        self, watch: WatchPlan | None, endpoints: Sequence[str], limiters: LimiterSet
    ) -> WatchPlan | None:
        """Return what a run watches here: every simulated server has metrics."""
        if watch is None:
            return None
        models = {f"llm:{name}": self.endpoints[name] for name in endpoints} or {"llm": self.model}
        servers = [
            WatchedServer(name, LoadMethod(model.load, is_async=False)) for name, model in models.items()
        ]
        learned = watch.budget is not None and limiters.tokens is not None
        budget = (
            TokenBudget(limiters.tokens, len(servers)) if learned and limiters.tokens is not None else None
        )
        return WatchPlan(watch.seconds, servers, budget)

    def _twin(self, limiter: L) -> L:
        """Return the limiter that takes the place of another one: the same each time."""
        known = self._twins.get(id(limiter))
        if known is None:
            known = self._twins[id(limiter)] = limiter, self._unused(limiter)
        twin: L = known[1]
        return twin

    def _unused(self, limiter: ConcurrencyLimiter | EndpointLimiter | BatchBudget) -> Any:
        if isinstance(limiter, EndpointLimiter):
            return limiter.unused(self._twin)
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


def _model_name(llm: object) -> str:
    """Return the name of a backend's model; empty if it does not tell."""
    name = getattr(llm, "model", None)
    return name if isinstance(name, str) else ""


_STAGES: Mapping[str, Stage] = {"search": "search", "search_many": "search", "complete": "llm"}


class _Stub:
    """A backend with the methods that another one has. Only a sequential run calls them; others begin their calls."""

    def __init__(self, backend: RunBackend, model: object, endpoint: str | None = None) -> None:
        for name, stage in _STAGES.items():
            if callable(getattr(model, name, None)):
                setattr(self, name, partial(backend.wait_for, stage, endpoint))
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
