"""
Limits of a request: size, number of JSON values, restaurants, reviews and calls; and the bytes of all open requests.

Everything is counted before it is decoded or validated, which takes time and memory in proportion to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any, NamedTuple, TypeAlias, TypeVar

from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import RunVar

from ...tokens.counting import estimate_tokens
from .error_responses import APIError, detail

T = TypeVar("T")
Place: TypeAlias = tuple[str | int, ...]
"""The names and indices that lead to a field of a body."""

INLINE_BYTES = 64 * 2**10
"""Size of the largest body that is decoded on the event loop; it takes about a millisecond."""
READERS = 2
"""Bodies that are decoded at once in threads of an event loop."""
MAX_FIELDS = 64
"""Fields of a request or of a restaurant, unknown ones included; each unknown one costs an error message."""
VALUES_PER_REVIEW, VALUES_PER_ITEM = 16, 32
"""JSON values for which there is room: a review of the contract has 10."""
OPEN_BODIES = 8
"""Bodies of the maximum size that may be open at once in all requests; small ones are not counted."""
JOB_FACTOR, JOB_BODIES = 10, 4
"""How many times as many restaurants, reviews and calls, and how many times as large a body, a job may have."""
TOKENS_PER_CHARACTER = 4
"""More than any character has by `estimate_tokens`."""
PROMPT_TOKENS, LINE_TOKENS = 500, 20
"""About what the instructions and the reply take of a batch's budget, and a review's number and label."""
FOUND_TOKENS = 100
"""About what a review takes that a search will find."""


@dataclass(frozen=True)
class Bounds:
    """
    Limits of a router.

    Attributes:
        body_bytes: Maximum size of a request body in bytes.
        items: Maximum number of restaurants in a request.
        reviews: Maximum number of reviews in a request, over all of its restaurants.
        calls: Maximum number of calls of the model that the reviews of a request may need.
        body_seconds: Maximum seconds until a body has arrived.
    """

    body_bytes: int
    items: int
    reviews: int
    calls: int
    body_seconds: float
    _open: OpenBytes = field(init=False, repr=False, compare=False)
    _readers: RunVar[CapacityLimiter] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # A frozen dataclass sets derived fields through `object`.
        object.__setattr__(self, "_open", OpenBytes(OPEN_BODIES * self.body_bytes))
        object.__setattr__(self, "_readers", RunVar("restaurant_llm_batch readers"))

    def for_jobs(self) -> Bounds:
        """Return the limits of a job, which nobody waits for at a connection."""
        return replace(
            self,
            body_bytes=JOB_BODIES * self.body_bytes,
            items=JOB_FACTOR * self.items,
            reviews=JOB_FACTOR * self.reviews,
            calls=JOB_FACTOR * self.calls,
        )

    @contextmanager
    def open_body(self) -> Iterator[OpenBody]:
        """Return the count of a request's bytes; they are open until the block ends."""
        body = OpenBody(self._open)
        try:
            yield body
        finally:
            body.close()

    async def in_thread(self, function: Callable[[], T]) -> T:
        """Call a function in a thread, at most `READERS` at once, so that the event loop goes on."""
        readers = self._readers.get(None)
        if readers is None:
            readers = CapacityLimiter(READERS)
            self._readers.set(readers)
        return await to_thread.run_sync(function, limiter=readers)

    @property
    def values(self) -> int:
        """Maximum number of JSON values in a body."""
        return VALUES_PER_REVIEW * self.reviews + VALUES_PER_ITEM * self.items + MAX_FIELDS

    def check_values(self, body: bytes) -> None:
        """
        Check the number of JSON values in a body.

        Raises:
            APIError: There are more than `values` (413).
        """
        if len(body) > self.values and count_values(body, self.values) > self.values:
            raise _too_many(
                (),
                f"at most {self.values:,} JSON values are read in one request (16 for each of max_reviews="
                f"{self.reviews:,} reviews, and 32 for each of max_items={self.items:,} restaurants)",
                f"At most {self.values:,} JSON values",
            )

    def check_decoded(self, decoded: Any) -> None:
        """
        Check the numbers of fields, restaurants and reviews in a decoded body. Other faults are left to validation.

        Every list counts as one of reviews, except for lists of restaurants.

        Raises:
            APIError: There are too many restaurants or reviews (413) or fields (422).
        """
        if isinstance(decoded, dict):
            self._check_record(decoded, (), 0)

    def _check_record(self, record: dict[str, Any], place: Place, reviews: int) -> int:
        """Check a request, its `data`, or a restaurant; return the number of reviews so far."""
        _check_fields(record, place)
        for name, value in record.items():
            here = (*place, name[:40])
            if isinstance(value, list) and name == "restaurants" and len(place) < 2:
                self._check_items(value, here)
                for index, restaurant in enumerate(value):
                    if isinstance(restaurant, dict):
                        reviews = self._check_record(restaurant, (*here, index), reviews)
            elif isinstance(value, list):
                reviews += len(value)
                self._check_reviews(reviews, here)
            elif isinstance(value, dict) and name == "data" and not place:
                reviews = self._check_record(value, here, reviews)
        return reviews

    def _check_items(self, restaurants: list[Any], place: Place) -> None:
        if len(restaurants) > self.items:
            raise _too_many(
                place,
                f"at most {self.items} restaurants are done in one request, not {len(restaurants)}; the service's "
                "setting is max_items",
                f"At most {self.items}",
            )

    def _check_reviews(self, reviews: int, place: Place) -> None:
        if reviews > self.reviews:
            raise _too_many(
                place,
                f"at most {self.reviews:,} reviews are read in one request, over all of its restaurants; the "
                "service's setting is max_reviews",
                f"At most {self.reviews:,} reviews in a request",
            )

    def check_calls(
        self, restaurants: Sequence[Load], budget: int, batch_size: int, place: Place = ("restaurants",)
    ) -> None:
        """
        Check the number of calls of the model that reviews need, as it is estimated from their lengths.

        Args:
            restaurants: The reviews of each restaurant.
            budget: Token budget of a batch.
            batch_size: Maximum number of reviews in a batch.
            place: The place of the reviews, for the error.

        Raises:
            APIError: There are too many (413).
        """
        room = max(budget - PROMPT_TOKENS, budget // 4, 1)
        calls = sum(_most_calls(one.texts, room, batch_size, one.found) for one in restaurants)
        if calls > self.calls:  # only then are the tokens estimated, which takes longer
            calls = sum(_estimated_calls(one.texts, room, batch_size, one.found) for one in restaurants)
        if calls > self.calls:
            raise _too_many(
                place,
                f"these reviews need about {calls:,} calls of the model, and at most {self.calls:,} are made for "
                "one request; send fewer reviews, or a larger max_tokens_per_batch; the service's setting is "
                "max_calls",
                f"About {calls:,} calls, at most {self.calls:,}",
            )


class Load(NamedTuple):
    """Reviews of a restaurant: the texts of those in the request, and the maximum number of those found by search."""

    texts: Sequence[str]
    found: int = 0


def _check_fields(record: dict[str, Any], place: Place) -> None:
    if len(record) > MAX_FIELDS:
        one = detail(place, f"At most {MAX_FIELDS} fields", "too_long")
        message = f"{one['field']} has {len(record):,} fields; at most {MAX_FIELDS} are read"
        raise APIError(422, message, [one])


def _too_many(place: Place, message: str, short: str) -> APIError:
    return APIError(413, message, [detail(place, short, "too_long")])


def _most_calls(texts: Sequence[str], room: int, batch_size: int, found: int = 0) -> int:
    """Return more calls than the reviews need, from their lengths alone."""
    # Next-fit packing fills every two batches together with more than one budget.
    tokens = sum(min(TOKENS_PER_CHARACTER * len(text) + LINE_TOKENS, room) for text in texts)
    return _batches(len(texts) + found, 2 * (tokens + found * min(FOUND_TOKENS, room)), room, batch_size)


def _estimated_calls(texts: Sequence[str], room: int, batch_size: int, found: int = 0) -> int:
    # No more of a text than fits into a batch: the rest is truncated, or left out.
    tokens = sum(min(estimate_tokens(text[: 8 * room]) + LINE_TOKENS, room) for text in texts)
    return _batches(len(texts) + found, tokens + found * min(FOUND_TOKENS, room), room, batch_size)


def _batches(count: int, tokens: int, room: int, batch_size: int) -> int:
    return min(count, max(-(-count // batch_size), -(-tokens // room)))


SLICE = 64 * 2**10


def count_values(body: bytes, limit: int) -> int:
    """
    Return about the number of values in a JSON text, without decoding it; at most one slice more than `limit`.

    Counts the commas and opening brackets outside of strings, slice by slice, so that other threads can run between.
    """
    values, inside, escaped, position = 1, False, False, 0
    while position < len(body) and values <= limit:
        piece = body[position + escaped : position + SLICE]
        position += SLICE
        piece = piece.replace(rb"\\", b"").replace(rb"\"", b"")
        escaped = piece.endswith(b"\\")  # the next slice begins with the character that is escaped
        parts = piece.split(b'"')
        outside = b"".join(parts[inside::2])
        values += outside.count(b",") + outside.count(b"[") + outside.count(b"{")
        inside ^= len(parts) % 2 == 0
    return values


class OpenBytes:
    """Bytes of all bodies that are open, beyond the first `INLINE_BYTES` of each."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0
        self.lock = Lock()


class OpenBody:
    """Bytes of one body that are counted in an `OpenBytes`."""

    def __init__(self, total: OpenBytes) -> None:
        self._total = total
        self._bytes = 0
        self._counted = 0

    def add(self, size: int) -> None:
        """
        Count bytes that have arrived.

        Raises:
            APIError: Too many large bodies are open (503).
        """
        self._bytes += size
        more = max(self._bytes - INLINE_BYTES, 0) - self._counted
        if not more:
            return
        with self._total.lock:
            if self._total.bytes + more <= self._total.limit:
                self._total.bytes += more
                self._counted += more
                return
        message = "too many large requests are open; send it again later"
        raise APIError(503, message, headers={"Retry-After": "5"})

    def close(self) -> None:
        """Take the bytes out of the count."""
        with self._total.lock:
            self._total.bytes -= self._counted
        self._counted = 0
