"""Answers of many lines, sent as they come."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import Response
from starlette.types import Receive, Scope, Send

from ..._runner import BatchRunner
from .error_responses import as_response, error_body
from .jobs import Job
from .presence import CLIENT_GONE, unless_gone
from .request import LINES, BatchRequest
from .respond import Account, refusal_of
from .text import as_line


class OutcomeLines(Response):
    """
    Results as they finish, one JSON line each, and one with the counts at the end.

    The first line waits for the first outcome, and so does the status: a request of which nothing can be done
    gets the status that says so. What goes wrong later is said in the last line.
    """

    media_type = LINES

    def __init__(self, request: BatchRequest, runner: BatchRunner, job: Job) -> None:
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
            done = await unless_gone(receive, lambda: self._send_outcomes(send))
        except Exception as error:
            await self._send_error(error, scope, receive, send)
        else:
            if not done and not self._begun:  # nobody hears it, but middleware wants some answer
                await Response(status_code=CLIENT_GONE)(scope, receive, send)

    async def _send_outcomes(self, send: Send) -> bool:
        account = Account(self._request, self._job)
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
        refusal = refusal_of(error, request_id)
        if self._begun:
            body = error_body(refusal.status_code, str(refusal.detail), refusal.details, request_id)
            await self._send_line({"error": body}, send, last=True)
        else:
            await as_response(refusal, request_id)(scope, receive, send)
