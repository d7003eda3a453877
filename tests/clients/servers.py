"""Servers of their own process for clients of any language: on loopback, on the fake engine."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import trustme

TOKEN = "t" * 40


@contextlib.contextmanager
def server(folder: Path, model: Path, *arguments: str, env: dict[str, str] | None = None) -> Iterator[str]:
    """The address of a server with the scoring and training services."""
    folder.mkdir()
    ready, log = folder / "ready.json", folder / "log.txt"
    command = [sys.executable, "-m", "burnish_services", "--roles", "scoring,training", "--engine", "fake", "--model"]
    with log.open("w") as out:
        process = subprocess.Popen(
            [*command, str(model), "--state-dir", str(folder), "--ready-file", str(ready), *arguments],
            env=os.environ | (env or {}),
            stdout=out,
            stderr=out,
        )
    try:
        give_up = time.monotonic() + 90
        while not ready.exists():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < give_up, f"not ready within 90 s: {log.read_text()}"
            time.sleep(0.05)
        yield str(json.loads(ready.read_text())["address"])
    finally:
        process.terminate()
        process.wait(timeout=30)


def security(folder: Path) -> tuple[list[str], dict[str, str]]:
    """TLS and one token that may do everything: the server's arguments, and the environment of its clients."""
    ca = trustme.CA()
    made = ca.issue_cert("127.0.0.1")
    root, chain, key, tokens = (folder / name for name in ("ca.pem", "tls.crt", "tls.key", "tokens.toml"))
    ca.cert_pem.write_to_path(str(root))
    chain.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
    made.private_key_pem.write_to_path(str(key))
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    tokens.write_text(f'[[token]]\nname = "pipeline"\nsha256 = "{digest}"\nscopes = ["all"]\n')
    arguments = ["--tls-cert", str(chain), "--tls-key", str(key), "--tokens", str(tokens)]
    return arguments, {"BURNISH_TLS_CA": str(root), "BURNISH_TOKEN": TOKEN}
