"""The server of the command `serve`: what clients cannot do to it, and that it ends whatever they do."""

from __future__ import annotations

import base64
import gc
import hashlib
import json
import re
import resource
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import sleep
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import pytest
from fastapi.testclient import TestClient
from starlette.types import Receive, Scope, Send
from tests.integrations.test_fastapi import SUMMARIES, ids, labelled
from tests.support.patience import PATIENCE, wait_until

from restaurant_llm_batch import BatchRunner, LLMRequest, LLMResponse, Strategy, __version__
from restaurant_llm_batch.integrations._fastapi import server as server_module
from restaurant_llm_batch.integrations._fastapi.application import application
from restaurant_llm_batch.integrations._fastapi.connections import ServerLimits, bounded_protocol
from restaurant_llm_batch.integrations._fastapi.server import SignalAwareServer
from restaurant_llm_batch.integrations.fastapi import batch_router
from restaurant_llm_batch.testing import FakeLLM, FakeSearch

FOREVER = 3600.0
PATIENT = ServerLimits(
    head_seconds=FOREVER, idle_seconds=3600, stalled_seconds=FOREVER, drain_seconds=FOREVER
)


class Running:
    """A server in a thread of its own."""

    def __init__(self, app: Any, limits: ServerLimits) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.server = SignalAwareServer(app, limits)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.listener]})
        self.thread.start()
        self.clients = ExitStack()

    def connect(self, sent: bytes = b"", *, receive_buffer: int = 0) -> socket.socket:
        client = socket.socket()
        if receive_buffer:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.settimeout(30)
        client.connect(("127.0.0.1", self.port))
        client.sendall(sent)
        return self.clients.enter_context(client)

    def http(self) -> httpx.Client:
        return self.clients.enter_context(
            httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=PATIENCE)
        )

    def terminate(self) -> None:
        self.server.handle_exit(signal.SIGTERM, None)

    def has_ended(self) -> bool:
        self.thread.join(60)
        return not self.thread.is_alive()


@contextmanager
def running(app: Any, limits: ServerLimits = PATIENT) -> Iterator[Running]:
    one = Running(app, limits)
    try:
        yield one
    finally:
        for _ in range(2):
            one.terminate()
        assert one.has_ended()
        one.clients.close()
        one.listener.close()


def service(llm: Any = None, *, store: Path | None = None, **options: Any) -> Any:
    search = FakeSearch(lambda name: [f"맛있어요 {name}"])
    runner = BatchRunner(
        llm=llm or FakeLLM(answer=labelled), search=search, strategy=Strategy.stage(4), store=store
    )
    return application(batch_router(runner), **options)


def head(path: str = SUMMARIES, *lines: str, method: str = "POST") -> bytes:
    fixed = (f"{method} {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json")
    return "".join(f"{line}\r\n" for line in (*fixed, *lines, "")).encode()


def ask(one: Running) -> httpx.Response:
    return httpx.post(f"http://127.0.0.1:{one.port}{SUMMARIES}", json=ids(1), timeout=PATIENCE)


def rest_of(client: socket.socket) -> bytes:
    """Return what a client receives until the server closes the connection."""
    received = b""
    try:
        while piece := client.recv(65536):
            received += piece
    except ConnectionResetError:
        pass
    return received


HEALTH = head("/health", method="GET")
BODY = json.dumps(ids(1)).encode()
WHOLE = head(SUMMARIES, f"Content-Length: {len(BODY)}") + BODY


TOKEN = "a-token.of_32~characters+/and=="


@pytest.fixture(scope="module")
def guarded() -> Iterator[tuple[Running, FakeLLM]]:
    """A service that needs a token, and is called by the names of this machine."""
    llm = FakeLLM(answer=labelled)
    with running(service(llm, token=TOKEN, allowed_hosts=("localhost", "127.0.0.1", "[::1]"))) as one:
        yield one, llm


