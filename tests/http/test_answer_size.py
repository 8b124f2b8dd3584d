"""An answer costs no more than its greatest size, however it is compressed and whoever reads it."""

from __future__ import annotations

import gzip
import json
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest
from tests.http.test_secret_leaks import serve
from tests.support.local_server import LocalServer, Say, chat

from restaurant_llm_batch import LLMRequest, SearchQuery, errors
from restaurant_llm_batch._http.body import MAX_ERROR_BYTES, BodyReader, read_body
from restaurant_llm_batch._http.types import TransportError
from restaurant_llm_batch.backends import HTTPTransport, OpenAILLM, VLLMServerLLM
from restaurant_llm_batch.backends.runpod.llm import RunPodLLM
from restaurant_llm_batch.search import QdrantSearch
from restaurant_llm_batch.search.embedders import APIEmbedder
from restaurant_llm_batch.search.qdrant._errors import translate

REQUEST = LLMRequest("t", ({"role": "user", "content": "hi"},), max_tokens=5)
KEY = "sk-0123456789abcdef"
LIMIT = 200_000


def compressed(data: bytes, encoding: str) -> bytes:
    window = {"gzip": 31, "deflate": 15, "raw deflate": -15}[encoding]
    compressor = zlib.compressobj(9, zlib.DEFLATED, window)
    return compressor.compress(data) + compressor.flush()


def read(
    data: bytes, encoding: str | None, status: int = 200, limit: int = LIMIT, chunk: int = 4096
) -> bytes:
    headers = {} if encoding is None else {"content-encoding": encoding}
    reader = BodyReader(status, headers, limit)
    for start in range(0, len(data), chunk):
        if reader.full:
            break
        for _ in reader.feed(data[start : start + chunk]):
            pass
    return reader.body()


