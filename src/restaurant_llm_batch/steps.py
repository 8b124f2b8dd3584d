"""
The vocabulary of flows.

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

from ._llm_response import LLMReply
from .errors import ConfigurationError
from .models import Hit, LLMRequest, SearchQuery
from .tokens.packing import Packed

__all__ = [
    "Complete",
    "Flow",
    "GateName",
    "Maybe",
    "Once",
    "Pack",
    "Pause",
    "Search",
    "SearchAll",
    "Step",
    "Together",
    "adrive",
    "complete",
    "drive",
    "once",
    "pack",
    "pause",
    "search",
    "search_all",
    "together",
]

T = TypeVar("T")

GateName: TypeAlias = Literal["llm", "batches"]


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
    Ask the model. Answered with an `LLMReply`.

    Attributes:
        request: The question.
        gate: The limit it counts against: "llm", or "batches" for calls that carry packed reviews.
    """

    request: LLMRequest
    gate: GateName = "llm"


@dataclass(frozen=True, slots=True)
class Pack:
    """
    Ask for texts to be put into batches under the runner's limits, counted by the runner's counter.

    Answered with a list of batches, in order; each is a list of `Packed`, which names a text by its place. A
    batch's prompt and answer together keep to the budget; a text that is too long by itself goes alone, cut.

    Attributes:
        texts: What to pack.
        line: Renders a text as the line that it becomes in the prompt.
        frame: Everything else in the prompt, the same in every batch.
        answer_tokens: Tokens to keep free for the answer.
        answer_tokens_each: Tokens to keep free for what the answer says about each text.
        max_tokens: The budget; None for `Limits.tokens_per_batch`.
        most: Most texts in a batch; None for `Limits.max_batch_size`.
    """

    texts: tuple[str, ...]
    line: Callable[[str], str]
    frame: str
    answer_tokens: int = 0
    answer_tokens_each: int = 0
    max_tokens: int | None = None
    most: int | None = None


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
class Pause:
    """Wait `seconds`, holding no slot. Answered with None."""

    seconds: float

    def __post_init__(self) -> None:
        seconds: object = self.seconds
        if not isinstance(seconds, (int, float)) or not 0 <= seconds < inf:
            raise ConfigurationError(f"pause() takes a number of seconds from 0, got {self.seconds!r}")


@dataclass(frozen=True, slots=True)
class Together:
    """
    Run independent flows, side by side where the strategy allows it.

    All of them are run to their end, and answered with a list in their order: each one's result, or the
    exception it raised.
    """

    flows: tuple[Flow[Any], ...]


Step: TypeAlias = Search | SearchAll | Complete | Pack | Once | Pause | Together
Flow: TypeAlias = Generator[Any, Any, T]
"""A generator of steps that returns a `T`."""

Maybe: TypeAlias = T | Exception
"""A result, or the exception that came instead of it."""


def search(query: SearchQuery) -> Flow[Sequence[Hit]]:
    """Search, or raise what the search raised."""
    return cast("Sequence[Hit]", (yield Search(query)))


def search_all(queries: Iterable[SearchQuery]) -> Flow[list[Maybe[Sequence[Hit]]]]:
    """Search several things that do not depend on each other; a failed search is an exception in the list."""
    return cast("list[Maybe[Sequence[Hit]]]", (yield SearchAll(tuple(queries))))


def complete(request: LLMRequest, *, gate: GateName = "llm") -> Flow[LLMReply]:
    """Ask the model, or raise what the backend raised."""
    return cast("LLMReply", (yield Complete(request, gate)))


def pack(
    texts: Iterable[str],
    *,
    line: Callable[[str], str],
    frame: str,
    answer_tokens: int = 0,
    answer_tokens_each: int = 0,
    max_tokens: int | None = None,
    most: int | None = None,
) -> Flow[list[list[Packed]]]:
    """Put texts into batches under the runner's limits; see `Pack`."""
    step = Pack(tuple(texts), line, frame, answer_tokens, answer_tokens_each, max_tokens, most)
    return cast("list[list[Packed]]", (yield step))


def once(key: Hashable, make: Callable[[], Flow[T]]) -> Flow[T]:
    """Run a flow once per run, for all items that ask with an equal key, or raise what it raised."""
    return cast("T", (yield Once(key, make)))


def pause(seconds: float) -> Flow[None]:
    """Wait, holding no slot."""
    yield Pause(seconds)


def together(*flows: Flow[T]) -> Flow[list[Maybe[T]]]:
    """Run flows that do not depend on each other; a flow that raised is an exception in the list."""
    return cast("list[Maybe[T]]", (yield Together(flows)))


def drive(flow: Flow[T], perform: Callable[[Any], Any]) -> T:
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


async def adrive(flow: Flow[T], perform: Callable[[Any], Awaitable[Any]]) -> T:
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
