"""A whole run by services that share nothing but an S3-compatible store: separate state, separate working directories,
and no path of one another's that they could read."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from burnish.coordinator.history import RunHistory
from burnish.local import LocalServices
from tests.e2e.conftest import FakeEngineServices
from tests.e2e.support import alpaca, write_jsonl
from tests.service.object_store import BUCKET, names_below, point_at, put_model, s3_server
from tests.waiting import until

BASE, MODELS = f"s3://{BUCKET}/base", f"s3://{BUCKET}/runs"
ROLES = ("scoring", "embedding", "rewriting", "training")
HOSTS = (("scoring",), ("embedding", "rewriting"), ("training",))


@pytest.fixture(scope="module")
def hosts(
    services: FakeEngineServices, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, dict[str, str]]]:
    """The store, and the addresses of services on three hosts, which may read and write there and nowhere else."""
    with pytest.MonkeyPatch.context() as patched, s3_server() as store, ExitStack() as stack:
        point_at(store, patched)
        put_model(store, "base", services.model)
        patched.setenv("BURNISH_SERVER_READ_ROOTS", BASE)
        patched.setenv("BURNISH_SERVER_WRITE_ROOTS", MODELS)
        # Each works in a directory of its own, where a relative path means something else.
        modules = [str(Path(path).resolve()) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
        patched.setenv("PYTHONPATH", os.pathsep.join(modules))
        addresses = {}
        for roles in HOSTS:
            folder = tmp_path_factory.mktemp(roles[0])
            patched.chdir(folder)
            local = stack.enter_context(LocalServices(roles, engine="fake", model=BASE, state_dir=folder / "state"))
            addresses |= {role: getattr(local.endpoints, role) for role in roles}
        yield store, addresses


def command(addresses: dict[str, str], data: Path, model: str, out: Path, *more: str) -> list[str]:
    where = [word for role, address in addresses.items() for word in (f"--{role}-endpoint", address)]
    given = ["--data", str(data), "--model", model, "--out", str(out), "--rounds", "1", "--seed", "7"]
    return [sys.executable, "-m", "burnish", "run", "middo", *given, "--accumulation", "1", *where, *more]


def test_a_run_over_hosts_that_share_a_store_alone_ends_as_a_local_one(
    hosts: tuple[str, dict[str, str]], services: FakeEngineServices, tmp_path: Path
) -> None:
    store, addresses = hosts
    data = write_jsonl(tmp_path / "data.jsonl", alpaca(24))
    out, local = tmp_path / "out", tmp_path / "local"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    asked = command(addresses, data, BASE, out, "--models-uri", MODELS, "--holdout", str(data))

    killed = subprocess.Popen(asked, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)
    asyncio.run(until(lambda: any("round-1" in name for name in names_below(store, "runs")), 120))
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    subprocess.run(asked, cwd=tmp_path, env=environment, check=True)
    alone = command(dict.fromkeys(ROLES, services.address), data, str(services.model), local, "--holdout", str(data))
    subprocess.run(alone, cwd=tmp_path, check=True)

    with RunHistory.open(out) as history, RunHistory.open(local) as there:
        found = {(m.role, m.round): m for m in history.models()}
        expected = {(m.role, m.round): m.digest for m in there.models()}
        assert {key: m.digest for key, m in found.items()} == expected
        assert found["base", 0].uri == BASE
        for (role, _), model in found.items():
            assert role == "base" or model.uri.startswith(f"{MODELS}/{history.run_id}/round-"), model.uri
    (made,), (same,) = (list((folder / "final").glob("data.*")) for folder in (out, local))
    assert made.read_bytes() == same.read_bytes()
    assert not (out / "models").exists()
    assert not [name for name in names_below(store, "runs") if ".burnish" in name]
