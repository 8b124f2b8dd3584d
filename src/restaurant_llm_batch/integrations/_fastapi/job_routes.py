"""Paths of the jobs: what does not fit a request is handed over, and its progress and result are asked for later."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, Literal, NotRequired, TypeVar
from uuid import uuid4

from anyio import to_thread
from fastapi import APIRouter, Body, Response
from fastapi.responses import StreamingResponse
from pydantic import Field, ValidationError
from typing_extensions import TypedDict

from ...errors import BatchError
from . import openapi
from .bounds import Bounds
from .error_responses import RETRY_AFTER, APIError, invalid
from .job_queue import JobQueue
from .job_store import JobRow, QueuedJob, RowKind
from .jobs import BatchJob
from .request import NDJSON, BatchRequest
from .requests import Fields, UnlessChecked
from .responses import ErrorResponse
from .serialize import as_json

T = TypeVar("T")

PATH = "/jobs"
NO_JOBS = (
    "this service keeps no jobs, since its runner has no record; it has one with BatchRunner(record='night.db'), or "
    "with `restaurant-llm-batch serve --record night.db`"
)
FULL_RETRY_AFTER = 30
"""Seconds after which a job may be handed over again if too many wait."""
JobTask = Literal["summarize", "sentiment", "strengths", "comparison"]


class JobRequest(Fields):
    """A job: a task, and the request about many restaurants that its endpoint takes."""

    task: Annotated[JobTask, Field(description="What is done for each restaurant.")]
    body: Annotated[
        dict[str, Any],
        Field(description="The body of the path that ends with `/batch`; it may have ten times as much."),
    ]


class JobResponse(TypedDict):
    """A job, and how far it is; times are ISO 8601 in UTC."""

    id: str
    task: str
    state: Literal["waiting", "running", "done", "failed", "cancelled"]
    total: Annotated[int, Field(description="Number of restaurants.")]
    succeeded: Annotated[int, Field(description="Number of results so far.")]
    failed: Annotated[int, Field(description="Number of failures so far.")]
    created_at: str
    started_at: str | None
    ended_at: str | None
    error: Annotated[str | None, Field(description="Why it failed as a whole.")]
    warnings: NotRequired[list[str]]


class JobPaths:
    """
    The handlers of the paths.

    Args:
        queue: Runs the jobs.
        bounds: Limits of a job.
        most: Maximum number of jobs of a client that wait.
        path: The path of the jobs, for the header ``Location``.
    """

    def __init__(self, queue: JobQueue, bounds: Bounds, most: int, path: str) -> None:
        self._queue = queue
        self._store = queue.store
        self._bounds = bounds
        self._most = most
        self._path = path

    async def create(self, request: BatchRequest, body: JobRequest) -> Response:
        """Hand over a job."""
        batch = await request.off_loop(partial(self._checked, body))
        if not self._queue.is_open:
            raise APIError(
                503, "this service does not run jobs now", headers={"Retry-After": str(RETRY_AFTER)}
            )
        add = partial(
            self._store.add,
            uuid4().hex,
            request.client_name,
            body.task,
            as_json(body.body).decode(),
            request.wants_debug,
            as_json(list(batch.request_warnings)).decode(),
            len(batch.items),
            self._most,
        )
        job = await self._stored(add)
        if job is None:
            raise APIError(
                429,
                f"{self._most} of your jobs are waiting, which is the most; send it again later"
                if request.client_name
                else f"{self._most} jobs are waiting, which is the most; send it again later",
                headers={"Retry-After": str(FULL_RETRY_AFTER)},
            )
        self._queue.wake()
        warnings = {"warnings": list(batch.request_warnings)} if batch.request_warnings else {}
        response = _json({**_response(job), **warnings}, 202)
        response.headers["Location"] = f"{self._path}/{job.id}"
        return response

    async def show(self, request: BatchRequest, job_id: str) -> Response:
        """Return the state of a job."""
        return _json(_response(await self._found(request, job_id, self._store.find)))

    async def cancel(self, request: BatchRequest, job_id: str) -> Response:
        """Cancel a job, unless it has ended; return its state."""
        return _json(_response(await self._found(request, job_id, self._store.cancel)))

    async def result(self, request: BatchRequest, job_id: str) -> Response:
        """Return what a job has come to, as the path with `/batch` would: in one piece, or as lines."""
        job = await self._found(request, job_id, self._store.find)
        if not job.has_ended:
            raise APIError(
                409,
                f"the job is {job.state}: {job.succeeded + job.failed} of {job.total} restaurants are done",
                headers={"Retry-After": str(RETRY_AFTER)},
            )
        first = await self._stored(partial(self._store.rows, job))  # so that an error has its own status
        if request.accepts_ndjson:
            return StreamingResponse(self._lines(job, first), media_type=NDJSON)
        return StreamingResponse(self._whole(job), media_type="application/json")

    def _checked(self, body: JobRequest) -> BatchJob:
        """
        Return what is to be done.

        Raises:
            APIError: The body is invalid, or has too much in it.
        """
        kind = self._queue.kinds[body.task]
        self._bounds.check_decoded(body.body)
        try:
            return kind.make_job(kind.model.validate_python(body.body))
        except ValidationError as error:
            raise invalid(error) from None

    async def _found(
        self, request: BatchRequest, job_id: str, find: Callable[[str, str], QueuedJob | None]
    ) -> QueuedJob:
        job = await self._stored(partial(find, job_id, request.client_name))
        if job is None:
            raise APIError(404, "there is no such job; jobs are removed some days after their end")
        return job

    async def _stored(self, step: Callable[[], T]) -> T:
        try:
            return await to_thread.run_sync(step)
        except (sqlite3.Error, BatchError) as error:
            message = "the jobs cannot be read or written now; send it again later"
            raise APIError(503, message, headers={"Retry-After": str(RETRY_AFTER)}) from error

    async def _whole(self, job: QueuedJob) -> AsyncIterator[str]:
        """Yield the result in one piece of JSON, a page of rows at a time: it may be larger than the memory."""
        yield '{"results":['
        kinds: tuple[tuple[RowKind, str], ...] = (("result", '],"failures":['), ("failure", "]"))
        for kind, closing in kinds:
            comma = ""
            async for page in self._pages(job, await self._page(job, kind), kind):
                yield comma + ",".join(row.entry for row in page)
                comma = ","
            yield closing
        yield f"{_warnings(job)}}}"

    async def _lines(self, job: QueuedJob, first: Sequence[JobRow]) -> AsyncIterator[str]:
        async for page in self._pages(job, first):
            yield "".join(f'{{"{row.kind}":{row.entry}}}\n' for row in page)
        yield f'{{"done":{{"results":{job.succeeded},"failures":{job.failed}}}{_warnings(job)}}}\n'

    async def _pages(
        self, job: QueuedJob, first: Sequence[JobRow], kind: RowKind | None = None
    ) -> AsyncIterator[Sequence[JobRow]]:
        """Yield the rows of a job, a page at a time."""
        page = first
        while page:
            yield page
            page = await self._page(job, kind, page[-1].place)

    async def _page(self, job: QueuedJob, kind: RowKind | None, after: int = -1) -> Sequence[JobRow]:
        return await to_thread.run_sync(self._store.rows, job, kind, after)


def add_job_paths(router: APIRouter, paths: JobPaths) -> None:
    """
    Add the paths of the jobs to a router, whose route class reads `BatchRequest`.

    Args:
        router: The router.
        paths: The handlers.
    """
    errors: dict[int | str, dict[str, Any]] = {
        404: {"model": ErrorResponse, "description": "There is no such job."},
        503: {"model": ErrorResponse, "description": "The record cannot be read or written now."},
    }

    # FastAPI reads the types of the arguments from the functions.
    async def create_job(request: BatchRequest, body: Any) -> Response:
        return await paths.create(request, body)

    async def show_job(request: BatchRequest, job_id: str) -> Response:
        return await paths.show(request, job_id)

    async def job_result(request: BatchRequest, job_id: str) -> Response:
        return await paths.result(request, job_id)

    async def cancel_job(request: BatchRequest, job_id: str) -> Response:
        return await paths.cancel(request, job_id)

    for handle in (create_job, show_job, job_result, cancel_job):
        handle.__annotations__ |= {"request": BatchRequest, "return": Response}
        if "job_id" in handle.__annotations__:
            handle.__annotations__["job_id"] = str
    example = Body(openapi_examples=openapi.JOB_REQUESTS)
    create_job.__annotations__["body"] = Annotated[JobRequest, UnlessChecked, example]
    router.add_api_route(
        PATH,
        create_job,
        methods=["POST"],
        status_code=202,
        summary="Hand over a job: what takes longer than a request may",
        description="It is kept until it is done, also if the service is restarted meanwhile.",
        response_model=JobResponse,
        responses={
            413: {"model": ErrorResponse, "description": "There is more in it than this service accepts."},
            422: {
                "model": ErrorResponse,
                "description": "It is invalid; `details` names the fields of its body.",
            },
            429: {
                "model": ErrorResponse,
                "description": "Too many jobs wait; `Retry-After` says when to try again.",
            },
            503: errors[503],
        },
        openapi_extra={"parameters": openapi.PARAMETERS},
    )
    router.add_api_route(
        f"{PATH}/{{job_id}}",
        show_job,
        methods=["GET"],
        summary="Ask how far a job is",
        response_model=JobResponse,
        responses=errors,
    )
    router.add_api_route(
        f"{PATH}/{{job_id}}/result",
        job_result,
        methods=["GET"],
        summary="Fetch the result of a job that has ended",
        description="As the answer to a request about many restaurants: JSON, or lines with `Accept: "
        f"{NDJSON}`. A job that was cancelled or failed has what it had done.",
        responses={
            **errors,
            200: {"content": {"application/json": {"example": openapi.SENTIMENT_ANSWER}, NDJSON: {}}},
            409: {"model": ErrorResponse, "description": "The job has not ended."},
        },
    )
    router.add_api_route(
        f"{PATH}/{{job_id}}",
        cancel_job,
        methods=["DELETE"],
        summary="Cancel a job, unless it has ended",
        description="Its calls in flight are cancelled within a second. What it has done stays.",
        response_model=JobResponse,
        responses=errors,
    )


async def refuse_jobs() -> Response:
    """Say why there are no jobs."""
    raise APIError(501, NO_JOBS)


def _warnings(job: QueuedJob) -> str:
    """Return the warnings about a job's request as a member of a JSON object that has others, or nothing."""
    return f',"warnings":{job.warnings}' if job.warnings != "[]" else ""


def _response(job: QueuedJob) -> JobResponse:
    return JobResponse(
        id=job.id,
        task=job.task,
        state=job.state,
        total=job.total,
        succeeded=job.succeeded,
        failed=job.failed,
        created_at=_iso(job.made),
        started_at=None if job.began is None else _iso(job.began),
        ended_at=None if job.ended is None else _iso(job.ended),
        error=job.error,
    )


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _json(body: Any, status: int = 200) -> Response:
    return Response(as_json(body), status, media_type="application/json")
