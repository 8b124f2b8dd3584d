"""
Steps and flows: generators that describe calls, searches and waits, for a driver to perform (sans-I/O).

A *flow* is a generator that yields *steps*. A driver performs each step and sends its result into the flow, or throws
its exception. A flow does no I/O, does not block, reads no clock and contains no ``await``. Therefore the same flow
runs in every mode, sync or async, and a test can inspect the next step:

    def flow(item):
        hits = yield from search(SearchQuery(item, "noodles"))
        reply = yield from complete(LLMRequest("taste", ({"role": "user", "content": str(hits)},)))
        return reply.text

`BatchRunner.run(flow, items)` runs it for every item, with limits, retries and progress.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Generator, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from types import GeneratorType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

from ._fast_init import fast_init
from ._llm_response import LLMResponse
from ._values import short
from .errors import ConfigurationError
from .models import Hit, LLMRequest, Review, SearchQuery
from .tokens.packing import PackedText, contents_of

if TYPE_CHECKING:
    from pydantic import BaseModel

__all__ = [
    "Ask",
    "Complete",
    "Flow",
    "Gather",
    "LimiterName",
    "Once",
    "Pack",
    "ResultOrError",
    "Search",
    "SearchAll",
    "Sleep",
    "Step",
    "adrive",
    "ask",
    "complete",
    "drive",
    "gather",
    "intercept",
    "once",
    "pack",
    "search",
    "search_all",
    "sleep",
]

log: logging.Logger = logging.getLogger("restaurant_llm_batch")

T = TypeVar("T")
AnswerT = TypeVar("AnswerT", bound="BaseModel")
S = TypeVar("S")
S2 = TypeVar("S2")

LimiterName: TypeAlias = Literal["llm", "batches"]


@fast_init
@dataclass(frozen=True, slots=True)
class Search:
    """Step: run one query. Returns a sequence of `Hit`."""

    query: SearchQuery


@fast_init
@dataclass(frozen=True, slots=True)
class SearchAll:
    """
    Step: run several independent queries.

    Returns a list in the order of the queries, with a sequence of `Hit` or an exception for each. The strategy decides
    whether they run in sequence, concurrently or in one round trip.
    """

    queries: tuple[SearchQuery, ...]


@fast_init
@dataclass(frozen=True, slots=True)
class Complete:
    """
    Step: call the model. Returns an `LLMResponse`.

    Attributes:
        request: The request.
        limiter: The limit that the call counts against: "llm", or "batches" for calls that carry packed reviews.
    """

    request: LLMRequest
    limiter: LimiterName = "llm"


@dataclass(frozen=True, slots=True)
class Ask:
    """
    Step: ask the model for an answer of a form. Returns a validated instance of the form; see `ask`.

    Attributes:
        form: The pydantic model that the answer is an instance of.
        prompt: What is asked.
        reviews: The texts that it is asked about; None for none.
        task: Name of the request's task, for backends, observers and test doubles.
        max_tokens: Maximum length of the reply, in tokens.
        temperature: Sampling temperature.
        limiter: The limit that the calls count against.
    """

    form: type[Any]
    prompt: str
    reviews: tuple[str, ...] | None = None
    task: str = ""
    max_tokens: int = 1500
    temperature: float = 0.1
    limiter: LimiterName = "llm"


@dataclass(frozen=True, slots=True)
class Pack:
    """
    Step: pack texts into batches under the runner's limits, with the runner's token counter.

    Returns a list of batches, in order. Each is a list of `PackedText`, which refers to a text by its index. A batch's
    prompt and reply together keep to the token budget; a text that exceeds it alone is truncated and gets its own
    batch.

    Attributes:
        texts: The texts to pack.
        render: Renders a text as its line in the prompt.
        fixed_text: Everything else in the prompt, the same in every batch.
        answer_tokens: Tokens reserved for the reply.
        answer_tokens_each: Tokens reserved in the reply for each text.
        max_tokens: The budget in tokens; None for `Limits.max_tokens_per_batch`.
        max_texts: Most texts in a batch; None for `Limits.max_batch_size`.
    """

    texts: tuple[str, ...]
    render: Callable[[str], str]
    fixed_text: str
    answer_tokens: int = 0
    answer_tokens_each: int = 0
    max_tokens: int | None = None
    max_texts: int | None = None


@dataclass(frozen=True, slots=True)
class Once:
    """
    Step: run a flow once per run, for all items with an equal key (memoized single-flight).

    Returns the flow's result, or raises its exception. While the flow runs, other items with an equal key wait for it;
    later ones get its result at once.

    Attributes:
        key: Identifies the flow; hashable.
        make: Returns a new flow.
    """

    key: Hashable
    make: Callable[[], Flow[Any]]


@dataclass(frozen=True, slots=True)
class Sleep:
    """Step: wait `seconds`, without occupying a slot. Returns None. Raises `ConfigurationError` if it is negative."""

    seconds: float

    def __post_init__(self) -> None:
        seconds: object = self.seconds
        if not isinstance(seconds, (int, float)) or not 0 <= seconds < inf:
            raise ConfigurationError(
                f"sleep() takes a number of seconds of at least 0, got {self.seconds!r}; for example sleep(0.5)"
            )


@fast_init
@dataclass(frozen=True, slots=True)
class Gather:
    """
    Step: run independent flows, concurrently if the strategy allows it.

    All flows run to their end, as in ``asyncio.gather(..., return_exceptions=True)``. Returns a list in their order,
    with each flow's result, or the exception that it raised.
    """

    flows: tuple[Generator[Any, Any, Any], ...]


Step: TypeAlias = Search | SearchAll | Complete | Ask | Pack | Once | Sleep | Gather
Flow: TypeAlias = Generator[Step, Any, T]
"""A generator of steps that returns a `T`."""

ResultOrError: TypeAlias = T | Exception
"""A result, or the exception that was raised instead."""


# These functions check their arguments when they are called and not when the flow is first advanced, so that the error
# is raised in the line that has the mistake. What they return is a generator of one step.


def search(query: SearchQuery) -> Flow[Sequence[Hit]]:
    """Run one query and return its hits; raise the search's exception if it fails."""
    if not isinstance(query, SearchQuery):
        raise ConfigurationError(
            f"search() takes a SearchQuery, got {short(query)}; "
            'for example search(SearchQuery(restaurant_id=1, text="noodles"))'
        )
    return _perform([Search(query)])


