"""Requests side by side, on both loops: one runner's limits for all, and who goes away takes only their own calls."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from blockbuster import BlockBuster
from fastapi import FastAPI
from starlette.middleware.base import BaseHTTPMiddleware
from tests.support.patience import PATIENCE

from restaurant_llm_batch import BatchRunner, Limits, LLMRequest, Strategy
from restaurant_llm_batch.integrations.fastapi import batch_router
from restaurant_llm_batch.testing import FakeLLM, FakeSearch, answer_from_schema

pytestmark = pytest.mark.anyio
PATH = "/api/v1/llm/summarize/batch"
FOREVER = 3600.0
ACCEPTS = pytest.mark.parametrize(
    "accept", ["application/json", "application/x-ndjson"], ids=["json", "lines"]
)


class Caller:
    """
    A client without a network: it hangs up when it is told to.

    Attributes:
        hang_up: Set it to go away.
        sent: What it was sent.
    """

    def __init__(
        self, app: Any, accept: str, *names: int, path: str = PATH, body: Any = None, **fields: Any
    ) -> None:
        self.hang_up = anyio.Event()
        self.sent: list[Any] = []
        self._app = app
        if body is None:
            body = {"restaurants": [{"restaurant_id": name, **fields} for name in names]}
        self._messages = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]
        headers = [(b"content-type", b"application/json"), (b"accept", accept.encode())]
        self._scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": headers,
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
        }

    @property
    def text(self) -> str:
        return b"".join(message.get("body", b"") for message in self.sent).decode()

    async def __call__(self) -> None:
        await self._app(self._scope, self._receive, self._send)

    async def _receive(self) -> Any:
        if self._messages:
            return self._messages.pop()
        await self.hang_up.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        self.sent.append(message)


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(PATIENCE):
        while not condition():
            await anyio.sleep(0.002)


def serving(model: Any, **limits: Any) -> FastAPI:
    runner = BatchRunner(
        llm=model,
        search=FakeSearch(lambda name: ["맛있어요"]),
        strategy=Strategy.stage(4),
        limits=Limits(**limits),
    )
    app = FastAPI()
    app.include_router(batch_router(runner))
    return app


@pytest.mark.slow
async def test_ten_requests_of_fifty_restaurants_share_the_limits_of_the_one_runner(
    nothing_blocks: BlockBuster,
) -> None:
    """Summaries and judgements pass different gates, and one that both must pass."""

    def label(request: LLMRequest) -> str:
        if request.task != "sentiment":
            return json.dumps(answer_from_schema(request.schema or {}))
        return json.dumps(
            {"labels": [{"id": one["id"], "label": "positive"} for one in request.inputs["reviews"]]}
        )

    llm = FakeLLM(seconds=0.001, answer=label)
    app = serving(llm, llm=4, batches=3, llm_total=5)
    reviews = [{"content": "맛있어요"}]
    callers = [
        Caller(app, "application/json", *range(50))
        if number % 2
        else Caller(
            app, "application/json", *range(50), path="/api/v1/sentiment/analyze/batch", reviews=reviews
        )
        for number in range(10)
    ]
    async with anyio.create_task_group() as tasks:
        for caller in callers:
            tasks.start_soon(caller)

    assert 1 < llm.peak <= 5
    assert llm.calls == 500
    for caller in callers:
        answer = json.loads(caller.text)
        assert [result["restaurant_id"] for result in answer["results"]] == list(range(50))
        assert answer["failures"] == []


@ACCEPTS
@pytest.mark.sample(1)
async def test_a_client_that_goes_away_cancels_its_calls(accept: str, nothing_blocks: BlockBuster) -> None:
    llm = FakeLLM(seconds=FOREVER)
    caller = Caller(serving(llm, llm=3), accept, *range(10))
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(caller)
            await until(lambda: llm.in_flight == 3)
            caller.hang_up.set()

    assert (llm.cancelled, llm.calls, llm.in_flight) == (3, 3, 0)
    assert not caller.text


@pytest.mark.parametrize(
    "task", ["llm/summarize", "sentiment/analyze", "llm/extract/strengths", "llm/comparison"]
)
@pytest.mark.sample(1)
async def test_a_client_that_goes_away_cancels_the_calls_of_one_restaurant(
    task: str, nothing_blocks: BlockBuster
) -> None:
    llm = FakeLLM(seconds=FOREVER)
    caller = Caller(serving(llm), "application/json", path=f"/api/v1/{task}", body={"restaurant_id": 1})
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(caller)
            await until(lambda: llm.in_flight > 0)
            caller.hang_up.set()

    assert llm.cancelled == llm.calls
    assert llm.in_flight == 0
    assert not caller.text


@pytest.mark.sample(2)
@ACCEPTS
async def test_it_works_behind_a_middleware_that_wraps_requests(accept: str) -> None:
    async def pass_on(request: Any, call_next: Any) -> Any:
        return await call_next(request)

    llm = FakeLLM(seconds=FOREVER)
    app = serving(llm)
    app.add_middleware(BaseHTTPMiddleware, dispatch=pass_on)
    caller = Caller(app, accept, 1)
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(caller)
            await until(lambda: llm.in_flight == 1)
            caller.hang_up.set()

    assert llm.cancelled == 1


@ACCEPTS
@pytest.mark.sample(1)
async def test_what_others_asked_for_goes_on(accept: str) -> None:
    """The calls of both wait in the same gate, one after the other."""
    llm = FakeLLM(seconds=0.005)
    app = serving(llm, llm=1)
    leaving, staying = Caller(app, accept, *range(100)), Caller(app, accept, *range(200, 210))
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(leaving)
            await until(lambda: llm.calls >= 2)
            tasks.start_soon(staying)
            await until(lambda: llm.calls >= 4)
            leaving.hang_up.set()

    assert staying.text.count('"overall_summary"') == 10
    assert '"failure"' not in staying.text
    assert 10 < llm.calls < 100
    assert llm.in_flight == 0


@pytest.mark.sample(1)
async def test_a_client_that_leaves_between_two_lines_cancels_the_rest() -> None:
    class Uneven(FakeLLM):
        async def acomplete(self, request: Any, /) -> Any:
            self._seconds = 0 if request.inputs["restaurant_id"] == 0 else FOREVER
            return await super().acomplete(request)

    llm = Uneven()
    caller = Caller(serving(llm), "application/x-ndjson", *range(4))
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(caller)
            await until(lambda: '"restaurant_id":0' in caller.text)
            caller.hang_up.set()

    assert llm.cancelled == 3
    assert '"done"' not in caller.text


@ACCEPTS
@pytest.mark.sample(2)
async def test_the_end_of_the_application_ends_its_requests(accept: str) -> None:
    """What uvicorn does with requests that outlast its patience."""
    llm = FakeLLM(seconds=FOREVER)
    caller = Caller(serving(llm), accept, 1, 2)
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(caller)
            await until(lambda: llm.in_flight == 2)
            tasks.cancel_scope.cancel()

    assert (llm.cancelled, llm.in_flight) == (2, 0)
