"""`VLLMEngineLLM` with the real vLLM in this process."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib import import_module
from time import monotonic
from typing import Any

import anyio
import pytest

from restaurant_llm_batch import BatchRunner, Limits, Strategy, Success, errors
from restaurant_llm_batch.backends.vllm.engine import VLLMEngineLLM
from restaurant_llm_batch.steps import complete

from .servers import engine_processes, until
from .test_stages import ENGINE
from .workload import TASK, Bounded, free, sample


@pytest.fixture(scope="module")
def llm(model: str) -> Iterator[VLLMEngineLLM]:
    """Share one engine for blocking calls."""
    backend = VLLMEngineLLM(model, **ENGINE)
    backend.complete(free(tokens=1))
    yield backend
    backend.close()


def unfinished(llm: VLLMEngineLLM) -> int:
    """Return how many requests the blocking engine holds."""
    assert llm._sync_engine._running is not None
    return int(llm._sync_engine._running.started.engine.llm_engine.get_num_unfinished_requests())


def test_a_prompt_that_does_not_fit_fails_alone(llm: VLLMEngineLLM) -> None:
    requests = [free(f"{number}", tokens=30) for number in range(7)]
    requests.insert(3, free("맛 " * 5000))

    def ask(number: int) -> object:
        try:
            return llm.complete(requests[number]).finish_reason in ("length", "stop")
        except errors.PromptTooLong as error:
            return type(error)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(8)))

    assert answers == [True] * 3 + [errors.PromptTooLong] + [True] * 4


def test_what_vllm_refuses_is_refused_for_good(llm: VLLMEngineLLM) -> None:
    with pytest.raises(errors.PermanentBackendError, match="temperature"):
        llm.complete(free(temperature=-1.0))
    with pytest.raises(errors.PermanentBackendError):
        llm.complete(replace(free(), schema={"type": "no such type"}))

    assert llm.complete(free(tokens=3)).completion_tokens == 3


def test_an_answer_that_does_not_fit_beside_its_prompt_is_cut_off(llm: VLLMEngineLLM) -> None:
    reply = llm.complete(free("맛 " * 1960, tokens=4000))

    assert reply.finish_reason == "length"
    assert reply.prompt_tokens + reply.completion_tokens == 4096


def test_threads_are_worked_on_together(llm: VLLMEngineLLM) -> None:
    requests = [free(f"{number}", tokens=100, temperature=0.0) for number in range(16)]
    began = monotonic()
    alone = [llm.complete(request) for request in requests]
    one_by_one = monotonic() - began
    began = monotonic()
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(llm.complete, requests))

    assert monotonic() - began < one_by_one / 2
    assert [reply.text for reply in together] == [reply.text for reply in alone]


def test_a_lower_priority_number_goes_first(llm: VLLMEngineLLM) -> None:
    ended: list[int] = []

    def ask(number: int, priority: int) -> None:
        llm.complete(free(f"{number}", tokens=400 if priority else 40, priority=priority))
        ended.append(priority)

    with ThreadPoolExecutor(72) as pool:
        for number in range(64):
            pool.submit(ask, number, 10)
        until(lambda: unfinished(llm) >= 60)
        for number in range(8):
            pool.submit(ask, number, 0)

    assert len(ended) == 72
    assert max(place for place, priority in enumerate(ended) if priority == 0) < 56


def test_ctrl_c_leaves_no_request_behind_and_the_next_answer_is_the_next_ones(llm: VLLMEngineLLM) -> None:
    wanted = free("맛", tokens=5, temperature=0.0)
    expected = llm.complete(wanted)
    # A shell that runs this in the background has Ctrl-C ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            llm.complete(free("다른", tokens=4000))
    finally:
        timer.join()
        signal.signal(signal.SIGINT, before)

    assert unfinished(llm) == 0
    assert llm.complete(wanted).text == expected.text


def on_one_engine(model: str, body: Callable[[VLLMEngineLLM], Any], **arguments: Any) -> VLLMEngineLLM:
    """Run `body` with an awaited engine, and close it."""
    llm = VLLMEngineLLM(model, **ENGINE, **arguments)

    async def main() -> None:
        try:
            await body(llm)
        finally:
            await llm.aclose()

    anyio.run(main)
    return llm


def counted(name: str) -> float:
    """Read one of vLLM's numbers in this process."""
    metrics = import_module("prometheus_client").REGISTRY.collect()
    return float(sum(sample.value for metric in metrics for sample in metric.samples if sample.name == name))


