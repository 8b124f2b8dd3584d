"""
Every step can be interrupted: an exception at any line of the engine leaves nothing behind and loses nothing.

An exception is raised at one line after the other that the main thread executes in the engine, as a Ctrl-C may be.
After it, no slot, lease and thread is taken, each item that was taken from the input has one outcome, the report is on
the exception, and the observers have seen the run's end once. With a store, no call is left in flight there either, and
the next run uses it.
"""

from __future__ import annotations

import random
import signal
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import suppress
from operator import length_hint
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.support.patience import PATIENCE
from tests.support.raiser import Raiser

from restaurant_llm_batch import (
    BatchReport,
    BatchRunner,
    ConcurrencyLimiter,
    Hit,
    Limits,
    LLMRequest,
    LLMResponse,
    RetryPolicy,
    RunStats,
    SearchQuery,
    Store,
    Strategy,
    TimeLimits,
    errors,
)
from restaurant_llm_batch._engine.loop_mailbox import EventLoopMailbox
from restaurant_llm_batch.events import Event, ItemEnded, RunEnded, RunStarted
from restaurant_llm_batch.outcomes import Outcome
from restaurant_llm_batch.steps import Flow, complete, gather, search_all, sleep

STRATEGIES = {
    "stage 1": Strategy.stage(1),
    "stage 2": Strategy.stage(2),
    "stage 4": Strategy.stage(4),
    "threaded": Strategy.threaded(),
}
ITEMS = 4
RETRY = RetryPolicy(wait_initial=1e-6, wait_max=1e-6)


class Halt(SystemExit):
    """An exception that ends the run; a foreign `BaseException` fails its item (`_foreign.py`)."""


class Backend:
    """Answers at once; the first call for each item fails."""

    def __init__(self) -> None:
        self.asked: set[str] = set()

    def complete(self, request: LLMRequest) -> LLMResponse:
        if request.task not in self.asked:
            self.asked.add(request.task)
            raise errors.TransientBackendError("again")
        return LLMResponse("답", prompt_tokens=10, completion_tokens=1)

    async def acomplete(self, request: LLMRequest) -> LLMResponse:
        return self.complete(request)

    def search(self, query: SearchQuery) -> list[Hit]:
        return []

    async def asearch(self, query: SearchQuery) -> list[Hit]:
        return []


def asked(name: str) -> Flow[LLMResponse]:
    return (yield from complete(LLMRequest(name, ({"role": "user", "content": name},))))


def work(item: int) -> Flow[str]:
    """Take every kind of step but a call that items share; the last item fails."""
    yield from search_all([SearchQuery(1, "맛"), SearchQuery(1, "값")])
    yield from sleep(0)
    replies = yield from gather(asked(f"a{item}"), asked(f"b{item}"))
    if item == ITEMS - 1:
        raise ValueError(item)
    return str(replies[0])


def work_together(item: int) -> Flow[str]:
    """Make the call that all items share in the store, then do as `work`."""
    yield from asked("same")
    return (yield from work(item))


