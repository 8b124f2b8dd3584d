"""Carrying out a request's job."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastapi import Response

from ..._runner import BatchRunner
from ...outcomes import BatchReport
from .jobs import Job
from .lines import OutcomeLines
from .presence import CLIENT_GONE, unless_gone
from .request import BatchRequest
from .respond import Account, refusal_of
from .text import as_json


async def answer(request: BatchRequest, runner: BatchRunner, make_job: Callable[[], Job]) -> Response:
    """
    Do what a request asks for, all at once or line by line.

    Raises:
        Refused: Nothing of it could be done.
    """
    try:
        job = make_job()
        if request.wants_lines:
            return OutcomeLines(request, runner, job)
        account = Account(request, job)
        report = await unless_gone(request.receive, lambda: runner.arun(job.task, job.items))
        if report is None:
            return Response(status_code=CLIENT_GONE)
        body = _body(account, report)
        if account.stop is not None and not body["results"]:
            raise account.stop
    except Exception as error:
        raise refusal_of(error, request.request_id) from error
    return Response(as_json(body), media_type="application/json")


def _body(account: Account, report: BatchReport[Any]) -> Mapping[str, Sequence[Any]]:
    entries = [account.enter(outcome, report.stats) for outcome in report.outcomes]
    entries.extend(account.never_begun())
    return {
        "results": [entry["result"] for entry in entries if "result" in entry],
        "failures": [entry["failure"] for entry in entries if "failure" in entry],
    }
