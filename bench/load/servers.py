"""Processes under load: servers on addresses of the loopback network, and a name server that says which there are.

A name with several addresses is what a headless Service of Kubernetes gives; here it is `dns://127.0.0.1:PORT/NAME:PORT`,
gRPC's way to name a name server.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import dns.flags
import dns.message
import dns.rrset

_NAME = "burnish.test."


def free_port() -> int:
    """A port that nobody listens on at any of this machine's addresses now."""
    with socket.socket() as probe:
        probe.bind(("0.0.0.0", 0))  # noqa: S104 - asked about, never listened on
        return int(probe.getsockname()[1])


class Serving:
    """`python -m MODULE … --ready-file FILE`, until stopped."""

    host = "127.0.0.1"

    def __init__(self, folder: Path, name: str, *arguments: str, environment: dict[str, str] | None = None) -> None:
        self.ready_file = folder / f"{name}.json"
        self.log = folder / f"{name}.log"
        self._log = self.log.open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", *arguments, "--ready-file", str(self.ready_file)],
            stdout=self._log,
            stderr=self._log,
            env={**os.environ, **(environment or {})},
        )

    def wait_ready(self) -> Self:
        """Returns once it serves."""
        while not self.ready_file.exists():
            if self.process.poll() is not None:
                raise SystemExit(f"a server ended with {self.process.returncode}; see {self._log.name}")
            time.sleep(0.02)
        return self

    @property
    def address(self) -> str:
        """Where it listens, once it is ready."""
        return str(json.loads(self.ready_file.read_text())["address"])

    @property
    def metrics(self) -> str:
        """Where its metrics are, once it is ready and where it was told to have them."""
        return str(json.loads(self.ready_file.read_text())["metrics"])

    @property
    def calls(self) -> int:
        """Calls of its model that its log tells of; it must be one that logs them."""
        return len(re.findall("method=ScoringService/ScoreSamples .*code=OK", self.log.read_text()))

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Ends it and waits for that."""
        if self.process.poll() is None:
            self.process.send_signal(number)
            self.process.wait()
        self.ready_file.unlink(missing_ok=True)
        self._log.close()


def replica(
    folder: Path,
    name: str,
    model: Path,
    host: str,
    port: int,
    *,
    roles: str = "scoring",
    log_level: str = "warning",
    limits: dict[str, int] | None = None,
) -> Serving:
    """A server of Burnish on the fake engine; it may not be ready yet. `limits`: its environment."""
    server = Serving(
        folder, name, "burnish_services", "--engine", "fake", "--roles", roles, "--model", str(model),
        "--host", host, "--port", str(port), "--state-dir", str(folder / f"{name}-state"), "--log-level", log_level,
        environment={key: str(value) for key, value in (limits or {}).items()},
    )  # fmt: skip
    server.host = host
    return server


class NameServer(asyncio.DatagramProtocol):
    """Answers every question with the addresses that it was told last."""

    def __init__(self) -> None:
        self.addresses: Sequence[str] = ()
        self.questions = 0
        self._transport: asyncio.DatagramTransport | None = None

    async def start(self) -> Self:
        """Listens on a free port of loopback."""
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=("127.0.0.1", 0))
        return self

    def target(self, port: int) -> str:
        """What clients are given as address, for servers on this port."""
        assert self._transport is not None
        own = self._transport.get_extra_info("sockname")[1]
        return f"dns://127.0.0.1:{own}/{_NAME}:{port}"

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """See asyncio."""
        question = dns.message.from_wire(data)
        reply = dns.message.make_response(question)
        reply.flags |= dns.flags.AA
        asked = question.question[0]
        if dns.rdatatype.to_text(asked.rdtype) == "A" and self.addresses:
            self.questions += 1
            reply.answer.append(dns.rrset.from_text(asked.name, 1, "IN", "A", *self.addresses))
        assert self._transport is not None
        self._transport.sendto(reply.to_wire(), addr)

    def close(self) -> None:
        """Stops."""
        assert self._transport is not None
        self._transport.close()
