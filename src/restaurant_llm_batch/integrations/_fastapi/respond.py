"""
Responses to requests: run the job, and respond with JSON at the end or with NDJSON line by line.

Theory of operation. `run_and_respond` turns a request into a job and chooses the form of the response by its ``Accept``
header. A request about one restaurant has its result as the response, or an error response; it is never NDJSON.

- *JSON*: run the whole job, then respond with all results and failures.
- *NDJSON*: respond with each result as soon as it is ready, then with a line of counts. The status code is sent with
  the first line, so sending waits for the first outcome: a request that fails as a whole, for example because the API
  key is invalid, still gets its own status code. An error after that is reported in the last line.

In both forms one failing restaurant never fails a request about many. An error of the service's setup, by which every
request fails (`ResponseBuilder.stop`), fails the request only if there is no result yet; otherwise the restaurants that
were not run are reported as failures. It is logged once, until a request has a result again (`Faults`).

While the job runs, a second task receives from the client (`cancel_on_disconnect`). If the client disconnects, the task
group is cancelled, and with it the run and its calls in flight. Texts of errors for the client come from
`error_responses`; the full errors are logged here, under the request id.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, TypeVar

from anyio import CancelScope, create_task_group
from fastapi import Response
from starlette.types import Receive, Scope, Send

from ..._limits.clients import Client
from ..._runner import BatchRunner
from ..._text import error_text
from ...errors import BatchError, ConfigurationError, OutputError, RunStopped
from ...models import ItemId
from ...outcomes import BatchReport, Failure, Outcome, RunStats, Stage
from .access import Clients
from .error_responses import (
    APIError,
    as_api_error,
    as_response,
    describe_error,
    error_body,
    failed,
    is_misconfiguration,
    is_unknown_there,
    unusable,
)
from .jobs import BatchJob
from .request import NDJSON, BatchRequest
from .responses import DebugInfo, FailureResponse
from .serialize import as_json, as_line

log = logging.getLogger("restaurant_llm_batch")

MAX_FAULT = 300
"""Characters of an error's text by which it is known."""


class Faults:
    """Errors of the service's setup that its requests have met: each is logged once, until a request has a result."""

    def __init__(self) -> None:
        self._known: set[tuple[type, str]] = set()

    def report(self, error: Exception, request: str) -> None:
        """Log an error of a request, unless that was done."""
        key = type(error), str(error)[:MAX_FAULT]
        if key not in self._known:
            self._known.add(key)
            log.error(
                "request %s failed as every other one will until this is mended (said once): %s",
                request,
                error_text(error),
                exc_info=error,
            )

    def clear(self) -> None:
        """Note that a request has a result."""
        self._known.clear()


class Asker(Protocol):
    """What a job is done for: a request, or an entry of the queue."""

    @property
    def log_id(self) -> str:
        """Its name in the log."""
        ...

    @property
    def request_id(self) -> str:
        """Its id in responses."""
        ...

    @property
    def wants_debug(self) -> bool:
        """Whether the fuller response is asked for."""
        ...