# Time


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"G",
        b"POST / HTTP/1.1\r\nHost: x\r\n",
        HEALTH + b"GET / HT",
        HEALTH,
        b"\r\n\r\n",
        head("/health", "Content-Length: 9") + b"{",
        head("/nowhere", "Transfer-Encoding: chunked") + b"1\r\n",
    ],
    ids=[
        "nothing",
        "a letter",
        "half a head",
        "a second half a head",
        "no second request",
        "line ends",
        "half a body that is not read",
        "half a chunk that is not read",
    ],
)
@pytest.mark.sample(1)
def test_a_client_that_does_not_finish_a_head_is_disconnected(sent: bytes) -> None:
    limits = ServerLimits(head_seconds=0.1, idle_seconds=1)
    with running(service(), limits) as one:
        rest_of(one.connect(sent))
        wait_until(lambda: not one.server.server_state.connections)


def test_a_head_that_comes_byte_by_byte_has_no_more_time_than_any_other() -> None:
    with running(service(), ServerLimits(head_seconds=0.2, idle_seconds=3600)) as one:
        client = one.connect()
        with pytest.raises(OSError):
            for byte in head("/health", *(f"x{i}: y" for i in range(1_000)), method="GET"):
                client.sendall(bytes([byte]))
                sleep(0.005)


@pytest.mark.parametrize("line", ["x: ", "x", ""])
@pytest.mark.sample(1)
def test_a_head_without_end_is_refused(line: str) -> None:
    with running(service()) as one:
        client = one.connect(b"GET /health HTTP/1.1\r\nHost: localhost\r\n")
        with pytest.raises(OSError):
            while True:
                client.sendall((line + "y" * 1000).encode() + b"\r\n" * bool(line))
        assert one.http().get("/health").status_code == 200


def test_a_request_that_takes_long_is_not_disconnected() -> None:
    """The time of a head is over when it has arrived."""
    llm = FakeLLM(answer=labelled, seconds=0.5)
    with running(service(llm), ServerLimits(head_seconds=0.1, stalled_seconds=0.1)) as one:
        assert one.http().post(SUMMARIES, json=ids(1)).status_code == 200


class Endless:
    """An application that sends `pieces` pieces of a response, and notes how it ends."""

    def __init__(self, pieces: float = float("inf")) -> None:
        self.pieces = pieces
        self.sent = 0
        self.disconnected = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._wait, receive, tasks.cancel_scope)
            await send({"type": "http.response.start", "status": 200, "headers": []})
            while self.sent < self.pieces:
                await anyio.lowlevel.checkpoint()
                await send({"type": "http.response.body", "body": b"x" * 100_000, "more_body": True})
                self.sent += 1
            await send({"type": "http.response.body", "body": b"x" * 8_000_000, "more_body": False})
            tasks.cancel_scope.cancel()

    async def _wait(self, receive: Receive, scope: anyio.CancelScope) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.disconnected = True
        scope.cancel()


@pytest.mark.parametrize("pieces", [float("inf"), 0], ids=["while it is sent", "when all is sent"])
def test_a_client_that_does_not_read_its_response_is_disconnected(pieces: float) -> None:
    app = Endless(pieces)
    with running(app, ServerLimits(stalled_seconds=0.2, idle_seconds=3600, head_seconds=FOREVER)) as one:
        one.connect(HEALTH, receive_buffer=4096)
        wait_until(lambda: one.server.server_state.total_requests > 0 or app.sent > 0)
        wait_until(lambda: not one.server.server_state.connections)

    assert app.disconnected or not pieces


class Transport:
    """A transport whose buffer has the sizes that a test says, one after another."""

    def __init__(self, *sizes: int) -> None:
        self._sizes = iter(sizes)
        self.aborted = False

    def get_write_buffer_size(self) -> int:
        return next(self._sizes)

    def abort(self) -> None:
        self.aborted = True