def search_all(queries: Iterable[SearchQuery]) -> Flow[list[ResultOrError[Sequence[Hit]]]]:
    """Run independent queries; a failed one is an exception in the list. See `SearchAll`."""
    given: object = queries
    listed = tuple(queries) if isinstance(given, Iterable) and not isinstance(given, str) else None
    if listed is None or not all(isinstance(query, SearchQuery) for query in listed):
        raise ConfigurationError(
            f"search_all() takes a list of SearchQuery, got {short(queries)}; "
            'for example search_all([SearchQuery(1, "noodles"), SearchQuery(1, "service")])'
        )
    return _perform([SearchAll(listed)])


def complete(request: LLMRequest, *, limiter: LimiterName = "llm") -> Flow[LLMResponse]:
    """Call the model and return its response; raise the backend's exception if the call fails."""
    if not isinstance(request, LLMRequest):
        raise ConfigurationError(
            f"complete() takes an LLMRequest, got {short(request)}; for example "
            'complete(LLMRequest("dish", ({"role": "user", "content": "Name a dish."},)))'
        )
    if limiter not in ("llm", "batches"):
        raise ConfigurationError(f'limiter must be "llm" or "batches", got {limiter!r}')
    return _perform([Complete(request, limiter)])


def ask(
    form: type[AnswerT],
    prompt: str,
    *,
    reviews: Iterable[Hit | Review | Mapping[str, Any] | str] | None = None,
    task: str | None = None,
    max_tokens: int = 1500,
    temperature: float = 0.1,
    limiter: LimiterName = "llm",
) -> Flow[AnswerT]:
    """
    Ask the model for an answer of a form, and return it as a validated instance.

    The form's JSON Schema is sent with the request, and the form is described in the prompt too. The reviews follow as
    data, numbered from 1; instructions in them are not followed. An answer that the form does not accept is sent back
    with the error, once. A prompt that is too long is sent again with half of the reviews.

    A field ``evidence: list[int]`` of the form, at any depth, has the numbers of the reviews that the answer rests on:
    in the instance, each is the number of a review that was shown, and appears once. Numbers of no review are dropped
    before the form is validated, so ``Field(min_length=1)`` requires a true one. A field ``invalid_citations: int = 0``
    beside it gets the number of those that were dropped; the model is not asked for it.

    Validators of the form get the texts of the reviews as ``info.context["reviews"]``.

    Args:
        form: A pydantic model whose fields say what is wanted. Descriptions of fields are part of the prompt.
        prompt: What is asked, in your own words. Put no text in it that others wrote: such texts go into `reviews`.
        reviews: What it is asked about: hits of a search, `Review`s, mappings with "content", or texts; None if it is
            asked about nothing. An empty list is an error: the model could only invent.
        task: Name of the request's task, for backends, observers and test doubles; None for the form's name.
        max_tokens: Maximum length of the reply, in tokens.
        temperature: Sampling temperature.
        limiter: The limit that the calls count against: "llm", or "batches" for calls that carry many reviews.

    Raises:
        ConfigurationError: An argument is invalid.
        OutputError: The second answer cannot be used either.
        BackendError: A call failed.
    """
    kind: object = form
    if not isinstance(kind, type) or not hasattr(kind, "model_json_schema"):
        raise ConfigurationError(
            f"ask() takes a form first, which is a pydantic model, got {short(form)}; for example "
            "class Dish(BaseModel): name: str"
        )
    words: object = prompt
    if not isinstance(words, str) or not words.strip():
        raise ConfigurationError(
            f"ask() takes a prompt second, which is a text, got {short(prompt)}; "
            'for example ask(Dish, "Which dish do guests praise most?", reviews=hits)'
        )
    if limiter not in ("llm", "batches"):
        raise ConfigurationError(f'limiter must be "llm" or "batches", got {limiter!r}')
    if isinstance(reviews, Exception):
        raise reviews  # a search of `search_all` that failed
    texts = None if reviews is None else tuple(contents_of(reviews))
    if texts == ():
        error = ConfigurationError(
            "ask() was given no reviews, so the model could only invent an answer; return early, "
            "for example `if not hits: return None`"
        )
        error.of_one_item = True
        raise error
    return _perform([Ask(form, prompt, texts, task or form.__name__, max_tokens, temperature, limiter)])


