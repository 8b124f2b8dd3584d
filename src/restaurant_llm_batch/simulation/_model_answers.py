"""Answers of a simulated model: made from the form of a request, or taken from a backend that needs no service."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from random import Random
from typing import Any, TypeAlias

from .._llm_response import LLMResponse
from .._schema_answers import answer_from_schema
from ..models import LLMRequest
from ..protocols import LLMBackend
from ._lengths import LikelyAnswers
from .latency import SampledNumbers

TEXT = "(a simulated answer)"
_KEPT = 512
_COUNTED = 64
"""Texts whose tokens are kept."""

Count: TypeAlias = Callable[[str], int]


class Answers:
    """
    Answers requests at once.

    Args:
        backend: Answers the requests, for example `OfflineLLM`; None for answers made from the form.
        count: Counts the tokens of a text.
        tokens: Tokens of every answer that is made, or what was seen of them by the task name of its request; None for
            what its form suggests, which varies.
        random: Varies the lengths.
        model: Name of the model in the answers.
    """

    def __init__(
        self,
        backend: LLMBackend | None,
        count: Count,
        tokens: int | Mapping[str, SampledNumbers] | None,
        random: Random,
        model: str,
    ) -> None:
        self._model = model
        self._backend = backend
        self._count = count
        # Most requests of a task share their system message, and those about made-up reviews share all.
        self._count_once = lru_cache(_COUNTED)(count)
        self._tokens = tokens if isinstance(tokens, int) else None
        self._seen: Mapping[str, SampledNumbers] = tokens if isinstance(tokens, Mapping) else {}
        self._read: set[str] = set()  # system messages that a cache of prefixes has
        self._random = random
        self._likely = LikelyAnswers(count)
        # By the identity of the schema, which tasks make once; it is kept, so that no other one takes its place.
        self._made: dict[int, tuple[Any, str]] = {}

    def prompt_tokens(self, request: LLMRequest) -> int:
        """Return the tokens of a request's prompt."""
        total = 0
        for message in request.messages:
            content: Any = message[
                "content"
            ]  # parts of a message, as a list, are for the counter to take or to refuse
            total += self._count_once(content) if isinstance(content, str) else self._count(content)
        return total

    def cached_tokens(self, request: LLMRequest) -> int:
        """Return the tokens of a prompt that an earlier one began with too: those of its system message."""
        first = request.messages[0] if request.messages else {}
        if first.get("role") != "system":
            return 0
        if first["content"] in self._read:
            return self._count_once(first["content"])
        if len(self._read) >= _KEPT:
            self._read.clear()
        self._read.add(first["content"])
        return 0

    def answer(self, request: LLMRequest, prompt_tokens: int, cached_tokens: int = 0) -> LLMResponse:
        """Return the answer to a request."""
        if self._backend is not None:
            given = self._backend.complete(request)
            tokens = given.completion_tokens or self._count(given.text)
            tokens = min(tokens, request.max_tokens)
            return LLMResponse(
                given.text, given.finish_reason, prompt_tokens, tokens, self._model, cached_tokens
            )
        schema = request.schema
        found = self._made.get(id(schema))
        if found is None:
            if len(self._made) >= _KEPT:
                self._made.clear()
            text = TEXT if schema is None else json.dumps(answer_from_schema(schema, text=TEXT))
            found = self._made[id(schema)] = (schema, text)
        seen = self._seen.get(request.task)
        if seen is not None:
            tokens = max(1, round(seen.draw(self._random, prompt_tokens)))
        elif self._tokens is None:
            length = self._likely.length(request)
            tokens = length.low + int(self._random.random() * (length.high - length.low + 1))
        else:
            tokens = self._tokens
        tokens = min(tokens, request.max_tokens)
        return LLMResponse(found[1], "stop", prompt_tokens, tokens, self._model, cached_tokens)
