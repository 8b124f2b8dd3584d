"""
Preview of a task's prompts: the flow of one item, run without a model, with every request that it makes.

What a model or a search would answer is stood in for, so a request that is written from an earlier answer shows where
that answer goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .._config.limits import Limits
from .._llm_response import LLMResponse
from .._schema_answers import answer_from_schema
from ..errors import ConfigurationError
from ..models import Hit, LLMRequest, SearchQuery
from ..protocols import SearchBackend, Task, TokenCounter
from ..steps import Ask, Complete, Flow, Gather, Once, Pack, Search, SearchAll, Sleep, drive
from ..tokens.packing import PackedText, estimate_tokens, finish, pack_prompts
from ._ask import ask_flow
from ._forms import form_of

ANSWER = "(the model's answer)"
"""What stands in a prompt for a text that the model will have written."""


class Preview(str):
    """
    The prompts of one item as text, in the order of the calls.

    Attributes:
        requests: The requests.
    """

    requests: tuple[LLMRequest, ...]

    def __new__(cls, requests: Sequence[LLMRequest]) -> Preview:
        parts = [_as_text(number, len(requests), request) for number, request in enumerate(requests, 1)]
        self = super().__new__(cls, "\n".join(parts))
        self.requests = tuple(requests)
        return self

    def __repr__(self) -> str:
        return str(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.requests,)


def _as_text(number: int, count: int, request: LLMRequest) -> str:
    sampling = f"temperature {request.temperature:g}, at most {request.max_tokens} tokens"
    lines = [f"=== call {number} of {count}: {request.task}, {sampling} ==="]
    for message in request.messages:
        lines += [f"--- {message['role']} ---", message["content"].removesuffix("\n")]
    return "\n".join([*lines, ""])


class Previewed:
    """A task whose prompts can be shown before any call."""

    def preview(
        self: Task[Any],
        item: Any,
        /,
        *,
        search: SearchBackend | None = None,
        limits: Limits = Limits(),
        count_tokens: TokenCounter = estimate_tokens,
    ) -> Preview:
        """
        Return the prompts for one item, as they will be sent; no model is called.

        Later prompts may depend on earlier answers: in these, ``(the model's answer)`` stands for a text of the model.
        Calls that only a failed or unusable reply causes are not shown.

        Args:
            item: The item, as in `BatchRunner.run`.
            search: Finds the reviews of a task that searches; without it, a placeholder stands for them.
            limits: The runner's limits, if they are not the default: they decide how reviews are packed.
            count_tokens: The runner's token counter, if it is not the default; it decides that too.

        Raises:
            ConfigurationError: The item is invalid, or a batch has no room for reviews.
        """
        return preview(self, item, search=search, limits=limits, count_tokens=count_tokens)


def preview(
    task: Task[Any],
    item: Any,
    *,
    search: SearchBackend | None,
    limits: Limits,
    count_tokens: TokenCounter = estimate_tokens,
) -> Preview:
    """Return the prompts of a task for one item; see `Previewed.preview`."""
    requests: list[LLMRequest] = []

    def perform(step: Any) -> Any:
        match step:
            case Complete():
                requests.append(step.request)
                return LLMResponse(
                    _as_json(answer_from_schema(step.request.schema or {}, text=ANSWER)), model="preview"
                )
            case Ask():
                requests.append(next(ask_flow(step)).request)  # type: ignore[union-attr]
                return _instance(step.form)
            case SearchAll():
                return [hits(query) for query in step.queries]
            case Search():
                return hits(step.query)
            case Pack():
                return _pack(step, limits, count_tokens)
            case Gather():
                return [attempt(flow) for flow in step.flows]
            case Once():
                return drive(step.make(), perform)
            case Sleep():
                return None
        raise ConfigurationError(f"the flow of {task.name} yielded {step!r}, which is not a step")

    def attempt(flow: Flow[Any]) -> Any:
        try:
            return drive(flow, perform)
        except Exception as error:
            return error

    def hits(query: SearchQuery) -> Sequence[Hit]:
        if search is not None:
            return search.search(query)
        stand_in = f"(the reviews that are found for: {query.text})"
        owner = query.restaurant_id if query.scope == "restaurant" else "another restaurant"
        return [Hit(0, stand_in, 1.0, owner)]

    drive(task.flow(task.parse_item(item)), perform)
    return Preview(requests)


def _instance(form: Any) -> Any:
    """Return an instance of a form whose texts are `ANSWER`, whether or not its validators accept that."""
    stand_in = answer_from_schema(form_of(form).schema, text=ANSWER)
    try:
        return form.model_validate(stand_in, context={"reviews": (ANSWER,)})
    except ValueError:
        return form.model_construct(**stand_in)


def _pack(step: Pack, limits: Limits, count: TokenCounter) -> list[list[PackedText]]:
    return finish(
        pack_prompts(
            step.texts,
            step.max_tokens or limits.tokens_per_batch,
            max_texts=step.max_texts or limits.max_batch_size,
            fixed_tokens=count(step.fixed_text) + step.answer_tokens,
            answer_tokens_each=step.answer_tokens_each,
            count=count,
            render=step.render,
        )
    )


def _as_json(value: Any) -> str:
    from json import dumps

    return dumps(value, ensure_ascii=False)
