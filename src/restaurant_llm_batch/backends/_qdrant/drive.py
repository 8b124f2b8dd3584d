"""What a flow against Qdrant asks for, and who performs it: one text for both colours."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from ...steps import Flow

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ask:
    """
    Call a method of the client about the collection. Answered with what it returns.

    The blocking client and the async one have methods of the same names and arguments.
    """

    method: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Think:
    """Do work that takes the processor for a while. Answered with what it returns."""

    work: Callable[[], Any]


Perform: TypeAlias = Callable[[Ask | Think], Any]
PerformAsync: TypeAlias = Callable[[Ask | Think], Awaitable[Any]]


async def adrive(flow: Flow[T], perform: PerformAsync) -> T:
    """
    Run a flow to its end on the running loop; `steps.drive` is its blocking twin.

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
                value: T = stop.value
                return value
            answer = error = None
            try:
                answer = await perform(step)
            except Exception as raised:
                error = raised
    finally:
        flow.close()