@pytest.mark.parametrize("size", [0, 1, 17, LIMIT - 1, LIMIT])
@pytest.mark.parametrize("chunk", [1_000_000, 4096, 999])
@pytest.mark.parametrize("encoding", [None, "gzip", "deflate", "raw deflate"])
@pytest.mark.sample(20)
def test_a_body_up_to_the_limit_is_read_as_it_was_written(
    encoding: str | None, chunk: int, size: int
) -> None:
    whole = (b"0123456789abc" * (size // 13 + 1))[:size]
    sent = whole if encoding is None else compressed(whole, encoding)
    assert read(sent, encoding and encoding.split()[-1], chunk=chunk) == whole


@pytest.mark.parametrize("encoding", [None, "gzip", "deflate"])
def test_a_body_above_the_limit_is_refused_for_good_and_says_what_to_set(encoding: str | None) -> None:
    whole = b"x" * (LIMIT + 1)
    with pytest.raises(
        TransportError, match=r"max_answer=200,000 bytes.*HTTPTransport\(max_answer"
    ) as caught:
        read(whole if encoding is None else compressed(whole, encoding), encoding)
    assert caught.value.unreadable


def test_a_declared_length_above_the_limit_is_refused_before_anything_is_read() -> None:
    with pytest.raises(TransportError, match="200,001 bytes, more than max_answer=200,000"):
        BodyReader(200, {"content-length": str(LIMIT + 1)}, LIMIT)


@pytest.mark.parametrize("name", ["", "identity", "utf-8", "aws-chunked", "none"])
def test_words_that_name_no_compression_are_ignored(name: str) -> None:
    assert read(b"plain", name) == b"plain"


@pytest.mark.parametrize("name", ["br", "zstd", "gzip, gzip", "gzip, br", "compress"])
def test_a_compression_that_was_not_asked_for_is_not_read(name: str) -> None:
    with pytest.raises(TransportError, match="not asked for") as caught:
        read(b"whatever", name)
    assert caught.value.unreadable


def test_parts_that_follow_each_other_are_joined_and_padding_behind_them_is_ignored() -> None:
    parts = gzip.compress(b"one ") + gzip.compress(b"two") + b"\0" * 40
    for chunk in (1, 7, 1000):
        assert read(parts, "gzip", chunk=chunk) == b"one two"


def test_a_flood_of_empty_parts_ends_early() -> None:
    with pytest.raises(TransportError, match="compressed parts"):
        read(gzip.compress(b"") * 5000, "gzip")


@pytest.mark.parametrize(
    "sent",
    [gzip.compress(b"x" * 5000)[:-9], b"no gzip at all", gzip.compress(b"x" * 99)[:20]],
    ids=["its end missing", "no gzip", "its beginning"],  # gzip writes the time into its header
)
def test_a_damaged_body_is_a_passing_failure(sent: bytes) -> None:
    with pytest.raises(TransportError, match="cannot be decompressed") as caught:
        read(sent, "gzip")
    assert not caught.value.unreadable


@pytest.mark.parametrize("encoding", [None, "gzip", "deflate", "br"])
def test_of_an_error_only_the_beginning_is_read(encoding: str | None) -> None:
    whole = b"x" * 10_000_000
    sent = whole if encoding in (None, "br") else compressed(whole, encoding)
    assert len(read(sent, encoding, status=502, limit=50_000_000)) == (
        0 if encoding == "br" else MAX_ERROR_BYTES
    )


@pytest.mark.sample(1)
@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_bomb_takes_no_more_memory_than_the_limit_and_a_piece(encoding: str) -> None:
    bomb = compressed(b" " * 40_000_000, encoding)
    tracemalloc.start()
    try:
        with pytest.raises(TransportError):
            read(bomb, encoding, limit=3_000_000, chunk=1 << 20)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3_000_000 + 1_000_000


def bomb(megabytes: int = 20) -> bytes:
    text = b'{"choices": [{"message": {"content": "' + b" " * (megabytes << 20) + b'"}}]}'
    body = compressed(text, "gzip")
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


BOMB = bomb()


def _embed(url: str, transport: HTTPTransport) -> Any:
    class Embedding:
        def complete(self, request: LLMRequest) -> Any:
            return APIEmbedder(url, "m", size=4, transport=transport).embed_query("x")

    return Embedding()


READERS: dict[str, Callable[[str, HTTPTransport], Any]] = {
    "vllm": lambda url, transport: VLLMServerLLM(url, "m", transport=transport),
    "openai": lambda url, transport: OpenAILLM("m", base_url=url + "/v1", api_key=KEY, transport=transport),
    "runpod": lambda url, transport: RunPodLLM(
        "ep", api_key=KEY, base_url=url, timeout=5, transport=transport
    ),
    "embeddings": _embed,
}


@pytest.mark.parametrize(
    ("name", "how"),
    [("embeddings", "blocking")]  # it embeds in threads only
    + [(name, how) for name in READERS if name != "embeddings" for how in ("blocking", "asyncio", "trio")],
)
def test_every_client_stops_at_the_limit(name: str, how: str) -> None:
    transport = HTTPTransport(max_answer=1 << 20)
    with serve(BOMB) as url:
        llm = READERS[name](url, transport)

        async def ask() -> None:
            try:
                await llm.acomplete(REQUEST)
            finally:
                await transport.aclose()

        with pytest.raises(errors.PermanentBackendError, match="max_answer=1,048,576") as caught:
            llm.complete(REQUEST) if how == "blocking" else anyio.run(ask, backend=how)
        transport.close()
    if name == "runpod":
        assert isinstance(caught.value, errors.SubmissionUnknown)  # a job may have been made


@pytest.mark.parametrize("how", ["blocking", "trio"])
def test_the_sdks_own_transport_has_the_default_limit(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("restaurant_llm_batch.backends.openai._adapter.DEFAULT_MAX_ANSWER", 1 << 20)
    with serve(BOMB) as url:
        llm = OpenAILLM("m", base_url=url + "/v1", api_key=KEY)

        async def ask() -> None:
            try:
                await llm.acomplete(REQUEST)
            finally:
                await llm.aclose()

        with pytest.raises(errors.PermanentBackendError, match="max_answer"):
            llm.complete(REQUEST) if how == "blocking" else anyio.run(ask, backend=how)
        llm.close()


@pytest.mark.parametrize("how", ["blocking", "asyncio", "trio"])
def test_qdrant_stops_at_the_limit(how: str) -> None:
    with serve(BOMB) as url:
        search = QdrantSearch("c", url=url, max_answer=1 << 20)

        async def ask() -> None:
            async with search:
                await search.asearch(SearchQuery(1, "맛있어요"))

        with pytest.raises(errors.PermanentBackendError, match="max_answer=1,048,576"):
            search.search(SearchQuery(1, "맛있어요")) if how == "blocking" else anyio.run(ask, backend=how)
        search.close()


@pytest.mark.parametrize("how", ["blocking", "asyncio", "trio"])
@pytest.mark.parametrize("make", [OpenAILLM, VLLMServerLLM])
def test_a_compressed_answer_within_the_limit_is_read(make: type, how: str) -> None:
    body = gzip.compress(json.dumps(chat("맛있어요")).encode())
    with LocalServer(lambda seen: Say(body, 200, {"Content-Encoding": "gzip"})) as server:
        llm: Any = (
            OpenAILLM("m", base_url=server.url + "/v1", api_key=KEY)
            if make is OpenAILLM
            else VLLMServerLLM(server.url, "m")
        )

        async def ask() -> Any:
            try:
                return await llm.acomplete(REQUEST)
            finally:
                await llm.aclose()

        reply = llm.complete(REQUEST) if how == "blocking" else anyio.run(ask, backend=how)
        llm.close()
    assert reply.text == "맛있어요"
    assert {
        value
        for seen in server.seen
        for name, value in seen.headers.items()
        if name.lower() == "accept-encoding"
    } == {"gzip, deflate"}


def endless(head: bytes) -> bytes:
    return head + (b"f000\r\n" + b"x" * 0xF000 + b"\r\n") * 60


@pytest.mark.parametrize("how", ["blocking", "asyncio", "trio"])
def test_an_endless_error_page_is_its_status(how: str) -> None:
    with serve(endless(b"HTTP/1.1 401 No\r\nTransfer-Encoding: chunked\r\n\r\n")) as url:
        llm = VLLMServerLLM(url, "m", api_key=KEY)

        async def ask() -> None:
            try:
                await llm.acomplete(REQUEST)
            finally:
                await llm.aclose()

        with pytest.raises(errors.AuthenticationFailed):
            llm.complete(REQUEST) if how == "blocking" else anyio.run(ask, backend=how)
        llm.close()


@pytest.mark.parametrize("how", ["blocking", "asyncio", "trio"])
def test_an_endless_answer_is_refused(how: str) -> None:
    transport = HTTPTransport(max_answer=1 << 20)
    with serve(endless(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")) as url:
        llm = VLLMServerLLM(url, "m", transport=transport)

        async def ask() -> None:
            try:
                await llm.acomplete(REQUEST)
            finally:
                await transport.aclose()

        with pytest.raises(errors.PermanentBackendError, match="max_answer"):
            llm.complete(REQUEST) if how == "blocking" else anyio.run(ask, backend=how)
        transport.close()


def test_of_an_error_that_was_cut_off_the_message_and_the_code_are_still_read() -> None:
    body = json.dumps(
        {"error": {"message": "max_model_len", "code": "context_length_exceeded", "input": "가" * 200_000}}
    )
    with LocalServer(lambda seen: Say(body.encode(), 400, {"Content-Type": "application/json"})) as server:
        llm = VLLMServerLLM(server.url, "m")
        with pytest.raises(errors.PromptTooLong, match="max_model_len"):
            llm.complete(REQUEST)
        llm.close()


@pytest.mark.parametrize("value", [0, -1, 1.5, "64 MiB", None, True])
def test_a_limit_that_is_no_number_of_bytes_is_refused_by_name(value: Any) -> None:
    for make in (HTTPTransport, lambda max_answer: QdrantSearch("c", url="http://x", max_answer=max_answer)):
        with pytest.raises(errors.ConfigurationError, match=r"max_answer must be.*for example max_answer="):
            make(max_answer=value)


class Streamed:
    """A response as httpx and httpx2 stream it."""

    def __init__(self, body: bytes) -> None:
        self.status_code, self.headers = 200, {"content-encoding": "gzip"}
        self.body = body

    def iter_raw(self) -> Iterator[bytes]:
        yield self.body


def test_the_time_is_looked_at_between_two_pieces_of_a_body_that_grows() -> None:
    left = iter(range(3))

    def check() -> None:
        if next(left, None) is None:
            raise TimeoutError("the total time is over")

    with pytest.raises(TimeoutError):
        read_body(Streamed(gzip.compress(b" " * 50_000_000)), 10**9, check)


@pytest.mark.parametrize("how", ["blocking", "asyncio", "trio"])
@pytest.mark.sample(1)
def test_the_total_time_holds_while_an_answer_is_decompressed(how: str) -> None:
    transport = HTTPTransport(max_answer=10**12)
    head, _, body = bomb(1).partition(b"\r\n\r\n")  # without its length and its end
    endless_head = b"\r\n".join(
        line for line in head.split(b"\r\n") if not line.startswith(b"Content-Length")
    )
    with serve(endless_head + b"\r\n\r\n" + body[:-8], keep_open=True) as url:
        llm = VLLMServerLLM(url, "m", transport=transport, timeout=0.5)

        async def ask() -> None:
            try:
                await llm.acomplete(REQUEST)
            finally:
                await transport.aclose()

        with pytest.raises(errors.TransientBackendError, match=r"within 0\.5 seconds|for 0\.5 seconds"):
            llm.complete(REQUEST) if how == "blocking" else anyio.run(ask, backend=how)
        transport.close()


class TooLarge(Exception):
    """gRPC's error for a message above the limit of this side."""

    def code(self) -> Any:
        return type("Code", (), {"name": "RESOURCE_EXHAUSTED"})

    def details(self) -> str:
        return "CLIENT: Received message larger than max (70000000 vs. 67108864)"

    def trailing_metadata(self) -> tuple[()]:
        return ()


def test_an_answer_over_grpc_above_the_limit_says_what_to_set() -> None:
    error = translate(TooLarge(), server="s", collection="c", secret=None)
    assert type(error) is errors.PermanentBackendError
    assert "max_answer" in str(error)
