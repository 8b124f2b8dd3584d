"""
Steps: the vocabulary of flows.

A *flow* is a generator that yields *steps*, each saying what it needs, and is sent the answer or thrown the
error. It does no I/O, never sleeps, reads no clock and knows no ``await``; a driver does the waiting. So one
text runs in every mode, and a test is a look at the next step:

    def flow(item):
        hits = yield from search(SearchQuery(item, "noodles"))
        reply = yield from complete(LLMRequest("taste", ({"role": "user", "content": str(hits)},)))
        return reply.text

`BatchRunner.run(flow, items)` runs it with limits, retries and progress.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Hashable, Iterable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Literal, TypeAlias, TypeVar, cast

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
    """Ask for the hits of one query. Answered with a sequence of `Hit`."""

    query: SearchQuery


@dataclass(frozen=True, slots=True)
class SearchAll:
    """
    Ask for the hits of several independent queries.

    Answered with a list in the order of the queries: a sequence of `Hit`, or the exception, for each. They
    may go out one by one, side by side or as one round trip: the strategy decides.
    """

    queries: tuple[SearchQuery, ...]


@dataclass(frozen=True, slots=True)
class Complete:
    """
    Ask the model. Answered with an `LLMResponse`.

    Attributes:
        request: The question.
        limiter: The limit it counts against: "llm", or "batches" for calls that carry packed reviews.
    """

    request: LLMRequest
    limiter: LimiterName = "llm"


@dataclass(frozen=True, slots=True)
class Pack:
    """
    Ask for texts to be put into batches under the runner's limits, counted by the runner's counter.

    Answered with a list of batches, in order; each is a list of `PackedText`, which names a text by its place. A
    batch's prompt and answer together keep to the budget; a text that is too long by itself goes alone, cut.

    Attributes:
        texts: What to pack.
        render: Renders a text as the line that it becomes in the prompt.
        fixed_text: Everything else in the prompt, the same in every batch.
        answer_tokens: Tokens to keep free for the answer.
        answer_tokens_each: Tokens to keep free for what the answer says about each text.
        max_tokens: The budget; None for `Limits.max_tokens_per_batch`.
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
    Run a flow once per run, for all items that ask for it.

    Answered with its result, or thrown its exception; whoever asks for an equal key meanwhile waits for the
    one that is running, and whoever asks later is answered at once.

    Attributes:
        key: What makes it the same flow.
        make: Opens the flow.
    """

    key: Hashable
    make: Callable[[], Flow[Any]]


@dataclass(frozen=True, slots=True)
class Sleep:
    """Wait `seconds`, holding no slot. Answered with None."""

    seconds: float

    def __post_init__(self) -> None:
        seconds: object = self.seconds
        if not isinstance(seconds, (int, float)) or not 0 <= seconds < inf:
            raise ConfigurationError(f"sleep() takes a number of seconds of at least 0, got {self.seconds!r}")


@dataclass(frozen=True, slots=True)
class Gather:
    """
    Run independent flows, side by side where the strategy allows it.

    All of them are run to their end, and answered with a list in their order: each one's result, or the
    exception it raised.
    """

    flows: tuple[Generator[Any, Any, Any], ...]


Step: TypeAlias = Search | SearchAll | Complete | Pack | Once | Sleep | Gather
Flow: TypeAlias = Generator[Step, Any, T]
"""A generator of steps that returns a `T`."""

ResultOrError: TypeAlias = T | Exception
"""A result, or the exception that came instead of it."""


def search(query: SearchQuery) -> Flow[Sequence[Hit]]:
    """Search, or raise what the search raised."""
    return cast("Sequence[Hit]", (yield Search(query)))


def search_all(queries: Iterable[SearchQuery]) -> Flow[list[ResultOrError[Sequence[Hit]]]]:
    """Search several things that do not depend on each other; a failed search is an exception in the list."""
    return cast("list[ResultOrError[Sequence[Hit]]]", (yield SearchAll(tuple(queries))))


def complete(request: LLMRequest, *, limiter: LimiterName = "llm") -> Flow[LLMResponse]:
    """Ask the model, or raise what the backend raised."""
    return cast("LLMResponse", (yield Complete(request, limiter)))


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
    """Put texts into batches under the runner's limits; see `Pack`."""
    step = Pack(tuple(texts), render, fixed_text, answer_tokens, answer_tokens_each, max_tokens, max_texts)
    return cast("list[list[PackedText]]", (yield step))


def once(key: Hashable, make: Callable[[], Flow[T]]) -> Flow[T]:
    """Run a flow once per run, for all items that ask with an equal key, or raise what it raised."""
    return cast("T", (yield Once(key, make)))


def sleep(seconds: float) -> Flow[None]:
    """Wait, holding no slot."""
    yield Sleep(seconds)


def gather(*flows: Flow[T]) -> Flow[list[ResultOrError[T]]]:
    """Run flows that do not depend on each other; a flow that raised is an exception in the list."""
    return cast("list[ResultOrError[T]]", (yield Gather(flows)))


def intercept(
    flow: Generator[S, Any, T], handle: Callable[[S], Generator[S2, Any, Any]]
) -> Generator[S2, Any, T]:
    """
    Run a flow inside another one, and answer each of its steps with a flow.

    Args:
        flow: The inner flow; it is closed when this one ends.
        handle: Returns the flow that answers a step. What that returns is sent into `flow`, and an `Exception` that
            it raises, or that is thrown into it, is thrown into `flow`.
    """
    answer: Any = None
    error: Exception | None = None
    try:
        while True:
            try:
                step = flow.send(answer) if error is None else flow.throw(error)
            except StopIteration as stop:
                return cast("T", stop.value)
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
        perform: Does what one step asks for and returns the answer; an `Exception` that it raises is thrown
            into the flow, any other `BaseException` ends it.
    """
    answer: Any = None
    error: Exception | None = None
    try:
        while True:
            try:
                step = flow.send(answer) if error is None else flow.throw(error)
            except StopIteration as stop:
                return cast("T", stop.value)
            answer = error = None
            try:
                answer = perform(step)
            except Exception as raised:
                error = raised
    finally:
        flow.close()


async def adrive(flow: Generator[Any, Any, T], perform: Callable[[Any], Awaitable[Any]]) -> T:
    """Run a flow to its end on the running loop; `drive` for an awaited `perform`."""
    answer: Any = None
    error: Exception | None = None
    try:
        while True:
            try:
                step = flow.send(answer) if error is None else flow.throw(error)
            except StopIteration as stop:
                return cast("T", stop.value)
            answer = error = None
            try:
                answer = await perform(step)
            except Exception as raised:
                error = raised
    finally:
        flow.close()
