"""A search and a model of a few lines, in both colours."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeAlias

import anyio

from .._llm_response import LLMResponse
from ..errors import ConfigurationError
from ..models import Hit, ItemId, LLMRequest, SearchQuery

Fault: TypeAlias = Callable[[Any, int], Exception | None]
"""Given a query or request and how often it has been tried (from 1), the exception to raise, or None."""


class Recorder:
    """
    What a double saw, safe to read and write from any thread.

    Attributes:
        calls: How many calls were made.
        peak: The most that were in flight at once, each query of a round trip counted.
        cancelled: How many awaited calls were cancelled.
    """

    def __init__(self) -> None:
        self.calls: int = 0
        self.peak: int = 0
        self.cancelled: int = 0
        self._in_flight = 0
        self._tries: Counter[object] = Counter()
        self._lock = threading.Lock()

    @property
    def in_flight(self) -> int:
        """How many are in flight now."""
        return self._in_flight

    @contextmanager
    def call(self, weight: int = 1) -> Iterator[None]:
        """Count one call while it lasts."""
        with self._lock:
            self.calls += 1
            self._in_flight += weight
            self.peak = max(self.peak, self._in_flight)
        try:
            yield
        except Exception:
            raise
        except BaseException:
            self.cancelled += 1
            raise
        finally:
            with self._lock:
                self._in_flight -= weight

    def tried(self, key: object) -> int:
        """Count a try of `key` and return how many there were, this one included."""
        with self._lock:
            self._tries[key] += 1
            return self._tries[key]


class FakeSearch(Recorder):
    """
    Finds the first reviews of a restaurant, whatever the query says.

    Asked among the others, it finds the first reviews of the other restaurants, one restaurant after another in
    the order of `reviews`; none if that is a function, which cannot tell which others there are.

    Args:
        reviews: Review texts by restaurant, or a function from restaurant to texts.
        seconds: How long a search takes.
        fault: Decides which searches fail; it should look at the query and the try, never at a count of
            calls, so that every strategy meets the same faults.
        categories: Kinds of food by restaurant; without them, a query's category is not looked at.

    Raises:
        ConfigurationError: When an argument is of the wrong kind.
    """

    def __init__(
        self,
        reviews: Mapping[Any, Sequence[str]] | Callable[[ItemId], Sequence[str]],
        *,
        seconds: float = 0.0,
        fault: Fault | None = None,
        categories: Mapping[Any, ItemId] | None = None,
    ) -> None:
        super().__init__()
        check_reviews(reviews)
        check_common(seconds, fault)
        check_categories(categories)
        self._reviews = reviews if callable(reviews) else lambda name: reviews.get(name, ())
        self._known: Iterable[Any] = () if callable(reviews) else reviews
        self._seconds = seconds
        self._fault = fault
        self._categories = categories

    def search(self, query: SearchQuery, /) -> list[Hit]:
        """Search, blocking."""
        with self.call():
            if self._seconds:
                time.sleep(self._seconds)
            return self._answer(query)

    async def asearch(self, query: SearchQuery, /) -> list[Hit]:
        """Search, awaited."""
        with self.call():
            if self._seconds:
                await anyio.sleep(self._seconds)
            return self._answer(query)

    def _answer(self, query: SearchQuery) -> list[Hit]:
        if self._fault is not None:
            error = self._fault(
                query, self.tried((query.restaurant_id, query.aspect, query.text, query.scope))
            )
            if error is not None:
                raise error
        found = (
            (name, number, text)
            for name in self._searched(query)
            for number, text in enumerate(checked_texts(name, self._reviews(name)))
        )
        return [
            Hit(f"{name}-{number}", text, 1 / (place + 1), name)
            for place, (name, number, text) in enumerate(islice(found, query.limit))
        ]

    def _searched(self, query: SearchQuery) -> Iterator[ItemId]:
        own = query.scope == "restaurant"
        for name in [query.restaurant_id] if own else self._known:
            if (own or str(name) != str(query.restaurant_id)) and self._is_of(name, query.category):
                yield name

    def _is_of(self, name: ItemId, category: ItemId | None) -> bool:
        if category is None or self._categories is None:
            return True
        return name in self._categories and str(self._categories[name]) == str(category)


class FakeLLM(Recorder):
    """
    Answers any request with the smallest JSON of its schema.

    Args:
        seconds: How long a call takes.
        fault: Decides which calls fail, as in `FakeSearch`.
        answer: Writes the answer instead.
        requests: A list to which every request is appended.

    Raises:
        ConfigurationError: When an argument is of the wrong kind; from a call, when `answer` returns no text.
    """

    def __init__(
        self,
        *,
        seconds: float = 0.0,
        fault: Fault | None = None,
        answer: Callable[[LLMRequest], str] | None = None,
        requests: list[LLMRequest] | None = None,
    ) -> None:
        super().__init__()
        check_common(seconds, fault)
        check_answer(answer)
        check_requests(requests)
        self._seconds = seconds
        self._fault = fault
        self._answer_with = answer or _answer
        self._requests = requests

    def complete(self, request: LLMRequest, /) -> LLMResponse:
        """Answer, blocking."""
        with self.call():
            if self._seconds:
                time.sleep(self._seconds)
            return self._reply(request)

    async def acomplete(self, request: LLMRequest, /) -> LLMResponse:
        """Answer, awaited."""
        with self.call():
            if self._seconds:
                await anyio.sleep(self._seconds)
            return self._reply(request)

    def _reply(self, request: LLMRequest) -> LLMResponse:
        if self._requests is not None:
            self._requests.append(request)
        if self._fault is not None:
            error = self._fault(request, self.tried((request.task, _key(request.inputs))))
            if error is not None:
                raise error
        text: object = self._answer_with(request)
        if not isinstance(text, str):
            raise ConfigurationError(
                f"answer must return a text, got {type(text).__name__} for {request.task!r}; "
                "write json.dumps(...) around an object"
            )
        return LLMResponse(text, "stop", len(str(request.messages)) // 4, len(text) // 4, "fake")


def answer_from_schema(schema: Mapping[str, Any]) -> Any:
    """Return the smallest value of a JSON Schema: lists of one 0 or text, objects with what they require."""
    kind = schema.get("type")
    if "enum" in schema:
        return schema["enum"][0]
    if kind == "object":
        properties = schema.get("properties", {})
        return {name: answer_from_schema(properties[name]) for name in schema.get("required", ())}
    if kind == "array":
        return [answer_from_schema(schema["items"])]
    return {"string": "text", "integer": 0, "number": 0.0, "boolean": True}.get(str(kind))


def _answer(request: LLMRequest) -> str:
    if request.schema is None:
        return "text"
    return json.dumps(answer_from_schema(request.schema), ensure_ascii=False)


def _key(inputs: Mapping[str, Any]) -> str:
    return json.dumps(inputs, sort_keys=True, default=str)


def check_reviews(reviews: object) -> None:
    """Check what `FakeSearch` finds."""
    if isinstance(reviews, Mapping):
        for name, texts in reviews.items():
            checked_texts(name, texts)
    elif not callable(reviews):
        raise ConfigurationError(
            "reviews must map restaurants to their texts, or be a function that does, "
            f'got {type(reviews).__name__}; write reviews={{1: ["맛있어요"]}}'
        )


def checked_texts(name: Any, texts: Any) -> Iterable[str]:
    """Return the texts of a restaurant, if they are any."""
    # A text is a sequence too: each of its letters would be a review.
    if isinstance(texts, Iterable) and not isinstance(texts, (str, bytes)):
        return texts
    raise ConfigurationError(
        f"the reviews of {name!r} must be a list of texts, got {type(texts).__name__}; "
        f'write {{{name!r}: ["맛있어요"]}}'
    )


def check_common(seconds: object, fault: object) -> None:
    """Check what both doubles take."""
    if not isinstance(seconds, (int, float)) or isinstance(seconds, bool) or not seconds >= 0:
        raise ConfigurationError(
            f"seconds must be a number of at least 0, got {seconds!r}; write seconds=0.1"
        )
    if fault is not None and not callable(fault):
        raise ConfigurationError(
            f"fault must be a function of the query or request and the try, got {fault!r}; write "
            "fault=lambda request, tried: errors.TransientBackendError() if tried == 1 else None"
        )


def check_categories(categories: object) -> None:
    """Check the kinds of food of `FakeSearch`."""
    if categories is not None and not isinstance(categories, Mapping):
        raise ConfigurationError(
            f"categories must map restaurants to kinds of food, got {categories!r}; write categories={{1: 7}}"
        )


def check_answer(answer: object) -> None:
    """Check what writes the answers of `FakeLLM`."""
    if answer is not None and not callable(answer):
        raise ConfigurationError(
            f"answer must be a function of the request, got {answer!r}; write answer=lambda request: {answer!r}"
        )


def check_requests(requests: object) -> None:
    """Check where `FakeLLM` keeps the requests."""
    if requests is not None and not hasattr(requests, "append"):
        raise ConfigurationError(
            f"requests must be a list, which every request is appended to, got {requests!r}; write requests=[]"
        )
