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

from collections.abc import Awaitable, Callable, Generator, Hashable, Iterable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Literal, TypeAlias, TypeVar

from ._llm_response import LLMResponse
from .errors import ConfigurationError
from .models import Hit, LLMRequest, SearchQuery
from .tokens.packing import PackedText

__all__ = [
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

T = TypeVar("T")
S = TypeVar("S")
S2 = TypeVar("S2")

LimiterName: TypeAlias = Literal["llm", "batches"]


@dataclass(frozen=True, slots=True)
class Search:
    """Step: run one query. Returns a sequence of `Hit`."""

    query: SearchQuery


@dataclass(frozen=True, slots=True)
class SearchAll:
    """
    Step: run several independent queries.

    Returns a list in the order of the queries, with a sequence of `Hit` or an exception for each. The strategy decides
    whether they run in sequence, concurrently or in one round trip.
    """

    queries: tuple[SearchQuery, ...]


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


@dataclass(frozen=True, slots=True)
class Gather:
    """
    Step: run independent flows, concurrently if the strategy allows it.

    All flows run to their end, as in ``asyncio.gather(..., return_exceptions=True)``. Returns a list in their order,
    with each flow's result, or the exception that it raised.
    """

    flows: tuple[Generator[Any, Any, Any], ...]


Step: TypeAlias = Search | SearchAll | Complete | Pack | Once | Sleep | Gather
Flow: TypeAlias = Generator[Step, Any, T]
"""A generator of steps that returns a `T`."""

ResultOrError: TypeAlias = T | Exception
"""A result, or the exception that was raised instead."""


def search(query: SearchQuery) -> Flow[Sequence[Hit]]:
    """Run one query and return its hits; raise the search's exception if it fails."""
    hits: Sequence[Hit] = yield Search(query)
    return hits


def search_all(queries: Iterable[SearchQuery]) -> Flow[list[ResultOrError[Sequence[Hit]]]]:
    """Run independent queries; a failed one is an exception in the list. See `SearchAll`."""
    found: list[ResultOrError[Sequence[Hit]]] = yield SearchAll(tuple(queries))
    return found


def complete(request: LLMRequest, *, limiter: LimiterName = "llm") -> Flow[LLMResponse]:
    """Call the model and return its response; raise the backend's exception if the call fails."""
    reply: LLMResponse = yield Complete(request, limiter)
    return reply


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
    step = Pack(tuple(texts), render, fixed_text, answer_tokens, answer_tokens_each, max_tokens, max_texts)
    batches: list[list[PackedText]] = yield step
    return batches


def once(key: Hashable, make: Callable[[], Flow[T]]) -> Flow[T]:
    """Run a flow once per run for all items with an equal key, and return its result; see `Once`."""
    result: T = yield Once(key, make)
    return result


def sleep(seconds: float) -> Flow[None]:
    """Wait for a number of seconds, without occupying a slot."""
    yield Sleep(seconds)


def gather(*flows: Flow[T]) -> Flow[list[ResultOrError[T]]]:
    """Run independent flows; a flow that raised is an exception in the list. See `Gather`."""
    results: list[ResultOrError[T]] = yield Gather(flows)
    return results


def intercept(
    flow: Generator[S, Any, T], handle: Callable[[S], Generator[S2, Any, Any]]
) -> Generator[S2, Any, T]:
    """
    Run a flow inside another one, and perform each of its steps with a flow.

    Args:
        flow: The inner flow; it is closed when this one ends.
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
                result: T = stop.value
                return result
            answer = error = None
            try:
                answer = yield from handle(step)
            except Exception as raised:
                error = raised
    finally:
        flow.close()


def drive(flow: Generator[Any, Any, T], perform: Callable[[Any], Any]) -> T:
    """
    Run a flow to its end in the calling thread.

    Args:
        flow: The flow; it is closed when this returns or raises.
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
                result: T = stop.value
                return result
            answer = error = None
            try:
                answer = perform(step)
            except Exception as raised:
                error = raised
    finally:
        flow.close()


async def adrive(flow: Generator[Any, Any, T], perform: Callable[[Any], Awaitable[Any]]) -> T:
    """Run a flow to its end on the running event loop: `drive` for an awaited `perform`."""
    answer: Any = None
    error: Exception | None = None
    try:
        while True:
            try:
                step = flow.send(answer) if error is None else flow.throw(error)
            except StopIteration as stop:
                result: T = stop.value
                return result
            answer = error = None
            try:
                answer = await perform(step)
            except Exception as raised:
                error = raised
    finally:
        flow.close()
