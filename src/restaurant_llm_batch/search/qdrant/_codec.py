"""Rankings and reviews in the words of qdrant-client, and its answers in ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

from ...errors import ConfigurationError, PermanentBackendError
from ...models import ItemId
from ...protocols import Embedding
from .._fusion import RankRequest
from .._hybrid import Candidate
from .._indexing import IndexEntry, as_number
from ._layout import CollectionSchema, IdLayout, get_path, id_variants, set_path

if TYPE_CHECKING:
    from qdrant_client.models import Condition, Filter, PointStruct, QueryRequest, ScoredPoint


class QdrantCodec:
    """
    The words of one collection.

    Args:
        names: Its names.
        where: What every review must have in its payload, besides its restaurant.
    """

    def __init__(self, names: CollectionSchema, where: Mapping[str, ItemId]) -> None:
        self._names = names
        self._where = dict(where)

    def request(self, ranking: RankRequest, layout: IdLayout) -> QueryRequest:
        """
        Return the request for one ranked list.

        Each list is a request of its own, with filter and limit, rather than a prefetch of a fusion at the
        server: that would order equals as it pleases, and a bound on the similarity could not be applied.

        Raises:
            ConfigurationError: A category is asked for where none has a name.
        """
        from qdrant_client.models import NearestQuery, QueryRequest, SparseVector

        sparse = ranking.using == "sparse"
        vector = ranking.vector.sparse
        nearest = (
            SparseVector(indices=list(vector.indices), values=_floats(vector.values))
            if sparse
            else _floats(ranking.vector.dense)
        )
        return QueryRequest(
            query=NearestQuery(nearest=nearest),
            using=(self._names.sparse if sparse else self._names.dense) or None,
            filter=self._filter(ranking, layout),
            limit=ranking.limit,
            with_payload=self._names.wanted(restaurant=ranking.scope.others),
        )

    def _filter(self, ranking: RankRequest, layout: IdLayout) -> Filter:
        from qdrant_client.models import Filter, HasIdCondition

        scope = ranking.scope
        restaurant = _forms(self._names.restaurant, scope.restaurant_id, layout)
        must: list[Condition] = [] if scope.others else [_either(restaurant)]
        if scope.category is not None:
            must.append(_either(_forms(self._category_field(), scope.category, layout)))
        must += [_either(_forms(name, value, layout)) for name, value in self._where.items()]
        if ranking.points:
            must.append(HasIdCondition(has_id=[_point_id(point) for point in ranking.points]))
        return Filter(must=must or None, must_not=restaurant if scope.others else None)

    def _category_field(self) -> str:
        if self._names.category is None:
            raise ConfigurationError(
                "a category was asked for, but names= says that the collection has none: "
                'say which field holds it, schema=CollectionSchema(category="food_category_id")'
            )
        return self._names.category

    def candidate(self, point: ScoredPoint, ranking: RankRequest) -> Candidate:
        """
        Return what was found.

        Args:
            point: As the client gave it.
            ranking: What had been asked.

        Raises:
            PermanentBackendError: It has no text, or no restaurant where that was asked for.
        """
        payload = point.payload or {}
        content = get_path(payload, self._names.content)
        if not isinstance(content, str):
            raise _lacks(point, "text", "content", self._names.content)
        restaurant_id = self._restaurant_id(point) if ranking.scope.others else None
        return Candidate(
            str(point.id), self._review_id(payload, point.id), content, point.score, restaurant_id
        )

    def _review_id(self, payload: Mapping[str, Any], otherwise: Any) -> ItemId:
        for name in (self._names.review, "id"):
            value = get_path(payload, name)
            if _is_id(value):
                return value
        return otherwise if isinstance(otherwise, int) else str(otherwise)

    def _restaurant_id(self, point: ScoredPoint) -> ItemId:
        value = get_path(point.payload or {}, self._names.restaurant)
        if not _is_id(value):
            raise _lacks(point, "restaurant's id", "restaurant", self._names.restaurant)
        # What was written as a string may have been an integer; whoever asks for either finds it.
        number = as_number(value)
        return value if number is None else number

    def point(self, entry: IndexEntry, vector: Embedding, layout: IdLayout) -> PointStruct:
        """
        Return a review and its vectors as they are stored.

        Raises:
            ConfigurationError: The collection cannot hold its restaurant's id or its category.
        """
        from qdrant_client.models import PointStruct, SparseVector

        vectors: dict[str, Any] = {self._names.dense: _floats(vector.dense)}
        if self._names.sparse is not None and vector.sparse.indices:
            sparse = vector.sparse
            vectors[self._names.sparse] = SparseVector(
                indices=list(sparse.indices), values=_floats(sparse.values)
            )
        payload: dict[str, Any] = {}
        restaurant = self._names.restaurant
        set_path(payload, restaurant, _stored("restaurant_id", restaurant, entry.restaurant, layout))
        set_path(payload, self._names.review, entry.review_id)
        set_path(payload, self._names.content, entry.content)
        self._put_category(payload, entry, layout)
        for name, value in self._where.items():
            set_path(payload, name, id_variants(value, layout.form(name))[-1])
        return PointStruct(id=entry.point, vector=vectors, payload=payload)

    def _put_category(self, payload: dict[str, Any], entry: IndexEntry, layout: IdLayout) -> None:
        name, category = self._names.category, entry.category
        if name is None or category is None:
            return
        if str(self._where.get(name, category)) != category:
            raise ConfigurationError(
                f"review {entry.review_id!r} of restaurant {entry.restaurant!r} has the category {category!r}, "
                f"but where= writes {self._where[name]!r} to {name!r}: index it without that where="
            )
        set_path(payload, name, _stored("category", name, category, layout))


def _stored(what: str, name: str, value: str, layout: IdLayout) -> ItemId:
    if layout.form(name) != "integer":
        # Strings, as the source service stores restaurants, so that one index serves any id.
        return value
    number = as_number(value)
    if number is None:
        raise ConfigurationError(
            f"{what} {value!r} does not fit the collection, whose field {name!r} is indexed for integers: "
            "use integers, or another collection"
        )
    return number


def _forms(name: str, value: ItemId, layout: IdLayout) -> list[Condition]:
    """Return a condition for each form in which a field may hold an id."""
    from qdrant_client.models import FieldCondition, MatchValue

    forms = id_variants(value, layout.form(name))
    return [FieldCondition(key=name, match=MatchValue(value=form)) for form in forms]


def _either(conditions: list[Condition]) -> Condition:
    from qdrant_client.models import Filter

    return conditions[0] if len(conditions) == 1 else Filter(should=conditions)


def _is_id(value: object) -> TypeGuard[ItemId]:
    return isinstance(value, int | str) and not isinstance(value, bool) and value != ""


def _lacks(point: ScoredPoint, what: str, argument: str, name: str) -> PermanentBackendError:
    return PermanentBackendError(
        f"point {point.id!r} has no {what} in its payload field {name!r}: "
        f'say which field holds it, schema=CollectionSchema({argument}="...")',
        backend="qdrant",
    )


def _point_id(point: str) -> int | str:
    return int(point) if point.isdigit() else point


def _floats(values: Sequence[float]) -> list[float]:
    # The client takes Python's floats only, and embedders like to return numpy's.
    return [float(value) for value in values]
