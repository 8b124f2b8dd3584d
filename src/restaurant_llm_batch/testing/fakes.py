"""Fake search and LLM backends for tests, sync and async: `FakeSearch`, `FakeLLM`."""

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
from .._schema_answers import answer_from_schema
from ..errors import ConfigurationError
from ..models import Hit, ItemId, LLMRequest, SearchQuery

Fault: TypeAlias = Callable[[Any, int], Exception | None]
"""Takes a query or request and the number of the attempt, from 1; returns the exception to raise, or None."""


class Recorder:
    """
    Call statistics of a fake backend. Thread-safe.

    Attributes:
        calls: Number of calls made.
        peak: Maximum number of calls in flight at once; a round trip counts once for each query.
        cancelled: Number of async calls that were cancelled.
    """

    def __init__(self) -> None:
        self.calls: int = 0
        self.peak: int = 0
        self.cancelled: int = 0
        self._in_flight = 0
        self._attempts: Counter[object] = Counter()
        self._lock = threading.Lock()

    @property
    def in_flight(self) -> int:
        """Number of calls in flight now."""
        return self._in_flight

    @contextmanager
    def call(self, weight: int = 1) -> Iterator[None]:
        """Count one call, in flight for the length of the block."""
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

    def next_attempt(self, key: object) -> int:
        """Count an attempt of the call `key` and return its number, from 1."""
        with self._lock:
            self._attempts[key] += 1
            return self._attempts[key]


