"""What has become of a request's restaurants."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from anyio import CancelScope, create_task_group
from fastapi import Response
from starlette.types import Receive, Scope, Send

from ..._runner import BatchRunner
from ...errors import STOPS_THE_RUN, BatchError, ConfigurationError, OutputError, RunStopped
from ...models import ItemId
from ...outcomes import BatchReport, Failure, Outcome, RunStats, Stage
from .error_responses import APIError, as_api_error, as_response, describe_error, error_body
from .jobs import BatchJob
from .request import LINES, BatchRequest
from .responses import DebugInfo, FailureResponse
from .serialize import as_json, as_line

log = logging.getLogger("restaurant_llm_batch")


class ResponseBuilder:
    """
    What has become of a request's restaurants.

    Attributes:
        counts: Results and failures so far.
        stop: What keeps the rest from being done, or None.
    """

    def __init__(self, request: BatchRequest, job: BatchJob) -> None:
        self.counts = {"results": 0, "failures": 0}
        self.stop: Exception | None = None
        self._request = request
        self._job = job
        self._open = dict(enumerate(job.ids))
        self._traced: set[type[Exception]] = set()

    def enter(self, outcome: Outcome[Any], stats: RunStats) -> Mapping[str, Any]:
        """Return an outcome as an answer shows it: ``{"result"}`` or ``{"failure"}``."""
        restaurant_id = self._open.pop(outcome.index)
        if isinstance(outcome, Failure):
            self._note(restaurant_id, outcome)
            return self._failed(restaurant_id, outcome.stage, describe_error(outcome.error), outcome.attempts)
        self.counts["results"] += 1
        debug = self._debug(outcome.value, stats) if self._request.wants_debug else None
        return {"result": self._job.show(outcome.value, outcome.index, debug)}

    def never_begun(self) -> list[Mapping[str, Any]]:
        """Return the restaurants that a stop has left untouched, as failures."""
        left, self._open = list(self._open.values()), {}
        error = RunStopped()
        error.__cause__ = self.stop
        return [self._failed(restaurant_id, "run", describe_error(error), 0) for restaurant_id in left]

    def _failed(self, restaurant_id: ItemId, stage: Stage, error: str, attempts: int) -> Mapping[str, Any]:
        self.counts["failures"] += 1
        shown = FailureResponse(restaurant_id=restaurant_id, stage=stage, error=error, attempts=attempts)
        return {"failure": shown}

    def _note(self, restaurant_id: ItemId, failure: Failure) -> None:
        error = failure.error
        if isinstance(error, STOPS_THE_RUN):
            self.stop = self.stop or error
        if isinstance(error, RunStopped):
            return  # what stopped it is noted already
        unknown = not isinstance(error, BatchError) and type(error) not in self._traced
        self._traced.add(type(error))
        log.warning(
            "request %s: restaurant %r failed at %s after %d attempts: %s: %r",
            self._request.request_id,
            restaurant_id,
            failure.stage,
            failure.attempts,
            type(error).__name__,
            # What a model wrote, or a user sent, is not for logs.
            "" if isinstance(error, (OutputError, ConfigurationError)) else str(error),
            exc_info=error if unknown else None,
        )

    def _debug(self, value: Any, stats: RunStats) -> DebugInfo:
        return DebugInfo(
            request_id=self._request.request_id,
            processing_time_ms=round(stats.wall_seconds * 1000, 1),
            tokens_used=stats.prompt_tokens + stats.completion_tokens,
            model_version=value.model,
            warnings=self._job.warn(value),
        )


def error_response_for(error: Exception, request_id: str) -> APIError:
    """Return what a request is told of which nothing was done; what is our own fault goes to the log."""
    refusal = as_api_error(error)
    if refusal.status_code >= 500:
        log.error("request %s is answered %d", request_id, refusal.status_code, exc_info=error)
    return refusal


class NDJSONResponse(Response):
    """
    Results as they finish, one JSON line each, and one with the counts at the end.

    The first line waits for the first outcome, and so does the status: a request of which nothing can be done
    gets the status that says so. What goes wrong later is said in the last line.
    """

    media_type = LINES

    def __init__(self, request: BatchRequest, runner: BatchRunner, job: BatchJob) -> None:
        # Proxies that gather an answer before they pass it on would undo the point of this one.
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._request = request
        self._runner = runner
        self._job = job
        self._begun = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send everything; it ends early when the client goes away."""
        try:
            done = await cancel_on_disconnect(receive, lambda: self._send_outcomes(send))
        except Exception as error:
            await self._send_error(error, scope, receive, send)
        else:
            if not done and not self._begun:  # nobody hears it, but middleware wants some answer
                await Response(status_code=CLIENT_GONE)(scope, receive, send)

    async def _send_outcomes(self, send: Send) -> bool:
        account = ResponseBuilder(self._request, self._job)
        # A block of the request's own opens the runner where nobody has, and what is in it ends with the request.
        async with self._runner as runner:
            stream = runner.astream(self._job.task, self._job.items)
            async for outcome in stream:
                entry = account.enter(outcome, stream.stats)
                if account.stop is not None and not self._begun:
                    raise account.stop
                await self._send_line(entry, send)
        for entry in account.never_begun():
            await self._send_line(entry, send)
        await self._send_line({"done": account.counts}, send, last=True)
        return True

    async def _send_line(self, line: Mapping[str, Any], send: Send, *, last: bool = False) -> None:
        if not self._begun:
            self._begun = True
            headers = self.raw_headers
            await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
        await send({"type": "http.response.body", "body": as_line(line), "more_body": not last})

    async def _send_error(self, error: Exception, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = self._request.request_id
        refusal = error_response_for(error, request_id)
        if self._begun:
            body = error_body(refusal.status_code, str(refusal.detail), refusal.details, request_id)
            await self._send_line({"error": body}, send, last=True)
        else:
            await as_response(refusal, request_id)(scope, receive, send)


T = TypeVar("T")

CLIENT_GONE = 499
"""The status that proxies give to an answer that nobody is left to read."""


async def cancel_on_disconnect(receive: Receive, work: Callable[[], Awaitable[T]]) -> T | None:
    """
    Work, and cancel that when the client goes away; the request must have been read.

    Returns:
        What `work` returns, or None if the client went away before.

    Raises:
        Exception: What `work` raised, and not in a group.
    """
    result: T | None = None
    failure: Exception | None = None
    async with create_task_group() as tasks:
        tasks.start_soon(_cancel_when_gone, receive, tasks.cancel_scope)
        try:
            result = await work()
        except Exception as error:
            failure = error
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return result


async def _cancel_when_gone(receive: Receive, scope: CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


async def run_and_respond(
    request: BatchRequest, runner: BatchRunner, make_job: Callable[[], BatchJob]
) -> Response:
    """
    Do what a request asks for, all at once or line by line.

    Raises:
        Refused: Nothing of it could be done.
    """
    try:
        job = make_job()
        if request.wants_lines:
            return NDJSONResponse(request, runner, job)
        account = ResponseBuilder(request, job)
        report = await cancel_on_disconnect(request.receive, lambda: runner.arun(job.task, job.items))
        if report is None:
            return Response(status_code=CLIENT_GONE)
        body = _body(account, report)
        if account.stop is not None and not body["results"]:
            raise account.stop
    except Exception as error:
        raise error_response_for(error, request.request_id) from error
    return Response(as_json(body), media_type="application/json")


def _body(account: ResponseBuilder, report: BatchReport[Any]) -> Mapping[str, Sequence[Any]]:
    entries = [account.enter(outcome, report.stats) for outcome in report.outcomes]
    entries.extend(account.never_begun())
    return {
        "results": [entry["result"] for entry in entries if "result" in entry],
        "failures": [entry["failure"] for entry in entries if "failure" in entry],
    }
