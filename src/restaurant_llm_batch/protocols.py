"""
Protocols of search backends, LLM backends, embedders, token counters, observers and tasks.

A backend is sync, async or both: `search`/`complete` block, `asearch`/`acomplete` are awaited. The strategy picks
the method, and calls a sync backend in worker threads if it needs an async one. A method may be called again after
it has raised, and concurrently, up to the limits.

Optional methods of a backend, used if present:

- ``search_many(queries)`` and ``asearch_many(queries)`` answer several queries in one round trip, and return one
  sequence of hits per query, in order.
- ``aclose()`` releases resources of the current event loop, when the runner's last work on that loop has ended;
  ``close()`` releases the rest, when the last ``with`` block of the runner ends. The backend may be used again
  afterwards, and by another runner meanwhile.
- ``metrics()`` and ``ametrics()`` of an LLM backend return the load of its server: a `ServerLoad`, or any object or
  mapping with its fields. They are called during a run with `BatchRunner(watch_server=...)`.

A sync backend that waits for a long time should wait with `cancellation.sleep`, which a cancelled run interrupts, or
register with `cancellation.on_cancel` a function that aborts its I/O. A backend whose service reports rate limits
passes them on in `LLMResponse.rate_limit` and `RateLimited.rate_limit`; the run then keeps to them.

Backends report failures as `errors.BackendError`s: `TransientBackendError` and `RateLimited` are retried,
`AuthenticationFailed` and `QuotaExhausted` stop the run, any other fails the item.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

from ._fast_init import fast_init
from ._llm_response import LLMResponse
from .events import Event
from .models import Hit, ItemId, LLMRequest, SearchQuery, ServerLoad  # noqa: F401  # what `metrics` returns
from .steps import Flow


@runtime_checkable
class SearchBackend(Protocol):
    """Finds reviews; blocks the calling thread."""

    def search(self, query: SearchQuery, /) -> Sequence[Hit]:
        """Return the hits within ``query.scope``, best first, at most ``query.limit``."""
        ...


@runtime_checkable
class AsyncSearchBackend(Protocol):
    """Finds reviews without blocking the event loop."""

    async def asearch(self, query: SearchQuery, /) -> Sequence[Hit]:
        """Return the hits within ``query.scope``, best first, at most ``query.limit``."""
        ...


@runtime_checkable
class LLMBackend(Protocol):
    """Completes LLM requests; blocks the calling thread."""

    def complete(self, request: LLMRequest, /) -> LLMResponse:
        """Send one request to the model and return its reply."""
        ...


@runtime_checkable
class AsyncLLMBackend(Protocol):
    """Completes LLM requests without blocking the event loop."""

    async def acomplete(self, request: LLMRequest, /) -> LLMResponse:
        """Send one request to the model and return its reply."""
        ...


@fast_init
@dataclass(frozen=True, slots=True)
class SparseVector:
    """Sparse vector: the non-zero `values` at `indices`, which are distinct and below 2**32."""

    indices: Sequence[int]
    values: Sequence[float]


@fast_init
@dataclass(frozen=True, slots=True)
class Embedding:
    """Embedding of a text: a dense vector of unit length, and a sparse vector."""

    dense: Sequence[float]
    sparse: SparseVector


class Embedder(Protocol):
    """
    Embeds texts as vectors, deterministically.

    Attributes:
        name: Name of the model and its version; vectors of different names are not comparable.
        size: Number of dimensions of the dense vectors.
    """

    @property
    def name(self) -> str:
        """Return the name of the model and its version."""
        ...

    @property
    def size(self) -> int:
        """Return the number of dimensions of the dense vectors."""
        ...

    def embed_documents(self, texts: Sequence[str], /) -> list[Embedding]:
        """Embed texts for the index; return one embedding per text, in order."""
        ...

    def embed_query(self, text: str, /) -> Embedding:
        """Embed a query text."""
        ...


class TokenCounter(Protocol):
    """
    Counts the tokens of a text; any function from a text to an integer is one.

    Optional, used if present: an attribute ``blocking = True`` says that it does I/O, so that an event loop calls it in
    a worker thread; and ``observe(text, tokens)`` is called with the text of every answered prompt and the number of
    tokens that the service counted in it.
    """

    def __call__(self, text: str, /) -> int:
        """Return the number of tokens of a text."""
        ...


class Observer(Protocol):
    """
    Receives the events of a run: any callable that takes an event. It must be fast; its exceptions are logged.

    Optional, used if present: an attribute ``wants_requests = True`` says that it needs `CallStarted.request`,
    `CacheHit.request` and `CallEnded.hits`, which are None otherwise.
    """

    def __call__(self, event: Event, /) -> object:
        """Handle one event; the return value is ignored."""
        ...


R_co = TypeVar("R_co", covariant=True)


class Task(Protocol[R_co]):
    """
    A reusable task: parses items, and returns a flow for each.

    Attributes:
        name: Name of the task in errors and progress.
        requires_search: Whether the task needs a search backend.
    """

    @property
    def name(self) -> str:
        """Return the name of the task."""
        ...

    @property
    def requires_search(self) -> bool:
        """Return whether the task needs a search backend."""
        ...

    def parse_item(self, raw: Any, /) -> Any:
        """
        Validate one input item and return the item that `flow` takes.

        Raises:
            ConfigurationError: The input item is invalid.
        """
        ...

    def item_key(self, item: Any, /) -> tuple[ItemId, int]:
        """Return the item's id and its priority; lower runs first."""
        ...

    def flow(self, item: Any, /) -> Flow[R_co]:
        """Return a new flow that computes the result of one item."""
        ...
