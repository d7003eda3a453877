"""Spans of calls, where an exporter of OpenTelemetry's is configured and its packages are installed.

The services' only module that imports opentelemetry, and only then. The tracer provider is the server's own, not the
process's: vLLM sets that one where it traces itself. No attribute has the text of a sample.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from burnish_services.runtime.calls import CallRecord

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

log = logging.getLogger(__name__)

# Longest that an export takes, and so a stop whose collector is away.
_CLOSE_SECONDS = 5.0
_TIMEOUT = "OTEL_EXPORTER_OTLP_TIMEOUT"
_OTLP = {"grpc": "otlp_proto_grpc", "http/protobuf": "otlp_proto_http"}


def wanted_exporters(environment: Mapping[str, str]) -> list[str]:
    """Which exporters OpenTelemetry's variables ask for; none where they ask for none."""
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


class Tracing:
    """Where spans go."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("burnish_services")
        self._propagator = TraceContextTextMapPropagator()

    @classmethod
    def from_environment(cls, roles: list[str]) -> Tracing | None:
        """As OpenTelemetry's variables say; None where they ask for no exporter, or it cannot be had, which is logged:
        a server without traces is better than none."""
        names = wanted_exporters(os.environ)
        if not names:
            return None
        try:
            return cls(_provider(names, roles))
        except (ImportError, LookupError, ValueError) as error:
            log.warning("traces are asked for and cannot be exported; serving without", extra={"why": str(error)})
            return None

    def open(self, record: CallRecord, metadata: Mapping[str, str]) -> CallSpan:
        """The span of a call that has just come, under the caller's where the metadata name it."""
        from opentelemetry.trace import SpanKind

        clock = _WallClock()
        span = self._tracer.start_span(
            record.method,
            start_time=clock.nanoseconds(record.arrival),
            context=self._propagator.extract(metadata),
            kind=SpanKind.SERVER,
            attributes={
                "rpc.system": "grpc",
                "rpc.service": record.method.partition("/")[0],
                "rpc.method": record.method.partition("/")[2],
                "burnish.service": record.service,
                "burnish.request_id": record.request_id,
                **({"burnish.run_id": record.run} if record.run else {}),
            },
        )
        return CallSpan(self._tracer, span, clock)

    def close(self) -> None:
        """Sends what is left, for a few seconds at most: a collector that is away holds nobody up."""
        closing = threading.Thread(target=self._provider.shutdown, name="tracing-close", daemon=True)
        closing.start()
        closing.join(_CLOSE_SECONDS)


class _WallClock:
    """The time of day for moments of the monotonic clock, which records have. One for each call: its spans then fit."""

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def nanoseconds(self, moment: float) -> int:
        """Since the epoch."""
        return round((moment + self._offset) * 1e9)


class CallSpan:
    """A call's span. Those below it, of waiting and of the engine, are made once it is over, when all is known."""

    def __init__(self, tracer: Any, span: Span, clock: _WallClock) -> None:
        self._tracer = tracer
        self._span = span
        self._clock = clock

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits."""
        return format(self._span.get_span_context().trace_id, "032x")

    def close(self, record: CallRecord, code: str, reason: str) -> None:
        """Ends it."""
        from opentelemetry.trace import set_span_in_context
        from opentelemetry.trace.status import Status, StatusCode

        if self._span.is_recording():
            inside = set_span_in_context(self._span)
            if record.engine_entered is not None:
                self._child("queue", inside, record.arrival, record.engine_entered)
            for begin, end in record.stretches:
                self._child("engine", inside, begin, end)
            if record.swap_seconds:
                swapped = record.engine_entered or time.monotonic()
                seconds = {"burnish.seconds": round(record.swap_seconds, 4)}
                self._span.add_event("model swapped", seconds, timestamp=self._clock.nanoseconds(swapped))
            self._span.set_attributes(
                {
                    "rpc.grpc.status": code,
                    "burnish.items": record.items,
                    "burnish.failed_items": record.failed_items,
                    "burnish.prompt_tokens": record.prompt_tokens,
                    "burnish.generated_tokens": record.generated_tokens,
                }
            )
            if code not in ("OK", "CANCELLED"):  # whoever listened to a stream may leave
                self._span.set_status(Status(StatusCode.ERROR, reason or code))
        self._span.end(self._clock.nanoseconds(time.monotonic()))

    def _child(self, name: str, inside: Context, begin: float, end: float) -> None:
        span = self._tracer.start_span(name, context=inside, start_time=self._clock.nanoseconds(begin))
        span.end(self._clock.nanoseconds(end))


def _provider(names: list[str], roles: list[str]) -> TracerProvider:
    """Raises ImportError, LookupError or ValueError."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    attributes: dict[str, str] = {"burnish.roles": ",".join(roles)}
    named = os.environ.get("OTEL_SERVICE_NAME") or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    if not named:
        attributes["service.name"] = f"burnish-{roles[0]}" if len(roles) == 1 else "burnish-services"
    provider = TracerProvider(resource=Resource.create(attributes), shutdown_on_exit=False)
    installed = entry_points(group="opentelemetry_traces_exporter")
    for name in names:
        if name not in installed.names:
            known = ", ".join(sorted(installed.names)) or "none"
            raise LookupError(f"no exporter {name!r} is installed (those that are: {known}); install burnish[otel]")
        limit = {"timeout": _CLOSE_SECONDS} if name in _OTLP.values() and not os.environ.get(_TIMEOUT) else {}
        provider.add_span_processor(BatchSpanProcessor(installed[name].load()(**limit)))
    return provider
