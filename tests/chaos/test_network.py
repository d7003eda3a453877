"""The command on one host, the services on another, and a network between them that is slow, narrow, or gone."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme

from burnish.local import LocalServices
from burnish_services.engine.fake import write_fake_model
from tests.chaos import network
from tests.chaos.commands import WHOLE, Command, some_data
from tests.e2e.support import digest_of_final
from tests.waiting import until

pytestmark = pytest.mark.skipif(bool(why := network.why_not()), reason=why)

# Both ends notice within two seconds that the other is gone, instead of within fifty.
QUICK_SERVICES = """
import sys
from burnish_services.runtime import server
usual = server.channel_options
quick = [("grpc.http2.min_ping_interval_without_data_ms", 100)]
server.channel_options = lambda *args: [(k, v) for k, v in usual(*args) if k != quick[0][0]] + quick
from burnish_services.__main__ import main
sys.exit(main())
"""
QUICK_COMMAND = """
from burnish import _channel
usual = _channel.channel_options
quick = {"grpc.keepalive_time_ms": 1000, "grpc.keepalive_timeout_ms": 1000}
_channel.channel_options = lambda *args: [(k, quick.get(k, v)) for k, v in usual(*args)]
from burnish.cli.app import main
main()
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fake_model(tmp_path_factory.mktemp("model"), name="base", seed=1, skill=0.3, latency_seconds=0.05)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return some_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def undisturbed(model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Digest of what the run makes on one host."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with LocalServices(("scoring",), engine="fake", model=model, state_dir=folder / "state") as local:
        command = Command("clear", str(local.endpoints.scoring), model, data, folder / "out", *WHOLE)
        assert command.ended() == 0, command.errors
    return digest_of_final(folder / "out")


@contextmanager
def services(hosts: network.Hosts, model: Path, folder: Path, options: Sequence[str], code: str = "") -> Iterator[str]:
    """The services on the far host; gives their address."""
    ready = folder / "ready.json"
    entry = ["-c", code] if code else ["-m", "burnish_services"]
    words = [sys.executable, *entry, "--engine", "fake", "--roles", "scoring", "--model", str(model), *options]
    words += ["--host", hosts.far_address, "--state-dir", str(folder / "state"), "--ready-file", str(ready)]
    with (folder / "services.log").open("w") as log:
        process = subprocess.Popen(["ip", "netns", "exec", hosts.far, *words], stdout=log, stderr=log)
    try:
        for _ in range(600):
            if ready.exists():
                break
            assert process.poll() is None, (folder / "services.log").read_text()
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.05)
        yield str(json.loads(ready.read_text())["address"])
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def running(hosts: network.Hosts, address: str, model: Path, data: Path, out: Path, *more: str) -> Iterator[Command]:
    """The command at work on the near host."""
    code = QUICK_COMMAND if "quick" in more else ""
    words = [word for word in more if word != "quick"]
    command = Command("clear", address, model, data, out, "--filter-only", *words, within=hosts.near, code=code)
    try:
        yield command
    finally:
        command.kill()


async def test_a_long_and_lossy_way_changes_nothing(model: Path, data: Path, undisturbed: str, tmp_path: Path) -> None:
    with (
        network.far_apart(delay=0.1, jitter=0.03, loss=0.02) as hosts,
        services(hosts, model, tmp_path, ["--insecure"]) as address,
        running(hosts, address, model, data, tmp_path / "out") as command,
    ):
        assert command.ended() == 0, command.errors
    assert digest_of_final(tmp_path / "out") == undisturbed


async def test_a_narrow_way_with_tls_changes_nothing(model: Path, data: Path, undisturbed: str, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    issued = authority.issue_cert("10.213.77.2")
    issued.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    issued.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    options = ["--tls-cert", str(tmp_path / "cert.pem"), "--tls-key", str(tmp_path / "key.pem"), "--insecure"]
    with network.hosts() as hosts:
        hosts.narrow("1mbit")
        with (
            services(hosts, model, tmp_path, options) as address,
            running(hosts, address, model, data, tmp_path / "out", "--tls-ca", str(tmp_path / "ca.pem")) as command,
        ):
            assert command.ended() == 0, command.errors
    assert digest_of_final(tmp_path / "out") == undisturbed


async def test_who_watches_is_told_that_the_network_is_gone_and_that_it_is_back(
    model: Path, data: Path, undisturbed: str, tmp_path: Path
) -> None:
    with (
        network.hosts() as hosts,
        services(hosts, model, tmp_path, ["--insecure"], QUICK_SERVICES) as address,
        running(hosts, address, model, data, tmp_path / "out", "quick") as command,
    ):
        await until(lambda: command.step() == "confidence", 60)
        hosts.cut()
        assert await command.says("does not answer"), command.errors
        assert command.process.poll() is None
        hosts.heal()
        assert command.ended() == 0, command.errors
    assert f"burnish: the scoring service at {address} does not answer" in command.errors
    assert "nothing is lost meanwhile" in command.errors
    assert f"burnish: the scoring service at {address} answers again, after" in command.errors
    assert digest_of_final(tmp_path / "out") == undisturbed
