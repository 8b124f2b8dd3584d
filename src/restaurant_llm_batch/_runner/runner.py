"""Batch runner: applies a task to many items with LLM and search backends, within limits."""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import count
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar

from .._config.limits import DefaultLimit, Limits, make_limiters
from .._config.retry import RetryPolicy
from .._config.stopping import Price, StopConditions, TimeLimits
from .._config.strategy import Strategy
from .._engine.beginning import beginning
from .._engine.items import ItemReader, as_task
from .._engine.mailbox import Clock, thread_clock
from .._engine.packer import BatchPacker
from .._engine.plan import make_plan
from .._engine.resources import Lease, RunnerResources
from .._engine.run import RunConfig, RunState
from .._engine.streams import BlockingRun, BlockingSession, OutcomeStream, attach_report
from .._engine.wave_service import wave_service_of
from .._limits.clients import Client
from .._limits.limiters import as_pool
from ..errors import ConfigurationError
from ..outcomes import BatchReport, Outcome, RunStats, Stage
from ..protocols import (
    AsyncLLMBackend,
    AsyncSearchBackend,
    LLMBackend,
    Observer,
    SearchBackend,
    Task,
    TokenCounter,
)
from ..steps import Flow
from ..tasks._ask import ask_flow
from ..tokens.packing import estimate_tokens
from .blocks import Openable, current_block
from .checks import (
    announce_waves,
    as_observers,
    check_batch_tokens,
    check_counter,
    check_prices,
    check_type,
)
from .foresight import Foresight
from .given import open_recording, open_shared, open_store
from .limit_control import Adjustable, LimitControl
from .watching import check_watch, learns_tokens, make_watch

if TYPE_CHECKING:
    from .._engine.async_streams import AsyncOutcomeStream
    from .._engine.concurrent import ConcurrentDriver
    from .._settings import BatchSettings
    from .._store.folder import StoreFolder
    from .._store.store import Store
    from ..records._recording import Recording
    from ..simulation._play import RunnerParts

R = TypeVar("R")

_RUN_NUMBERS = count(1)
"""Numbers of the runs of this process, so that one observer can watch several runners."""
Deliver = Callable[[Outcome[Any]], object]


