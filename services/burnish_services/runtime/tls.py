"""Certificates of a server: read anew when their files change, as they do when a Kubernetes secret is renewed."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

from burnish_services.runtime.watched import Watched


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: the server's certificate with its chain, its key, and the authorities whose certificates clients must
    show; None: clients need not show any."""

    certificate: Path
    key: Path
    client_ca: Path | None = None


def server_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """What a port listens with; each handshake has the newest good certificates. Raises OSError, ValueError."""
    paths = [files.certificate, files.key, *([files.client_ca] if files.client_ca else [])]
    watched = Watched(paths, lambda: _read(files))

    def newest() -> grpc.ServerCertificateConfiguration | None:
        configuration, is_new = watched.changed()
        return configuration if is_new else None

    return grpc.dynamic_ssl_server_credentials(
        watched.value(),
        newest,  # type: ignore[arg-type]  # None is allowed: nothing new
        require_client_authentication=files.client_ca is not None,
    )


def _read(files: TlsFiles) -> grpc.ServerCertificateConfiguration:
    """Raises ValueError where certificate and key do not belong together, or are none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(files.certificate, files.key)
        if files.client_ca is not None:
            context.load_verify_locations(files.client_ca)
    except ssl.SSLError as error:
        named = ", ".join(str(path) for path in (files.certificate, files.key, files.client_ca) if path is not None)
        raise ValueError(
            f"{named}: expected a certificate, its key without a password and authorities, as PEM ({error.reason})"
        ) from None
    authorities = None if files.client_ca is None else files.client_ca.read_bytes()
    return grpc.ssl_server_certificate_configuration(
        [(files.key.read_bytes(), files.certificate.read_bytes())], authorities
    )
