"""Backends that cannot be called at all: the run stops at the first call, with the reason."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from restaurant_llm_batch import (
    AnalyzeSentiment,
    BatchRunner,
    Hit,
    LLMRequest,
    LLMResponse,
    SearchQuery,
    Strategy,
    SummarizeAspects,
)
from restaurant_llm_batch.backends import OpenAILLM, RunPodLLM, VLLMServerLLM
from restaurant_llm_batch.errors import ConfigurationError, RunStopped
from restaurant_llm_batch.search import EmbeddedSearch
from restaurant_llm_batch.steps import Flow, search
from restaurant_llm_batch.testing import FakeLLM

STRATEGIES = {
    "stage 1": Strategy.stage(1),
    "stage 4": Strategy.stage(4),
    "threaded": Strategy.threaded(),
}
every_strategy = pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
ITEMS = [{"restaurant_id": number, "reviews": ["좋다"]} for number in range(300)]
MAKERS = {
    "openai": lambda: OpenAILLM("m", base_url="http://service.example/v1", api_key="none"),
    "vllm": lambda: VLLMServerLLM("http://service.example", "m"),
    "runpod": lambda: RunPodLLM("ep", api_key="rpa_none"),
}


class Wrong:
    """A backend that is configured wrongly."""

    def complete(self, request: LLMRequest) -> LLMResponse:
        raise ConfigurationError("there is no such engine")

    def search(self, query: SearchQuery) -> Sequence[Hit]:
        raise ConfigurationError("there is no such index")


@every_strategy
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.sample(2)
def test_a_proxy_that_cannot_be_used_stops_the_run(
    make: object, strategy: Strategy, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "socks5://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "")

    report = BatchRunner(llm=make(), strategy=strategy).run(AnalyzeSentiment(), ITEMS)  # type: ignore[operator]

    assert "socks5" in str(report.stats.stopped_because)
    assert len(report.outcomes) < len(ITEMS) or isinstance(report.failures[-1].error, RunStopped)


def test_the_first_wrong_call_is_the_last() -> None:
    report = BatchRunner(llm=Wrong()).run(AnalyzeSentiment(), ITEMS)

    assert report.stats.stopped_because == "ConfigurationError: there is no such engine"
    assert report.stats.calls == {"llm": 1}


def test_a_search_backend_that_is_configured_wrongly_stops_the_run() -> None:
    report = BatchRunner(llm=FakeLLM(), search=Wrong()).run(SummarizeAspects(), range(300))

    assert report.stats.stopped_because == "ConfigurationError: there is no such index"


@every_strategy
def test_a_query_of_one_item_that_is_wrong_fails_that_item_only(strategy: Strategy) -> None:
    def task(item: object) -> Flow[int]:
        category = " " if item == 1 else "한식"
        return len((yield from search(SearchQuery(1, "맛", scope="others", category=category))))

    with EmbeddedSearch() as index:
        index.index_reviews([{"restaurant_id": 1, "review_id": 1, "content": "맛있다", "category": "한식"}])
        report = BatchRunner(llm=FakeLLM(), search=index, strategy=strategy).run(task, range(5))

    assert report.stats.stopped_because is None
    assert [failure.item_id for failure in report.failures] == [1]
    assert "category is blank" in str(report.failures[0].error)
