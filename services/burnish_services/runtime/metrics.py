"""What Prometheus reads: counts of calls as they end, and readings at the moment of the scrape.

The only module that imports prometheus_client. The registry is the server's own, so that what libraries in the same
process register globally (vLLM does) is not told twice. Labels are words of ours, never ids or texts of callers'.
"""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIServer

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    start_http_server,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.registry import Collector

from burnish_services.runtime.calls import CallRecord
from burnish_services.runtime.readings import Reading
from burnish_services.runtime.tls import end_of
from burnish_services.runtime.watched import Watched

log = logging.getLogger(__name__)

# Seconds: from a lookup, over a batch, to a request that swaps models and waits for others' batches.
_BUCKETS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0),
)
_CALL = ("service", "method")
# Refusals for the server's state or the caller's rights, which another moment, replica or token may change.
_REFUSALS = ("RESOURCE_EXHAUSTED", "UNAVAILABLE", "UNAUTHENTICATED", "PERMISSION_DENIED")
_FAULTS = ("INTERNAL", "UNKNOWN")
_SILENT_SECONDS = 30.0  # that a connection may say nothing

Families = GaugeMetricFamily | CounterMetricFamily


class Metrics:
    """The metrics of one server with these services. `read` gives the readings of the moment."""

    def __init__(self, version: str, services: Iterable[str], read: Callable[[], Iterable[Reading]]) -> None:
        disable_created_metrics()  # of each counter the time that it began, as a series of its own
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.registry.register(_Readings(version, read))
        self._requests = self._counter("requests", "Calls that have ended, by gRPC code.", (*_CALL, "code"))
        self._refused = self._counter("refused_requests", "Calls refused unworked, by reason.", ("service", "reason"))
        self._faults = self._counter("server_faults", "Calls that met a defect of the server's own.", ("service",))
        for service in services:
            self._faults.labels(service)  # from 0 on, or Prometheus would not see the first one as a rise
        self._seconds = self._histogram("request_duration_seconds", "From arrival to end; streams left out.")
        self._queue = self._histogram("request_queue_seconds", "From arrival to the engine, of calls that came there.")
        self._engine = self._counter(
            "engine_seconds", "That calls were in the engine; those side by side add up.", _CALL
        )
        self._swap = self._counter("model_swap_seconds", "That calls waited for weights to be loaded.", _CALL)
        self._items = self._counter("items", "Items of replies: ok, or the reason of failure.", (*_CALL, "outcome"))
        self._prompt = self._counter("prompt_tokens", "Tokens of prompts that went into an engine.", _CALL)
        self._generated = self._counter("generated_tokens", "Tokens that an engine generated.", _CALL)

    def _counter(self, name: str, text: str, labels: tuple[str, ...]) -> Counter:
        return Counter(f"burnish_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str) -> Histogram:
        return Histogram(f"burnish_{name}", text, _CALL, registry=self.registry, buckets=_BUCKETS)

    def count(self, record: CallRecord, code: str, reason: str) -> None:
        """Takes up a call that is over; `reason` is the failure's stable word."""
        labels = (record.service, record.method.rpartition("/")[2])
        self._requests.labels(*labels, code).inc()
        if code in _REFUSALS:
            self._refused.labels(record.service, reason or code).inc()
        if code in _FAULTS:
            self._faults.labels(record.service).inc()
        if not record.is_stream:
            self._seconds.labels(*labels).observe(record.seconds)
        if record.engine_entered is not None:
            self._queue.labels(*labels).observe(record.queue_seconds)
            self._engine.labels(*labels).inc(record.engine_seconds)
            self._prompt.labels(*labels).inc(record.prompt_tokens)
            self._generated.labels(*labels).inc(record.generated_tokens)
        if record.swap_seconds:
            self._swap.labels(*labels).inc(record.swap_seconds)
        for outcome, count in record.outcomes.items():
            self._items.labels(*labels, outcome).inc(count)


class _Readings(Collector):
    """Asks for the readings at each scrape."""

    def __init__(self, version: str, read: Callable[[], Iterable[Reading]]) -> None:
        self._version = version
        self._read = read

    def describe(self) -> Iterable[Families]:
        """Nothing ahead of time: else the registry would collect at once, before there is anything to read."""
        return ()

    def collect(self) -> Iterator[Families | InfoMetricFamily]:
        """One family for each name, in the order in which they come first."""
        yield InfoMetricFamily("burnish_server", "The release that runs.", {"version": self._version})
        families: dict[str, Families] = {}
        for one in self._read():
            if one.name not in families:
                kind = CounterMetricFamily if one.kind == "counter" else GaugeMetricFamily
                families[one.name] = kind(f"burnish_{one.name}", one.help, labels=tuple(one.labels))
            families[one.name].add_metric(tuple(one.labels.values()), one.value)
        yield from families.values()


class MetricsServer:
    """The side port: plain HTTP, or HTTPS with the server's certificate, which is read anew when its files change."""

    def __init__(self, metrics: Metrics, host: str, port: int, certificate: Path | None, key: Path | None) -> None:
        """Listens; `port` 0 takes a free one. Raises OSError, ssl.SSLError among them."""
        files = None if certificate is None or key is None else (certificate, key)
        server, _ = start_http_server(
            port, host.strip("[]"), metrics.registry, *(map(str, files) if files is not None else ())
        )
        self._server: WSGIServer = server
        handler: Any = server.RequestHandlerClass
        server.RequestHandlerClass = type("Handler", (handler,), {"timeout": _SILENT_SECONDS})
        vars(server)["handle_error"] = _not_worth_a_traceback
        if files is not None:
            assert isinstance(server.socket, ssl.SSLSocket)
            # In the thread of each connection, lest one that says nothing keep all others out.
            server.socket.do_handshake_on_connect = False  # type: ignore[attr-defined]
            self._renew(server.socket.context, *files, metrics)
        name = f"[{host.strip('[]')}]" if ":" in host else host
        self.address = f"{name}:{server.server_port}"

    def _renew(self, context: ssl.SSLContext, certificate: Path, key: Path, metrics: Metrics) -> None:
        """Has each scrape look whether the next one needs a newer certificate, and tell how long that one lasts."""

        def load() -> float | None:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)  # else half of it would be in use
            context.load_cert_chain(certificate, key)
            return end_of(context, certificate)

        watched = Watched([certificate, key], load)

        class Renewal(Collector):
            def describe(self) -> Iterable[Families]:
                return ()

            def collect(self) -> Iterator[Families]:
                end = watched.value()
                if end is not None:
                    yield GaugeMetricFamily(
                        "burnish_certificate_expires_seconds",
                        "Until the certificate in force ends; below zero once it has.",
                        end - time.time(),
                    )

        metrics.registry.register(Renewal())

    def close(self) -> None:
        """Stops listening; to be called once."""
        self._server.shutdown()
        self._server.server_close()


def _not_worth_a_traceback(request: object, address: object) -> None:
    """A connection that broke off, said nothing for too long, or spoke no TLS; else socketserver prints it."""
    log.debug("no answer to a scrape", extra={"peer": str(address)}, exc_info=True)
