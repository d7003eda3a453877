"""Taking an address to listen on, and what is said where it cannot be had."""

from __future__ import annotations

import grpc
import grpc.aio


class BindError(RuntimeError):
    """The address can't be listened on."""


def listen(
    server: grpc.aio.Server, host: str, port: int, *, option: str, credentials: grpc.ServerCredentials | None = None
) -> str:
    """The address that `server` listens on once it is started; port 0 takes a free one. Raises BindError, which names
    `option` as what to change."""
    host = f"[{host}]" if ":" in host.strip("[]") else host
    host = host.replace("[[", "[").replace("]]", "]")
    wanted = f"{host}:{port}"
    try:
        if credentials is None:
            taken = server.add_insecure_port(wanted)
        else:
            taken = server.add_secure_port(wanted, credentials)
    except RuntimeError as error:
        raise BindError(
            f"cannot listen on {wanted}: the port is taken or the address is not this machine's; choose another "
            f"{option} (0 takes a free one) or --host"
        ) from error
    return f"{host}:{taken}"
