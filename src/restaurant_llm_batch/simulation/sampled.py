"""`SampledLengths`: answers for a simulation that are as long as those which a model gave."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from zlib import crc32

from .._llm_response import LLMResponse
from .._schema_answers import answer_from_schema
from ..events import CallEnded, Event
from ..models import LLMRequest
from ._model_answers import TEXT


class SampledLengths:
    """
    An observer of a real run of a few items, and the answers of a simulation of many.

    It keeps the lengths of the model's replies by the name of the request's task. As a backend, it answers with the
    smallest answer of the form that is asked for, and says that it has as many tokens as one of these replies; which
    one, the messages of the request decide. What a model gets wrong, and what is asked again for it, is not repeated.

        lengths = SampledLengths()
        BatchRunner(llm=llm, search=search, observers=[lengths]).run(task, restaurants[:10])
        runner.simulate(task, restaurants, server, answers=lengths)
    """

    def __init__(self) -> None:
        self._lengths: defaultdict[str, list[int]] = defaultdict(list)

    def __call__(self, event: Event) -> None:
        """Keep the length of a reply."""
        if isinstance(event, CallEnded) and event.reply is not None and event.reply.completion_tokens:
            self._lengths[event.label].append(event.reply.completion_tokens)

    @property
    def lengths(self) -> Mapping[str, tuple[int, ...]]:
        """Tokens of the replies so far, by the name of the request's task."""
        return {task: tuple(lengths) for task, lengths in self._lengths.items()}

    def complete(self, request: LLMRequest, /) -> LLMResponse:
        """Answer a request. The tokens of one whose task was not seen are those of the text."""
        text = TEXT if request.schema is None else json.dumps(answer_from_schema(request.schema, text=TEXT))
        lengths = self._lengths.get(request.task)
        if not lengths:
            return LLMResponse(text)
        # By the request alone, so that equal seeds give equal runs.
        number = crc32(repr(request.messages).encode(errors="replace"))
        return LLMResponse(text, completion_tokens=lengths[number % len(lengths)])
