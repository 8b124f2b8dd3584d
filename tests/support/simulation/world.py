"""Plays a plan: its runs on one virtual time, what happens to them, and the checks after every event."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from restaurant_llm_batch import BatchRunner, ConcurrencyLimiter, Limits, LLMRequest, LLMResponse
from restaurant_llm_batch._engine.sequential import SequentialDriver
from restaurant_llm_batch._engine.virtual import VirtualDriver
from restaurant_llm_batch.backends import LLMPool
from restaurant_llm_batch.events import Event
from restaurant_llm_batch.simulation._play import Playback, RunnerParts

from .broken import Breach, Broken, keep
from .disk import Disk, Kept
from .flows import Echo, Search, inputs_of, task_of
from .plans import Happening, Item, Plan, PoolPlan, Way, strategy_of
from .queues import Queues
from .record import PRICES, RunRecord
from .service import Service

MOST_STEPS = 400_000
"""Actions after which a plan is taken for one that never ends."""


@dataclass(frozen=True, slots=True)
class Played:
    """
    What came of a plan.

    Attributes:
        events: The events of each run, those after a kill included.
        records: The runs that came to their end.
        steps: Number of actions on virtual time, after each of which the promises were checked.
    """

    events: tuple[tuple[Event, ...], ...]
    records: tuple[RunRecord, ...]
    steps: int


def play(plan: Plan) -> Played:
    """
    Play a plan. After a kill, a new process goes on from what was durable.

    Raises:
        Broken: A promise was not kept.
    """
    kept: Kept = {}
    world = World(plan, kept)
    try:
        world.play()
        events, steps = world.events, world.steps
        if world.was_killed:
            calm = tuple(happening for happening in plan.happenings if happening.what != "kill")
            world = World(replace(plan, happenings=calm), kept)
            world.play()
            events, steps = events + world.events, steps + world.steps
    except Breach as breach:
        raise breach.broken from None
    except Exception as error:
        raise Broken("the engine raises nothing of its own", repr(error)) from error
    return Played(events, tuple(world.records), steps)


class World:
    """
    One process, on virtual time.

    Args:
        plan: The plan.
        kept: What is durable in its store.

    Attributes:
        records: Its runs.
        steps: Actions on virtual time so far.
        was_killed: Whether it was killed.
    """

    def __init__(self, plan: Plan, kept: Kept) -> None:
        self.records: list[RunRecord] = []
        self.steps = 0
        self.was_killed = False
        self._is_ending = False
        self._slots_are_exact = True
        self._plan = plan
        self._pool = None if plan.pool is None else make_pool(plan.pool)
        servers: Any = plan.server
        if plan.pool is not None and self._pool is not None:
            servers = dict(zip(self._pool.endpoints, plan.pool.servers, strict=True))
        self._playback = Playback(servers, plan.seed, Echo(), count_tokens, "simulated")
        self._time = self._playback.time
        self._step = self._time.step
        self._time.step = self.step  # type: ignore[method-assign]
        self._disk: Disk | None = None
        if plan.commit_seconds is not None:
            self._disk = disk = Disk(self._time, kept, plan.commit_seconds)
            self._playback._stores[id(disk)] = disk, disk
        self._service = Service(self._time.now, self._disk)
        self._queues = Queues(self._service)
        self._llm = _limiter_of(plan.limits.llm) if plan.joiner and plan.joiner.shares == "limit" else None
        self._parts = self._make_parts(plan.way)

    @property
    def events(self) -> tuple[tuple[Event, ...], ...]:
        """The events of each run."""
        return tuple(tuple(record.events) for record in self.records)

    def _make_parts(self, way: Way) -> RunnerParts:
        plan = self._plan
        limits = plan.limits if self._llm is None else replace(plan.limits, llm=self._llm)
        if plan.pool is not None and plan.pool.alone:
            limits = replace(limits, llm=Limits().llm, batches=Limits().batches)
        runner = BatchRunner(
            llm=NeverCalled() if self._pool is None else self._pool,
            search=Search(plan.search_faults),
            strategy=strategy_of(way),
            limits=limits,
            llm_retry=plan.llm_retry,
            search_retry=plan.search_retry,
            count_tokens=Counting() if plan.counter == "service" else count_tokens,
            time_limits=plan.time_limits,
            stop=plan.stop,
            prices=PRICES,
        )
        parts = runner.parts
        return replace(parts, config=replace(parts.config, store=self._disk, fingerprint="simulated"))

    def _add(
        self, parts: RunnerParts, way: Way, items: Sequence[Item], interrupt_at: int | None
    ) -> RunRecord:
        plan = self._plan
        record = RunRecord(plan, way, items, interrupt_at)
        inputs: Any = inputs_of(plan.flow, items)
        if plan.lazy:
            inputs = _lazily(inputs, record, plan.fails_at)
        player = self._playback.add(parts, task_of(plan.flow), inputs, record.deliver, (record.observe,))
        record.attach(player)
        self.records.append(record)
        self._service.watch(record)
        self._queues.watch(record)
        return record

    def play(self) -> None:
        """Play to the end, or until it is killed."""
        plan = self._plan
        interrupt_at = next((int(each.at) for each in plan.happenings if each.what == "interrupt"), None)
        main = self._add(self._parts, plan.way, plan.items, interrupt_at)
        for happening in plan.happenings:
            if happening.what != "interrupt":
                self._time.call_later(happening.at, partial(self._happen, happening, main))
        if plan.joiner is not None:
            self._time.call_later(plan.joiner.at, self._join)
        try:
            self._start(main)
            self._play_all(main)
        except KeyboardInterrupt as interrupt:
            if self.was_killed:  # what happens while the stack unwinds happens in no process
                self._close_flows()
                return
            if isinstance(interrupt, Breach):
                raise
            self._interrupt()
        except _InputFailed:
            keep("an error of the items comes from them", plan.fails_at is not None)
        self._finish()

    def _start(self, record: RunRecord) -> None:
        player = record.player
        player.run.started_at = self._time.now()
        player.run.recorder.start(player.total)
        if isinstance(player.driver, VirtualDriver):
            player.driver.start()

    def _play_all(self, main: RunRecord) -> None:
        driver = main.player.driver
        if isinstance(driver, SequentialDriver):
            self._play_sequential(driver, main)
        while any(not _is_over(record) for record in self.records) or self._joins_later():
            keep("a run that waits is waited for", self._time.step(), "nothing is left to happen")

    def _play_sequential(self, driver: SequentialDriver, record: RunRecord) -> None:
        outcomes: list[Any] = []
        more = True
        try:
            while more:
                more = driver.take(outcomes)
                while outcomes:
                    record.deliver(outcomes.pop(0))
        except BaseException as error:
            if isinstance(error, (_Killed, Breach)):
                raise
            driver.interrupted()
            self._service.forget(record)
            driver.abort(outcomes)
            for outcome in outcomes:
                record.deliver(outcome)
            record.was_stopped = True
            if isinstance(error, KeyboardInterrupt):
                raise
            keep("an error of the items comes from them", isinstance(error, _InputFailed), repr(error))

    def _joins_later(self) -> bool:
        joiner = self._plan.joiner
        return joiner is not None and len(self.records) == 1 and self._time.now() <= joiner.at

    def step(self, until: float = float("inf")) -> bool:
        """Run the next action, and check what has to be true after it; in place of `VirtualTime.step`."""
        did = self._step(until)
        self.steps += 1
        keep("a run ends", self.steps < MOST_STEPS, self._time.now())
        if self._slots_are_exact:
            self._queues.check(self.records, self._time.now())
        return did

    def _happen(self, happening: Happening, record: RunRecord) -> None:
        driver, run = record.player.driver, record.run
        match happening.what:
            case "kill" if not _is_over(record):
                self.was_killed = True
                raise _Killed
            case "disk full" if self._disk is not None:
                self._disk.is_full = True
            case "resize":
                limit: Any = run.limiters.limits().get(happening.limit)
                if limit is not None:
                    limit.limit = happening.number
                    keep("a limit that is set holds at once", limit.limit == happening.number, happening)
                    self._service.limit_set(record, happening.limit, happening.number)
            case "stop" if not _is_over(record):
                run.stop("enough")
                if isinstance(driver, VirtualDriver):
                    driver.mailbox.post(driver.scheduler.drain)
                else:
                    driver.check_stop()
            case "cancel" if not _is_over(record):
                record.was_stopped = True
                if isinstance(driver, VirtualDriver):
                    driver.scheduler.cancel()
                else:
                    driver.abort([])

    def _join(self) -> None:
        joiner = self._plan.joiner
        if joiner is not None and not self._is_ending:
            parts = self._parts if joiner.shares == "runner" else self._make_parts(joiner.way)
            self._start(self._add(parts, joiner.way, joiner.items, None))

    def _interrupt(self) -> None:
        """End all runs, as a Ctrl-C ends what runs in its thread."""
        ways = {record.way for record in self.records}
        # A Ctrl-C does not end the worker threads of blocking calls, as it does here.
        self._slots_are_exact = ways <= {"3", "4"} and self._plan.counter == "plain"
        for record in self.records:
            driver = record.player.driver
            record.was_stopped = True
            if isinstance(driver, VirtualDriver):
                driver.end()

    def _close_flows(self) -> None:
        """Close the flows of a process that was killed, so that the garbage collector does not."""
        for record in self.records:
            driver = record.player.driver
            if isinstance(driver, VirtualDriver):
                for frame in driver.scheduler._frames.values():
                    frame.flow.close()

    def _finish(self) -> None:
        """End the runs, let what is left at the server return, and check everything."""
        self._is_ending = True
        for record in self.records:
            driver = record.player.driver
            if isinstance(driver, VirtualDriver):
                driver.end()
                failure = driver.scheduler.failure
                expected = failure is None or isinstance(failure, (_InputFailed, KeyboardInterrupt))
                keep("the run's error is that of the items", expected, repr(failure))
                record.was_stopped |= failure is not None
            try:
                record.run.recorder.finish()
            except KeyboardInterrupt as interrupt:  # while its last change of a limit is observed
                if isinstance(interrupt, Breach):
                    raise
                record.run.recorder.finish()
        while self._service.working or (self._disk is not None and self._disk.pending):
            keep("a call returns", self._time.step(), self._service.working)
        disk = self._disk
        for record in self.records:
            self._check_nothing_is_left(record)
            kept, discarded = (
                (None, set[bytes]()) if disk is None or disk.is_full else (disk.kept, disk.discarded)
            )
            record.check_end(self._service.chain_of, kept, discarded)
        if disk is not None:
            keep("no call in flight is left", not disk.in_flight.open, disk.in_flight.open)
        usage = self._playback._usage()
        searches = sum(record.player.stats.calls.get("search", 0) for record in self.records)
        calls = sum(record.player.stats.calls.get("llm", 0) for record in self.records)
        if not self._plan.happens("interrupt"):
            keep("statistics: the server's calls", calls == usage.calls, calls, usage.calls)
            keep("statistics: the server's searches", searches == usage.searches, searches, usage.searches)
        if self._plan.is_calm and not disk:
            refused = sum(record.player.stats.rate_limited for record in self.records)
            keep("statistics: the server's refusals", refused == usage.refused, refused, usage.refused)

    def _check_nothing_is_left(self, record: RunRecord) -> None:
        driver, limiters = record.player.driver, record.limiters
        if self._slots_are_exact:
            for limiter in (*limiters.search, *limiters.llm, *limiters.batches):
                state = limiter.statistics()
                keep("all slots are returned", state.in_flight == state.waiting == 0, limiter)
            keep("no call waits for its rate", limiters.rate.waiting == 0)
            if limiters.endpoints is not None:
                self._queues.check_pool_is_empty(limiters.endpoints)
        if isinstance(driver, VirtualDriver):
            scheduler = driver.scheduler
            left = scheduler._frames, scheduler._queued, scheduler._running, scheduler._suspended
            keep("nothing runs after the end", not any(left), left)
            keep("nobody waits after the end", scheduler.cancelled or not scheduler._memo_waiters.since)
        else:
            keep("nothing runs after the end", driver._call is None and driver._flow is None)
        stages = {
            stage: record.run.recorder.counters.in_flight(stage) for stage in ("search", "llm", "tokens")
        }
        keep("no call is counted after the end", not any(stages.values()), stages)


def make_pool(plan: PoolPlan) -> LLMPool:
    """Return the pool of a plan."""
    return LLMPool(
        [NeverCalled() for _ in plan.servers],
        limits=list(plan.limits),
        fallback=plan.fallback,
        errors_in_a_row=plan.errors_in_a_row,
        pool_timeout=plan.pool_timeout,
    )


class NeverCalled:
    """A model that must not be called: a simulated server stands in its place."""

    def complete(self, request: LLMRequest) -> LLMResponse:
        raise Breach(Broken("the runner's own model is not called", request))

    async def acomplete(self, request: LLMRequest) -> LLMResponse:
        raise Breach(Broken("the runner's own model is not called", request))


class Counting:
    """A token counter that calls a service."""

    blocking = True

    def __call__(self, text: str) -> int:
        return count_tokens(text)


class _Killed(KeyboardInterrupt):
    """The process dies. The engine takes any exception of another kind for one that it may go on after."""


class _InputFailed(Exception):
    """The iterator of the items raised."""


def count_tokens(text: str) -> int:
    """Return the tokens of a text, as the simulated server and the runner count them."""
    return 1 + len(text) // 4


def _is_over(record: RunRecord) -> bool:
    driver = record.player.driver
    return driver.scheduler.finished if isinstance(driver, VirtualDriver) else driver._over


def _limiter_of(limit: Any) -> ConcurrencyLimiter:
    return ConcurrencyLimiter(limit)


def _lazily(inputs: Sequence[Any], record: RunRecord, fails_at: int | None) -> Iterator[Any]:
    for number, each in enumerate(inputs):
        if number == fails_at:
            raise _InputFailed
        record.taken += 1
        yield each
