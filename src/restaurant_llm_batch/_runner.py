"""`BatchRunner`: a task, items and a strategy become outcomes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from itertools import count
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from anyio import NoEventLoopError, create_task_group, get_current_task
from anyio.abc import TaskGroup
from anyio.lowlevel import EventLoopToken, current_token

from ._config.limits import Limits
from ._config.retry import RetryPolicy
from ._config.stopping import Price, StopConditions, TimeLimits
from ._config.strategy import Strategy
from ._engine.bridge import RunBridge, in_thread, on_loop
from ._engine.concurrent import ConcurrentDriver
from ._engine.items import InlineSource, ItemReader, as_task
from ._engine.mailbox import Clock, event_loop_clock, thread_clock
from ._engine.packer import BatchPacker
from ._engine.plan import make_plan
from ._engine.resources import Lease, RunnerResources
from ._engine.run import RunConfig, RunState
from ._engine.sequential import SequentialDriver
from ._engine.streams import AsyncOutcomeStream, BlockingRun, OutcomeStream, attach_report
from ._engine.threaded import ThreadedDriver
from ._engine.threads import DaemonThreadPool
from ._limits.aimd import AdaptiveLimit
from ._limits.concurrency import ConcurrencyLimiter
from ._limits.limiters import LimiterSet
from ._limits.rate import RateLimiter
from ._store.store import Store
from .errors import ConfigurationError
from .outcomes import BatchReport, Failure, Outcome, RunStats, Stage, Success
from .protocols import (
    AsyncLLMBackend,
    AsyncSearchBackend,
    LLMBackend,
    Observer,
    SearchBackend,
    Task,
    TokenCounter,
)
from .steps import Flow
from .tokens.packing import estimate_tokens

if TYPE_CHECKING:
    from ._settings import BatchSettings

R = TypeVar("R")

_RUN_NUMBERS = count(1)
"""Numbers the runs of this process, so that one observer can watch several runners."""
Driver = TypeVar("Driver", ConcurrentDriver, ThreadedDriver)
Deliver = Callable[[Outcome[Any]], bool]


@dataclass(frozen=True, slots=True)
class _Opening:
    """An ``async with runner`` block: its loop and task, and where its streams live."""

    loop: EventLoopToken
    task: int
    threads: DaemonThreadPool
    tasks: TaskGroup
    stack: AsyncExitStack


class BatchRunner:
    """
    Applies tasks to items, many at a time, and never beyond its limits.

    One runner is meant to be shared: by requests, threads and event loops. Its limits hold across everything
    it does at once. Use it in a ``with`` or ``async with`` block to keep clients open over several runs.

    Args:
        llm: The model, with `complete`, `acomplete` or both.
        search: The search, with `search`, `asearch` or both; None for tasks that do not search.
        strategy: What runs side by side, in which colour.
        limits: The most that happens at once.
        search_retry: When to make a failed search again.
        llm_retry: When to make a failed LLM call again.
        count_tokens: Counts the tokens of a text, for batches to keep to `Limits.max_tokens_per_batch`; an exact
            counter of the model's own tokenizer fills them best.
        store: The file that answers are kept in, so that no question is paid for twice; also a `Store`. It is made
            where there is none.
        time_limits: How long calls, items and runs may take.
        stop: When a run stops by itself.
        prices: What models cost, by the name that their replies give, with or without a date; "" for all others.
            `RunStats.cost` adds up.
        observers: Called with every event of every run.

    Raises:
        ConfigurationError: When a backend lacks the method that the strategy needs, or an argument is of
            the wrong kind.
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
        store: str | os.PathLike[str] | Store | None = None,
        time_limits: TimeLimits = TimeLimits(),
        stop: StopConditions = StopConditions(),
        prices: Mapping[str, Price] | None = None,
        observers: Iterable[Observer] = (),
    ) -> None:
        _check(strategy, Strategy, "strategy")
        _check(limits, Limits, "limits")
        _check(search_retry, RetryPolicy, "search_retry")
        _check(llm_retry, RetryPolicy, "llm_retry")
        _check(time_limits, TimeLimits, "time_limits")
        _check(stop, StopConditions, "stop")
        if stop.max_cost is not None and not prices:
            raise ConfigurationError(
                'StopConditions.max_cost needs prices; write prices={"gpt-5-mini": Price(prompt=0.25, completion=2.0)}'
            )
        _check_prices(prices)
        self.strategy = strategy
        self.limits = limits
        self._plan = make_plan(strategy, search, llm)
        limiters = LimiterSet(
            _gate(limits.search),
            _gate(limits.llm),
            _gate(limits.batches),
            None if limits.llm_total is None else _gate(limits.llm_total),
            None if limits.tokens_in_flight is None else _gate(limits.tokens_in_flight),
            RateLimiter(limits.requests_per_minute, limits.tokens_per_minute),
        )
        counter: object = count_tokens
        if not callable(counter) or isinstance(counter, type):
            raise ConfigurationError(
                f"count_tokens must be callable with a text, got {count_tokens!r}; "
                "write count_tokens=estimate_tokens"
            )
        retries: dict[Stage, RetryPolicy] = {"search": search_retry, "llm": llm_retry, "tokens": llm_retry}
        self._store = store if store is None or isinstance(store, Store) else Store(store)
        if self._store is not None:
            self._store.open()
        self._config = RunConfig(
            plan=self._plan,
            limiters=limiters,
            packer=BatchPacker(limits, count_tokens),
            retries=retries,
            sequence=count().__next__,
            store=self._store,
            fingerprint=fingerprint_of(llm) if self._store is not None else "",
            time_limits=time_limits,
            stop=stop,
            prices=dict(prices or {}),
            observers=_observers(observers),
        )
        self._resources = RunnerResources([one for one in (llm, search, self._store) if one is not None])
        self._blocks: list[Lease] = []
        self._openings: list[_Opening] = []

    @classmethod
    def from_settings(cls, settings: BatchSettings, **arguments: Any) -> Self:
        """
        Make a runner from the environment.

        Args:
            settings: What the environment says.
            arguments: Any argument of `BatchRunner`, which then goes before the environment.
        """
        chosen: dict[str, Any] = {"strategy": settings.strategy(), "limits": settings.limits(), **arguments}
        if "llm" not in chosen:
            chosen["llm"] = settings.llm()
        if "search" not in chosen:
            chosen["search"] = settings.search()
        return cls(**chosen)

    def run(self, task: Task[R] | Callable[[Any], Flow[R]], items: Iterable[Any]) -> BatchReport[R]:
        """
        Apply a task to items and wait for all of them.

        Works with every strategy, in scripts, threads, notebooks and under any event loop.

        Args:
            task: A task, or a generator function of one item.
            items: A list is checked whole before any call; another iterable is read lazily, in this thread.

        Returns:
            An outcome for every item taken, in input order.

        Raises:
            ConfigurationError: Before any call, when something passed cannot work.
            KeyboardInterrupt: With a `report` of what is finished; calls in flight are cancelled. Whatever
                else leaves here, such as an error of the items' iterable, carries one too.
        """
        stream = self._stream(task, items, collect=True)
        outcomes: list[Success[R] | Failure] = []
        try:
            outcomes.extend(stream)
        except BaseException as error:
            left = getattr(error, "report", None)
            attach_report(error, outcomes + list(left.outcomes if left else ()), stream.stats)
            raise
        return _report(outcomes, stream.stats)

    def stream(self, task: Task[R] | Callable[[Any], Flow[R]], items: Iterable[Any]) -> OutcomeStream[R]:
        """
        Apply a task to items and yield the outcomes as they finish.

        The input is read, and restaurants are opened, only as fast as outcomes are taken. Arguments and
        errors are those of `run`.
        """
        return self._stream(task, items, collect=False)

    async def arun(self, task: Task[R] | Callable[[Any], Flow[R]], items: Iterable[Any]) -> BatchReport[R]:
        """
        Apply a task to items on the running loop, asyncio's or trio's.

        Cancelling it cancels its calls in flight. Items are read on the loop, so a lazy iterable should not
        block. Otherwise as `run`.
        """
        run, reader = self._prepare(task, items, event_loop_clock())
        outcomes: list[Outcome[Any]] = []

        def deliver(outcome: Outcome[Any]) -> bool:
            outcomes.append(outcome)
            return True

        async with self._resources.on_loop() as threads:
            run.recorder.start(reader.total)
            driver = self._concurrent(run, reader, threads, deliver)
            try:
                await driver.run()
            except BaseException as error:
                attach_report(error, outcomes, run.recorder.stats)
                raise
            finally:
                run.recorder.finish()
        return _report(outcomes, run.recorder.stats)

    def astream(
        self, task: Task[R] | Callable[[Any], Flow[R]], items: Iterable[Any]
    ) -> AsyncOutcomeStream[R]:
        """
        Apply a task to items on the running loop and yield the outcomes as they finish.

        Only inside ``async with runner``, whose block the run belongs to. Otherwise as `stream`.

        Raises:
            ConfigurationError: Outside such a block, and as `run` does.
        """
        opening = self._opening_here()
        run, reader = self._prepare(task, items, event_loop_clock())

        def make_driver(deliver: Deliver) -> ConcurrentDriver:
            run.recorder.start(reader.total)
            return self._concurrent(run, reader, opening.threads, deliver)

        return AsyncOutcomeStream(opening.tasks, make_driver, run)

    def _prepare(
        self, task: Task[R] | Callable[[Any], Flow[R]], items: Iterable[Any], now: Clock
    ) -> tuple[RunState, ItemReader]:
        checked = as_task(task)
        if checked.requires_search and self._plan.search is None:
            raise ConfigurationError(
                f"{checked.name} searches for reviews, but this runner has no search; "
                "write BatchRunner(search=EmbeddedSearch(...), llm=...)"
            )
        reader = ItemReader(checked, items)
        return RunState(next(_RUN_NUMBERS), checked, self._config, now), reader

    def _stream(
        self, task: Task[R] | Callable[[Any], Flow[R]], items: Iterable[Any], *, collect: bool
    ) -> OutcomeStream[R]:
        run, reader = self._prepare(task, items, thread_clock)

        def begin(lease: Lease) -> BlockingRun:
            threads = lease.threads
            run.recorder.start(reader.total)
            if not self.strategy.is_concurrent:
                return SequentialDriver(run, reader)
            if lease.loop_thread is None:
                launch = in_thread(partial(make_driver, ThreadedDriver, threads), threads)
            else:
                portal = lease.loop_thread.portal
                launch = on_loop(partial(make_driver, ConcurrentDriver, threads), portal)
            return RunBridge(run, reader, launch, collect=collect)

        def make_driver(kind: type[Driver], threads: DaemonThreadPool, bridge: RunBridge) -> Driver:
            return kind(run, bridge.source, reader, self._window, threads, bridge.deliver)

        return OutcomeStream(begin, self._acquire_lease, run)

    def _acquire_lease(self, *, is_context: bool = False) -> Lease:
        loop = self.strategy.is_concurrent and not self.strategy.threads
        return self._resources.acquire(loop=loop, is_context=is_context)

    def _concurrent(
        self, run: RunState, reader: ItemReader, threads: DaemonThreadPool, deliver: Deliver
    ) -> ConcurrentDriver:
        return ConcurrentDriver(run, InlineSource(reader), reader, self._window, threads, deliver)

    @property
    def _window(self) -> int:
        return self.limits.open_items if self._plan.concurrent_items else 1

    def _opening_here(self) -> _Opening:
        """Find the block that a stream started here belongs to: this task's own, else this loop's first."""
        try:
            loop, task = current_token(), get_current_task().id
        except NoEventLoopError:
            raise ConfigurationError(
                "astream() is for a running event loop, with `async for`; write stream() here"
            ) from None
        here = [opening for opening in list(self._openings) if opening.loop == loop]
        if not here:
            raise ConfigurationError(
                "astream() needs an open runner; write `async with runner:` around the loop over "
                "its outcomes, or use `await runner.arun(...)`"
            )
        own = [opening for opening in here if opening.task == task]
        return own[-1] if own else here[0]

    def __enter__(self) -> Self:
        self._blocks.append(self._acquire_lease(is_context=True))
        return self

    def __exit__(self, *exc: object) -> None:
        self._blocks.pop().release()

    async def __aenter__(self) -> Self:
        stack = AsyncExitStack()
        threads = await stack.enter_async_context(self._resources.on_loop(is_context=True))
        tasks = await stack.enter_async_context(create_task_group())
        here = current_token(), get_current_task().id
        self._openings.append(_Opening(*here, threads, tasks, stack))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        loop, task = current_token(), get_current_task().id
        opening = next((o for o in reversed(self._openings) if (o.loop, o.task) == (loop, task)), None)
        if opening is None:
            raise ConfigurationError("leave `async with runner` in the task that entered it")
        self._openings.remove(opening)
        opening.tasks.cancel_scope.cancel()
        # The block's own exception is not the task group's business: it would come back in a group.
        await opening.stack.aclose()

    def __repr__(self) -> str:
        return f"<BatchRunner {self.strategy}>"


