"""Fifty restaurants through each model's service, over a real socket and with faults, in all stages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.support.chat_service import ChatService
from tests.support.local_server import LocalServer
from tests.support.run_methods import by_arun, by_run, comparable, strategy_name

from restaurant_llm_batch import BatchRunner, Limits, RetryPolicy, Strategy, SummarizeAspects, errors
from restaurant_llm_batch.backends import OpenAILLM, VLLMServerLLM
from restaurant_llm_batch.testing import FakeSearch

MODELS: dict[str, Callable[[str], Any]] = {
    "vllm": lambda url: VLLMServerLLM(url),
    "openai": lambda url: OpenAILLM("tiny", base_url=f"{url}/v1", api_key="hush"),
}
RUN_METHODS = [
    *((Strategy.stage(number), by_run) for number in (1, 2, 3, 4)),
    (Strategy.threaded(), by_run),
    (Strategy.stage(4), by_arun),
]
PATIENT = RetryPolicy(attempts=3, wait_initial=0.001, wait_max=0.002)
SEARCH = FakeSearch(lambda restaurant: [f"{restaurant}번 집 맛있어요", "가격이 <비싸요>"])


@pytest.mark.parametrize("model", MODELS)
def test_fifty_restaurants_have_equal_outcomes_in_every_stage(model: str) -> None:
    outcomes = {}
    for strategy, way in RUN_METHODS:
        service = ChatService()
        with LocalServer(service) as server:
            runner = BatchRunner(
                llm=MODELS[model](server.url),
                search=SEARCH,
                strategy=strategy,
                limits=Limits(llm=8),
                llm_retry=PATIENT,
            )
            with runner:
                found = way(runner, SummarizeAspects(), range(50))
        outcomes[f"{strategy_name(strategy)} {way.__name__}"] = comparable(found)
        assert server.peak <= 8
        assert max(service.paid.values()) == 1, "nothing is paid twice"
    first = outcomes.pop("none by_run")
    assert len(first) == 50
    assert [entry[2] for entry in first if isinstance(entry, tuple) and isinstance(entry[2], type)] == [
        errors.PromptTooLong,
        errors.TransientBackendError,
        errors.OutputTruncated,
    ] * 3
    for name, others in outcomes.items():
        assert others == first, name
