"""`OpenAILLM` over real sockets: what is sent, what comes back, and what happens to connections."""

from __future__ import annotations

import subprocess
import sys
from threading import Thread
from typing import Any

import anyio
import httpx2
import openai
import pytest
from tests.support.calling import MODES, REQUEST, ask, ask_often
from tests.support.local_server import LocalServer, Say, Seen, chat
from tests.support.patience import PATIENCE

from restaurant_llm_batch import BatchRunner, LLMRequest, RetryPolicy, Strategy, errors
from restaurant_llm_batch.backends import HTTPTransport, OpenAILLM, Timeout
from restaurant_llm_batch.steps import Flow, complete

SCHEMA = {
    "type": "object",
    "properties": {"summary": {"type": "string"}},
    "required": ["summary"],
    "additionalProperties": False,
}
every_mode = pytest.mark.parametrize("mode", MODES)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.delenv(name, raising=False)


def to(server: LocalServer, **more: Any) -> OpenAILLM:
    return OpenAILLM("gpt-4.1-mini", **{"api_key": "sk-test", "base_url": f"{server.url}/v1", **more})


def says_hello(seen: Seen) -> Say:
    return Say(chat("맛있어요"))


@every_mode
def test_a_request_is_sent_as_the_chat_api_wants_it(mode: str) -> None:
    request = LLMRequest(
        "sum up!", REQUEST.messages, schema=SCHEMA, max_tokens=77, temperature=0.5, priority=3
    )
    with LocalServer(says_hello) as server:
        llm = to(server, service_tier="flex", prompt_cache_key="menu", extra_body={"seed": 1})
        reply = ask(llm, mode, request)

    (seen,) = server.seen
    assert (seen.method, seen.path) == ("POST", "/v1/chat/completions")
    assert seen.headers["Authorization"] == "Bearer sk-test"
    assert seen.json == {
        "model": "gpt-4.1-mini",
        "messages": [{"role": "user", "content": "음식이 맛있어요"}],
        "max_tokens": 77,
        "temperature": 0.5,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "sum_up_", "strict": True, "schema": SCHEMA},
        },
        "service_tier": "flex",
        "prompt_cache_key": "menu",
        "seed": 1,
    }
    assert "음식".encode() in seen.body
    assert (reply.text, reply.finish_reason, reply.model) == ("맛있어요", "stop", "tiny")
    assert (reply.prompt_tokens, reply.completion_tokens) == (11, 5)


def test_what_says_nothing_is_left_out() -> None:
    with LocalServer(says_hello) as server:
        ask(to(server, send_temperature=False), "blocking")

    assert server.seen[0].json.keys() == {"model", "messages", "max_tokens"}


def test_a_schema_outside_the_strict_subset_is_not_sent_as_strict() -> None:
    loose = {"type": "object", "properties": {"summary": {"type": "string", "maxLength": 10}}}
    with LocalServer(says_hello) as server:
        ask(to(server), "blocking", LLMRequest("x", REQUEST.messages, schema=loose))

    assert server.seen[0].json["response_format"]["json_schema"] == {
        "name": "x",
        "strict": False,
        "schema": loose,
    }


@pytest.mark.parametrize(
    ("url", "given", "field"),
    [
        (None, None, "max_completion_tokens"),
        ("https://eu.api.openai.com/v1", None, "max_completion_tokens"),
        ("https://mine.openai.azure.com/openai/v1", None, "max_completion_tokens"),
        ("https://notopenai.com/v1", None, "max_tokens"),
        ("http://localhost:8000/v1", None, "max_tokens"),
        ("http://localhost:8000/v1", "max_completion_tokens", "max_completion_tokens"),
        (None, "max_tokens", "max_tokens"),
    ],
)
def test_the_limit_on_the_answer_is_called_what_the_service_calls_it(
    url: str | None, given: Any, field: str
) -> None:
    bodies: list[bytes] = []

    class Recorder(HTTPTransport):
        def send(self, method: Any, url: Any, headers: Any, body: Any, timeout: Any) -> Any:
            bodies.append(body)
            raise errors.TransientBackendError("enough")

    llm = OpenAILLM("m", api_key="k", base_url=url, max_tokens_field=given, transport=Recorder())
    with pytest.raises(errors.TransientBackendError):
        ask(llm, "blocking")

    assert f'"{field}":1500' in bodies[0].decode()


