"""`QdrantSearch(timeout=)` bounds a whole request, and a cancelled call leaves the server at once."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import anyio
import pytest

from restaurant_llm_batch import SearchQuery, errors
from restaurant_llm_batch.cancellation import CancelToken, run_with_token
from restaurant_llm_batch.search import QdrantSearch

QUERY = SearchQuery(1, "맛있어요")
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
DRIPS = {
    "the head": (b"", b"HTTP/1.1 200 OK\r\nX-Slow: " + b"y" * 5000),
    "the body": (HEAD + b"Content-Length: 5000\r\n\r\n", b" " * 5000),
    "chunks": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 1000),
    "an error": (b"HTTP/1.1 500 Oh\r\nContent-Length: 5000\r\n\r\n", b"e" * 5000),
}


@contextmanager
def dripping(at_once: bytes, slowly: bytes, on_request: Callable[[], object] = lambda: None) -> Iterator[str]:
    """Answer each connection with some bytes at once and the others one by one, until it is closed."""
    listener = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()

    def drip(connection: socket.socket) -> None:
        with connection:
            try:
                connection.recv(1 << 20)
                on_request()
                connection.sendall(at_once)
                for number in slowly:
                    if over.wait(0.05):
                        break
                    connection.sendall(bytes([number]))
            except OSError:
                pass

    def accept() -> None:
        while not over.is_set():
            try:
                connection = listener.accept()[0]
            except OSError:
                return
            threads.append(threading.Thread(target=drip, args=(connection,)))
            threads[-1].start()

    threads = [threading.Thread(target=accept)]
    threads[0].start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        over.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("how", ["blocking", "asyncio", "trio"])
@pytest.mark.parametrize("drip", DRIPS.values(), ids=DRIPS)
@pytest.mark.sample(2)
def test_a_server_that_drips_is_given_up_after_the_total_time(drip: tuple[bytes, bytes], how: str) -> None:
    with dripping(*drip) as url:
        search = QdrantSearch("c", url=url, timeout=0.9)

        async def ask() -> None:
            async with search:
                await search.asearch(QUERY)

        with pytest.raises(errors.TransientBackendError, match="no whole response within 1 seconds"):
            search.search(QUERY) if how == "blocking" else anyio.run(ask, backend=how)
        search.close()


def test_a_cancelled_blocking_search_ends_while_the_server_still_sends() -> None:
    token = CancelToken()
    with dripping(*DRIPS["the body"], on_request=token.set) as url:
        search = QdrantSearch("c", url=url, timeout=600)
        with pytest.raises(errors.RunStopped):
            run_with_token(token, lambda: search.search(QUERY))
        search.close()
