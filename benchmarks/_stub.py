"""
A model that costs nothing: an HTTP server in a process of its own that gives every chat the same answer.

    with StubServer(delay=0.2) as server:
        llm = VLLMServerLLM(server.url)

By hand: ``python benchmarks/_stub.py --port 8000 --delay 0.2``. A bare protocol, so that what is measured is
the client: 10,000 answers a second and more on one core, with keep-alive, without pipelining.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

MODEL = "stub"
_END = b"\r\n\r\n"


class StubServer:
    """
    The server in a process of its own, for as long as the ``with`` block lasts.

    Args:
        delay: Seconds to think before each answer.
        text: What every answer says.
    """

    def __init__(self, delay: float = 0.0, text: str = "Good food, friendly people.") -> None:
        self._command = [sys.executable, __file__, "--delay", str(delay), "--text", text]

    @property
    def url(self) -> str:
        """The address, without ``/v1``."""
        return f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self._port = int(self._process.stdout.readline())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.communicate()


def completion(text: str) -> bytes:
    """Return the body of a chat completion."""
    body = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": MODEL,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text, "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 700, "completion_tokens": 60, "total_tokens": 760},
    }
    return json.dumps(body, ensure_ascii=False).encode()


def as_response(body: bytes) -> bytes:
    """Return a whole answer, head and body."""
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
        len(body),
        body,
    )


class Answering(asyncio.Protocol):
    """One connection: reads a request to its end, waits, answers, and begins anew."""

    def __init__(self, chat: bytes, models: bytes, delay: float) -> None:
        self._chat = chat
        self._models = models
        self._delay = delay
        self._loop = asyncio.get_running_loop()
        self._got = b""

    def connection_made(self, transport: Any) -> None:
        """Keep what to answer through."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer as soon as the request is there in full."""
        self._got = self._got + data if self._got else data
        end = self._got.find(_END)
        if end < 0 or len(self._got) < end + len(_END) + _length(self._got[:end]):
            return
        answer = self._models if self._got.startswith(b"GET") else self._chat
        self._got = b""
        if self._delay:
            self._loop.call_later(self._delay, self._transport.write, answer)
        else:
            self._transport.write(answer)


def _length(head: bytes) -> int:
    head = head.lower()
    place = head.find(b"content-length:")
    return int(head[place + 15 :].split(b"\r\n", 1)[0]) if place >= 0 else 0


async def serve(port: int, delay: float, text: str) -> None:
    """Serve until the process is ended; the port is printed first."""
    chat = as_response(completion(text))
    models = as_response(json.dumps({"object": "list", "data": [{"id": MODEL}]}).encode())
    server = await asyncio.get_running_loop().create_server(
        lambda: Answering(chat, models, delay), "127.0.0.1", port, backlog=4096
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def main() -> None:
    """Serve, on uvloop where it is installed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--text", default="Good food, friendly people.")
    arguments = parser.parse_args()
    factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    with contextlib.suppress(ImportError):
        from uvloop import new_event_loop as factory
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(serve(arguments.port, arguments.delay, arguments.text))


if __name__ == "__main__":
    main()
