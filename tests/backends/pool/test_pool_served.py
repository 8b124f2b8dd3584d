"""`LLMPool` over real sockets: three servers of 8, 16 and 24 slots, one of which dies and comes back."""

from __future__ import annotations

import threading
from collections.abc import Generator
from time import sleep
from typing import Any

import pytest
from tests.support.patience import wait_until

from restaurant_llm_batch import AdaptiveLimit, BatchRunner, LLMRequest, Strategy
from restaurant_llm_batch.backends import LLMPool, OpenAILLM, RunPodLLM, VLLMServerLLM
from restaurant_llm_batch.backends.runpod.llm import PollingPolicy
from restaurant_llm_batch.events import CallEnded, Event
from restaurant_llm_batch.steps import complete
from restaurant_llm_batch.testing.server import Faults, FaultServer

SLOTS = (8, 16, 24)


def ask(item: int) -> Generator[Any, Any, str]:
    reply = yield from complete(LLMRequest("ask", ({"role": "user", "content": f"맛은? {item}"},)))
    return str(reply.text)


def test_services_of_three_kinds_answer_as_one() -> None:
    with FaultServer(Faults(latency=0.002, limit=4)) as one, FaultServer() as two, FaultServer() as three:
        pool = LLMPool(
            {
                "vllm": VLLMServerLLM(one.url, "tiny"),
                "openai": OpenAILLM("tiny", base_url=two.openai_url, api_key="k"),
                "runpod": RunPodLLM(
                    "ep", api_key="k", base_url=three.runpod_url, polling=PollingPolicy(0.01, 1.5, 0.05)
                ),
            },
            limits=3,
        )
        for strategy in (Strategy.stage(4), Strategy.threaded()):
            with BatchRunner(llm=pool, strategy=strategy) as runner:
                report = runner.run(ask, range(40))
            assert len(report.results) == 40
            assert set(report.stats.endpoints) == {"vllm", "openai", "runpod"}
        assert one.counts.peak <= 3


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [Strategy.stage(4), Strategy.threaded()], ids=str)
def test_a_server_that_dies_and_comes_back_costs_no_item(strategy: Strategy) -> None:
    servers = [FaultServer(Faults(latency=0.1, limit=slots)) for slots in SLOTS]
    dying, events = servers[2], list[Event]()
    for server in servers:
        server.start()
    pool = LLMPool([VLLMServerLLM(server.url, "tiny") for server in servers], limits=AdaptiveLimit())

    def die_and_come_back() -> None:
        wait_until(lambda: dying.counts.answered > 100)
        dying.stop()
        sleep(1.5)
        dying.start()

    killer = threading.Thread(target=die_and_come_back)
    killer.start()
    try:
        with BatchRunner(llm=pool, strategy=strategy, observers=[events.append]) as runner:
            report = runner.run(ask, range(1500))
        killer.join()
    finally:
        killer.join()
        for server in servers:
            server.stop()

    assert len(report.results) == 1500
    answered = [event for event in events if isinstance(event, CallEnded) and event.error is None]
    assert len(answered) == 1500
    assert all(server.counts.peak <= slots for server, slots in zip(servers, SLOTS, strict=True))
    assert pool.statistics()["vllm-3"].times_out >= 1