def _perform(held: list[Step]) -> Flow[Any]:
    return (yield held.pop())  # not held while it waits: the prompts of many flows would fill the memory


def pack(
    texts: Iterable[str],
    *,
    render: Callable[[str], str],
    fixed_text: str,
    answer_tokens: int = 0,
    answer_tokens_each: int = 0,
    max_tokens: int | None = None,
    max_texts: int | None = None,
) -> Flow[list[list[PackedText]]]:
    """Pack texts into batches under the runner's limits; see `Pack`."""
    given: object = texts
    listed = tuple(texts) if isinstance(given, Iterable) and not isinstance(given, (str, bytes)) else None
    if listed is None or not all(isinstance(text, str) for text in listed):
        raise ConfigurationError(
            f"pack() takes a list of texts, got {short(texts)}; "
            "for example pack([review.content for review in reviews], ...)"
        )
    return _perform(
        [Pack(listed, render, fixed_text, answer_tokens, answer_tokens_each, max_tokens, max_texts)]
    )


def once(key: Hashable, make: Callable[[], Flow[T]]) -> Flow[T]:
    """Run a flow once per run for all items with an equal key, and return its result; see `Once`."""
    if not callable(make):
        raise ConfigurationError(
            f"once() takes a function that returns a flow, got {short(make)}; "
            "for example once(key, lambda: complete(request))"
        )
    return _perform([Once(key, make)])


