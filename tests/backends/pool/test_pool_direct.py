"""`LLMPool` without a runner: its own calls keep to the limits too, from threads and on event loops."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import pytest
from tests.support.patience import wait_until

from restaurant_llm_batch import LLMRequest, LLMResponse, errors
from restaurant_llm_batch.backends import LLMPool
from restaurant_llm_batch.cancellation import CancelToken, run_with_token
from restaurant_llm_batch.testing import FakeLLM

REQUEST = LLMRequest("ask", ({"role": "user", "content": "맛은?"},))


def failing(error: Callable[[], Exception]) -> FakeLLM:
    return FakeLLM(fault=lambda request, attempt: error())


def test_threads_wait_for_an_endpoint_that_has_room() -> None:
    models = [FakeLLM(seconds=0.002), FakeLLM(seconds=0.002)]
    pool = LLMPool(models, limits=[1, 2])
    with ThreadPoolExecutor(10) as threads:
        replies = list(threads.map(lambda _: pool.complete(REQUEST).text, range(30)))

    assert replies == ["text"] * 30
    assert models[0].peak <= 1
    assert models[1].peak <= 2
    assert all(one.in_flight == 0 for one in pool.statistics().values())


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_tasks_wait_for_an_endpoint_that_has_room(backend: str) -> None:
    models = [FakeLLM(seconds=0.001), FakeLLM(seconds=0.001)]
    pool = LLMPool(models, limits=[1, 2])

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(30):
                tasks.start_soon(pool.acomplete, REQUEST)

    anyio.run(main, backend=backend)
    assert sum(model.calls for model in models) == 30
    assert (models[0].peak, models[1].peak) == (1, 2)


def test_a_task_and_a_thread_wait_for_each_other() -> None:
    model = FakeLLM(seconds=0.001)
    pool = LLMPool([model], limits=1)

    async def main() -> None:
        for _ in range(20):
            await pool.acomplete(REQUEST)

    thread = threading.Thread(target=anyio.run, args=(main,))
    thread.start()
    for _ in range(20):
        pool.complete(REQUEST)
    thread.join(20)

    assert not thread.is_alive()
    assert (model.calls, model.peak) == (40, 1)


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize(
    "error",
    [
        lambda: errors.TransientBackendError("down"),
        lambda: errors.RateLimited("busy"),
        lambda: errors.AuthenticationFailed("key"),
    ],
    ids=["down", "busy", "key"],
)
def test_a_call_goes_on_at_another_endpoint(error: Callable[[], Exception], is_async: bool) -> None:
    pool = LLMPool({"bad": failing(error), "good": FakeLLM()}, fallback=["good"])
    for _ in range(10):
        reply = anyio.run(pool.acomplete, REQUEST) if is_async else pool.complete(REQUEST)
        assert reply.text == "text"
    assert pool.statistics()["good"].answered == 10


def test_what_all_endpoints_raise_is_raised_once_each_was_asked() -> None:
    models = [failing(lambda: errors.TransientBackendError("down")) for _ in range(3)]
    pool = LLMPool(models)
    with pytest.raises(errors.TransientBackendError, match="down"):
        pool.complete(REQUEST)

    assert [model.calls for model in models] == [1, 1, 1]


def test_a_call_that_waits_can_be_cancelled_and_leaves_nothing() -> None:
    held, release = threading.Event(), threading.Event()

    class Slow:
        def complete(self, request: LLMRequest) -> LLMResponse:
            held.set()
            release.wait(20)
            return LLMResponse("slow")

    pool = LLMPool([Slow()], limits=1)
    first = threading.Thread(target=pool.complete, args=(REQUEST,))
    first.start()
    held.wait(20)
    token, ended = CancelToken(), []

    def second() -> None:
        try:
            run_with_token(token, lambda: pool.complete(REQUEST))
        except errors.RunStopped as error:
            ended.append(error)

    waiting = threading.Thread(target=second)
    waiting.start()
    wait_until(lambda: pool.endpoint_limiter.waiting == 1)
    token.set()
    waiting.join(20)
    assert ended
    assert pool.endpoint_limiter.waiting == 0

    async def cancelled() -> None:
        with anyio.move_on_after(0.01):
            await pool.acomplete(REQUEST)

    anyio.run(cancelled)
    assert pool.endpoint_limiter.waiting == 0
    release.set()
    first.join(20)
    assert pool.statistics()["slow-1"].in_flight == 0


def test_a_method_that_an_endpoint_lacks_is_named() -> None:
    class OnlyAsync:
        async def acomplete(self, request: LLMRequest) -> LLMResponse:
            return LLMResponse("a")

    class OnlySync:
        def complete(self, request: LLMRequest) -> LLMResponse:
            return LLMResponse("s")

    pool: Any = LLMPool({"a": OnlyAsync()})
    with pytest.raises(errors.ConfigurationError, match="'a' of the pool has no complete"):
        pool.complete(REQUEST)
    assert anyio.run(LLMPool([OnlySync()]).acomplete, REQUEST).text == "s"
