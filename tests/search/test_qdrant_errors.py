"""What goes wrong at a Qdrant server, over real sockets, and what `QdrantSearch` makes of it."""

from __future__ import annotations

import pickle
import re
import socket
import traceback
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import anyio
import grpc  # type: ignore[import-untyped]
import httpx
import pytest
from qdrant_client import QdrantClient
from qdrant_client.http.exceptions import ResponseHandlingException
from tests.support.local_server import LocalServer, Say
from tests.support.qdrant_server import Collections, Engine, Points, grpc_server, rest

from restaurant_llm_batch.errors import (
    AuthenticationFailed,
    BackendError,
    PermanentBackendError,
    RateLimited,
    TransientBackendError,
)
from restaurant_llm_batch.models import SearchQuery
from restaurant_llm_batch.search.qdrant._errors import translate
from restaurant_llm_batch.search.qdrant.search import QdrantSearch

KEY = "k-1234567890"
QUERY = SearchQuery(1, "맛")
MODES = ["blocking", "asyncio", "trio"]


def refusal(search: QdrantSearch, mode: str = "blocking") -> BackendError:
    """Search in one mode, and return the error."""

    async def main() -> None:
        try:
            await search.asearch(QUERY)
        finally:
            await search.aclose()

    with pytest.raises(BackendError) as caught, search:
        if mode == "blocking":
            search.search(QUERY)
        else:
            anyio.run(main, backend=mode)
    return caught.value


@contextmanager
def answering(say: Say) -> Iterator[LocalServer]:
    """Answer every search with `say`."""
    handle = rest(Engine())
    with LocalServer(lambda seen: say if "query" in seen.path else handle(seen)) as server:
        yield server


def error(text: str) -> dict[str, Any]:
    """Return an error's body as Qdrant writes it."""
    return {"status": {"error": text}, "time": 0.0}


TABLE = [
    (Say(error("Wrong input"), 400), PermanentBackendError, "Wrong input"),
    (Say(error("Invalid API key"), 401), AuthenticationFailed, r"Invalid API key \(check api_key=\)"),
    (Say(b"Must provide an API key", 403), PermanentBackendError, "Must provide an API key"),
    (Say(error("Not found"), 404), PermanentBackendError, r"'reviews'\? create_collection\(\) or"),
    (Say(error("Timeout"), 408), TransientBackendError, "Timeout"),
    (Say(error("busy"), 409), TransientBackendError, "busy"),
    (Say(error("no"), 422), PermanentBackendError, "no"),
    (Say(error("Rate limited"), 429, {"Retry-After": "7"}), RateLimited, "Rate limited"),
    (Say(error("Rate limited"), 429, {"Retry-After": "soon"}), RateLimited, "pause"),
    (Say(error("Rate limited"), 429), PermanentBackendError, "more than the whole rate limit"),
    (Say(b"", 429), PermanentBackendError, "ask fewer things at once"),
    (Say(b"<h1>Too Many Requests</h1>", 429), RateLimited, "Too Many Requests"),
    (Say(error("panic"), 500), TransientBackendError, "panic"),
    (Say(b"<h1>Bad Gateway</h1>", 502), TransientBackendError, "Bad Gateway"),
    (Say(error("shard unavailable"), 503), TransientBackendError, "shard unavailable"),
    (Say(error("disk is full"), 507), TransientBackendError, "disk is full"),
]


EVERY = [(*row, "blocking") for row in TABLE]
SOME = [(*row, mode) for row in (TABLE[1], TABLE[7], TABLE[9], TABLE[14]) for mode in ("asyncio", "trio")]


@pytest.mark.parametrize(("say", "kind", "text", "mode"), EVERY + SOME)
@pytest.mark.sample(2)
def test_a_status_becomes_an_error(say: Say, kind: type[BackendError], text: str, mode: str) -> None:
    with answering(say) as server:
        failure = refusal(QdrantSearch("reviews", url=server.url), mode)

        assert type(failure) is kind
        assert (failure.status, failure.backend) == (say.status, "qdrant")
        assert server.url in str(failure)
        assert re.search(text, str(failure))
        assert failure.__cause__ is not None


@pytest.mark.parametrize(("header", "expected"), [("7", 7), ("soon", None)])
def test_a_pause_that_is_asked_for_is_passed_on(header: str, expected: float | None) -> None:
    with answering(Say(error("slow down"), 429, {"Retry-After": header})) as server:
        failure = refusal(QdrantSearch("reviews", url=server.url))

    assert isinstance(failure, RateLimited)
    assert failure.retry_after == expected
    assert pickle.loads(pickle.dumps(failure)).retry_after == expected


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("say", [Say({}, cut=True), Say({}, hang_up=True)], ids=["cut", "disconnect"])
@pytest.mark.sample(3)
def test_a_lost_connection_may_be_tried_again(say: Say, mode: str) -> None:
    with answering(say) as server:
        failure = refusal(QdrantSearch("reviews", url=server.url), mode)

    assert type(failure) is TransientBackendError