class BatchRunner(Foresight, Adjustable, Openable):
    """
    Applies tasks to items, many at a time, within limits.

    One runner is meant to be shared by requests, threads and event loops: its limits apply across all of its runs. Use
    it in a ``with`` or ``async with`` block to keep clients open over several runs; without one, call `close` at the
    end.

    Args:
        llm: The LLM backend, with `complete`, `acomplete` or both.
        search: The search backend, with `search`, `asearch` or both; None for tasks that do not search.
        strategy: What runs concurrently, with sync or async clients.
        limits: Limits on calls in flight, tokens, rates, open items and batch sizes.
        search_retry: How failed searches are retried.
        llm_retry: How failed LLM calls are retried.
        count_tokens: Counts the tokens of a text, so that batches keep to `Limits.max_tokens_per_batch`. An exact
            counter with the model's own tokenizer fills them best.
        store: The file in which replies are stored, so that no equal request is paid for twice; a path or a `Store`.
            It is created if it does not exist. Or a `StoreFolder`, for processes on several machines.
        record: The file in which runs are recorded: a path, or a `Recording`, for example with texts. It may be the
            store's file. It is created if it does not exist; `open_record` reads it.
        time_limits: How long calls, items and runs may take, in seconds.
        stop: When a run stops by itself.
        prices: Prices by the model name in the replies, with or without its date; "" prices all other models.
            `RunStats.cost` is their sum.
        watch_server: Seconds between two readings of the load of the model's server while a run goes on, for example
            2.0; None to read nothing. A backend with ``metrics()`` or ``ametrics()`` has it, such as `VLLMServerLLM`,
            and `RunPodLLM`. A queue there, or preemptions, lower an `AdaptiveLimit`, and room raises it; unless
            `Limits.tokens_in_flight` is given, it follows the size of the server's KV cache. `RunStats.servers` has
            what was read.
        observers: Called with every event of every run.
        gc_threshold: The threshold of Python's garbage collector (`gc.set_threshold`) while the runner is in use, for
            example 50_000; it is put back afterwards. With hundreds of calls in flight, the collector may take a third
            of the time. It holds for the whole process; None, the default, leaves it.

    Attributes:
        strategy: The strategy.
        limits: The limits.

    Raises:
        ConfigurationError: If a backend lacks the method that the strategy needs, an argument has the wrong type, or
            the store or the record cannot be opened; or if the broker of a `SharedLimiter` cannot be used.
    """

    def __init__(
        self,
        *,
        llm: LLMBackend | AsyncLLMBackend,
        search: SearchBackend | AsyncSearchBackend | None = None,
        strategy: Strategy = Strategy(),
        limits: Limits = Limits(),
        search_retry: RetryPolicy = RetryPolicy(),
        llm_retry: RetryPolicy = RetryPolicy(),
        count_tokens: TokenCounter = estimate_tokens,
        store: str | os.PathLike[str] | Store | StoreFolder | None = None,
        record: str | os.PathLike[str] | Recording | None = None,
        time_limits: TimeLimits = TimeLimits(),
        stop: StopConditions = StopConditions(),
        prices: Mapping[str, Price] | None = None,
        watch_server: float | None = None,
        observers: Iterable[Observer] = (),
        gc_threshold: int | None = None,
    ) -> None:
        check_type(strategy, Strategy, "strategy")
        check_type(limits, Limits, "limits")
        check_type(search_retry, RetryPolicy, "search_retry")
        check_type(llm_retry, RetryPolicy, "llm_retry")
        check_type(time_limits, TimeLimits, "time_limits")
        check_type(stop, StopConditions, "stop")
        check_prices(prices, stop)
        check_watch(watch_server)
        self.strategy = strategy
        self.limits = limits
        self._search = search
        pool, service = as_pool(llm), wave_service_of(llm)
        check_batch_tokens(limits, sends_batches=service is not None)
        endpoints = () if pool is None else pool.endpoint_backends
        self._plan = make_plan(strategy, search, llm if service is None else service.online, endpoints)
        check_counter(count_tokens)
        retries: dict[Stage, RetryPolicy] = {"search": search_retry, "llm": llm_retry, "tokens": llm_retry}
        self._store = open_store(store)
        fingerprint, models = "", None
        if self._store is not None or service is not None:
            from .._store.identity import fingerprint_of, models_of

            fingerprint = fingerprint_of(llm, warn=True)
            if pool is not None and self._store is not None:
                models = models_of(endpoints, fingerprint)
        limiters = make_limiters(limits, pool, learns_tokens=learns_tokens(watch_server, llm, pool))
        self._config = RunConfig(
            plan=self._plan,
            limiters=limiters,
            packer=BatchPacker(limits, count_tokens),
            retries=retries,
            sequence=count().__next__,
            store=self._store,
            fingerprint=fingerprint,
            models=models,
            time_limits=time_limits,
            stop=stop,
            prices=dict(prices or {}),
            estimates_usage=getattr(llm, "calls_model", True),
            observers=as_observers(observers),
            ask=ask_flow,
            watch=make_watch(watch_server, llm, pool, strategy, limits, limiters),
            wave_service=service,
        )
        if service is not None:
            are_kept = service.on_stop == "keep"
            announce_waves(strategy, has_store=self._store is not None, are_kept=are_kept)
        self._limit_control = LimitControl(self._config.limiters, strategy)
        self._recording = open_recording(record)
        if self._recording is not None:
            from ..records._recording import describe_runner

            facts = describe_runner(llm, strategy, limits, self._config)
            recorder = self._recording.observer(facts, self._limit_control)
            self._config = replace(self._config, observers=(*self._config.observers, recorder))
        shared = open_shared(self._config.limiters)
        closed = (llm, search, *shared, self._store, self._recording)
        self._resources = RunnerResources(
            [resource for resource in closed if resource is not None], gc_threshold
        )
        self._llm, self._search, self._count_tokens = llm, search, count_tokens
        self._block_leases, self._async_blocks = [], []
        self._begin = beginning(concurrent=strategy.is_concurrent, loop=not strategy.threads)

    @classmethod
    def from_settings(cls, settings: BatchSettings, **arguments: Any) -> Self:
        """
        Create a runner from settings of the environment.

        Args:
            settings: The settings.
            arguments: Any arguments of `BatchRunner`; they take precedence over the settings.

        Raises:
            ConfigurationError: If the settings or the arguments are invalid.
        """
        llm = arguments.get("llm") or settings.llm()
        chosen: dict[str, Any] = {"llm": llm, **settings.runner_arguments(llm), **arguments}
        if "search" not in chosen:
            chosen["search"] = settings.search()
        return cls(**chosen)

    @property
    def llm(self) -> LLMBackend | AsyncLLMBackend:
        """The LLM backend."""
        return self._llm

    @property
    def search(self) -> SearchBackend | AsyncSearchBackend | None:
        """The search backend; None without one."""
        return self._search

    @property
    def can_search(self) -> bool:
        """Whether the runner has a search backend: without one, tasks that require search are refused."""
        return self._plan.search is not None

    def run(
        self,
        task: Task[R] | Callable[[Any], Flow[R]],
        items: Iterable[Any],
        *,
        client: Client | None = None,
    ) -> BatchReport[R]:
        """
        Apply a task to items and wait for all of them.

        It blocks the calling thread. It works with every strategy, in scripts, threads, notebooks and under any event
        loop.

        Args:
            task: A task, or a generator function of one item.
            items: The items. A collection, such as a list, is checked as a whole before any call; any other iterable is
                read lazily, in this thread.
            client: Whom the run is made for, if the runner's limits are to be shared fairly; see `Client`.

        Returns:
            A report with an outcome for every item read, in input order, and the statistics of the run.

        Raises:
            ConfigurationError: Before any call, if the task or the items are invalid.
            KeyboardInterrupt: On Ctrl-C; calls in flight are cancelled. Like any other exception that this raises,
                such as one of the items' iterable, it has a `report` of the finished items.
        """
        session: BlockingSession | None = None
        outcomes: list[Outcome[Any]] = []
        try:
            session = self._session(task, items, client, collect=True)
            while not session.closed:
                session.take(outcomes)
            if self._recording is not None:
                self._recording.flush()
            return _report(outcomes, session.stats)
        except BaseException as error:
            if session is not None:
                session.end(outcomes)
            if session is not None or not isinstance(error, Exception):
                attach_report(error, outcomes, RunStats() if session is None else session.stats)
            raise

    def stream(
        self,
        task: Task[R] | Callable[[Any], Flow[R]],
        items: Iterable[Any],
        *,
        client: Client | None = None,
    ) -> OutcomeStream[R]:
        """
        Apply a task to items and yield the outcomes as they finish.

        Items are read and started only as fast as outcomes are taken. Arguments and exceptions are those of `run`.

        Returns:
            An iterator of outcomes; see `OutcomeStream`.
        """
        return OutcomeStream(self._session(task, items, client, collect=False))

    async def arun(
        self,
        task: Task[R] | Callable[[Any], Flow[R]],
        items: Iterable[Any] | AsyncIterable[Any],
        *,
        client: Client | None = None,
    ) -> BatchReport[R]:
        """
        Apply a task to items on the running event loop, asyncio's or trio's, and wait for all of them.

        Cancelling it cancels its calls in flight. Items are read on the event loop, so a lazy iterable should not
        block; an async iterable is awaited, an item at a time, whenever the window has room, and closed at the end of
        the run; if that comes earlier than the next item, what is awaited is cancelled. Arguments, result and
        exceptions are otherwise those of `run`.
        """
        from .._engine.awaited_items import source_on_loop
        from .._engine.concurrent import ConcurrentDriver
        from .._engine.loop_lease import LoopLease
        from .._engine.loop_mailbox import event_loop_clock

        run, reader = self._prepare(task, items, client, event_loop_clock(), on_loop=True)
        outcomes: list[Outcome[Any]] = []
        lease = LoopLease(self._resources)
        driver: ConcurrentDriver | None = None
        try:
            source, threads = source_on_loop(reader), lease.acquire()
            driver = ConcurrentDriver(
                run, source, reader, self._window, threads, outcomes.append, collect=True
            )
            run.recorder.start(reader.total)
            await driver.run()
            run.recorder.finish()
            if self._recording is not None:
                from anyio import to_thread

                await to_thread.run_sync(self._recording.flush)
            await lease.release()
            return _report(outcomes, run.recorder.stats)
        except BaseException as error:
            if driver is not None:
                driver.end()
            run.recorder.finish()
            attach_report(error, outcomes, run.recorder.stats)
            await lease.release()
            raise

    def astream(
        self,
        task: Task[R] | Callable[[Any], Flow[R]],
        items: Iterable[Any] | AsyncIterable[Any],
        *,
        client: Client | None = None,
    ) -> AsyncOutcomeStream[R]:
        """
        Apply a task to items on the running event loop and yield the outcomes as they finish.

        It needs an ``async with runner`` block; the run ends with the block at the latest. Items may be an async
        iterable, as for `arun`. Arguments and exceptions are otherwise those of `stream`.

        Returns:
            An async iterator of outcomes; see `AsyncOutcomeStream`.

        Raises:
            ConfigurationError: If there is no such block, or the task or the items are invalid.
        """
        from .._engine.async_streams import AsyncOutcomeStream
        from .._engine.awaited_items import source_on_loop
        from .._engine.concurrent import ConcurrentDriver
        from .._engine.loop_mailbox import event_loop_clock

        block = current_block(self._async_blocks)
        run, reader = self._prepare(task, items, client, event_loop_clock(), on_loop=True)

        def make_driver(deliver: Deliver, delivered: Callable[[], object]) -> ConcurrentDriver:
            source = source_on_loop(reader)
            return ConcurrentDriver(
                run, source, reader, self._window, block.threads, deliver, delivered, collect=False
            )

        return AsyncOutcomeStream(block.tasks, make_driver, run, reader.total)

    @property
    def parts(self) -> RunnerParts:
        """The parts of the runner that a simulation takes."""
        from ..simulation._play import RunnerParts

        return RunnerParts(
            self._config, self.strategy, self.limits, self._llm, self._search, self._count_tokens
        )

    @property
    def recording(self) -> Recording | None:
        """The record of its runs; None without one."""
        return self._recording

    def _prepare(
        self,
        task: Task[R] | Callable[[Any], Flow[R]],
        items: Iterable[Any] | AsyncIterable[Any],
        client: Client | None,
        now: Clock,
        *,
        on_loop: bool = False,
    ) -> tuple[RunState, ItemReader]:
        checked = as_task(task)
        if checked.requires_search and self._plan.search is None:
            raise ConfigurationError(
                f"{checked.name} searches for reviews, but this runner has no search; "
                "for example BatchRunner(search=EmbeddedSearch(...), llm=...)"
            )
        if client is not None:
            check_type(client, Client, "client")
        reader = ItemReader(checked, items, on_loop=on_loop)
        return RunState(next(_RUN_NUMBERS), checked, self._config, now, client=client), reader

    def _session(
        self,
        task: Task[R] | Callable[[Any], Flow[R]],
        items: Iterable[Any],
        client: Client | None,
        *,
        collect: bool,
    ) -> BlockingSession:
        run, reader = self._prepare(task, items, client, thread_clock)

        def begin(lease: Lease) -> BlockingRun:
            return self._begin(run, reader, self._window, lease, collect=collect)

        return BlockingSession(begin, self._lease(), run, reader.total)

    @property
    def _window(self) -> int:
        service, open_items = self._config.wave_service, self.limits.open_items
        if not self._plan.concurrent_items:
            return 1
        return (
            service.max_lines if service is not None and isinstance(open_items, DefaultLimit) else open_items
        )

    def __reduce__(self) -> NoReturn:
        raise _NotPickled(
            "a BatchRunner cannot be copied or pickled, because it holds clients, threads and limits; make one in "
            "each process that needs it, in a function that runs there, and pass that function or the settings instead"
        )

    def __repr__(self) -> str:
        return f"<BatchRunner {self.strategy}>"


class _NotPickled(ConfigurationError, TypeError):
    """A `TypeError` too, as pickle raises for other objects that hold threads."""


def _report(outcomes: Sequence[Outcome[Any]], stats: RunStats) -> BatchReport[Any]:
    return BatchReport(sorted(outcomes, key=attrgetter("index")), stats)
