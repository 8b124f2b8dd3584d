"""Neither a key nor a proxy's password stands in an error, whatever a service or a proxy sends back."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import pytest

from restaurant_llm_batch import LLMRequest, errors
from restaurant_llm_batch.backends import HTTPTransport, OpenAILLM, VLLMServerLLM
from restaurant_llm_batch.backends.runpod.llm import RunPodLLM
from restaurant_llm_batch.search.embedders import APIEmbedder

KEY, PASSWORD = "sk-live-0123456789abcdef", "s3cr3t-pass"
REQUEST = LLMRequest("t", ({"role": "user", "content": "hi"},), max_tokens=5)


@contextmanager
def serve(answer: bytes, *, keep_open: bool = False) -> Iterator[str]:
    """Answer every connection with these bytes, and close it; with `keep_open` when the client does."""
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            try:
                connection = listener.accept()[0]
            except OSError:
                return
            with connection:
                try:
                    _read_request(connection)
                    connection.sendall(answer)
                    while keep_open and connection.recv(1 << 20):
                        pass
                except OSError:
                    pass

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def _read_request(connection: socket.socket) -> None:
    """Read a whole request: closing a connection with unread bytes resets it, and the answer may be lost."""
    received = connection.recv(1 << 20)
    while received and b"\r\n\r\n" not in received:
        received += connection.recv(1 << 20)
    head, _, body = received.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head.lower())
    missing = (int(length[1]) if length else 0) - len(body)
    while missing > 0 and (more := connection.recv(1 << 20)):
        missing -= len(more)


def response(status: str, body: str = "", head: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\n{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()


ECHOES = {
    "the message": response("401 X", f'{{"error": {{"message": "{KEY} is no key"}}}}'),
    "the code": response("401 X", f'{{"error": {{"message": "bad key", "code": "{KEY}"}}}}'),
    "the type": response("400 X", f'{{"error": {{"message": "bad key", "type": "{KEY}"}}}}'),
    "the parameter": response("400 X", f'{{"error": {{"message": "bad key", "param": "{KEY}"}}}}'),
    "a redirect": response("302 X", head=f"Location: https://login/?token={KEY}\r\n"),
    "a page": response(
        "502 X", f"<html><title>{KEY}</title><body>{KEY}</body></html>", "Content-Type: text/html\r\n"
    ),
    "a text": response("500 X", f"Traceback: header {KEY}"),
    "an answer that is no JSON": response("200 OK", f"hello {KEY}"),
    "an error in a success": response("200 OK", f'{{"error": "{KEY}"}}'),
    "the status line": f"ERROR {KEY} is no key\r\n\r\n".encode(),
    "a header line": f"HTTP/1.1 200 OK\r\nbroken {KEY}\r\n\r\n".encode(),
    "a header": response("403 X", head=f"x-echo: {KEY}\r\n"),
    "a job's state": response("200 OK", f'{{"id": "1", "status": "{KEY}", "error": "{KEY}"}}'),
}

BACKENDS: dict[str, Callable[[str], Any]] = {
    "vllm": lambda url: VLLMServerLLM(url, "m", api_key=KEY, timeout=5),
    "openai": lambda url: OpenAILLM("m", base_url=url + "/v1", api_key=KEY, timeout=5),
    "runpod": lambda url: RunPodLLM("ep", api_key=KEY, base_url=url, timeout=5, request_timeout=5),
}


def texts_of(error: BaseException) -> str:
    """Return all that a log, a traceback or an error tracker shows of an error."""
    found: list[str] = []
    pending: list[BaseException | None] = [error]
    while pending and len(found) < 20:
        one = pending.pop()
        if one is not None:
            found.append(f"{one} {one!r} {one.args} {getattr(one, '__notes__', '')}")
            pending += [one.__cause__, None if one.__suppress_context__ else one.__context__]
    return "\n".join(found)


@pytest.mark.parametrize("how", ["complete", "acomplete"])
@pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS)
@pytest.mark.parametrize("echo", ECHOES.values(), ids=ECHOES)
@pytest.mark.sample(6)
def test_a_key_that_a_service_repeats_stands_in_no_error(
    echo: bytes, backend: Callable[[str], Any], how: str
) -> None:
    with serve(echo) as url:
        llm = backend(url)

        async def ask() -> None:
            try:
                await llm.acomplete(REQUEST)
            finally:
                await llm.aclose()

        with pytest.raises(errors.BatchError) as caught:
            llm.complete(REQUEST) if how == "complete" else anyio.run(ask)
        llm.close()

    assert KEY not in texts_of(caught.value)


@pytest.mark.parametrize("echo", ECHOES.values(), ids=ECHOES)
@pytest.mark.sample(6)
def test_a_key_that_an_embedding_service_repeats_stands_in_no_error(echo: bytes) -> None:
    with serve(echo) as url:
        embedder = APIEmbedder(url, "m", size=4, api_key=KEY)
        with pytest.raises(errors.BatchError) as caught:
            embedder.embed_documents(["맛있어요"])
        embedder.close()

    assert KEY not in texts_of(caught.value)


@pytest.mark.parametrize("how", ["complete", "acomplete"])
@pytest.mark.parametrize("status", ["503 Service Unavailable", "407 Proxy Authentication Required", "403 X"])
@pytest.mark.parametrize("make", ["vllm", "openai"])
@pytest.mark.sample(2)
def test_the_password_of_a_proxy_that_refuses_stands_in_no_error(make: str, status: str, how: str) -> None:
    with serve(response(status)) as url:
        proxy = url.replace("//", f"//alice:{PASSWORD}@")
        transport = HTTPTransport(proxy=proxy)
        llm: Any = (
            VLLMServerLLM("https://llm.example", "m", transport=transport)
            if make == "vllm"
            else OpenAILLM("m", base_url="https://llm.example/v1", api_key=KEY, transport=transport)
        )

        async def ask() -> None:
            try:
                await llm.acomplete(REQUEST)
            finally:
                await llm.aclose()
                await transport.aclose()

        with pytest.raises(errors.BatchError) as caught:
            llm.complete(REQUEST) if how == "complete" else anyio.run(ask)
        llm.close()
        transport.close()

    assert PASSWORD not in texts_of(caught.value)
    assert status[:3] in str(caught.value)
