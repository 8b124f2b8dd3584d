"""The command `serve`, run the way people run it: in a process of its own, and ended with Ctrl-C."""

from __future__ import annotations

import dataclasses
import json
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from tests.support.patience import PATIENCE
from tests.support.served import SUMMARIES, served

from restaurant_llm_batch import BatchSettings
from restaurant_llm_batch.cli._app import build
from restaurant_llm_batch.cli._commands import serve

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is sent as a POSIX signal")
SLOW = """
from restaurant_llm_batch.cli._app import build
from restaurant_llm_batch.testing import FakeLLM
class Slow(FakeLLM):
    async def acomplete(self, request):
        print("asked")
        return await super().acomplete(request)
build({"slow": lambda options: Slow(seconds=3600)}).main(prog_name="restaurant-llm-batch")
"""


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    """A small file of reviews."""
    path = tmp_path / "reviews.jsonl"
    lines = [
        {
            "restaurant_id": "ko-1",
            "reviews": [{"id": 1, "content": "국물이 진하고 맛있어요. 직원이 친절해요."}],
        },
        {"restaurant_id": 2, "reviews": [{"id": 2, "content": "The service was friendly."}]},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.mark.slow
def test_it_serves_a_file_until_ctrl_c(reviews: Path) -> None:
    with served("-m", "restaurant_llm_batch", "serve", reviews, "--uploads") as service:
        asked = {"restaurants": [{"restaurant_id": "ko-1"}, {"restaurant_id": 2}]}
        body = service.client.post(SUMMARIES, json=asked).json()
        upload = {"reviews": [{"id": 3, "restaurant_id": "new", "content": "조용하고 좋아요."}]}
        uploaded = service.client.post("/api/v1/vector/upload", json=upload).json()
        about = service.client.get("/").json()
        ready = service.client.get("/ready").status_code
        document = service.client.get("/openapi.json").json()
        service.press_ctrl_c()
        said, _ = service.process.communicate(timeout=PATIENCE)

    assert [result["restaurant_id"] for result in body["results"]] == ["ko-1", 2]
    assert body["results"][0]["categories"]["service"]["status"] == "ok"
    assert SUMMARIES in document["paths"]
    assert (uploaded["points_count"], about["name"], ready) == (1, "restaurant_llm_batch", 200)
    assert service.said.startswith("serving 2 restaurants of ")
    assert "no language model is used" in service.said
    assert said.splitlines()[-1] == "stopped"
    assert "Traceback" not in said
    assert service.process.returncode == 0


@pytest.mark.slow
def test_a_second_ctrl_c_cancels_the_requests_in_flight_and_tells_them(reviews: Path) -> None:
    answers: list[Any] = []

    def ask(client: httpx.Client, accept: str) -> None:
        asked = {"restaurants": [{"restaurant_id": "ko-1"}]}
        answers.append(client.post(SUMMARIES, json=asked, headers={"Accept": accept}))

    with served("-c", SLOW, "serve", reviews) as service:
        kinds = ("application/json", "application/x-ndjson")
        threads = [threading.Thread(target=ask, args=(service.client, kind)) for kind in kinds]
        for thread in threads:
            thread.start()
        service.listen_for("asked", times=2)
        service.press_ctrl_c()
        service.listen_for("Waiting for connections")
        assert not answers
        service.press_ctrl_c()
        rest, _ = service.process.communicate(timeout=PATIENCE)
        for thread in threads:
            thread.join()

    assert [answer.status_code for answer in answers] == [503, 503]
    assert {answer.json()["message"] for answer in answers} == {"this service is shutting down"}
    assert rest.splitlines()[-1] == "stopped"
    assert "Traceback" not in service.said + rest
    assert service.process.returncode == 0


@pytest.mark.slow
def test_sigterm_ends_it_although_a_client_never_finishes_its_request(reviews: Path) -> None:
    token = "0123456789abcdef"
    words = ("-c", SLOW, "serve", reviews, "--drain", "0.2")
    with served(*words, BATCH_SERVE_TOKEN=token) as service:
        service.listen_for("Ctrl-C stops it")
        url = service.client.base_url
        assert service.client.post(SUMMARIES, json={"restaurants": []}).status_code == 401
        assert service.client.get("/health", headers={"Host": "evil.example"}).status_code == 400
        with socket.create_connection((url.host, url.port or 80)) as slow:
            slow.sendall(
                f"POST {SUMMARIES} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n"
                "Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{".encode()
            )
            assert service.client.get("/health").status_code == 200
            service.process.send_signal(signal.SIGTERM)
            said, _ = service.process.communicate(timeout=PATIENCE)

    assert said.splitlines()[-1] == "stopped"
    assert "Traceback" not in said
    assert token not in service.said + said
    assert "$BATCH_SERVE_TOKEN" in service.said + said
    assert service.process.returncode == 0


@pytest.mark.parametrize("token", ["", " ", "two words", "a\nb", "한글", "x" * 1001])
@pytest.mark.sample(2)
def test_a_token_that_no_client_can_send_is_refused_without_repeating_it(token: str) -> None:
    result = CliRunner().invoke(build(), ["serve"], env={"BATCH_SERVE_TOKEN": token})

    assert result.exit_code == 2
    assert "openssl rand" in result.output
    assert not token.strip() or token not in result.output


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("host", "allowed", "expected"),
    [
        ("127.0.0.1", None, serve.LOCAL_HOSTS),
        ("::1", None, serve.LOCAL_HOSTS),
        ("localhost", None, serve.LOCAL_HOSTS),
        ("127.8.9.1", None, serve.LOCAL_HOSTS),
        ("0.0.0.0", None, ("*",)),
        ("::", None, ("*",)),
        ("", None, ("*",)),
        ("reviews.example", None, ("*",)),
        ("127.0.0.1", ("reviews.example",), ("reviews.example",)),
        ("0.0.0.0", ("*.example.com", "localhost"), ("*.example.com", "localhost")),
    ],
)
def test_a_service_of_this_machine_alone_answers_to_its_names_alone(
    host: str, allowed: tuple[str, ...] | None, expected: tuple[str, ...]
) -> None:
    settings = BatchSettings(batch_serve_host=host, batch_serve_allowed_hosts=allowed)
    assert serve.ServeOptions(source=None, settings=settings, token=None).hosts == expected