class FakeSearch(Recorder):
    """
    Search backend that returns the first reviews of a restaurant; it ignores the query's text.

    With ``scope="others"`` it returns the first reviews of the other restaurants, one restaurant after another in the
    order of `reviews`; none if `reviews` is a function, which does not say which restaurants there are.

    Args:
        reviews: Review texts by restaurant id, or a function from restaurant id to texts.
        seconds: Duration of a search.
        fault: Decides which searches fail. It should depend on the query and the attempt only, not on a count of
            calls, so that the faults are the same with every strategy.
        categories: Kinds of food by restaurant id; None to ignore the query's category.

    Raises:
        ConfigurationError: An argument has the wrong type.
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
        self._restaurants: Iterable[Any] = () if callable(reviews) else reviews
        self._seconds = seconds
        self._fault = fault
        self._categories = categories

    def search(self, query: SearchQuery, /) -> list[Hit]:
        """Search, blocking the calling thread."""
        with self.call():
            if self._seconds:
                time.sleep(self._seconds)
            return self._answer(query)

    async def asearch(self, query: SearchQuery, /) -> list[Hit]:
        """Search without blocking the event loop."""
        with self.call():
            if self._seconds:
                await anyio.sleep(self._seconds)
            return self._answer(query)

    def _answer(self, query: SearchQuery) -> list[Hit]:
        if self._fault is not None:
            key = (query.restaurant_id, query.aspect, query.text, query.scope)
            error = self._fault(query, self.next_attempt(key))
            if error is not None:
                raise error
        found = (
            (name, number, text)
            for name in self._restaurants_in_scope(query)
            for number, text in enumerate(checked_texts(name, self._reviews(name)))
        )
        return [
            Hit(f"{name}-{number}", text, 1 / (rank + 1), name)
            for rank, (name, number, text) in enumerate(islice(found, query.limit))
        ]

    def _restaurants_in_scope(self, query: SearchQuery) -> Iterator[ItemId]:
        own = query.scope == "restaurant"
        for name in [query.restaurant_id] if own else self._restaurants:
            if (own or str(name) != str(query.restaurant_id)) and self._has_category(name, query.category):
                yield name

    def _has_category(self, name: ItemId, category: ItemId | None) -> bool:
        if category is None or self._categories is None:
            return True
        return name in self._categories and str(self._categories[name]) == str(category)


class FakeLLM(Recorder):
    """
    LLM backend that replies to any request with the smallest JSON of its schema.

    Args:
        seconds: Duration of a call.
        fault: Decides which calls fail, as in `FakeSearch`.
        answer: Returns the text of the reply to a request; None for the smallest JSON.
        requests: List that every request is appended to; None to keep none.

    Raises:
        ConfigurationError: An argument has the wrong type; in a call, `answer` did not return a string.
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
        """Complete a request, blocking the calling thread."""
        with self.call():
            if self._seconds:
                time.sleep(self._seconds)
            return self._reply(request)

    async def acomplete(self, request: LLMRequest, /) -> LLMResponse:
        """Complete a request without blocking the event loop."""
        with self.call():
            if self._seconds:
                await anyio.sleep(self._seconds)
            return self._reply(request)

    def _reply(self, request: LLMRequest) -> LLMResponse:
        if self._requests is not None:
            self._requests.append(request)
        if self._fault is not None:
            error = self._fault(request, self.next_attempt((request.task, _key(request.inputs))))
            if error is not None:
                raise error
        text: object = self._answer_with(request)
        if not isinstance(text, str):
            raise ConfigurationError(
                f"answer must return a text, got {type(text).__name__} for {request.task!r}; "
                "for example json.dumps(...) of an object"
            )
        return LLMResponse(text, "stop", len(str(request.messages)) // 4, len(text) // 4, "fake")


def _answer(request: LLMRequest) -> str:
    if request.schema is None:
        return "text"
    return json.dumps(answer_from_schema(request.schema), ensure_ascii=False)


def _key(inputs: Mapping[str, Any]) -> str:
    return json.dumps(inputs, sort_keys=True, default=str)


def check_reviews(reviews: object) -> None:
    """Check the argument `reviews` of `FakeSearch`."""
    if isinstance(reviews, Mapping):
        for name, texts in reviews.items():
            checked_texts(name, texts)
    elif not callable(reviews):
        raise ConfigurationError(
            "reviews must map restaurants to their texts, or be a function that does, "
            f'got {type(reviews).__name__}; for example reviews={{1: ["맛있어요"]}}'
        )


def checked_texts(name: Any, texts: Any) -> Iterable[str]:
    """Return the texts of a restaurant if they are a list of texts; raise `ConfigurationError` otherwise."""
    # A string is iterable too: each of its characters would become a review.
    if isinstance(texts, Iterable) and not isinstance(texts, (str, bytes)):
        return texts
    raise ConfigurationError(
        f"the reviews of {name!r} must be a list of texts, got {type(texts).__name__}; "
        f'for example {{{name!r}: ["맛있어요"]}}'
    )


def check_common(seconds: object, fault: object) -> None:
    """Check the arguments `seconds` and `fault` of both fakes."""
    if not isinstance(seconds, (int, float)) or isinstance(seconds, bool) or not seconds >= 0:
        raise ConfigurationError(
            f"seconds must be a number of at least 0, got {seconds!r}; for example seconds=0.1"
        )
    if fault is not None and not callable(fault):
        raise ConfigurationError(
            f"fault must be a function of the query or request and the attempt, got {fault!r}; for example "
            "fault=lambda request, attempt: errors.TransientBackendError() if attempt == 1 else None"
        )


def check_categories(categories: object) -> None:
    """Check the argument `categories` of `FakeSearch`."""
    if categories is not None and not isinstance(categories, Mapping):
        raise ConfigurationError(
            f"categories must map restaurants to kinds of food, got {categories!r}; "
            "for example categories={1: 7}"
        )


def check_answer(answer: object) -> None:
    """Check the argument `answer` of `FakeLLM`."""
    if answer is not None and not callable(answer):
        raise ConfigurationError(
            f"answer must be a function of the request, got {answer!r}; "
            f"for example answer=lambda request: {answer!r}"
        )


def check_requests(requests: object) -> None:
    """Check the argument `requests` of `FakeLLM`."""
    if requests is not None and not hasattr(requests, "append"):
        raise ConfigurationError(
            f"requests must be a list, which every request is appended to, got {requests!r}; "
            "for example requests=[]"
        )
