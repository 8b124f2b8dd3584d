"""Whether the service is ready, and what it says if every request fails by its setup."""

from __future__ import annotations

import logging
import threading
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from fastapi.testclient import TestClient
from tests.integrations.test_fastapi import LINES, SECRET, SENTIMENTS, SUMMARIES, ids, labelled

from restaurant_llm_batch import BatchRunner, LLMRequest, LLMResponse, SearchQuery, Strategy
from restaurant_llm_batch.backends import LLMPool
from restaurant_llm_batch.errors import (
    AuthenticationFailed,
    ConfigurationError,
    PermanentBackendError,
    TransientBackendError,
)
from restaurant_llm_batch.integrations._fastapi import readiness
from restaurant_llm_batch.integrations._fastapi.application import application
from restaurant_llm_batch.integrations.fastapi import batch_router
from restaurant_llm_batch.models import Hit
from restaurant_llm_batch.testing import FakeLLM, FakeSearch

GONE = TransientBackendError(f"http://10.0.0.7 {SECRET}", status=502)


class Asked(FakeLLM):
    """A model whose service can be asked."""

    def __init__(self, answer: Any = None, *, model: str | None = None) -> None:
        super().__init__(answer=labelled)
        self.found = answer
        self.asked = 0
        if model is not None:
            self.model = model

    async def ahealth(self) -> Any:
        self.asked += 1
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


def service(llm: Any = None, search: Any = None) -> Any:
    runner = BatchRunner(llm=llm or FakeLLM(answer=labelled), search=search, strategy=Strategy.stage(4))
    return application(batch_router(runner), runner)


def said(app: Any) -> tuple[int, str]:
    with TestClient(app) as client:
        answer = client.get("/ready")
    return answer.status_code, answer.json().get("reason", "")


def listed(*names: str) -> list[SimpleNamespace]:
    return [SimpleNamespace(id=name) for name in names]


@pytest.mark.parametrize(
    ("llm", "reason"),
    [
        (FakeLLM(), ""),
        (Asked(SimpleNamespace(problem=None)), ""),
        (Asked(SimpleNamespace(problem="it has no workers")), "the model: it has no workers"),
        (Asked(listed("tiny"), model="tiny"), ""),
        (Asked(listed("tiny", "large"), model="other"), "the model: its server does not have the model"),
        (Asked(listed("tiny")), ""),
        (Asked([], model="tiny"), ""),
        (Asked(GONE), "the model: TransientBackendError: a service behind this one did not answer"),
        (Asked(ConnectionRefusedError("10.0.0.7")), "the model did not answer"),
        (Asked(AuthenticationFailed(SECRET)), "the model: AuthenticationFailed: "),
        (Asked(KeyError("odd")), ""),
        (LLMPool({"a": Asked(GONE), "b": Asked()}), ""),
        (LLMPool({"a": Asked(GONE), "b": Asked(GONE)}), "the model: TransientBackendError"),
    ],
)
@pytest.mark.sample(1)
def test_the_model_is_asked_and_what_is_wrong_is_said_without_details(llm: Any, reason: str) -> None:
    status, text = said(service(llm))

    assert status == (503 if reason else 200)
    assert text.startswith(reason)
    assert bool(text) == bool(reason)
    assert SECRET not in text
    assert "10.0.0.7" not in text


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (None, ""),
        (GONE, "the search: TransientBackendError"),
        (ConfigurationError(f"no collection at {SECRET}"), "the search: ConfigurationError"),
        (LookupError("no restaurant 0"), ""),
    ],
)
@pytest.mark.slow
def test_the_search_is_asked(error: Exception | None, reason: str) -> None:
    search = FakeSearch({1: ["맛있어요"]}, fault=lambda query, tried: error)
    status, text = said(service(search=search))

    assert (status, text.startswith(reason)) == (503 if reason else 200, True)
    assert SECRET not in text


@pytest.mark.slow
def test_the_reason_of_each_service_is_said() -> None:
    search = FakeSearch({}, fault=lambda query, tried: GONE)
    _, text = said(service(Asked(GONE), search))

    assert [part.split(":")[0] for part in text.split("; ")] == ["the model", "the search"]


@pytest.mark.slow
def test_a_search_that_blocks_is_given_up_and_not_asked_again_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(readiness, "ANSWER_SECONDS", 0.05)
    monkeypatch.setattr(readiness, "KEPT_SECONDS", 0.0)
    released, calls = threading.Event(), 0

    class Blocked:
        def search(self, query: SearchQuery) -> list[Hit]:
            nonlocal calls
            calls += 1
            released.wait(30)
            return []

    with TestClient(service(search=Blocked())) as client:
        for _ in range(3):
            answer = client.get("/ready")
            assert answer.status_code == 503
            assert answer.json()["reason"].startswith("the search did not answer")
        assert client.get("/health").status_code == 200
        assert calls == 1
        released.set()


