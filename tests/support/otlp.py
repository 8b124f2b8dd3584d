"""An OTLP/HTTP receiver on a socket of this machine: takes protobuf, as Jaeger, Langfuse and Phoenix do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

from .local_server import LocalServer, Say, Seen


@dataclass(frozen=True)
class ReceivedSpan:
    """A span as it came."""

    name: str
    id: bytes
    parent: bytes
    trace: bytes
    kind: int
    start: int
    end: int
    status: int
    attributes: dict[str, Any]
    events: list[str]
    schema_url: str


@dataclass
class Received:
    """What came."""

    spans: list[ReceivedSpan] = field(default_factory=list)
    metrics: dict[str, list[Any]] = field(default_factory=dict)
    services: set[str] = field(default_factory=set)
    posts: int = 0

    def named(self, name: str) -> list[ReceivedSpan]:
        return [span for span in self.spans if span.name == name]


class OTLPReceiver(LocalServer):
    """
    Receives traces at ``/v1/traces`` and metrics at ``/v1/metrics``.

    Args:
        refuse: How many requests to answer with 503 first.
    """

    def __init__(self, refuse: int = 0) -> None:
        super().__init__(self._receive)
        self.received = Received()
        self._refuse = refuse

    def _receive(self, seen: Seen) -> Say:
        if self._refuse:
            self._refuse -= 1
            return Say(status=503, headers={"retry-after": "0"})
        self.received.posts += 1
        assert seen.headers["Content-Type"] == "application/x-protobuf"
        if seen.path == "/v1/traces":
            self._take_spans(ExportTraceServiceRequest.FromString(seen.body))
        elif seen.path == "/v1/metrics":
            self._take_metrics(ExportMetricsServiceRequest.FromString(seen.body))
        else:
            return Say(status=404)
        return Say(headers={"content-type": "application/x-protobuf"})

    def _take_spans(self, request: ExportTraceServiceRequest) -> None:
        for of_resource in request.resource_spans:
            self.received.services.add(str(_values(of_resource.resource.attributes).get("service.name")))
            for scope in of_resource.scope_spans:
                for span in scope.spans:
                    self.received.spans.append(
                        ReceivedSpan(
                            span.name,
                            span.span_id,
                            span.parent_span_id,
                            span.trace_id,
                            span.kind,
                            span.start_time_unix_nano,
                            span.end_time_unix_nano,
                            span.status.code,
                            _values(span.attributes),
                            [event.name for event in span.events],
                            scope.schema_url,
                        )
                    )

    def _take_metrics(self, request: ExportMetricsServiceRequest) -> None:
        for of_resource in request.resource_metrics:
            for scope in of_resource.scope_metrics:
                for metric in scope.metrics:
                    data = getattr(metric, str(metric.WhichOneof("data")))
                    self.received.metrics[metric.name] = [
                        (_values(point.attributes), point) for point in data.data_points
                    ]


def _values(attributes: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in attributes}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(one) for one in value.array_value.values]
    return None if kind is None else getattr(value, kind)
