"""Requests of the SDK over a transport: made without a client's defaults, and sent as httpx2's own would be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import anyio
import httpx2
import pytest

from restaurant_llm_batch import LLMRequest
from restaurant_llm_batch._http.types import HTTPResponse, Timeout
from restaurant_llm_batch.backends import OpenAILLM
from restaurant_llm_batch.backends.openai import _adapter

ANSWER = (
    b'{"id":"1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"finish_reason":"stop",'
    b'"message":{"role":"assistant","content":"ok"}}],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}'
)
REQUEST = LLMRequest("taste", ({"role": "user", "content": "맛있어요"},))


class Recording:
    """A transport that keeps what it is to send."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str, dict[str, str], bytes | None]] = []

    def send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, timeout: Timeout
    ) -> HTTPResponse:
        self.sent.append((method, url, dict(headers), body))
        return HTTPResponse(200, {"content-type": "application/json"}, ANSWER)

    async def asend(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, timeout: Timeout
    ) -> HTTPResponse:
        return self.send(method, url, headers, body, timeout)


@pytest.mark.parametrize("base_url", ["http://127.0.0.1:9/v1", "http://127.0.0.1:9/a%20b/v1"])
@pytest.mark.parametrize("blocking", [True, False])
def test_a_request_is_sent_as_httpx2_would_send_it(
    monkeypatch: pytest.MonkeyPatch, base_url: str, blocking: bool
) -> None:
    transport = Recording()

    def ask() -> None:
        llm = OpenAILLM("m", api_key="k", base_url=base_url, transport=transport)
        reply = llm.complete(REQUEST) if blocking else anyio.run(llm.acomplete, REQUEST)
        assert reply.text == "ok"

    ask()
    monkeypatch.setattr(_adapter, "_PLAIN", frozenset())  # so that no request is plain
    ask()

    plain, merged = transport.sent
    assert plain == merged


def test_what_is_more_than_a_body_is_left_to_httpx2() -> None:
    client = _adapter.sync_http(Recording(), Timeout(1.0), "http://127.0.0.1:9")
    more: list[dict[str, Any]] = [{"json": {"a": 1}}, {"params": {"a": "1"}}, {"content": "text"}, {}]

    with client:
        requests = [client.build_request(method="POST", url="http://127.0.0.1:9/v1", **one) for one in more]

    assert all("user-agent" in request.headers for request in requests)
    assert [str(request.url) for request in requests][1] == "http://127.0.0.1:9/v1?a=1"
    assert requests[0].content == b'{"a":1}'


def test_a_plain_request_has_its_body_and_headers() -> None:
    with _adapter.sync_http(Recording(), Timeout(1.0), "http://127.0.0.1:9") as client:
        arguments: dict[str, Any] = {
            "headers": [("X-One", "1")],
            "content": b"body",
            "timeout": 3.0,
            "params": None,
        }
        request = client.build_request(method="post", url=httpx2.URL("http://127.0.0.1:9/v1"), **arguments)

    assert (request.method, request.content, request.headers["x-one"]) == ("POST", b"body", "1")
