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
from ._answers import Writer, as_text, spoil
from ._faults import BAD_ANSWERS, BREAKDOWNS, REFUSALS, Bucket, FaultKind, Faults
from ._jobs import Jobs
from ._requests import Asked, count_tokens, read_chat, read_json
from ._responses import Say, Usage, complaint, say
from ._stats import Counts, Tally

_HTTP_FAULTS = REFUSALS + BREAKDOWNS
_DELIVERIES = ("hang_up", "reset", "slow_body", "silence")


@dataclass(frozen=True, slots=True)
class Let:
    """A question that was let in, with the fault that it meets and what it costs."""

    asked: Asked
    fault: FaultKind | None
    prompt: int
    headers: Mapping[str, str]


class Desk:
    """
    What a server knows and decides; see `FaultServer` for the arguments.

    Attributes:
        faults: What goes wrong from now on.
        error: The first exception that the user's own functions raised.
    """

    def __init__(self, faults: Faults, seed: int, write: Writer, model: str, api_key: str | None) -> None:
        self.faults = faults
        self.error: Exception | None = None
        self.jobs = Jobs()
        self.model = model
        self.lock = threading.RLock()  # again by a user's function that looks at the counts
        self.tally = Tally()
        self.seed = seed
        self._write = write
        self._api_key = api_key
        self._requests, self._tokens = Bucket(), Bucket()
        self._tries: Counter[str] = Counter()

    def counts(self, now: float) -> Counts:
        """Return what was seen until now."""
        with self.lock:
            self.jobs.move_on(now, self.faults.seats)
            return self.tally.snapshot(self.jobs)

    def knows(self, authorization: str) -> bool:
        """Tell whether a key is the right one."""
        return self._api_key is None or authorization == f"Bearer {self._api_key}"

    def chat(self, raw: bytes, now: float) -> Say:
        """Decide what is said to a chat completion."""
        asked = read_chat(read_json(raw))
        if asked is None:
            return complaint(400, "messages must be a list of messages", "BadRequestError")
        if asked.body.get("stream"):
            return complaint(400, "this server does not stream; leave stream out", "BadRequestError")
        with self.lock:
            let = self.let_in(asked, self.tally.in_flight, now)
            if isinstance(let, Say):
                return let
            self.note(let.fault, _HTTP_FAULTS + BAD_ANSWERS)
            answer = self._answer(let)
            if answer.admitted:
                self.tally.came_in()
            return answer

    def let_in(self, asked: Asked, in_flight: int, now: float) -> Let | Say:
        """Let a question in, or say why not."""
        faults = self.faults
        prompt = asked.prompt_tokens
        refused = self._refusal(prompt + (asked.max_tokens or 16), in_flight, now)
        if refused is not None:
            self.tally.refused += 1
            return refused
        self._tries[asked.digest] += 1
        asked = replace(asked, attempt=self._tries[asked.digest])
        fault = faults.kind(asked, self.seed)
        if faults.context is not None and prompt >= faults.context and fault not in REFUSALS:
            fault = "too_long"
        headers = chat.rate_headers(faults, self._requests, self._tokens)
        return Let(asked, fault, prompt, headers)

    def _refusal(self, tokens: int, in_flight: int, now: float) -> Say | None:
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
            self.tally.faults[str(fault)] += 1
            self.tally.refused += fault in ("rate_limited", "unavailable")

    def _answer(self, let: Let) -> Say:
        asked, fault = let.asked, let.fault
        said = chat.breakdown(str(fault), self.faults)
        if said is not None and fault in REFUSALS:
            return replace(said, headers={**let.headers, **said.headers})
        seconds = self.faults.seconds(asked, self.seed)
        if said is None:
            body, usage = self.completed(let)
            said = say(body, usage=usage, delivery=fault if fault in _DELIVERIES else "whole")
        headers = {**let.headers, "x-request-id": f"req-{asked.digest}-{asked.attempt}"}
        return replace(said, headers=headers, after=seconds, admitted=True, priority=asked.priority)

    def completed(self, let: Let) -> tuple[dict[str, object], Usage]:
        """Return the completion of a question, and its tokens."""
        asked = let.asked
        text = as_text(self._write(asked))
        written = spoil(let.fault, text, count_tokens, asked.max_tokens)
        usage = Usage(let.prompt, count_tokens(written.text))
        model = str(asked.body.get("model") or self.model)
        number = f"{asked.digest}-{asked.attempt}"
        return chat.completion(written, usage, model, number), usage

    def left(self, path: str, answer: Say | None, *, whole: bool) -> None:
        """Count the end of a request; `answer` is None when it was given up before anything was decided."""
        with self.lock:
            status = answer.status if answer is not None and whole else 0
            self.tally.statuses[path, status] += 1
            if answer is not None:
                self.tally.in_flight -= answer.admitted
                if whole:
                    self.tally.told(answer)

    def given_up(self) -> None:
        """Count a request that was given up."""
        with self.lock:
            self.tally.abandoned += 1

    def tokenized(self, raw: bytes) -> Say:
        """Count the tokens of a text or a chat, as vLLM's ``/tokenize`` does."""
        body: Any = read_json(raw)
        asked = read_chat(body)
        if asked is not None:
            count = asked.prompt_tokens
        elif isinstance(body, dict) and isinstance(body.get("prompt"), str):
            count = count_tokens(body["prompt"])
        else:
            return complaint(400, "prompt or messages must be given", "BadRequestError")
        return say({"count": count, "max_model_len": self.faults.context, "tokens": [], "token_strs": None})
