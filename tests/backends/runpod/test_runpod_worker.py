"""Against the RunPod SDK's real worker loop: what real workers send is what this library reads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import anyio
import pytest
from tests.support.patience import wait_until
from tests.support.runpod_server import KEY, WORKER, Dispatcher, asking, worker_environment

from restaurant_llm_batch import AnalyzeSentiment, BatchRunner, Limits, LLMRequest, LLMResponse, Strategy
from restaurant_llm_batch.backends.runpod.llm import PollingPolicy, RunPodLLM
from restaurant_llm_batch.errors import (
    BackendError,
    PermanentBackendError,
    PromptTooLong,
    RateLimited,
    TransientBackendError,
)
from restaurant_llm_batch.steps import Flow, complete

Ask = Callable[[LLMRequest], LLMResponse]


@pytest.fixture(scope="module")
def dispatchers() -> Iterator[dict[str, Dispatcher]]:
    """One worker of each kind, for all tests of this file; they take two seconds to start."""
    with ExitStack() as stack:
        made: dict[str, Dispatcher] = {}
        for handler in ("worker-vllm", "plain"):
            made[handler] = stack.enter_context(Dispatcher(script=None))
            child = subprocess.Popen(
                [sys.executable, str(WORKER)],
                env={**os.environ, **worker_environment(made[handler], handler)},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # the SDK sends its heartbeat from a process of its own
            )
            stack.callback(child.wait)
            stack.callback(os.killpg, child.pid, signal.SIGKILL)
        wait_until(lambda: all(dispatcher.worker_polls for dispatcher in made.values()))
        yield made


@pytest.fixture
def dispatcher(dispatchers: dict[str, Dispatcher]) -> Dispatcher:
    """The one with a worker shaped like worker-vllm."""
    return dispatchers["worker-vllm"]


def client(dispatcher: Dispatcher, **more: Any) -> RunPodLLM:
    """Return a quick client."""
    return RunPodLLM(
        "ep",
        api_key=KEY,
        base_url=dispatcher.base_url,
        polling=PollingPolicy(0.02, 1.2, 0.1),
        timeout=20,
        **more,
    )


def _awaited(llm: RunPodLLM) -> Ask:
    async def one(request: LLMRequest) -> LLMResponse:
        try:
            return await llm.acomplete(request)
        finally:
            await llm.aclose()

    return lambda request: anyio.run(one, request)


@pytest.fixture(params=["blocking", "awaited"])
def ask(request: pytest.FixtureRequest, dispatcher: Dispatcher) -> Iterator[Ask]:
    """Ask sync or async."""
    llm = client(dispatcher, model="qwen")
    yield llm.complete if request.param == "blocking" else _awaited(llm)
    llm.close()


@pytest.mark.parametrize("kind", ["new", "old"])
@pytest.mark.sample(2)
def test_both_generations_answer(ask: Ask, kind: str) -> None:
    assert ask(asking(f"{kind}: 맛있어요")) == LLMResponse("맛있어요", "stop", 11, 5, "qwen")


def test_the_old_generations_own_output_is_read(ask: Ask) -> None:
    assert ask(asking("native: 맛있어요")) == LLMResponse("맛있어요", "stop", 22, 16, "qwen")


def test_a_progress_update_is_not_the_answer(ask: Ask, dispatcher: Dispatcher) -> None:
    assert ask(asking("progress: all of it")).text == "all of it"
    assert dispatcher.progress_updates >= 1


@pytest.mark.parametrize(
    ("question", "kind", "words"),
    [
        ("new 400: x", PromptTooLong, "maximum context length"),
        ("old 400: x", PromptTooLong, "maximum context length"),
        ("older 400: x", PromptTooLong, "maximum context length"),
        ("new 503: x", RateLimited, "queue is full"),
        ("new gone: x", TransientBackendError, "not running"),
        ("old text: CUDA error", PermanentBackendError, "CUDA error"),
        ("raise: boom", PermanentBackendError, "boom"),
    ],
)
@pytest.mark.sample(7)
def test_failures_say_what_they_mean(ask: Ask, question: str, kind: type[Exception], words: str) -> None:
    with pytest.raises(BackendError, match=words) as caught:
        ask(asking(question))
    assert type(caught.value) is kind
    assert "Traceback" not in str(caught.value)


def test_a_handler_of_ones_own_is_understood_or_told_apart(dispatchers: dict[str, Dispatcher]) -> None:
    llm = client(dispatchers["plain"])
    assert llm.complete(asking("completion: 맛")).text == "맛"
    with pytest.raises(PermanentBackendError, match=r"ValueError.*boom"):
        llm.complete(asking("raise: boom"))
    with pytest.raises(PermanentBackendError, match="worker-vllm"):
        llm.complete(asking("text: only a string"))
    llm.close()


def test_a_cancelled_job_is_stopped_at_the_worker(dispatcher: Dispatcher) -> None:
    llm = client(dispatcher)

    async def main() -> None:
        with anyio.move_on_after(10) as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(llm.acomplete, asking("slow: 30"))
                while not [work for work in dispatcher.alive() if work.status == "IN_PROGRESS"]:
                    await anyio.sleep(0.01)
                scope.cancel()
        await llm.aclose()

    anyio.run(main)
    (work,) = [work for work in dispatcher.jobs.values() if work.question == "slow: 30"]
    assert work.status == "CANCELLED"
    wait_until(lambda: work.stopped)


@pytest.mark.parametrize("strategy", [Strategy.stage(4), Strategy.threaded()])
@pytest.mark.sample(1)
def test_fifty_restaurants_pass_through_the_runner(dispatcher: Dispatcher, strategy: Strategy) -> None:
    def flow(item: int) -> Flow[str]:
        reply = yield from complete(asking(f"new: restaurant {item}"))
        return reply.text

    llm = client(dispatcher)
    with BatchRunner(llm=llm, strategy=strategy, limits=Limits(llm=25)) as runner:
        report = runner.run(flow, range(50))
    assert report.results == [f"restaurant {item}" for item in range(50)]
    assert dispatcher.alive() == []


FORMS = (
    "text",
    "object",
    "generated",
    "output",
    "response",
    "choices",
    "chat",
    "success",
    "parsed",
    "pieces",
    "vllm",
)
"""How a worker of one's own may pack its answer; see tests/support/runpod_worker.py."""


