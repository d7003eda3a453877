"""What a server shows of itself, put together: metrics on a side port, spans, and the reporter that feeds both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from burnish_services.runtime.admission import Admission
from burnish_services.runtime.config import ServerSettings
from burnish_services.runtime.engines import EnginePool
from burnish_services.runtime.lifecycle import Lifecycle
from burnish_services.runtime.metrics import Metrics, MetricsServer
from burnish_services.runtime.readings import Reading, read_admission, read_children, read_engines, read_lifecycle
from burnish_services.runtime.reporting import CallReporter
from burnish_services.runtime.role import Role
from burnish_services.runtime.tracing import Tracing


class Observability:
    """`reporter` is told of calls; `metrics_address` is where metrics are had, empty where they are not served."""

    def __init__(
        self,
        settings: ServerSettings,
        version: str,
        roles: Sequence[Role],
        admissions: Mapping[str, Admission],
        lifecycle: Lifecycle,
        engines: EnginePool,
    ) -> None:
        """Opens no port yet. `admissions` are by full service name."""
        names = [role.name for role in roles]

        def read() -> Iterator[Reading]:
            yield from read_lifecycle(lifecycle, names)
            for role in roles:
                yield from read_admission(role.name, admissions[role.service_full_name])
            yield from read_engines(engines)
            for role in roles:
                yield from role.readings()
            yield from read_children()

        self._settings = settings
        self._metrics = None if settings.metrics_port is None else Metrics(version, names, read)
        self._server: MetricsServer | None = None
        self._tracing = Tracing.from_environment(names)
        self.reporter = CallReporter(
            {role.service_full_name: role.name for role in roles}, self._metrics, self._tracing
        )
        self.metrics_address = ""

    def start(self) -> None:
        """Opens the side port, where there is to be one. Raises OSError."""
        settings = self._settings
        if self._metrics is None or settings.metrics_port is None:
            return
        host = settings.metrics_host or settings.host
        self._server = MetricsServer(self._metrics, host, settings.metrics_port, settings.tls_cert, settings.tls_key)
        self.metrics_address = self._server.address

    def close(self) -> None:
        """Closes the port and sends the spans that are left: a few seconds at most."""
        if self._server is not None:
            self._server.close()
        if self._tracing is not None:
            self._tracing.close()
