"""The HTTP seam, over real sockets: one promise for every client, on every loop."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeAlias

import anyio
import pytest
import trustme
from tests.support.calling import ask
from tests.support.local_server import LocalServer, Say, Seen, chat
from tests.support.patience import PATIENCE

from restaurant_llm_batch._http.httpx import HttpxTransport
from restaurant_llm_batch._http.types import HTTPResponse, Transport, TransportError
from restaurant_llm_batch.backends import HTTPTransport, OpenAILLM, Timeout, VLLMServerLLM
from restaurant_llm_batch.errors import ConfigurationError, PermanentBackendError

Send: TypeAlias = Callable[..., HTTPResponse]


def _blocking(
    transport: Transport, method: str, url: str, timeout: Timeout, body: bytes | None
) -> HTTPResponse:
    return transport.send(method, url, {"x-from": "test"}, body, timeout)


def _awaited(
    backend: str, transport: HTTPTransport, method: str, url: str, timeout: Timeout, body: bytes | None
) -> HTTPResponse:
    async def main() -> HTTPResponse:
        try:
            return await transport.asend(method, url, {"x-from": "test"}, body, timeout)
        finally:
            await transport.aclose()

    return anyio.run(main, backend=backend)


MODES: dict[str, Send] = {
    "blocking": _blocking,
    "asyncio": partial(_awaited, "asyncio"),
    "trio": partial(_awaited, "trio"),
}


@pytest.fixture(params=MODES)
def send(request: pytest.FixtureRequest) -> Iterator[Send]:
    """Send with one of the clients, and close it afterwards."""
    transport = HTTPTransport()

    def one(
        url: str, *, method: str = "POST", timeout: Timeout = Timeout(10), body: bytes | None = b"{}"
    ) -> HTTPResponse:
        return MODES[request.param](transport, method, url, timeout, body)

    yield one
    transport.close()


def test_an_exchange_carries_method_headers_and_body_both_ways(send: Send) -> None:
    with LocalServer(lambda seen: Say({"맛": 1}, 201, {"X-Answer": "yes"})) as server:
        answer = send(server.url + "/path?a=1", body="맛".encode())
    assert (answer.status, answer.headers["x-answer"], answer.body) == (201, "yes", '{"맛": 1}'.encode())
    (seen,) = server.seen
    assert (seen.method, seen.path, seen.headers["x-from"], seen.body) == (
        "POST",
        "/path?a=1",
        "test",
        "맛".encode(),
    )


@pytest.mark.parametrize("status", [301, 400, 429, 500, 503])
@pytest.mark.sample(5)
def test_every_status_is_an_answer_and_no_redirect_is_followed(send: Send, status: int) -> None:
    with LocalServer(lambda seen: Say(b"words", status, {"location": "/elsewhere"})) as server:
        assert send(server.url).status == status
    assert len(server.seen) == 1


def test_where_nobody_listens_nothing_has_arrived(send: Send) -> None:
    with LocalServer(lambda seen: Say()) as server:
        url = server.url
    with pytest.raises(TransportError) as caught:
        send(url)
    assert not caught.value.request_may_have_been_sent
    assert not caught.value.timed_out


@pytest.mark.parametrize("say", [Say(hang_up=True), Say(b"half", cut=True)], ids=["hung up", "cut off"])
def test_a_connection_lost_after_sending_may_have_arrived(send: Send, say: Say) -> None:
    with LocalServer(lambda seen: say) as server, pytest.raises(TransportError) as caught:
        send(server.url)
    assert caught.value.request_may_have_been_sent
    assert not caught.value.timed_out
    assert len(server.seen) == 1


def test_the_total_time_bounds_an_answer_that_does_not_come(send: Send) -> None:
    with LocalServer(lambda seen: Say(after=30)) as server, pytest.raises(TransportError) as caught:
        send(server.url, timeout=Timeout(total=0.2))
    assert caught.value.timed_out
    assert caught.value.request_may_have_been_sent
    assert "0.2 seconds" in str(caught.value)


@pytest.mark.sample(1)
def test_the_read_time_bounds_silence(send: Send) -> None:
    with LocalServer(lambda seen: Say(after=30)) as server, pytest.raises(TransportError) as caught:
        send(server.url, timeout=Timeout(total=30, read=0.2))
    assert caught.value.timed_out


def test_many_exchanges_at_once_have_no_limit_but_the_callers() -> None:
    together = anyio.run(_many_at_once, 150, backend="asyncio")
    assert together == 150


async def _many_at_once(many: int) -> int:
    transport = HTTPTransport()

    async def hold(seen: Seen) -> Say:
        while server.peak < many:
            await anyio.sleep(0.01)
        return Say()

    with LocalServer(hold) as server:
        async with anyio.create_task_group() as tasks:
            for _ in range(many):
                tasks.start_soon(transport.asend, "GET", server.url, {}, None, Timeout(20))
        await transport.aclose()
        return server.peak


def test_threads_share_a_pool_without_a_limit() -> None:
    def hold(seen: Seen) -> Awaitable[Say]:
        async def wait() -> Say:
            while server.peak < 40:
                await anyio.sleep(0.01)
            return Say()

        return wait()

    transport = HTTPTransport()
    with LocalServer(hold) as server, ThreadPoolExecutor(40) as threads:
        for future in [
            threads.submit(transport.send, "GET", server.url, {}, None, Timeout(20)) for _ in range(40)
        ]:
            assert future.result().status == 200
    transport.close()


def test_a_connection_is_used_again() -> None:
    transport = HTTPTransport()

    async def twice() -> None:
        for _ in range(3):
            await transport.asend("GET", server.url, {}, None, Timeout(10))
        await transport.aclose()

    with LocalServer(lambda seen: Say()) as server:
        for _ in range(3):
            transport.send("GET", server.url, {}, None, Timeout(10))
        assert server.connections == 1
        anyio.run(twice)
        assert server.connections == 2
        anyio.run(twice, backend="trio")
        assert server.connections == 3
    transport.close()


@pytest.mark.anyio
async def test_being_cancelled_closes_the_connection() -> None:
    transport = HTTPTransport()
    with LocalServer(lambda seen: Say(after=30)) as server:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(transport.asend, "GET", server.url, {}, None, Timeout(20))
            while not server.seen:
                await anyio.sleep(0.01)
            tasks.cancel_scope.cancel()
        with anyio.fail_after(PATIENCE):
            while not server.given_up:
                await anyio.sleep(0.01)
        assert (len(server.seen), server.given_up, server.in_flight) == (1, 1, 0)
        await transport.aclose()


def test_each_loop_has_connections_of_its_own() -> None:
    transport = HTTPTransport()

    async def use_and_close() -> int:
        status = (await transport.asend("GET", server.url, {}, None, Timeout(10))).status
        await transport.aclose()
        return status

    with LocalServer(lambda seen: Say()) as server:
        statuses = []
        threads = [
            threading.Thread(target=lambda: statuses.append(anyio.run(use_and_close))) for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert statuses == [200, 200, 200]
        assert anyio.run(use_and_close, backend="trio") == 200


_LEAVE_OPEN = """
import anyio, sys
from restaurant_llm_batch.backends import HTTPTransport, Timeout

