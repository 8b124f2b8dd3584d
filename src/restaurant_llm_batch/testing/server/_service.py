"""
Decides what is said to each request. It knows no sockets and no loop, and is told the time.

One lock holds it together: the loop's thread asks it, and any thread may look at the counts.
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
from ._faults import BAD_ANSWERS, BREAKDOWNS, REFUSALS, FaultKind, Faults, TokenBucket
from ._jobs import JobQueue
from ._requests import ChatRequest, count_tokens, read_chat, read_json
from ._responses import PlannedResponse, Usage, json_response, openai_error
from ._stats import ServerStats, StatsBuilder

_HTTP_FAULTS = REFUSALS + BREAKDOWNS
_DELIVERIES = ("disconnect", "reset", "slow_body", "no_response")


@dataclass(frozen=True, slots=True)
class Admitted:
    """A question that was let in, with the fault that it meets and what it costs."""

    asked: ChatRequest
    fault: FaultKind | None
    prompt: int
    headers: Mapping[str, str]


class FaultService:
    """
    What a server knows and decides; see `FaultServer` for the arguments.

    Attributes:
        faults: What goes wrong from now on.
        error: The first exception that the user's own functions raised.
    """

    def __init__(self, faults: Faults, seed: int, write: Responder, model: str, api_key: str | None) -> None:
        self.faults = faults
        self.error: Exception | None = None
        self.jobs = JobQueue()
        self.model = model
        self.lock = threading.RLock()  # again by a user's function that looks at the counts
        self.stats = StatsBuilder()
        self.seed = seed
        self._write = write
        self._api_key = api_key
        self._requests, self._tokens = TokenBucket(), TokenBucket()
        self._tries: Counter[str] = Counter()

    def counts(self, now: float) -> ServerStats:
        """Return what was seen until now."""
        with self.lock:
            self.jobs.move_on(now, self.faults.max_running)
            return self.stats.snapshot(self.jobs)

    def knows(self, authorization: str) -> bool:
        """Tell whether a key is the right one."""
        return self._api_key is None or authorization == f"Bearer {self._api_key}"

    def chat(self, raw: bytes, now: float) -> PlannedResponse:
        """Decide what is said to a chat completion."""
        asked = read_chat(read_json(raw))
        if asked is None:
            return openai_error(400, "messages must be a list of messages", "BadRequestError")
        if asked.body.get("stream"):
            return openai_error(400, "this server does not stream; leave stream out", "BadRequestError")
        with self.lock:
            let = self.admit(asked, self.stats.in_flight, now)
            if isinstance(let, PlannedResponse):
                return let
            self.note(let.fault, _HTTP_FAULTS + BAD_ANSWERS)
            answer = self._answer(let)
            if answer.admitted:
                self.stats.request_received()
            return answer

    def admit(self, asked: ChatRequest, in_flight: int, now: float) -> Admitted | PlannedResponse:
        """Let a question in, or say why not."""
        faults = self.faults
        prompt = asked.prompt_tokens
        refused = self._refusal(prompt + (asked.max_tokens or 16), in_flight, now)
        if refused is not None:
            self.stats.refused += 1
            return refused
        self._tries[asked.digest] += 1
        asked = replace(asked, attempt=self._tries[asked.digest])
        fault = faults.kind(asked, self.seed)
        if faults.context is not None and prompt >= faults.context and fault not in REFUSALS:
            fault = "context_length_exceeded"
        headers = chat.rate_headers(faults, self._requests, self._tokens)
        return Admitted(asked, fault, prompt, headers)

    def _refusal(self, tokens: int, in_flight: int, now: float) -> PlannedResponse | None:
        faults = self.faults
        waits = {"requests per second": 0.0, "tokens per minute": 0.0}
        if faults.requests_per_second:
            waits["requests per second"] = self._requests.wait(
                1, faults.requests_per_second, faults.request_burst, now
            )
        if faults.tokens_per_minute:
            waits["tokens per minute"] = self._tokens.wait(
                tokens, faults.tokens_per_minute / 60, faults.tokens_held, now
            )
        headers = chat.rate_headers(faults, self._requests, self._tokens)
        if faults.limit is not None and in_flight >= faults.limit:
            # When a place gets free nobody knows; by then about one more call has been answered.
            wait = faults.latency if isinstance(faults.latency, (int, float)) else 1.0
            return chat.refusal(faults.refusal, wait, faults, f"{faults.limit} requests in flight", headers)
        why, wait = max(waits.items(), key=lambda one: one[1])
        if isinf(wait):
            return chat.too_large(round(faults.tokens_held), tokens, headers)
        if wait:
            return chat.refusal(429, wait, faults, why, headers)
        self._requests.take(1)
        self._tokens.take(tokens)
        return None

    def note(self, fault: FaultKind | None, meant: tuple[str, ...]) -> None:
        """Count a fault, if it is one that can happen here."""
        if fault in meant:
            self.stats.faults[str(fault)] += 1
            self.stats.refused += fault in ("rate_limited", "unavailable")

    def _answer(self, let: Admitted) -> PlannedResponse:
        asked, fault = let.asked, let.fault
        said = chat.breakdown(str(fault), self.faults)
        if said is not None and fault in REFUSALS:
            return replace(said, headers={**let.headers, **said.headers})
        seconds = self.faults.seconds(asked, self.seed)
        if said is None:
            body, usage = self.completed(let)
            said = json_response(body, usage=usage, delivery=fault if fault in _DELIVERIES else "whole")
        headers = {**let.headers, "x-request-id": f"req-{asked.digest}-{asked.attempt}"}
        return replace(said, headers=headers, after=seconds, admitted=True, priority=asked.priority)

    def completed(self, let: Admitted) -> tuple[dict[str, object], Usage]:
        """Return the completion of a question, and its tokens."""
        asked = let.asked
        text = as_text(self._write(asked))
        written = corrupt(let.fault, text, count_tokens, asked.max_tokens)
        usage = Usage(let.prompt, count_tokens(written.text))
        model = str(asked.body.get("model") or self.model)
        number = f"{asked.digest}-{asked.attempt}"
        return chat.completion(written, usage, model, number), usage

    def left(self, path: str, answer: PlannedResponse | None, *, whole: bool) -> None:
        """Count the end of a request; `answer` is None when it was given up before anything was decided."""
        with self.lock:
            status = answer.status if answer is not None and whole else 0
            self.stats.statuses[path, status] += 1
            if answer is not None:
                self.stats.in_flight -= answer.admitted
                if whole:
                    self.stats.record_response(answer)

    def given_up(self) -> None:
        """Count a request that was given up."""
        with self.lock:
            self.stats.abandoned += 1

    def tokenized(self, raw: bytes) -> PlannedResponse:
        """Count the tokens of a text or a chat, as vLLM's ``/tokenize`` does."""
        body: Any = read_json(raw)
        asked = read_chat(body)
        if asked is not None:
            count = asked.prompt_tokens
        elif isinstance(body, dict) and isinstance(body.get("prompt"), str):
            count = count_tokens(body["prompt"])
        else:
            return openai_error(400, "prompt or messages must be given", "BadRequestError")
        return json_response(
            {"count": count, "max_model_len": self.faults.context, "tokens": [], "token_strs": None}
        )
