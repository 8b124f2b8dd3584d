"""
Spent: what one item has taken; and the packed rows in which the outcomes of a run keep it.

A run may have a million outcomes, and a `Spent` of its own would double what a failure takes. So the outcomes of 64
neighbours in the input share a buffer with a row of 38 bytes each, and `Success.spent` reads its row when it is asked.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple, Protocol

_ROW = struct.Struct("<dddIIHHBB")
_SIZE = _ROW.size
_ROWS = 64
_UNKNOWN = float("nan")
_pack_into = _ROW.pack_into


class Spent(NamedTuple):
    """
    What one item has taken. Work that items share (`once`, equal calls) counts for the item that did it.

    Attributes:
        seconds: Seconds from its entry into the window (`Limits.open_items`) to its end.
        waited: Seconds that its calls waited for their limits, and between attempts. Calls that wait side by side each
            count, so this may be more than `seconds`.
        calls: Number of its calls to the model, retries included.
        searches: Number of its searches, retries included.
        cache_hits: Number of its replies that the store had, without a call.
        prompt_tokens: Tokens that the model read for it, as far as the service reports them.
        completion_tokens: Tokens that the model wrote for it, as far as the service reports them.
        cost: Cost of these tokens, in the currency of the runner's prices; None without prices, and if the tokens or
            the price of some call are unknown.
        tries: Most attempts that one of its calls took; 1 if nothing was made again, 0 without calls.
    """

    seconds: float = 0.0
    waited: float = 0.0
    calls: int = 0
    searches: int = 0
    cache_hits: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = None
    tries: int = 0

    @property
    def tokens(self) -> int:
        """Tokens that the model read and wrote."""
        return self.prompt_tokens + self.completion_tokens


NOTHING_SPENT = Spent()


class Spender(Protocol):
    """An item that counts what it takes, see `Spent`; a cost that nobody knows is not a number."""

    index: int
    entered_at: float | None
    waited: float
    calls: int
    searches: int
    cache_hits: int
    prompt_tokens: int
    completion_tokens: int
    cost: float
    tries: int


class _Rows(bytearray):
    """What the items `64 * n` to `64 * n + 63` of a run have taken."""

    __slots__ = ("missing",)
    missing: int

    def read(self, index: int) -> Spent:
        seconds, cost, waited, prompt, completion, searches, hits, calls, tries = _ROW.unpack_from(
            self, index % _ROWS * _ROW.size
        )
        known = cost if cost == cost else None  # not a number stands for None
        return Spent(seconds, waited, calls, searches, hits, prompt, completion, known, tries)


class SpentTable:
    """
    What the items of one run have taken, while they end.

    Args:
        has_prices: Whether the items have costs.
    """

    def __init__(self, has_prices: bool) -> None:
        self._has_prices = has_prices
        self._open: dict[int, _Rows] = {}

    def keep(self, item: Spender, now: float) -> Spent:
        """
        Keep what an item has taken that ends now.

        Args:
            item: The item.
            now: The time, on the run's clock.

        Returns:
            What an outcome of its index takes for `spent`: the packed rows, which `spent_field` reads, or, if the
            numbers do not fit, a `Spent`.
        """
        index, entered_at = item.index, item.entered_at
        seconds = 0.0 if entered_at is None else now - entered_at
        number = index // _ROWS
        rows = self._open.get(number) or self._add_rows(number)
        cost = item.cost if self._has_prices else _UNKNOWN
        try:
            # Spelled out: an `attrgetter` and its tuple take longer, for every item.
            _pack_into(
                rows,
                index % _ROWS * _SIZE,
                seconds,
                cost,
                item.waited,
                item.prompt_tokens,
                item.completion_tokens,
                item.searches,
                item.cache_hits,
                item.calls,
                item.tries,
            )
        except struct.error:
            known = cost if cost == cost else None
            return Spent(
                seconds,
                item.waited,
                item.calls,
                item.searches,
                item.cache_hits,
                item.prompt_tokens,
                item.completion_tokens,
                known,
                item.tries,
            )
        rows.missing -= 1
        if not rows.missing:
            del self._open[number]
        return rows  # type: ignore[return-value]  # `cast` would be a call for every item

    def _add_rows(self, number: int) -> _Rows:
        rows = self._open[number] = _Rows(_ROWS * _SIZE)
        rows.missing = _ROWS
        return rows


def spent_field(slot: Any) -> Any:
    """
    Return the attribute `spent` of a class of outcomes: its slot holds a `Spent` or packed rows, and gives a `Spent`.

    So a copy, `dataclasses.replace` and a pickle take the numbers of their outcome with them, and nobody else's.

    Args:
        slot: The descriptor that the class has for the slot.
    """

    def read(_: object, outcome: Any, owner: type | None = None) -> Any:
        if outcome is None:
            return slot
        kept = slot.__get__(outcome)
        return kept.read(outcome.index) if type(kept) is _Rows else kept

    # A class of its own, so that the slot itself is set: every outcome is made with it, and few are asked.
    return type("spent", (), {"__get__": read, "__set__": slot.__set__})()
