"""Spans of what is done here, where an exporter of OpenTelemetry's is configured and its packages are installed.

The SDK's only module that imports opentelemetry, and only then (extra `otel`). Without, a span is an object that does
nothing. No attribute has the text of a sample, nor what an exception says: its type must do.
"""

from __future__ import annotations

import functools
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

log = logging.getLogger("burnish")

_OTLP = {"grpc": "otlp_proto_grpc", "http/protobuf": "otlp_proto_http"}
# Longest that an export takes, and so the end of a process whose collector is away.
_EXPORT_SECONDS = 5.0
_TIMEOUT = "OTEL_EXPORTER_OTLP_TIMEOUT"

Value = str | int | float | bool


class Span:
    """Something that takes time, in a trace; this one, in none."""

    def set(self, name: str, value: Value) -> None:
        """Says more of it."""

    def event(self, name: str, values: Mapping[str, Value]) -> None:
        """Something that happened in it."""

    def fail(self, why: str) -> None:
        """It failed; `why` is a stable word."""

    def headers(self) -> dict[str, str]:
        """W3C trace context, for those who go on with the trace elsewhere."""
        return {}


class _RecordedSpan(Span):
    def __init__(self, span: Any) -> None:
        self._span = span

    def set(self, name: str, value: Value) -> None:
        self._span.set_attribute(name, value)

    def event(self, name: str, values: Mapping[str, Value]) -> None:
        self._span.add_event(name, dict(values))

    def fail(self, why: str) -> None:
        from opentelemetry.trace.status import Status, StatusCode

        self._span.set_status(Status(StatusCode.ERROR, why))

    def headers(self) -> dict[str, str]:
        from opentelemetry.trace import set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        carrier: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(carrier, set_span_in_context(self._span))
        return carrier


_NO_SPAN = Span()


@contextmanager
def span(name: str, values: Mapping[str, Value] | None = None) -> Iterator[Span]:
    """A part of the work; parts, calls and tasks that are begun within are below it."""
    provider = _provider()
    if provider is None:
        yield _NO_SPAN
        return
    tracer = provider.get_tracer("burnish")
    with (
        tracer.start_as_current_span(
            name, attributes=dict(values or {}), record_exception=False, set_status_on_exception=False
        ) as made,
        _told_failures(recorded := _RecordedSpan(made)),
    ):
        yield recorded


@contextmanager
def client_span(service: str, method: str, address: str) -> Iterator[Span]:
    """A call of an RPC. Nothing comes below it here: it may last while the caller does something else, as a stream
    does, so that it is never the current one."""
    provider = _provider()
    if provider is None:
        yield _NO_SPAN
        return
    from opentelemetry.trace import SpanKind

    name = f"{service.capitalize()}Service"
    values = {"rpc.system": "grpc", "rpc.service": name, "rpc.method": method, "server.address": address}
    made = provider.get_tracer("burnish").start_span(f"{name}/{method}", kind=SpanKind.CLIENT, attributes=values)
    try:
        with _told_failures(recorded := _RecordedSpan(made)):
            yield recorded
    finally:
        made.end()


@contextmanager
def _told_failures(span: Span) -> Iterator[None]:
    try:
        yield
    except GeneratorExit:  # a stream that its reader has left
        raise
    except BaseException as error:
        span.fail(type(error).__name__)
        raise


def wanted_exporters(environment: Mapping[str, str]) -> list[str]:
    """Which exporters OpenTelemetry's variables ask for; none where they ask for none. As in the services'
    `runtime/tracing.py`, which this package does not import."""
    names = environment.get("OTEL_TRACES_EXPORTER", "")
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true" or names.strip().lower() == "none":
        return []
    endpoints = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    if not names and any(environment.get(name) for name in endpoints):
        names = "otlp"
    protocols = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    protocol = next((environment[name] for name in protocols if environment.get(name)), "grpc")
    found = [name.strip() for name in names.split(",") if name.strip()]
    return [_OTLP.get(protocol, protocol) if name == "otlp" else name for name in found]


def _provider() -> TracerProvider | None:
    """Where spans of this process go; None: nowhere. An application that traces itself, and has set a provider for the
    whole process, has ours in its traces."""
    api: Any = sys.modules.get("opentelemetry.trace")
    if api is not None and not isinstance(provider := api.get_tracer_provider(), api.ProxyTracerProvider):
        return provider
    return _own_provider()


@functools.cache
def _own_provider() -> TracerProvider | None:
    """As OpenTelemetry's variables say; None where they ask for no exporter, or it cannot be had, which is logged: a
    run without traces is better than none. It sends what is left when the process ends."""
    names = wanted_exporters(os.environ)
    if not names:
        return None
    try:
        return _made(names)
    except (ImportError, LookupError, ValueError) as error:
        log.warning("traces are asked for and cannot be exported: %s; going on without", error)
        return None


def _made(names: list[str]) -> TracerProvider:
    """Raises ImportError, LookupError or ValueError."""
    try:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise ImportError(f"{error}; install burnish[otel]") from error

    named = os.environ.get("OTEL_SERVICE_NAME") or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    provider = TracerProvider(resource=Resource.create({} if named else {"service.name": "burnish"}))
    installed = entry_points(group="opentelemetry_traces_exporter")
    for name in names:
        if name not in installed.names:
            known = ", ".join(sorted(installed.names)) or "none"
            raise LookupError(f"no exporter {name!r} is installed (those that are: {known}); install burnish[otel]")
        limit = {"timeout": _EXPORT_SECONDS} if name in _OTLP.values() and not os.environ.get(_TIMEOUT) else {}
        provider.add_span_processor(BatchSpanProcessor(installed[name].load()(**limit)))
    return provider
