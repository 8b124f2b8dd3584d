"""Who may use the service: keys of clients, and origins whose pages may call it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import pytest
from fastapi import Depends, FastAPI, Request
from fastapi.testclient import TestClient
from tests.integrations.test_fastapi import SUMMARIES, ids, labelled

from restaurant_llm_batch import BatchRunner, Limits, LLMRequest, LLMResponse, Strategy
from restaurant_llm_batch.errors import ConfigurationError
from restaurant_llm_batch.integrations._fastapi.access import ApiKeys
from restaurant_llm_batch.integrations._fastapi.application import application
from restaurant_llm_batch.integrations.fastapi import batch_router
from restaurant_llm_batch.testing import FakeLLM, FakeSearch

KEYS = {"key-of-a-shop": "shop", "second-key-of-it": "shop", "nobody-in-particular": ""}


def service(llm: Any = None, **options: Any) -> Any:
    search = FakeSearch(lambda name: ["맛있어요"])
    runner = BatchRunner(llm=llm or FakeLLM(answer=labelled), search=search, strategy=Strategy.stage(4))
    return application(batch_router(runner), runner, **options)


def test_a_key_is_taken_as_a_token_or_in_a_header_of_its_own() -> None:
    with TestClient(service(keys=KEYS, token="a-token")) as client:
        for key in (*KEYS, "a-token"):
            for headers in ({"Authorization": f"bearer {key}"}, {"X-API-Key": key}):
                assert client.post(SUMMARIES, json=ids(1), headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-API-Key": ""},
        {"X-API-Key": "key-of-a-sho"},
        {"X-API-Key": "key-of-a-shop2"},
        {"X-API-Key": "shop:key-of-a-shop"},
        {"X-API-Key": "shop"},
        {"Authorization": "Basic key-of-a-shop"},
        {"Authorization": "Bearer wrong", "X-API-Key": "key-of-a-shop"},
        {"Authorization": "Bearer"},
        {"X-API-Key": "\xff\xfe"},
    ],
)
@pytest.mark.sample(1)
def test_without_a_known_key_nothing_is_done(headers: dict[str, str]) -> None:
    llm = FakeLLM(answer=labelled)
    sent = {name.encode(): value.encode("latin-1") for name, value in headers.items()}
    with TestClient(service(llm, keys=KEYS)) as client:
        answer = client.post(SUMMARIES, json=ids(1), headers=sent)
        assert client.get("/metrics", headers=sent).status_code == 401
        assert client.get("/health", headers=sent).status_code == 200

    assert answer.status_code == 401
    assert set(answer.json()) == {"code", "message", "details", "request_id"}
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert llm.calls == 0


@pytest.mark.slow
def test_the_log_names_the_client_and_no_key(caplog: pytest.LogCaptureFixture) -> None:
    llm = FakeLLM(fault=lambda request, tried: RuntimeError("a bug"))
    caplog.set_level(1)
    with TestClient(service(llm, keys=KEYS)) as client:
        for key in KEYS:
            client.post(SUMMARIES, json=ids(1), headers={"X-API-Key": key, "X-Request-Id": "trace-me"})

    ours = [record.getMessage() for record in caplog.records if record.name == "restaurant_llm_batch"]
    assert any("trace-me of shop" in text for text in ours)
    assert not any(key in text for text in caplog.text.splitlines() for key in KEYS)


def test_keys_are_in_no_repr() -> None:
    assert not any(part in repr(ApiKeys(KEYS)) for part in (*KEYS, "shop"))


@pytest.mark.slow
def test_pages_of_a_named_origin_may_call_it_and_others_may_not() -> None:
    asks = {
        "Origin": "https://shop.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,x-api-key",
    }
    with TestClient(service(keys=KEYS, cors=["https://shop.example", "http://localhost:3000"])) as client:
        allowed = client.options(SUMMARIES, headers=asks)
        refused = client.options(SUMMARIES, headers={**asks, "Origin": "https://evil.example"})
        unknown = client.post(SUMMARIES, json=ids(1), headers={"Origin": "https://shop.example"})
        answer = client.post(
            SUMMARIES, json=ids(1), headers={"Origin": "http://localhost:3000", "X-API-Key": "key-of-a-shop"}
        )

    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == "https://shop.example"
    assert "access-control-allow-origin" not in refused.headers
    # Otherwise the page would not learn why.
    assert (unknown.status_code, unknown.headers["access-control-allow-origin"]) == (
        401,
        "https://shop.example",
    )
    assert answer.headers["access-control-allow-origin"] == "http://localhost:3000"
    assert "x-request-id" in answer.headers["access-control-expose-headers"].lower()


@pytest.mark.slow
def test_without_origins_there_are_no_such_headers() -> None:
    with TestClient(service()) as client:
        answer = client.post(SUMMARIES, json=ids(1), headers={"Origin": "https://shop.example"})

    assert not any(name.startswith("access-control") for name in answer.headers)


@pytest.mark.parametrize(
    "origin", ["shop.example", "https://", "https://shop.example/", "https://*.example", "null", ""]
)
@pytest.mark.sample(1)
def test_what_is_not_an_origin_is_refused(origin: str) -> None:
    with pytest.raises(ConfigurationError, match="an origin is a scheme, a host and a port"):
        service(cors=[origin])


@pytest.mark.slow
def test_any_origin_may_be_allowed() -> None:
    with TestClient(service(cors=["*"])) as client:
        answer = client.get("/health", headers={"Origin": "https://anywhere.example"})

    assert answer.headers["access-control-allow-origin"] == "*"


@pytest.mark.slow
def test_a_token_that_is_the_key_of_a_client_too_is_that_clients() -> None:
    llm = FakeLLM(answer=labelled)
    app = service(llm, keys={"one-key": "shop"}, token="one-key")
    names: list[str] = []

    @app.get("/who")
    async def who(request: Request) -> None:
        names.append(request.scope["restaurant_llm_batch.client"])

    with TestClient(app) as client:
        client.get("/who", headers={"X-API-Key": "one-key"})
    assert names == ["shop"]


class Held(FakeLLM):
    """Answers a call when it is told to, and knows whose calls it has."""

    def __init__(self) -> None:
        super().__init__(answer=labelled)
        self.open: dict[int, anyio.Event] = {}

    async def acomplete(self, request: LLMRequest, /) -> LLMResponse:
        number = int(request.inputs["restaurant_id"])
        self.open[number] = anyio.Event()
        await self.open[number].wait()
        del self.open[number]
        return await super().acomplete(request)

    def of(self, first: int) -> list[int]:
        """The calls about restaurants from a number on."""
        return [number for number in self.open if first <= number < first + 100_000]

    async def until(self, condition: Callable[[], object]) -> None:
        while not condition():
            await anyio.sleep(0.001)


@pytest.mark.parametrize(
    "own",
    [
        pytest.param(False, id="keys"),
        pytest.param(True, id="a dependency of the application's own", marks=pytest.mark.slow),
    ],
)
def test_a_client_that_floods_leaves_the_others_their_shares(own: bool) -> None:
    llm = Held()
    runner = BatchRunner(
        llm=llm,
        search=FakeSearch(lambda name: ["맛있어요"]),
        strategy=Strategy.stage(4),
        limits=Limits(llm=4),
    )
    router = batch_router(runner, shares={"shop": 3, "kiosk": 1})
    if own:

        def name_client(request: Request) -> None:
            request.scope["restaurant_llm_batch.client"] = request.headers["X-API-Key"]

        app = FastAPI()
        app.include_router(router, dependencies=[Depends(name_client)])
    else:
        app = application(router, runner, keys={"shop": "shop", "kiosk": "kiosk"})

    async def ask(client: httpx.AsyncClient, key: str, first: int) -> None:
        answer = await client.post(SUMMARIES, json=ids(*range(first, first + 5)), headers={"X-API-Key": key})
        assert len(answer.json()["results"]) == 5

    async def main() -> None:
        transport = httpx.ASGITransport(app=app)
        async with (
            runner,
            httpx.AsyncClient(transport=transport, base_url="http://test") as client,
            anyio.create_task_group() as tasks,
        ):
            for number in range(4):
                tasks.start_soon(ask, client, "kiosk", 5 * number)
            await llm.until(lambda: len(llm.of(0)) == 4)
            tasks.start_soon(ask, client, "shop", 100_000)
            tasks.start_soon(ask, client, "shop", 100_010)
            for _ in range(60):
                await anyio.lowlevel.checkpoint()
            for shops in (1, 2, 3):
                llm.open[llm.of(0)[0]].set()
                await llm.until(lambda shops=shops: len(llm.of(100_000)) == shops)  # type: ignore[misc]
            assert len(llm.of(0)) == 1
            while llm.of(100_000) or llm.of(0):
                for each in list(llm.open.values()):
                    each.set()
                await anyio.sleep(0.002)

    anyio.run(main)


def test_a_share_that_makes_no_sense_is_refused() -> None:
    runner = BatchRunner(llm=FakeLLM())
    with pytest.raises(ConfigurationError, match="share of a Client"):
        batch_router(runner, shares={"shop": 0})
