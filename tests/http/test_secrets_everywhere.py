"""Neither the key nor a proxy's password leaves a backend, wherever in an answer a service or a proxy repeats them."""

from __future__ import annotations

import itertools
import json
import logging
import pickle
import random
import re
import socket
import sqlite3
import ssl
import threading
import traceback
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

import restaurant_llm_batch
from restaurant_llm_batch import (
    BatchRunner,
    LLMRequest,
    RetryPolicy,
    SearchQuery,
    Strategy,
    errors,
)
from restaurant_llm_batch.backends import HTTPTransport, OpenAILLM, VLLMServerLLM
from restaurant_llm_batch.backends.runpod.llm import PollingPolicy, RunPodLLM
from restaurant_llm_batch.integrations.fastapi import batch_router
from restaurant_llm_batch.search import QdrantSearch
from restaurant_llm_batch.search.embedders import APIEmbedder
from restaurant_llm_batch.steps import Flow, complete

KEY, PASSWORD = "sk-live-0123456789abcdef", "s3cr3t-pass"
ECHO = f"{KEY}.{PASSWORD}"
REQUEST = LLMRequest("t", ({"role": "user", "content": "hi"},), max_tokens=5)
QUERY = SearchQuery(1, "맛있어요")


@contextmanager
def serve(answer: Callable[[bytes], bytes]) -> Iterator[str]:
    """Answer each request with what `answer` makes of its first line, and close the connection."""
    listener = socket.create_server(("127.0.0.1", 0))

    def one(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            received = b""
            while b"\r\n\r\n" not in received:
                more = connection.recv(1 << 20)
                if not more:
                    return
                received += more
            head, _, body = received.partition(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head.lower())
            missing = (int(length[1]) if length else 0) - len(body)
            while missing > 0 and (more := connection.recv(1 << 20)):
                missing -= len(more)
            connection.sendall(answer(head.partition(b"\r\n")[0]))

    def accept() -> None:
        while True:
            try:
                one(listener.accept()[0])
            except OSError:
                return

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def http(status: str, body: Any = b"", head: str = "") -> bytes:
    sent: bytes = body if isinstance(body, bytes) else json.dumps(body).encode()
    first = f"HTTP/1.1 {status}\r\nConnection: close\r\n{head}Content-Length: {len(sent)}\r\n\r\n"
    return first.encode() + sent


def at_every_leaf(value: Any) -> Iterator[Any]:
    """Yield copies of a JSON value, each with the echo in place of one of its parts."""
    yield ECHO
    if isinstance(value, dict):
        for name, part in value.items():
            yield from ({**value, name: changed} for changed in at_every_leaf(part))
        yield {**value, ECHO: 1}
    elif isinstance(value, list):
        for place, part in enumerate(value):
            yield from ([*value[:place], changed, *value[place + 1 :]] for changed in at_every_leaf(part))


CHAT = {
    "id": "1",
    "object": "chat.completion",
    "model": "m",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": None}}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1},
}
ERROR = {"error": {"message": "no", "type": "t", "code": "c", "param": "p", "innererror": {"code": "d"}}}
DETAIL = {"detail": [{"loc": ["body", "x"], "msg": "bad", "type": "t", "input": "i", "ctx": {"a": 1}}]}
VECTORS = {"object": "list", "data": [{"index": 0, "embedding": [0.5, 0.5]}], "model": "m"}
POINTS = {"result": {"status": "green", "config": {"params": {}}}, "status": {"error": "no"}, "time": 0.1}
STATE = {
    "id": "j",
    "status": "COMPLETED",
    "delayTime": 1,
    "workerId": "w",
    "output": [
        {"choices": [{"message": {"content": None}, "finish_reason": "x", "error": "e"}], "error": "e"}
    ],
}
FAILED = {"id": "j", "status": "FAILED", "error": {"error_type": "t", "error_message": "m"}, "output": "o"}


def heads() -> Iterator[bytes]:
    for status in (200, 302, 401, 407, 503):
        yield http(f"{status} {ECHO}")
        yield http(f"{status} X", head=f"{ECHO}: 1\r\n")
        for name in ("X-Echo", "Location", "Retry-After", "Content-Type", "WWW-Authenticate", "Set-Cookie"):
            yield http(f"{status} X", b"{", f"{name}: {ECHO}\r\n")
        yield http(
            f"{status} X", f"<html><title>{ECHO}</title><p>{ECHO}".encode(), "Content-Type: text/html\r\n"
        )
        yield http(f"{status} X", f"Traceback: {ECHO}".encode())
        yield http(f"{status} X", zlib.compress(ECHO.encode()), "Content-Encoding: deflate\r\n")
    yield http("302 X", head=f"Location: https://a:{PASSWORD}@login/?t={ECHO}\r\n")
    yield http("200 X", b"x", f"Content-Encoding: br, {ECHO}\r\n")
    yield http("200 X", ECHO.encode(), "Content-Encoding: gzip\r\n")
    yield http("429 X", b"{}", f"x-ratelimit-remaining-tokens: {ECHO}\r\n")
    yield f"ERROR {ECHO}\r\n\r\n".encode()
    yield f"{ECHO}".encode()
    yield f"HTTP/1.1 200 OK\r\nbroken {ECHO}\r\n\r\n".encode()
    yield f"HTTP/1.1 200 OK\r\nContent-Length: {ECHO}\r\n\r\n".encode()
    yield f"HTTP/1.1 200 OK\r\nTransfer-Encoding: {ECHO}\r\n\r\n".encode()
    yield f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{ECHO}\r\n".encode()
    yield f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{{\r\n0\r\n{ECHO}: {ECHO}\r\n\r\n".encode()
    yield http("200 OK", f"event: {ECHO}\n\n".encode(), "Content-Type: text/event-stream\r\n")
    yield http("200 OK", f'data: {{"error": "{ECHO}"}}\n\ndata: [DONE]\n\n'.encode())
    yield http("200 OK", f'data: {{"choices": [{{"delta": {{}}, "finish_reason": "{ECHO}"}}]}}\n\n'.encode())


def bodies(shapes: dict[str, tuple[Any, ...]]) -> Iterator[bytes]:
    for status, values in shapes.items():
        for value in values:
            for changed in at_every_leaf(value):
                yield http(status, changed)


HEADS = list(heads())
FAILURES = dict.fromkeys(("400 X", "401 X", "404 X", "429 X", "500 X"), (ERROR, DETAIL))
ANSWERS: dict[str, list[bytes]] = {
    "vllm": [*HEADS, *bodies({"200 OK": (CHAT, ERROR, DETAIL), **FAILURES})],
    "embeddings": [*HEADS, *bodies({"200 OK": (VECTORS, ERROR), **FAILURES})],
    "qdrant": [
        *HEADS,
        *bodies({"200 OK": (POINTS,), "400 X": (POINTS,), "404 X": (POINTS,), "500 X": (POINTS,)}),
    ],
    "submission": [*HEADS, *bodies({"200 OK": ({"id": "j", "status": "IN_QUEUE"}, ERROR), **FAILURES})],
    "job": [*HEADS, *bodies({"200 OK": (STATE, FAILED, ERROR), "404 X": (ERROR,), "401 X": (ERROR,)})],
}
ANSWERS["openai"] = ANSWERS["vllm"]


def answer_for(kind: str, answer: bytes) -> Callable[[bytes], bytes]:
    if kind != "job":
        return lambda line: answer
    submitted = http("200 OK", {"id": "j", "status": "IN_QUEUE"})
    return lambda line: submitted if b"/run " in line else answer


def make(kind: str, transport: HTTPTransport | None) -> Any:
    if kind == "vllm":
        return VLLMServerLLM("http://llm.example", "m", api_key=KEY, timeout=5, transport=transport)
    if kind == "openai":
        return OpenAILLM("m", base_url="http://llm.example/v1", api_key=KEY, timeout=5, transport=transport)
    if kind == "qdrant":
        return QdrantSearch("c", url="http://qdrant.example", api_key=KEY, timeout=5)
    if kind == "embeddings":
        return APIEmbedder("http://e.example/v1", "m", size=2, api_key=KEY, timeout=5, transport=transport)
    return RunPodLLM(
        "ep",
        api_key=KEY,
        base_url="http://runpod.example",
        timeout=0.2,
        polling=PollingPolicy(0.01, 1.0, 0.01),
        request_timeout=5,
        transport=transport,
    )


async def _close(*things: Any) -> None:
    for one in things:
        if hasattr(one, "aclose"):
            await one.aclose()


def outcome_of(kind: str, how: str, transport: HTTPTransport | None) -> Any:
    """Return what the backend returns or raises."""
    backend = make(kind, transport)

    async def ask() -> Any:
        try:
            return await (backend.asearch(QUERY) if kind == "qdrant" else backend.acomplete(REQUEST))
        finally:
            await _close(backend, transport)

    try:
        if how != "blocking" and kind != "embeddings":
            return anyio.run(ask, backend=how)
        if kind == "qdrant":
            return backend.search(QUERY)
        return backend.embed_query("x") if kind == "embeddings" else backend.complete(REQUEST)
    except Exception as error:
        return error
    finally:
        backend.close()
        if transport is not None:
            transport.close()


def _repr(value: object) -> str:
    try:
        return repr(value)
    except Exception:  # an object that is not finished yet
        return ""


def all_that_shows(outcome: Any) -> str:
    """Return what logs, tracebacks and error trackers show of an outcome, with the local variables of its frames."""
    if not isinstance(outcome, BaseException):
        return repr(outcome)
    found: list[str] = []
    pending: list[Any] = [outcome]
    seen: set[int] = set()
    while pending:
        one = pending.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        found += [str(one), repr(one), repr(one.args), repr(getattr(one, "__notes__", "")), repr(vars(one))]
        for frame, _ in traceback.walk_tb(one.__traceback__):
            if frame.f_code.co_filename != __file__:
                found += [f"{name}={_repr(value)}" for name, value in frame.f_locals.items()]
        pending += [one.__cause__, one.__context__]
    found.append(pickle.dumps(outcome).decode("latin-1"))
    return "\n".join(found)


def leaks(text: str) -> list[str]:
    return [secret for secret in (KEY, PASSWORD) if secret in text]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read the certificates once, and do not wait between the attempts to cancel a job."""
    trust = ssl.create_default_context()
    for user in ("httpx", "aiohttp", "types"):
        monkeypatch.setattr(f"restaurant_llm_batch._http.{user}.system_trust", lambda: trust)
    monkeypatch.setattr("restaurant_llm_batch.backends.runpod._flows.CANCEL_WAITS", (0.001,))


@pytest.mark.hardening(small=12, full=4000)
def test_what_a_service_or_a_proxy_repeats_stands_nowhere(
    trials: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "restaurant_llm_batch")
    chosen = random.Random(7)
    combinations = [
        (kind, how, own, number)
        for kind in ANSWERS
        for how in ("blocking", "asyncio", "trio")
        for own in (True, False)
        for number in range(len(ANSWERS[kind]))
    ]
    for kind, how, own, number in chosen.sample(combinations, min(trials, len(combinations))):
        answer = ANSWERS[kind][number]
        caplog.clear()
        with serve(answer_for(kind, answer)) as address:
            proxy = f"http://alice:{PASSWORD}@{address}"
            monkeypatch.setenv("HTTP_PROXY" if own else "UNUSED_PROXY", proxy)
            monkeypatch.setenv("http_proxy", proxy if own or kind == "qdrant" else "")
            outcome = outcome_of(kind, how, None if own else HTTPTransport(proxy=proxy))
        assert not leaks(all_that_shows(outcome)), (kind, how, own, answer)
        assert not leaks(caplog.text), (kind, how, own, answer)
        if isinstance(outcome, BaseException):
            assert isinstance(outcome, errors.BatchError), (kind, how, own, answer, outcome)


REFUSALS = [
    {"message": f"Unsupported parameter: 'temperature' {ECHO}", "type": "invalid_request_error"},
    {"message": "no", "code": "unsupported_parameter", "param": "temperature", "type": ECHO},
    {"message": f"`temperature` is not supported (via http://alice:{PASSWORD}@proxy)", "code": ECHO},
    {"message": f"{PASSWORD}: unknown parameter temperature; {KEY}", "param": ECHO},
]


@pytest.mark.parametrize("how", ["blocking", "asyncio"])
@pytest.mark.parametrize("kind", ["vllm", "openai"])
@pytest.mark.parametrize("refusal", REFUSALS)
@pytest.mark.sample(2)
def test_what_a_refusal_that_is_learned_from_repeats_stands_in_no_log(
    kind: str, how: str, refusal: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "restaurant_llm_batch")
    with serve(lambda line: http("400 X", {"error": refusal})) as address:
        transport = HTTPTransport(proxy=f"http://alice:{PASSWORD}@{address}")
        assert isinstance(outcome_of(kind, how, transport), errors.PermanentBackendError)
    assert "does not support temperature" in caplog.text
    assert not leaks(caplog.text + repr([record.args for record in caplog.records]))


@pytest.mark.sample(2)
@pytest.mark.parametrize("how", ["blocking", "asyncio"])
@pytest.mark.parametrize("job_id", ["j", PASSWORD])
def test_a_job_that_cannot_be_cancelled_is_logged_without_what_the_service_repeats(
    how: str, job_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "restaurant_llm_batch")
    submitted = http("200 OK", {"id": job_id, "status": "IN_QUEUE"})

    def answer(line: bytes) -> bytes:
        return submitted if b"/run " in line else http("500 X", {"error": ECHO}) * (b"/cancel" in line)

    with serve(answer) as address:
        outcome = outcome_of("job", how, HTTPTransport(proxy=f"http://alice:{PASSWORD}@{address}"))
    assert isinstance(outcome, errors.BackendError)
    assert "cancel" in caplog.text
    assert not leaks(caplog.text + repr([record.args for record in caplog.records]))


def test_only_the_border_logs_within_http_and_the_backends_that_use_it() -> None:
    package = Path(restaurant_llm_batch.__file__).parent
    modules = [*package.glob("_http/*.py"), *package.glob("backends/*/*.py"), *package.glob("backends/*.py")]
    with_logger = {
        str(module.relative_to(package)) for module in modules if "getLogger" in module.read_text()
    }
    own_words = {  # which log names of modules, fields and types, the id of a batch, and a status
        "_http/abort.py",
        "_http/fields.py",
        "backends/openai_batch/_batch_service.py",
    }
    assert with_logger == {"_http/border.py", *own_words}


def echoing(item: int) -> Flow[str]:
    return (
        yield from complete(LLMRequest("t", ({"role": "user", "content": str(item)},), max_tokens=5))
    ).text


@pytest.mark.sample(1)
@pytest.mark.hardening(small=4, full=100)
@pytest.mark.parametrize("stage", [1, 2, 4])
def test_no_file_and_no_outcome_of_a_run_holds_what_a_service_repeats(
    stage: int, trials: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = random.Random(stage)
    for number in range(trials):
        kind = chosen.choice(["vllm", "openai", "submission", "job"])
        answer = chosen.choice(ANSWERS[kind])
        with serve(answer_for(kind, answer)) as address:
            monkeypatch.setenv("http_proxy", f"http://alice:{PASSWORD}@{address}")
            store = tmp_path / f"{number}.db"
            with BatchRunner(
                llm=make(kind, None),
                store=store,
                strategy=Strategy.stage(stage),
                llm_retry=RetryPolicy(attempts=1, wait_initial=0.01, max_rate_limit_attempts=1),
            ) as runner:
                report = runner.run(echoing, [1])
        shown = repr(report) + "".join(all_that_shows(one.error) for one in report.failures)
        assert not leaks(shown), (kind, answer)
        for file in tmp_path.iterdir():
            assert not leaks(file.read_bytes().decode("latin-1")), (kind, answer, file.name)


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    "construct",
    [
        lambda: VLLMServerLLM("nowhere", "m", api_key=KEY),
        lambda: VLLMServerLLM("http://x", "m", api_key=KEY, timeout=-1),
        lambda: OpenAILLM("", api_key=KEY),
        lambda: OpenAILLM("m", base_url="nowhere", api_key=KEY),
        lambda: RunPodLLM("a/b", api_key=KEY),
        lambda: QdrantSearch("c", api_key=KEY),
        lambda: QdrantSearch("c", url="ftp://x", api_key=KEY),
        lambda: APIEmbedder("http://x", "m", api_key=KEY, size=0),
    ],
)
def test_a_wrong_argument_beside_a_key_does_not_show_the_key(construct: Callable[[], object]) -> None:
    with pytest.raises(errors.ConfigurationError) as caught:
        construct()
    assert not leaks(all_that_shows(caught.value))


def test_no_page_and_no_line_of_the_web_service_holds_what_a_service_repeats() -> None:
    answers = [ANSWERS["vllm"][number] for number in range(0, len(ANSWERS["vllm"]), 40)]
    turn = itertools.cycle(answers)
    with serve(lambda line: next(turn)) as address:
        runner = BatchRunner(
            llm=VLLMServerLLM(f"http://{address}", "m", api_key=KEY),
            strategy=Strategy.stage(4),
            llm_retry=RetryPolicy(attempts=1, wait_initial=0.0, max_rate_limit_attempts=1),
        )
        app = FastAPI()
        app.include_router(batch_router(runner))
        body = {"restaurants": [{"restaurant_id": 1, "reviews": [{"content": "좋아요"}]}]}
        with TestClient(app) as client:
            pages = [client.post("/api/v1/sentiment/analyze/batch", json=body) for _ in answers]
    assert not leaks("".join(page.text + repr(page.headers) for page in pages))
    assert any("a service behind this one" in page.text for page in pages)


@pytest.mark.hardening(small=6, full=600)
def test_what_a_service_or_a_proxy_repeats_stands_in_no_record(
    trials: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    chosen = random.Random(8)
    combinations = [
        (kind, number) for kind in ("openai", "vllm", "job") for number in range(len(ANSWERS[kind]))
    ]
    for run, (kind, number) in enumerate(chosen.sample(combinations, min(trials, len(combinations)))):
        path = tmp_path / f"{run}.db"
        with serve(answer_for(kind, ANSWERS[kind][number])) as address:
            monkeypatch.setenv("HTTP_PROXY", f"http://alice:{PASSWORD}@{address}")
            monkeypatch.setenv("http_proxy", f"http://alice:{PASSWORD}@{address}")
            backend = make(kind, None)
            with BatchRunner(
                llm=backend,
                record=path,
                store=path,
                llm_retry=RetryPolicy(attempts=1, max_rate_limit_attempts=1),
            ) as runner:
                runner.run(_ask_once, [1])
            backend.close()
        connection = sqlite3.connect(path)
        tables = ("runs", "items", "calls", "limits", "prompts")
        written = repr([connection.execute(f"SELECT * FROM {table}").fetchall() for table in tables])
        connection.close()
        assert "failed" in written or "ok" in written
        assert not leaks(written), (kind, ANSWERS[kind][number])


def _ask_once(item: int) -> Flow[str]:
    reply = yield from complete(REQUEST)
    return reply.text
