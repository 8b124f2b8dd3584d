"""Rankings and reviews in the words of qdrant-client, and its answers in ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...errors import ConfigurationError, PermanentBackendError
from ...models import ItemId
from ...protocols import Embedding
from .._search.answer import Ranking
from .._search.hybrid import Candidate
from .._search.reviews import Entry
from .names import Layout, QdrantNames, as_number, look_up, put, spellings

if TYPE_CHECKING:
    from qdrant_client.models import Condition, PointStruct, QueryRequest, ScoredPoint


class Codec:
    """
    The words of one collection.

    Args:
        names: Its names.
        where: What every review must have in its payload, besides its restaurant.
    """

    def __init__(self, names: QdrantNames, where: Mapping[str, ItemId]) -> None:
        self._names = names
        self._where = dict(where)

    @property
    def id_fields(self) -> dict[str, ItemId | None]:
        """The payload fields that are filtered by, with the value where it is always the same."""
        return {self._names.restaurant: None, **self._where}

    def request(self, ranking: Ranking, layout: Layout) -> QueryRequest:
        """
        Return the request for one ranked list.

        Each list is a request of its own, with filter and limit, rather than a prefetch of a fusion at the
        server: that would order equals as it pleases, and a bound on the similarity could not be applied.
        """
        from qdrant_client.models import Filter, HasIdCondition, NearestQuery, QueryRequest, SparseVector

        sparse = ranking.using == "sparse"
        only = {self._names.restaurant: ranking.restaurant, **self._where}
        must: list[Condition] = [_match(name, value, layout) for name, value in only.items()]
        if ranking.among:
            must.append(HasIdCondition(has_id=[_point_id(point) for point in ranking.among]))
        vector = ranking.vector.sparse
        nearest = (
            SparseVector(indices=list(vector.indices), values=_floats(vector.values))
            if sparse
            else _floats(ranking.vector.dense)
        )
        return QueryRequest(
            query=NearestQuery(nearest=nearest),
            using=(self._names.sparse if sparse else self._names.dense) or None,
            filter=Filter(must=must),
            limit=ranking.limit,
            with_payload=self._names.wanted,
        )

    def candidate(self, point: ScoredPoint) -> Candidate:
        """
        Return what was found.

        Raises:
            PermanentBackendError: It has no text.
        """
        payload = point.payload or {}
        content = look_up(payload, self._names.content)
        if not isinstance(content, str):
            raise PermanentBackendError(
                f"point {point.id!r} has no text in its payload field {self._names.content!r}: "
                'say which field holds it, names=QdrantNames(content="...")',
                backend="qdrant",
            )
        return Candidate(str(point.id), self._review_id(payload, point.id), content, point.score)

    def _review_id(self, payload: Mapping[str, Any], otherwise: Any) -> ItemId:
        for name in (self._names.review, "id"):
            value = look_up(payload, name)
            if isinstance(value, int | str) and not isinstance(value, bool) and value != "":
                return value
        return otherwise if isinstance(otherwise, int) else str(otherwise)

    def point(self, entry: Entry, vector: Embedding, layout: Layout) -> PointStruct:
        """
        Return a review and its vectors as they are stored.

        Raises:
            ConfigurationError: The collection cannot hold its restaurant's id.
        """
        from qdrant_client.models import PointStruct, SparseVector

        vectors: dict[str, Any] = {self._names.dense: _floats(vector.dense)}
        if self._names.sparse is not None and vector.sparse.indices:
            sparse = vector.sparse
            vectors[self._names.sparse] = SparseVector(
                indices=list(sparse.indices), values=_floats(sparse.values)
            )
        payload: dict[str, Any] = {}
        put(payload, self._names.restaurant, self._stored(entry, layout))
        put(payload, self._names.review, entry.review_id)
        put(payload, self._names.content, entry.content)
        for name, value in self._where.items():
            put(payload, name, spellings(value, layout.form(name))[-1])
        return PointStruct(id=entry.point, vector=vectors, payload=payload)

    def _stored(self, entry: Entry, layout: Layout) -> ItemId:
        if layout.form(self._names.restaurant) != "integer":
            # Strings, as the source service stores them, so that one index serves any id.
            return entry.restaurant
        number = as_number(entry.restaurant)
        if number is None:
            raise ConfigurationError(
                f"restaurant_id {entry.restaurant!r} does not fit the collection, whose field "
                f"{self._names.restaurant!r} is indexed for integers: use integers, or another collection"
            )
        return number


def _match(name: str, value: ItemId, layout: Layout) -> Condition:
    from qdrant_client.models import FieldCondition, Filter, MatchValue

    forms: Sequence[ItemId] = spellings(value, layout.form(name))
    either: list[Condition] = [FieldCondition(key=name, match=MatchValue(value=form)) for form in forms]
    return either[0] if len(either) == 1 else Filter(should=either)


def _point_id(point: str) -> int | str:
    return int(point) if point.isdigit() else point


def _floats(values: Sequence[float]) -> list[float]:
    # The client takes Python's floats only, and embedders like to return numpy's.
    return [float(value) for value in values]
