"""From questions to hits: which lists to ask an engine for, when to ask for more, how to join them."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypeVar

from ...models import Hit, ItemId, SearchQuery
from ...protocols import Embedding
from .hybrid import Candidate, Fused, cut, fuse, settle, unmeasured

T = TypeVar("T")

ListName: TypeAlias = Literal["dense", "sparse"]

_DEPTH = 20


@dataclass(frozen=True, slots=True)
class Ranking:
    """One ranked list to ask for: a restaurant, a vector, how many, and among which points only."""

    restaurant: str
    vector: Embedding
    using: ListName
    limit: int
    among: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Question:
    """A query whose restaurant was checked and whose text was embedded."""

    query: SearchQuery
    restaurant_id: ItemId
    vector: Embedding

    @property
    def depth(self) -> int:
        """How long each list must be."""
        # Two short lists fuse badly: what is fair in both must have a chance to be seen in both.
        return max(_DEPTH, self.query.limit)

    def lists(self) -> list[ListName]:
        """Return the lists that can tell reviews apart; none for a text without words."""
        found: list[ListName] = []
        # A zero vector has no direction, and would only rank reviews by their ids.
        if any(self.vector.dense):
            found.append("dense")
        if self.vector.sparse.indices:
            found.append("sparse")
        return found

    def ranking(self, using: ListName, limit: int, among: tuple[str, ...] = ()) -> Ranking:
        """Return the request for one list."""
        return Ranking(str(self.restaurant_id), self.vector, using, limit, among)


Asking: TypeAlias = Generator[list[Ranking], Sequence[Sequence[Candidate]], T]
"""
A flow that returns a `T`: it yields rankings that can be answered in one round trip, and is sent the
candidates of each.
"""


def answer(questions: Sequence[Question]) -> Asking[list[list[Hit]]]:
    """
    Answer questions; whoever drives this asks the engine.

    It asks once, and again only for lists that were cut among equals and for similarities that a bound needs.

    Args:
        questions: The questions.

    Returns:
        The hits of each question, best first.
    """
    wanted = [(i, using) for i, question in enumerate(questions) for using in question.lists()]
    settled = yield from _settled([(questions[i], using) for i, using in wanted])
    lists = dict(zip(wanted, settled, strict=True))
    fused = [fuse(lists.get((i, "dense"), []), lists.get((i, "sparse"), [])) for i in range(len(questions))]
    near = yield from _similarities(questions, fused)
    return [_hits(*found) for found in zip(questions, fused, near, strict=True)]


def _settled(wanted: Sequence[tuple[Question, ListName]]) -> Asking[list[list[Candidate]]]:
    lists: list[list[Candidate]] = [[] for _ in wanted]
    unsettled = list(range(len(wanted)))
    factor = 1
    while unsettled:
        # One more than wanted, to see whether the last of them has equals beyond the cut.
        asked = {i: factor * wanted[i][0].depth + 1 for i in unsettled}
        answers = yield [wanted[i][0].ranking(wanted[i][1], limit) for i, limit in asked.items()]
        unsettled = []
        for (i, limit), found in zip(asked.items(), answers, strict=True):
            whole = settle(found, wanted=wanted[i][0].depth, asked=limit)
            if whole is None:
                unsettled.append(i)
            else:
                lists[i] = whole
        # Doubling ends soon even where all reviews of a restaurant are equal.
        factor *= 2
    return lists


def _similarities(
    questions: Sequence[Question], fused: Sequence[Sequence[Fused]]
) -> Asking[list[dict[str, float]]]:
    """Fetch the cosines of what only the sparse search found, where a bound asks for them."""
    near: list[dict[str, float]] = [{} for _ in questions]
    bounded = (i for i, question in enumerate(questions) if question.query.min_score)
    points = {i: missing for i in bounded if (missing := tuple(unmeasured(fused[i])))}
    if points:
        answers = yield [questions[i].ranking("dense", len(some), some) for i, some in points.items()]
        for i, found in zip(points, answers, strict=True):
            near[i] = {candidate.point: candidate.score for candidate in found}
    return near


def _hits(question: Question, fused: Sequence[Fused], near: dict[str, float]) -> list[Hit]:
    query = question.query
    best = cut(fused, limit=query.limit, min_score=query.min_score, similarities=near)
    return [
        Hit(one.candidate.review_id, one.candidate.content, one.score, question.restaurant_id) for one in best
    ]
