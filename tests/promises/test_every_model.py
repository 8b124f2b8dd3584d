"""Fifty restaurants through each model's service, over a real socket and with faults, in all stages."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from tests.support.run_methods import by_arun, by_run, comparable, strategy_name

from restaurant_llm_batch import BatchRunner, Limits, RetryPolicy, Strategy, SummarizeAspects, errors
from restaurant_llm_batch.backends import OpenAILLM, VLLMServerLLM
from restaurant_llm_batch.testing import FakeSearch
from restaurant_llm_batch.testing.server import ChatRequest, FaultKind, Faults, FaultServer

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
SEARCH = FakeSearch(
    lambda restaurant: [f"{restaurant}번 집 맛있어요", f"{restaurant}번 집은 가격이 <비싸요>"]
)


def fault(asked: ChatRequest) -> FaultKind | None:
    """Return the fault of a try by the number of the restaurant, modulo 20."""
    number = re.search(r"(\d+)번 집", str(asked.messages))
    if number is None:
        return None  # an overall summary of aspects, which names no restaurant
    match int(number[1]) % 20:
        case 0 if asked.attempt == 1:
            return "unavailable"
        case 1 if asked.attempt < 3:
            return "rate_limited"
        case 2 if asked.attempt == 1:
            return "disconnect"
        case 3:
            return "context_length_exceeded"
        case 4:
            return "server_error"
        case 5 if asked.attempt == 1:
            return "reset"
        case 6:
            return "truncated"
    return None


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.slow
def test_fifty_restaurants_have_equal_outcomes_in_every_stage(model: str) -> None:
    outcomes = {}
    for strategy, way in RUN_METHODS:
        with FaultServer(Faults(plan=fault)) as server:
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
        counts = server.counts
        assert counts.peak <= 8
        # 41 restaurants once; the 3 whose answers are cut off, once more for each of the two missing aspects, and for
        # the overall summary.
        assert (counts.answered, counts.duplicates) == (53, 0), "nothing is paid twice"
    first = outcomes.pop("none by_run")
    assert len(first) == 50
    assert [entry[2] for entry in first if isinstance(entry, tuple) and isinstance(entry[2], type)] == [
        errors.PromptTooLong,
        errors.TransientBackendError,
    ] * 3
    for name, others in outcomes.items():
        assert others == first, name