class ResponseBuilder:
    """
    Converts the outcomes of a request to response entries, logs failures, and counts both.

    Attributes:
        counts: Number of results and failures so far.
        stop: The first error of the service's setup, which stopped the run, or None.
    """

    def __init__(self, request: Asker, job: BatchJob, faults: Faults) -> None:
        self.counts = {"results": 0, "failures": 0}
        self.stop: Exception | None = None
        self._setup_error: Exception | None = None
        self._has_others = False
        self._request = request
        self._job = job
        self._faults = faults
        self._pending = dict(enumerate(job.ids))
        self._logged_types: set[type[Exception]] = set()

    def add(self, outcome: Outcome[Any], stats: RunStats) -> Mapping[str, Any]:
        """Return the response entry of an outcome: ``{"result": ...}`` or ``{"failure": ...}``."""
        restaurant_id = self._pending.pop(outcome.index)
        if isinstance(outcome, Failure):
            self._judge(outcome.error)
            self._record_failure(restaurant_id, outcome)
            return self._failure(
                restaurant_id, outcome.stage, describe_error(outcome.error), outcome.attempts
            )
        self.counts["results"] += 1
        self._has_others = True
        self._faults.clear()
        debug = self._debug(outcome.value, stats) if self._request.wants_debug else None
        return {"result": self._job.result(outcome.value, outcome.index, debug)}

    def only(self, report: BatchReport[Any]) -> Mapping[str, Any]:
        """
        Return the response to a request about one restaurant: its result.

        Raises:
            APIError: The restaurant failed.
        """
        (outcome,) = report.outcomes
        entry = self.add(outcome, report.stats)
        if isinstance(outcome, Failure):
            raise failed(outcome.error)
        return self.with_warnings(entry["result"])

    def with_warnings(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a body with the warnings about the request, if there are any."""
        warnings = self._job.request_warnings
        return {**body, "warnings": warnings} if warnings else body

    @property
    def is_unusable(self) -> bool:
        """Whether there are failures, and all of them are the fault of the service's setup."""
        return self._setup_error is not None and not self._has_others

    def check_usable(self) -> None:
        """
        Check that there is a result, or a failure that is not the fault of the service's setup.

        Raises:
            APIError: There is none, and another failure.
        """
        error = self._setup_error if self.is_unusable else self.stop
        if error is not None and not self.counts["results"]:
            self._faults.report(error, self._request.log_id)
            raise unusable(error)

    def _judge(self, error: Exception) -> None:
        """Note whether a failure is the fault of the service's setup."""
        if isinstance(error, RunStopped):
            return  # a consequence of another failure
        if is_misconfiguration(error):
            self.stop = self.stop or error
        elif not is_unknown_there(error):
            self._has_others = True
            return
        self._setup_error = self._setup_error or error

    def add_not_run(self) -> list[Mapping[str, Any]]:
        """Return a failure entry for each restaurant without an outcome: the run stopped before them."""
        remaining, self._pending = list(self._pending.values()), {}
        error = RunStopped()
        error.__cause__ = self.stop
        return [self._failure(restaurant_id, "run", describe_error(error), 0) for restaurant_id in remaining]

    def _failure(self, restaurant_id: ItemId, stage: Stage, error: str, attempts: int) -> Mapping[str, Any]:
        self.counts["failures"] += 1
        entry = FailureResponse(restaurant_id=restaurant_id, stage=stage, error=error, attempts=attempts)
        return {"failure": entry}

    def _record_failure(self, restaurant_id: ItemId, failure: Failure) -> None:
        error = failure.error
        if isinstance(error, RunStopped):
            return  # a consequence of the error that stopped the run, which has been logged
        if is_misconfiguration(error):
            self._faults.report(error, self._request.log_id)
            return
        # Log a traceback for unexpected errors, but only once per type: they tend to hit every restaurant.
        unexpected = not isinstance(error, BatchError) and type(error) not in self._logged_types
        self._logged_types.add(type(error))
        log.warning(
            "request %s: restaurant %r failed at %s after %d attempts: %s",
            self._request.log_id,
            restaurant_id,
            failure.stage,
            failure.attempts,
            # Messages of these errors may quote the model's reply or the request: keep them out of the log.
            type(error).__name__
            if isinstance(error, (OutputError, ConfigurationError))
            else error_text(error),
            exc_info=error if unexpected else None,
        )

    def _debug(self, value: Any, stats: RunStats) -> DebugInfo:
        return DebugInfo(
            request_id=self._request.request_id,
            processing_time_ms=round(stats.wall_seconds * 1000, 1),
            tokens_used=stats.prompt_tokens + stats.completion_tokens,
            model_version=getattr(value, "model", ""),
            warnings=self._job.warnings(value),
        )


def error_response_for(error: Exception, log_id: str) -> APIError:
    """Return the error response for a request that was not processed; log 5xx errors that are not logged yet."""
    api_error = as_api_error(error)
    if api_error.status_code >= 500 and api_error is not error:
        log.error("request %s is answered %d", log_id, api_error.status_code, exc_info=error)
    return api_error


class NDJSONResponse(Response):
    """
    Streaming response: one JSON line per outcome as soon as it is ready, then a line of counts.

    The status code is sent with the first line; see the module's docstring.
    """

    media_type = NDJSON

    def __init__(
        self,
        request: BatchRequest,
        runner: BatchRunner,
        job: BatchJob,
        faults: Faults,
        client: Client | None,
    ) -> None:
        # Ask proxies not to buffer the response, and drop the length that Starlette sets for an empty body.
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._request = request
        self._runner = runner
        self._job = job
        self._faults = faults
        self._client = client
        self._headers_sent = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the job and send its outcomes; end early if the client disconnects."""
        try:
            done = await cancel_on_disconnect(receive, lambda: self._send_outcomes(send))
        except Exception as error:
            await self._send_error(error, scope, receive, send)
        else:
            if not done and not self._headers_sent:  # the client is gone, but middleware expects a response
                await Response(status_code=CLIENT_CLOSED_REQUEST)(scope, receive, send)

    async def _send_outcomes(self, send: Send) -> bool:
        builder = ResponseBuilder(self._request, self._job, self._faults)
        held: list[Mapping[str, Any]] = []
        # Opens the runner if the application's lifespan did not run (as in mounted applications); otherwise this
        # only joins it. Calls of this request end with the block.
        async with self._runner as runner:
            stream = runner.astream(self._job.task, self._job.items, client=self._client)
            async for outcome in stream:
                held.append(builder.add(outcome, stream.stats))
                # Before the first line the status code is still open: the request may fail as a whole.
                if builder.is_unusable and not self._headers_sent:
                    continue
                for entry in held:
                    await self._send_line(entry, send)
                held.clear()
        if not self._headers_sent:
            builder.check_usable()
        for entry in (*held, *builder.add_not_run()):
            await self._send_line(entry, send)
        await self._send_line(builder.with_warnings({"done": builder.counts}), send, last=True)
        return True

    async def _send_line(self, line: Mapping[str, Any], send: Send, *, last: bool = False) -> None:
        if not self._headers_sent:
            self._headers_sent = True
            headers = self.raw_headers
            await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
        await send({"type": "http.response.body", "body": as_line(line), "more_body": not last})

    async def _send_error(self, error: Exception, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = self._request.request_id
        api_error = error_response_for(error, self._request.log_id)
        if self._headers_sent:
            body = error_body(api_error.status_code, str(api_error.detail), api_error.details, request_id)
            await self._send_line({"error": body}, send, last=True)
        else:
            await as_response(api_error, request_id)(scope, receive, send)


T = TypeVar("T")

CLIENT_CLOSED_REQUEST = 499
"""Status code of a request whose client disconnected, as nginx logs it; it is never delivered."""


async def cancel_on_disconnect(receive: Receive, work: Callable[[], Awaitable[T]]) -> T | None:
    """
    Run `work`, and cancel it if the client disconnects. The body of the request must have been read.

    Returns:
        The result of `work`, or None if the client disconnected first.

    Raises:
        Exception: The error of `work`, not wrapped in an exception group.
    """
    result: T | None = None
    failure: Exception | None = None
    async with create_task_group() as tasks:
        tasks.start_soon(_cancel_when_disconnected, receive, tasks.cancel_scope)
        # Kept until the task group has ended: raised inside, it would come out as an exception group.
        try:
            result = await work()
        except Exception as error:
            failure = error
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return result


async def _cancel_when_disconnected(receive: Receive, scope: CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


async def run_and_respond(
    request: BatchRequest,
    runner: BatchRunner,
    make_job: Callable[[], BatchJob],
    faults: Faults,
    clients: Clients,
) -> Response:
    """
    Run the job of a request and return its response, JSON or NDJSON.

    Raises:
        APIError: The request is invalid, or failed as a whole.
    """
    try:
        job = await request.off_loop(make_job)
        client = clients.named(request.client_name)
        if request.accepts_ndjson and not job.is_single:
            return NDJSONResponse(request, runner, job, faults, client)
        report = await cancel_on_disconnect(
            request.receive, lambda: runner.arun(job.task, job.items, client=client)
        )
        if report is None:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        builder = ResponseBuilder(request, job, faults)
        body = builder.only(report) if job.is_single else _body(builder, report)
    except Exception as error:
        raise error_response_for(error, request.log_id) from error
    return json_response(body)


def json_response(body: Mapping[str, Any]) -> Response:
    """Return a body as a response."""
    return Response(as_json(body), media_type="application/json")


def _body(builder: ResponseBuilder, report: BatchReport[Any]) -> Mapping[str, Any]:
    """
    Return the response to a request about many restaurants.

    Raises:
        APIError: The service is not set up for it, and there is no result.
    """
    entries = [builder.add(outcome, report.stats) for outcome in report.outcomes]
    entries.extend(builder.add_not_run())
    builder.check_usable()
    results = [entry["result"] for entry in entries if "result" in entry]
    failures = [entry["failure"] for entry in entries if "failure" in entry]
    return builder.with_warnings({"results": results, "failures": failures})
