"""The side port with metrics: what it says after real work, while calls go on, of refused calls, and over TLS."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import grpc.aio
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pydantic import ValidationError

from burnish.api.scoring.v1 import scoring_pb2, scoring_pb2_grpc
from burnish_services.engine.fake import FakeEngine
from burnish_services.runtime.config import ServerSettings
from burnish_services.runtime.listening import BindError
from tests.service.seeing import EMPTY, GOOD, WORKED, page, page_with, seen_services, value, work
from tests.service.support import failure_of, sample
from tests.service.test_access import Authority, write_tokens
from tests.waiting import until

SCORE = {"service": "scoring", "method": "ScoreSamples"}
REQUEST = scoring_pb2.ScoreSamplesRequest(samples=[sample("a", "Hello", "Hi")])


async def test_what_was_done_is_counted(tmp_path: Path) -> None:
    others = len(psutil.Process().children(recursive=True))  # such as the fork server of other tests
    async with seen_services(tmp_path) as server:
        await work(server, tmp_path)
        text = await page_with(server, *WORKED)

        assert value(text, "burnish_requests_total", **SCORE, code="OK") == 2
        assert value(text, "burnish_requests_total", **SCORE, code="INVALID_ARGUMENT") == 1
        assert value(text, "burnish_items_total", **SCORE, outcome="ok") == 2 * len(GOOD)
        assert value(text, "burnish_items_total", **SCORE, outcome="EMPTY_RESPONSE") == 1
        assert value(text, "burnish_items_total", method="EmbedSamples", outcome="ok") == len(GOOD)
        assert value(text, "burnish_request_duration_seconds_count", **SCORE) == 3
        assert value(text, "burnish_request_queue_seconds_count", **SCORE) == 2
        assert value(text, "burnish_prompt_tokens_total", **SCORE) > 10
        assert value(text, "burnish_generated_tokens_total", method="GenerateResponses") > 0
        assert value(text, "burnish_engine_seconds_total", **SCORE) > 0
        assert value(text, "burnish_model_swap_seconds_total", **SCORE) > 0
        assert value(text, "burnish_model_info", task="pool") == 1
        assert value(text, "burnish_engine_restarts_total") == 0
        assert value(text, "burnish_server_faults_total") == 0
        assert {value(text, "burnish_serving", service=role) for role in server.settings.roles} == {1}
        assert value(text, "burnish_training_runs", state="succeeded") == 1
        assert value(text, "burnish_training_runs_ended_total", state="succeeded") == 1
        assert value(text, "burnish_training_runs_ended_total", state="failed") == 0
        assert value(text, "burnish_training_steps_total") >= 1
        assert value(text, "burnish_training_tokens_total") > 8
        assert value(text, "process_resident_memory_bytes") > 2**20
        assert value(text, "process_open_fds") > 3
        assert value(text, "burnish_child_processes") == others

        # Streams last as long as somebody listens: their time says nothing of the service.
        assert value(text, "burnish_requests_total", method="WatchRun") == 1
        assert 'burnish_request_duration_seconds_count{method="WatchRun"' not in text
        for secret in (GOOD[0].id, EMPTY.id, "Question", str(tmp_path), "seen-1"):
            assert secret not in text


async def test_what_is_in_progress_is_told_while_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BURNISH_SCORING_MAX_CONCURRENT_REQUESTS", "1")
    async with seen_services(tmp_path, roles=("scoring",)) as server:
        text = await page(server)
        assert value(text, "burnish_concurrent_requests", service="scoring") == 0
        assert value(text, "burnish_max_concurrent_requests", service="scoring") == 1
        assert value(text, "burnish_tokens_in_flight", service="scoring") == 0
        assert value(text, "burnish_max_tokens_in_flight", service="scoring") > 0
        async with grpc.aio.insecure_channel(server.address) as channel:
            stub = scoring_pb2_grpc.ScoringServiceStub(channel)
            monkeypatch.setattr(FakeEngine, "_work", lambda _: asyncio.Event().wait())
            taken = stub.ScoreSamples(REQUEST)
            budget = server.admissions["burnish.api.scoring.v1.ScoringService"].tokens
            await until(lambda: budget is not None and budget.held > 0)
            failure = await failure_of(stub.ScoreSamples(REQUEST))
            assert failure.reason == "TOO_MANY_REQUESTS"
            text = await page_with(server, 'reason="TOO_MANY_REQUESTS"')
            assert value(text, "burnish_concurrent_requests", service="scoring") == 1
            assert value(text, "burnish_tokens_in_flight", service="scoring") > 0
            assert value(text, "burnish_refused_requests_total", service="scoring", reason="TOO_MANY_REQUESTS") == 1
            taken.cancel()

        server.lifecycle.drain()
        assert value(await page(server), "burnish_serving", service="scoring") == 0
        address = server.observability.metrics_address
    with pytest.raises(OSError):
        socket.create_connection((address.rpartition(":")[0], int(address.rpartition(":")[2])), timeout=5)


async def test_calls_that_are_refused_before_their_message_is_read_are_counted_too(tmp_path: Path) -> None:
    async with (
        seen_services(tmp_path, roles=("scoring",), max_calls=1) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        watching = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        await watching.read()
        failure = await failure_of(scoring_pb2_grpc.ScoringServiceStub(channel).ScoreSamples(REQUEST))
        assert (failure.reason, failure.retryable) == ("TOO_MANY_CALLS", True)
        text = await page_with(server, 'reason="TOO_MANY_CALLS"')
        assert value(text, "burnish_refused_requests_total", service="scoring", reason="TOO_MANY_CALLS") == 1
        watching.cancel()


async def test_refusals_for_want_of_a_token_are_logged_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokens = write_tokens(tmp_path / "tokens.toml", ["asks"])
    async with (
        seen_services(tmp_path, roles=("scoring",), tokens=tokens) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        with caplog.at_level(logging.INFO, logger="burnish_services"):
            failure = await failure_of(scoring_pb2_grpc.ScoringServiceStub(channel).ScoreSamples(REQUEST))
        assert failure.code is grpc.StatusCode.UNAUTHENTICATED
        (line,) = [record for record in caplog.records if record.message == "call"]
        assert (line.method, line.code, line.reason) == (
            "ScoringService/ScoreSamples",
            "UNAUTHENTICATED",
            "TOKEN_MISSING",
        )
        for name in ("One", "Two"):  # what nobody offers makes no series of its own
            made_up = channel.unary_unary(f"/made.up.{name}/Call{name}")
            assert (await failure_of(made_up(b""))).code is grpc.StatusCode.UNAUTHENTICATED
        text = await page(server)  # these are counted before they are answered
        assert value(text, "burnish_refused_requests_total", service="scoring", reason="TOKEN_MISSING") == 1
        assert value(text, "burnish_requests_total", service="unknown", method="unknown") == 2
        assert "made" not in text


async def test_metrics_are_encrypted_with_the_servers_certificate_and_it_is_renewed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    day = 86400.0
    before, after = Authority(tmp_path / "before"), Authority(tmp_path / "after")
    certificate, key = before.issue()
    trusting_old = ssl.create_default_context(cafile=str(before.root))
    trusting_new = ssl.create_default_context(cafile=str(after.root))
    async with seen_services(tmp_path, roles=("scoring",), tls_cert=certificate, tls_key=key) as server:
        host, _, port = server.observability.metrics_address.rpartition(":")
        # One that connects and says nothing keeps nobody out.
        with socket.create_connection((host, int(port))):
            text = await page(server, trusting_old)
        assert "burnish_serving" in text
        assert value(text, "burnish_certificate_expires_seconds") > 30 * day
        with socket.create_connection((host, int(port))) as plain:
            plain.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            await asyncio.to_thread(plain.recv, 1)
        key.write_text("no key")
        assert "burnish_serving" in await page(server, trusting_old)
        assert "burnish_serving" in await page(server, trusting_old), "what was good before stays in force"
        newer = after.ca.issue_cert("127.0.0.1", not_after=datetime.now(UTC) + timedelta(days=10))
        certificate.write_bytes(b"".join(blob.bytes() for blob in newer.cert_chain_pems))
        newer.private_key_pem.write_to_path(str(key))
        text = await page(server, trusting_old)  # the last with the old one, which has the new one read
        assert 9 * day < value(text, "burnish_certificate_expires_seconds") <= 10 * day
        assert "burnish_serving" in await page(server, trusting_new)
        with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
            await page(server, trusting_old)
    assert "Traceback" not in capfd.readouterr().err, "whoever speaks no TLS fills no log"


async def test_the_ready_file_tells_where_metrics_are_and_a_taken_port_stops_the_start(tmp_path: Path) -> None:
    ready = tmp_path / "ready.json"
    async with seen_services(tmp_path, roles=("scoring",), ready_file=ready) as server:
        address = server.observability.metrics_address
        assert json.loads(ready.read_text())["metrics"] == address
        taken = int(address.rpartition(":")[2])
        with pytest.raises(BindError, match=str(taken)):
            async with seen_services(tmp_path / "second", roles=("scoring",), metrics_port=taken):
                pass


async def test_without_a_certificate_none_is_told_of(tmp_path: Path) -> None:
    async with seen_services(tmp_path, roles=("scoring",)) as server:
        assert "burnish_certificate" not in await page(server)


async def test_without_a_port_nothing_is_served(tmp_path: Path) -> None:
    ready = tmp_path / "ready.json"
    async with seen_services(tmp_path, roles=("scoring",), metrics_port=None, ready_file=ready) as server:
        assert server.observability.metrics_address == ""
        assert "metrics" not in json.loads(ready.read_text())


async def test_ipv6(tmp_path: Path) -> None:
    async with seen_services(tmp_path, roles=("scoring",), metrics_host="::1") as server:
        assert server.observability.metrics_address.startswith("[::1]:")
        assert "burnish_serving" in await page(server)


def test_metrics_leave_the_machine_encrypted_only(tmp_path: Path) -> None:
    certificate, key = Authority(tmp_path / "pki").issue()
    common = {"roles": ("training",), "metrics_port": 0, "metrics_host": "0.0.0.0"}
    with pytest.raises(ValidationError, match="--tls-cert"):
        ServerSettings(**common)
    assert ServerSettings(**common, insecure=True).metrics_host
    assert ServerSettings(**common, tls_cert=certificate, tls_key=key).metrics_host


async def test_the_page_can_be_read_while_everything_changes(tmp_path: Path) -> None:
    async with seen_services(tmp_path) as server:
        working = asyncio.ensure_future(work(server, tmp_path))
        reads = 0
        while not working.done():
            assert value(await page(server), "burnish_serving", service="scoring") == 1
            reads += 1
        await working
        assert reads
