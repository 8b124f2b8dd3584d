"""What has become of a request's restaurants."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from ...errors import STOPS_THE_RUN, BatchError, ConfigurationError, OutputError, RunStopped
from ...models import ItemId
from ...outcomes import Failure, Outcome, RunStats, Stage
from .error_responses import Refused, as_refusal, in_words
from .jobs import Job
from .request import BatchRequest
from .responses import DebugInfo, FailureResponse

log = logging.getLogger("restaurant_llm_batch")


class Account:
    """
    What has become of a request's restaurants.

    Attributes:
        counts: Results and failures so far.
        stop: What keeps the rest from being done, or None.
    """

    def __init__(self, request: BatchRequest, job: Job) -> None:
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
            return self._failed(restaurant_id, outcome.stage, in_words(outcome.error), outcome.attempts)
        self.counts["results"] += 1
        debug = self._debug(outcome.value, stats) if self._request.wants_debug else None
        return {"result": self._job.show(outcome.value, outcome.index, debug)}

    def never_begun(self) -> list[Mapping[str, Any]]:
        """Return the restaurants that a stop has left untouched, as failures."""
        left, self._open = list(self._open.values()), {}
        error = RunStopped()
        error.__cause__ = self.stop
        return [self._failed(restaurant_id, "run", in_words(error), 0) for restaurant_id in left]

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


def refusal_of(error: Exception, request_id: str) -> Refused:
    """Return what a request is told of which nothing was done; what is our own fault goes to the log."""
    refusal = as_refusal(error)
    if refusal.status_code >= 500:
        log.error("request %s is answered %d", request_id, refusal.status_code, exc_info=error)
    return refusal
