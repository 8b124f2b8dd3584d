"""
Flows of simulation tests, and what they have to return.

Each question has a tag of its own, which names the item and the place in the flow, and its answer is that tag. So a
reply that was booked to another item, or to another question, shows in the result.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Any

from pydantic import BaseModel

from restaurant_llm_batch import (
    AnalyzeSentiment,
    ExtractStrengths,
    Hit,
    LLMRequest,
    LLMResponse,
    SearchQuery,
    SummarizeAspects,
    errors,
)
from restaurant_llm_batch._schema_answers import answer_from_schema
from restaurant_llm_batch.simulation._play import made_up_hits
from restaurant_llm_batch.steps import ask, complete, gather, once, pack, search, search_all, sleep

from .plans import Item, Node

_TAG = re.compile(r"\[q [^\]]*\]")
Flow = Generator[Any, Any, Any]


class Taste(BaseModel):
    """The form that is asked for."""

    text: str


def tag(item: int, place: str, shared: bool = False) -> str:
    """Return the tag of a question: of an item, or of all items with a number as even as this one's."""
    return f"[q {'odd' if item % 2 else 'even'}{place}]" if shared else f"[q {item}{place}]"


class Echo:
    """A model that answers with the tag of the question; a pure function of the request."""

    def complete(self, request: LLMRequest) -> LLMResponse:
        content = "".join(message["content"] for message in request.messages)
        found = _TAG.search(content)
        text = found[0] if found else f"[digest {len(content)} {content[-40:]!r}]"
        if request.schema is not None:
            text = json.dumps(answer_from_schema(request.schema, text=text))
        return LLMResponse(text, completion_tokens=min(request.max_tokens, 5 + len(content) % 30))


class Search:
    """A search that fails `faults` times for each query, and then answers it; if `faults` is -1, it refuses the key."""

    def __init__(self, faults: int) -> None:
        self._faults = faults
        self._failed: dict[tuple[object, str], int] = {}

    def search(self, query: SearchQuery) -> Sequence[Hit]:
        if self._faults == -1:
            raise errors.AuthenticationFailed("the key is refused", status=401)
        failed = self._failed.get((query.restaurant_id, query.text), 0)
        if failed < self._faults:
            self._failed[query.restaurant_id, query.text] = failed + 1
            raise errors.TransientBackendError(f"search {query.restaurant_id} {query.text}")
        return made_up_hits(query)

    async def asearch(self, query: SearchQuery) -> Sequence[Hit]:
        raise NotImplementedError

    def search_many(self, queries: Sequence[SearchQuery]) -> Sequence[Sequence[Hit]]:
        raise NotImplementedError

    async def asearch_many(self, queries: Sequence[SearchQuery]) -> Sequence[Sequence[Hit]]:
        raise NotImplementedError


class FlowTask:
    """A task whose flow is the node of a plan."""

    name = "simulated"
    requires_search = False

    def __init__(self, node: Node) -> None:
        self._node = node

    def parse_item(self, raw: Item, /) -> Item:
        if raw.bad:
            raise ValueError(f"{raw} is bad")
        return raw

    def item_key(self, item: Item, /) -> tuple[int, int]:
        return item.id, item.priority

    def flow(self, item: Item, /) -> Flow:
        return follow(self._node, item.id, "")


def task_of(node: Node) -> Any:
    """Return the task of a plan's flow."""
    return _BUILT_IN[node[1]][0]() if node[0] == "task" else FlowTask(node)


def inputs_of(node: Node, items: Sequence[Item]) -> list[Any]:
    """Return the items as the task takes them."""
    if node[0] != "task":
        return list(items)
    make = _BUILT_IN[node[1]][1]
    return [make(item) for item in items]


def _reviews(item: Item) -> list[str]:
    return [f"{item.id}번 집 음식이 맛있어요 {number}" for number in range(7)]


def _sentiment_item(item: Item) -> Any:
    return {"restaurant_id": item.id, "priority": item.priority, "reviews": _reviews(item)}


def _strengths_item(item: Item) -> Any:
    others = [f"다른 집 음식 {number}" for number in range(5)]
    own = {"target_reviews": _reviews(item), "comparison_reviews": others}
    return {"target_restaurant_id": item.id, "priority": item.priority, **own}


_BUILT_IN: dict[str, tuple[Callable[[], Any], Callable[[Item], Any]]] = {
    "aspects": (SummarizeAspects, lambda item: {"restaurant_id": item.id, "priority": item.priority}),
    "aspects split": (partial(SummarizeAspects, mode="split"), lambda item: item.id),
    "sentiment": (AnalyzeSentiment, _sentiment_item),
    "strengths": (ExtractStrengths, _strengths_item),
}


def follow(node: Node, item: int, place: str) -> Flow:
    """Return the flow of a node for an item; `place` is where the node stands in the flow of the item."""
    return _FLOWS[node[0]](node, item, place)


def _request(question: str, tokens: int) -> LLMRequest:
    content = f"What do guests say? {question}"
    return LLMRequest("question", ({"role": "user", "content": content},), max_tokens=tokens)


def _complete(node: Node, item: int, place: str) -> Flow:
    _, limiter, tokens, shared = node
    reply = yield from complete(_request(tag(item, place, shared), tokens), limiter=limiter)
    return "reply", reply.text, reply.finish_reason


