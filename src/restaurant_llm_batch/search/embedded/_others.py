"""Cache of ranked lists over all restaurants, from which a search among the others leaves out one restaurant's own."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from threading import Lock
from typing import TypeAlias

from ...models import ItemId
from ...protocols import Embedding
from .._fusion import ListName, RankRequest
from .._hybrid import RankedPoint
from .._indexing import id_texts

PlacedPoint: TypeAlias = tuple[Hashable, float, str]
"""A point's key, its score, and its restaurant's id as text."""

_SPARE = 43
_GROWTH = 4
_MAX_LENGTH = 4_096
_MAX_LISTS = 64


@dataclass(frozen=True, slots=True)
class _RankedList:
    vector: Embedding
    asked: int
    points: list[PlacedPoint]

    def suffices(self, wanted: int) -> bool:
        """Return whether the list is as long as wanted, or holds all points."""
        return self.asked >= wanted or len(self.points) < self.asked


class OthersCache:
    """
    Ranked lists over the reviews of all restaurants. Thread-safe.

    A dense ranking compares a query with every review. All restaurants of a run search with the same few queries, so
    the list of a query is made once, and each restaurant takes it without its own reviews. The result is the same as
    that of a filter.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._lists: OrderedDict[tuple[int, ListName, ItemId | None], _RankedList] = OrderedDict()
        self._version = 0

    def clear(self) -> None:
        """Drop all lists, also those being made: the reviews have changed."""
        with self._lock:
            self._version += 1
            self._lists.clear()

    def rank(
        self, ranking: RankRequest, make: Callable[[RankRequest, int], list[PlacedPoint]]
    ) -> list[RankedPoint] | None:
        """
        Return the points of a ranking among the others.

        Args:
            ranking: The request, with the scope "others".
            make: Ranks the reviews of all restaurants, up to a length.

        Returns:
            The points; None if one restaurant has most of the best reviews, so that a filter is cheaper.
        """
        own = id_texts(ranking.scope.restaurant_id)
        length = ranking.limit + _SPARE
        while length <= max(_MAX_LENGTH, ranking.limit + _SPARE):
            ranked = self._list(ranking, length, make)
            others = [(point, score) for point, score, restaurant in ranked.points if restaurant not in own]
            if len(others) >= ranking.limit or len(ranked.points) < ranked.asked:
                return others[: ranking.limit]
            length *= _GROWTH
        return None

    def _list(
        self, ranking: RankRequest, length: int, make: Callable[[RankRequest, int], list[PlacedPoint]]
    ) -> _RankedList:
        key = id(ranking.vector), ranking.using, ranking.scope.category
        with self._lock:
            version, found = self._version, self._lists.get(key)
            if found is not None and found.vector is ranking.vector and found.suffices(length):
                self._lists.move_to_end(key)
                return found
        made = _RankedList(ranking.vector, length, make(ranking, length))
        with self._lock:
            if version == self._version:
                self._lists[key] = made
                self._lists.move_to_end(key)
                if len(self._lists) > _MAX_LISTS:
                    self._lists.popitem(last=False)
        return made
