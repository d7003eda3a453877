"""Which network interface of this machine leads to another one."""

from __future__ import annotations

import socket

import psutil


def interface_towards(endpoint: str) -> str:
    """Name of the interface, such as `eth0`, by which HOST:PORT is reached from here, which may be this machine itself;
    empty where the system does not say. Asks the name service, sends nothing."""
    host, _, port = endpoint.rpartition(":")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host.strip("[]"), int(port) or 9, type=socket.SOCK_DGRAM
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(address)
            here = probe.getsockname()[0]
    except (OSError, ValueError):
        return ""
    for name, addresses in psutil.net_if_addrs().items():
        if any(one.family == family and one.address.partition("%")[0] == here for one in addresses):
            return name
    return ""
