"""The thread of the private event loop: callers wait for it, and nothing that an interrupt leaves holds it up."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from functools import partial

import anyio
import pytest
from tests.support.patience import PATIENCE
from tests.support.raiser import Raiser

from restaurant_llm_batch._engine.loop_thread import EventLoopThread


@pytest.fixture
def loop() -> Iterator[EventLoopThread]:
    loop = EventLoopThread()
    loop.start()
    yield loop
    loop.stop()
    assert not loop._thread.is_alive()


def test_a_call_is_waited_for(loop: EventLoopThread) -> None:
    seen: list[int] = []

    async def work() -> None:
        await anyio.sleep(0.01)
        seen.append(threading.get_ident())

    loop.call(work)

    assert seen
    assert seen != [threading.get_ident()]


def test_many_threads_may_start_it_and_call_at_once() -> None:
    loop = EventLoopThread()
    seen: list[None] = []

    async def work() -> None:
        seen.append(None)

    def use() -> None:
        loop.start()
        loop.call(work)

    loop.start()
    threads = [threading.Thread(target=use) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    loop.stop()

    assert len(seen) == 20


@pytest.mark.parametrize("stops", [1, 2])
def test_a_loop_that_has_ended_or_never_started_is_not_called(stops: int) -> None:
    async def work() -> None:
        raise AssertionError

    never = EventLoopThread()
    never.call(work)
    ended = EventLoopThread()
    ended.start()
    for _ in range(stops):
        ended.stop()
        never.stop()
    ended.call(work)

    with pytest.raises(RuntimeError, match="has ended"):
        ended.start_task(work)
    with pytest.raises(RuntimeError, match="has not started"):
        never.start_task(work)


def test_an_interrupt_at_any_line_of_a_call_holds_nothing_up(loop: EventLoopThread) -> None:
    """At any line of the standard library, too, where it may leave a lock taken."""
    seen: list[None] = []

    async def work() -> None:
        seen.append(None)

    at, raiser = 1, None
    while raiser is None or raiser.place:
        raiser = Raiser(
            at, KeyboardInterrupt, ("restaurant_llm_batch", "threading", "concurrent", "asyncio", "anyio")
        )
        with suppress(KeyboardInterrupt), raiser.armed():
            loop.call(work)
        seen.clear()
        loop.call(work)
        assert seen, raiser.place
        at += 1
    assert at > 10


def test_a_call_from_the_loop_itself_is_refused_and_waits_for_nothing(loop: EventLoopThread) -> None:
    errors: list[str] = []

    async def nested() -> None:
        for blocking in (partial(loop.start_task, anyio.sleep, 0), loop.stop):
            with pytest.raises(RuntimeError) as raised:
                blocking()
            errors.append(str(raised.value))

    task = threading.Thread(target=loop.call, args=(nested,), daemon=True)
    task.start()
    task.join(PATIENCE)

    assert ["use another runner" in errors[0], "its own end" in errors[1]] == [True, True]


def test_a_task_that_fails_is_logged_and_ends_no_other(
    loop: EventLoopThread, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[None] = []

    async def fail() -> None:
        raise ValueError("no matter of others")

    async def work() -> None:
        seen.append(None)

    loop.start_task(fail)
    loop.call(work)

    assert seen == [None]
    assert "no matter of others" in caplog.text
