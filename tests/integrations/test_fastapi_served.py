"""The batch router on a real server: uvicorn, on a socket of this machine."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from tests.support.patience import PATIENCE, wait_until

from restaurant_llm_batch import BatchRunner, Limits, LLMRequest, LLMResponse, Strategy
from restaurant_llm_batch.errors import PermanentBackendError
from restaurant_llm_batch.integrations.fastapi import batch_router
from restaurant_llm_batch.testing import FakeLLM, FakeSearch

SUMMARIES = "/api/v1/llm/summarize/batch"
LINES = {"Accept": "application/x-ndjson"}
FOREVER = 3600.0


@contextmanager
def served(llm: Any, search: Any = None, limits: Limits = Limits(), **options: Any) -> Iterator[httpx.Client]:
    """Serve in a thread, and yield a client; ended by the server's own handle."""
    runner = BatchRunner(
        llm=llm,
        search=search or FakeSearch(lambda name: ["맛있어요", "친절해요"]),
        strategy=Strategy.stage(4),
        limits=limits,
    )
    app = FastAPI()
    app.include_router(batch_router(runner, **options))
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        with httpx.Client(
            base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=PATIENCE
        ) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def ids(*names: Any) -> dict[str, Any]:
    return {"restaurants": [{"restaurant_id": name} for name in names]}


@pytest.mark.slow
def test_ten_requests_of_fifty_restaurants_never_exceed_the_limits_of_the_one_runner() -> None:
    bad = PermanentBackendError("no")
    llm = FakeLLM(
        seconds=0.002, fault=lambda request, tried: bad if request.inputs["restaurant_id"] % 50 == 7 else None
    )
    search = FakeSearch(lambda name: ["맛있어요", "친절해요"], seconds=0.001)
    answers: dict[int, Any] = {}
    with served(llm, search, Limits(search=5, llm=4, open_items=20)) as client:

        def ask(number: int) -> None:
            headers = LINES if number % 2 else {}
            body = ids(*range(number * 50, number * 50 + 50))
            answers[number] = client.post(SUMMARIES, json=body, headers=headers)

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert 1 < search.peak <= 5
    assert 1 < llm.peak <= 4
    assert llm.calls == 500
    for number, answer in answers.items():
        assert answer.status_code == 200
        entries = [json.loads(line) for line in answer.text.splitlines()]
        if number % 2:
            results = [entry["result"] for entry in entries if "result" in entry]
            failures = [entry["failure"] for entry in entries if "failure" in entry]
        else:
            results, failures = entries[0]["results"], entries[0]["failures"]
        wanted = range(number * 50, number * 50 + 50)
        assert sorted(result["restaurant_id"] for result in results) == [i for i in wanted if i % 50 != 7]
        assert [failure["restaurant_id"] for failure in failures] == [number * 50 + 7]


@pytest.mark.sample(1)
@pytest.mark.parametrize("headers", [{}, LINES], ids=["json", "lines"])
def test_a_connection_that_is_closed_cancels_its_calls(headers: dict[str, str]) -> None:
    llm = FakeLLM(seconds=FOREVER)
    with served(llm, limits=Limits(llm=3)) as client:
        request = client.build_request("POST", SUMMARIES, json=ids(*range(10)), headers=headers)
        head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
        with socket.create_connection((request.url.host, request.url.port or 80)) as connection:
            connection.sendall(f"POST {SUMMARIES} HTTP/1.1\r\n{head}\r\n".encode() + request.content)
            wait_until(lambda: llm.in_flight == 3)
        wait_until(lambda: llm.in_flight == 0)
        assert client.post(SUMMARIES, json={"restaurants": []}).status_code == 200

    assert llm.cancelled == llm.calls == 3


class Uneven(FakeLLM):
    """Answers about restaurant 1 at once, and about others when it is released."""

    released = False

    async def acomplete(self, request: LLMRequest, /) -> LLMResponse:
        while request.inputs["restaurant_id"] != 1 and not self.released:
            await anyio.sleep(0.002)
        return await super().acomplete(request)


def test_lines_come_as_results_finish() -> None:
    llm = Uneven()
    with served(llm) as client, client.stream("POST", SUMMARIES, json=ids(2, 1, 3), headers=LINES) as answer:
        assert answer.headers["content-type"] == "application/x-ndjson"
        lines = answer.iter_lines()
        assert json.loads(next(lines))["result"]["restaurant_id"] == 1
        llm.released = True
        rest = [json.loads(line) for line in lines]

    assert {entry["result"]["restaurant_id"] for entry in rest[:2]} == {2, 3}
    assert rest[2] == {"done": {"results": 3, "failures": 0}}


def test_leaving_in_the_middle_of_the_lines_cancels_the_rest() -> None:
    class Stuck(FakeLLM):
        async def acomplete(self, request: LLMRequest, /) -> LLMResponse:
            self._seconds = 0 if request.inputs["restaurant_id"] == 1 else FOREVER
            return await super().acomplete(request)

    llm = Stuck()
    with served(llm) as client:
        with client.stream("POST", SUMMARIES, json=ids(1, 2, 3), headers=LINES) as answer:
            next(answer.iter_lines())
        wait_until(lambda: llm.cancelled == 2)
        assert llm.in_flight == 0


def test_a_body_without_a_length_is_refused_when_it_has_become_too_long() -> None:
    headers = {"Content-Type": "application/json"}
    with served(FakeLLM(), max_body_bytes=2**20) as client:
        answer = client.post(SUMMARIES, content=(b" " * 2**16 for _ in range(64)), headers=headers)
        assert answer.status_code == 413
        assert client.post(SUMMARIES, json=ids(1)).status_code == 200


@pytest.mark.parametrize(
    ("framing", "body", "statuses"),
    [
        ("Content-Length: 999999999999999999999999", b"{}", (400, 413)),
        ("Content-Length: 2000000", b"{}", (413,)),
        ("Content-Length: 1", b"{}", (400, 422)),
        ("Content-Length: 2\r\nTransfer-Encoding: chunked", b"2\r\n{}\r\n0\r\n\r\n", (400, 422)),
        ("Content-Length: -1", b"{}", (400,)),
        ("Content-Length: two", b"{}", (400,)),
    ],
)
@pytest.mark.sample(1)
def test_what_a_header_says_about_the_length_is_not_believed(
    framing: str, body: bytes, statuses: tuple[int, ...]
) -> None:
    with served(FakeLLM(), max_body_bytes=2**20) as client:
        with socket.create_connection(
            ("127.0.0.1", client.base_url.port or 0), timeout=PATIENCE
        ) as connection:
            head = (
                f"POST {SUMMARIES} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n{framing}\r\n\r\n"
            )
            connection.sendall(head.encode() + body)
            connection.shutdown(socket.SHUT_WR)
            first = connection.makefile("rb").readline()
        assert int(first.split()[1]) in statuses
        assert client.post(SUMMARIES, json=ids(1)).status_code == 200
