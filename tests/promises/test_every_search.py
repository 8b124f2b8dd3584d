"""Fifty restaurants through each search, in all stages: the same reviews are found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from tests.support.local_server import LocalServer
from tests.support.qdrant_server import Collections, Engine, Points, grpc_server, rest
from tests.support.run_methods import by_arun, by_run, comparable, strategy_name

from restaurant_llm_batch import BatchRunner, Limits, Strategy, SummarizeAspects
from restaurant_llm_batch.backends import OfflineLLM
from restaurant_llm_batch.search import EmbeddedSearch, QdrantSearch

RUN_METHODS = [
    *((Strategy.stage(number), by_run) for number in (1, 2, 3, 4)),
    (Strategy.threaded(), by_run),
    (Strategy.stage(4), by_arun),
]
TEXTS = [
    "직원이 친절하고 음식이 맛있어요",
    "가격이 비싸요",
    "맛있어요",
    "맛있어요",
    "The soup was cold, the staff rude",
]
REVIEWS = [
    {"restaurant_id": house, "review_id": f"{house}-{n}", "content": TEXTS[(house + n) % 5]}
    for house in range(50)
    for n in range(house % 4)
]


@contextmanager
def in_memory() -> Iterator[Any]:
    yield QdrantSearch("reviews", url=":memory:")


@contextmanager
def over_rest() -> Iterator[Any]:
    with LocalServer(rest(Engine())) as server:
        yield QdrantSearch("reviews", url=server.url)


@contextmanager
def over_grpc() -> Iterator[Any]:
    engine = Engine()
    with grpc_server(Points(engine), Collections(engine)) as port:
        yield QdrantSearch("reviews", url="http://127.0.0.1", prefer_grpc=True, grpc_port=port)


@contextmanager
def in_this_process() -> Iterator[Any]:
    yield EmbeddedSearch()


def summaries(search: Any, strategy: Strategy, way: Callable[..., Any]) -> list[object]:
    runner = BatchRunner(llm=OfflineLLM(), search=search, strategy=strategy, limits=Limits(search=8))
    with runner:
        return comparable(way(runner, SummarizeAspects(language="ko"), range(50)))


@pytest.fixture(scope="module")
def expected() -> list[object]:
    """What is found in this process."""
    with in_this_process() as search:
        search.index_reviews(REVIEWS)
        return summaries(search, Strategy.stage(1), by_run)


@pytest.mark.parametrize(
    "methods",
    [pytest.param(RUN_METHODS[3:], id="some"), pytest.param(RUN_METHODS, id="all", marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("place", [in_this_process, in_memory, over_rest, over_grpc])
@pytest.mark.sample(1)
def test_fifty_restaurants_have_equal_outcomes_in_every_stage(
    place: Callable[[], Any], methods: list[Any], expected: list[object]
) -> None:
    with place() as search:
        search.index_reviews(REVIEWS)
        for strategy, way in methods:
            assert summaries(search, strategy, way) == expected, strategy_name(strategy)
        search.close()