class Trial:
    """One run that is interrupted, and what is left of it."""

    def __init__(self, strategy: Strategy, store: Path | None = None) -> None:
        self.store = None if store is None else Store(store)
        self.work = work if store is None else work_together
        self.others = set(threading.enumerate())  # of other tests
        self.events: list[Event] = []
        self.awaits = False
        self.rows = iter(range(ITEMS))
        self.outcomes: list[Outcome[Any]] = []
        self.limiters = [ConcurrencyLimiter(2) for _ in range(2)]
        backend = Backend()
        self.runner = BatchRunner(
            llm=backend,
            search=backend,
            strategy=strategy,
            limits=Limits(
                search=self.limiters[0], llm=self.limiters[1], open_items=2, requests_per_minute=6_000_000
            ),
            llm_retry=RETRY,
            time_limits=TimeLimits(call=600, item=600, run=600),
            observers=[self.events.append],
            store=self.store,
        )

    def items(self, lazy: bool) -> Any:
        return self.rows if lazy else range(ITEMS)

    def awaited(self, lazy: bool) -> Any:
        """Return the items for a method that may await them."""

        async def rows() -> AsyncIterator[int]:
            for row in self.rows:
                yield row

        return rows() if lazy and self.awaits else self.items(lazy)

    @property
    def taken(self) -> int:
        return ITEMS - length_hint(self.rows)

    def run(self, lazy: bool) -> None:
        self.outcomes += self.runner.run(self.work, self.items(lazy)).outcomes

    def stream(self, lazy: bool) -> None:
        stream = self.runner.stream(self.work, self.items(lazy))
        try:
            for outcome in stream:
                self.outcomes.append(outcome)
        except BaseException as error:
            if not hasattr(error, "report"):  # it landed before the `try` of `__next__`, as it may outside
                error.report = BatchReport(stream.close(), stream.stats)  # type: ignore[attr-defined]
            raise

    def arun(self, lazy: bool) -> None:
        async def main() -> None:
            self.outcomes += (await self.runner.arun(self.work, self.awaited(lazy))).outcomes

        anyio.run(main)

    def astream(self, lazy: bool) -> None:
        async def main() -> None:
            async with self.runner:
                stream = self.runner.astream(self.work, self.awaited(lazy))
                try:
                    async for outcome in stream:
                        self.outcomes.append(outcome)
                except BaseException as error:
                    # An interrupt that lands before the `try` of a task ends the loop, which cancels this task.
                    left = error.report.outcomes if hasattr(error, "report") else await stream.aclose()
                    self.outcomes += left
                    raise

        try:
            anyio.run(main)
        except BaseException as error:
            error.report = BatchReport([], RunStats())  # type: ignore[attr-defined]  # the outcomes are there
            raise

    def check(self, interrupt: BaseException | None, lazy: bool) -> None:
        """Check all that has to hold after a run, interrupted or not."""
        kinds = [type(event) for event in self.events]
        started = RunStarted in kinds
        if interrupt is not None and started:
            report = getattr(interrupt, "report", None)
            assert report is not None, "no report"
            self.outcomes += report.outcomes
        if self.store is not None:
            self.check_store(self.store)
        while ours := [
            one  # with an ident: a signal within `Thread.start` leaves one that never started
            for one in threading.enumerate()
            if one.name.startswith("restaurant-llm-batch")
            and one.ident is not None
            and one not in self.others
        ]:
            with suppress(RuntimeError):  # it has an ident already, and is not yet marked as started
                ours[0].join(PATIENCE)
                assert not ours[0].is_alive(), f"{ours[0].name} is left"
        for limiter in self.limiters:
            statistics = limiter.statistics()
            assert (statistics.in_flight, statistics.waiting) == (0, 0), statistics
        resources = self.runner._resources
        assert (resources._count, resources._context_count, resources._loop_count, dict(resources.loops)) == (
            0,
            0,
            0,
            {},
        )
        indexes = [outcome.index for outcome in self.outcomes]
        assert len(indexes) == len(set(indexes)), "an outcome twice"
        assert sorted(indexes) == list(range(len(indexes))), "a gap"
        assert not lazy or len(indexes) == self.taken, f"{self.taken} items, {len(indexes)} outcomes"
        assert kinds.count(RunEnded) == started, "RunEnded"
        if started:
            assert kinds[-1] is RunEnded
            stats = next(event.stats for event in self.events if isinstance(event, RunEnded))
            assert stats.succeeded + stats.failed == len(indexes), "counted otherwise"
        assert kinds.count(ItemEnded) <= len(indexes)

    def check_store(self, store: Store) -> None:
        """Check that no call is in flight in the store, and that another run gets its replies from it."""
        self.runner.close()  # which waits for what is being written
        assert not store.in_flight.open, f"in flight: {store.in_flight.open}"
        llm = Backend()
        again = BatchRunner(llm=llm, search=llm, strategy=Strategy.stage(1), store=store, llm_retry=RETRY)
        done = {outcome.index for outcome in self.outcomes if outcome.ok}
        report = again.run(self.work, range(ITEMS))
        again.close()
        assert [outcome.ok for outcome in report] == [True] * (ITEMS - 1) + [False]
        assert not {f"{letter}{item}" for item in done for letter in "ab"} & llm.asked, "paid for again"


def attempt(name: str, entry: str, at: int, kind: type[BaseException], store: Path | None = None) -> Raiser:
    """Make one run, interrupted at a line, and check what is left."""
    trial, lazy = Trial(STRATEGIES[name], store), at % 2 == 0
    trial.awaits = at % 4 == 0
    raiser = Raiser(at, kind)
    interrupt: BaseException | None = None
    lost: list[Any] = []  # Python reports what is raised in a `__del__`, and goes on
    hook, sys.unraisablehook = sys.unraisablehook, lambda unraisable: lost.append(unraisable.exc_type)
    try:
        with raiser.armed():
            getattr(trial, entry)(lazy)
    except kind as error:
        interrupt = error.with_traceback(None)
    except BaseExceptionGroup as group:
        raise AssertionError(f"{raiser.place}: in a group: {group!r}") from group
    finally:
        sys.unraisablehook = hook
    try:
        if raiser.place and interrupt is None:
            # What a backend raises that is no error, and no interrupt, ends its call alone.
            assert lost == [kind] or (kind is Halt and "._make" in raiser.place), "the exception was lost"
        trial.check(interrupt, lazy)
    except AssertionError as error:
        error.add_note(f"{name}, {entry}: interrupted at line {at}, {raiser.place}")
        raise
    return raiser


