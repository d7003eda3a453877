"""How a client proves who it is and whom it talks to: TLS, certificates of its own, and a token."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import grpc

from burnish._errors import UsageError

Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Security:
    """`tls`: encrypt, and trust the authorities that gRPC ships with; with `ca_file` (PEM) trust those there instead.
    `cert_file` and `key_file` (PEM): what the client shows where a server asks for it. Any of these files turns TLS on.
    `server_name`: what the server's certificate is for, where that is not the address. `token` or `token_file`, read at
    every call so that it may be renewed: sent with every call, in the clear to this machine only.
    """

    tls: bool = False
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    server_name: str = ""
    token: str = field(default="", repr=False)
    token_file: Path | None = None

    def __post_init__(self) -> None:
        if (self.cert_file is None) != (self.key_file is None):
            raise UsageError("a client's certificate and its key go together: give both, tls_cert and tls_key")
        if self.token and self.token_file is not None:
            raise UsageError("a token is given twice: give either token or token_file")

    @property
    def encrypted(self) -> bool:
        """Whether connections are by TLS."""
        return self.tls or self.ca_file is not None or self.cert_file is not None

    def credentials(self) -> grpc.ChannelCredentials:
        """For a secure channel. Raises UsageError where a file cannot be read."""
        return grpc.ssl_channel_credentials(_read(self.ca_file), _read(self.key_file), _read(self.cert_file))

    def metadata(self, address: str, *, local: bool) -> Metadata:
        """What goes with every call. Raises UsageError where a token would go over a network in the clear, or its file
        cannot be read."""
        token = self.token or (_read(self.token_file) or b"").decode(errors="replace").strip()
        if not token:
            return ()
        if not self.encrypted and not local:
            raise UsageError(
                f"a token would be sent to {address} in the clear; turn TLS on (tls = true, or tls_ca with the"
                " server's authority), or take the token away"
            )
        return (("authorization", f"Bearer {token}"),)


def _read(path: Path | None) -> bytes | None:
    try:
        return None if path is None else path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}; expected a file for TLS or a token") from None
