"""
Traces by OTLP: a run whose spans go to a backend over HTTP, here to one that prints them.

With a backend of your own (Jaeger, Langfuse, Phoenix, MLflow, an OpenTelemetry collector), name it instead:
`OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4318 python examples/otlp.py`. It needs
`pip install 'restaurant-llm-batch[opentelemetry]' opentelemetry-sdk opentelemetry-exporter-otlp-proto-http`.
"""

from __future__ import annotations

import os
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from restaurant_llm_batch import BatchRunner, LLMRequest, RetryPolicy, Strategy, SummarizeAspects
from restaurant_llm_batch.errors import RateLimited
from restaurant_llm_batch.integrations.opentelemetry import OpenTelemetryObserver
from restaurant_llm_batch.testing import FakeLLM, FakeSearch

spans: list[Span] = []


class Receiver(BaseHTTPRequestHandler):
    """The smallest OTLP backend: keeps the spans that it is sent."""

    def do_POST(self) -> None:
        """Take an export request."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in of_resource.scope_spans:
                spans.extend(scope.spans)
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # as its base names it
        """Log nothing."""


def print_below(parent: bytes, depth: int = 0) -> None:
    """Print the spans below one, as a tree."""
    for span in sorted(spans, key=lambda one: one.start_time_unix_nano):
        if span.parent_span_id == parent:
            milliseconds = (span.end_time_unix_nano - span.start_time_unix_nano) / 1e6
            print(f"{'  ' * depth}{span.name} ({milliseconds:.0f} ms)")
            print_below(span.span_id, depth + 1)


def busy_at_first(request: LLMRequest, attempt: int) -> RateLimited | None:
    """Refuse the first attempt of one restaurant."""
    is_first = request.inputs["restaurant_id"] == 2 and attempt == 1
    return RateLimited("busy", retry_after=0.05) if is_first else None


server = HTTPServer(("127.0.0.1", 0), Receiver)
Thread(target=server.serve_forever, daemon=True).start()
endpoint = os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")

provider = TracerProvider(resource=Resource.create({"service.name": "night"}))
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{endpoint}/v1/traces")))

runner = BatchRunner(
    llm=FakeLLM(fault=busy_at_first),
    search=FakeSearch({1: ["국물이 진해요"], 2: ["직원이 친절해요"]}),
    strategy=Strategy.stage(4),
    llm_retry=RetryPolicy(wait_initial=0.05),
    observers=[OpenTelemetryObserver(provider, model="gpt-5-mini")],
)
runner.run(SummarizeAspects(), [1, 2])
provider.shutdown()  # sends what is left
server.shutdown()
server.server_close()
print_below(b"")
