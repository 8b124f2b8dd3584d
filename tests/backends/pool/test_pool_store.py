"""`LLMPool` and a store: replies are those of a model, wherever it is, and never those of another one."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from restaurant_llm_batch import BatchRunner, LLMRequest, LLMResponse, Store, Strategy, errors
from restaurant_llm_batch._store.identity import fingerprint_of, model_fingerprint_of, models_of
from restaurant_llm_batch._store.journal import CURRENT_JOURNAL
from restaurant_llm_batch._store.keys import request_key
from restaurant_llm_batch._store.writer import CommitFuture
from restaurant_llm_batch.backends import LLMPool, OpenAILLM, PollingPolicy, RunPodLLM, VLLMServerLLM
from restaurant_llm_batch.events import CacheHit, CallEnded, Event
from restaurant_llm_batch.steps import complete, gather
from restaurant_llm_batch.testing.server import Faults, FaultServer

STRATEGIES = [Strategy.stage(1), Strategy.stage(4), Strategy.threaded()]


class Model:
    """A model at an address; its replies name both."""

    def __init__(self, model: str, address: str) -> None:
        self.model = model
        self.address = address
        self.calls = 0
        self.down = False

    @property
    def fingerprint(self) -> str:
        return f"{self.model} at {self.address}"

    @property
    def model_fingerprint(self) -> str:
        return self.model

    def complete(self, request: LLMRequest) -> LLMResponse:
        self.calls += 1
        if self.down:
            raise errors.TransientBackendError("down")
        return LLMResponse(f"{self.model} at {self.address}", model=self.model)

    async def acomplete(self, request: LLMRequest) -> LLMResponse:
        return self.complete(request)


def ask(item: int) -> Generator[Any, Any, str]:
    reply = yield from complete(LLMRequest("ask", ({"role": "user", "content": str(item)},)))
    return str(reply.text)


def run(llm: Any, store: Path, strategy: Strategy = STRATEGIES[1]) -> tuple[list[str], int, list[Event]]:
    """Return the replies to nine questions, how many were in the store, and the events."""
    events: list[Event] = []
    with BatchRunner(llm=llm, store=store, strategy=strategy, observers=[events.append]) as runner:
        report = runner.run(ask, range(9))
    report.raise_for_failures()
    return report.results, report.stats.cache_hits, events


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_replies_of_equal_models_are_the_same_at_any_address(tmp_path: Path, strategy: Strategy) -> None:
    store = tmp_path / "store.db"
    first, hits, _ = run(LLMPool([Model("m", "a"), Model("m", "b")]), store, strategy)
    assert hits == 0

    again, hits, _ = run(LLMPool([Model("m", "c"), Model("m", "d"), Model("m", "e")]), store, strategy)
    assert (hits, again) == (9, first)
    alone, hits, _ = run(LLMPool([Model("m", "a")]), store, strategy)
    assert (hits, alone) == (9, first)


@pytest.mark.sample(1)
@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_replies_of_different_models_are_never_mixed_up(tmp_path: Path, strategy: Strategy) -> None:
    store = tmp_path / "store.db"
    pool = LLMPool([Model("small", "a"), Model("large", "b")], limits=1, weights=[1, 1])
    first, _, events = run(pool, store, strategy)
    by_model = {reply.partition(" ")[0] for reply in first}
    assert by_model == {"small", "large"}
    assert all(
        event.reply is not None and event.reply.model in event.reply.text
        for event in events
        if isinstance(event, CallEnded)
    )

    again, hits, events = run(LLMPool([Model("large", "x"), Model("small", "y")]), store, strategy)
    assert (hits, again) == (9, first)  # in any order, at any address
    keys = {event.key for event in events if isinstance(event, CacheHit)}
    assert len(keys) == 9

    large = sum(reply.startswith("large") for reply in first)
    replies, hits, _ = run(LLMPool([Model("large", "z")]), store, strategy)
    assert hits == large
    assert all(reply.startswith("large") for reply in replies)
    replies, hits, _ = run(LLMPool([Model("other", "a")]), store, strategy)
    assert hits == 0


def test_replies_from_before_there_was_a_pool_are_found(tmp_path: Path) -> None:
    store = tmp_path / "store.db"
    first, _, _ = run(Model("m", "a"), store)
    models = [Model("m", "b"), Model("m", "a")]
    again, hits, _ = run(LLMPool(models), store)

    assert (hits, again) == (9, first)
    assert [model.calls for model in models] == [0, 0]


def test_a_reply_is_kept_under_the_model_that_gave_it_after_another_had_failed(tmp_path: Path) -> None:
    store = tmp_path / "store.db"
    broken = Model("small", "a")
    broken.down = True
    replies, _, _ = run(LLMPool([broken, Model("large", "b")]), store)
    assert set(replies) == {"large at b"}

    assert run(LLMPool([Model("small", "a")]), store)[1] == 0
    assert run(LLMPool([Model("large", "c")]), store)[1] == 9


def test_equal_questions_in_flight_are_asked_once(tmp_path: Path) -> None:
    def same(item: int) -> Generator[Any, Any, Any]:
        questions = (complete(LLMRequest("ask", ({"role": "user", "content": "same"},))) for _ in range(4))
        return (yield from gather(*questions))

    models = [Model("small", "a"), Model("large", "b")]
    with BatchRunner(llm=LLMPool(models), store=tmp_path / "s.db", strategy=Strategy.stage(4)) as runner:
        report = runner.run(same, range(5))

    assert len(report.results) == 5
    assert sum(model.calls for model in models) == 1


def test_the_fingerprints_of_services_leave_the_address_out_if_they_know_the_model() -> None:
    def openai(url: str) -> OpenAILLM:
        return OpenAILLM("m", api_key="k", base_url=url)

    assert model_fingerprint_of(openai("http://a/v1")) == model_fingerprint_of(openai("http://b/v1"))
    assert fingerprint_of(openai("http://a/v1")) != fingerprint_of(openai("http://b/v1"))
    assert model_fingerprint_of(VLLMServerLLM("http://a", "m")) == model_fingerprint_of(
        VLLMServerLLM("http://b", "m")
    )
    assert model_fingerprint_of(VLLMServerLLM("http://a")) != model_fingerprint_of(VLLMServerLLM("http://b"))
    one, two = (RunPodLLM(name, api_key="k", model="m") for name in ("a", "b"))
    assert model_fingerprint_of(one) == model_fingerprint_of(two)
    assert model_fingerprint_of(RunPodLLM("a", api_key="k")) != model_fingerprint_of(
        RunPodLLM("b", api_key="k")
    )
    pool = LLMPool([openai("http://a/v1"), openai("http://b/v1")])
    assert pool.fingerprint == model_fingerprint_of(openai("http://c/v1"))
    mixed = LLMPool([one, openai("http://a/v1")])
    assert mixed.fingerprint == LLMPool([openai("http://b/v1"), two]).fingerprint
    assert "k" not in mixed.fingerprint.split()


def test_a_call_whose_job_is_at_an_endpoint_goes_there() -> None:
    request = LLMRequest("ask", ({"role": "user", "content": "?"},))
    one, two = (RunPodLLM(name, api_key="k", model="m") for name in ("a", "b"))
    models = models_of([OpenAILLM("m", api_key="k"), one, two], "pool")

    assert list(models.job_fingerprints) == [1, 2]
    assert models.job_fingerprints[2](request) == two.job_fingerprint(request) != one.job_fingerprint(request)


@pytest.mark.parametrize("strategy", [Strategy.stage(1), Strategy.stage(4)], ids=str)
def test_a_job_of_an_earlier_run_is_collected_at_its_endpoint_and_not_paid_for_again(
    tmp_path: Path, strategy: Strategy
) -> None:
    request = LLMRequest("ask", ({"role": "user", "content": "0"},))
    with FaultServer(Faults(latency=0.01)) as one, FaultServer(Faults(latency=0.01)) as two:
        quick = PollingPolicy(0.01, 1.5, 0.05)
        endpoints = [
            RunPodLLM(f"ep{number}", api_key="k", model="m", base_url=server.runpod_url, polling=quick)
            for number, server in enumerate((one, two))
        ]
        pool = LLMPool(endpoints, fallback=True)  # which prefers the first one
        jobs: list[str] = []

        class Noting:
            def claim(self, fingerprint: str) -> None:
                return None

            def record(self, fingerprint: str, job_id: str) -> None:
                jobs.append(job_id)

            def release(self, job_id: str) -> None: ...

            def discard(self, job_id: str) -> None: ...

        token = CURRENT_JOURNAL.set(Noting())
        try:
            endpoints[1].complete(request)  # a run that is killed before it has stored the reply
        finally:
            CURRENT_JOURNAL.reset(token)
        store = Store(tmp_path / "store.db")
        fingerprint = endpoints[1].job_fingerprint(request)
        committed = CommitFuture()
        store.record_job(
            request_key(pool.fingerprint, request), fingerprint, f"{fingerprint} {jobs[0]}", committed
        )
        committed.result()
        with BatchRunner(llm=pool, store=store, strategy=strategy) as runner:
            report = runner.run(ask, [0])

    assert len(report.results) == 1
    assert sum(one.counts.jobs.values()) == 0
    assert sum(two.counts.jobs.values()) == 1