@pytest.mark.slow
def test_a_model_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "ANSWER_SECONDS", 0.05)

    class Hanging(FakeLLM):
        async def amodels(self) -> None:
            await anyio.sleep_forever()

    assert said(service(Hanging())) == (503, "the model did not answer within 0.05 seconds")


@pytest.mark.slow
def test_all_who_ask_within_a_second_have_one_answer(caplog: pytest.LogCaptureFixture) -> None:
    llm = Asked(GONE)
    with TestClient(service(llm)) as client:
        for _ in range(20):
            assert client.get("/ready").status_code == 503

    assert llm.asked == 1
    assert [record.message for record in caplog.records if "not ready" in record.message] == [
        "not ready: the model: TransientBackendError: a service behind this one did not answer (status 502)"
    ]


@pytest.mark.slow
def test_it_is_ready_again_when_the_service_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "KEPT_SECONDS", 0.0)
    llm = Asked(GONE)
    with TestClient(service(llm)) as client:
        assert client.get("/ready").status_code == 503
        llm.found = None
        assert client.get("/ready").json() == {"status": "ready"}


# Every request fails by the setup


BROKEN = [
    ConfigurationError(f"no index at {SECRET}"),
    AuthenticationFailed(SECRET, status=401),
    PermanentBackendError(f"no model {SECRET}", status=404),
]


@pytest.mark.parametrize("headers", [{}, LINES], ids=["json", "lines"])
@pytest.mark.parametrize("error", BROKEN, ids=lambda error: type(error).__name__)
@pytest.mark.sample(1)
def test_a_service_by_whose_setup_every_restaurant_fails_answers_503_and_logs_it_once(
    error: Exception, headers: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    app = service(
        FakeLLM(answer=labelled, fault=lambda request, tried: error), FakeSearch(lambda name: ["맛"])
    )
    with TestClient(app) as client, caplog.at_level(logging.WARNING, "restaurant_llm_batch"):
        for _ in range(3):
            answer = client.post(SUMMARIES, json=ids(1, 2, 3), headers=headers)
            assert answer.status_code == 503
            assert set(answer.json()) == {"code", "message", "details", "request_id"}
            assert answer.json()["message"].startswith(type(error).__name__)
            assert SECRET not in answer.text

    said = [record for record in caplog.records if "every other one will" in record.message]
    assert len(said) == 1
    assert SECRET in said[0].message


@pytest.mark.slow
def test_it_is_logged_again_if_it_comes_back(caplog: pytest.LogCaptureFixture) -> None:
    broken = True
    llm = FakeLLM(answer=labelled, fault=lambda request, tried: BROKEN[0] if broken else None)
    reviews = {"restaurants": [{"restaurant_id": 1, "reviews": ["맛있어요"]}]}
    with TestClient(service(llm)) as client:
        for broken in (True, True, False, True):  # the fault reads it
            assert client.post(SENTIMENTS, json=reviews).status_code == (503 if broken else 200)

    assert sum("every other one will" in record.message for record in caplog.records) == 2


@pytest.mark.parametrize("headers", [{}, LINES], ids=["json", "lines"])
@pytest.mark.parametrize("second", [None, PermanentBackendError("no", status=400)])
@pytest.mark.slow
def test_if_only_some_restaurants_meet_it_the_others_are_answered(
    second: Exception | None, headers: dict[str, str]
) -> None:
    errors = {1: BROKEN[2], 2: second}
    llm = FakeLLM(answer=labelled, fault=lambda request, tried: errors[request.inputs["restaurant_id"]])
    with TestClient(service(llm, FakeSearch(lambda name: ["맛"]))) as client:
        answer = client.post(SUMMARIES, json=ids(1, 2), headers=headers)

    assert answer.status_code == 200
    assert "status 404" in answer.text


@pytest.mark.slow
def test_an_error_of_one_request_is_not_the_setups(caplog: pytest.LogCaptureFixture) -> None:
    class Narrow(FakeLLM):
        async def acomplete(self, request: LLMRequest, /) -> LLMResponse:
            error = ConfigurationError("this one has an odd id")
            error.of_one_item = True
            raise error

    with TestClient(service(Narrow(), FakeSearch(lambda name: ["맛"]))) as client:
        answer = client.post(SUMMARIES, json=ids(1, 2))

    assert answer.status_code == 200
    assert len(answer.json()["failures"]) == 2
    assert "every other one will" not in caplog.text
