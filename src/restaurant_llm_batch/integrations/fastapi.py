"""The tasks as paths of a FastAPI application; needs the extra ``fastapi``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated, Any

try:
    from fastapi import APIRouter, Body, Response
except ModuleNotFoundError as _error:
    raise ModuleNotFoundError(
        "this needs FastAPI; write pip install 'restaurant-llm-batch[fastapi]'", name="fastapi"
    ) from _error

from .._runner import BatchRunner
from ..errors import ConfigurationError
from ..tasks.reviews import SummarizeReviews
from ..tasks.sentiment import AnalyzeSentiment
from ..tasks.strengths import ExtractStrengths
from ..tasks.summary import SummarizeAspects
from ._fastapi import openapi as documents
from ._fastapi.jobs import TaskSet
from ._fastapi.request import BatchRequest, Bounds, routes_within
from ._fastapi.requests import SentimentAnalysisBatchRequest, StrengthBatchRequest, SummaryRequest
from ._fastapi.respond import run_and_respond
from ._fastapi.responses import SentimentAnalysisBatchResponse, StrengthBatchResponse, SummaryBatchResponse

MAX_BODY_BYTES = 8 * 2**20
MAX_ITEMS = 200

Summaries = Annotated[SummaryRequest, Body(openapi_examples=documents.SUMMARY_REQUESTS)]
Sentiments = Annotated[SentimentAnalysisBatchRequest, Body(openapi_examples=documents.SENTIMENT_REQUESTS)]
Strengths = Annotated[StrengthBatchRequest, Body(openapi_examples=documents.STRENGTH_REQUESTS)]


def batch_router(
    runner: BatchRunner,
    *,
    summary: SummarizeAspects = SummarizeAspects(),
    review_summary: SummarizeReviews = SummarizeReviews(),
    sentiment: AnalyzeSentiment = AnalyzeSentiment(),
    strengths: ExtractStrengths = ExtractStrengths(),
    max_body_bytes: int = MAX_BODY_BYTES,
    max_items: int = MAX_ITEMS,
    prefix: str = "/api/v1",
) -> APIRouter:
    """
    Return a router with the paths of the source service, for ``app.include_router``.

    ``POST {prefix}/llm/summarize/batch``, ``POST {prefix}/sentiment/analyze/batch`` and
    ``POST {prefix}/llm/extract/strengths/batch`` take many restaurants each and answer with a result or a failure
    for every one. All requests share the runner and its limits. A client that goes away cancels its own calls.
    While the application is up, the router keeps the runner open.

    Args:
        runner: Does the work.
        summary: How to summarise reviews that are searched for; `limit` and `min_score` are the requests'.
        review_summary: How to summarise reviews that a request gives.
        sentiment: How to judge reviews.
        strengths: How to compare restaurants.
        max_body_bytes: Largest body of a request; larger ones get 413.
        max_items: Most restaurants of a request; more get 413.
        prefix: What the paths begin with.

    Raises:
        ConfigurationError: When an argument cannot work.
    """
    _check("runner", runner, BatchRunner)
    _check("summary", summary, SummarizeAspects)
    _check("review_summary", review_summary, SummarizeReviews)
    _check("sentiment", sentiment, AnalyzeSentiment)
    _check("strengths", strengths, ExtractStrengths)
    bounds = Bounds(_count("max_body_bytes", max_body_bytes), _count("max_items", max_items))
    tasks = TaskSet(summary, review_summary, sentiment, strengths, _can_search(runner, summary))

    @asynccontextmanager
    async def open_runner(_app: Any) -> AsyncIterator[None]:
        async with runner:
            yield

    router = APIRouter(
        prefix=prefix, tags=["restaurants"], route_class=routes_within(bounds), lifespan=open_runner
    )
    more: dict[str, Any] = {"openapi_extra": {"parameters": documents.PARAMETERS}}

    @router.post(
        "/llm/summarize/batch",
        response_model=SummaryBatchResponse,
        responses=documents.responses(documents.SUMMARY_ANSWER),
        **more,
    )
    async def summarize_batch(request: BatchRequest, asked: Summaries) -> Response:
        """
        Summarise restaurants.

        By aspect and overall, from reviews that are searched for; or by kind of review and overall, from the
        reviews that the request gives. A request does one or the other for all of its restaurants.
        """
        return await run_and_respond(request, runner, partial(tasks.summaries, asked))

    @router.post(
        "/sentiment/analyze/batch",
        response_model=SentimentAnalysisBatchResponse,
        responses=documents.responses(documents.SENTIMENT_ANSWER),
        **more,
    )
    async def analyze_sentiment_batch(request: BatchRequest, asked: Sentiments) -> Response:
        """
        Count the positive, negative and neutral reviews of restaurants.

        Every review is accounted for: those that could not be judged are in `failed_count`.
        """
        return await run_and_respond(request, runner, partial(tasks.sentiments, asked))

    @router.post(
        "/llm/extract/strengths/batch",
        response_model=StrengthBatchResponse,
        responses=documents.responses(documents.STRENGTH_ANSWER),
        **more,
    )
    async def extract_strengths_batch(request: BatchRequest, asked: Strengths) -> Response:
        """
        Say what restaurants have over others.

        Reviews that are left out are searched for: the restaurant's own, and those of other restaurants.
        """
        return await run_and_respond(request, runner, partial(tasks.comparisons, asked))

    return router


def _check(name: str, value: object, kind: type) -> None:
    if not isinstance(value, kind):
        raise ConfigurationError(f"{name} must be a {kind.__name__}, got {value!r}")


def _count(name: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigurationError(f"{name} must be a whole number of at least 1, got {value!r}")
    return value


def _can_search(runner: BatchRunner, task: SummarizeAspects) -> bool:
    """Tell whether the runner takes a task that searches; a stream begins nothing until it is read."""
    try:
        runner.stream(task, [])
    except ConfigurationError:
        return False
    return True
