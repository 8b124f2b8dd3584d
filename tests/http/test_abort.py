"""Blocking calls that are given up end in their threads and at the server; all are bounded as a whole."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from time import monotonic, sleep
from typing import Any

import anyio
import httpx
import httpx2
import pytest
import trustme
from tests.support.local_server import LocalServer, Say, Seen, chat
from tests.support.patience import wait_until

from restaurant_llm_batch import BatchRunner, Limits, LLMRequest, Strategy, errors
from restaurant_llm_batch._http.abort import AbortableRequest, make_abortable
from restaurant_llm_batch._http.types import TransportError
from restaurant_llm_batch.backends import HTTPTransport, OpenAILLM, Timeout, VLLMServerLLM
from restaurant_llm_batch.cancellation import CancelToken, run_with_token, shielded
from restaurant_llm_batch.steps import Flow, complete

LONG = 300.0
"""Seconds that nobody waits for."""
SOON = 50.0
"""Seconds in which everything that ends at once has ended, on a busy machine too."""


def vllm(url: str, timeout: float | Timeout = LONG) -> VLLMServerLLM:
    return VLLMServerLLM(url, model="tiny", timeout=timeout)


def openai(url: str, timeout: float | Timeout = LONG) -> OpenAILLM:
    return OpenAILLM("tiny", api_key="sk-test", base_url=f"{url}/v1", timeout=timeout)


BACKENDS: dict[str, Callable[..., Any]] = {"vllm": vllm, "openai": openai}
every_backend = pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS.keys())
THREADED = {
    "stage 2": Strategy.stage(2),
    "restaurants": Strategy(restaurant_async=True),
    "threaded": Strategy.threaded(),
}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def asking(words: object) -> LLMRequest:
    return LLMRequest("t", ({"role": "user", "content": str(words)},))


def flow(item: object) -> Flow[str]:
    return (yield from complete(asking(item))).text


def answer(seen: Seen) -> Say:
    """Repeat the question, and take as long as it says."""
    question = seen.json["messages"][-1]["content"]
    return Say(chat(question), after=LONG if question == "slow" else float(question.partition(" ")[2] or 0))


def workers() -> int:
    return sum(thread.name.startswith("restaurant-llm-batch-") for thread in threading.enumerate())


def given_up_after(server: LocalServer, how: Callable[[], object]) -> threading.Thread:
    def act() -> None:
        wait_until(lambda: server.in_flight)
        how()

    thread = threading.Thread(target=act)
    thread.start()
    return thread


def by_closing_the_stream(runner: BatchRunner, server: LocalServer) -> None:
    stream = runner.stream(flow, iter(["slow"]))
    closing = given_up_after(server, stream.close)
    assert not any(outcome.ok for outcome in stream)
    closing.join()


def by_cancelling_arun(runner: BatchRunner, server: LocalServer) -> None:
    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(runner.arun, flow, ["slow"])
            await anyio.to_thread.run_sync(wait_until, lambda: server.in_flight)
            tasks.cancel_scope.cancel()

    anyio.run(main)


def by_ctrl_c(runner: BatchRunner, server: LocalServer) -> None:
    pressing = given_up_after(server, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        runner.run(flow, ["slow"])
    pressing.join()


@every_backend
@pytest.mark.parametrize("strategy", THREADED.values(), ids=THREADED.keys())
@pytest.mark.parametrize("give_up", [by_closing_the_stream, by_cancelling_arun, by_ctrl_c])
@pytest.mark.sample(4)
def test_a_cancelled_run_ends_its_calls_at_the_server(
    backend: Callable[[str], Any], strategy: Strategy, give_up: Callable[..., None]
) -> None:
    before = workers()
    with LocalServer(answer) as server:
        with BatchRunner(llm=backend(server.url), strategy=strategy, limits=Limits(llm=1)) as runner:
            give_up(runner, server)
            wait_until(lambda: server.given_up)
            # Its slot is free, and one new connection serves for all further calls.
            assert runner.run(flow, ["a", "b", "c"]).results == ["a", "b", "c"]
        assert server.connections == 2
        wait_until(lambda: workers() <= before)  # threads of earlier tests may end meanwhile


def given_up(call: Callable[[], Any], when: Callable[[], object]) -> float:
    """Make a call and give it up at a moment; return how long it took to end then."""
    this, ended, moment = CancelToken(), [], []

    def work() -> None:
        with pytest.raises(errors.RunStopped, match="the run cancelled this call"):
            run_with_token(this, call)
        ended.append(monotonic())

    thread = threading.Thread(target=work)
    thread.start()
    try:
        wait_until(when)
    finally:
        moment.append(monotonic())
        this.set()
        thread.join()
    return ended[0] - moment[0]


@every_backend
def test_a_connection_that_was_ended_is_not_used_again(backend: Callable[[str], Any]) -> None:
    with LocalServer(answer) as server:
        llm = backend(server.url)
        for connections in (1, 2, 3):
            for _ in range(2):
                assert llm.complete(asking("quick")).text == "quick"
            assert server.connections == connections
            given_up(lambda: llm.complete(asking("slow")), lambda: server.in_flight)
            wait_until(lambda: not server.in_flight)
        assert server.given_up == 3
        llm.close()


@every_backend
def test_a_call_that_was_cancelled_before_it_begins_opens_no_connection(
    backend: Callable[[str], Any],
) -> None:
    this = CancelToken()
    this.set()
    with LocalServer(answer) as server:
        llm = backend(server.url)
        with pytest.raises(errors.RunStopped):
            run_with_token(this, lambda: llm.complete(asking("quick")))
        assert not server.connections
        assert llm.complete(asking("quick")).text == "quick"
        llm.close()


@every_backend
@pytest.mark.sample(1)
def test_cancelled_at_any_moment_a_call_ends_or_has_its_own_answer(backend: Callable[[str], Any]) -> None:
    random, ended = Random(7), 0
    with LocalServer(answer) as server:
        llm = backend(server.url)
        llm.complete(asking("first"))
        began = monotonic()
        llm.complete(asking("x 0.004"))
        longest = 2 * (monotonic() - began)
        for number in range(80):
            this, question = CancelToken(), f"{number} {random.choice([0, 0.004])}"
            timer = threading.Timer(random.uniform(0, longest), this.set)
            timer.start()
            try:
                assert run_with_token(this, lambda: llm.complete(asking(question))).text == question  # noqa: B023
            except errors.RunStopped:
                ended += 1
            timer.join()
            assert llm.complete(asking(f"{number}")).text == f"{number}"
        llm.close()
    assert 0 < ended < 80


@every_backend
def test_through_the_environments_proxy_too(
    backend: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with LocalServer(answer) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        llm = backend("http://llm.example")
        given_up(lambda: llm.complete(asking("slow")), lambda: proxy.in_flight)
        wait_until(lambda: proxy.given_up)
        llm.close()
    assert proxy.given_up == 1


def test_through_a_proxy_and_a_transport_of_ones_own_too() -> None:
    with LocalServer(answer) as proxy:
        transport = HTTPTransport(proxy=proxy.url)
        llm = OpenAILLM("tiny", api_key="sk", base_url="http://llm.example/v1", transport=transport)
        given_up(lambda: llm.complete(asking("slow")), lambda: proxy.in_flight)
        wait_until(lambda: proxy.given_up)
        transport.close()
    assert proxy.given_up == 1


def hear_nothing(connection: socket.socket) -> None:
    while connection.recv(65536):
        pass


@contextmanager
def speaking(talk: Callable[[socket.socket], object]) -> Iterator[tuple[int, list[int]]]:
    """Listen on a port, and speak with whoever connects as `talk` does; yields the port and who connected."""
    connected: list[int] = []
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, (_, port) = listening.accept()
                connected.append(port)
                with connection, suppress(OSError):
                    talk(connection)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listening.getsockname()[1], connected
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join()


class TestTLS:
    """An encrypted connection is ended by its plain socket."""

    @pytest.fixture
    def server(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalServer]:
        authority = trustme.CA()
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
        with LocalServer(answer, context) as server:
            yield server

    @every_backend
    def test_a_call_is_ended(self, backend: Callable[[str], Any], server: LocalServer) -> None:
        llm = backend(server.url)
        for _ in range(3):
            assert llm.complete(asking("quick")).text == "quick"
        assert server.connections == 1
        given_up(lambda: llm.complete(asking("slow")), lambda: server.in_flight)
        wait_until(lambda: server.given_up)
        assert llm.complete(asking("quick")).text == "quick"
        llm.close()

    @pytest.mark.sample(1)
    @every_backend
    def test_a_call_is_ended_at_any_moment_of_the_handshake(
        self, backend: Callable[[str], Any], server: LocalServer
    ) -> None:
        random = Random(11)
        for number in range(15):
            this, llm = CancelToken(), backend(server.url)
            timer = threading.Timer(random.uniform(0, 0.03), this.set)
            timer.start()
            with suppress(errors.RunStopped):
                assert run_with_token(this, lambda: llm.complete(asking(number))).text == f"{number}"  # noqa: B023
            timer.join()
            llm.close()

    @every_backend
    def test_a_handshake_that_nobody_answers_is_ended(self, backend: Callable[..., Any]) -> None:
        with speaking(hear_nothing) as (port, connected):
            llm = backend(f"https://127.0.0.1:{port}", Timeout(LONG, connect=LONG))
            given_up(lambda: llm.complete(asking("x")), lambda: connected)
            llm.close()
        assert connected

    def test_a_handshake_that_nobody_answers_is_bounded_and_nothing_has_arrived(self) -> None:
        transport = HTTPTransport()
        with speaking(hear_nothing) as (port, _), pytest.raises(TransportError) as caught:
            transport.send("GET", f"https://127.0.0.1:{port}", {}, None, Timeout(0.2))
        transport.close()
        assert (caught.value.timed_out, caught.value.request_may_have_been_sent) == (True, False)

    def test_a_handshake_goes_on_without_a_file_to_end_it_by(
        self, server: LocalServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def none_left(*arguments: object) -> socket.socket:
            raise OSError("too many open files")

        llm = vllm(server.url)
        with monkeypatch.context() as patch:
            patch.setattr(socket, "fromfd", none_left)
            assert llm.complete(asking("quick")).text == "quick"
        given_up(lambda: llm.complete(asking("slow")), lambda: server.in_flight)
        llm.close()


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"


def dribble(*beginning: bytes) -> Callable[[socket.socket], None]:
    def talk(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"".join(beginning))
        while True:
            connection.sendall(b" ")
            sleep(0.02)

    return talk


@every_backend
@pytest.mark.parametrize(
    "beginning",
    [(HEAD, b"content-length: 100000\r\n\r\n"), (HEAD, b"x-far: away")],
    ids=["body", "headers"],
)
@pytest.mark.sample(2)
def test_an_answer_that_dribbles_for_ever_is_bounded_as_a_whole(
    backend: Callable[..., Any], beginning: tuple[bytes, ...]
) -> None:
    with speaking(dribble(*beginning)) as (port, _):
        llm = backend(f"http://127.0.0.1:{port}", 0.4)
        began = monotonic()
        with pytest.raises(errors.TransientBackendError, match=r"within 0\.4 seconds"):
            llm.complete(asking("quick"))
        assert monotonic() - began >= 0.4
        llm.close()


@pytest.mark.slow  # tells 1 s from 1.9 s
def test_silence_after_some_of_an_answer_is_bounded_by_what_is_left_of_the_time() -> None:
    def begin_and_wait(connection: socket.socket) -> None:
        connection.recv(65536)
        sleep(0.9)
        connection.sendall(HEAD)
        hear_nothing(connection)

    with speaking(begin_and_wait) as (port, _):
        llm = vllm(f"http://127.0.0.1:{port}", 1.0)
        began = monotonic()
        with pytest.raises(errors.TransientBackendError, match="within 1 seconds"):
            llm.complete(asking("quick"))
        assert monotonic() - began < 1.8
        llm.close()


def test_between_its_steps_an_exchange_ends_no_connection_which_may_be_anothers_by_then() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        exchange = AbortableRequest(LONG)
        exchange.step(ours, lambda what, seconds: ours.sendall(what), b"one", None)
        exchange.abort()
        ours.sendall(b"two")
        assert theirs.recv(9) == b"onetwo"
        with pytest.raises(errors.RunStopped):
            exchange.step(ours, lambda what, seconds: ours.sendall(what), b"three", None)


@every_backend
def test_what_must_be_done_to_the_end_is_not_ended(backend: Callable[[str], Any]) -> None:
    this = CancelToken()

    def work() -> str:
        this.set()
        with shielded():
            return str(llm.complete(asking("quick")).text)

    with LocalServer(answer) as server:
        llm = backend(server.url)
        assert run_with_token(this, work) == "quick"
        llm.close()


def test_a_client_of_an_unknown_make_is_reported_of(caplog: pytest.LogCaptureFixture) -> None:
    make_abortable(object())
    assert "blocking calls cannot be ended with this" in caplog.text


@pytest.mark.parametrize("client", [httpx.Client, httpx2.Client])
def test_the_clients_that_are_installed_are_of_a_known_make(
    client: type[Any], caplog: pytest.LogCaptureFixture
) -> None:
    with client() as one:
        make_abortable(one)
    assert not caplog.text