def _ask(node: Node, item: int, place: str) -> Flow:
    answer = yield from ask(Taste, f"What do guests say? {tag(item, place)}", max_tokens=node[1])
    return "answer", answer.text


def _query(item: int, place: str, number: int) -> SearchQuery:
    return SearchQuery(item, f"{place} {number}", limit=2)


def _search(node: Node, item: int, place: str) -> Flow:
    queries = [_query(item, place, number) for number in range(node[1])]
    if len(queries) == 1:
        found: list[Any] = [(yield from search(queries[0]))]
    else:
        found = yield from search_all(queries)
    return "found", [_error_or(hits, lambda hits: [hit.restaurant_id for hit in hits]) for hits in found]


def _pack(node: Node, item: int, place: str) -> Flow:
    _, number, tokens = node
    texts = [f"{index} {'x' * 4 * tokens}" for index in range(number)]
    batches = yield from pack(texts, render=str, fixed_text="instructions", answer_tokens=5)
    asked = [_request(f"{tag(item, f'{place}.{batch[0].index}')}", 40) for batch in batches]
    replies = yield from gather(*(complete(request, limiter="batches") for request in asked))
    indexes = [[packed.index for packed in batch] for batch in batches]
    return "packed", indexes, [_error_or(reply, lambda reply: reply.text) for reply in replies]


def _sleep(node: Node, item: int, place: str) -> Flow:
    yield from sleep(node[1])
    return "slept"


def _raise(node: Node, item: int, place: str) -> Flow:
    if item % node[1] == 0:
        raise LookupError(f"item {item} at {place}")
    return "fine"
    yield  # this makes it a generator


def _seq(node: Node, item: int, place: str) -> Flow:
    values = []
    for number, part in enumerate(node[1:]):
        values.append((yield from follow(part, item, f"{place}.{number}")))
    return values


def _gather(node: Node, item: int, place: str) -> Flow:
    parts = [follow(part, item, f"{place}.{number}") for number, part in enumerate(node[1:])]
    return [_error_or(value, lambda value: value) for value in (yield from gather(*parts))]


def _once(node: Node, item: int, place: str) -> Flow:
    _, name, part = node
    # Its place is part of the key: otherwise one flow could wait for itself.
    return (yield from once((name, place, item % 3), lambda: follow(part, item % 3, f"{place}.once {name}")))


def _catch(node: Node, item: int, place: str) -> Flow:
    try:
        return (yield from follow(node[1], item, f"{place}.0"))
    except Exception as error:
        return _error_or(error, lambda value: value)


def _spoil_close(node: Node, item: int, place: str) -> Flow:
    try:
        return (yield from follow(node[1], item, f"{place}.0"))
    except GeneratorExit:
        raise OSError(f"item {item} could not be closed") from None


def _error_or(value: Any, use: Callable[[Any], Any]) -> Any:
    return ("error", type(value).__name__) if isinstance(value, Exception) else use(value)


_FLOWS: dict[str, Callable[[Node, int, str], Flow]] = {
    "complete": _complete,
    "ask": _ask,
    "search": _search,
    "pack": _pack,
    "sleep": _sleep,
    "raise": _raise,
    "seq": _seq,
    "gather": _gather,
    "once": _once,
    "catch": _catch,
    "spoil close": _spoil_close,
}


def disagreement(node: Node, item: int, value: Any, place: str = "") -> str | None:
    """Return how a value differs from what a node's flow has to return for an item; None if it does not."""
    if isinstance(value, tuple) and value and value[0] == "error":
        return None  # of a part of a gather(), whose cause is checked elsewhere
    wrong = f"{node} at {place!r} of item {item} returned {value!r}"
    match node[0]:
        case "complete":
            return None if _is_answer(value[1], tag(item, place, node[3])) else wrong
        case "ask":
            return None if value == ("answer", tag(item, place)) else wrong
        case "search":
            right = all(hits == [item, item] or hits[0] == "error" for hits in value[1])
            return None if right and len(value[1]) == node[1] else wrong
        case "pack":
            return None if _is_packed(node, item, place, value) else wrong
        case "sleep" | "raise":
            return None if value == {"sleep": "slept", "raise": "fine"}[node[0]] else wrong
        case "once":
            return disagreement(node[2], item % 3, value, f"{place}.once {node[1]}")
        case "catch" | "spoil close":
            return disagreement(node[1], item, value, f"{place}.0")
    if not isinstance(value, list) or len(value) != len(node) - 1:
        return wrong
    found = (
        disagreement(part, item, value[number], f"{place}.{number}") for number, part in enumerate(node[1:])
    )
    return next((each for each in found if each is not None), None)


def _is_answer(text: str, question: str) -> bool:
    """Return whether a text is the answer to a question, or what a fault leaves of it."""
    return text in (question, question[: len(question) // 2], f'{question[:-1]}, "and', "")


def _is_packed(node: Node, item: int, place: str, value: Any) -> bool:
    _, batches, texts = value
    indexes = [index for batch in batches for index in batch]
    if indexes != list(range(node[1])) or len(texts) != len(batches):
        return False
    return all(
        isinstance(text, tuple) or _is_answer(text, tag(item, f"{place}.{batch[0]}"))
        for batch, text in zip(batches, texts, strict=True)
    )