@pytest.mark.parametrize(
    ("sizes", "aborted"),
    [
        ((8_000_000, 7_980_000, 7_960_000, 7_940_000, 7_940_000, 7_920_000, 7_920_000, 0, 0), False),
        ((100, 0, 0), False),
        ((0,), False),
        ((100, 100), True),
        ((8_000_000, 7_999_999), True),
        ((8_000_000, 5_000_000, 5_000_000, 4_990_000), True),
        ((100_000, 200_000), True),
    ],
)
def test_a_client_has_to_read_a_little_in_each_period(sizes: tuple[int, ...], aborted: bool) -> None:
    timers: list[tuple[float, Callable[..., None], Any]] = []

    class Loop:
        def call_later(self, seconds: float, call: Callable[..., None], *arguments: Any) -> object:
            timers.append((seconds, call, arguments))
            return object()

    kind = bounded_protocol(ServerLimits(stalled_seconds=7))
    connection: Any = kind.__new__(kind)
    connection.loop, connection.transport = Loop(), Transport(*sizes)
    connection._watch_writing()
    while timers:
        seconds, call, arguments = timers.pop()
        assert seconds == 7
        call(*arguments)

    assert connection.transport.aborted == aborted


# Number


SLOW = [b"", b"POST", HEALTH, head(SUMMARIES, "Content-Length: 1000") + b"{", WHOLE[:-1]]


