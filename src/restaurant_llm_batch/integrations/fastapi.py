"""FastAPI router with the tasks, search and uploads as HTTP endpoints (`batch_router`); needs the extra ``fastapi``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, nullcontext
from dataclasses import replace
from math import inf
from typing import Any

try:
    from fastapi import APIRouter
except ModuleNotFoundError as _error:
    raise ModuleNotFoundError(
        "this needs FastAPI: pip install 'restaurant-llm-batch[fastapi]'", name="fastapi"
    ) from _error

from .._runner import BatchRunner
from ..errors import ConfigurationError
from ..tasks.comparison import CompareAspects
from ..tasks.reviews import SummarizeReviews
from ..tasks.sentiment import AnalyzeSentiment
from ..tasks.strengths import ExtractStrengths
from ..tasks.summary import SummarizeAspects
from ._fastapi.access import Clients
from ._fastapi.bounds import Bounds
from ._fastapi.endpoints import add_endpoints, job_kinds
from ._fastapi.job_queue import JobQueue
from ._fastapi.job_routes import PATH, JobPaths, add_job_paths, refuse_jobs
from ._fastapi.job_store import JobStore
from ._fastapi.jobs import TaskSet
from ._fastapi.request import routes_within
from ._fastapi.vector import Uploads

MAX_BODY_BYTES = 8 * 2**20
MAX_ITEMS = 200
MAX_REVIEWS = 10_000
MAX_CALLS = 1_000
BODY_TIMEOUT = 60.0
MAX_JOBS = 100
JOB_DAYS = 7.0


def batch_router(
    runner: BatchRunner,
    *,
    summary: SummarizeAspects = SummarizeAspects(),
    review_summary: SummarizeReviews = SummarizeReviews(),
    sentiment: AnalyzeSentiment = AnalyzeSentiment(),
    strengths: ExtractStrengths = ExtractStrengths(),
    comparison: CompareAspects = CompareAspects(),
    uploads: bool = False,
    max_body_bytes: int = MAX_BODY_BYTES,
    max_items: int = MAX_ITEMS,
    max_reviews: int = MAX_REVIEWS,
    max_calls: int = MAX_CALLS,
    body_timeout: float = BODY_TIMEOUT,
    max_jobs: int = MAX_JOBS,
    job_days: float = JOB_DAYS,
    shares: Mapping[str, float] | None = None,
    prefix: str = "/api/v1",
) -> APIRouter:
    """
    Return a router with the endpoints, for ``app.include_router``.

    Below ``{prefix}``, with POST: ``/llm/summarize``, ``/sentiment/analyze``, ``/llm/extract/strengths`` and
    ``/llm/comparison`` take one restaurant each, and respond with its result. The same with ``/batch`` take many, and
    respond with a result or a failure for each. ``/vector/search/similar`` finds reviews, and ``/vector/upload``
    indexes them. All requests share the runner and its limits. If a client disconnects, the calls of its request are
    cancelled. The router keeps the runner open for the lifespan of the application.

    If the runner has a record, ``/jobs`` takes what is too much for a request: POST hands over a job, GET asks for its
    state and its result, DELETE cancels it. Jobs are kept in the record's file, so all processes that write into one
    file share them, and go on with them after a restart. The calls of requests go before those of jobs.

    Args:
        runner: Runs the tasks.
        summary: Task for summaries of reviews found by search; a request sets its `limit` and `min_score`.
        review_summary: Task for summaries of reviews in the request.
        sentiment: Task for sentiment labels.
        strengths: Task for strengths.
        comparison: Task for comparisons with the average of all restaurants.
        uploads: Whether clients may index reviews, in the runner's search: whoever reaches the service can then change
            what it answers. Otherwise uploads get status 403.
        max_body_bytes: Maximum size of a request body in bytes; a larger one gets status 413. All bodies that are open
            at once may have 8 times as much; beyond that, large ones get status 503.
        max_items: Maximum number of restaurants in a request; more get status 413.
        max_reviews: Maximum number of reviews in a request, over all of its restaurants; more get status 413.
        max_calls: Maximum number of calls of the model that the reviews of a request may need, as estimated from
            their lengths and the token budget of a batch; more get status 413.
        body_timeout: Maximum seconds until the body of a request has arrived; then it gets status 408.
        max_jobs: Maximum number of jobs of a client that wait; more get status 429. A job may have ten times as many
            restaurants, reviews and calls as a request.
        job_days: Days for which jobs that have ended are kept.
        shares: Shares of the clients by their names, for a service that knows its clients: while calls of several wait,
            each gets its share of the runner's limits (`Client`). A dependency puts the name of a request's client
            into its scope: ``request.scope["restaurant_llm_batch.client"] = "shop"``. Clients that are not in `shares`
            have a share of 1. Jobs are those of the client that has handed them over. None for no such shares.
        prefix: Common prefix of the paths.

    Raises:
        ConfigurationError: An argument has the wrong type or is below 1, or there are to be uploads to a search that
            cannot index or is read only.
    """
    _check("runner", runner, BatchRunner)
    _check("summary", summary, SummarizeAspects)
    _check("review_summary", review_summary, SummarizeReviews)
    _check("sentiment", sentiment, AnalyzeSentiment)
    _check("strengths", strengths, ExtractStrengths)
    _check("comparison", comparison, CompareAspects)
    _check("uploads", uploads, bool)
    bounds = Bounds(
        _count("max_body_bytes", max_body_bytes),
        _count("max_items", max_items),
        _count("max_reviews", max_reviews),
        _count("max_calls", max_calls),
        _above_0("body_timeout", body_timeout),
    )
    tasks = TaskSet(
        summary,
        review_summary,
        sentiment,
        strengths,
        comparison,
        runner.can_search,
        runner.limits,
        bounds,
    )

    most_jobs, days = _count("max_jobs", max_jobs), _above_0("job_days", job_days)
    clients = Clients(shares)
    queue: JobQueue | None = None
    if runner.recording is not None:
        kinds = job_kinds(replace(tasks, bounds=bounds.for_jobs()))
        queue = JobQueue(runner, JobStore(runner.recording.path), kinds, days, clients)

    @asynccontextmanager
    async def open_runner(_app: Any) -> AsyncIterator[None]:
        async with runner, nullcontext() if queue is None else queue.serving():
            yield

    router = APIRouter(
        prefix=prefix, tags=["restaurants"], route_class=routes_within(bounds), lifespan=open_runner
    )
    add_endpoints(router, runner, tasks, Uploads(runner.search) if uploads else None, clients)
    _add_jobs(router, queue, bounds.for_jobs(), most_jobs, prefix)
    return router


def _add_jobs(router: APIRouter, queue: JobQueue | None, bounds: Bounds, most: int, prefix: str) -> None:
    if queue is None:
        for method, path in (("POST", PATH), ("GET", PATH + "/{job_id}")):
            router.add_api_route(path, refuse_jobs, methods=[method], include_in_schema=False)
        return
    jobs = APIRouter(tags=["jobs"], route_class=routes_within(bounds))
    add_job_paths(jobs, JobPaths(queue, bounds, most, prefix + PATH))
    router.include_router(jobs)


def _check(name: str, value: object, kind: type) -> None:
    if not isinstance(value, kind):
        raise ConfigurationError(f"{name} must be a {kind.__name__}, got {value!r}")


def _count(name: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigurationError(f"{name} must be a whole number of at least 1, got {value!r}")
    return value


def _above_0(name: str, value: object) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < inf:
        raise ConfigurationError(f"{name} must be a number above 0, got {value!r}")
    return value
