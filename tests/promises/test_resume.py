"""With a store: nothing is paid for twice, whatever ends a run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.support.run_methods import (
    STRATEGIES,
    RunMethod,
    comparable,
    each_run_method,
    each_strategy,
    strategy_name,
)
from tests.support.slow import quick_of

from restaurant_llm_batch import (
    BatchRunner,
    Limits,
    LLMRequest,
    LLMResponse,
    RetryPolicy,
    Strategy,
    SummarizeAspects,
    errors,
)
from restaurant_llm_batch._store.identity import fingerprint_of
from restaurant_llm_batch._store.store import Store
from restaurant_llm_batch.backends import OfflineLLM, OpenAILLM, RunPodLLM, VLLMServerLLM
from restaurant_llm_batch.steps import complete, gather
from restaurant_llm_batch.testing import FakeLLM, FakeSearch

IMPATIENT = RetryPolicy(attempts=3, wait_initial=0.001, wait_max=0.002)


def ask(item: int) -> Any:
    """Ask what ten items have in common, then what is this one's own."""
    requests = [
        LLMRequest("t", ({"role": "user", "content": text},)) for text in (f"kind {item % 10}", str(item))
    ]
    replies = yield from gather(*map(complete, requests))
    return [reply if isinstance(reply, Exception) else reply.text for reply in replies]


def echo(request: LLMRequest) -> str:
    return f"to {request.messages[0]['content']}"


@each_run_method
@each_strategy
@pytest.mark.sample(2)
def test_equal_requests_are_asked_once_and_nothing_twice(
    strategy: Strategy, way: RunMethod, tmp_path: Path
) -> None:
    llm = FakeLLM(answer=echo)
    runner = BatchRunner(llm=llm, strategy=strategy, limits=Limits(llm=4), store=tmp_path / "run.db")
    first = comparable(way(runner, ask, list(range(30))))
    asked = llm.calls
    again = comparable(way(runner, ask, list(range(30))))

    assert first == again == [(n, n, [f"to kind {n % 10}", f"to {n}"]) for n in range(30)]
    assert asked == llm.calls == 30 + 10


