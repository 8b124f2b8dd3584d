"""
A Qdrant server for tests, REST and gRPC, on sockets of this machine.

The wire is real both ways; the answers come from qdrant-client's local mode, made worse where a server may do
as it pleases: equals come in any order, and are cut anywhere.
"""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc  # type: ignore[import-untyped]
from qdrant_client import QdrantClient, models
from qdrant_client import grpc as wire
from qdrant_client.conversions.conversion import GrpcToRest, RestToGrpc

from restaurant_llm_batch.search.qdrant.search import QdrantSearch
from tests.support.local_server import LocalServer, Say, Seen


class Refused(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Engine:
    """
    What is behind both doors.

    Attributes:
        batches: The searches, as they came, a list for each round trip.
        calls: What was asked, by name.
        strict: Refuse a filter on a field without an index for its kind of value, as strict mode does.
    """

    def __init__(self, *, strict: bool = False) -> None:
        self.strict = strict
        self.batches: list[list[models.QueryRequest]] = []
        self.calls: list[str] = []
        self._indexes: dict[str, dict[str, Any]] = {}
        self._client = QdrantClient(":memory:", force_disable_check_same_thread=True)
        self._lock = threading.Lock()
        self._dice = random.Random(1)

    def do(self, name: str, collection: str, *arguments: Any) -> Any:
        """Do what was asked."""
        with self._lock:
            self.calls.append(name)
            there = self._client.collection_exists(collection)
            if there == (name == "create"):
                text = f"Collection `{collection}` " + ("already exists!" if there else "doesn't exist!")
                raise Refused(409 if there else 404, text)
            return getattr(self, f"_{name}")(collection, *arguments)

    def _create(self, collection: str, request: models.CreateCollection) -> bool:
        return self._client.create_collection(
            collection,
            vectors_config=request.vectors,
            sparse_vectors_config=request.sparse_vectors,
            metadata=request.metadata,
        )

    def _info(self, collection: str) -> models.CollectionInfo:
        info = self._client.get_collection(collection)
        schema = {
            name: models.PayloadIndexInfo(data_type=params.type.value, params=params, points=0)
            for name, params in self._indexes.get(collection, {}).items()
        }
        return info.model_copy(update={"payload_schema": schema})

    def _index(self, collection: str, field: str, params: Any) -> models.UpdateResult:
        self._indexes.setdefault(collection, {})[field] = params
        return models.UpdateResult(operation_id=1, status=models.UpdateStatus.COMPLETED)

    def _upsert(self, collection: str, points: list[models.PointStruct]) -> models.UpdateResult:
        return self._client.upsert(collection, points)

    def _query(self, collection: str, requests: list[models.QueryRequest]) -> list[models.QueryResponse]:
        self.batches.append(requests)
        for request in requests:
            self._check(collection, request.filter)
        longer = [request.model_copy(update={"limit": 10_000}) for request in requests]
        answers = self._client.query_batch_points(collection, longer)
        return [
            answer.model_copy(update={"points": self._shuffled(answer.points)[: request.limit]})
            for answer, request in zip(answers, requests, strict=True)
        ]

    def _shuffled(self, points: list[models.ScoredPoint]) -> list[models.ScoredPoint]:
        self._dice.shuffle(points)
        return sorted(points, key=lambda point: -point.score)

    def _check(self, collection: str, condition: Any) -> None:
        if isinstance(condition, models.Filter):
            for one in (*(condition.must or ()), *(condition.should or ()), *(condition.must_not or ())):
                self._check(collection, one)
        elif self.strict and isinstance(condition, models.FieldCondition):
            index = self._indexes.get(collection, {}).get(condition.key)
            kind = models.IntegerIndexParams if _is_integer(condition) else models.KeywordIndexParams
            if not isinstance(index, kind):
                raise Refused(400, f'Index required but not found for "{condition.key}"')

    def _count(self, collection: str) -> models.CountResult:
        return self._client.count(collection)

    def _facet(self, collection: str, key: str, limit: int) -> models.FacetResponse:
        return self._client.facet(collection, key, limit=limit)

    def _scroll(
        self, collection: str, limit: int = 1, chosen: models.Filter | None = None, offset: Any = None
    ) -> tuple[list[models.Record], Any]:
        self._check(collection, chosen)
        return self._client.scroll(collection, scroll_filter=chosen, limit=limit, offset=offset)

    def _delete(self, collection: str, points: list[Any]) -> models.UpdateResult:
        return self._client.delete(collection, points)


def _is_integer(condition: models.FieldCondition) -> bool:
    return isinstance(condition.match, models.MatchValue) and isinstance(condition.match.value, int)


def rest(engine: Engine) -> Callable[[Seen], Say]:
    """Return a handler for `LocalServer` that speaks REST."""

    def handle(seen: Seen) -> Say:
        found = re.fullmatch(r"/collections/([^/?]+)(/[^?]*)?(\?.*)?", seen.path)
        assert found, seen.path
        try:
            result = _route(engine, f"{seen.method} {found[2] or '/'}", found[1], seen)
        except Refused as refused:
            return Say({"status": {"error": str(refused)}, "time": 0.0}, refused.status)
        return Say({"result": result, "status": "ok", "time": 0.0})

    return handle


def _route(engine: Engine, route: str, name: str, seen: Seen) -> Any:
    body = seen.json if seen.body else {}
    if route == "GET /":
        return engine.do("info", name).model_dump(mode="json", exclude_none=True)
    if route == "PUT /":
        return engine.do("create", name, models.CreateCollection(**body))
    if route == "PUT /index":
        request = models.CreateFieldIndex(**body)
        return engine.do("index", name, request.field_name, request.field_schema).model_dump(mode="json")
    if route == "PUT /points":
        return engine.do("upsert", name, models.PointsList(**body).points).model_dump(mode="json")
    if route == "POST /points/query/batch":
        requests = models.QueryRequestBatch(**body).searches
        return [answer.model_dump(mode="json") for answer in engine.do("query", name, requests)]
    if route == "POST /points/count":
        return engine.do("count", name).model_dump(mode="json")
    if route == "POST /facet":
        return engine.do("facet", name, body["key"], body["limit"]).model_dump(mode="json")
    if route == "POST /points/delete":
        return engine.do("delete", name, models.PointIdsList(**body).points).model_dump(mode="json")
    assert route == "POST /points/scroll", route
    asked = models.ScrollRequest(**body)
    points, offset = engine.do("scroll", name, asked.limit, asked.filter, asked.offset)
    return {"points": [point.model_dump(mode="json") for point in points], "next_page_offset": offset}


_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.ALREADY_EXISTS,
}