@pytest.mark.parametrize(
    "strategy", [Strategy(restaurant_async=True), Strategy.stage(4)], ids=["sync", "async"]
)
@pytest.mark.sample(1)
def test_fifty_restaurants_are_labelled_by_a_worker_that_takes_prompts(
    dispatchers: dict[str, Dispatcher], strategy: Strategy
) -> None:
    worker = dispatchers["plain"]
    items = [
        {"restaurant_id": n, "reviews": [f"식당 {n}: packed as {FORMS[n % len(FORMS)]}", "맛있어요"]}
        for n in range(50)
    ]
    task = AnalyzeSentiment(language="en" if strategy.llm_async else "ko")
    with BatchRunner(
        llm=client(worker, input_form="prompt"), strategy=strategy, limits=Limits(batches=25)
    ) as runner:
        report = runner.run(task, items)
    assert [result.restaurant_id for result in report.results] == list(range(50)), report.failures[:1]
    assert {(result.positive_count, result.failed_count) for result in report.results} == {(2, 0)}
    assert worker.alive() == []


def test_a_worker_that_says_error_fails_its_restaurant_alone(dispatchers: dict[str, Dispatcher]) -> None:
    worker = dispatchers["plain"]
    items = [
        {"restaurant_id": n, "reviews": [f"packed as {form}"]} for n, form in enumerate(("text", "error"))
    ]
    with BatchRunner(llm=client(worker, input_form="prompt"), strategy=Strategy.stage(4)) as runner:
        report = runner.run(AnalyzeSentiment(language="ko"), items)
    assert [result.restaurant_id for result in report.results] == [0]
    assert "the model is not here" in str(report.failures[0].error)