@pytest.mark.parametrize("mode", MODES)
def test_a_server_that_is_not_there_may_come(mode: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        failure = refusal(QdrantSearch("reviews", url=url), mode)

    assert type(failure) is TransientBackendError
    assert url in str(failure)
    assert "ConnectError" in str(failure)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.sample(1)
def test_a_server_that_takes_too_long_times_out(mode: str) -> None:
    with answering(Say({}, after=30)) as server:
        # Qdrant's client knows whole seconds only.
        failure = refusal(QdrantSearch("reviews", url=server.url, timeout=0.2), mode)

    assert type(failure) is TransientBackendError
    assert "ReadTimeout" in str(failure)


def test_waiting_for_a_connection_says_what_to_change() -> None:
    error = ResponseHandlingException(httpx.PoolTimeout("no connection"))

    failure = translate(error, server="http://qdrant:6333", collection="reviews", secret=None)

    assert type(failure) is TransientBackendError
    assert "raise pool_size, or lower Limits(search=...)" in str(failure)


@pytest.mark.parametrize("body", [b"<html>welcome</html>", {"result": 5}, {}], ids=["html", "other", "empty"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.sample(2)
def test_a_server_that_is_not_qdrant_is_not_asked_again(body: Any, mode: str) -> None:
    with LocalServer(lambda seen: Say(body)) as server:
        failure = refusal(QdrantSearch("reviews", url=server.url), mode)

    assert type(failure) is PermanentBackendError
    assert server.url in str(failure)


@pytest.mark.sample(1)
@pytest.mark.parametrize("mode", MODES)
def test_a_missing_collection_says_how_to_make_it(mode: str) -> None:
    with LocalServer(rest(Engine())) as server:
        remote = refusal(QdrantSearch("reviews", url=server.url), mode)
    local = refusal(QdrantSearch("reviews", url=":memory:"), mode)

    for failure in (remote, local):
        assert type(failure) is PermanentBackendError
        assert "is there a collection 'reviews'? create_collection() or index_reviews(...)" in str(failure)


def test_reviews_whose_text_is_elsewhere_say_so() -> None:
    with closing(QdrantClient(":memory:")) as client:
        search = QdrantSearch("reviews", client=client)
        search.index_reviews([{"restaurant_id": 1, "id": 1, "content": "맛있어요"}])
        [point] = client.scroll("reviews")[0]
        client.overwrite_payload("reviews", {"restaurant_id": "1", "text": "맛있어요"}, points=[point.id])

        failure = refusal(search)

    assert type(failure) is PermanentBackendError
    assert "no text in its payload field 'content'; name the field that holds it" in str(failure)


@pytest.mark.parametrize(
    ("status", "mode"), [(400, "blocking"), (401, "asyncio"), (429, "trio"), (500, "blocking")]
)
def test_the_key_shows_nowhere_even_if_the_server_repeats_it(status: int, mode: str) -> None:
    say = Say(error(f"what is {KEY}?"), status, {"Retry-After": "1", "x-echo": KEY})
    with LocalServer(lambda seen: say) as server:
        search = QdrantSearch("reviews", url=server.url, api_key=KEY)
        failure = refusal(search, mode)
        assert {seen.headers["api-key"] for seen in server.seen} == {KEY}

    assert KEY not in repr(search)
    assert "***" in str(failure)
    assert KEY not in f"{failure!r} {failure!s} {failure.__cause__!r} {failure.__context__!r} {vars(failure)}"
    assert KEY not in "".join(traceback.format_exception(failure))
    assert KEY.encode() not in pickle.dumps(failure)


class Failing(Points):
    """Refuses every search with a code."""

    def __init__(self, engine: Engine, code: grpc.StatusCode, metadata: tuple[tuple[str, str], ...]) -> None:
        super().__init__(engine)
        self._code, self._metadata = code, metadata

    def QueryBatch(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Refuse."""
        context.set_trailing_metadata(self._metadata)
        context.abort(self._code, f"said {dict(context.invocation_metadata()).get('api-key')}")


CODES = [
    (grpc.StatusCode.INVALID_ARGUMENT, (), PermanentBackendError, 400),
    (grpc.StatusCode.UNAUTHENTICATED, (), AuthenticationFailed, 401),
    (grpc.StatusCode.PERMISSION_DENIED, (), PermanentBackendError, 403),
    (grpc.StatusCode.NOT_FOUND, (), PermanentBackendError, 404),
    (grpc.StatusCode.DEADLINE_EXCEEDED, (), TransientBackendError, 408),
    (grpc.StatusCode.RESOURCE_EXHAUSTED, (), PermanentBackendError, 429),
    (grpc.StatusCode.RESOURCE_EXHAUSTED, (("retry-after", "7"),), RateLimited, 429),
    (grpc.StatusCode.RESOURCE_EXHAUSTED, (("qdrant-insufficient-storage", "1"),), TransientBackendError, 507),
    (grpc.StatusCode.INTERNAL, (), TransientBackendError, 500),
    (grpc.StatusCode.UNAVAILABLE, (), TransientBackendError, 503),
    (grpc.StatusCode.UNIMPLEMENTED, (), PermanentBackendError, 405),
]


@pytest.mark.parametrize(("code", "metadata", "kind", "status"), CODES)
@pytest.mark.parametrize("mode", ["blocking", "asyncio"])
@pytest.mark.sample(1)
def test_a_grpc_code_becomes_the_error_of_its_status(
    code: grpc.StatusCode,
    metadata: tuple[tuple[str, str], ...],
    kind: type[BackendError],
    status: int,
    mode: str,
) -> None:
    engine = Engine()
    with grpc_server(Failing(engine, code, metadata), Collections(engine)) as port:
        search = QdrantSearch(
            "reviews", url="http://127.0.0.1:1", prefer_grpc=True, grpc_port=port, api_key=KEY
        )
        failure = refusal(search, mode)

    assert type(failure) is kind
    assert (failure.status, failure.backend) == (status, "qdrant")
    assert getattr(failure, "retry_after", None) == (7 if kind is RateLimited else None)
    assert "said ***" in str(failure)
    assert KEY not in "".join(traceback.format_exception(failure)) + repr(failure.__cause__)


@pytest.mark.parametrize("mode", MODES)
def test_a_grpc_server_that_is_not_there_may_come(mode: str) -> None:
    search = QdrantSearch("reviews", url="http://127.0.0.1:1", prefer_grpc=True, grpc_port=1)

    assert type(refusal(search, mode)) is TransientBackendError
