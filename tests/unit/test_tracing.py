"""Which exporters are asked for, the same on both sides; and spans of a program that traces itself."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from burnish import _tracing as client
from burnish_services.runtime import tracing as services


@pytest.mark.parametrize(
    ("variables", "wanted"),
    [
        ({}, []),
        ({"OTEL_SERVICE_NAME": "x"}, []),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317"}, ["otlp_proto_grpc"]),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4317"}, ["otlp_proto_grpc"]),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"},
            ["otlp_proto_http"],
        ),
        (
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c",
                "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
                "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc",
            },
            ["otlp_proto_grpc"],
        ),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_TRACES_EXPORTER": "none"}, []),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_SDK_DISABLED": "True"}, []),
        ({"OTEL_TRACES_EXPORTER": "otlp, console"}, ["otlp_proto_grpc", "console"]),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, []),
    ],
)
def test_the_variables_say_where_spans_go(variables: dict[str, str], wanted: list[str]) -> None:
    assert client.wanted_exporters(variables) == wanted
    assert services.wanted_exporters(variables) == wanted


_PROGRAM = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

kept = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(kept))
trace.set_tracer_provider(provider)

from burnish import Client, ClientOptions, Unreachable

with trace.get_tracer("app").start_as_current_span("theirs"), Client("127.0.0.1:9", options=OPTIONS) as client:
    try:
        client.scoring.info()
    except Unreachable:
        pass
spans = {span.name: span for span in kept.get_finished_spans()}
assert set(spans) == {"theirs", "ScoringService/GetInfo"}, set(spans)
assert spans["ScoringService/GetInfo"].parent.span_id == spans["theirs"].context.span_id
""".replace("OPTIONS", "ClientOptions(connect_timeout=0.3)")


def test_a_program_that_traces_itself_has_our_spans_in_its_traces() -> None:
    """Through the synchronous client, whose calls run in a thread of their own."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], env=environ, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
