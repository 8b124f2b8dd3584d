"""`FaultServer` as OpenAI's files and batches: every state and fault, and who pays twice is counted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from restaurant_llm_batch.errors import ConfigurationError
from restaurant_llm_batch.testing.server import BATCH_FAULTS, BatchFault, Faults, FaultServer

NEVER = 1000.0


def line(number: int, **more: Any) -> bytes:
    body = {"model": "tiny", "messages": [{"role": "user", "content": f"맛은 {number}?"}]}
    asked = {
        "custom_id": f"id-{number}",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": body,
        **more,
    }
    return json.dumps(asked).encode() + b"\n"


class Client:
    """Speaks to the server as the SDK does."""

    def __init__(self, server: FaultServer) -> None:
        self.server = server
        self.http = httpx.Client(base_url=server.openai_url)

    def upload(self, content: bytes) -> str:
        given = {"file": ("lines.jsonl", content)}
        return str(
            self.http.post("/files", files=given, data={"purpose": "batch"}).raise_for_status().json()["id"]
        )

    def create(self, file_id: str, **more: Any) -> httpx.Response:
        asked = {
            "input_file_id": file_id,
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
            **more,
        }
        return self.http.post("/batches", json=asked)

    def batch(self, content: bytes, **more: Any) -> dict[str, Any]:
        return dict(self.create(self.upload(content), **more).raise_for_status().json())

    def look(self, batch_id: str) -> dict[str, Any]:
        return dict(self.http.get(f"/batches/{batch_id}").raise_for_status().json())

    def lines(self, file_id: str | None) -> list[dict[str, Any]]:
        if file_id is None:
            return []
        content = self.http.get(f"/files/{file_id}/content").raise_for_status().text
        return [json.loads(one) for one in content.splitlines()]


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer() as server:
        yield server


@pytest.fixture
def client(server: FaultServer) -> Iterator[Client]:
    client = Client(server)
    with client.http:
        yield client


def test_a_batch_answers_every_line_in_no_order_and_is_joined_by_its_ids(
    client: Client, server: FaultServer
) -> None:
    made = client.batch(b"".join(map(line, range(20))), metadata={"wave": "w"})
    assert made["status"] == "validating"
    batch = client.look(made["id"])
    answered = client.lines(batch["output_file_id"])

    assert (batch["status"], batch["error_file_id"], batch["metadata"]) == ("completed", None, {"wave": "w"})
    assert batch["request_counts"] == {"total": 20, "completed": 20, "failed": 0}
    assert [one["custom_id"] for one in answered] != [f"id-{number}" for number in range(20)]
    assert {one["custom_id"] for one in answered} == {f"id-{number}" for number in range(20)}
    assert all(one["response"]["body"]["choices"][0]["message"]["content"] for one in answered)
    assert (server.counts.batch_lines, server.counts.batch_paid, server.counts.batch_duplicates) == (
        20,
        20,
        0,
    )
    assert server.counts.answered == 20
    client.batch(line(3) + line(100))
    assert server.counts.batch_duplicates == 1


def test_a_batch_goes_through_its_states_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    moment = 1000.0
    monkeypatch.setattr("restaurant_llm_batch.testing.server._http_app.monotonic", lambda: moment)
    with FaultServer(Faults(batch_seconds=100.0)) as server:
        client = Client(server)
        made = client.batch(line(1))
        seen = []
        for moment in (1005.0, 1050.0, 1095.0, 1101.0):  # noqa: B007  # the server reads it
            seen.append(client.look(made["id"])["status"])  # noqa: PERF401
        slow = client.batch(line(2))
        client.http.post(f"/batches/{slow['id']}/cancel")
        cancelled = client.look(slow["id"])
        client.http.close()
    assert seen == ["validating", "in_progress", "finalizing", "completed"]
    assert cancelled["status"] == "cancelled"


ENDS: dict[BatchFault, tuple[str, int, int]] = {
    "batch_over_quota": ("failed", 0, 0),
    "batch_invalid_line": ("failed", 0, 0),
    "batch_fails": ("failed", 0, 0),
    "batch_expires": ("expired", 5, 5),
    "batch_is_cancelled": ("cancelled", 5, 5),
    "batch_is_slow": ("completed", 10, 0),
    "answers_twice": ("completed", 20, 0),
    "answers_missing": ("completed", 6, 0),
    "errors_only": ("completed", 0, 10),
    "batch_never_ends": ("in_progress", 0, 0),
}


@pytest.mark.parametrize("fault", ENDS)
@pytest.mark.sample(2)
def test_a_fault_decides_how_a_batch_ends(fault: BatchFault, client: Client, server: FaultServer) -> None:
    server.faults = Faults(batch_faults=[None, fault])
    content = b"".join(map(line, range(10)))
    first = client.look(client.batch(content)["id"])
    second = client.look(client.batch(content)["id"])
    status, outputs, errors = ENDS[fault]

    assert first["status"] == "completed"
    assert second["status"] == status
    assert len(client.lines(second["output_file_id"])) == outputs
    assert len(client.lines(second["error_file_id"])) == errors
    assert bool(second["errors"]) == (status == "failed")
    assert server.counts.faults == {fault: 1}


def test_files_and_batches_may_not_be_there_yet_or_any_more(client: Client, server: FaultServer) -> None:
    server.faults = Faults(batch_faults=["file_hidden", "output_hidden", "batch_vanishes", "batch_lost"])
    file_id = client.upload(line(1))
    assert [client.create(file_id).status_code for _ in range(3)] == [400, 400, 200]
    batch = client.look(client.batch(line(2))["id"])
    content = f"/files/{batch['output_file_id']}/content"
    assert [client.http.get(content).status_code for _ in range(3)] == [404, 404, 200]
    gone = client.batch(line(3))
    assert client.http.get(f"/batches/{gone['id']}").status_code == 404
    with pytest.raises(httpx.HTTPError):
        client.batch(line(4), metadata={"wave": "lost"})
    listed = client.http.get("/batches", params={"limit": 2}).json()
    assert listed["data"][0]["metadata"] == {"wave": "lost"}  # it was made
    assert listed["has_more"]
    more = client.http.get("/batches", params={"after": listed["last_id"]}).json()
    assert [one["id"] for one in more["data"]] == ["batch_000001"]
    assert client.http.delete(f"/files/{file_id}").json()["deleted"]
    assert client.http.delete(f"/files/{file_id}").status_code == 404
    assert server.counts.asked("/v1/files/content") == 3


def test_the_quota_counts_the_batches_that_have_not_ended(client: Client, server: FaultServer) -> None:
    server.faults = Faults(batch_seconds=NEVER, enqueued_tokens=30)
    assert client.batch(line(1))["errors"] is None
    assert (
        client.batch(b"".join(map(line, range(2, 6))))["errors"]["data"][0]["code"] == "token_limit_exceeded"
    )


BAD_FILES = {
    "empty_file": b"",
    "invalid_json_line": line(1) + b"{oops}\n",
    "duplicate_custom_id": line(1) + line(1),
    "invalid_url": line(1, url="/v1/embeddings"),
}


@pytest.mark.parametrize("code", BAD_FILES)
@pytest.mark.sample(1)
def test_a_file_that_is_wrong_fails_its_batch_and_names_the_line(code: str, client: Client) -> None:
    batch = client.look(client.batch(BAD_FILES[code])["id"])
    assert (batch["status"], batch["errors"]["data"][0]["code"]) == ("failed", code)


def test_lines_meet_the_faults_of_chat_completions(client: Client, server: FaultServer) -> None:
    server.faults = Faults(probabilities={"server_error": 0.3, "truncated": 0.3})
    batch = client.look(client.batch(b"".join(map(line, range(40))))["id"])
    failed = client.lines(batch["error_file_id"])
    assert failed
    assert {one["response"]["status_code"] for one in failed} == {500}
    reasons = [
        one["response"]["body"]["choices"][0]["finish_reason"]
        for one in client.lines(batch["output_file_id"])
    ]
    assert {"stop", "length"} == set(reasons)
    assert server.counts.batch_paid == len(reasons)


def test_a_fault_of_a_batch_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="'oops' is no fault of a batch"):
        Faults(batch_faults=["oops"])  # type: ignore[list-item]
    assert len(BATCH_FAULTS) >= 14
