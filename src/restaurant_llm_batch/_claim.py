"""Claim: a right that one of several threads takes, once, without a lock."""

from __future__ import annotations


class Claim:
    """
    A right that is taken once. It rests on one method of a list, which CPython does in one step.

    So no interrupt and no other thread comes between the question and the answer.
    """

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = [True]

    def take(self) -> bool:
        """Take the right; return False if it is taken."""
        try:
            return self._left.pop()
        except IndexError:
            return False
