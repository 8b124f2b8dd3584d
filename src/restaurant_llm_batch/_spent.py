"""
Spent: what one item has taken; and the packed rows in which the outcomes of a run keep it.

A run may have a million outcomes, and a `Spent` of its own would double what a failure takes. So the outcomes of 64
neighbours in the input share a buffer with a row of 38 bytes each, and `Success.spent` reads its row when it is asked.
"""

from __future__ import annotations

from struct import Struct
from struct import error as StructError
from typing import Any, NamedTuple, cast

_ROW = Struct("<dddIIHHBB")
_ROWS = 64


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


class _Rows(bytearray):
    """What the items `64 * n` to `64 * n + 63` of a run have taken."""

    __slots__ = ("missing",)
    missing: int

    def read(self, index: int) -> Spent:
        seconds, waited, cost, prompt, completion, searches, hits, calls, tries = _ROW.unpack_from(
            self, index % _ROWS * _ROW.size
        )
        known = cost if cost == cost else None  # not a number stands for None
        return Spent(seconds, waited, calls, searches, hits, prompt, completion, known, tries)


class SpentTable:
    """What the items of one run have taken, while they end."""

    def __init__(self) -> None:
        self._open: dict[int, _Rows] = {}

    def keep(
        self,
        index: int,
        seconds: float,
        waited: float,
        calls: int,
        searches: int,
        cache_hits: int,
        prompt_tokens: int,
        completion_tokens: int,
        cost: float | None,
        tries: int,
    ) -> Spent:
        """
        Keep what the item at `index` of the input has taken.

        Returns:
            What an outcome of this index takes for its `spent`: the packed rows, which `SpentField` reads, or, of an
            item whose numbers do not fit, a `Spent`.
        """
        number = index // _ROWS
        rows = self._open.get(number)
        if rows is None:
            rows = self._open[number] = _Rows(_ROWS * _ROW.size)
            rows.missing = _ROWS
        priced = float("nan") if cost is None else cost
        try:
            _ROW.pack_into(
                rows,
                index % _ROWS * _ROW.size,
                seconds,
                waited,
                priced,
                prompt_tokens,
                completion_tokens,
                searches,
                cache_hits,
                calls,
                tries,
            )
        except StructError:
            return Spent(
                seconds,
                waited,
                calls,
                searches,
                cache_hits,
                prompt_tokens,
                completion_tokens,
                cost,
                tries,
            )
        rows.missing -= 1
        if rows.missing <= 0:
            self._open.pop(number, None)
        return cast("Spent", rows)


class SpentField:
    """
    The attribute `spent` of an outcome: the slot holds a `Spent` or packed rows, and readers always get a `Spent`.

    So a copy, `dataclasses.replace` and a pickle take the numbers of their outcome with them, and nobody else's.
    """

    def __init__(self, slot: Any) -> None:
        self._slot = slot

    def __get__(self, outcome: Any, owner: type | None = None) -> Any:
        if outcome is None:
            return self
        kept = self._slot.__get__(outcome)
        return kept.read(outcome.index) if type(kept) is _Rows else kept

    def __set__(self, outcome: Any, spent: Any) -> None:
        self._slot.__set__(outcome, spent)
