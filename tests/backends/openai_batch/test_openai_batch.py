"""`OpenAIBatchLLM` over real sockets: every fault of the service is survived or told, and nothing is paid twice."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.support.patience import PATIENCE, wait_until
from tests.support.waves import asking, look_often, one

from restaurant_llm_batch import (
    BatchRunner,
    RetryPolicy,
    Store,
    Strategy,
    SummarizeAspects,
    TimeLimits,
    errors,
)
from restaurant_llm_batch._store.folder import StoreFolder
from restaurant_llm_batch.backends import LLMPool, OpenAIBatchLLM, OpenAILLM
from restaurant_llm_batch.backends.openai_batch import _codec as codec
from restaurant_llm_batch.records import open_record
from restaurant_llm_batch.simulation import SimulatedServer
from restaurant_llm_batch.testing import FakeSearch
from restaurant_llm_batch.testing.server import BatchFault, Faults, FaultServer

STRATEGIES = [Strategy.stage(4), Strategy.threaded()]


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    look_often(monkeypatch)
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


CANCELLED = ("cancelling", "cancelled")


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer(answer="echo") as server:
        yield server


def batch_llm(server: FaultServer, **more: Any) -> OpenAIBatchLLM:
    return OpenAIBatchLLM("tiny", base_url=server.openai_url, api_key="sk-test-key", **more)


def run(server: FaultServer, store: Path, items: Any = range(12), **more: Any) -> Any:
    given = {"llm_retry": RetryPolicy(wait_initial=0.01), "strategy": Strategy.stage(4), **more}
    llm = given.pop("llm", None) or batch_llm(server)
    with BatchRunner(llm=llm, store=store, **given) as runner:
        return runner.run(one, items)


@pytest.mark.parametrize("strategy", STRATEGIES, ids=["stage 4", "threaded"])
@pytest.mark.sample(1)
def test_all_calls_go_in_one_batch_and_come_back_by_their_ids(
    strategy: Strategy, server: FaultServer, tmp_path: Path
) -> None:
    report = run(server, tmp_path / "run.db", strategy=strategy)
    counts = server.counts
    assert report.results == [str(item) for item in range(12)]
    assert (counts.batches, counts.batch_lines, counts.asked("/v1/chat/completions")) == (
        {"completed": 1},
        12,
        0,
    )
    assert counts.completion_tokens == report.stats.completion_tokens
    again = run(server, tmp_path / "run.db", llm=OpenAILLM("tiny", base_url=server.openai_url, api_key="any"))
    assert again.stats.cache_hits == 12  # online or not: the model is the same


SURVIVED: list[tuple[BatchFault, ...]] = [
    ("batch_over_quota",),
    ("batch_fails",),
    ("batch_expires",),
    ("batch_vanishes",),
    ("batch_lost",),
    ("file_hidden",),
    ("output_hidden",),
    ("answers_twice",),
    ("answers_missing",),
    ("errors_only",),
    ("batch_expires", "answers_missing"),
]


@pytest.mark.parametrize("faults", SURVIVED, ids="-".join)
@pytest.mark.sample(2)
def test_every_fault_of_a_batch_is_survived(
    faults: tuple[BatchFault, ...], server: FaultServer, tmp_path: Path
) -> None:
    server.faults = Faults(batch_faults=faults)
    report = run(server, tmp_path / "run.db")
    assert report.results == [str(item) for item in range(12)]
    if "batch_vanishes" not in faults:
        assert server.counts.batch_paid == 12


def test_what_cannot_be_survived_is_told(server: FaultServer, tmp_path: Path) -> None:
    server.faults = Faults(batch_faults=["batch_is_cancelled", "batch_invalid_line"])
    report = run(server, tmp_path / "run.db", range(12))
    assert len(report.failures) == 6
    assert all("cancelled by another client" in str(failure.error) for failure in report.failures)
    told = run(server, tmp_path / "run.db", range(100, 103)).failures
    assert [(failure.item_id, "cannot be processed" in str(failure.error)) for failure in told] == [
        (100, True)
    ]


def test_lines_meet_faults_and_go_into_the_next_wave(server: FaultServer, tmp_path: Path) -> None:
    server.faults = Faults(probabilities={"server_error": 0.3, "rate_limited": 0.3})
    report = run(server, tmp_path / "run.db", range(30))
    assert not report.failures
    assert 2 <= sum(server.counts.batches.values()) <= 3
    assert report.stats.retries > 5


def test_a_field_that_the_model_refuses_is_left_out_of_the_next_wave(
    server: FaultServer, tmp_path: Path
) -> None:
    server.faults = Faults(plan=lambda asked: "field_refused", tries=None)
    report = run(server, tmp_path / "run.db")
    assert not report.failures
    assert sum(server.counts.batches.values()) == 2
    assert server.counts.faults["field_refused"] == 12


def test_summaries_in_two_waves_are_those_of_online_calls(server: FaultServer, tmp_path: Path) -> None:
    search = FakeSearch({number: [f"{number}번 맛있어요", "친절해요", "비싸요"] for number in range(12)})
    task = SummarizeAspects(mode="split")
    online_llm = OpenAILLM("tiny", base_url=server.openai_url, api_key="any")
    with BatchRunner(llm=online_llm, search=search, strategy=Strategy.stage(4)) as runner:
        online = runner.run(task, range(12))
    with BatchRunner(
        llm=batch_llm(server), search=search, strategy=Strategy.stage(4), store=tmp_path / "run.db"
    ) as runner:
        batched = runner.run(task, range(12))
    assert batched.results == online.results
    assert server.counts.batches == {"completed": 2}
    assert server.counts.batch_lines == 48


@pytest.mark.parametrize("on_stop", ["cancel", "keep"])
@pytest.mark.sample(1)
def test_a_run_that_is_stopped_cancels_its_batch_or_leaves_it(
    on_stop: Any, server: FaultServer, tmp_path: Path
) -> None:
    server.faults = Faults(batch_faults=["batch_never_ends"])
    llm = batch_llm(server, on_stop=on_stop)
    with BatchRunner(llm=llm, strategy=Strategy.stage(4), store=tmp_path / "run.db") as runner:
        stream = runner.stream(one, range(6))
        reader = threading.Thread(target=lambda: [*stream])
        reader.start()
        wait_until(lambda: server.counts.asked("/v1/batches", 200))
        stream.stop()
        reader.join(PATIENCE)
    if on_stop == "cancel":
        # Perhaps after the run, by the thread that learns only then that the batch is made.
        wait_until(lambda: not server.counts.batches.keys().isdisjoint(CANCELLED))
    assert server.counts.batches.keys().isdisjoint(CANCELLED) == (on_stop == "keep")
    server.faults = Faults()
    if on_stop == "cancel":
        report = run(server, tmp_path / "run.db", range(6))
        assert report.results == [str(item) for item in range(6)]
        assert server.counts.batch_paid == 6  # half of them by the batch that was cancelled


def test_one_request_alone_takes_a_batch_of_its_own(server: FaultServer) -> None:
    llm = batch_llm(server)
    reply = llm.complete(asking("맛은?"))
    llm.close()
    assert (reply.text, reply.batched) == ("맛은?", True)
    assert server.counts.batches == {"completed": 1}


@pytest.mark.anyio
@pytest.mark.sample(1)
async def test_one_request_alone_can_be_awaited(server: FaultServer) -> None:
    llm = batch_llm(server)
    assert (await llm.acomplete(asking("awaited"))).text == "awaited"
    await llm.aclose()


@pytest.mark.parametrize("wave", [{}, {"min_wave": 2, "online_rest": True}])
def test_one_request_alone_learns_fields_or_goes_online(wave: dict[str, Any], server: FaultServer) -> None:
    server.faults = Faults(plan=lambda asked: "field_refused", tries=None)
    llm = batch_llm(server, **wave)
    reply = llm.complete(asking("alone"))
    llm.close()
    assert (reply.text, reply.batched) == ("alone", not wave)
    assert server.counts.faults["field_refused"] == 1


@pytest.mark.parametrize("wrong", [{"key": "sk-wrong"}, {"faults": ("batch_is_cancelled",)}])
def test_one_request_alone_raises_what_went_wrong(wrong: dict[str, Any]) -> None:
    with FaultServer(Faults(batch_faults=wrong.get("faults", ())), api_key="sk-right") as server:
        llm = OpenAIBatchLLM("tiny", base_url=server.openai_url, api_key=wrong.get("key", "sk-right"))
        expected = errors.AuthenticationFailed if "key" in wrong else errors.PermanentBackendError
        with pytest.raises(expected):
            llm.complete(asking("alone"))
        llm.close()


def test_batches_that_are_to_be_kept_need_a_store(server: FaultServer) -> None:
    with pytest.raises(errors.ConfigurationError, match="leaves batches for a later run"):
        BatchRunner(llm=batch_llm(server, on_stop="keep"), strategy=Strategy.stage(4))


def test_a_record_says_which_calls_were_batched(server: FaultServer, tmp_path: Path) -> None:
    store, record = tmp_path / "run.db", tmp_path / "night.db"
    run(server, store, range(3), record=record)
    run(
        server,
        store,
        range(4),
        record=record,
        llm=OpenAILLM("tiny", base_url=server.openai_url, api_key="any"),
    )
    found = open_record(record)
    assert [(call.outcome, call.batched) for call in found.calls(1)] == [("ok", True)] * 3
    assert {(call.outcome, call.batched) for call in found.calls(2)} == {("stored", False), ("ok", False)}
    assert "1 try in a batch" in str(found.explain(0, run=1))
    with closing(sqlite3.connect(record)) as connection:
        rows = connection.execute("SELECT run, sum(batched) FROM call_overview GROUP BY run ORDER BY run")
        assert rows.fetchall() == [(1, 3), (2, 0)]
        # A record from before there were batches, or pools.
        for table in ("call_overview", "batched_calls", "call_endpoints"):
            connection.execute(f"DROP {'VIEW' if table.endswith('view') else 'TABLE'} {table}")
        connection.commit()
    old = open_record(record)
    assert {call.batched for call in old.calls(1)} == {False}
    assert "1 try," in str(old.explain(0, run=1))
    assert old.limiters(1)
    run(server, tmp_path / "other.db", range(2), record=record)
    assert [call.batched for call in open_record(record).calls(3)] == [True, True]


def test_no_server_can_be_measured_by_batches(server: FaultServer) -> None:
    with pytest.raises(errors.ConfigurationError, match="measure the same model online"):
        SimulatedServer.measured(batch_llm(server))
    assert server.counts.batches == {}


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Store, StoreFolder])
@pytest.mark.parametrize("strategy", STRATEGIES, ids=["stage 4", "threaded"])
def test_two_runs_with_one_store_at_the_same_time_pay_once(
    strategy: Strategy, kind: type[Store | StoreFolder], server: FaultServer, tmp_path: Path
) -> None:
    server.faults = Faults(batch_seconds=0.5)
    results: list[Any] = []

    def both(store: Any) -> None:
        results.append(run(server, store, range(300), strategy=strategy).results)

    stores = [kind(tmp_path / "run.db"), kind(tmp_path / "run.db")]
    threads = [threading.Thread(target=both, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert results == [[str(item) for item in range(300)]] * 2
    assert server.counts.batch_lines == server.counts.batch_paid == 300
    assert server.counts.batch_duplicates == 0


def test_a_wrong_key_stops_the_run_and_stands_in_no_error(tmp_path: Path) -> None:
    with FaultServer(api_key="sk-right-key") as server:
        report = run(server, tmp_path / "run.db", range(3))
    assert "AuthenticationFailed" in str(report.stats.stopped_because)
    assert "sk-test-key" not in str(report.failures) + repr(batch_llm(server))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"min_wave": -1}, "min_wave must be a whole number"),
        ({"online_rest": 1}, "online_rest must be True or False"),
        ({"wait_at_most": 0}, "wait_at_most must be"),
        ({"wait_at_most": "6h"}, "wait_at_most must be"),
        ({"on_stop": "leave"}, "on_stop must be"),
        ({"max_lines": 0}, "max_lines must be"),
        ({"max_enqueued_tokens": 0.5}, "max_enqueued_tokens must be"),
    ],
)
def test_arguments_are_checked(given: dict[str, Any], said: str) -> None:
    with pytest.raises(errors.ConfigurationError, match=said):
        OpenAIBatchLLM("tiny", api_key="any", **given)
    OpenAIBatchLLM("tiny", api_key="any", wait_at_most=timedelta(hours=6))


def test_it_is_no_endpoint_of_a_pool() -> None:
    with pytest.raises(errors.ConfigurationError, match="no pool can share"):
        LLMPool([OpenAIBatchLLM("tiny", api_key="any"), OpenAILLM("tiny", api_key="any")])


# The codec


def test_a_line_is_written_and_read_as_it_was() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    llm = OpenAILLM("gpt-5-mini", api_key="any")
    request = asking("맛은?", schema=schema, temperature=0.5)
    raw = codec.encode_line("00ff", llm.request_body(request))
    assert raw.endswith(b"\n")
    assert raw.count(b"\n") == 1
    assert json.loads(raw)["url"] == "/v1/chat/completions"
    custom_id, body = codec.decode_line(raw)
    assert custom_id == "00ff"
    assert codec.request_of(body, "dish") == request


ODD_ANSWERS: dict[str, tuple[Any, type[Exception] | None]] = {
    "no JSON": ("oops", None),
    "no id": ({"response": {}}, None),
    "a list": ([1], None),
    "nothing in it": ({"custom_id": "a"}, errors.BackendError),
    "expired": ({"custom_id": "a", "error": {"code": "batch_expired"}}, errors.TransientBackendError),
    "a 429": (
        {"custom_id": "a", "response": {"status_code": 429, "body": {"error": {"message": "x"}}}},
        errors.RateLimited,
    ),
    "a 400": (
        {"custom_id": "a", "response": {"status_code": 400, "body": None}},
        errors.PermanentBackendError,
    ),
    "body as text": (
        {"custom_id": "a", "response": {"status_code": 500, "body": "oops"}},
        errors.TransientBackendError,
    ),
    "body is a list": (
        {"custom_id": "a", "response": {"status_code": 200, "body": [1]}},
        errors.BackendError,
    ),
    "response is a text": ({"custom_id": "a", "response": "x", "error": "y"}, errors.BackendError),
}


@pytest.mark.parametrize("name", ODD_ANSWERS)
def test_odd_answers_are_no_answers_or_errors_and_never_raise(name: str) -> None:
    line, kind = ODD_ANSWERS[name]
    found = codec.read_answer(json.dumps(line).encode() if not isinstance(line, str) else line.encode())
    if kind is None:
        assert found is None
    else:
        assert found is not None
        assert isinstance(found[1], kind)


@pytest.mark.parametrize("body", [{"error": {"message": "gone"}}, [], None, {"id": 5}])
def test_a_batch_that_is_none_is_an_error(body: Any) -> None:
    with pytest.raises(errors.BackendError):
        codec.read_batch(body, None)


def test_time_limits_of_a_run_end_it_and_its_batch(server: FaultServer, tmp_path: Path) -> None:
    server.faults = Faults(batch_faults=["batch_never_ends"])
    report = run(server, tmp_path / "run.db", range(3), time_limits=TimeLimits(run=0.2))
    assert len(report.failures) == 3
    assert server.counts.batches == {"cancelling": 1}


def test_a_cancellation_that_the_service_is_too_busy_for_is_tried_again(
    server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("restaurant_llm_batch.backends.openai_batch._batch_service._CANCEL_WAITS", (0.0, 0.0))
    service: Any = batch_llm(server).wave_service
    asked: list[str] = []

    def busy_twice(batch_id: str) -> None:
        asked.append(batch_id)
        if len(asked) < 3:
            raise errors.RateLimited("429")

    monkeypatch.setattr(service, "cancel", busy_twice)
    service.cancel_later(["batch-1", "batch-2"])
    service.close()
    assert asked == ["batch-1"] * 3 + ["batch-2"]


def test_a_file_of_answers_has_a_greatest_size(
    server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("restaurant_llm_batch.backends.openai_batch._batch_service._MAX_FILE", 100)
        report = run(server, tmp_path / "run.db", range(3))
    assert len(report.failures) == 3
    assert "more than 100 bytes" in str(report.failures[0].error)
    assert run(server, tmp_path / "run.db", range(3)).results == ["0", "1", "2"]
    assert server.counts.batch_paid == 3
