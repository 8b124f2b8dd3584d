"""Creating a collection, and reading and checking one that is there, as flows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import AuthenticationFailed, BackendError, ConfigurationError, PermanentBackendError
from ...models import ItemId
from ...protocols import Embedder
from ...steps import Flow
from ._layout import CollectionSchema, IdForm, IdLayout, get_path
from ._steps import ClientCall

_FORMS: dict[str, IdForm] = {"keyword": "string", "uuid": "string", "integer": "integer"}
_LABEL = "embedder"
_LOOKED_AT = 100


class CollectionManager:
    """
    What a collection is like, or shall be.

    Args:
        collection: Its name, for messages.
        names: The names in it.
        where: Fields that are filtered by besides the restaurant, with their values.
        embedder: Makes its vectors.
        indexes: Whether it can have payload indexes; local mode cannot.
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

    def read(self) -> Flow[IdLayout]:
        """
        Look at the collection.

        Raises:
            ConfigurationError: Its vectors are not those of the embedder.
        """
        info = yield ClientCall("get_collection")
        self._check(info)
        types = {name: str(index.data_type.value) for name, index in info.payload_schema.items()}
        return IdLayout({name: _FORMS[kind] for name, kind in types.items() if kind in _FORMS})

    def create(self) -> Flow[IdLayout]:
        """
        Make the collection and its indexes, as far as they are missing.

        Raises:
            ConfigurationError: It is there, but its vectors are not those of the embedder.
        """
        try:
            layout = yield from self.read()
        except AuthenticationFailed:
            raise
        except PermanentBackendError:
            layout = yield from self._make()
        if not self._indexes:
            return layout
        forms = dict(layout.forms)
        for name in (self._names.restaurant, self._names.category, *self._where):
            if name is not None and name not in forms:
                forms[name] = yield from self._create_index(name)
        return IdLayout(forms)

    def _make(self) -> Flow[IdLayout]:
        try:
            yield ClientCall("create_collection", self._settings())
        except BackendError as refused:
            # Another process may have been faster; then what it made is checked like any other.
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
            "metadata": {_LABEL: self._embedder.name},
        }
        if self._names.sparse is not None:
            # How rare a word is, the engine knows best: the embedders leave it to it.
            sparse = SparseVectorParams(modifier=Modifier.IDF)
            settings["sparse_vectors_config"] = {self._names.sparse: sparse}
        return settings

    def _create_index(self, name: str) -> Flow[IdForm]:
        from qdrant_client.models import (
            IntegerIndexParams,
            IntegerIndexType,
            KeywordIndexParams,
            KeywordIndexType,
        )

        form = yield from self._form_in_use(name)
        # A restaurant is a tenant: its reviews are stored together, and every search is of one.
        tenant = True if name == self._names.restaurant else None
        index = (
            IntegerIndexParams(type=IntegerIndexType.INTEGER, lookup=True, range=False)
            if form == "integer"
            else KeywordIndexParams(type=KeywordIndexType.KEYWORD, is_tenant=tenant)
        )
        yield ClientCall("create_payload_index", {"field_name": name, "field_schema": index, "wait": True})
        return form

    def _form_in_use(self, name: str) -> Flow[IdForm]:
        """Look at reviews that are there: an index for the other form would hide them all."""
        # Several, because not every review need have a category.
        points, _ = yield ClientCall("scroll", {"limit": _LOOKED_AT, "with_payload": [name]})
        values = (get_path(point.payload or {}, name) for point in points)
        value = next((value for value in values if value is not None), self._where.get(name))
        return "integer" if isinstance(value, int) else "string"

    def _check(self, info: Any) -> None:
        params = info.config.params
        dense = params.vectors if isinstance(params.vectors, dict) else {"": params.vectors}
        found = {name: one for name, one in dense.items() if one is not None}
        mine, sparse = self._names.dense, self._names.sparse
        if mine not in found:
            raise self._wrong(f"has no vector named {mine!r}, only {sorted(found)}", 'dense="..."')
        if sparse is not None and sparse not in (params.sparse_vectors or {}):
            there = sorted(params.sparse_vectors or {})
            raise self._wrong(f"has no sparse vector named {sparse!r}, only {there}", "sparse=None or a name")
        label = (getattr(info.config, "metadata", None) or {}).get(_LABEL, self._embedder.name)
        size, distance = found[mine].size, str(found[mine].distance.value)
        if size != self._embedder.size or label != self._embedder.name:
            made = f"by {label!r}" if label != self._embedder.name else f"of size {size}"
            raise ConfigurationError(
                f"the vectors {mine!r} of the collection {self._collection!r} are {made}, but embedder is "
                f"{self._embedder.name!r} of size {self._embedder.size}: pass the embedder that made them, "
                "or index the reviews into a new collection"
            )
        if distance not in ("Cosine", "Dot"):
            raise ConfigurationError(
                f"the vectors {mine!r} of the collection {self._collection!r} are compared by {distance}, "
                "where a higher score is not a nearer review: use a collection with Cosine"
            )

    def _wrong(self, what: str, instead: str) -> ConfigurationError:
        return ConfigurationError(
            f"the collection {self._collection!r} {what}: say which with schema=CollectionSchema({instead})"
        )
