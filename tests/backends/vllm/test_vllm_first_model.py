"""`VLLMServerLLM` without a model's name: concurrent first calls ask the server for it once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from tests.support.local_server import LocalServer, Say, Seen, chat
from tests.support.patience import PATIENCE

from restaurant_llm_batch import LLMRequest
from restaurant_llm_batch.backends import VLLMServerLLM
from restaurant_llm_batch.cancellation import CancelToken, run_with_token
from restaurant_llm_batch.errors import RunStopped, TransientBackendError

MODELS = Say({"object": "list", "data": [{"id": "tiny"}]})
REQUEST = LLMRequest("taste", ({"role": "user", "content": "맛은?"},))
CALLS = 6


class Held:
    """Answers of a server whose list of models is held back until `go` is set; the first ones may be errors."""

    def __init__(self, *first: Say) -> None:
        self.go = threading.Event()
        self.asked = threading.Event()
        self._first = list(first)

    def __call__(self, seen: Seen) -> Say:
        if seen.path != "/v1/models":
            return Say(chat("맛있다"))
        self.asked.set()
        self.go.wait(PATIENCE)
        return self._first.pop(0) if self._first else MODELS


def lists(server: LocalServer) -> int:
    return sum(seen.path == "/v1/models" for seen in server.seen)


def in_threads(llm: VLLMServerLLM, held: Held, calls: int = CALLS) -> list[Any]:
    """Complete in threads, and return replies and errors."""
    found: list[Any] = []

    def call() -> None:
        try:
            found.append(llm.complete(REQUEST).text)
        except Exception as error:
            found.append(error)

    threads = [threading.Thread(target=call) for _ in range(calls)]
    for thread in threads:
        thread.start()
    assert held.asked.wait(PATIENCE)
    held.go.set()
    for thread in threads:
        thread.join(PATIENCE)
    return found


def on_a_loop(llm: VLLMServerLLM, held: Held, backend: str = "asyncio", calls: int = CALLS) -> list[Any]:
    """Complete in tasks of one event loop, and return replies and errors."""
    found: list[Any] = []

    async def call() -> None:
        try:
            found.append((await llm.acomplete(REQUEST)).text)
        except Exception as error:
            found.append(error)

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(calls):
                group.start_soon(call)
            await anyio.to_thread.run_sync(held.asked.wait, PATIENCE)
            held.go.set()
        await llm.aclose()

    anyio.run(main, backend=backend)
    return found


WAYS: dict[str, Callable[[VLLMServerLLM, Held], list[Any]]] = {
    "threads": in_threads,
    "asyncio": on_a_loop,
    "trio": lambda llm, held: on_a_loop(llm, held, "trio"),
}


@pytest.fixture(params=WAYS.values(), ids=list(WAYS))
def way(request: pytest.FixtureRequest) -> Any:
    """Make calls at the same time in one of the ways."""
    return request.param


def test_calls_at_the_same_time_ask_for_the_name_once(way: Any) -> None:
    held = Held()
    with LocalServer(held) as server:
        llm = VLLMServerLLM(server.url)
        assert way(llm, held) == ["맛있다"] * CALLS
        llm.close()
    assert lists(server) == 1


def test_an_error_is_of_the_one_that_asked_and_the_next_one_asks(way: Any) -> None:
    held = Held(Say({"error": "oops"}, 500))
    with LocalServer(held) as server:
        llm = VLLMServerLLM(server.url)
        found = way(llm, held)
        llm.close()
    errors = [one for one in found if isinstance(one, Exception)]
    assert [type(one) for one in errors] == [TransientBackendError]
    assert found.count("맛있다") == CALLS - 1
    assert lists(server) == 2


def test_calls_to_a_server_that_only_fails_do_not_fail_one_after_the_other(way: Any) -> None:
    held = Held(*[Say({"error": "oops"}, 500)] * CALLS)
    with LocalServer(held) as server:
        llm = VLLMServerLLM(server.url)
        found = way(llm, held)
        llm.close()
    assert [type(one) for one in found] == [TransientBackendError] * CALLS


def test_threads_and_event_loops_wait_for_each_other() -> None:
    held = Held()
    with LocalServer(held) as server:
        llm = VLLMServerLLM(server.url)
        found: list[Any] = []
        threads = [
            threading.Thread(target=lambda: found.extend(in_threads(llm, held, 2))),
            *(
                threading.Thread(target=lambda name=name: found.extend(on_a_loop(llm, held, name, 2)))
                for name in ("asyncio", "asyncio", "trio")
            ),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        llm.close()
    assert found == ["맛있다"] * 8
    assert lists(server) == 1


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_when_the_one_that_asks_is_cancelled_the_next_one_asks(backend: str) -> None:
    held = Held()

    async def main() -> str:
        with LocalServer(held) as server:
            llm = VLLMServerLLM(server.url)
            found: list[str] = []

            async def wait() -> None:
                found.append((await llm.acomplete(REQUEST)).text)

            async with anyio.create_task_group() as others:
                async with anyio.create_task_group() as first:
                    first.start_soon(llm.acomplete, REQUEST)
                    await anyio.to_thread.run_sync(held.asked.wait, PATIENCE)
                    others.start_soon(wait)
                    await anyio.wait_all_tasks_blocked()
                    first.cancel_scope.cancel()
                held.go.set()
            await llm.aclose()
        return found[0]

    assert anyio.run(main, backend=backend) == "맛있다"


def test_a_call_that_waits_in_a_thread_is_let_go_when_it_is_cancelled() -> None:
    held, token = Held(), CancelToken()
    with LocalServer(held) as server:
        llm = VLLMServerLLM(server.url)
        asks = threading.Thread(target=llm.complete, args=(REQUEST,))
        asks.start()
        assert held.asked.wait(PATIENCE)
        stopped: list[BaseException] = []

        def wait() -> None:
            try:
                run_with_token(token, lambda: llm.complete(REQUEST))
            except RunStopped as error:
                stopped.append(error)

        waits = threading.Thread(target=wait)
        waits.start()
        token.set()
        waits.join(PATIENCE)
        assert len(stopped) == 1
        held.go.set()
        asks.join(PATIENCE)
        llm.close()
    assert lists(server) == 1