@every_mode
def test_half_a_surrogate_pair_in_a_review_is_sent_as_a_question_mark(mode: str) -> None:
    request = LLMRequest("x", ({"role": "user", "content": "맛\ud83d!"},))
    with LocalServer(says_hello) as server:
        ask(to(server), mode, request)

    assert server.seen[0].json["messages"][0]["content"] == "맛?!"


@every_mode
def test_cached_tokens_and_a_refusal_are_read(mode: str) -> None:
    body = chat("")
    body["choices"][0]["message"] = {"role": "assistant", "content": None, "refusal": "I will not."}
    body["usage"]["prompt_tokens_details"] = {"cached_tokens": 7}
    with LocalServer(lambda seen: Say(body)) as server:
        reply = ask(to(server), mode)

    assert (reply.text, reply.finish_reason, reply.cached_tokens) == ("I will not.", "refusal", 7)


@every_mode
def test_an_answer_that_was_cut_off_says_so(mode: str) -> None:
    body = chat('{"summ')
    body["choices"][0]["finish_reason"] = "length"
    with LocalServer(lambda seen: Say(body)) as server:
        assert ask(to(server), mode).finish_reason == "length"


@every_mode
def test_calls_after_each_other_share_a_connection(mode: str) -> None:
    with LocalServer(says_hello) as server:
        ask_often(to(server), mode, 5)

    assert (len(server.seen), server.connections) == (5, 1)


async def many(llm: OpenAILLM, calls: int) -> None:
    async with anyio.create_task_group() as tasks:
        for _ in range(calls):
            tasks.start_soon(llm.acomplete, REQUEST)
    await llm.aclose()


@pytest.mark.anyio
@pytest.mark.sample(1)
@pytest.mark.slow
async def test_no_pool_stops_at_a_hundred_calls(anyio_backend: str) -> None:
    calls = 150

    async def once_all_are_here(seen: Seen) -> Say:
        # Nobody is answered before everybody has asked: with fewer connections nobody ever would be.
        while server.in_flight < calls and len(server.seen) < calls:
            await anyio.sleep(0.005)
        return Say(chat("ok"))

    with LocalServer(once_all_are_here) as server:
        await many(to(server, timeout=PATIENCE), calls)

    assert server.peak == calls


@pytest.mark.anyio
async def test_a_cancelled_call_closes_its_connection(anyio_backend: str) -> None:
    with LocalServer(lambda seen: Say(chat("late"), after=30)) as server:
        llm = to(server)
        with anyio.move_on_after(20) as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(llm.acomplete, REQUEST)
                while not server.in_flight:
                    await anyio.sleep(0.005)
                tasks.cancel_scope.cancel()
        await llm.aclose()
        with anyio.fail_after(PATIENCE):
            while not server.given_up:
                await anyio.sleep(0.005)

    assert not scope.cancelled_caught
    assert server.given_up == 1


def test_one_object_serves_loop_after_loop() -> None:
    with LocalServer(says_hello) as server:
        llm = to(server)
        for mode in MODES * 2:
            assert ask(llm, mode).text == "맛있어요"


@pytest.mark.slow  # test_transport.py has it for our own clients by default
def test_loops_that_ended_without_closing_are_forgotten() -> None:
    """In a process of its own: the dead loops' sockets complain, as they should, when they are collected."""
    code = """
import sys, anyio
from restaurant_llm_batch import LLMRequest
from restaurant_llm_batch.backends import OpenAILLM

llm = OpenAILLM("m", base_url=sys.argv[1])
for loop in ("asyncio", "trio") * 3:
    assert anyio.run(llm.acomplete, LLMRequest("x", ()), backend=loop).text == "맛있어요"
"""
    with LocalServer(says_hello) as server:
        subprocess.run([sys.executable, "-c", code, f"{server.url}/v1"], check=True)

    assert len(server.seen) == 6


