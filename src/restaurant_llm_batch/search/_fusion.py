"""From questions to hits: which lists to ask an engine for, when to ask for more, how to join them."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from math import inf
from typing import Literal, TypeAlias, TypeVar

from ..models import Hit, SearchQuery
from ..protocols import Embedding
from ._hybrid import Candidate, Fused, Scope, fuse, missing_similarities, select_top, stable_top_k

T = TypeVar("T")

ListName: TypeAlias = Literal["dense", "sparse"]

_DEPTH = 20
_GROWTH = 4
_MAX_TIES = 1000


@dataclass(frozen=True, slots=True)
class RankRequest:
    """One ranked list to ask for: among which reviews, a vector, how many, and of which points only."""

    scope: Scope
    vector: Embedding
    using: ListName
    limit: int
    points: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PreparedQuery:
    """A query whose scope was checked and whose text was embedded."""

    query: SearchQuery
    scope: Scope
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

    def ranking(self, using: ListName, limit: int, points: tuple[str, ...] = ()) -> RankRequest:
        """Return the request for one list."""
        return RankRequest(self.scope, self.vector, using, limit, points)


RankFlow: TypeAlias = Generator[list[RankRequest], Sequence[Sequence[Candidate]], T]
"""
A flow that returns a `T`: it yields rankings that can be answered in one round trip, and is sent the
candidates of each.
"""


def run_hybrid(questions: Sequence[PreparedQuery]) -> RankFlow[list[list[Hit]]]:
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


def _settled(wanted: Sequence[tuple[PreparedQuery, ListName]]) -> RankFlow[list[list[Candidate]]]:
    lists: list[list[Candidate]] = [[] for _ in wanted]
    unsettled = list(range(len(wanted)))
    factor = 1
    while unsettled:
        # One more than wanted, to see whether the last of them has equals beyond the cut.
        asked = {i: factor * wanted[i][0].depth + 1 for i in unsettled}
        answers = yield [wanted[i][0].ranking(wanted[i][1], limit) for i, limit in asked.items()]
        unsettled = []
        for (i, limit), found in zip(asked.items(), answers, strict=True):
            whole = stable_top_k(found, wanted=wanted[i][0].depth, asked=_trusted(wanted[i][0], limit))
            if whole is None:
                unsettled.append(i)
            else:
                lists[i] = whole
        # Growing ends soon even where all reviews of a restaurant are equal.
        factor *= _GROWTH
    return lists


def _trusted(question: PreparedQuery, limit: int) -> float:
    """Return how long an answer must be for the engine to have left equals out."""
    # A restaurant's equal reviews are few; those of all others may be a good part of millions, and to fetch
    # them all for the sake of their order would take longer than anything that is done with them.
    return inf if question.scope.others and limit > _MAX_TIES else limit


def _similarities(
    questions: Sequence[PreparedQuery], fused: Sequence[Sequence[Fused]]
) -> RankFlow[list[dict[str, float]]]:
    """Fetch the cosines of what only the sparse search found, where a bound asks for them."""
    near: list[dict[str, float]] = [{} for _ in questions]
    bounded = (i for i, question in enumerate(questions) if question.query.min_score)
    points = {i: missing for i in bounded if (missing := tuple(missing_similarities(fused[i])))}
    if points:
        answers = yield [questions[i].ranking("dense", len(some), some) for i, some in points.items()]
        for i, found in zip(points, answers, strict=True):
            near[i] = {candidate.point: candidate.score for candidate in found}
    return near


def _hits(question: PreparedQuery, fused: Sequence[Fused], near: dict[str, float]) -> list[Hit]:
    query = question.query
    best = select_top(fused, limit=query.limit, min_score=query.min_score, similarities=near)
    return [_hit(one, question.scope) for one in best]


def _hit(one: Fused, scope: Scope) -> Hit:
    # Its own restaurant is known by the name that was asked for, whatever form was indexed.
    found = one.candidate.restaurant_id if scope.others else None
    restaurant_id = scope.restaurant_id if found is None else found
    return Hit(one.candidate.review_id, one.candidate.content, one.score, restaurant_id)
