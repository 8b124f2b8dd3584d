"""A blocking backend learns that its run has given it up, in every mode that has worker threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from tests.support.patience import PATIENCE

from restaurant_llm_batch import BatchRunner, Limits, LLMRequest, LLMResponse, Strategy, errors
from restaurant_llm_batch.cancellation import CancelToken, cancel_requested, run_with_token, sleep
from restaurant_llm_batch.steps import Flow, complete

THREADED = {
    "stage 2": Strategy.stage(2),
    "restaurants": Strategy(restaurant_async=True),
    "threaded": Strategy.threaded(),
}


class Patient:
    """Waits in its call for as long as the test runs, unless it is told that nobody hears the answer."""

    def __init__(self) -> None:
        self.waiting = threading.Event()
        self.tidied = threading.Event()
        self.told: BaseException | None = None

    def complete(self, request: LLMRequest) -> LLMResponse:
        self.waiting.set()
        try:
            sleep(50)
        except errors.RunStopped as error:
            assert cancel_requested()
            self.told = error
            raise
        finally:
            self.tidied.set()
        raise AssertionError("it was not told")


def ask(item: int) -> Flow[str]:
    reply = yield from complete(LLMRequest("t", ()))
    return reply.text


def by_closing_the_stream(runner: BatchRunner, llm: Patient) -> None:
    stream = runner.stream(ask, iter([1]))
    reading = threading.Thread(target=lambda: list(stream), daemon=True)
    reading.start()
    assert llm.waiting.wait(PATIENCE)
    stream.close()
    reading.join(PATIENCE)
    assert not reading.is_alive()


def by_cancelling_arun(runner: BatchRunner, llm: Patient) -> None:
    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(runner.arun, ask, [1])
            await anyio.to_thread.run_sync(llm.waiting.wait)
            tasks.cancel_scope.cancel()

    anyio.run(main)


@pytest.mark.sample(2)
@pytest.mark.parametrize("strategy", THREADED.values(), ids=THREADED.keys())
@pytest.mark.parametrize("give_up", [by_closing_the_stream, by_cancelling_arun])
def test_a_cancelled_call_is_notified_at_once(
    strategy: Strategy, give_up: Callable[[BatchRunner, Patient], Any]
) -> None:
    llm = Patient()
    give_up(BatchRunner(llm=llm, strategy=strategy, limits=Limits(llm=1)), llm)
    assert llm.tidied.wait(PATIENCE)
    assert isinstance(llm.told, errors.RunStopped)


def test_outside_a_run_a_wait_is_only_a_wait() -> None:
    sleep(0.0)
    assert not cancel_requested()


def test_a_call_that_is_cancelled_before_it_sleeps_is_notified_too() -> None:
    given_up = CancelToken()
    given_up.set()
    with pytest.raises(errors.RunStopped):
        run_with_token(given_up, lambda: sleep(50))
    assert not cancel_requested()