def test_the_token_is_not_in_the_options_repr() -> None:
    fields: dict[str, Any] = {field.name: None for field in dataclasses.fields(serve.ServeOptions)}

    assert "hidden" not in repr(serve.ServeOptions(**fields | {"token": "hidden"}))


def test_a_port_that_is_taken_is_said_in_a_line_before_anything_is_indexed(reviews: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        result = CliRunner().invoke(build(), ["serve", str(reviews), "--port", port])

    assert result.exit_code == 2
    assert f"cannot serve at 127.0.0.1 port {port}" in result.output
    assert "--port" in result.output
    assert "serving" not in result.output


@pytest.mark.sample(1)
@pytest.mark.parametrize("missing", ["fastapi", "uvicorn"])
def test_without_its_extra_it_says_what_to_install(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in list(sys.modules):
        if module.startswith("restaurant_llm_batch.integrations._fastapi."):
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, missing, None)
    result = CliRunner().invoke(build(), ["serve"])

    assert result.exit_code == 2
    assert f"serve needs the package {missing}: pip install 'restaurant-llm-batch[fastapi]'" in result.output


@pytest.mark.slow
def test_a_token_of_dot_env_closes_the_service_and_an_empty_one_does_not_open_it(
    reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BATCH_SERVE_TOKEN", raising=False)
    for line, complaint in (
        ("BATCH_SERVE_TOKEN=", "a token has"),
        ("BATCH_SERVE_TOKEN='two words'", "a token has"),
    ):
        (tmp_path / ".env").write_text(line)
        result = CliRunner().invoke(build(), ["serve", str(reviews)])
        assert (result.exit_code, complaint in result.output) == (2, True), result.output
        assert "two words" not in result.output
    (tmp_path / ".env").write_text("BATCH_SERVE_TOKEN=0123456789abcdef")
    with served("-m", "restaurant_llm_batch", "serve", reviews) as service:
        asked = {"restaurants": [{"restaurant_id": 2}]}
        assert service.client.post(SUMMARIES, json=asked).status_code == 401
        header = {"Authorization": "Bearer 0123456789abcdef"}
        assert service.client.post(SUMMARIES, json=asked, headers=header).status_code == 200


@pytest.mark.slow
def test_its_limits_and_tasks_are_variables_too(reviews: Path) -> None:
    variables = {
        "BATCH_SEARCH_PATH": str(reviews),
        "BATCH_SERVE_HOST": "localhost",
        "BATCH_SERVE_MAX_ITEMS": "1",
        "BATCH_SERVE_MAX_REVIEWS": "2",
        "BATCH_SERVE_ALLOWED_HOSTS": "localhost,reviews.example",
        "BATCH_SERVE_DRAIN_SECONDS": "1",
        "BATCH_ASPECTS": "food,mood",
    }
    sentiment = "/api/v1/sentiment/analyze/batch"
    with served("-m", "restaurant_llm_batch", "serve", **variables) as service:
        one, two = ({"restaurants": [{"restaurant_id": 2}] * count} for count in (1, 2))
        assert service.client.post(SUMMARIES, json=two).status_code == 413
        answered = service.client.post(SUMMARIES, json=one)
        assert [*answered.json()["results"][0]["categories"]] == ["food", "mood"]
        many = {"restaurants": [{"restaurant_id": 2, "reviews": [{"content": "맛"}] * 3}]}
        assert service.client.post(sentiment, json=many).status_code == 413
        for host, status in (("reviews.example", 200), ("other.example", 400)):
            assert service.client.post(SUMMARIES, json=one, headers={"Host": host}).status_code == status