@pytest.mark.slow
@pytest.mark.hardening(small=50, full=10_000)
def test_slow_clients_keep_nobody_else_from_being_answered(trials: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if trials + 500 > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    limits = ServerLimits(connections=20, head_seconds=FOREVER, idle_seconds=3600)
    try:
        with running(service(), limits) as one:
            assert one.http().get("/health").status_code == 200
            gc.collect()
            before = resident()
            for number in range(trials):
                one.connect(SLOW[number % len(SLOW)])
                if number % max(trials // 20, 1) == 0:
                    for request in (HEALTH, WHOLE):
                        other = one.connect(request.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
                        assert rest_of(other).startswith(b"HTTP/1.1 200 ")
            wait_until(lambda: len(one.server.server_state.connections) <= 20)
            assert resident() - before < 50 * 2**20
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def resident() -> int:
    """Return the memory of this process, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_requests_that_are_being_done_are_not_ended_to_make_room() -> None:
    llm = FakeLLM(answer=labelled, seconds=0.5)
    answers: list[int] = []
    with running(service(llm), ServerLimits(connections=3, head_seconds=FOREVER)) as one:
        asking = [
            threading.Thread(
                target=lambda: answers.append(
                    httpx.post(f"http://127.0.0.1:{one.port}{SUMMARIES}", json=ids(1)).status_code
                )
            )
            for _ in range(3)
        ]
        for thread in asking:
            thread.start()
        wait_until(lambda: llm.in_flight == 3)
        for _ in range(10):
            assert rest_of(one.connect(b"")) == b""
        for thread in asking:
            thread.join()

    assert answers == [200, 200, 200]


# The end


@pytest.mark.parametrize(
    "sent",
    [
        *SLOW,
        WHOLE,
        HEALTH + WHOLE,
        head(SUMMARIES, "Accept: application/x-ndjson", f"Content-Length: {len(BODY)}") + BODY,
    ],
    ids=[
        "nothing",
        "half a head",
        "an idle client",
        "half a body",
        "all but a byte",
        "a run",
        "a second run",
        "lines",
    ],
)
@pytest.mark.sample(1)
def test_it_ends_after_its_drain_time_whatever_clients_do(
    sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "ANSWER_SECONDS", 0.1)
    llm = FakeLLM(seconds=FOREVER)
    with running(
        service(llm), ServerLimits(drain_seconds=0.1, head_seconds=FOREVER, idle_seconds=3600)
    ) as one:
        client = one.connect(sent)
        if BODY in sent:
            wait_until(lambda: llm.in_flight == 1)
        else:
            wait_until(lambda: bool(one.server.server_state.connections))
        one.terminate()
        assert one.has_ended()
        received = rest_of(client)

    assert llm.in_flight == 0
    if sent.endswith((BODY, BODY[:-1])):
        assert b" 503 " in received
        assert b"shutting down" in received


def test_it_ends_after_its_drain_time_if_a_client_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "ANSWER_SECONDS", 0.1)
    app = Endless()
    limits = ServerLimits(drain_seconds=0.1, stalled_seconds=FOREVER)
    with running(app, limits) as one:
        one.connect(HEALTH, receive_buffer=4096)
        wait_until(lambda: app.sent > 0)
        one.terminate()
        assert one.has_ended()


def test_a_run_that_ends_within_the_drain_time_is_answered() -> None:
    llm = FakeLLM(answer=labelled, seconds=0.3)
    answers: list[httpx.Response] = []
    with running(service(llm)) as one:
        asking = threading.Thread(target=lambda: answers.append(ask(one)))
        asking.start()
        wait_until(lambda: llm.in_flight == 1)
        one.terminate()
        assert one.has_ended()
        asking.join()

    assert answers[0].status_code == 200
    assert len(answers[0].json()["results"]) == 1


def test_the_answers_of_a_run_that_is_cut_off_are_kept_in_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "ANSWER_SECONDS", 0.1)

    class Known(FakeLLM):
        fingerprint = "known"

    class Uneven(Known):
        async def acomplete(self, request: LLMRequest, /) -> LLMResponse:
            self._seconds = 0 if request.inputs["restaurant_id"] < 5 else FOREVER
            return await super().acomplete(request)

    llm, store = Uneven(answer=labelled), tmp_path / "run.db"
    with running(service(llm, store=store), ServerLimits(drain_seconds=0.1)) as one:
        one.connect(
            head(SUMMARIES, f"Content-Length: {len(json.dumps(ids(*range(6))))}")
            + json.dumps(ids(*range(6))).encode()
        )
        wait_until(lambda: llm.calls == 6 and llm.in_flight == 1)
        one.terminate()
        assert one.has_ended()

    again = Known(answer=labelled)
    with running(service(again, store=store)) as one:
        answer = one.http().post(SUMMARIES, json=ids(*range(6)))
    assert len(answer.json()["results"]) == 6
    assert again.calls == 1


def test_the_third_signal_ends_it_at_once() -> None:
    llm = FakeLLM(seconds=FOREVER)
    with running(service(llm)) as one:
        one.connect(WHOLE)
        wait_until(lambda: llm.in_flight == 1)
        for _ in range(3):
            one.terminate()
        assert one.has_ended()


# Access


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:8000", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:8000", 200),
        ("evil.example", 400),
        ("evil.example:8000", 400),
        ("localhost.evil.example", 400),
        ("127.0.0.1.evil.example", 400),
        ("evil.example#localhost", 400),
        ("localhost@evil.example", 400),
        ("", 400),
    ],
)
def test_only_allowed_hosts_are_answered(host: str, status: int, guarded: tuple[Running, FakeLLM]) -> None:
    sent = f"GET /health HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
    received = rest_of(guarded[0].connect(sent))

    assert received.startswith(f"HTTP/1.1 {status} ".encode())


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (f"Bearer {TOKEN}", 200),
        (f"bearer {TOKEN}", 200),
        (None, 401),
        ("", 401),
        (TOKEN, 401),
        (f"Basic {TOKEN}", 401),
        (f"Bearer {TOKEN}x", 401),
        (f"Bearer {TOKEN[:-1]}", 401),
        (f"Bearer {TOKEN.upper()}", 401),
        ("Bearer", 401),
        ("Bearer \xff\xfe", 401),
        (f"Bearer x, Bearer {TOKEN}", 401),
    ],
)
def test_a_request_needs_the_token(
    authorization: str | None, status: int, guarded: tuple[Running, FakeLLM]
) -> None:
    one, llm = guarded
    before = llm.calls
    headers: list[tuple[str, Any]] = [("Content-Type", "application/json")]
    if authorization is not None:
        headers.append(("Authorization", authorization.encode("latin-1")))
    answer = one.http().post(SUMMARIES, content=BODY, headers=headers)

    assert answer.status_code == status
    assert llm.calls - before == (status == 200)
    if status == 401:
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert answer.json()["code"] == 401
        assert TOKEN not in answer.text


def test_what_says_nothing_of_reviews_needs_no_token(guarded: tuple[Running, FakeLLM]) -> None:
    client = guarded[0].http()

    for path in ("/health", "/ready", "/docs", "/openapi.json"):
        assert client.get(path).status_code == 200
    for path in ("/", "/ready/", "/health/", "/HEALTH", "//health", "/docs/", "/nowhere"):
        assert client.get(path).status_code == 401


def test_a_request_without_the_token_is_refused_before_its_body_is_read(
    guarded: tuple[Running, FakeLLM],
) -> None:
    client = guarded[0].connect(head(SUMMARIES, "Content-Length: 1000000"))

    assert rest_of(client).startswith(b"HTTP/1.1 401 ")


def test_the_token_is_in_no_log(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    caplog.set_level(1)
    llm = FakeLLM(fault=lambda request, tried: RuntimeError("a bug"))
    with running(service(llm, token=TOKEN)) as one:
        for given in (TOKEN, TOKEN + "x"):
            one.http().post(SUMMARIES, json=ids(1), headers={"Authorization": f"Bearer {given}"})
        one.connect(b"GET /\x01 HTTP/1.1\r\nAuthorization: Bearer " + TOKEN.encode() + b"\r\n\r\n")
        wait_until(lambda: "Invalid HTTP request" in capfd.readouterr().err + caplog.text)

    said = capfd.readouterr()
    assert TOKEN not in caplog.text + said.out + said.err


def test_the_docs_page_needs_no_other_server_and_runs_no_script_but_its_own(
    guarded: tuple[Running, FakeLLM],
) -> None:
    client = guarded[0].http()
    page = client.get("/docs")
    document = client.get("/openapi.json").json()

    assert page.status_code == 200
    assert not re.search(
        r"(?:src|href|action)=(?!\"/openapi\.json\")|https?:|//[a-z]|@import|url\(", page.text
    )
    policy = page.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none';")
    for tag, rule in (("script", "script-src"), ("style", "style-src")):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{rule} 'sha256-{digest}'" in policy
    for path in document["paths"]:
        assert path in page.text
    assert document["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
    assert "security" not in document["paths"]["/health"]["get"]
    assert TOKEN not in page.text


def test_the_root_names_the_service_and_where_it_is_described(guarded: tuple[Running, FakeLLM]) -> None:
    client = guarded[0].http()
    headers = {"Authorization": f"Bearer {TOKEN}"}
    about = client.get("/", headers=headers).json()

    assert about.pop("links") == {
        "docs": "/docs",
        "health": "/health",
        "ready": "/ready",
        "openapi": "/openapi.json",
    }
    assert about == {"name": "restaurant_llm_batch", "version": __version__}


def test_it_is_ready_while_the_runner_is_open() -> None:
    runner = BatchRunner(llm=FakeLLM(), strategy=Strategy.stage(4))
    app = application(batch_router(runner), runner)
    never_started = TestClient(app)

    answer = never_started.get("/ready")
    assert (answer.status_code, answer.json()) == (503, {"status": "not ready"})
    assert never_started.get("/health").status_code == 200
    with TestClient(app) as client:
        answer = client.get("/ready")
        assert (answer.status_code, answer.json()) == (200, {"status": "ready"})
    assert never_started.get("/ready").status_code == 503
    with runner:
        assert never_started.get("/ready").status_code == 200


def test_there_is_no_other_page_with_scripts(guarded: tuple[Running, FakeLLM]) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}

    for path in ("/redoc", "/docs/oauth2-redirect"):
        assert guarded[0].http().get(path, headers=headers).status_code == 404


def test_the_log_shows_the_address_of_the_connection(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with running(service()) as one:
        one.http().get("/health?a=%1b[2J", headers={"X-Forwarded-For": "6.6.6.6"})
    said = capfd.readouterr()

    assert "6.6.6.6" not in said.out + said.err + caplog.text
    assert "\x1b[2J" not in said.out + said.err + caplog.text