transport = HTTPTransport()

async def main():
    return (await transport.asend("GET", sys.argv[1], {}, None, Timeout(10))).status

for backend in ("asyncio", "trio", "asyncio", "trio"):
    print(anyio.run(main, backend=backend))
assert len(transport._aiohttp._sessions._clients) == 1
assert len(transport._httpx._clients._clients) == 1
"""


@pytest.mark.slow
def test_connections_of_a_loop_that_is_gone_are_forgotten() -> None:
    # In a process of its own, where the clients' warnings of what was left open disturb nobody.
    with LocalServer(lambda seen: Say()) as server:
        child = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", _LEAVE_OPEN, server.url],
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
    assert (child.returncode, child.stdout.split()) == (0, ["200"] * 4), child.stderr


def _in_a_child(transport: HTTPTransport, url: str) -> None:
    assert transport.send("GET", url, {}, None, Timeout(10)).status == 200


def test_a_forked_child_makes_connections_of_its_own() -> None:
    transport = HTTPTransport()
    with LocalServer(lambda seen: Say()) as server:
        _in_a_child(transport, server.url)
        pid = os.fork()
        if not pid:
            try:
                _in_a_child(transport, server.url)
            except BaseException:
                os._exit(1)
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        _in_a_child(transport, server.url)
        assert server.connections == 2
    transport.close()


LONG_HEADERS = {
    "one of 9 kB": {"x-trace": "a" * 9_000},
    "one of 90 kB": {"x-trace": "a" * 90_000},
    "300 short ones": {f"x-{number}": "a" for number in range(300)},
    "ten of 9 kB": {f"x-{number}": "a" * 9_000 for number in range(10)},
}
TOO_LONG_HEADERS = {
    "one of 120 kB": {"x-trace": "a" * 120_000},
    "fifteen of 9 kB": {f"x-{number}": "a" * 9_000 for number in range(15)},
    "one of 1 MB": {"x-trace": "a" * 1_000_000},
}


@pytest.mark.parametrize("headers", LONG_HEADERS.values(), ids=LONG_HEADERS)
@pytest.mark.sample(4)
def test_headers_up_to_the_bound_are_read(send: Send, headers: dict[str, str]) -> None:
    with LocalServer(lambda seen: Say(b"fine", headers=headers)) as server:
        answer = send(server.url)
    assert answer.body == b"fine"
    assert {name: answer.headers[name] for name in headers} == headers


@pytest.mark.parametrize("headers", TOO_LONG_HEADERS.values(), ids=TOO_LONG_HEADERS)
def test_longer_ones_are_an_answer_that_is_not_read(send: Send, headers: dict[str, str]) -> None:
    with (
        LocalServer(lambda seen: Say(b"fine", headers=headers)) as server,
        pytest.raises(TransportError, match="102,400 bytes") as caught,
    ):
        send(server.url)
    assert caught.value.unreadable
    assert caught.value.request_may_have_been_sent


@pytest.mark.parametrize("mode", ["blocking", "asyncio", "trio"])
@pytest.mark.parametrize("make", [OpenAILLM, VLLMServerLLM])
def test_an_answer_that_is_not_read_is_not_paid_for_again(make: type, mode: str) -> None:
    headers = TOO_LONG_HEADERS["fifteen of 9 kB"] if mode == "asyncio" else TOO_LONG_HEADERS["one of 1 MB"]
    with LocalServer(lambda seen: Say(chat("x"), headers=headers)) as server:
        arguments = {"api_key": "none", "base_url": server.url, "model": "m"}
        with pytest.raises(PermanentBackendError, match="headers"):
            ask(make(**arguments), mode)


_FEW_DESCRIPTORS = """
import resource, sys
import anyio
from contextlib import contextmanager
from tests.support.calling import MODES, REQUEST
from restaurant_llm_batch.backends import OpenAILLM, VLLMServerLLM
from restaurant_llm_batch.errors import TransientBackendError

