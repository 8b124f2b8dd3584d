"""The server of the page: only who has the token reads it, from this machine, and what it answers is JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from tests.support.nights import record_night

from restaurant_llm_batch.integrations._page_server import page_app
from restaurant_llm_batch.records._page.data import RecordData

TOKEN = "secret-token"


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("served") / "night.db"
    record_night(path)
    return path


@pytest.fixture(scope="module")
def client(night: Path) -> Any:
    app = page_app(RecordData(night), TOKEN)
    with TestClient(app, base_url="http://127.0.0.1:8000", raise_server_exceptions=False) as used:
        yield used


ENDPOINTS = [
    *(
        "version",
        "runs",
        "overview?run=1",
        "distributions?run=1",
        "limits?run=1",
        "causes?run=1",
        "choices?run=1",
    ),
    *(
        "items?run=1",
        "calls?run=1&outcome=refused&sort=-seconds",
        "item?run=1&place=0",
        "timeline?run=1&begin=0&end=1",
    ),
    *("comparison?a=1&b=1", "items?run=1&offset=-5&limit=-3", "timeline?run=1&begin=nan&end=inf"),
]


@pytest.mark.sample(4)
@pytest.mark.parametrize("path", ENDPOINTS)
def test_every_question_is_answered_in_json(client: TestClient, path: str) -> None:
    answer = client.get(f"/{TOKEN}/api/{path}")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() is not None


def test_the_page_states_its_policy_and_is_not_kept(client: TestClient) -> None:
    answer = client.get(f"/{TOKEN}/")
    assert answer.status_code == 200
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert (
        "access-control-allow-origin"
        not in client.get(f"/{TOKEN}/api/runs", headers={"Origin": "http://x"}).headers
    )


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/",
            "/api/runs",
            f"/{TOKEN[:-1]}/api/runs",
            f"/{TOKEN}x/api/runs",
            f"//{TOKEN}/api/runs",
            "/한국/",
            "/%ff/",
        ),
        *(
            f"/{TOKEN}",
            f"/{TOKEN}/docs",
            f"/{TOKEN}/openapi.json",
            f"/{TOKEN}/api/none",
            f"/x/../{TOKEN.upper()}/",
        ),
        *(
            f"/{TOKEN}/api/overview?run=9",
            f"/{TOKEN}/api/item?run=1&place=99",
            f"/{TOKEN}/api/overview?run={2**70}",
        ),
    ],
)
def test_nothing_is_told_without_the_token_or_of_what_is_not_there(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert TOKEN not in answer.text
    assert "SummarizeAspects" not in answer.text


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:9", "localhost:8000", "LOCALHOST"])
def test_names_of_this_machine_are_answered(client: TestClient, host: str) -> None:
    assert client.get(f"/{TOKEN}/api/runs", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "", "[::1]:8000", "localhost.:1"]
)
def test_another_name_that_leads_here_is_refused(client: TestClient, host: str) -> None:
    answer = client.get(f"/{TOKEN}/api/runs", headers={"Host": host})
    assert answer.status_code == 400
    assert "Host" in answer.json()["detail"]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_nothing_can_be_changed(client: TestClient, method: str) -> None:
    assert client.request(method, f"/{TOKEN}/api/runs").status_code == 405


def test_words_that_are_no_numbers_are_refused(client: TestClient) -> None:
    assert client.get(f"/{TOKEN}/api/overview?run=x").status_code == 422
    assert client.get(f"/{TOKEN}/api/items").status_code == 422


def test_a_record_that_has_gone_is_said_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "night.db"
    record_night(path)
    data = RecordData(path)
    path.unlink()
    with TestClient(
        page_app(data, TOKEN), base_url="http://localhost", raise_server_exceptions=False
    ) as client:
        answer = client.get(f"/{TOKEN}/api/runs")
    assert answer.status_code == 503
    assert "night.db" in answer.json()["detail"]
