"""Certificates of a server: read anew when their files change, as they do when a Kubernetes secret is renewed."""

from __future__ import annotations

import ssl
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import grpc

from burnish_services.runtime.watched import Watched

# X509_V_FLAG_NO_CHECK_TIME of OpenSSL, which the standard library has no name for.
_WHATEVER_ITS_DATES = 0x200000


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


def end_of(context: ssl.SSLContext, certificate: Path) -> float | None:
    """When the certificate ends that a server with `context` shows, in seconds since 1970; None where OpenSSL takes it
    for no server's. `certificate` is its PEM file. Raises OSError.

    The standard library tells the dates of no certificate but a peer's: so a client that trusts exactly this one
    shakes hands with such a server, in memory.
    """
    asking = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    asking.check_hostname = False
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        asking.load_verify_locations(certificate)
        asking.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | _WHATEVER_ITS_DATES
        client = asking.wrap_bio(to_client, to_server)
        server = context.wrap_bio(to_server, to_client, server_side=True)
        for side in (client, server) * 3:  # as many turns as TLS 1.2 takes
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
        shown = client.getpeercert()
    except (ssl.SSLError, ValueError):  # ValueError: not through with it
        return None
    return ssl.cert_time_to_seconds(str(shown["notAfter"])) if shown else None


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
