"""The endpoints of the batch router: one description for each, and the routes made from them."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, TypeAlias

from fastapi import APIRouter, Body, Response
from pydantic import TypeAdapter

from ..._runner import BatchRunner
from . import openapi, requests, responses
from .access import Clients
from .error_responses import APIError, failed
from .job_queue import JobKind
from .jobs import BatchJob, TaskSet
from .request import BatchRequest
from .requests import UnlessChecked
from .respond import CLIENT_CLOSED_REQUEST, Faults, cancel_on_disconnect, json_response, run_and_respond
from .vector import SimilarReviewsRequest, UploadRequest, Uploads, similar_reviews

log = logging.getLogger("restaurant_llm_batch")

NO_UPLOADS = (
    "this service takes no uploads; they are switched on with batch_router(runner, uploads=True), or with "
    "`restaurant-llm-batch serve --uploads`"
)


MakeJob: TypeAlias = Callable[[TaskSet, Any], BatchJob]
Handler: TypeAlias = Callable[..., Awaitable[Response]]


@dataclass(frozen=True)
class Endpoint:
    """
    An endpoint.

    Attributes:
        path: Its path, below the router's prefix.
        summary: What it does, in a few words.
        description: What it does.
        body: Model of its requests.
        response: Type of its response.
        requests: Examples of requests.
        answer: Example of a response.
    """

    path: str
    summary: str
    description: str
    body: Any
    response: Any
    requests: Mapping[str, Any]
    answer: Mapping[str, Any]


@dataclass(frozen=True)
class JobEndpoint(Endpoint):
    """An endpoint whose requests are jobs of the runner, which `make_job` makes of them."""

    make_job: MakeJob


def _pair(
    path: str,
    make_job: MakeJob,
    summary: str,
    description: str,
    bodies: tuple[Any, Any],
    answers: tuple[Any, Any],
    requests: Mapping[str, Any],
    answer: Mapping[str, Any],
) -> tuple[JobEndpoint, JobEndpoint]:
    """Return the endpoint for one restaurant and the one for many; the examples are those of the latter."""
    examples = {name: openapi.single_request(example) for name, example in requests.items()}
    one = JobEndpoint(
        path,
        summary.format("a restaurant"),
        description,
        bodies[0],
        answers[0],
        examples,
        answer["results"][0],
        make_job,
    )
    many = JobEndpoint(
        f"{path}/batch",
        summary.format("restaurants"),
        description,
        bodies[1],
        answers[1],
        requests,
        answer,
        make_job,
    )
    return one, many


ENDPOINTS: tuple[JobEndpoint, ...] = (
    *_pair(
        "/llm/summarize",
        TaskSet.summaries,
        "Summarise {}",
        "By aspect and overall, from reviews found by search; or by polarity and overall, from the reviews in the "
        "request. A request does one or the other for all of its restaurants.",
        (requests.SummaryRequest, requests.SummaryBatchRequest),
        (responses.SummaryResult, responses.SummaryBatchResponse),
        openapi.SUMMARY_REQUESTS,
        openapi.SUMMARY_ANSWER,
    ),
    *_pair(
        "/sentiment/analyze",
        TaskSet.sentiments,
        "Count the positive, negative and neutral reviews of {}",
        "Every review is counted: `failed_count` has those that could not be labelled. Reviews that the request leaves "
        "out are found by search.",
        (requests.SentimentAnalysisRequest, requests.SentimentAnalysisBatchRequest),
        (responses.SentimentResult, responses.SentimentAnalysisBatchResponse),
        openapi.SENTIMENT_REQUESTS,
        openapi.SENTIMENT_ANSWER,
    ),
    *_pair(
        "/llm/extract/strengths",
        TaskSet.strengths_of,
        "Derive the strengths of {} over others",
        "Reviews that the request leaves out are found by search: the restaurant's own, and those of other "
        "restaurants.",
        (requests.StrengthRequest, requests.StrengthBatchRequest),
        (responses.StrengthResponse, responses.StrengthBatchResponse),
        openapi.STRENGTH_REQUESTS,
        openapi.STRENGTH_ANSWER,
    ),
    *_pair(
        "/llm/comparison",
        TaskSet.comparisons,
        "Compare {} with the average, aspect by aspect",
        "How many percent a restaurant's share of satisfied remarks is above or below the average share of all "
        "restaurants.",
        (requests.ComparisonRequest, requests.ComparisonBatchRequest),
        (responses.ComparisonResponse, responses.ComparisonBatchResponse),
        openapi.COMPARISON_REQUESTS,
        openapi.COMPARISON_ANSWER,
    ),
    JobEndpoint(
        "/vector/search/similar",
        "Find the reviews that are most similar to a text",
        "Of one restaurant or of all.",
        SimilarReviewsRequest,
        responses.SimilarReviewsResponse,
        openapi.SIMILAR_REQUESTS,
        openapi.SIMILAR_ANSWER,
        similar_reviews,
    ),
)
UPLOAD = Endpoint(
    "/vector/upload",
    "Index reviews, so that searches find them",
    "A review replaces an indexed one of its restaurant with the same id.",
    UploadRequest,
    responses.UploadResponse,
    openapi.UPLOAD_REQUESTS,
    openapi.UPLOAD_ANSWER,
)


JOB_TASKS = {
    "summarize": "/llm/summarize/batch",
    "sentiment": "/sentiment/analyze/batch",
    "strengths": "/llm/extract/strengths/batch",
    "comparison": "/llm/comparison/batch",
}
"""The tasks of jobs, each with the path whose requests it takes."""


def job_kinds(tasks: TaskSet) -> dict[str, JobKind]:
    """Return what jobs are made of, by the names of their tasks."""
    by_path = {endpoint.path: endpoint for endpoint in ENDPOINTS}
    return {
        name: JobKind(TypeAdapter(by_path[path].body), partial(by_path[path].make_job, tasks))
        for name, path in JOB_TASKS.items()
    }


def add_endpoints(
    router: APIRouter, runner: BatchRunner, tasks: TaskSet, uploads: Uploads | None, clients: Clients
) -> None:
    """
    Add the endpoints to a router.

    Args:
        router: The router, whose route class reads `BatchRequest`.
        runner: Runs the jobs.
        tasks: Converts requests to jobs.
        uploads: Indexes uploaded reviews; None to refuse them.
        clients: The clients.
    """
    faults = Faults()
    for endpoint in ENDPOINTS:
        _add(router, endpoint, _run(runner, partial(endpoint.make_job, tasks), faults, clients))
    if uploads is None:
        router.add_api_route(UPLOAD.path, _refuse_uploads, methods=["POST"], include_in_schema=False)
    else:
        _add(router, UPLOAD, _upload(uploads))


def _add(router: APIRouter, endpoint: Endpoint, handle: Handler) -> None:
    examples = Body(openapi_examples=dict(endpoint.requests))
    # FastAPI reads the types of the arguments from the function.
    handle.__annotations__ = {
        "request": BatchRequest,
        "body": Annotated[endpoint.body, UnlessChecked, examples],
        "return": Response,
    }
    is_batch = endpoint.path.endswith("/batch")
    router.add_api_route(
        endpoint.path,
        handle,
        methods=["POST"],
        name=endpoint.path.strip("/").replace("/", "_"),
        summary=endpoint.summary,
        description=endpoint.description,
        response_model=endpoint.response,
        responses=openapi.responses(endpoint.answer, is_batch=is_batch),
        openapi_extra={"parameters": openapi.PARAMETERS},
    )


def _run(
    runner: BatchRunner, make_job: Callable[[Any], BatchJob], faults: Faults, clients: Clients
) -> Handler:
    async def handle(request: BatchRequest, body: Any) -> Response:
        return await run_and_respond(request, runner, partial(make_job, body), faults, clients)

    return handle


def _upload(uploads: Uploads) -> Handler:
    async def handle(request: BatchRequest, body: UploadRequest) -> Response:
        rows = await request.off_loop(body.all_rows)
        try:
            response = await cancel_on_disconnect(request.receive, lambda: uploads.index(body, rows))
        except APIError:
            raise
        except Exception as error:
            log.error("request %s: the upload failed", request.request_id, exc_info=error)  # noqa: TRY400
            raise failed(error) from error
        if response is None:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        return json_response(response)

    return handle


async def _refuse_uploads() -> Response:
    raise APIError(403, NO_UPLOADS)