@contextmanager
def no_descriptors():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        yield
    except TransientBackendError as error:
        print(error.local_shortage)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)

async def awaited(llm):
    await llm.acomplete(REQUEST)  # opens everything but another connection
    await llm.aclose()
    with no_descriptors():
        await llm.acomplete(REQUEST)

for mode in MODES:
    for llm in (OpenAILLM("m", base_url=sys.argv[1], api_key="none"), VLLMServerLLM(sys.argv[1], "m")):
        if mode == "blocking":
            llm.complete(REQUEST)
            llm.close()
            with no_descriptors():
                llm.complete(REQUEST)
        else:
            anyio.run(awaited, llm, backend=mode)
"""


@pytest.mark.slow
def test_a_lack_of_file_descriptors_is_told_from_a_fault_of_the_service() -> None:
    with LocalServer(lambda seen: Say(chat("x"))) as server:
        child = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", _FEW_DESCRIPTORS, server.url],
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
    assert (child.returncode, child.stdout.split()) == (0, ["True"] * 6), child.stderr
    assert len(server.seen) == 6


def test_where_nobody_listens_the_shortage_is_not_ours(send: Send) -> None:
    with LocalServer(lambda seen: Say()) as server:
        url = server.url
    with pytest.raises(TransportError) as caught:
        send(url)
    assert not caught.value.local_shortage


class TestTLS:
    """A company's own certificate authority."""

    @pytest.fixture
    def server(self, tmp_path: Path) -> Iterator[tuple[LocalServer, Path]]:
        authority = trustme.CA()
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        bundle = tmp_path / "authority.pem"
        authority.cert_pem.write_to_path(str(bundle))
        with LocalServer(lambda seen: Say(b"fine"), context) as server:
            yield server, bundle

    @pytest.mark.parametrize("mode", MODES)
    def test_it_is_trusted_when_it_is_named(self, server: tuple[LocalServer, Path], mode: str) -> None:
        transport = HTTPTransport(ca_bundle=server[1])
        assert MODES[mode](transport, "GET", server[0].url, Timeout(10), None).body == b"fine"
        transport.close()

    @pytest.mark.sample(1)
    @pytest.mark.parametrize("mode", MODES)
    def test_it_is_not_trusted_otherwise(self, server: tuple[LocalServer, Path], mode: str) -> None:
        transport = HTTPTransport()
        with pytest.raises(TransportError, match=r"(?i)certificate") as caught:
            MODES[mode](transport, "GET", server[0].url, Timeout(10), None)
        assert not caught.value.request_may_have_been_sent
        assert not server[0].seen
        transport.close()

    def test_a_bundle_that_is_none_is_refused_by_name(self, tmp_path: Path) -> None:
        (tmp_path / "empty.pem").write_text("nothing")
        for name in ("missing.pem", "empty.pem"):
            with pytest.raises(ConfigurationError, match=name):
                HTTPTransport(ca_bundle=tmp_path / name)


