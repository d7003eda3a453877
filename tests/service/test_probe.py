"""`python -m burnish_services.probe`: what a container's health check runs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from burnish_services import probe

Status = health_pb2.HealthCheckResponse
SCORING = "burnish.api.scoring.v1.ScoringService"


@pytest.fixture
def server() -> Iterator[tuple[str, health.HealthServicer]]:
    servicer = health.HealthServicer()
    grpc_server = grpc.server(ThreadPoolExecutor(2))
    health_pb2_grpc.add_HealthServicer_to_server(servicer, grpc_server)
    port = grpc_server.add_insecure_port("127.0.0.1:0")
    grpc_server.start()
    yield f"127.0.0.1:{port}", servicer
    grpc_server.stop(None).wait()


def test_a_server_that_serves_is_well(server: tuple[str, health.HealthServicer]) -> None:
    address, servicer = server
    servicer.set("", Status.SERVING)
    servicer.set(SCORING, Status.SERVING)
    assert probe.main([address]) == 0
    assert probe.main([address, SCORING]) == 0


def test_one_that_loads_or_stops_is_not(
    server: tuple[str, health.HealthServicer], capsys: pytest.CaptureFixture[str]
) -> None:
    address, servicer = server
    servicer.set("", Status.NOT_SERVING)
    assert probe.main([address]) == 1
    assert capsys.readouterr().err == (
        f"{address} answers NOT_SERVING for the whole server; it loads a model, or it stops\n"
    )


def test_nor_is_a_service_that_it_does_not_run(
    server: tuple[str, health.HealthServicer], capsys: pytest.CaptureFixture[str]
) -> None:
    address, _ = server
    assert probe.main([address, "burnish.api.none.v1.NoService"]) == 1
    assert "NOT_FOUND" in capsys.readouterr().err


def test_nor_is_an_address_where_nobody_answers(capsys: pytest.CaptureFixture[str]) -> None:
    assert probe.main(["127.0.0.1:1", "--timeout", "0.2"]) == 1
    assert "127.0.0.1:1 does not answer" in capsys.readouterr().err


def test_it_imports_little_since_it_runs_every_few_seconds() -> None:
    heavy = "{'numpy', 'pydantic', 'torch', 'prometheus_client', 'burnish_services.runtime'}"
    code = f"import burnish_services.probe, sys; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