# An interrupt in a task ends asyncio's loop, and tasks that it had not begun yet with it.
never_begun = pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")

ENTRIES = [
    *((name, entry) for name in STRATEGIES for entry in ("run", "stream")),
    *((name, entry) for name in ("stage 2", "stage 4") for entry in ("arun", "astream")),
]


@never_begun
@pytest.mark.hardening(small=5, full=100_000)
@pytest.mark.parametrize(("name", "entry"), ENTRIES)
@pytest.mark.sample(1)
def test_an_exception_at_any_line_leaves_nothing_and_loses_nothing(
    name: str, entry: str, trials: int
) -> None:
    lines = attempt(name, entry, 0, KeyboardInterrupt).lines
    step = max(1, lines // trials)
    for at in range(1 + (step > 1) * (len(name + entry) % step), lines + 1, step):
        attempt(name, entry, at, KeyboardInterrupt if at % 3 else Halt)


@never_begun
@pytest.mark.hardening(small=1, full=100_000)
@pytest.mark.sample(1)
@pytest.mark.parametrize(("name", "entry"), ENTRIES)
def test_an_exception_at_any_line_leaves_no_call_in_flight_in_the_store(
    name: str, entry: str, trials: int, tmp_path: Path
) -> None:
    def at_line(at: int) -> Raiser:
        file = tmp_path / f"{at}.db"
        try:
            return attempt(name, entry, at, KeyboardInterrupt if at % 3 else Halt, file)
        finally:
            file.unlink(missing_ok=True)

    lines = at_line(0).lines
    step = max(1, lines // trials)
    for at in range(1 + (step > 1) * (len(name + entry) % step), lines + 1, step):
        at_line(at)


@pytest.mark.sample(1)
@pytest.mark.hardening(small=25, full=20_000)
@pytest.mark.parametrize("name", STRATEGIES)
def test_signals_at_any_moment_take_no_slot_and_lose_no_outcome(name: str, trials: int) -> None:
    chosen = random.Random(name)
    armed = False

    def interrupt(*_: object) -> None:
        nonlocal armed
        if armed:
            armed = False
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    hook, sys.unraisablehook = (
        sys.unraisablehook,
        lambda _: None,
    )  # for a signal in a callback of a weak reference
    try:
        for _ in range(trials):
            trial, error = Trial(STRATEGIES[name]), None
            try:
                armed = True
                signal.setitimer(signal.ITIMER_REAL, chosen.uniform(1e-5, 0.01))
                trial.run(lazy=True)
                armed = False
            except KeyboardInterrupt as raised:
                error = raised.with_traceback(None)
            trial.check(error, lazy=True)
    finally:
        armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        sys.unraisablehook = hook


def test_interrupts_of_a_user_who_keeps_the_runner_take_no_slot() -> None:
    """Do as the report of the fault did: interrupt one runner again and again, and count its slots."""
    limiter = ConcurrencyLimiter(8)
    runner = BatchRunner(llm=Backend(), strategy=Strategy.stage(1), limits=Limits(llm=limiter))
    lines = Raiser(0, KeyboardInterrupt)
    with lines.armed():
        runner.run(lambda item: complete(LLMRequest("t", ())), range(3))
    for at in range(40, lines.lines, 41):
        with Raiser(at, KeyboardInterrupt).armed(), suppress(KeyboardInterrupt):
            runner.run(lambda item: complete(LLMRequest("t", ())), range(3))

    assert limiter.statistics().in_flight == 0
    assert len(runner.run(lambda item: complete(LLMRequest("t", ())), range(9)).results) == 9


@pytest.mark.anyio
async def test_an_interrupt_between_the_end_of_a_run_and_its_notice_ends_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wake, interrupts = EventLoopMailbox.wake, [KeyboardInterrupt]

    def interrupted(mailbox: EventLoopMailbox) -> None:
        if interrupts:
            raise interrupts.pop()
        wake(mailbox)

    monkeypatch.setattr(EventLoopMailbox, "wake", interrupted)
    runner = BatchRunner(llm=Backend(), strategy=Strategy.stage(4), llm_retry=RetryPolicy(wait_initial=1e-6))
    with pytest.raises(KeyboardInterrupt), anyio.fail_after(PATIENCE):
        await runner.arun(lambda item: asked(str(item)), range(3))
    assert not interrupts
