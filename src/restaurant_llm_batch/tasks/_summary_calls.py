"""LLM calls that answer with one text per field, for `_map_reduce`: their requests, and what repairs their replies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import OutputError, OutputTruncated
from ..models import ItemId, LLMRequest
from ..steps import Flow, complete
from ._asking import repair
from ._parsing import Texts, read_texts
from ._prompts import reviews as prompts
from ._prompts.wording import Wording
from ._replies import more_room_helps


@dataclass(frozen=True, slots=True)
class SummaryCalls:
    """
    The calls for one restaurant.

    Attributes:
        restaurant_id: Id of the restaurant.
        wording: Wording of the instructions, and the language of the replies.
        fields: Fields of a reply, in order; the last sums up the others, and its text must not be empty.
        max_tokens: Maximum length of a reply, in tokens.
        temperature: Sampling temperature.
        priority: Lower runs first.
    """

    restaurant_id: ItemId
    wording: Wording
    fields: tuple[str, ...]
    max_tokens: int
    temperature: float
    priority: int

    def system(self, task: str) -> str:
        """Return the instructions of a task."""
        return prompts.instructions(task, self.wording)["content"]

    def request(
        self, task: str, data: str, inputs: Mapping[str, Any], fields: tuple[str, ...] = ()
    ) -> LLMRequest:
        """Return a request for `fields`, or for all fields."""
        return LLMRequest(
            task,
            (prompts.instructions(task, self.wording), {"role": "user", "content": data}),
            prompts.texts_schema(fields or self.fields),
            {"restaurant_id": self.restaurant_id, "language": self.wording.language, **inputs},
            self.max_tokens,
            self.temperature,
            self.priority,
        )

    def merge_request(self, parts: Sequence[Texts], fields: tuple[str, ...] = ()) -> LLMRequest:
        """Return a request to merge summaries."""
        lines = [prompts.data_line(number, part) for number, part in enumerate(parts, 1)]
        inputs = {"summaries": [dict(part) for part in parts]}
        return self.request("merge_summaries", prompts.block(lines), inputs, fields)

    def ask(self, request: LLMRequest, *, widen: bool) -> Flow[tuple[Texts, str]]:
        """
        Return the texts of a reply and the name of its model.

        Fields that are whole in the first reply stand. If only the last one is missing, it is written from the others.

        Args:
            request: The request.
            widen: Whether to request a reply that was cut off again with a larger `max_tokens`, if that can help.

        Raises:
            Exception: The call failed, or its second reply cannot be read either.
        """
        reply = yield from complete(request, limiter="batches")
        last = self.fields[-1]
        found = read_texts(reply, self.fields, (last,))
        problems = [name for name, text in found.items() if isinstance(text, OutputError)]
        if not problems:
            return _texts(found), reply.model
        whole = {name: text for name, text in found.items() if isinstance(text, str) and text}
        if problems == [last] and whole:
            second = yield from complete(self.merge_request([whole], (last,)), limiter="batches")
        else:
            error = found[problems[0]]
            assert isinstance(error, OutputError)
            if isinstance(error, OutputTruncated) and not (widen and more_room_helps(request, reply)):
                raise error
            repaired = yield from repair(request, reply, error, limiter="batches")
            if repaired is None:
                raise error
            second = repaired
        again = read_texts(second, self.fields, (last,))
        return _texts({name: again[name] if name in problems else found[name] for name in found}), reply.model


def _texts(found: Mapping[str, str | OutputError]) -> Texts:
    """
    Return the texts.

    Raises:
        OutputError: A field is an error.
    """
    texts: dict[str, str] = {}
    for name, text in found.items():
        if isinstance(text, OutputError):
            raise text
        texts[name] = text
    return texts