def test_two_loops_and_two_threads_share_one_object() -> None:
    with LocalServer(lambda seen: Say(chat("ok"), after=0.01)) as server:
        llm = to(server)
        failures: list[BaseException] = []

        def work(mode: str) -> None:
            try:
                ask_often(llm, mode, 5)
            except BaseException as error:
                failures.append(error)

        threads = [Thread(target=work, args=(mode,)) for mode in ("asyncio", "trio", "asyncio")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert failures == []
    assert len(server.seen) == 15


@pytest.mark.parametrize("stage", [1, 2, 3, 4])
def test_a_runner_uses_it_in_every_stage(stage: Any) -> None:
    def flow(item: int) -> Flow[str]:
        reply = yield from complete(REQUEST)
        return f"{item} {reply.text}"

    def busy_at_first(seen: Seen) -> Say:
        return Say(chat("ok")) if len(server.seen) > 1 else Say(b"", status=503)

    with LocalServer(busy_at_first) as server:
        runner = BatchRunner(
            llm=to(server), strategy=Strategy.stage(stage), llm_retry=RetryPolicy(wait_initial=0.001)
        )
        with runner:
            report = runner.run(flow, range(5))

    assert report.results == [f"{item} ok" for item in range(5)]
    assert len(server.seen) == 6


@every_mode
def test_a_failing_server_is_asked_exactly_once(mode: str) -> None:
    oops = Say({"error": {"message": "oops"}}, status=500)
    with LocalServer(lambda seen: oops) as server, pytest.raises(errors.TransientBackendError):
        ask(to(server), mode)

    assert len(server.seen) == 1


@every_mode
@pytest.mark.parametrize("how", [{"cut": True}, {"hang_up": True}])
def test_a_lost_connection_is_transient(mode: str, how: Any) -> None:
    refused = pytest.raises(errors.TransientBackendError, match="openai did not answer")
    with LocalServer(lambda seen: Say(chat("x"), **how)) as server, refused as caught:
        ask(to(server), mode)

    assert len(server.seen) == 1
    assert isinstance(caught.value.__cause__, openai.APIConnectionError)


@every_mode
def test_a_server_that_is_not_there_is_transient(mode: str) -> None:
    with LocalServer(says_hello) as server:
        llm = to(server)
    with pytest.raises(errors.TransientBackendError, match="openai did not answer"):
        ask(llm, mode)


@every_mode
@pytest.mark.parametrize("timeout", [0.3, Timeout(total=20, read=0.3)])
@pytest.mark.sample(2)
def test_a_silent_server_times_out(mode: str, timeout: float | Timeout) -> None:
    refused = pytest.raises(errors.TransientBackendError, match="openai did not answer")
    with LocalServer(lambda seen: Say(chat("late"), after=30)) as server, refused:
        ask(to(server, timeout=timeout), mode)


@pytest.mark.slow
def test_the_first_call_reads_the_sdk_in_another_thread_than_the_loops() -> None:
    """Half a second of reading files would stop everything else on the loop."""
    code = """
import sys, threading
readers = {}
sys.addaudithook(lambda event, args: event == "import" and readers.setdefault(args[0], threading.get_ident()))
import anyio
from restaurant_llm_batch import LLMRequest, errors
from restaurant_llm_batch.backends import OpenAILLM

async def main():
    llm = OpenAILLM("m", api_key="k", base_url="http://127.0.0.1:1/v1")
    try:
        await llm.acomplete(LLMRequest("x", ()))
    except errors.TransientBackendError:
        of_the_sdk = {who for name, who in readers.items() if name.startswith(("openai", "httpx2"))}
        assert of_the_sdk and threading.get_ident() not in of_the_sdk
    await llm.aclose()

anyio.run(main)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_transport_of_ones_own_carries_the_calls_and_stays_open() -> None:
    transport = HTTPTransport()
    with LocalServer(says_hello) as server:
        for _ in range(2):
            assert ask(to(server, transport=transport), "blocking").text == "맛있어요"
        transport.close()

    assert server.connections == 1


@pytest.mark.anyio
async def test_a_transport_of_ones_own_carries_awaited_calls_and_stays_open(anyio_backend: str) -> None:
    transport = HTTPTransport()
    with LocalServer(says_hello) as server:
        for _ in range(2):
            llm = to(server, transport=transport)
            await llm.acomplete(REQUEST)
            await llm.aclose()
        await transport.aclose()

    assert server.connections == 1


def _mocked(status: int = 200) -> tuple[Any, list[httpx2.Request]]:
    seen: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        return httpx2.Response(status, json=chat("mine"))

    return httpx2.MockTransport(answer), seen


def test_clients_of_ones_own_are_used_once_per_call_and_never_closed() -> None:
    transport, seen = _mocked()
    broken, refused = _mocked(500)
    mine = openai.OpenAI(api_key="sk-mine", http_client=httpx2.Client(transport=transport))
    patient = openai.OpenAI(api_key="sk-mine", max_retries=5, http_client=httpx2.Client(transport=broken))

    llm = OpenAILLM("m", client=mine)
    assert llm.complete(REQUEST).text == "mine"
    llm.close()
    assert llm.complete(REQUEST).text == "mine"
    assert (len(seen), seen[0].headers["authorization"]) == (2, "Bearer sk-mine")
    assert b"max_completion_tokens" in seen[0].content
    with pytest.raises(errors.TransientBackendError):
        OpenAILLM("m", client=patient).complete(REQUEST)
    assert len(refused) == 1


@pytest.mark.anyio
async def test_an_async_client_of_ones_own_is_used_and_never_closed(anyio_backend: str) -> None:
    transport, seen = _mocked()
    client = openai.AsyncAzureOpenAI(
        api_key="az",
        api_version="2025-01-01",
        azure_endpoint="https://mine.openai.azure.com",
        http_client=httpx2.AsyncClient(transport=transport),
    )

    llm = OpenAILLM("deployed", async_client=client)
    for _ in range(2):
        assert (await llm.acomplete(REQUEST)).text == "mine"
        await llm.aclose()
    assert "/deployments/deployed/chat/completions" in str(seen[0].url)
    assert b"max_completion_tokens" in seen[0].content
    with pytest.raises(errors.ConfigurationError, match=r"client=openai.OpenAI\(\.\.\.\)"):
        llm.complete(REQUEST)


def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-from-outside\n")
    with LocalServer(says_hello) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
        ask(OpenAILLM("m"), "blocking")

    assert server.seen[0].headers["Authorization"] == "Bearer sk-from-outside"


def test_a_local_server_needs_no_key() -> None:
    with LocalServer(says_hello) as server:
        assert ask(OpenAILLM("m", base_url=f"{server.url}/v1"), "blocking").text == "맛있어요"


def test_without_a_key_the_error_says_what_to_set() -> None:
    with pytest.raises(errors.ConfigurationError, match="OPENAI_API_KEY"):
        OpenAILLM("gpt-4.1-mini")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"model": ""}, "model must be a name"),
        ({"model": None}, "model must be a name"),
        ({"api_key": 3}, "api_key must be a string"),
        ({"base_url": "localhost:8000"}, "base_url must start with http"),
        ({"timeout": 0}, "Timeout.total"),
        ({"service_tier": 1}, "service_tier must be"),
        ({"prompt_cache_key": ""}, "prompt_cache_key must be"),
        ({"max_tokens_field": "tokens"}, "max_tokens_field must be"),
        ({"extra_body": ["seed"]}, "extra_body must be a mapping"),
        ({"extra_body": {"stream": True}}, "stream"),
        ({"transport": object()}, "transport must have send"),
        ({"client": object()}, r"client=openai.OpenAI\("),
        ({"async_client": openai.OpenAI(api_key="k")}, r"async_client=openai.AsyncOpenAI\("),
        ({"client": openai.OpenAI(api_key="k"), "api_key": "k"}, "either"),
    ],
)
def test_a_wrong_argument_is_reported_at_once(arguments: dict[str, Any], words: str) -> None:
    given = {"model": "m", **arguments}
    if not {"client", "async_client"} & given.keys():
        given.setdefault("api_key", "k")

    with pytest.raises(errors.ConfigurationError, match=words):
        OpenAILLM(**given)


@pytest.mark.slow
def test_the_sdk_is_not_imported_before_the_first_call() -> None:
    code = (
        "import sys;"
        "from restaurant_llm_batch.backends.openai.llm import OpenAILLM;"
        "OpenAILLM('m', api_key='k');"
        "assert 'openai' not in sys.modules and 'httpx2' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
