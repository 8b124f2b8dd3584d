"""
Ids of points in the engine: numbers, and in folders of format 1, UUIDs.

The engine makes an object of Python's class for each UUID of a list that it returns, which takes more time than the
ranking itself. A number is half of a review's key combined with the other half: of ten million reviews, two have the
same one with a chance of 1 in 400,000.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any, NamedTuple
from uuid import UUID

_HALF = 64
_MASK = (1 << _HALF) - 1


class PointIds(NamedTuple):
    """
    The ids of one folder's points.

    Attributes:
        of_key: Returns the id of a review's key; see `point_key`.
        of_number: Returns the id for a number that `number` has returned.
        number: Returns the number of a point that the engine has returned; numbers are hashed and compared fast.
        ranked: Returns the number and the score of a point that the engine has ranked.
    """

    of_key: Callable[[str], Any]
    of_number: Callable[[Any], Any]
    number: Callable[[Any], int]
    ranked: Callable[[Any], tuple[int, float]]


def _number_of_key(key: str) -> int:
    number = int(key.replace("-", ""), 16)
    return (number >> _HALF) ^ (number & _MASK)


def _uuid_of_number(number: int) -> UUID:
    return UUID(int=number)


def number_of(point: Any) -> int:
    """Return the number of a point that the engine has returned, of either format."""
    found: int | UUID = point.id
    return found if isinstance(found, int) else found.int


def _ranked(point: Any) -> tuple[int, float]:
    return number_of(point), point.score


UUIDS = PointIds(UUID, _uuid_of_number, number_of, _ranked)
NUMBERS = PointIds(_number_of_key, int, attrgetter("id"), attrgetter("id", "score"))
