"""A real HTTP server on a socket of this machine, in a thread of its own, that does what a test tells it."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from aiohttp import web


@dataclass(frozen=True)
class Seen:
    """A request as the server saw it."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Say:
    """
    What to answer.

    `body` is sent as JSON unless it is bytes; `after` is seconds to wait first; `cut` ends the connection
    in the middle of the body, `hang_up` before any answer.
    """

    body: Any = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    after: float = 0.0
    cut: bool = False
    hang_up: bool = False


Handler = Callable[[Seen], Say | Awaitable[Say]]


class LocalServer:
    """
    Answers with whatever `handler` says; use it in a ``with`` block.

    Attributes:
        seen: The requests, in order.
        connections: How many connections were made.
        peak: Most requests in flight at once.
        given_up: How many requests the client gave up before they were answered.
    """

    def __init__(self, handler: Handler, tls: ssl.SSLContext | None = None) -> None:
        self.seen: list[Seen] = []
        self.connections = 0
        self.in_flight = 0
        self.peak = 0
        self.given_up = 0
        self._handler = handler
        self._tls = tls
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="local-server")

    @property
    def url(self) -> str:
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _serve(self) -> None:
        asyncio.run(self._main())

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        server = web.Server(self._answer, access_log=None, handler_cancellation=True)

        def connected() -> asyncio.BaseProtocol:
            self.connections += 1
            return server()

        listening = await self._loop.create_server(connected, "127.0.0.1", 0, backlog=2048, ssl=self._tls)
        self.port = listening.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        listening.close()
        await server.shutdown(0.1)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        try:
            seen = Seen(request.method, request.path_qs, dict(request.headers), await request.read())
            self.seen.append(seen)
            answer = self._handler(seen)
            say = answer if isinstance(answer, Say) else await answer
            if say.after:
                await asyncio.sleep(say.after)
        except asyncio.CancelledError:
            self.given_up += 1
            raise
        finally:
            self.in_flight -= 1
        return await _say(say, request)


async def _say(say: Say, request: web.BaseRequest) -> web.StreamResponse:
    transport = request.transport
    if say.hang_up and transport is not None:
        transport.abort()
    body = say.body if isinstance(say.body, bytes) else json.dumps(say.body, ensure_ascii=False).encode()
    kind = "text/plain" if isinstance(say.body, bytes) else "application/json"
    if not say.cut:
        return web.Response(body=body, status=say.status, headers={"content-type": kind, **say.headers})
    response = web.StreamResponse(status=say.status, headers={"content-length": str(len(body) + 10)})
    await response.prepare(request)
    await response.write(body)
    if transport is not None:
        transport.abort()
    return response


def chat(text: str, **more: Any) -> dict[str, Any]:
    """Return the body of a chat completion that says `text`."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "tiny",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16},
        **more,
    }