class TestProxy:
    """A proxy sees the whole URL of a plain request."""

    @pytest.mark.parametrize("mode", MODES)
    def test_it_is_used_when_it_is_given(self, mode: str) -> None:
        with LocalServer(lambda seen: Say(b"by proxy")) as proxy:
            transport = HTTPTransport(proxy=proxy.url)
            answer = MODES[mode](transport, "GET", "http://llm.example/v1", Timeout(10), None)
            transport.close()
        assert answer.body == b"by proxy"
        assert proxy.seen[0].headers["Host"] == "llm.example"

    @pytest.mark.parametrize("mode", MODES)
    def test_the_environments_is_followed(self, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("http_proxy", "no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        with (
            LocalServer(lambda seen: Say(b"by proxy")) as proxy,
            LocalServer(lambda seen: Say(b"directly")) as server,
        ):
            monkeypatch.setenv("HTTP_PROXY", proxy.url)
            monkeypatch.setenv("NO_PROXY", "127.0.0.1")
            transport = HTTPTransport()
            far = MODES[mode](transport, "GET", "http://llm.example/v1", Timeout(10), None)
            near = MODES[mode](transport, "GET", server.url, Timeout(10), None)
            transport.close()
        assert (far.body, near.body) == (b"by proxy", b"directly")

    def test_its_password_does_not_show(self) -> None:
        transport = HTTPTransport(proxy="http://user:hush@127.0.0.1:1")
        assert "hush" not in repr(transport)
        with pytest.raises(TransportError) as caught:
            transport.send("GET", "http://llm.example/", {}, None, Timeout(5))
        assert "hush" not in f"{caught.value} {caught.value.__cause__!r}"
        with pytest.raises(TransportError) as caught:
            _awaited("asyncio", transport, "GET", "http://llm.example/", Timeout(5), None)
        assert "hush" not in f"{caught.value} {caught.value.__cause__!r}"
        transport.close()


@pytest.mark.parametrize("wrong", [0, -1, float("inf"), float("nan"), "1", True])
def test_a_timeout_that_is_none_is_refused_by_name(wrong: float) -> None:
    with pytest.raises(ConfigurationError, match=r"Timeout\.connect"):
        Timeout(connect=wrong)


def test_plain_httpx_can_be_passed_for_tests_that_watch_it() -> None:
    transport = HttpxTransport()

    async def main() -> bytes:
        answer = await transport.asend("GET", server.url, {}, None, Timeout(5))
        await transport.aclose()
        return answer.body

    with LocalServer(lambda seen: Say(b"fine")) as server:
        assert anyio.run(main) == b"fine"


def test_closing_leaves_calls_of_other_threads_alone() -> None:
    transport = HTTPTransport()
    with LocalServer(lambda seen: Say(b"fine", after=0.5)) as server, ThreadPoolExecutor(3) as threads:
        calls = [threads.submit(transport.send, "GET", server.url, {}, None, Timeout(10)) for _ in range(3)]
        while server.in_flight < 3:
            time.sleep(0.01)
        transport.close()
        assert [call.result().body for call in calls] == [b"fine"] * 3
    assert len(server.seen) == 3


@pytest.mark.anyio
async def test_closing_leaves_calls_of_other_tasks_alone() -> None:
    transport = HTTPTransport()
    answers: list[bytes] = []

    async def call() -> None:
        answers.append((await transport.asend("GET", server.url, {}, None, Timeout(10))).body)

    with LocalServer(lambda seen: Say(b"fine", after=0.5)) as server:
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(call)
            while server.in_flight < 3:
                await anyio.sleep(0.01)
            await transport.aclose()
    assert answers == [b"fine"] * 3
