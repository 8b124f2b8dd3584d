"""The thread of the private event loop: callers wait for it, and nothing that an interrupt leaves holds it up."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import anyio
import anyio.lowlevel
import pytest
from tests.support.patience import PATIENCE

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

    assert seen == [loop._thread.ident]


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

    with pytest.raises(RuntimeError, match="has not started"):
        never.portal  # noqa: B018


def test_an_interrupt_while_it_is_waited_for_holds_nothing_up(loop: EventLoopThread) -> None:
    """The waiting thread is interrupted inside of whatever it waits at, with its lock taken, as a Ctrl-C may be."""
    from concurrent.futures import Future

    taken: list[object] = []

    class Interrupted(Future):  # type: ignore[type-arg]
        def result(self, timeout: float | None = None) -> object:
            self._condition.acquire()  # and never released
            taken.append(self)
            raise KeyboardInterrupt

    async def work() -> None:
        await anyio.lowlevel.checkpoint()

    patched = pytest.MonkeyPatch()
    with patched.context() as patch:
        patch.setattr("anyio.from_thread.Future", Interrupted)
        loop.call(work)

    assert taken == []  # no future is waited at
    loop.call(work)