def test_the_awaited_engine_aborts_what_is_cancelled_obeys_priorities_and_serves_a_runner(model: str) -> None:
    """One test, because starting an engine takes half a minute."""
    search, restaurants = sample()

    async def cancelled(llm: VLLMEngineLLM) -> None:
        await llm.acomplete(free(tokens=1))
        before = counted("vllm:generation_tokens_total")
        async with anyio.create_task_group() as tasks:
            for number in range(4):
                tasks.start_soon(llm.acomplete, free(f"{number}", tokens=3900))
            with anyio.fail_after(30):
                while counted("vllm:generation_tokens_total") < before + 40:
                    await anyio.sleep(0.01)
            assert counted("vllm:num_requests_running") == 4
            tasks.cancel_scope.cancel()
        # The engine tells its numbers with the tokens of others.
        await llm.acomplete(free(tokens=5))
        assert counted("vllm:num_requests_running") <= 1
        assert counted("vllm:generation_tokens_total") - before < 4 * 2000

    async def urgent(llm: VLLMEngineLLM) -> None:
        ended: list[int] = []

        async def one(number: int, priority: int) -> None:
            await llm.acomplete(free(f"{number}", tokens=400 if priority else 40, priority=priority))
            ended.append(priority)

        async with anyio.create_task_group() as tasks:
            for number in range(64):
                tasks.start_soon(one, number, 10)
            with anyio.fail_after(30):
                while counted("vllm:num_requests_waiting") < 40:
                    await anyio.sleep(0.01)
            for number in range(8):
                tasks.start_soon(one, number, 0)
        assert max(place for place, priority in enumerate(ended) if priority == 0) < 56

    async def too_long(llm: VLLMEngineLLM) -> None:
        with pytest.raises(errors.PromptTooLong):
            await llm.acomplete(free("맛 " * 5000))
        with pytest.raises(errors.PermanentBackendError, match="temperature"):
            await llm.acomplete(free(temperature=-1.0))

    async def all_of_it(llm: VLLMEngineLLM) -> None:
        runner = BatchRunner(
            llm=Bounded(llm), search=search, strategy=Strategy.stage(4), limits=Limits(llm=16)
        )
        await cancelled(llm)
        await urgent(llm)
        await too_long(llm)
        report = await runner.arun(TASK, restaurants[:10])
        assert all(isinstance(outcome, Success) for outcome in report.outcomes)

    on_one_engine(model, all_of_it, disable_log_stats=False)


def test_a_runner_that_stays_open_keeps_its_awaited_engine_over_several_runs(model: str) -> None:
    search, restaurants = sample()
    others = engine_processes(os.getpid())
    ours: list[set[int]] = []
    with BatchRunner(
        llm=Bounded(VLLMEngineLLM(model, **ENGINE)), search=search, strategy=Strategy.stage(4)
    ) as runner:
        for part in (restaurants[:5], restaurants[5:10]):
            assert len(runner.run(TASK, part).results) == 5
            ours.append({process.pid for process in engine_processes(os.getpid()) if process not in others})

    assert ours[0] == ours[1] != set()
    until(lambda: all(process in others for process in engine_processes(os.getpid())))


def test_an_awaited_engine_refuses_for_now_when_its_queue_is_full_and_for_good_when_it_died(
    model: str,
) -> None:
    """One test, because starting an engine takes half a minute."""
    others = engine_processes(os.getpid())

    async def flood(llm: VLLMEngineLLM) -> None:
        statuses: list[object] = []

        async def one(number: int) -> None:
            try:
                statuses.append((await llm.acomplete(free(f"{number}", tokens=50))).finish_reason)
            except errors.TransientBackendError as error:
                statuses.append(error.status)

        async with anyio.create_task_group() as tasks:
            for number in range(30):
                tasks.start_soon(one, number)
        assert len(statuses) == 30
        assert 503 in statuses
        assert set(statuses) <= {503, "length", "stop"}
        await die(llm)

    async def die(llm: VLLMEngineLLM) -> None:
        caught: list[Exception] = []

        async def one(number: int) -> None:
            try:
                await llm.acomplete(free(f"{number}", tokens=3900))
            except errors.PermanentBackendError as error:
                caught.append(error)

        async with anyio.create_task_group() as tasks:
            for number in range(8):
                tasks.start_soon(one, number)
            await anyio.sleep(0.3)
            for process in engine_processes(os.getpid()):
                if process not in others:
                    process.kill()
        assert len(caught) == 8
        assert all("died" in str(error) for error in caught)
        await llm.aclose()
        assert (await llm.acomplete(free(tokens=3))).completion_tokens == 3

    on_one_engine(model, flood, max_num_queued_reqs=10)


def test_when_the_engine_dies_all_requests_fail_and_after_close_another_is_started(model: str) -> None:
    llm = VLLMEngineLLM(model, **ENGINE)
    search, restaurants = sample()
    runner = BatchRunner(llm=llm, search=search, strategy=Strategy.threaded(), limits=Limits(llm=8))
    others = engine_processes(os.getpid())
    llm.complete(free(tokens=1))
    ours = [process for process in engine_processes(os.getpid()) if process not in others]
    assert ours

    def kill_when_busy() -> None:
        until(lambda: unfinished(llm) == 8)
        for process in ours:
            process.kill()

    killer = threading.Thread(target=kill_when_busy)
    killer.start()
    report = runner.run(replace(TASK, max_tokens=1000), restaurants)
    killer.join()

    assert [outcome.item_id for outcome in report.outcomes] == restaurants
    assert len(report.failures) == 50
    assert all("died" in str(failure.error) for failure in report.failures)
    llm.close()
    try:
        assert llm.complete(free(tokens=3)).completion_tokens == 3
    finally:
        llm.close()


def test_an_engine_that_keeps_its_figures_says_its_load(model: str) -> None:
    llm = VLLMEngineLLM(model, **{**ENGINE, "disable_log_stats": False})
    try:
        runner = BatchRunner(llm=llm, strategy=Strategy.threaded(), limits=Limits(llm=8), watch_server=0.2)
        report = runner.run(lambda item: complete(free(f"{item}", tokens=200)), range(40))
        load = llm.metrics()
    finally:
        llm.close()
    said = report.stats.servers["llm"]

    assert len(report.results) == 40
    assert 0 < said.peak_running <= 8
    assert load.kv_tokens
    assert said.kv_tokens == load.kv_tokens
    assert (load.running, load.waiting) == (0, 0)
