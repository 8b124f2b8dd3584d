"""
Fault service: plans the response to each request, from the configured faults, limits and rate limits.

Theory of operation. The service does no I/O, uses no event loop and reads no clock: each method takes the body of a
request and the time, and returns a `PlannedResponse` that `_http_app` delivers. A request passes three steps:

1. *Refusal* (`admit`): over the limit on requests in flight, or with an empty token bucket, it is refused with 429 or
   503. A refusal is not an attempt and takes nothing from the buckets.
2. *Fault* (`Faults.kind`): the attempt is counted, and the fault is chosen by a hash of seed and messages. So the same
   requests meet the same faults in every run, in any order and at any concurrency.
3. *Response*: an error in place of a completion, a completion that is corrupted, or a completion that is delivered
   badly (`PlannedResponse.delivery`).

What the server has seen is counted in `StatsBuilder` when a request is admitted and when it has ended. One lock guards
all state: requests arrive on the thread of the event loop, and any thread may read the statistics.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isinf
from typing import Any

from . import _chat_api as chat
from ._answers import Responder, as_text, corrupt
from ._batches import Answer, BatchQueue
from ._faults import (
    BAD_ANSWERS,
    BREAKDOWNS,
    BUSY,
    ODD_FORMS,
    REFUSALS,
    FaultKind,
    Faults,
    TokenBucket,
)
from ._jobs import JobQueue
from ._requests import ChatRequest, count_tokens, read_chat, read_json
from ._responses import PlannedResponse, Usage, json_response, openai_error
from ._stats import ServerStats, StatsBuilder

_HTTP_FAULTS = REFUSALS + BREAKDOWNS + ODD_FORMS
_DELIVERIES = ("disconnect", "reset", "slow_body", "no_response")


@dataclass(frozen=True, slots=True)
class Admitted:
    """An admitted request, with its fault, its number of prompt tokens and the rate-limit headers of its response."""

    request: ChatRequest
    fault: FaultKind | None
    prompt: int
    headers: Mapping[str, str]


class FaultService:
    """
    State and decisions of a fault server; see `FaultServer` for the arguments.

    Attributes:
        faults: The current faults and limits.
        error: The first exception raised by a function of the user.
    """

    def __init__(self, faults: Faults, seed: int, write: Responder, model: str, api_key: str | None) -> None:
        self.faults = faults
        self.error: Exception | None = None
        self.jobs = JobQueue()
        self.batches = BatchQueue(self._answer_line)
        self.model = model
        self.lock = (
            threading.RLock()
        )  # reentrant: a function of the user may read the statistics while it is held
        self.stats = StatsBuilder()
        self.seed = seed
        self._write = write
        self._api_key = api_key
        self._requests, self._tokens = TokenBucket(), TokenBucket()
        self._attempts: Counter[str] = Counter()

    def counts(self, now: float) -> ServerStats:
        """Return the statistics at the time `now`."""
        with self.lock:
            self.jobs.advance(now, self.faults.max_running)
            return self.stats.snapshot(self.jobs, self.batches)

    def is_authorized(self, authorization: str) -> bool:
        """Return whether the value of an ``Authorization`` header is valid."""
        return self._api_key is None or authorization == f"Bearer {self._api_key}"

    def chat(self, raw: bytes, now: float) -> PlannedResponse:
        """Plan the response to a chat completion."""
        request = read_chat(read_json(raw))
        if request is None:
            return openai_error(400, "messages must be a list of messages", "BadRequestError")
        if request.body.get("stream"):
            return openai_error(400, "this server does not stream; leave stream out", "BadRequestError")
        with self.lock:
            admitted = self.admit(request, self.stats.in_flight, now)
            if isinstance(admitted, PlannedResponse):
                return admitted
            self.record_fault(admitted.fault, _HTTP_FAULTS + BAD_ANSWERS)
            answer = self._answer(admitted)
            if answer.admitted:
                self.stats.request_received()
            return answer

    def admit(self, request: ChatRequest, in_flight: int, now: float) -> Admitted | PlannedResponse:
        """Admit a request, or return its refusal. `in_flight` is the number that `Faults.limit` bounds."""
        prompt = request.prompt_tokens
        refused = self._refusal(prompt + (request.max_tokens or 16), in_flight, now)
        if refused is not None:
            self.stats.refused += 1
            return refused
        return self._admitted(request, prompt)

    def _admitted(self, request: ChatRequest, prompt: int) -> Admitted:
        faults = self.faults
        self._attempts[request.digest] += 1
        request = replace(request, attempt=self._attempts[request.digest])
        fault = faults.kind(request, self.seed)
        if fault == "field_refused" and "temperature" not in request.body:
            fault = None  # the client has learned it
        if faults.context is not None and prompt >= faults.context and fault not in REFUSALS:
            fault = "context_length_exceeded"
        headers = chat.rate_headers(faults, self._requests, self._tokens)
        return Admitted(request, fault, prompt, headers)

    def _answer_line(self, request: ChatRequest) -> Answer:
        """Answer a line of a batch: with the faults of chat completions, but without limits."""
        admitted = self._admitted(request, request.prompt_tokens)
        if admitted.fault in ODD_FORMS:
            admitted = replace(admitted, fault=None)
        self.record_fault(admitted.fault, _HTTP_FAULTS + BAD_ANSWERS)
        planned = self._answer(admitted)
        if planned.delivery in ("disconnect", "reset", "no_response"):
            planned = openai_error(
                500, "The server had an error while processing your request.", "server_error"
            )
        body = read_json(planned.body)
        return Answer(planned.status, planned.body.decode() if body is None else body, planned.usage)

    def _refusal(self, tokens: int, in_flight: int, now: float) -> PlannedResponse | None:
        faults = self.faults
        waits = {"requests per second": 0.0, "tokens per minute": 0.0}
        if faults.requests_per_second:
            waits["requests per second"] = self._requests.wait(
                1, faults.requests_per_second, faults.request_burst, now
            )
        if faults.tokens_per_minute:
            waits["tokens per minute"] = self._tokens.wait(
                tokens, faults.tokens_per_minute / 60, faults.token_capacity, now
            )
        headers = chat.rate_headers(faults, self._requests, self._tokens)
        if faults.limit is not None and in_flight >= faults.limit:
            # The time until a slot is free is unknown: estimate it as the latency of one call.
            wait = faults.latency if isinstance(faults.latency, (int, float)) else 1.0
            return chat.refusal(faults.refusal, wait, faults, f"{faults.limit} requests in flight", headers)
        why, wait = max(waits.items(), key=lambda item: item[1])
        if isinf(wait):
            return chat.too_large(round(faults.token_capacity), tokens, headers)
        if wait:
            return chat.refusal(429, wait, faults, why, headers)
        # Only now, when both buckets have enough: a refusal takes from neither.
        self._requests.take(1)
        self._tokens.take(tokens)
        return None

    def record_fault(self, fault: str | None, applicable: tuple[str, ...]) -> None:
        """Count a fault, if it applies to this kind of request."""
        if fault in applicable:
            self.stats.faults[str(fault)] += 1
            self.stats.refused += fault in BUSY

    def _answer(self, admitted: Admitted) -> PlannedResponse:
        request, fault = admitted.request, admitted.fault
        response = chat.breakdown(str(fault), self.faults)
        if fault == "field_refused":
            response = chat.field_refused("temperature")
        if response is not None and fault in REFUSALS:
            return replace(response, headers={**admitted.headers, **response.headers})
        seconds = self.faults.seconds(request, self.seed)
        if response is None:
            body, usage = self.complete(admitted)
            response = json_response(body, usage=usage, delivery=fault if fault in _DELIVERIES else "whole")
        headers = {**admitted.headers, "x-request-id": f"req-{request.digest}-{request.attempt}"}
        response = replace(
            response, headers=headers, latency=seconds, admitted=True, priority=request.priority
        )
        return in_odd_form(response, fault)

    def complete(self, admitted: Admitted) -> tuple[dict[str, object], Usage]:
        """Return the completion of a request, and its tokens."""
        request = admitted.request
        text = as_text(self._write(request))
        written = corrupt(admitted.fault, text, count_tokens, request.max_tokens)
        usage = Usage(admitted.prompt, count_tokens(written.text))
        if admitted.fault == "loop" and request.max_tokens is not None:
            usage = Usage(admitted.prompt, request.max_tokens)
        model = str(request.body.get("model") or self.model)
        number = f"{request.digest}-{request.attempt}"
        body = chat.completion(written, usage, model, number)
        return body, Usage(0, 0) if written.usage == "none" else usage

    def request_ended(self, path: str, answer: PlannedResponse | None, *, whole: bool) -> None:
        """Count the end of a request; `answer` is None if it was abandoned before a response was planned."""
        with self.lock:
            status = answer.status if answer is not None and whole else 0
            self.stats.statuses[path, status] += 1
            if answer is not None:
                self.stats.in_flight -= answer.admitted
                if whole:
                    self.stats.record_response(answer)

    def request_abandoned(self) -> None:
        """Count a request that the client or the stopping server abandoned."""
        with self.lock:
            self.stats.abandoned += 1

    def tokenize(self, raw: bytes) -> PlannedResponse:
        """Count the tokens of a text or a chat, as vLLM's ``/tokenize`` does."""
        body: Any = read_json(raw)
        request = read_chat(body)
        if request is not None:
            count = request.prompt_tokens
        elif isinstance(body, dict) and isinstance(body.get("prompt"), str):
            count = count_tokens(body["prompt"])
        else:
            return openai_error(400, "prompt or messages must be given", "BadRequestError")
        return json_response(
            {"count": count, "max_model_len": self.faults.context, "tokens": [], "token_strs": None}
        )


LONG_HEADER = 9000
"""Characters of a header that a gateway adds: above the 8,190 that some clients take."""


def in_odd_form(response: PlannedResponse, fault: str | None) -> PlannedResponse:
    """Return a response in the form of an `OddForm`; as it is for any other fault."""
    match fault:
        case "event_stream":
            body = chat.event_stream(read_json(response.body)).encode()
            return replace(response, body=body, content_type="text/event-stream")
        case "byte_order_mark":
            return replace(response, body=b"\xef\xbb\xbf" + response.body)
        case "long_header":
            return replace(response, headers={**response.headers, "x-gateway-trace": "a" * LONG_HEADER})
    return response