class Points(wire.PointsServicer):
    """The service of points."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def QueryBatch(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Search."""
        requests = [GrpcToRest.convert_query_points(one) for one in request.query_points]
        answers = _do(self._engine, context, "query", request.collection_name, requests)
        results = [
            wire.BatchResult(result=[RestToGrpc.convert_scored_point(point) for point in answer.points])
            for answer in answers
        ]
        return wire.QueryBatchResponse(result=results)

    def Upsert(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Write."""
        points = [GrpcToRest.convert_point_struct(point) for point in request.points]
        _do(self._engine, context, "upsert", request.collection_name, points)
        return _done()

    def CreateFieldIndex(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Index a field."""
        kind = request.field_index_params.WhichOneof("index_params")
        integer = kind == "integer_index_params"
        params: Any = (
            models.IntegerIndexParams(type=models.IntegerIndexType.INTEGER)
            if integer
            else models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD)
        )
        _do(self._engine, context, "index", request.collection_name, request.field_name, params)
        return _done()

    def Count(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Count."""
        counted = _do(self._engine, context, "count", request.collection_name)
        return wire.CountResponse(result=wire.CountResult(count=counted.count))

    def Facet(self, request: Any, context: Any) -> Any:  # noqa: N802
        """List the values of a field."""
        found = _do(self._engine, context, "facet", request.collection_name, request.key, request.limit)
        return wire.FacetResponse(hits=[RestToGrpc.convert_facet_value_hit(hit) for hit in found.hits])

    def Scroll(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Look at a point."""
        chosen = GrpcToRest.convert_filter(request.filter) if request.HasField("filter") else None
        offset = GrpcToRest.convert_point_id(request.offset) if request.HasField("offset") else None
        found, after = _do(
            self._engine, context, "scroll", request.collection_name, request.limit, chosen, offset
        )
        answer = wire.ScrollResponse(result=[RestToGrpc.convert_record(point) for point in found])
        if after is not None:
            answer.next_page_offset.CopyFrom(RestToGrpc.convert_extended_point_id(after))
        return answer

    def Delete(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Delete points."""
        points = [GrpcToRest.convert_point_id(one) for one in request.points.points.ids]
        _do(self._engine, context, "delete", request.collection_name, points)
        return _done()


class Collections(wire.CollectionsServicer):
    """The service of collections."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def Get(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Describe a collection."""
        info = _do(self._engine, context, "info", request.collection_name)
        return wire.GetCollectionInfoResponse(result=RestToGrpc.convert_collection_info(info))

    def Create(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Make a collection."""
        create = models.CreateCollection(
            vectors=GrpcToRest.convert_vectors_config(request.vectors_config),
            sparse_vectors=GrpcToRest.convert_sparse_vector_config(request.sparse_vectors_config),
            metadata=GrpcToRest.convert_payload(request.metadata),
        )
        _do(self._engine, context, "create", request.collection_name, create)
        return wire.CollectionOperationResponse(result=True)


def _do(engine: Engine, context: Any, name: str, collection: str, *arguments: Any) -> Any:
    try:
        return engine.do(name, collection, *arguments)
    except Refused as refused:
        context.abort(_CODES[refused.status], str(refused))


def _done() -> Any:
    result = wire.UpdateResult(operation_id=1, status=wire.UpdateStatus.Completed)
    return wire.PointsOperationResponse(result=result)


@contextmanager
def grpc_server(points: object, collections: object | None = None) -> Iterator[int]:
    """Serve over gRPC; yields the port."""
    server = grpc.server(ThreadPoolExecutor(8))
    wire.add_PointsServicer_to_server(points, server)  # type: ignore[no-untyped-call]
    if collections is not None:
        wire.add_CollectionsServicer_to_server(collections, server)  # type: ignore[no-untyped-call]
    port: int = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()


@contextmanager
def door(name: str, engine: Engine | None = None, **more: Any) -> Iterator[QdrantSearch]:
    """Open a search in local mode, or in a strict server over REST or gRPC."""
    engine = engine or Engine(strict=True)
    if name == "memory":
        yield QdrantSearch("reviews", url=":memory:", **more)
    elif name == "rest":
        with LocalServer(rest(engine)) as server, QdrantSearch("reviews", url=server.url, **more) as search:
            yield search
    else:
        with grpc_server(Points(engine), Collections(engine)) as port:
            # Nobody listens at the REST port, so that nothing can go there unnoticed.
            options: dict[str, Any] = {"url": "http://127.0.0.1:1", "grpc_port": port, "prefer_grpc": True}
            with QdrantSearch("reviews", **options, **more) as search:
                yield search