def _gate(limit: int | AdaptiveLimit | ConcurrencyLimiter) -> ConcurrencyLimiter:
    return limit if isinstance(limit, ConcurrencyLimiter) else ConcurrencyLimiter(limit)


def fingerprint_of(llm: object) -> str:
    """
    Return what names a model in the keys of a store: its `fingerprint`, or that of its class.

    Two backends of equal identity are taken to give each other's answers.
    """
    identity = getattr(llm, "fingerprint", None)
    if isinstance(identity, str) and identity:
        return identity
    return f"{type(llm).__module__}.{type(llm).__qualname__}"


def _check_prices(prices: object) -> None:
    if prices is None:
        return
    if not isinstance(prices, Mapping) or not all(
        isinstance(name, str) and isinstance(price, Price) for name, price in prices.items()
    ):
        raise ConfigurationError(
            f"prices must map names of models to a Price, got {prices!r}; "
            'write prices={"gpt-5-mini": Price(prompt=0.25, completion=2.0)}'
        )


def _observers(observers: Iterable[Observer]) -> tuple[Observer, ...]:
    given: object = observers
    if isinstance(given, Iterable) and not isinstance(given, (str, type)):
        found = tuple(given)
        if all(callable(one) and not isinstance(one, type) for one in found):
            return found
    raise ConfigurationError(
        f"observers must be a list of what is callable with an event, got {observers!r}; "
        "write observers=[RichProgress()]"
    )


def _check(value: object, kind: type, field: str) -> None:
    if not isinstance(value, kind):
        raise ConfigurationError(
            f"{field} must be a {kind.__name__}, got {value!r}; write {field}={kind.__name__}(...)"
        )


def _report(outcomes: Sequence[Outcome[Any]], stats: RunStats) -> BatchReport[Any]:
    return BatchReport(sorted(outcomes, key=lambda outcome: outcome.index), stats)