@pytest.mark.slow
def test_another_process_finds_what_one_has_paid_for(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    BatchRunner(llm=FakeLLM(answer=echo), store=path).run(ask, range(20))
    code = f"""
from tests.promises.test_resume import *
llm = FakeLLM(answer=echo)
report = BatchRunner(llm=llm, store={str(path)!r}).run(ask, range(25))
print(llm.calls, report.stats.cache_hits, len(report.results))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["5", "45", "25"]


@pytest.mark.parametrize("change", ["model", "words", "temperature", "schema"])
def test_a_changed_request_is_asked_and_paid_for(change: str, tmp_path: Path) -> None:
    class Model(FakeLLM):
        fingerprint = "a"

    def question(item: int) -> Any:
        request = LLMRequest(
            "t", ({"role": "user", "content": "맛은?"},), {"type": "object"}, temperature=0.1
        )
        yield from complete(request)

    def changed(item: int) -> Any:
        text, schema, temperature = "맛은?", {"type": "object"}, 0.1
        if change == "words":
            text = "맛은? "
        if change == "schema":
            schema = {"type": "array"}
        if change == "temperature":
            temperature = 0.2
        yield from complete(
            LLMRequest("t", ({"role": "user", "content": text},), schema, temperature=temperature)
        )

    BatchRunner(llm=Model(answer=lambda _: "{}"), store=tmp_path / "run.db").run(question, [1])
    llm = Model(answer=lambda _: "{}")
    llm.fingerprint = "b" if change == "model" else "a"
    report = BatchRunner(llm=llm, store=tmp_path / "run.db").run(changed, [1])

    assert (llm.calls, report.stats.cache_hits) == (1, 0)


@each_strategy
def test_failures_are_not_kept(strategy: Strategy, tmp_path: Path) -> None:
    down = [True]

    def fault(request: LLMRequest, attempt: int) -> Exception | None:
        broken = down[0] and request.messages[0]["content"] in ("3", "kind 4")
        return errors.TransientBackendError("down") if broken else None

    llm = FakeLLM(answer=echo, fault=fault)
    store = tmp_path / "run.db"
    runner = BatchRunner(llm=llm, strategy=strategy, store=store, llm_retry=IMPATIENT)
    first = runner.run(ask, range(12)).results
    failed = sum(isinstance(value, Exception) for values in first for value in values)
    down[0] = False
    calls = llm.calls
    second = runner.run(ask, range(12))

    assert failed == 2
    assert second.results == [[f"to kind {n % 10}", f"to {n}"] for n in range(12)]
    assert llm.calls - calls == 2


def test_an_answer_that_an_item_failed_by_is_asked_for_again_by_the_next_run(tmp_path: Path) -> None:
    answers = iter(["nonsense", "still nonsense"])
    good = '{"categories": {"food": {"summary": "좋다"}}, "overall_summary": "좋다"}'
    llm = FakeLLM(answer=lambda request: next(answers, good))
    search = FakeSearch({1: ["맛있어요"]})
    runner = BatchRunner(llm=llm, search=search, store=tmp_path / "run.db")
    task = SummarizeAspects(aspects=["food"])

    assert [type(failure.error) for failure in runner.run(task, [1]).failures] == [errors.OutputInvalid]
    assert runner.run(task, [1]).results[0].overall_summary == "좋다"
    assert llm.calls == 3  # the first answer is still known to be nonsense; its repair is asked for anew


def test_an_answer_that_was_cut_off_is_not_paid_for_again_by_an_item_that_was_done(tmp_path: Path) -> None:
    class Cut:
        calls = 0

        def complete(self, request: LLMRequest) -> LLMResponse:
            self.calls += 1
            text = '{"categories": {"food": {"summary": "좋다"}}, "overall_summary": "좋다"}'
            return (
                LLMResponse(text)
                if request.max_tokens > 1500
                else LLMResponse(text[:20], finish_reason="length")
            )

    llm = Cut()
    runner = BatchRunner(llm=llm, search=FakeSearch({1: ["맛있어요"]}), store=tmp_path / "run.db")
    for _ in range(3):
        (result,) = runner.run(SummarizeAspects(aspects=["food"]), [1]).results
        assert result.overall_summary == "좋다"
    assert llm.calls == 2


CHILD = """
import time
import sys
from tests.promises.test_resume import *
from restaurant_llm_batch.events import CallStarted

def slow(request):
    time.sleep(0.002)
    return echo(request)

def note(event):
    if isinstance(event, CallStarted):
        print("call", flush=True)

llm = FakeLLM(answer=slow)
strategy = Strategy.stage(int(sys.argv[2])) if sys.argv[2] != "threaded" else Strategy.threaded()
limits = Limits(llm=8, open_items=8)
runner = BatchRunner(llm=llm, strategy=strategy, limits=limits, store=sys.argv[1], observers=[note])
report = runner.run(ask, range(500))
print("done", len(report.results), flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
@pytest.mark.parametrize("stage", ["1", "4", "threaded"])
@pytest.mark.parametrize("share", quick_of([0.25, 0.5, 0.75], 0.5))
@pytest.mark.sample(1)
def test_after_a_kill_only_what_was_not_finished_is_paid_for(
    stage: str, share: float, tmp_path: Path
) -> None:
    path = tmp_path / "run.db"
    arguments = [sys.executable, "-c", CHILD, str(path), stage]
    questions = 500 + 10
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        paid = 0
        while paid < share * questions:
            paid += child.stdout.readline() == "call\n"
        os.kill(child.pid, signal.SIGKILL)
        paid += child.stdout.read().count("call\n")
    rest = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout
    in_flight = 1 if stage == "1" else 8

    assert rest.endswith("done 500\n")
    assert paid + rest.count("call\n") <= questions + 2 * in_flight
    assert BatchRunner(llm=FakeLLM(), store=path).run(ask, range(500)).results == [
        [f"to kind {n % 10}", f"to {n}"] for n in range(500)
    ]


def test_when_the_first_to_ask_fails_the_next_one_asks(tmp_path: Path) -> None:
    def fault(request: LLMRequest, attempt: int) -> Exception | None:
        return errors.PermanentBackendError("not the first time") if attempt == 1 else None

    def same(item: int) -> Any:
        return (yield from complete(LLMRequest("t", ({"role": "user", "content": "same"},)))).text

    for strategy in STRATEGIES:
        llm = FakeLLM(answer=echo, fault=fault, seconds=0.005)
        path = tmp_path / f"{strategy_name(strategy)}.db"
        report = BatchRunner(llm=llm, strategy=strategy, store=path).run(same, range(5))
        assert [failure.item_id for failure in report.failures] == [0]
        assert report.results == ["to same"] * 4
        assert llm.calls == 2


def test_a_store_that_cannot_be_opened_is_reported_before_any_call(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database, and somebody's notes" * 100)
    with pytest.raises(errors.ConfigurationError, match=r"notes\.txt"):
        BatchRunner(llm=FakeLLM(), store=path)

    assert path.read_text().startswith("not a database")


def test_two_runners_may_share_a_store(tmp_path: Path) -> None:
    with Store(tmp_path / "run.db") as store:
        one, other = (BatchRunner(llm=FakeLLM(answer=echo), store=store) for _ in range(2))
        one.run(ask, range(5))
        assert other.run(ask, range(5)).stats.cache_hits == 10


def test_a_stop_while_answers_are_being_written_loses_none(tmp_path: Path) -> None:
    def one(item: int) -> Any:
        return (yield from complete(LLMRequest("t", ({"role": "user", "content": str(item)},)))).text

    llm = FakeLLM(answer=echo, seconds=0.01)
    with BatchRunner(llm=llm, strategy=Strategy.stage(4), store=tmp_path / "run.db") as runner:
        stream = runner.stream(one, range(200))
        done = 0
        for outcome in stream:
            done += outcome.ok
            if done == 10:
                stream.stop()
        paid = llm.calls
        report = runner.run(one, range(200))

    assert len(report.results) == 200
    assert done < 200
    assert llm.calls == 200
    assert report.stats.cache_hits == paid


def test_backends_name_themselves_without_their_keys() -> None:
    backends: list[Any] = [
        OpenAILLM(
            "gpt-5-mini",
            api_key="sk-secret",
            base_url="http://localhost/v1",
            extra_body={"token": "sk-secret"},
        ),
        VLLMServerLLM("http://localhost:8000", "qwen", api_key="sk-secret"),
        RunPodLLM("abc123def456", api_key="sk-secret"),
        OfflineLLM(),
    ]
    names = [fingerprint_of(backend) for backend in backends]

    assert len(set(names)) == 4
    assert not any("secret" in name for name in names)
    assert names[0] != fingerprint_of(OpenAILLM("gpt-5", api_key="k", base_url="http://localhost/v1"))
    tiers = [
        OpenAILLM("m", api_key="k", base_url="http://x/v1", service_tier=tier) for tier in ("flex", None)
    ]
    assert fingerprint_of(tiers[0]) == fingerprint_of(tiers[1])
    assert fingerprint_of(FakeLLM()) == "restaurant_llm_batch.testing.fakes.FakeLLM"
