"""Jobs: what does not fit a request is handed over, run after it, and kept over a restart."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import pytest
from fastapi.testclient import TestClient
from tests.integrations.test_fastapi import (
    LINES,
    SENTIMENTS,
    STRENGTHS,
    SUMMARIES,
    failing,
    ids,
    labelled,
    lines,
)
from tests.support.patience import wait_until

from restaurant_llm_batch import BatchRunner, Limits, LLMRequest, LLMResponse, Strategy
from restaurant_llm_batch.errors import AuthenticationFailed, ConfigurationError, PermanentBackendError
from restaurant_llm_batch.integrations._fastapi import job_queue, job_store
from restaurant_llm_batch.integrations._fastapi import openapi as documents
from restaurant_llm_batch.integrations._fastapi.application import application
from restaurant_llm_batch.integrations._fastapi.job_store import JobRow, JobStore
from restaurant_llm_batch.integrations.fastapi import batch_router
from restaurant_llm_batch.records import open_record
from restaurant_llm_batch.testing import FakeLLM, FakeSearch

JOBS = "/api/v1/jobs"
SUMMARIZE = {"task": "summarize", "body": ids(1, 2, 3)}


class Gated(FakeLLM):
    """Answers about restaurants below `gate`, and waits with the others."""

    def __init__(self, gate: float = 0) -> None:
        super().__init__(answer=labelled)
        self.gate = gate
        self.asked: list[Any] = []

    async def acomplete(self, request: LLMRequest, /) -> LLMResponse:
        self.asked.append(request.inputs["restaurant_id"])
        with self.call():
            while request.inputs["restaurant_id"] >= self.gate:
                await anyio.sleep(0.002)
        return await super().acomplete(request)


def service(record: Path | None, llm: Any = None, *, limits: Limits = Limits(), **options: Any) -> Any:
    runner = BatchRunner(
        llm=llm or FakeLLM(answer=labelled),
        search=FakeSearch(lambda name: ["맛있어요", "친절해요"]),
        strategy=Strategy.stage(4),
        record=record,
        limits=limits,
    )
    keys = options.pop("keys", None)
    return application(batch_router(runner, **options), runner, keys=keys)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_queue, "BEAT_SECONDS", 0.02)
    monkeypatch.setattr(job_queue, "LOOK_SECONDS", 0.02)


@pytest.fixture
def record(tmp_path: Path) -> Path:
    return tmp_path / "night.db"


@contextmanager
def open_(app: Any) -> Iterator[TestClient]:
    with TestClient(app) as client:
        yield client


def hand_over(client: TestClient, job: Any = SUMMARIZE, **headers: str) -> str:
    answer = client.post(JOBS, json=job, headers=headers)
    assert answer.status_code == 202, answer.text
    body = answer.json()
    assert answer.headers["Location"] == f"{JOBS}/{body['id']}"
    return str(body["id"])


def ended(client: TestClient, job: str, **headers: str) -> Any:
    """Return a job when it has ended."""
    wait_until(
        lambda: client.get(f"{JOBS}/{job}", headers=headers).json()["state"] not in ("waiting", "running")
    )
    return client.get(f"{JOBS}/{job}", headers=headers).json()


@pytest.mark.parametrize(
    ("task", "path", "body"),
    [
        ("summarize", SUMMARIES, documents.SUMMARY_REQUESTS["search"]["value"]),
        ("summarize", SUMMARIES, documents.SUMMARY_REQUESTS["reviews"]["value"]),
        ("sentiment", SENTIMENTS, documents.SENTIMENT_REQUESTS["texts"]["value"]),
        ("strengths", STRENGTHS, documents.STRENGTH_REQUESTS["reviews"]["value"]),
        ("comparison", "/api/v1/llm/comparison/batch", ids(1, 2)),
        ("sentiment", SENTIMENTS, {"restaurants": []}),
        (
            "sentiment",
            SENTIMENTS,
            {"restaurants": [{"restaurant_id": "\u2028\x00'", "reviews": ["😀\x00", ""]}]},
        ),
        ("summarize", SUMMARIES, {**ids("a", 7), "limt": 3}),
    ],
)
@pytest.mark.sample(1)
def test_the_result_of_a_job_is_the_answer_of_its_request(
    record: Path, task: str, path: str, body: Any
) -> None:
    with open_(service(record)) as client:
        expected = client.post(path, json=body)
        assert expected.status_code == 200
        handed = client.post(JOBS, json={"task": task, "body": body}).json()
        state = ended(client, handed["id"])
        result = client.get(f"{JOBS}/{handed['id']}/result")
        streamed = client.get(f"{JOBS}/{handed['id']}/result", headers=LINES)

    whole = expected.json()
    assert (state["state"], state["error"]) == ("done", None)
    assert state["total"] == state["succeeded"] == len(body["restaurants"])
    assert result.json() == whole
    assert handed.get("warnings") == whole.get("warnings")
    *entries, last = lines(streamed)
    assert [entry["result"] for entry in entries] == whole["results"]
    assert last["done"] == {"results": len(whole["results"]), "failures": 0}


@pytest.mark.slow
def test_failures_are_in_the_result_in_their_place(record: Path) -> None:
    llm = FakeLLM(answer=labelled, fault=failing(PermanentBackendError("no", status=400), 2))
    with open_(service(record, llm)) as client:
        job = hand_over(client)
        state = ended(client, job)
        result = client.get(f"{JOBS}/{job}/result").json()
        entries = lines(client.get(f"{JOBS}/{job}/result", headers=LINES))

    assert (state["state"], state["succeeded"], state["failed"]) == ("done", 2, 1)
    assert [one["restaurant_id"] for one in result["results"]] == [1, 3]
    assert result["failures"][0]["restaurant_id"] == 2
    assert [next(iter(entry)) for entry in entries] == ["result", "failure", "result", "done"]


@pytest.mark.slow
def test_how_far_a_job_is_can_be_asked_and_its_result_not_yet(record: Path) -> None:
    llm = Gated(gate=3)
    with open_(service(record, llm)) as client:
        job = hand_over(client)
        wait_until(lambda: client.get(f"{JOBS}/{job}").json()["succeeded"] == 2)
        state = client.get(f"{JOBS}/{job}").json()
        early = client.get(f"{JOBS}/{job}/result")
        llm.gate = 9
        ended(client, job)

    assert (state["state"], state["total"], state["ended_at"]) == ("running", 3, None)
    assert state["started_at"] >= state["created_at"]
    assert early.status_code == 409
    assert "2 of 3" in early.json()["message"]


@pytest.mark.slow
def test_a_job_is_cancelled_with_its_calls_and_what_it_has_done_stays(record: Path) -> None:
    llm = Gated(gate=2)
    with open_(service(record, llm)) as client:
        job = hand_over(client)
        wait_until(lambda: client.get(f"{JOBS}/{job}").json()["succeeded"] == 1)
        assert client.delete(f"{JOBS}/{job}").json()["state"] == "cancelled"
        wait_until(lambda: llm.in_flight == 0)
        result = client.get(f"{JOBS}/{job}/result").json()
        again = client.delete(f"{JOBS}/{job}")

    assert [one["restaurant_id"] for one in result["results"]] == [1]
    assert (again.status_code, again.json()["state"]) == (200, "cancelled")


@pytest.mark.slow
def test_a_job_that_is_done_is_not_cancelled(record: Path) -> None:
    with open_(service(record)) as client:
        job = hand_over(client)
        ended(client, job)
        assert client.delete(f"{JOBS}/{job}").json()["state"] == "done"
        assert len(client.get(f"{JOBS}/{job}/result").json()["results"]) == 3


@pytest.mark.slow
def test_more_jobs_than_may_wait_are_refused(record: Path) -> None:
    llm = Gated()
    with open_(service(record, llm, max_jobs=2)) as client:
        first = [hand_over(client) for _ in range(job_queue.AT_ONCE)]
        wait_until(lambda: {client.get(f"{JOBS}/{job}").json()["state"] for job in first} == {"running"})
        for _ in range(2):
            hand_over(client)
        refused = client.post(JOBS, json=SUMMARIZE)
        llm.gate = 9

    assert refused.status_code == 429
    assert int(refused.headers["Retry-After"]) > 0
    assert refused.json()["message"].startswith("2 jobs are waiting")


def test_a_restart_goes_on_where_the_rows_end(record: Path) -> None:
    with open_(service(record, Gated(gate=2))) as client:
        job = hand_over(client)
        wait_until(lambda: client.get(f"{JOBS}/{job}").json()["succeeded"] == 1)
    llm = Gated(gate=9)
    with open_(service(record, llm)) as client:
        state = ended(client, job)
        result = client.get(f"{JOBS}/{job}/result").json()

    assert (state["state"], state["succeeded"]) == ("done", 3)
    assert [one["restaurant_id"] for one in result["results"]] == [1, 2, 3]
    assert sorted(llm.asked) == [2, 3]


def test_any_process_answers_for_any_job_and_takes_those_of_a_dead_one(
    record: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = JobStore(record)
    added = store.add("dead", "", "summarize", json.dumps(ids(1, 2)), False, "[]", 2, 9)
    assert added is not None
    claimed = store.claim("killed")
    assert claimed is not None
    assert store.save(claimed[0], "killed", [JobRow(0, "result", '{"restaurant_id":1}')])
    with open_(service(record)) as client:
        assert client.get(f"{JOBS}/dead").json()["state"] == "running"
        monkeypatch.setattr(job_store, "SILENT_SECONDS", -1.0)
        monkeypatch.setattr(job_queue, "BEAT_SECONDS", 3600.0)
        assert ended(client, "dead")["state"] == "done"
        assert [one["restaurant_id"] for one in client.get(f"{JOBS}/dead/result").json()["results"]] == [1, 2]
    assert not store.save(claimed[0], "killed", [JobRow(1, "result", "{}")])
    store.close()


@pytest.mark.slow
def test_the_calls_of_requests_go_before_those_of_jobs(record: Path) -> None:
    llm = Gated()
    answers: list[Any] = []
    with open_(service(record, llm, limits=Limits(llm=1))) as client:
        hand_over(client, {"task": "summarize", "body": ids(*range(5))})
        wait_until(lambda: llm.in_flight == 1)
        asking = threading.Thread(target=lambda: answers.append(client.post(SUMMARIES, json=ids(100))))
        asking.start()
        wait_until(lambda: len(open_record(record).runs()) == 2)
        llm.gate = 1_000
        asking.join()

    assert answers[0].status_code == 200
    assert llm.asked.index(100) < 5


@pytest.mark.slow
def test_a_client_sees_its_own_jobs_only(record: Path) -> None:
    keys = {"key-a": "a", "key-b": "b"}
    a, b = ({"X-API-Key": key} for key in keys)
    with open_(service(record, keys=keys)) as client:
        job = hand_over(client, **a)
        for path in (f"{JOBS}/{job}", f"{JOBS}/{job}/result"):
            assert client.get(path, headers=b).status_code == 404
            assert client.get(path).status_code == 401
        assert client.delete(f"{JOBS}/{job}", headers=b).status_code == 404
        assert ended(client, job, **a)["state"] == "done"


@pytest.mark.parametrize(
    ("job", "status", "field"),
    [
        ({}, 422, "task"),
        ({"task": "summarize"}, 422, "body"),
        ({"task": "summarise", "body": ids(1)}, 422, "task"),
        ({"task": "summarize", "body": [1]}, 422, "body"),
        ({"task": "summarize", "body": {}}, 422, "restaurants"),
        ({"task": "summarize", "body": ids(1, 1)}, 422, "restaurants[1].restaurant_id"),
        (
            {"task": "sentiment", "body": {"restaurants": [{"reviews": []}]}},
            422,
            "restaurants[0].restaurant_id",
        ),
        ({"task": "summarize", "body": ids(*range(21))}, 413, "restaurants"),
    ],
)
@pytest.mark.slow
def test_what_is_wrong_is_said_when_it_is_handed_over(
    record: Path, job: Any, status: int, field: str
) -> None:
    llm = FakeLLM(answer=labelled)
    with open_(service(record, llm, max_items=2)) as client:
        answer = client.post(JOBS, json=job)

    assert answer.status_code == status
    assert answer.json()["details"][0]["field"] == field
    assert llm.calls == 0


@pytest.mark.slow
def test_a_job_may_have_ten_times_what_a_request_may(record: Path) -> None:
    with open_(service(record, max_items=2)) as client:
        assert client.post(SUMMARIES, json=ids(*range(20))).status_code == 413
        job = hand_over(client, {"task": "summarize", "body": ids(*range(20))})
        assert ended(client, job)["succeeded"] == 20


@pytest.mark.parametrize("method", ["get", "delete"])
@pytest.mark.slow
def test_a_job_that_is_not_there_is_404(record: Path, method: str) -> None:
    with open_(service(record)) as client:
        answer = getattr(client, method)(f"{JOBS}/nothing")
        result = client.get(f"{JOBS}/nothing/result")

    assert answer.status_code == result.status_code == 404
    assert set(answer.json()) == {"code", "message", "details", "request_id"}


@pytest.mark.slow
def test_without_a_record_it_is_said_how_to_have_jobs() -> None:
    with open_(service(None)) as client:
        for answer in (client.post(JOBS, json=SUMMARIZE), client.get(f"{JOBS}/x")):
            assert answer.status_code == 501
            assert "--record" in answer.json()["message"]


@pytest.mark.slow
def test_an_application_that_never_started_takes_no_jobs(record: Path) -> None:
    assert TestClient(service(record)).post(JOBS, json=SUMMARIZE).status_code == 503


@pytest.mark.parametrize("error", [AuthenticationFailed("no"), ConfigurationError("nowhere")])
@pytest.mark.slow
def test_a_job_of_a_service_that_is_not_set_up_fails_and_says_why(record: Path, error: Exception) -> None:
    llm = FakeLLM(answer=labelled, fault=lambda request, tried: error)
    with open_(service(record, llm)) as client:
        state = ended(client, hand_over(client))

    assert state["state"] == "failed"
    assert state["error"].startswith(type(error).__name__)


@pytest.mark.slow
def test_debug_is_kept_with_the_job(record: Path) -> None:
    with open_(service(record)) as client:
        job = hand_over(client, **{"X-Debug": "true"})
        ended(client, job)
        result = client.get(f"{JOBS}/{job}/result").json()["results"][0]

    assert result["debug"]["request_id"] == job


@pytest.mark.slow
def test_jobs_that_ended_long_ago_are_removed_with_their_rows(record: Path) -> None:
    with open_(service(record)) as client:
        old = hand_over(client)
        ended(client, old)
    with closing(sqlite3.connect(record)) as file, file:
        file.execute("UPDATE queued_jobs SET ended = ended - 8 * 86400")
    with open_(service(record)) as client:
        wait_until(lambda: client.get(f"{JOBS}/{old}").status_code == 404)
    with closing(sqlite3.connect(record)) as file:
        assert file.execute("SELECT count(*) FROM queued_job_rows").fetchone() == (0,)


@pytest.mark.slow
def test_the_body_of_a_request_is_not_kept_longer_than_it_is_needed(record: Path) -> None:
    with open_(service(record)) as client:
        job = hand_over(client)
        ended(client, job)
    with closing(sqlite3.connect(record)) as file:
        assert file.execute("SELECT body, owner FROM queued_jobs").fetchall() == [(None, None)]
        assert file.execute("SELECT count(*) FROM queued_job_bodies").fetchone() == (0,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"max_jobs": 0}, "max_jobs"), ({"job_days": 0}, "job_days"), ({"job_days": "7"}, "job_days")],
)
@pytest.mark.slow
def test_a_mistake_is_said_at_once(record: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        service(record, **arguments)


def add(store: JobStore, client: str = "", most: int = 100) -> Any:
    return store.add(uuid4().hex, client, "summarize", json.dumps(ids(1)), False, "[]", 1, most)


@pytest.fixture
def store(record: Path) -> Iterator[JobStore]:
    with closing(JobStore(record)) as one:
        yield one


def test_clients_take_turns_and_each_may_have_as_many_jobs_that_wait(store: JobStore) -> None:
    for _ in range(3):
        assert add(store, "kiosk", most=3) is not None
    assert add(store, "kiosk", most=3) is None
    assert add(store, "shop", most=3) is not None
    assert add(store, "shop", most=3) is not None

    claimed = [store.claim("me") for _ in range(5)]

    assert [one[0].client for one in claimed if one is not None] == [
        "kiosk",
        "shop",
        "kiosk",
        "shop",
        "kiosk",
    ]
    assert store.claim("me") is None


def test_a_job_that_all_its_owners_die_of_fails_and_no_other_does(store: JobStore) -> None:
    job = add(store)
    for number in range(job_store.MOST_CLAIMS):
        found = store.claim(f"owner {number}")
        assert found is not None
        assert found[0].id == job.id
        if number == 1:  # it does something before it dies
            store.save(found[0], f"owner {number}", [JobRow(0, "result", "{}")])
        with closing(sqlite3.connect(store._file.path)) as file, file:
            file.execute("UPDATE queued_jobs SET beat = -1000")  # long ago
    for number in range(2):
        found = store.claim(f"another {number}")
        with closing(sqlite3.connect(store._file.path)) as file, file:
            file.execute("UPDATE queued_jobs SET beat = -1000")
    other = add(store)
    last = store.claim("the last one")

    ended = store.find(job.id, "")
    assert ended is not None
    assert (ended.state, ended.error, ended.succeeded) == ("failed", job_store.DIED, 1)
    assert last is not None
    assert last[0].id == other.id


def test_a_job_that_is_given_back_again_and_again_does_not_fail(store: JobStore) -> None:
    job = add(store)
    for number in range(3 * job_store.MOST_CLAIMS):
        found = store.claim(f"owner {number}")
        assert found is not None
        store.end(found[0], f"owner {number}", "waiting")

    assert store.find(job.id, "").state == "waiting"  # type: ignore[union-attr]


@pytest.mark.slow
def test_a_record_that_is_replaced_is_left_for_the_new_one(record: Path) -> None:
    with open_(service(record)) as client:
        job = hand_over(client)
        ended(client, job)
        for path in record.parent.glob(f"{record.name}*"):
            path.unlink()
        assert client.get(f"{JOBS}/{job}").status_code == 404
        job = hand_over(client)
        assert ended(client, job)["state"] == "done"


@pytest.mark.slow
def test_an_end_that_cannot_be_written_is_written_later(
    record: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(job_queue, "RETRY_SECONDS", 0.02)
    full = threading.Event()
    end = JobStore.end
    tried: list[str] = []

    def end_unless_full(self: JobStore, *arguments: Any) -> None:
        tried.append("end")
        if full.is_set():
            raise sqlite3.OperationalError("database or disk is full")
        end(self, *arguments)

    monkeypatch.setattr(JobStore, "end", end_unless_full)
    full.set()
    with open_(service(record)) as client:
        job = hand_over(client)
        wait_until(lambda: len(tried) > 3)
        assert client.get(f"{JOBS}/{job}").json()["state"] == "running"
        full.clear()
        assert ended(client, job)["state"] == "done"

    assert caplog.text.count("cannot be written now") == 1


def test_a_result_is_read_page_by_page(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_store, "PAGE_BYTES", 40)
    job = add(store)
    store.claim("me")
    rows = [JobRow(place, "failure" if place % 3 == 1 else "result", f'"{place:020}"') for place in range(10)]
    store.save(job, "me", rows)
    found: list[JobRow] = []
    while page := store.rows(job, after=found[-1].place if found else -1):
        assert len(page) <= 2
        found += page

    assert found == rows
    assert [row.place for row in store.rows(job, "failure")] == [1, 4]


@pytest.mark.slow
def test_a_large_result_is_sent_in_pieces(record: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_store, "PAGE_BYTES", 100)
    body = {"restaurants": [{"restaurant_id": n, "reviews": ["맛있어요"]} for n in range(50)]}
    with open_(service(record)) as client:
        expected = client.post(SENTIMENTS, json=body).json()
        job = hand_over(client, {"task": "sentiment", "body": body})
        ended(client, job)
        result = client.get(f"{JOBS}/{job}/result")
        entries = lines(client.get(f"{JOBS}/{job}/result", headers=LINES))

    assert "content-length" not in result.headers
    assert result.json() == expected
    assert len(entries) == 51


@pytest.mark.slow
def test_another_clients_job_is_not_there(record: Path) -> None:
    keys = {"key-of-shop": "shop", "key-of-kiosk": "kiosk"}
    mine, others = ({"X-API-Key": key} for key in keys)
    with open_(service(record, keys=keys, shares={"shop": 2})) as client:
        job = hand_over(client, **mine)
        assert ended(client, job, **mine)["state"] == "done"
        for answer in (
            client.get(f"{JOBS}/{job}", headers=others),
            client.get(f"{JOBS}/{job}/result", headers=others),
            client.delete(f"{JOBS}/{job}", headers=others),
        ):
            assert answer.status_code == 404


@pytest.mark.slow
def test_many_jobs_with_large_bodies_are_looked_through_quickly(store: JobStore) -> None:
    """A look reads no bodies: its work is that of an index of the jobs that have not ended."""
    body = json.dumps({"restaurants": ["x" * 1000] * 1000})
    for number in range(100):
        store.add(uuid4().hex, f"c{number % 7}", "summarize", body, False, "[]", 1, 1000)
    steps: list[int] = []
    with store._connection as connection:
        connection.set_progress_handler(lambda: steps.append(1), 100)
        connection.execute("PRAGMA cache_size = 10")
        assert store.claim("me") is not None
        connection.set_progress_handler(None, 0)

    assert len(steps) < 200