def sleep(seconds: float) -> Flow[None]:
    """Wait for a number of seconds, without occupying a slot."""
    return _perform([Sleep(seconds)])


def gather(*flows: Flow[T]) -> Flow[list[ResultOrError[T]]]:
    """Run independent flows; a flow that raised is an exception in the list. See `Gather`."""
    for flow in flows:
        if type(flow) is not GeneratorType and not isinstance(flow, Generator):
            raise ConfigurationError(
                f"gather() takes flows, each an argument of its own, got {short(flow)}; "
                "for example gather(complete(...), complete(...)), or gather(*flows) for a list"
            )
    return _perform([Gather(flows)])


def intercept(
    flow: Generator[S, Any, T], handle: Callable[[S], Generator[S2, Any, Any]]
) -> Generator[S2, Any, T]:
    """
    Run a flow inside another one, and perform each of its steps with a flow.

    Args:
        flow: The inner flow; it is closed when this one ends. An exception that it raises then is logged.
        handle: Returns the flow that performs a step. Its result is sent into `flow`; an `Exception` that it raises is
            thrown into `flow`.

    Returns:
        The result of `flow`.
    """
    answer: Any = None
    error: Exception | None = None
    try:
        while True:
            try:
                step = flow.send(answer) if error is None else flow.throw(error)
            except StopIteration as stop:
                if type(flow) is not GeneratorType:  # a generator has closed itself
                    _close(flow)
                result: T = stop.value
                return result
            answer = error = None
            try:
                performing = handle(step)
                del step  # a flow that waits for hours need not keep its prompt
                answer = yield from performing
            except Exception as raised:
                error = raised
    except BaseException:
        _close(flow)
        raise


def drive(flow: Generator[Any, Any, T], perform: Callable[[Any], Any]) -> T:
    """
    Run a flow to its end in the calling thread.

    Args:
        flow: The flow; it is closed when this returns or raises. An exception that it raises then is logged.
        perform: Performs one step and returns its result. An `Exception` that it raises is thrown into the flow; any
            other `BaseException` ends it.

    Returns:
        The result of the flow.
    """
    answer: Any = None
    error: Exception | None = None
    try:
        while True:
            try:
                step = flow.send(answer) if error is None else flow.throw(error)
            except StopIteration as stop:
                if type(flow) is not GeneratorType:  # a generator has closed itself
                    _close(flow)
                result: T = stop.value
                return result
            answer = error = None
            try:
                answer = perform(step)
            except Exception as raised:
                error = raised
    except BaseException:
        _close(flow)
        raise


async def adrive(flow: Generator[Any, Any, T], perform: Callable[[Any], Awaitable[Any]]) -> T:
    """Run a flow to its end on the running event loop: `drive` for an awaited `perform`."""
    answer: Any = None
    error: Exception | None = None
    try:
        while True:
            try:
                step = flow.send(answer) if error is None else flow.throw(error)
            except StopIteration as stop:
                if type(flow) is not GeneratorType:  # a generator has closed itself
                    _close(flow)
                result: T = stop.value
                return result
            answer = error = None
            try:
                answer = await perform(step)
            except Exception as raised:
                error = raised
    except BaseException:
        _close(flow)
        raise


def _close(flow: Generator[Any, Any, Any]) -> None:
    """
    Close a flow that has ended, or that is given up because of an exception, which must not be replaced by another.

    If it were replaced, a Ctrl-C would be taken for the failure of an item, and the rest of a `Gather` would not end.
    """
    try:
        flow.close()
    except Exception:
        log.exception("a flow raised while it was being closed")
