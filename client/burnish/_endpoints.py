"""Where the four services are. Knows no channel and no configuration file."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self

from burnish._errors import UsageError

SERVICES = ("scoring", "embedding", "rewriting", "training")
UNIX = ("unix:", "unix-abstract:")  # sockets of this machine
_SCHEMES = (*UNIX, "dns:", "ipv4:", "ipv6:", "xds:", "passthrough:")


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Address of each service, `host:port` or any gRPC target (`dns:///...`, `unix:...`); empty where there is none.

    Several services may share an address; they then share a connection.
    """

    scoring: str = ""
    embedding: str = ""
    rewriting: str = ""
    training: str = ""

    def __post_init__(self) -> None:
        for service in SERVICES:
            address: str = getattr(self, service)
            if address:
                _check_address(service, address)

    @classmethod
    def at(cls, address: str) -> Self:
        """All four services at one address."""
        return cls(*(address for _ in SERVICES))

    def address(self, service: str) -> str:
        """The address of `service`. Raises UsageError where none is configured."""
        address: str = getattr(self, service)
        if not address:
            raise UsageError(
                f"no address for the {service} service is configured. Pass --{service}-endpoint HOST:PORT, set "
                f"BURNISH_{service.upper()}_ENDPOINT, write {service}_endpoint into burnish.toml, or start the service "
                f"here with `burnish up --roles {service}`"
            )
        return address

    @property
    def missing(self) -> tuple[str, ...]:
        """The services without an address."""
        return tuple(f.name for f in fields(self) if not getattr(self, f.name))


def grpc_target(address: str) -> str:
    """What gRPC is given for `address`: all of the hosts that a bare name stands for."""
    return address if address.startswith(_SCHEMES) else f"dns:///{address}"


def _check_address(service: str, address: str) -> None:
    if address.startswith(_SCHEMES):
        return
    if "://" in address:
        raise UsageError(
            f"{service} endpoint {address!r} is not a gRPC address; expected host:port, such as 127.0.0.1:50051, "
            "or a gRPC target such as dns:///burnish-scoring:50051"
        )
    host, separator, port = address.rpartition(":")
    if not separator or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise UsageError(
            f"{service} endpoint {address!r} has no host and port; expected host:port, such as 127.0.0.1:50051"
        )
