"""FastAPI router with the tasks as HTTP endpoints (`batch_router`); needs the extra ``fastapi``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from math import inf
from typing import Annotated, Any

try:
    from fastapi import APIRouter, Body, Response
except ModuleNotFoundError as _error:
    raise ModuleNotFoundError(
        "this needs FastAPI: pip install 'restaurant-llm-batch[fastapi]'", name="fastapi"
    ) from _error

from .._runner import BatchRunner
from ..errors import ConfigurationError
from ..tasks.reviews import SummarizeReviews
from ..tasks.sentiment import AnalyzeSentiment
from ..tasks.strengths import ExtractStrengths
from ..tasks.summary import SummarizeAspects
from ._fastapi import openapi as openapi_examples
from ._fastapi.bounds import Bounds
from ._fastapi.jobs import TaskSet
from ._fastapi.request import BatchRequest, routes_within
from ._fastapi.requests import (
    SentimentAnalysisBatchRequest,
    StrengthBatchRequest,
    SummaryRequest,
    UnlessChecked,
)
from ._fastapi.respond import run_and_respond
from ._fastapi.responses import SentimentAnalysisBatchResponse, StrengthBatchResponse, SummaryBatchResponse

MAX_BODY_BYTES = 8 * 2**20
MAX_ITEMS = 200
MAX_REVIEWS = 10_000
MAX_CALLS = 1_000
BODY_TIMEOUT = 60.0

Summaries = Annotated[SummaryRequest, UnlessChecked, Body(openapi_examples=openapi_examples.SUMMARY_REQUESTS)]
Sentiments = Annotated[
    SentimentAnalysisBatchRequest,
    UnlessChecked,
    Body(openapi_examples=openapi_examples.SENTIMENT_REQUESTS),
]
Strengths = Annotated[
    StrengthBatchRequest, UnlessChecked, Body(openapi_examples=openapi_examples.STRENGTH_REQUESTS)
]


def batch_router(
    runner: BatchRunner,
    *,
    summary: SummarizeAspects = SummarizeAspects(),
    review_summary: SummarizeReviews = SummarizeReviews(),
    sentiment: AnalyzeSentiment = AnalyzeSentiment(),
    strengths: ExtractStrengths = ExtractStrengths(),
    max_body_bytes: int = MAX_BODY_BYTES,
    max_items: int = MAX_ITEMS,
    max_reviews: int = MAX_REVIEWS,
    max_calls: int = MAX_CALLS,
    body_timeout: float = BODY_TIMEOUT,
    prefix: str = "/api/v1",
) -> APIRouter:
    """
    Return a router with the batch endpoints, for ``app.include_router``.

    ``POST {prefix}/llm/summarize/batch``, ``POST {prefix}/sentiment/analyze/batch`` and
    ``POST {prefix}/llm/extract/strengths/batch`` take many restaurants each and respond with a result or a failure
    for each. All requests share the runner and its limits. If a client disconnects, the calls of its request are
    cancelled. The router keeps the runner open for the lifespan of the application.

    Args:
        runner: Runs the tasks.
        summary: Task for summaries of reviews found by search; a request sets its `limit` and `min_score`.
        review_summary: Task for summaries of reviews in the request.
        sentiment: Task for sentiment labels.
        strengths: Task for strengths.
        max_body_bytes: Maximum size of a request body in bytes; a larger one gets status 413. All bodies that are open
            at once may have 8 times as much; beyond that, large ones get status 503.
        max_items: Maximum number of restaurants in a request; more get status 413.
        max_reviews: Maximum number of reviews in a request, over all of its restaurants; more get status 413.
        max_calls: Maximum number of calls of the model that the reviews of a request may need, as estimated from
            their lengths and the token budget of a batch; more get status 413.
        body_timeout: Maximum seconds until the body of a request has arrived; then it gets status 408.
        prefix: Common prefix of the paths.

    Raises:
        ConfigurationError: An argument has the wrong type or is below 1.
    """
    _check("runner", runner, BatchRunner)
    _check("summary", summary, SummarizeAspects)
    _check("review_summary", review_summary, SummarizeReviews)
    _check("sentiment", sentiment, AnalyzeSentiment)
    _check("strengths", strengths, ExtractStrengths)
    bounds = Bounds(
        _count("max_body_bytes", max_body_bytes),
        _count("max_items", max_items),
        _count("max_reviews", max_reviews),
        _count("max_calls", max_calls),
        _seconds("body_timeout", body_timeout),
    )
    tasks = TaskSet(
        summary, review_summary, sentiment, strengths, runner.can_search, runner.limits, bounds.check_calls
    )

    @asynccontextmanager
    async def open_runner(_app: Any) -> AsyncIterator[None]:
        async with runner:
            yield

    router = APIRouter(
        prefix=prefix, tags=["restaurants"], route_class=routes_within(bounds), lifespan=open_runner
    )
    common: dict[str, Any] = {"openapi_extra": {"parameters": openapi_examples.PARAMETERS}}

    @router.post(
        "/llm/summarize/batch",
        response_model=SummaryBatchResponse,
        responses=openapi_examples.responses(openapi_examples.SUMMARY_ANSWER),
        **common,
    )
    async def summarize_batch(request: BatchRequest, body: Summaries) -> Response:
        """
        Summarise restaurants.

        By aspect and overall, from reviews found by search; or by polarity and overall, from the reviews in the
        request. A request does one or the other for all of its restaurants.
        """
        return await run_and_respond(request, runner, partial(tasks.summaries, body))

    @router.post(
        "/sentiment/analyze/batch",
        response_model=SentimentAnalysisBatchResponse,
        responses=openapi_examples.responses(openapi_examples.SENTIMENT_ANSWER),
        **common,
    )
    async def analyze_sentiment_batch(request: BatchRequest, body: Sentiments) -> Response:
        """
        Count the positive, negative and neutral reviews of restaurants.

        Every review is counted: `failed_count` has those that could not be labelled.
        """
        return await run_and_respond(request, runner, partial(tasks.sentiments, body))

    @router.post(
        "/llm/extract/strengths/batch",
        response_model=StrengthBatchResponse,
        responses=openapi_examples.responses(openapi_examples.STRENGTH_ANSWER),
        **common,
    )
    async def extract_strengths_batch(request: BatchRequest, body: Strengths) -> Response:
        """
        Derive the strengths of restaurants over other restaurants.

        Reviews that the request leaves out are found by search: the restaurant's own, and those of other restaurants.
        """
        return await run_and_respond(request, runner, partial(tasks.comparisons, body))

    return router


def _check(name: str, value: object, kind: type) -> None:
    if not isinstance(value, kind):
        raise ConfigurationError(f"{name} must be a {kind.__name__}, got {value!r}")


def _count(name: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigurationError(f"{name} must be a whole number of at least 1, got {value!r}")
    return value


def _seconds(name: str, value: object) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < inf:
        raise ConfigurationError(f"{name} must be a number of seconds above 0, got {value!r}")
    return value
