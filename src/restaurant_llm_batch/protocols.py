"""
The seams: what a search, a model, an embedder and an observer must offer.

A backend offers either colour, or both: `search`/`complete` block, `asearch`/`acomplete` are awaited. The
strategy picks the colour, and a blocking backend is bridged into worker threads where one is needed. Methods
may be called again after they raised, and several at a time, up to the limits.

Optional, used when present: ``search_many(queries)`` and ``asearch_many(queries)`` answer several queries in
one round trip, with one sequence of hits each, in their order; ``aclose()`` lets go of what belongs to an
event loop, when the runner's last work on that loop ends, and ``close()`` of the rest, when the last ``with``
block of the runner ends. The backend may be used again afterwards, and by another runner meanwhile.

A blocking backend that waits for long may wait with `patience.wait`, which a run that is cancelled ends, or name what
else ends it with `patience.ended_by`. One that knows what the service says is left of its limits puts it into
`LLMResponse.rate_limit` and `RateLimited.rate_limit`; calls then keep to it.

Backends report failures as `errors.BackendError`s: `TransientBackendError` and `RateLimited` are tried
again, `AuthenticationFailed` and `QuotaExhausted` stop the run, anything else fails the item.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

from ._llm_response import LLMResponse
from .events import Event
from .models import Hit, ItemId, LLMRequest, SearchQuery
from .steps import Flow


@runtime_checkable
class SearchBackend(Protocol):
    """Finds reviews, blocking the calling thread meanwhile."""

    def search(self, query: SearchQuery, /) -> Sequence[Hit]:
        """Return the best hits first, at most ``query.limit``, only of whom the query asks for."""
        ...


@runtime_checkable
class AsyncSearchBackend(Protocol):
    """Finds reviews without blocking the loop."""

    async def asearch(self, query: SearchQuery, /) -> Sequence[Hit]:
        """Return the best hits first, at most ``query.limit``, only of whom the query asks for."""
        ...


@runtime_checkable
class LLMBackend(Protocol):
    """Answers one request, blocking the calling thread meanwhile."""

    def complete(self, request: LLMRequest, /) -> LLMResponse:
        """Answer the request."""
        ...


@runtime_checkable
class AsyncLLMBackend(Protocol):
    """Answers one request without blocking the loop."""

    async def acomplete(self, request: LLMRequest, /) -> LLMResponse:
        """Answer the request."""
        ...


@dataclass(frozen=True, slots=True)
class SparseVector:
    """Weights of the terms that occur; `indices` are distinct and below 2**32."""

    indices: Sequence[int]
    values: Sequence[float]


@dataclass(frozen=True, slots=True)
class Embedding:
    """A text as a dense vector of unit length and a sparse one."""

    dense: Sequence[float]
    sparse: SparseVector


class Embedder(Protocol):
    """
    Turns texts into vectors, deterministically.

    Attributes:
        name: Names the model and its version; vectors of different names are not comparable.
        size: Length of the dense vectors.
    """

    @property
    def name(self) -> str:
        """Name the model and its version."""
        ...

    @property
    def size(self) -> int:
        """Return the length of the dense vectors."""
        ...

    def embed_documents(self, texts: Sequence[str], /) -> list[Embedding]:
        """Embed texts to be found, one embedding each, in their order."""
        ...

    def embed_query(self, text: str, /) -> Embedding:
        """Embed a text to search with."""
        ...


class TokenCounter(Protocol):
    """
    Counts the tokens of a text; any function from a text to a number is one.

    Optional, used when present: an attribute ``blocking = True`` says that it does I/O, so that it is called in
    a worker thread where there is an event loop; and ``learn(text, tokens)`` is told the text of every prompt
    that was answered, and how many tokens the service counted in it.
    """

    def __call__(self, text: str, /) -> int:
        """Return the number of tokens."""
        ...


class Observer(Protocol):
    """Anything callable with an event; it must be quick, and what it raises is logged and dropped."""

    def __call__(self, event: Event, /) -> object:
        """Take note of an event."""
        ...


R_co = TypeVar("R_co", covariant=True)


class Task(Protocol[R_co]):
    """
    A reusable description of a job, applied to items by a runner.

    Attributes:
        name: What it is called in errors and progress.
        requires_search: Whether it cannot work without a search backend.
    """

    @property
    def name(self) -> str:
        """Name the task."""
        ...

    @property
    def requires_search(self) -> bool:
        """Tell whether it cannot work without a search backend."""
        ...

    def parse_item(self, raw: Any, /) -> Any:
        """Check one item as the user gave it, and return what `flow` takes; raise `ConfigurationError`."""
        ...

    def item_key(self, item: Any, /) -> tuple[ItemId, int]:
        """Return the item's id and its priority."""
        ...

    def flow(self, item: Any, /) -> Flow[R_co]:
        """Return a fresh flow that does the job for one item."""
        ...
