"""Qdrant codec: query requests, filters and points from rankings and reviews; candidates from scored points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

from ...errors import ConfigurationError, PermanentBackendError
from ...models import ItemId
from ...protocols import Embedding
from .._fusion import RankRequest
from .._hybrid import FoundReview
from .._indexing import IndexEntry, as_number, id_text
from ._layout import CollectionSchema, IdLayout, get_path, id_variants, set_path

if TYPE_CHECKING:
    from qdrant_client.models import Condition, Filter, PointStruct, QueryRequest, ScoredPoint


class QdrantCodec:
    """
    Converts to and from qdrant-client's types for one collection.

    Args:
        names: Names of its vectors and payload fields.
        where: Payload values that every review must have besides its restaurant.
    """

    def __init__(self, names: CollectionSchema, where: Mapping[str, ItemId]) -> None:
        self._names = names
        self._where = dict(where)

    def request(self, ranking: RankRequest, layout: IdLayout) -> QueryRequest:
        """
        Return the query request for one ranked list.

        Does not use the server's fusion of prefetches: it orders ties arbitrarily, and could not apply a minimum
        similarity.

        Raises:
            ConfigurationError: If the query has a category, but the schema names no field for it.
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
            with_payload=self._names.payload_fields(restaurant=ranking.scope.others),
        )

    def _filter(self, ranking: RankRequest, layout: IdLayout) -> Filter:
        from qdrant_client.models import Filter, HasIdCondition

        scope = ranking.scope
        restaurant = _match_conditions(self._names.restaurant, scope.restaurant_id, layout)
        must: list[Condition] = [] if scope.others else [_any_of(restaurant)]
        if scope.category is not None:
            must.append(_any_of(_match_conditions(self._category_field(), scope.category, layout)))
        must += self._where_conditions(layout)
        if ranking.points:
            must.append(HasIdCondition(has_id=[_point_id(str(point)) for point in ranking.points]))
        return Filter(must=must or None, must_not=restaurant if scope.others else None)

    def restaurant_filter(self, restaurant_id: ItemId, layout: IdLayout) -> Filter:
        """Return the filter for all reviews of a restaurant."""
        from qdrant_client.models import Filter

        restaurant = _match_conditions(self._names.restaurant, restaurant_id, layout)
        return Filter(must=[_any_of(restaurant), *self._where_conditions(layout)])

    def _where_conditions(self, layout: IdLayout) -> list[Condition]:
        return [_any_of(_match_conditions(name, value, layout)) for name, value in self._where.items()]

    def _category_field(self) -> str:
        if self._names.category is None:
            raise ConfigurationError(
                "the query has a category, but schema= names no field for it; "
                'for example schema=CollectionSchema(category="food_category_id")'
            )
        return self._names.category

    def review(self, point: ScoredPoint, ranking: RankRequest) -> FoundReview | PermanentBackendError:
        """
        Convert a scored point to a review.

        Args:
            point: The scored point.
            ranking: The request that found it.

        Returns:
            The review; or an error, not raised, if it has no text, or no restaurant id when the scope is "others".
        """
        payload = point.payload or {}
        content = get_path(payload, self._names.content)
        if not isinstance(content, str):
            return _missing_field(point, "text", "content", self._names.content)
        restaurant_id = self._restaurant_id(payload) if ranking.scope.others else None
        if ranking.scope.others and restaurant_id is None:
            return _missing_field(point, "restaurant's id", "restaurant", self._names.restaurant)
        return FoundReview(self.review_id(payload, point.id), content, restaurant_id)

    def review_id(self, payload: Mapping[str, Any], point_id: Any) -> ItemId:
        """Return a review's id: that of its payload, or the point's own."""
        for name in (self._names.review, "id"):
            value = get_path(payload, name)
            if _is_id(value):
                return value
        return point_id if isinstance(point_id, int) else str(point_id)

    def _restaurant_id(self, payload: Mapping[str, Any]) -> ItemId | None:
        value = get_path(payload, self._names.restaurant)
        if not _is_id(value):
            return None
        # An id that was indexed as 7 may be stored as "7". A search finds both, so return the integer.
        number = as_number(value)
        return value if number is None else number

    def point(self, entry: IndexEntry, vector: Embedding, layout: IdLayout) -> PointStruct:
        """
        Convert a review and its vectors to a point.

        Raises:
            ConfigurationError: If the collection cannot store its restaurant id or category.
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
        set_path(payload, restaurant, _to_stored_id("restaurant_id", restaurant, entry.restaurant, layout))
        set_path(payload, self._names.review, entry.review_id)
        set_path(payload, self._names.content, entry.content)
        self._set_category(payload, entry, layout)
        for name, value in self._where.items():
            set_path(payload, name, id_variants(value, layout.form(name))[-1])
        return PointStruct(id=entry.point, vector=vectors, payload=payload)

    def _set_category(self, payload: dict[str, Any], entry: IndexEntry, layout: IdLayout) -> None:
        name, category = self._names.category, entry.category
        if name is None or category is None:
            return
        if id_text(self._where.get(name, category)) != category:
            raise ConfigurationError(
                f"review {entry.review_id!r} of restaurant {entry.restaurant!r} has the category {category!r}, "
                f"but where= sets {name!r} to {self._where[name]!r}: index it without that where="
            )
        set_path(payload, name, _to_stored_id("category", name, category, layout))


def _to_stored_id(what: str, name: str, value: str, layout: IdLayout) -> ItemId:
    if layout.form(name) != "integer":
        # Strings by default, so that one keyword index serves integer and string ids.
        return value
    number = as_number(value)
    if number is None:
        raise ConfigurationError(
            f"{what} {value!r} does not fit the collection, whose field {name!r} is indexed for integers: "
            "use integers, or another collection"
        )
    return number


def _match_conditions(name: str, value: ItemId, layout: IdLayout) -> list[Condition]:
    """Return a condition for each type in which a field may store an id."""
    from qdrant_client.models import FieldCondition, MatchValue

    forms = id_variants(value, layout.form(name))
    return [FieldCondition(key=name, match=MatchValue(value=form)) for form in forms]


def _any_of(conditions: list[Condition]) -> Condition:
    from qdrant_client.models import Filter

    return conditions[0] if len(conditions) == 1 else Filter(should=conditions)


def _is_id(value: object) -> TypeGuard[ItemId]:
    return isinstance(value, int | str) and not isinstance(value, bool) and value != ""


def _missing_field(point: ScoredPoint, what: str, argument: str, name: str) -> PermanentBackendError:
    return PermanentBackendError(
        f"point {point.id!r} has no {what} in its payload field {name!r}; "
        f'name the field that holds it with schema=CollectionSchema({argument}="...")',
        backend="qdrant",
    )


def _point_id(point: str) -> int | str:
    return int(point) if point.isdigit() else point


def _floats(values: Sequence[float]) -> list[float]:
    # The client accepts Python floats only, and some embedders return numpy's.
    return [float(value) for value in values]
