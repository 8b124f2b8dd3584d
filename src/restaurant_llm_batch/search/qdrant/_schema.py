"""Qdrant collection schema: flows that create a collection with its payload indexes, or read and check one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import BackendError, ConfigurationError, PermanentBackendError
from ...models import ItemId
from ...protocols import Embedder
from ._layout import CollectionSchema, IdForm, IdLayout, get_path
from ._steps import ClientCall, QdrantFlow

_FORMS: dict[str, IdForm] = {"keyword": "string", "uuid": "string", "integer": "integer"}
_EMBEDDER_KEY = "embedder"
_SAMPLE_SIZE = 100


class CollectionManager:
    """
    Creates and checks a collection.

    Args:
        collection: Its name, for messages.
        names: Names of its vectors and payload fields.
        where: Further fields to filter by, with their values.
        embedder: Embedder of its vectors.
        indexes: Whether to create payload indexes, which local mode does not support.
    """

    def __init__(
        self,
        collection: str,
        names: CollectionSchema,
        where: Mapping[str, ItemId],
        embedder: Embedder,
        *,
        indexes: bool,
    ) -> None:
        self._collection = collection
        self._names = names
        self._where = dict(where)
        self._embedder = embedder
        self._indexes = indexes

    def read(self) -> QdrantFlow[IdLayout]:
        """
        Read the collection's id types, and check its vectors.

        Raises:
            ConfigurationError: If the vectors are not those of the embedder.
        """
        info = yield ClientCall("get_collection")
        self._check(info)
        types = {name: str(index.data_type.value) for name, index in info.payload_schema.items()}
        return IdLayout(
            {name: _FORMS[index_type] for name, index_type in types.items() if index_type in _FORMS}
        )

    def create(self) -> QdrantFlow[IdLayout]:
        """
        Create the collection and its payload indexes, unless they exist.

        Raises:
            ConfigurationError: If the collection exists with vectors of another embedder.
        """
        try:
            layout = yield from self.read()
        except PermanentBackendError as error:
            if error.status in (401, 403):
                raise
            layout = yield from self._create_collection()
        if not self._indexes:
            return layout
        forms = dict(layout.forms)
        for name in (self._names.restaurant, self._names.category, *self._where):
            if name is not None and name not in forms:
                forms[name] = yield from self._create_index(name)
        return IdLayout(forms)

    def _create_collection(self) -> QdrantFlow[IdLayout]:
        try:
            yield ClientCall("create_collection", self._settings())
        except BackendError as refused:
            # Another process may have created it meanwhile; then check it like any other.
            try:
                return (yield from self.read())
            except BackendError:
                raise refused from refused.__cause__
        return (yield from self.read())

    def _settings(self) -> dict[str, Any]:
        from qdrant_client.models import Distance, Modifier, SparseVectorParams, VectorParams

        dense = VectorParams(size=self._embedder.size, distance=Distance.COSINE)
        settings: dict[str, Any] = {
            "vectors_config": {self._names.dense: dense} if self._names.dense else dense,
            "metadata": {_EMBEDDER_KEY: self._embedder.name},
        }
        if self._names.sparse is not None:
            # The server applies IDF, since only it knows how frequent each term is in the collection.
            sparse = SparseVectorParams(modifier=Modifier.IDF)
            settings["sparse_vectors_config"] = {self._names.sparse: sparse}
        return settings

    def _create_index(self, name: str) -> QdrantFlow[IdForm]:
        from qdrant_client.models import (
            IntegerIndexParams,
            IntegerIndexType,
            KeywordIndexParams,
            KeywordIndexType,
        )

        form = yield from self._stored_form(name)
        # A tenant's points are stored together, and most searches filter by one restaurant.
        tenant = True if name == self._names.restaurant else None
        index = (
            IntegerIndexParams(type=IntegerIndexType.INTEGER, lookup=True, range=False)
            if form == "integer"
            else KeywordIndexParams(type=KeywordIndexType.KEYWORD, is_tenant=tenant)
        )
        yield ClientCall("create_payload_index", {"field_name": name, "field_schema": index, "wait": True})
        return form

    def _stored_form(self, name: str) -> QdrantFlow[IdForm]:
        """Return the type of stored ids; an index of the other type would hide all of them."""
        # Sample several reviews, since some may lack a category.
        points, _ = yield ClientCall("scroll", {"limit": _SAMPLE_SIZE, "with_payload": [name]})
        values = (get_path(point.payload or {}, name) for point in points)
        value = next((value for value in values if value is not None), self._where.get(name))
        return "integer" if isinstance(value, int) else "string"

    def _check(self, info: Any) -> None:
        params = info.config.params
        dense = params.vectors if isinstance(params.vectors, dict) else {"": params.vectors}
        found = {name: vector for name, vector in dense.items() if vector is not None}
        expected, sparse = self._names.dense, self._names.sparse
        if expected not in found:
            raise self._schema_error(f"has no vector named {expected!r}, only {sorted(found)}", 'dense="..."')
        if sparse is not None and sparse not in (params.sparse_vectors or {}):
            existing = sorted(params.sparse_vectors or {})
            raise self._schema_error(
                f"has no sparse vector named {sparse!r}, only {existing}", "sparse=None or a name"
            )
        label = (getattr(info.config, "metadata", None) or {}).get(_EMBEDDER_KEY, self._embedder.name)
        size, distance = found[expected].size, str(found[expected].distance.value)
        if size != self._embedder.size or label != self._embedder.name:
            made = f"by {label!r}" if label != self._embedder.name else f"of size {size}"
            raise ConfigurationError(
                f"the vectors {expected!r} of the collection {self._collection!r} are {made}, but embedder is "
                f"{self._embedder.name!r} of size {self._embedder.size}: pass the embedder that made them, "
                "or index the reviews into a new collection"
            )
        if distance not in ("Cosine", "Dot"):
            raise ConfigurationError(
                f"the vectors {expected!r} of the collection {self._collection!r} are compared by {distance}, "
                "where a higher score is not a nearer review: use a collection with Cosine"
            )

    def _schema_error(self, problem: str, argument: str) -> ConfigurationError:
        return ConfigurationError(
            f"the collection {self._collection!r} {problem}; name it with schema=CollectionSchema({argument})"
        )
