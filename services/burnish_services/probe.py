"""`python -m burnish_services.probe ADDRESS [SERVICE]`: does a server answer calls? For health checks of containers.

Exit codes: 0 SERVING; 1 anything else, with a line on standard error that says what; 2 wrong usage. Imports gRPC alone,
so that a probe every few seconds costs little.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

SERVING = health_pb2.HealthCheckResponse.SERVING


def complaint(address: str, service: str = "", seconds: float = 3.0) -> str:
    """What is wrong with the server at `address` (host:port, without TLS) or with its `service`; empty where it answers
    SERVING within so many seconds."""
    with grpc.insecure_channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        try:
            # Not failing at once: the deadline then covers the time of connecting too.
            reply = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=seconds, wait_for_ready=True)
        except grpc.RpcError as error:
            return f"{address} does not answer: {error.code().name}: {error.details()}"
    if reply.status == SERVING:
        return ""
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)
    return f"{address} answers {status} for {service or 'the whole server'}; it loads a model, or it stops"


def main(arguments: Sequence[str] | None = None) -> int:
    """Asks once; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m burnish_services.probe", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("address", help="host:port of a server without TLS")
    parser.add_argument("service", nargs="?", default="", help="full name of a service; default: the whole server")
    parser.add_argument("--timeout", type=float, default=3.0, metavar="SECONDS", help="default: 3")
    given = parser.parse_args(arguments)
    problem = complaint(given.address, given.service, given.timeout)
    if problem:
        sys.stderr.write(problem + "\n")
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main())
